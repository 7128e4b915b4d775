"""What the servers of CIRCO and CIRR take: the best pictures of every query of a hidden split."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sightline.errors import UsageError
from trainer.benchmarks import circo, cirr
from trainer.benchmarks.protocol import Benchmark
from trainer.benchmarks.ranking import Ranked
from trainer.benchmarks.submission_rules import check_circo, check_cirr

NUM_SUBMITTED = {"circo": circo.SUBMITTED, "cirr": cirr.SUBMITTED}
"""How many pictures of each query a server wants, by benchmark."""


def write_submission(folder: Path, benchmark: Benchmark, *, ranked: Mapping[str, Sequence[Ranked]]) -> list[Path]:
    """The files written into `folder`, each checked by the server's published rules. Raises UsageError for a breach."""
    folder.mkdir(parents=True, exist_ok=True)
    return _WRITERS[benchmark.name](folder, benchmark, ranked[benchmark.name])


def check_submittable(name: str) -> None:
    """Raise UsageError unless the benchmark has a server."""
    if name not in _WRITERS:
        raise UsageError(f"submission: {name} has no server; those of {', '.join(_WRITERS)} take one")


def _write_circo(folder: Path, benchmark: Benchmark, ranked: Sequence[Ranked]) -> list[Path]:
    answers = {one.query.query_id: [int(image_id) for image_id in one.best] for one in ranked}
    path = _written(folder / f"circo_{benchmark.split}.json", answers)
    check_circo(path, annotations=benchmark.annotations[0], gallery=set(map(int, benchmark.tasks[0].gallery)))
    return [path]


def _write_cirr(folder: Path, benchmark: Benchmark, ranked: Sequence[Ranked]) -> list[Path]:
    of_all = {one.query.query_id: list(one.best) for one in ranked}
    of_subset = {one.query.query_id: list(one.best_of_subset[: cirr.SUBMITTED_OF_SUBSET]) for one in ranked}
    paths = []
    for metric, answers in (("recall", of_all), ("recall_subset", of_subset)):
        path = folder / f"cirr_{benchmark.split}_{metric}.json"
        paths.append(_written(path, {"version": "rc2", "metric": metric, **answers}))
        check_cirr(path, captions=benchmark.annotations[0], image_split=benchmark.annotations[1])
    return paths


def _written(path: Path, value: Mapping[str, Any]) -> Path:
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


_WRITERS = {"circo": _write_circo, "cirr": _write_cirr}
