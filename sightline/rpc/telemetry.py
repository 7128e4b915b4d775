"""Counts and times of calls for Prometheus, and logs that carry the request id."""

from __future__ import annotations

import functools
import json
import logging
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol
from wsgiref.simple_server import WSGIServer

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram, start_http_server
from rich.logging import RichHandler

from sightline.errors import SettingInvalid

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class CallMetrics:
    """`sightline_rpc_calls_total` and `sightline_rpc_seconds`, both by method, the first by code too."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._calls = Counter(
            "sightline_rpc_calls_total", "Calls that ended, by method and code.", ["method", "code"], registry=registry
        )
        self._seconds = Histogram(
            "sightline_rpc_seconds", "Wall time of calls.", ["method"], buckets=_BUCKETS, registry=registry
        )

    @classmethod
    def shared(cls) -> CallMetrics:
        """The metrics of this process, in Prometheus's default registry."""
        return _shared_metrics()

    def observe(self, method: str, *, code: str, seconds: float) -> None:
        """Count one call of `method` that ended with `code` after `seconds`."""
        self._calls.labels(method=method, code=code).inc()
        self._seconds.labels(method=method).observe(seconds)


@functools.cache
def _shared_metrics() -> CallMetrics:
    return CallMetrics(REGISTRY)


class SampleGauge(Protocol):
    """One metric of another make that takes the value of a sample."""

    def set(self, value: float, tags: dict[str, str]) -> None:
        """Let the series with these labels have this value."""


class MetricsMirror:
    """Copies every `sightline_*` sample of a registry, under its own name and labels, into gauges of another make.

    For hosts whose processes nobody scrapes. Counters and buckets become gauges
    of the same values, so `rate` and `histogram_quantile` read them as before.
    """

    def __init__(
        self,
        make_gauge: Callable[[str, str, tuple[str, ...]], SampleGauge],
        *,
        registry: CollectorRegistry = REGISTRY,
    ) -> None:
        self._make_gauge = make_gauge
        self._registry = registry
        self._gauges: dict[str, SampleGauge] = {}

    def copy(self) -> None:
        """Copy the values of now. `make_gauge` is given a name, a description and the keys of the labels."""
        for family in self._registry.collect():
            for sample in family.samples:
                if sample.name.startswith("sightline_") and not sample.name.endswith("_created"):
                    if sample.name not in self._gauges:
                        keys = tuple(sample.labels)
                        self._gauges[sample.name] = self._make_gauge(sample.name, family.documentation, keys)
                    self._gauges[sample.name].set(sample.value, dict(sample.labels))


@dataclass(frozen=True, kw_only=True)
class LogSettings:
    """How a process logs."""

    format: str = "rich"
    """"rich" for people at a terminal, "json" for machines: one object a line."""
    level: str = "INFO"
    """Least level that is written."""


def configure_logging(settings: LogSettings) -> None:
    """Send the log of this process to standard error. Raises SettingInvalid for an unknown format or level."""
    level = logging.getLevelNamesMapping().get(settings.level.upper())
    if level is None:
        raise SettingInvalid(f"level: got {settings.level!r}, expected a level such as INFO")
    if settings.format not in {"rich", "json"}:
        raise SettingInvalid(f"format: got {settings.format!r}, expected rich or json")
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    if settings.format == "rich":
        handler = RichHandler(show_path=False)
        handler.setFormatter(FieldsFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and the fields that the record was given."""

    def format(self, record: logging.LogRecord) -> str:
        """`record` as one line of JSON."""
        line: dict[str, object] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= _given_fields(record)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class FieldsFormatter(logging.Formatter):
    """The message, then `key=value` for each field that the record was given."""

    def format(self, record: logging.LogRecord) -> str:
        """`record` for a person to read."""
        fields = " ".join(f"{key}={value}" for key, value in _given_fields(record).items())
        return f"{super().format(record)} {fields}".rstrip()


def _given_fields(record: logging.LogRecord) -> dict[str, object]:
    # Ray stamps every record of its process with a field of its own, which begins with "_".
    return {key: value for key, value in vars(record).items() if key not in _PLAIN and not key.startswith("_")}


def serve_metrics(port: int, *, host: str) -> tuple[WSGIServer, threading.Thread]:
    """An HTTP server of the process's metrics on `port`, running; `shutdown()` it when done."""
    return start_http_server(port, addr=host)
