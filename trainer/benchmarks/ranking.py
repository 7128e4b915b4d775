"""What a benchmark asks of a ranking, from any scorer: ranks of the answers, and the best for a submission."""

# Axes: N pictures of a task, B queries of a block, T candidates of a query, R right answers of a query.
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sightline.errors import UsageError
from sightline.metrics import ranks_of_relevant
from trainer.benchmarks.protocol import Floats, Query, Task

Rows = np.ndarray[Any, np.dtype[np.int64]]
Scores = dict[str, dict[str, float]]
"""Group -> metric -> share between 0 and 1."""
Scorer = Callable[[slice], Floats]
"""Scores [B, N] of some of a task's queries over all of its pictures."""
TIE_RULE = "a picture that scores as much as the right one comes before it"
_BLOCK = 64
_NO_ROWS = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """What a ranking says about one query; ranks count from 0."""

    query: Query
    target_rank: int
    """Of the annotated target; -1 where it is hidden."""
    relevant_rank_R: Rows
    """Of every right answer, best first; empty where they are hidden."""
    subset_rank: int
    """Of the annotated target among the subset; -1 without one."""
    best: tuple[str, ...]
    """The best pictures, as many as were asked for; ties in the gallery's order."""
    best_of_subset: tuple[str, ...]
    """The subset, best first."""


def rank_task(task: Task, *, score: Scorer, num_best: int = 0, block: int = _BLOCK) -> list[Ranked]:
    """Each query's ranking, in order, by the scores of `score`, which is called with blocks of queries.

    Memory is a block of scores over all pictures. Raises UsageError for a
    score that is not finite or a shape that is wrong.
    """
    ranker = _Ranker(task, num_best=num_best)
    return [ranker.ranked(query, score_N=score_N) for query, score_N in _scored(task, score=score, block=block)]


def target_ranks(ranked: Sequence[Ranked]) -> Rows:
    """The rank of each query's annotated target."""
    return np.array([one.target_rank for one in ranked], dtype=np.int64)


def subset_ranks(ranked: Sequence[Ranked]) -> Rows:
    """The rank of each query's annotated target in its subset."""
    return np.array([one.subset_rank for one in ranked], dtype=np.int64)


def relevant_ranks(ranked: Sequence[Ranked]) -> list[Rows]:
    """The ranks of all right answers of each query."""
    return [one.relevant_rank_R for one in ranked]


def mean_of_groups(table: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The plain mean of each metric over the groups of a table."""
    metrics = next(iter(table.values()))
    return {metric: float(np.mean([row[metric] for row in table.values()])) for metric in metrics}


def _scored(task: Task, *, score: Scorer, block: int) -> Iterator[tuple[Query, Floats]]:
    for start in range(0, len(task.queries), block):
        queries = task.queries[start : start + block]
        score_BN = score(slice(start, start + len(queries)))
        if score_BN.shape != (expected := (len(queries), len(task.pictures))):
            raise UsageError(f"scores: got shape {score_BN.shape}, expected {expected}")
        yield from zip(queries, score_BN, strict=True)


class _Ranker:
    def __init__(self, task: Task, *, num_best: int) -> None:
        self._task, self._num_best = task, num_best
        self._ids = [picture.image_id for picture in task.pictures]
        self._row_of = {image_id: row for row, image_id in enumerate(self._ids)}
        self._gallery_rows = self._rows(task.gallery)

    def ranked(self, query: Query, *, score_N: Floats) -> Ranked:
        rows_T, subset = self._candidates(query), self._rows(query.subset)
        has_targets = bool(query.targets)
        return Ranked(
            query=query,
            target_rank=self._first_rank(score_N, rows_T, query.targets[0]) if has_targets else -1,
            relevant_rank_R=self._ranks(score_N, rows_T, query.targets) if has_targets else _NO_ROWS,
            subset_rank=self._first_rank(score_N, subset, query.targets[0]) if has_targets and len(subset) else -1,
            best=self._best(score_N, rows_T, limit=self._num_best),
            best_of_subset=self._best(score_N, subset, limit=len(subset)),
        )

    def _candidates(self, query: Query) -> Rows:
        rows_T = self._rows(query.gallery) if query.gallery else self._gallery_rows
        return rows_T[rows_T != self._row_of[query.reference]] if self._task.excludes_reference else rows_T

    def _first_rank(self, score_N: Floats, rows_T: Rows, target: str) -> int:
        return int(self._ranks(score_N, rows_T, (target,))[0])

    def _ranks(self, score_N: Floats, rows_T: Rows, targets: Sequence[str]) -> Rows:
        relevant_T = np.isin(rows_T, self._rows(targets))
        assert relevant_T.sum() == len(targets), "readers check that every answer is a candidate"
        return ranks_of_relevant(score_N[rows_T], relevant_T=relevant_T)

    def _best(self, score_N: Floats, rows_T: Rows, *, limit: int) -> tuple[str, ...]:
        if not limit:
            return ()
        order = np.argsort(-score_N[rows_T], kind="stable")[:limit]
        return tuple(self._ids[row] for row in rows_T[order])

    def _rows(self, ids: Sequence[str]) -> Rows:
        return np.array([self._row_of[image_id] for image_id in ids], dtype=np.int64)
