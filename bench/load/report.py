"""Writes what was measured: `load.json` for machines, `load.html`, one file with its charts inside, for people."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from bench.load.runner import OK, Sample
from bench.load.summary import RunSummary

_TEMPLATE = Path(__file__).with_name("report.html.j2")


def write_report(
    out: Path, *, runs: Sequence[RunSummary], samples: Sequence[Sample], knee: RunSummary | None, facts: dict[str, Any]
) -> tuple[Path, Path]:
    """The paths of the JSON and the HTML report. `samples` are of the last run, `facts` say what was run and where."""
    out.mkdir(parents=True, exist_ok=True)
    json_path, html_path = out / "load.json", out / "load.html"
    document = {
        "facts": facts,
        "runs": [run.as_json() for run in runs],
        "knee_rate": knee.rate if knee is not None else None,
    }
    json_path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    html_path.write_text(_html(runs, samples=samples, knee=knee, facts=facts), encoding="utf-8")
    return json_path, html_path


def _html(
    runs: Sequence[RunSummary], *, samples: Sequence[Sample], knee: RunSummary | None, facts: dict[str, Any]
) -> str:
    charts = {"Latency over the run": _picture(_latency_over_time(samples))}
    charts["Latency distribution"] = _picture(_latency_distribution(samples))
    if len(runs) > 1:
        charts["Goodput and latency by offered rate"] = _picture(_by_rate(runs))
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    return template.render(runs=runs, knee=knee, facts=facts, charts=charts)


def _latency_over_time(samples: Sequence[Sample]) -> Figure:
    figure, axes = _axes("seconds into the run", "latency from due time, ms")
    for kind, of_kind in _by_kind(samples).items():
        axes.plot([s.due_s for s in of_kind], [s.latency_s * 1000 for s in of_kind], ".", markersize=3, label=kind)
    failed = [sample for sample in samples if sample.code != OK]
    if failed:
        axes.plot([s.due_s for s in failed], [s.latency_s * 1000 for s in failed], "x", color="black", label="failed")
    if samples:
        axes.legend()
    return figure


def _latency_distribution(samples: Sequence[Sample]) -> Figure:
    figure, axes = _axes("share of calls", "latency from due time, ms")
    for kind, of_kind in _by_kind(samples).items():
        latency_ms = np.sort([sample.latency_s * 1000 for sample in of_kind])
        axes.plot(np.arange(1, len(latency_ms) + 1) / len(latency_ms), latency_ms, label=kind)
    axes.set_yscale("log")
    if _by_kind(samples):
        axes.legend()
    return figure


def _by_rate(runs: Sequence[RunSummary]) -> Figure:
    figure, axes = _axes("offered calls per second", "good calls per second")
    rates = [run.rate for run in runs]
    axes.plot(rates, rates, linestyle=":", color="grey", label="offered")
    axes.plot(rates, [run.total.goodput for run in runs], "o-", label="good")
    axes.legend(loc="upper left")
    right = axes.twinx()
    right.plot(rates, [run.total.latency.p99_ms for run in runs], "s--", color="tab:red")
    right.set_ylabel("p99, ms (red)")
    return figure


def _by_kind(samples: Sequence[Sample]) -> dict[str, list[Sample]]:
    kinds = sorted({sample.kind for sample in samples if sample.code == OK})
    return {kind: [s for s in samples if s.kind == kind and s.code == OK] for kind in kinds}


def _axes(x_label: str, y_label: str) -> tuple[Figure, Any]:
    figure = Figure(figsize=(7.5, 3.4), layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(visible=True, alpha=0.3)
    return figure, axes


def _picture(figure: Figure) -> str:
    """`figure` as a data URI of an SVG; the fixed salt makes equal data give equal bytes."""
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "load"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()
