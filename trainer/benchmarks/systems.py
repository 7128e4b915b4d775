"""Which model answers: `--system NAME` or `NAME:ARGUMENT` becomes a ComposedEncoder over a release. The one list."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sightline.errors import UsageError
from trainer.benchmarks.baselines import (
    DEFAULT_WEIGHT,
    Combine,
    baseline,
    chance,
    image_only,
    slerp,
    text_only,
    weighted_sum,
)
from trainer.benchmarks.composer import composed
from trainer.benchmarks.protocol import ComposedEncoder

System = Callable[[Path, str, str], ComposedEncoder]
"""A ComposedEncoder from the folder of a release, what stands behind the colon, and the device."""


def open_system(text: str, *, folder: Path, device: str) -> ComposedEncoder:
    """The system that `text` names, such as 'sum:0.5'. Raises UsageError listing those there are."""
    name, _, argument = text.partition(":")
    if name not in SYSTEMS:
        raise UsageError(f"system: got {text!r}, expected one of {', '.join(SYSTEMS)}")
    return SYSTEMS[name](folder, argument, device)


def _plain(name: str, combine: Combine) -> System:
    def opened(folder: Path, argument: str, device: str) -> ComposedEncoder:
        if argument:
            raise UsageError(f"system: {name} takes nothing behind a colon, got {argument!r}")
        return baseline(folder, combine=combine, system=name, device=device)

    return opened


def _at_weight(name: str, combine: Callable[[float], Combine]) -> System:
    def opened(folder: Path, argument: str, device: str) -> ComposedEncoder:
        weight = _weight(argument, system=name)
        return baseline(folder, combine=combine(weight), system=f"{name}:{weight:g}", device=device)

    return opened


def _by_chance(folder: Path, argument: str, device: str) -> ComposedEncoder:
    if argument and not argument.isdecimal():
        raise UsageError(f"system: random takes a seed, got {argument!r}")
    seed = int(argument or 0)
    return baseline(folder, combine=chance(seed), system=f"random:{seed}", device=device)


def _weight(argument: str, *, system: str) -> float:
    try:
        weight = float(argument or DEFAULT_WEIGHT)
    except ValueError:
        weight = -1.0
    if not 0 <= weight <= 1:
        raise UsageError(f"system: {system} takes the text's weight from 0 to 1, got {argument!r}")
    return weight


SYSTEMS: dict[str, System] = {
    "image": _plain("image", image_only),
    "text": _plain("text", text_only),
    "sum": _at_weight("sum", weighted_sum),
    "slerp": _at_weight("slerp", slerp),
    "random": _by_chance,
    "composed": composed,
}
