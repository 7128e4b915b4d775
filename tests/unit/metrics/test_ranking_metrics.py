"""Ranking scores against slow, obvious code."""

from __future__ import annotations

import numpy as np
import pytest

from sightline.errors import UsageError
from sightline.metrics import median_rank, ranks_of_first_relevant, recall_at, recall_at_each


def slow_rank(scores: list[float], relevant: list[bool]) -> int:
    """Sort by score, irrelevant targets first among equals, and count up to the first relevant one."""
    order = sorted(range(len(scores)), key=lambda at: (-scores[at], relevant[at]))
    return next(place for place, at in enumerate(order) if relevant[at])


@pytest.mark.parametrize(("num_queries", "num_targets"), [(1, 1), (7, 5), (20, 33)])
def test_ranks_equal_a_sorted_count(num_queries: int, num_targets: int) -> None:
    rng = np.random.default_rng(num_queries)
    scores = rng.integers(0, 6, (num_queries, num_targets)).astype(np.float32)  # many ties
    relevant = rng.random((num_queries, num_targets)) < 0.3
    relevant[np.arange(num_queries), rng.integers(0, num_targets, num_queries)] = True
    slow = [slow_rank(row.tolist(), mask.tolist()) for row, mask in zip(scores, relevant, strict=True)]
    assert ranks_of_first_relevant(scores, relevant_QT=relevant).tolist() == slow


def test_constant_scores_earn_nothing() -> None:
    relevant = np.eye(4, dtype=bool)
    rank_Q = ranks_of_first_relevant(np.zeros((4, 4)), relevant_QT=relevant)
    assert recall_at(1, rank_Q=rank_Q) == 0


@pytest.mark.parametrize("k", [1, 3, 7])
def test_recall_is_the_share_within_k(k: int) -> None:
    ranks = np.array([0, 0, 2, 3, 6, 7, 40])
    assert recall_at(k, rank_Q=ranks) == sum(rank < k for rank in ranks.tolist()) / 7


def test_recalls_are_named_by_k() -> None:
    assert recall_at_each((1, 5), rank_Q=np.array([0, 4, 5, 9])) == {"recall_at_1": 0.25, "recall_at_5": 0.5}


def test_median_rank_counts_from_one() -> None:
    assert median_rank(np.array([0, 9, 4])) == 5
    assert median_rank(np.array([0, 1])) == 1.5


def test_empty_and_ill_shaped_evaluations_are_refused() -> None:
    with pytest.raises(UsageError, match="got none"):
        recall_at(1, rank_Q=np.array([], dtype=np.int64))
    with pytest.raises(UsageError, match="got none"):
        median_rank(np.array([], dtype=np.int64))
    with pytest.raises(UsageError, match="limit 1"):
        recall_at(0, rank_Q=np.array([0]))
    with pytest.raises(UsageError, match="shapes"):
        ranks_of_first_relevant(np.zeros((2, 3)), relevant_QT=np.ones((3, 2), dtype=bool))
    with pytest.raises(UsageError, match="query 1: has no relevant target"):
        ranks_of_first_relevant(np.zeros((2, 2)), relevant_QT=np.array([[True, False], [False, False]]))
    with pytest.raises(UsageError, match="not finite"):
        ranks_of_first_relevant(np.array([[np.nan, 0.0]]), relevant_QT=np.array([[True, False]]))
