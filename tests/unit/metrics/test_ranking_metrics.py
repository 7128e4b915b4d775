"""Ranking scores against slow, obvious code."""

from __future__ import annotations

import numpy as np
import pytest

from sightline.errors import UsageError
from sightline.metrics import (
    average_precision_at,
    mean_average_precision_at_each,
    median_rank,
    ranks_of_first_relevant,
    ranks_of_relevant,
    recall_at,
    recall_at_each,
)


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


def slow_average_precision(scores: list[float], relevant: list[bool], *, k: int) -> float:
    """CIRCO's sum over the places of the list, irrelevant targets first among equals."""
    order = sorted(range(len(scores)), key=lambda at: (-scores[at], relevant[at]))
    hits = [relevant[at] for at in order[:k]]
    return sum(sum(hits[: place + 1]) / (place + 1) for place in range(len(hits)) if hits[place]) / min(
        sum(relevant), k
    )


@pytest.mark.parametrize("k", [1, 5, 7, 50])
def test_average_precision_equals_a_walk_down_the_list(k: int) -> None:
    rng = np.random.default_rng(k)
    for _ in range(20):
        scores, relevant = rng.integers(0, 6, 33).astype(np.float32), rng.random(33) < 0.2
        relevant[rng.integers(33)] = True
        fast = average_precision_at(k, rank_R=ranks_of_relevant(scores, relevant_T=relevant))
        assert fast == pytest.approx(slow_average_precision(scores.tolist(), relevant.tolist(), k=k))


def test_average_precision_of_the_published_examples() -> None:
    far = np.array([0, 1, 20, 21, 22, 23, 24, 25])
    assert average_precision_at(5, rank_R=np.array([0, 2])) == pytest.approx((1 + 2 / 3) / 2)
    assert average_precision_at(5, rank_R=far) == pytest.approx(0.4)
    assert mean_average_precision_at_each((5,), rank_QR=[np.array([0, 2]), far]) == {
        "map_at_5": pytest.approx((5 / 6 + 0.4) / 2)
    }


def test_constant_scores_have_no_precision() -> None:
    ranks = ranks_of_relevant(np.zeros(60), relevant_T=np.arange(60) < 3)
    assert ranks.tolist() == [57, 58, 59]
    assert average_precision_at(50, rank_R=ranks) == 0


def test_precision_of_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="got none"):
        average_precision_at(5, rank_R=np.array([], dtype=np.int64))
    with pytest.raises(UsageError, match="got none"):
        mean_average_precision_at_each((5,), rank_QR=[])
    with pytest.raises(UsageError, match="limit 1"):
        average_precision_at(0, rank_R=np.array([0]))
    with pytest.raises(UsageError, match="shapes"):
        ranks_of_relevant(np.zeros(3), relevant_T=np.ones(2, dtype=bool))
    with pytest.raises(UsageError, match="not finite"):
        ranks_of_relevant(np.array([np.nan, 0.0]), relevant_T=np.array([True, False]))
