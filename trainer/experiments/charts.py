"""Small plots of result rows as SVG that stands in a page by itself."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from trainer.experiments.plan import Experiment

_COLOURS = ("#44aa77", "#4477aa", "#cc6677", "#aa8833", "#777777", "#884499")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
Row = dict[str, Any]


def chart(experiment: Experiment, rows: Sequence[Row]) -> str:
    """The first metric of the experiment's rows with its deviation: lines over its axis if it has one, else bars."""
    drawn = [row for row in rows if row["metric"] == experiment.metrics[0]]
    figure = Figure(figsize=(7.2, 0.32 * len(drawn) + 1.0) if not experiment.axis else (6.4, 3.2))
    axes = figure.subplots()
    if experiment.axis:
        _lines(axes, drawn, experiment=experiment)
    else:
        _bars(axes, drawn)
    axes.set_xlabel(experiment.axis or experiment.metrics[0].replace("_", " "))
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    return _svg(figure)


def _bars(axes: Axes, rows: Sequence[Row]) -> None:
    names = [row["cell"] for row in rows]
    means, deviations = [row["mean"] for row in rows], [row["std"] for row in rows]
    axes.barh(names, means, xerr=deviations, color=_COLOURS[0], height=0.62, error_kw={"lw": 1, "capsize": 2})
    axes.invert_yaxis()
    axes.set_xlim(left=0)


def _lines(axes: Axes, rows: Sequence[Row], *, experiment: Experiment) -> None:
    series: dict[str, list[tuple[float, Row]]] = {}
    for row in rows:
        name = _NUMBER.sub("", row["cell"]).strip(" =%")
        series.setdefault(name, []).append((float(_NUMBER.findall(row["cell"])[-1]), row))
    for colour, (name, points) in zip(_COLOURS, series.items(), strict=False):
        axes.errorbar(
            [x for x, _ in points],
            [row["mean"] for _, row in points],
            yerr=[row["std"] for _, row in points],
            marker="o",
            capsize=2,
            color=colour,
            label=name,
        )
    if experiment.is_logarithmic:
        axes.set_xscale("symlog", linthresh=1)
    if len(series) > 1:
        axes.legend(frameon=False)
    axes.set_ylabel(experiment.metrics[0].replace("_", " "))
    axes.set_ylim(bottom=0)


def _svg(figure: Figure) -> str:
    """The figure as an <svg> element: text stays text, and equal figures give equal bytes."""
    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "sightline", "font.size": 9}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
