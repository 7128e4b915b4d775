"""Retrieval scores over ranks. Axes: Q queries, T targets, R relevant targets of a query. A rank is zero-based."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from sightline.errors import UsageError

IntArray = npt.NDArray[np.int64]
RanksT = TypeVar("RanksT", IntArray, Sequence[IntArray])


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


def ranks_of_relevant(score_T: npt.NDArray[np.floating], *, relevant_T: npt.NDArray[np.bool_]) -> IntArray:
    """The rank of every relevant target of one query, best first; shape [R].

    Irrelevant targets of equal score come before, relevant ones behind each
    other: rank j is j and the number of irrelevant targets that score at least
    as much. Raises UsageError if shapes differ or a score is not finite.
    """
    if score_T.shape != relevant_T.shape or score_T.ndim != 1:
        raise UsageError(f"scores: got shapes {score_T.shape} and {relevant_T.shape}, expected one [T]")
    if not np.isfinite(score_T).all():
        raise UsageError("scores: some are not finite")
    score_R, others_T = np.sort(score_T[relevant_T])[::-1], score_T[~relevant_T]
    ahead = [np.count_nonzero(others_T >= score) for score in score_R]
    return np.array(ahead, dtype=np.int64) + np.arange(len(score_R))


def average_precision_at(k: int, *, rank_R: IntArray) -> float:
    """AP@k of one query from the ranks of all its relevant targets, best first.

    The precisions at the hits among the best k, over min(R, k): the definition
    of CIRCO (arXiv 2303.15247), by which a query with more answers than k can
    still reach 1. Raises UsageError for no rank or k below 1.
    """
    precision_R = np.arange(1, len(_checked(rank_R, k=k)) + 1) / (rank_R + 1)
    return float(precision_R[rank_R < k].sum() / min(len(rank_R), k))


def mean_average_precision_at(k: int, *, rank_QR: Sequence[IntArray]) -> float:
    """The mean of `average_precision_at` over queries, each with as many ranks as it has answers."""
    return float(np.mean([average_precision_at(k, rank_R=rank_R) for rank_R in _some(rank_QR)]))


def mean_average_precision_at_each(ks: Sequence[int], *, rank_QR: Sequence[IntArray]) -> dict[str, float]:
    """`mean_average_precision_at` under the names 'map_at_5', ... for every k."""
    return {f"map_at_{k}": mean_average_precision_at(k, rank_QR=rank_QR) for k in ks}


def recall_at(k: int, *, rank_Q: IntArray) -> float:
    """Share of queries whose relevant target is among the best k. Raises UsageError for no query or k below 1."""
    return float(np.mean(_checked(rank_Q, k=k) < k))


def median_rank(rank_Q: IntArray) -> float:
    """The middle rank counted from 1; the mean of the middle two for an even count. Raises UsageError for no query."""
    return float(np.median(_checked(rank_Q)) + 1)


def recall_at_each(ks: Sequence[int], *, rank_Q: IntArray) -> dict[str, float]:
    """`recall_at` under the names 'recall_at_1', ... for every k."""
    return {f"recall_at_{k}": recall_at(k, rank_Q=rank_Q) for k in ks}


def _checked(rank_Q: IntArray, *, k: int = 1) -> IntArray:
    if k < 1:
        raise UsageError(f"k: got {k}, limit 1")
    return _some(rank_Q)


def _some(ranks: RanksT) -> RanksT:
    if len(ranks) == 0:
        raise UsageError("ranks: got none, expected at least one query")
    return ranks
