"""Counts of reloads for Prometheus."""

from __future__ import annotations

import functools

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge


class ReloadMetrics:
    """`sightline_reload_attempts_total` by channel and result, and `sightline_serving_generation` by channel."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._attempts = Counter(
            "sightline_reload_attempts_total",
            "Attempts to follow the channel that ended as swapped, failed or quarantined.",
            ["channel", "result"],
            registry=registry,
        )
        self._generation = Gauge(
            "sightline_serving_generation", "The channel generation that answers.", ["channel"], registry=registry
        )

    @classmethod
    def shared(cls) -> ReloadMetrics:
        """The metrics of this process, in Prometheus's default registry."""
        return _shared_metrics()

    def count(self, channel: str, *, result: str) -> None:
        """Count one attempt: "swapped", "failed", or "quarantined" after a failure that was the last."""
        self._attempts.labels(channel=channel, result=result).inc()

    def set_generation(self, channel: str, *, generation: int) -> None:
        """Tell which generation answers from now on."""
        self._generation.labels(channel=channel).set(generation)


@functools.cache
def _shared_metrics() -> ReloadMetrics:
    return ReloadMetrics(REGISTRY)
