"""Retrieval scores over ranks. Axes: Q queries, T targets. A rank is zero-based."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sightline.errors import UsageError

IntArray = npt.NDArray[np.int64]


def ranks_of_first_relevant(score_QT: npt.NDArray[np.floating], *, relevant_QT: npt.NDArray[np.bool_]) -> IntArray:
    """For each query, how many targets come before its best relevant one; shape [Q].

    Targets of equal score count as coming before: a constant score earns
    nothing. Raises UsageError if shapes differ, a score is not finite, or a
    query has no relevant target.
    """
    if score_QT.shape != relevant_QT.shape or score_QT.ndim != 2:
        raise UsageError(f"scores: got shapes {score_QT.shape} and {relevant_QT.shape}, expected one [Q, T]")
    if not np.isfinite(score_QT).all():
        raise UsageError("scores: some are not finite")
    if not relevant_QT.any(axis=1).all():
        missing = int((~relevant_QT.any(axis=1)).argmax())
        raise UsageError(f"query {missing}: has no relevant target")
    best_Q = np.where(relevant_QT, score_QT, -np.inf).max(axis=1)
    ahead_QT = (score_QT >= best_Q[:, None]) & ~relevant_QT
    return ahead_QT.sum(axis=1, dtype=np.int64)


def recall_at(k: int, *, rank_Q: IntArray) -> float:
    """Share of queries whose relevant target is among the best k. Raises UsageError for no query or k below 1."""
    if k < 1:
        raise UsageError(f"k: got {k}, limit 1")
    return float(np.mean(_checked(rank_Q) < k))


def median_rank(rank_Q: IntArray) -> float:
    """The middle rank counted from 1; the mean of the middle two for an even count. Raises UsageError for no query."""
    return float(np.median(_checked(rank_Q)) + 1)


def recall_at_each(ks: Sequence[int], *, rank_Q: IntArray) -> dict[str, float]:
    """`recall_at` under the names 'recall_at_1', ... for every k."""
    return {f"recall_at_{k}": recall_at(k, rank_Q=rank_Q) for k in ks}


def _checked(rank_Q: IntArray) -> IntArray:
    if len(rank_Q) == 0:
        raise UsageError("ranks: got none, expected at least one query")
    return rank_Q
