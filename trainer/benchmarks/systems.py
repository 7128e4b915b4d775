"""Which model answers: `--system NAME` or `NAME:ARGUMENT` becomes a ComposedEncoder over a release. The one list."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sightline.errors import UsageError
from sightline.models.composer_release import COMPOSER_FILE
from sightline.models.encoder_model import EncoderModel
from sightline.models.release import load_encoder
from trainer.benchmarks.baselines import (
    DEFAULT_WEIGHT,
    Combine,
    TowerBaseline,
    chance,
    image_only,
    slerp,
    text_only,
    weighted_sum,
)
from trainer.benchmarks.composer import ComposerSystem
from trainer.benchmarks.protocol import ComposedEncoder
from trainer.benchmarks.rewriting import RewriteSystem, open_caption_search

System = Callable[[EncoderModel, "Opening"], ComposedEncoder]
"""A ComposedEncoder over the towers of a release."""


@dataclass(frozen=True, kw_only=True)
class Opening:
    """What a system is opened with, the release apart."""

    argument: str
    """What stands behind the first colon of its name."""
    device: str
    cache: Path
    """Folder of what is kept between runs."""


def open_system(text: str, *, folder: Path, device: str, cache: Path) -> ComposedEncoder:
    """The system that `text` names, such as 'sum:0.5', over the release in `folder`.

    Raises UsageError listing those there are, and what the system raises, such
    as CapabilityMissing for a release without composer.
    """
    name, _, argument = text.partition(":")
    if name not in SYSTEMS:
        raise UsageError(f"system: got {text!r}, expected one of {', '.join(SYSTEMS)}")
    opening = Opening(argument=argument, device=device, cache=cache)
    return SYSTEMS[name](load_encoder(folder, device=device), opening)


def default_system(folder: Path) -> str:
    """What is measured where no system is named: the composer of the release in `folder`, else the plain sum."""
    return "composed" if (folder / COMPOSER_FILE).is_file() else "sum"


def _plain(name: str, combine: Combine) -> System:
    def opened(encoder: EncoderModel, opening: Opening) -> ComposedEncoder:
        if opening.argument:
            raise UsageError(f"system: {name} takes nothing behind a colon, got {opening.argument!r}")
        return TowerBaseline(encoder, system=name, combine=combine)

    return opened


def _at_weight(name: str, combine: Callable[[float], Combine]) -> System:
    def opened(encoder: EncoderModel, opening: Opening) -> ComposedEncoder:
        weight = _weight(opening.argument, system=name)
        return TowerBaseline(encoder, system=f"{name}:{weight:g}", combine=combine(weight))

    return opened


def _by_chance(encoder: EncoderModel, opening: Opening) -> ComposedEncoder:
    if opening.argument and not opening.argument.isdecimal():
        raise UsageError(f"system: random takes a seed, got {opening.argument!r}")
    seed = int(opening.argument or 0)
    return TowerBaseline(encoder, system=f"random:{seed}", combine=chance(seed))


def _composed(encoder: EncoderModel, opening: Opening) -> ComposedEncoder:
    return ComposerSystem(encoder)


def _rewrite(encoder: EncoderModel, opening: Opening) -> ComposedEncoder:
    rewriter, _, captions = opening.argument.partition(":")
    if not (rewriter and captions):
        raise UsageError(f"system: rewrite takes REWRITER:CAPTIONS behind a colon, got {opening.argument!r}")
    search = open_caption_search(rewriter, captions, device=opening.device, kept_in=opening.cache / "rewriting")
    return RewriteSystem(encoder, search=search)


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
    "composed": _composed,
    "rewrite": _rewrite,
}
