"""What the samples of one run say: latencies from the due time, goodput at the objective, codes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from bench.load.plan import LoadPlan
from bench.load.runner import OK, Sample

LATE_P99_MS = 20.0
"""Lateness of the load itself beyond which its figures are about this process and not about the service."""


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Latency of the calls that succeeded, in milliseconds from the due time; zeros if none did."""

    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float


@dataclass(frozen=True, kw_only=True)
class KindSummary:
    """One kind of call, or all of them."""

    calls: int
    """Calls that were due."""
    ok: int
    """Calls that succeeded."""
    in_objective: int
    """Calls that succeeded within the objective."""
    objective_ms: float
    """Longest latency of a good call; zero where kinds with objectives of their own are summed."""
    goodput: float
    """Good calls per second of the plan."""
    latency: Latency
    """Of the calls that succeeded."""
    first_text: Latency | None
    """Time to the first text, for calls that stream."""
    codes: dict[str, int]
    """Code, with the reason behind it, -> number of calls."""


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """One run at one rate."""

    rate: float
    """Calls offered per second."""
    duration_s: float
    """Seconds for which they were offered."""
    arrivals: str
    """"constant" or "poisson"."""
    total: KindSummary
    """Over all kinds."""
    kinds: dict[str, KindSummary]
    """Of each kind."""
    lateness_p99_ms: float
    """How late the load itself started calls."""

    @property
    def is_late(self) -> bool:
        """True if the load could not keep its own schedule, so that its latencies are too high."""
        return self.lateness_p99_ms > LATE_P99_MS

    @property
    def share_good(self) -> float:
        """Share of the due calls that were good."""
        return self.total.in_objective / max(1, self.total.calls)

    def as_json(self) -> dict[str, Any]:
        """The same as plain values."""
        return asdict(self) | {"is_late": self.is_late, "share_good": self.share_good}


def summarise(plan: LoadPlan, samples: Sequence[Sample], *, objectives_ms: Mapping[str, float]) -> RunSummary:
    """The figures of one run; `objectives_ms` holds the longest good latency of each kind."""
    good = [sample for sample in samples if _is_good(sample, objectives_ms)]
    kinds = {
        kind: _summarise_kind(
            [sample for sample in samples if sample.kind == kind],
            num_good=sum(sample.kind == kind for sample in good),
            duration_s=plan.duration_s,
            objective_ms=objectives_ms[kind],
        )
        for kind in plan.mix
    }
    lateness_ms = [sample.lateness_s * 1000 for sample in samples] or [0.0]
    return RunSummary(
        rate=plan.rate,
        duration_s=plan.duration_s,
        arrivals=plan.arrivals.value,
        total=_summarise_kind(samples, num_good=len(good), duration_s=plan.duration_s, objective_ms=0.0),
        kinds=kinds,
        lateness_p99_ms=float(np.percentile(lateness_ms, 99)),
    )


def knee(runs: Sequence[RunSummary], *, share: float) -> RunSummary | None:
    """The run of the highest rate at which, and at every lower rate, at least `share` of the calls were good."""
    best = None
    for run in sorted(runs, key=lambda run: run.rate):
        if run.share_good < share:
            break
        best = run
    return best


def _is_good(sample: Sample, objectives_ms: Mapping[str, float]) -> bool:
    return sample.code == OK and sample.latency_s * 1000 <= objectives_ms[sample.kind]


def _summarise_kind(samples: Sequence[Sample], *, num_good: int, duration_s: float, objective_ms: float) -> KindSummary:
    done = [sample for sample in samples if sample.code == OK]
    first = [sample.first_text_s for sample in done if sample.first_text_s is not None]
    codes = Counter(" ".join(filter(None, (sample.code, sample.reason))) for sample in samples)
    return KindSummary(
        calls=len(samples),
        ok=len(done),
        in_objective=num_good,
        objective_ms=objective_ms,
        goodput=num_good / duration_s,
        latency=_latency([sample.latency_s for sample in done]),
        first_text=_latency(first) if first else None,
        codes=dict(sorted(codes.items())),
    )


def _latency(seconds: Sequence[float]) -> Latency:
    p50, p95, p99, longest = np.percentile(np.asarray(seconds or [0.0]) * 1000, [50, 95, 99, 100])
    return Latency(p50_ms=float(p50), p95_ms=float(p95), p99_ms=float(p99), max_ms=float(longest))
