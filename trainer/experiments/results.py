"""Outcomes on disk, one JSON file a cell and seed, and the rows and verdicts that they add up to."""

from __future__ import annotations

import json
import statistics
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainer.experiments.plan import Cell, Claim, Outcome, Suite
from trainer.experiments.significance import holm, sign_flip_p

ALPHA = 0.05
"""Largest corrected p-value at which a claim counts as supported."""
_PLACES = 6
_KEPT_DIGITS = 16
Row = dict[str, Any]
Outcomes = Mapping[str, Outcome]
"""By the digest of the cell."""


def measure_cell(cell: Cell, out: Path) -> None:
    """Measure `cell` unless `out` holds its outcome, and write it, whole or not at all."""
    if not cell_path(cell, out).exists():
        write_json(cell_path(cell, out), {**_described(cell), "outcome": asdict(cell.measure(cell, out))})


def read_outcome(cell: Cell, out: Path) -> Outcome:
    """The outcome of a `cell` that was measured before."""
    return Outcome(**json.loads(cell_path(cell, out).read_text(encoding="utf-8"))["outcome"])


def cell_path(cell: Cell, out: Path) -> Path:
    """The file of the cell's outcome, shared by cells of several experiments that measure the same."""
    return out / "cells" / f"seed{cell.seed}-{cell.digest[:_KEPT_DIGITS]}.json"


def write_json(path: Path, value: Any) -> None:
    """Write beside and rename: a reader sees the whole file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    partial.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def result_rows(cells: Sequence[Cell], outcomes: Outcomes) -> list[Row]:
    """One row for each metric of each cell: mean and sample deviation over its seeds; that of one seed is 0."""
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.experiment, cell.name), []).append(cell)
    rows: list[Row] = []
    for (experiment, name), group in groups.items():
        seeds, metrics = [cell.seed for cell in group], [outcomes[cell.digest].metrics for cell in group]
        for metric in metrics[0]:
            values = [found[metric] for found in metrics if metric in found]
            rows.append(_row(experiment, name, metric, values=values, seeds=seeds))
    return rows


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the numbers say of a claim."""

    claim: Claim
    difference: float
    """Mean of better minus worse."""
    deviation: float
    """Over seeds."""
    p_value: float
    """Corrected for all the claims of the suite that were tested."""
    num_units: int
    holds_in_every_seed: bool
    verdict: str
    """`supported`, `contradicted` (the opposite is as clear), or `not supported`."""


def verdicts(suite: Suite, cells: Sequence[Cell], outcomes: Outcomes) -> list[Verdict]:
    """A verdict on each claim whose two cells were measured.

    Units are paired, averaged over seeds and permuted: what is tested is
    whether a difference holds over units of this world, for these seeds. A
    claim is supported if that p-value is at most 0.05 and no seed says otherwise.
    """
    tested = [(claim, pairs) for claim in suite.claims if (pairs := _pairs(claim, cells, outcomes)) is not None]
    forward = [sign_flip_p((units - claim.margin).tolist()) for claim, (_, units) in tested]
    backward = [sign_flip_p((claim.margin - units).tolist()) for claim, (_, units) in tested]
    return [
        _verdict(claim, by_seed=by_seed, num_units=len(units), p_value=p_value, p_opposite=p_opposite)
        for (claim, (by_seed, units)), p_value, p_opposite in zip(tested, holm(forward), holm(backward), strict=True)
    ]


def _described(cell: Cell) -> dict[str, Any]:
    return {
        "digest": cell.digest,
        "model": cell.model.digest,
        "seed": cell.seed,
        "measure": cell.measure.__qualname__,
        "options": dict(cell.options),
        "settings": dict(cell.model.settings),
    }


def _row(experiment: str, name: str, metric: str, *, values: Sequence[float], seeds: Sequence[int]) -> Row:
    return {
        "experiment": experiment,
        "cell": name,
        "metric": metric,
        "mean": round(statistics.fmean(values), _PLACES),
        "std": round(statistics.stdev(values), _PLACES) if len(values) > 1 else 0.0,
        "seeds": list(seeds),
    }


def _pairs(
    claim: Claim, cells: Sequence[Cell], outcomes: Outcomes
) -> tuple[list[float], np.ndarray[Any, np.dtype[np.float64]]] | None:
    """(difference of each seed, difference of each unit averaged over seeds); None if a side was not measured."""
    better, worse = (
        {c.seed: outcomes[c.digest].samples for c in cells if (c.experiment, c.name) == (claim.experiment, name)}
        for name in (claim.better, claim.worse)
    )
    seeds = sorted(better.keys() & worse.keys())
    if not seeds:
        return None
    units = sorted(better[seeds[0]])
    by_seed_unit = np.array([[better[seed][unit] - worse[seed][unit] for unit in units] for seed in seeds])
    return by_seed_unit.mean(axis=1).tolist(), by_seed_unit.mean(axis=0)


def _verdict(claim: Claim, *, by_seed: Sequence[float], num_units: int, p_value: float, p_opposite: float) -> Verdict:
    holds = all(difference > claim.margin for difference in by_seed)
    word = "supported" if p_value <= ALPHA and holds else "contradicted" if p_opposite <= ALPHA else "not supported"
    return Verdict(
        claim=claim,
        difference=statistics.fmean(by_seed),
        deviation=statistics.stdev(by_seed) if len(by_seed) > 1 else 0.0,
        p_value=p_value,
        num_units=num_units,
        holds_in_every_seed=holds,
        verdict=word,
    )
