"""The report of a suite: one HTML page with plots, tables, verdicts and dialogues, which needs no other file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from trainer.experiments.charts import chart
from trainer.experiments.plan import Cell, Suite
from trainer.experiments.results import ALPHA, Outcomes, Row, Verdict

_SHOWN_FIRST = ("relevance", "systems")
_ASKED = ("turns", "asked_with", "expected", "looked_for")
"""What the cells' examples of one question share; text of a question has no pictures."""
TEMPLATE = Path(__file__).with_name("report.html.j2")


def write_report(
    path: Path,
    *,
    suite: Suite,
    rows: Sequence[Row],
    verdicts: Sequence[Verdict],
    dialogues: Sequence[Mapping[str, Any]],
    setting: Mapping[str, Any],
) -> None:
    """Write the page; `setting` has `command`, `recipe`, `seeds`, `is_quick` and `num_trained`."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    shown = [_shown(suite, name=experiment.name, rows=rows) for experiment in suite.experiments]
    text = template.render(
        suite=suite,
        experiments=[experiment for experiment in shown if experiment["cells"]],
        verdicts=verdicts,
        counts={word: sum(v.verdict == word for v in verdicts) for word in dict.fromkeys(v.verdict for v in verdicts)},
        notes=suite.notes(rows),
        dialogues=dialogues,
        setting=setting,
        alpha=ALPHA,
    )
    path.write_text(text, encoding="utf-8")


def example_dialogues(cells: Sequence[Cell], outcomes: Outcomes) -> list[dict[str, Any]]:
    """The examples of the first seed's cells side by side: each question once, with every cell's answer to it.

    Cells that ask the same model nothing new add nothing: an experiment named
    `relevance` or `systems` is shown, else the first that kept examples.
    """
    kept = [cell for cell in cells if outcomes[cell.digest].examples]
    if not kept:
        return []
    kept = [cell for cell in kept if cell.seed == kept[0].seed]
    chosen = next((cell.experiment for cell in kept if cell.experiment in _SHOWN_FIRST), kept[0].experiment)
    dialogues: dict[str, dict[str, Any]] = {}
    for cell in (cell for cell in kept if cell.experiment == chosen):
        for example in outcomes[cell.digest].examples:
            dialogue = dialogues.setdefault(
                example["id"],
                {name: example.get(name, "") for name in _ASKED} | {"answers": []},
            )
            dialogue["answers"].append({"cell": cell.name, **example})
    return list(dialogues.values())


def _shown(suite: Suite, *, name: str, rows: Sequence[Row]) -> dict[str, Any]:
    experiment = next(known for known in suite.experiments if known.name == name)
    own = [row for row in rows if row["experiment"] == name]
    by_cell: dict[str, dict[str, Row]] = {}
    for row in own:
        by_cell.setdefault(row["cell"], {})[row["metric"]] = row
    metrics = [metric for metric in experiment.metrics if any(metric in found for found in by_cell.values())]
    return {
        "experiment": experiment,
        "metrics": metrics,
        "cells": by_cell,
        "chart": chart(experiment, own) if own else "",
    }
