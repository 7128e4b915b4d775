"""Finds the knee: runs at rising rates until the service no longer keeps its objective."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Mapping, Sequence

from bench.load.plan import LoadPlan
from bench.load.runner import Call, Runner, Sample
from bench.load.summary import RunSummary, summarise

MAX_STEPS = 24
_STOP_AT_SHARE = 0.5

Report = Callable[[RunSummary], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """The runs that were made, in order, and the samples of the last one."""

    runs: tuple[RunSummary, ...]
    samples: tuple[Sample, ...]


def rising_rates(first: float, *, factor: float, steps: int) -> list[float]:
    """`steps` rates from `first` upwards, each `factor` times the one before, to three figures."""
    return [float(f"{first * factor**step:.3g}") for step in range(steps)]


async def measure(
    plan: LoadPlan,
    *,
    rates: Sequence[float],
    calls: Mapping[str, Call],
    objectives_ms: Mapping[str, float],
    report: Report,
    pause: Callable[[], Awaitable[None]],
) -> Measured:
    """`plan` at each of `rates`; stops early once under half of the calls are good, since more load shows no more.

    `pause` runs between two rates, so that no run inherits the queue of the one before.
    """
    runs: list[RunSummary] = []
    samples: list[Sample] = []
    for rate in rates:
        if runs:
            await pause()
        step = dataclasses.replace(plan, rate=rate)
        samples = await Runner(step, calls=calls).run()
        runs.append(summarise(step, samples, objectives_ms=objectives_ms))
        report(runs[-1])
        if runs[-1].share_good < _STOP_AT_SHARE:
            break
    return Measured(runs=tuple(runs), samples=tuple(samples))
