"""The demo's report: one HTML file that carries its pictures with it."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

TEMPLATE = Path(__file__).with_name("report.html")
SCORE_LABELS = {
    "grounded_accuracy": ("with retrieved pictures", "the bot looks at the three pictures that the question finds"),
    "text_only_accuracy": ("without pictures", "what text alone gives away; chance is 0.125"),
    "random_picture_accuracy": ("with random pictures", "pictures that do not show the subject"),
    "retrieval_recall_at_1": ("retrieval recall at 1", "the first picture found shows the subject"),
}


def write_report(
    path: Path,
    *,
    summary: Mapping[str, Any],
    takeover: Mapping[str, Any],
    conversations: Sequence[Mapping[str, Any]],
    runs: Mapping[str, Path],
) -> None:
    """Write the report; `runs` maps a title to a run folder with `metrics.jsonl`."""
    template = jinja2.Environment(autoescape=True).from_string(TEMPLATE.read_text(encoding="utf-8"))
    curves = [{"title": title, "data": _curve(folder / "metrics.jsonl")} for title, folder in runs.items()]
    rows = [{"label": a, "note": b, "value": summary[name]} for name, (a, b) in SCORE_LABELS.items()]
    path.write_text(
        template.render(summary=summary, takeover=takeover, conversations=conversations, curves=curves, scores=rows),
        encoding="utf-8",
    )


def picture_data(data: bytes) -> str:
    """Encoded bytes as base64 text for an HTML page."""
    return base64.b64encode(data).decode("ascii")


def _curve(metrics: Path) -> str:
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    rows = [row for row in rows if row["event"] == "step"]
    stages = list(dict.fromkeys(row["stage"] for row in rows))
    figure, axes = plt.subplots(1, max(1, len(stages)), figsize=(4.5 * max(1, len(stages)), 2.6), squeeze=False)
    for axis, stage in zip(axes[0], stages, strict=False):
        points = [(row["step"], row["loss"]) for row in rows if row["stage"] == stage]
        axis.plot(*zip(*points, strict=True), color="#4a7")
        axis.set(title=stage, xlabel="step", ylabel="loss")
    figure.tight_layout()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    plt.close(figure)
    return picture_data(buffer.getvalue())
