"""Ceilings and floors: an oracle scores 100, a constant nothing, chance what chance does; on the genuine files, too."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from trainer.benchmarks import circo, cirr, fashioniq, genecis
from trainer.benchmarks.annotations import Files
from trainer.benchmarks.protocol import Benchmark, Task
from trainer.benchmarks.ranking import Ranked, Scorer, Scores, rank_task
from trainer.benchmarks.run import KINDS

ScorerOf = Callable[[Task], Scorer]
NAMES = tuple(KINDS)


def oracle(task: Task) -> Scorer:
    """The annotated answer above the others, and those above the rest."""
    row_of = {picture.image_id: row for row, picture in enumerate(task.pictures)}

    def score(part: slice) -> np.ndarray[Any, np.dtype[np.float32]]:
        queries = task.queries[part]
        score_BN = np.zeros((len(queries), len(task.pictures)), dtype=np.float32)
        for query, score_N in zip(queries, score_BN, strict=True):
            for place, target in enumerate(query.targets):
                score_N[row_of[target]] = 1 if place else 2
        return score_BN

    return score


def constant(task: Task) -> Scorer:
    return lambda part: np.ones((len(task.queries[part]), len(task.pictures)), dtype=np.float32)


def at_random(task: Task) -> Scorer:
    rng = np.random.default_rng(0)
    return lambda part: rng.random((len(task.queries[part]), len(task.pictures)), dtype=np.float32)


def scored(benchmark: Benchmark, scorer_of: ScorerOf) -> Scores:
    ranked = {task.name: rank_task(task, score=scorer_of(task)) for task in benchmark.tasks}
    return KINDS[benchmark.name].scores(ranked)


def values(scores: Scores) -> set[float]:
    return {round(value, 9) for row in scores.values() for value in row.values()}


@pytest.mark.parametrize("name", NAMES)
def test_an_oracle_reaches_everything_and_a_constant_nothing(name: str, small: Callable[[str], Files]) -> None:
    benchmark = KINDS[name].read(small(name))
    assert values(scored(benchmark, oracle)) == {1.0}
    shallow = {metric: value for row in scored(benchmark, constant).values() for metric, value in row.items()}
    # 50 of 12 dresses, and 3 of 5 pictures: a last place that is deep enough counts.
    assert {value for metric, value in shallow.items() if metric.endswith("_at_1")} <= {0.0}
    assert shallow.get("map_at_10", 0.0) == 0


def test_the_reference_is_left_out_of_cirr_alone(small: Callable[[str], Files]) -> None:
    def likes_the_reference(task: Task) -> Scorer:
        row_of = {picture.image_id: row for row, picture in enumerate(task.pictures)}

        def score(part: slice) -> np.ndarray[Any, np.dtype[np.float32]]:
            score_BN = oracle(task)(part)
            for query, score_N in zip(task.queries[part], score_BN, strict=True):
                score_N[row_of[query.reference]] = 3
            return score_BN

        return score

    def first_ranks(name: str) -> set[int]:
        task = KINDS[name].read(small(name)).tasks[0]
        return {one.target_rank for one in rank_task(task, score=likes_the_reference(task))}

    assert [first_ranks(name) for name in NAMES] == [{1}, {0}, {1}, {0}, {0}]


def test_blocks_and_the_best_equal_a_sorted_list(small: Callable[[str], Files]) -> None:
    task = KINDS["cirr"].read(small("cirr")).tasks[0]
    ids = [picture.image_id for picture in task.pictures]
    score_QN = np.random.default_rng(1).integers(0, 9, (len(task.queries), len(ids))).astype(np.float32)
    whole, parts = (rank_task(task, score=lambda part: score_QN[part], num_best=7, block=size) for size in (64, 2))
    assert [dataclasses.asdict(one) | {"relevant_rank_R": one.relevant_rank_R.tolist()} for one in whole] == [
        dataclasses.asdict(one) | {"relevant_rank_R": one.relevant_rank_R.tolist()} for one in parts
    ]
    for one, score_N in zip(whole, score_QN, strict=True):
        order = sorted((image for image in ids if image != one.query.reference), key=lambda i: -score_N[ids.index(i)])
        assert one.best == tuple(order[:7])
        score = dict(zip(ids, score_N, strict=True))
        target = one.query.targets[0]
        assert one.subset_rank == sum(score[other] >= score[target] for other in one.query.subset if other != target)


def test_aspects_count_their_own_queries() -> None:
    query = circo.Query(query_id="0", reference="r", texts=("t",), targets=("a", "b"), aspects=("negation",))
    ranked = [_ranked(query, [0, 2]), _ranked(dataclasses.replace(query, aspects=("addition",)), [1, 3])]
    table = circo.scores({"circo": ranked})
    assert table["negation"] == {"map_at_10": pytest.approx((1 + 2 / 3) / 2)}
    assert table["addition"] == {"map_at_10": pytest.approx((1 / 2 + 2 / 4) / 2)}
    assert table["all"]["map_at_10"] == pytest.approx((5 / 6 + 1 / 2) / 2)


def _ranked(query: circo.Query, ranks: list[int]) -> Ranked:
    return Ranked(
        query=query,
        target_rank=ranks[0],
        relevant_rank_R=np.array(ranks),
        subset_rank=-1,
        best=(),
        best_of_subset=(),
    )


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("name", ["circo", "cirr", "fashioniq", "genecis"])
def test_an_oracle_scores_100_on_the_genuine_files(name: str, genuine: Callable[[str, str], Benchmark]) -> None:
    benchmark = genuine(name, "val")
    assert benchmark.is_published
    assert values(scored(benchmark, oracle)) == {1.0}


@pytest.mark.data
@pytest.mark.slow
def test_a_constant_gains_nothing_on_the_genuine_files(genuine: Callable[[str, str], Benchmark]) -> None:
    for name in ("cirr", "fashioniq", "genecis"):
        assert values(scored(genuine(name, "val"), constant)) == {0.0}


@pytest.mark.data
@pytest.mark.slow
def test_chance_finds_as_much_as_it_should(genuine: Callable[[str, str], Benchmark]) -> None:
    row = scored(genuine("cirr", "val"), at_random)["all"]
    assert [row[f"subset_recall_at_{k}"] for k in cirr.SUBSET_KS] == pytest.approx([0.2, 0.4, 0.6], abs=0.015)
    assert row["subset_recall_at_1"] == pytest.approx(0.2, abs=0.01)
    fashion = scored(genuine("fashioniq", "val"), at_random)
    assert fashion["dress"]["recall_at_10"] == pytest.approx(10 / 3817, abs=0.004)
    objects = scored(genuine("genecis", "val"), at_random)
    assert objects["focus_object"]["recall_at_1"] == pytest.approx(1 / 15, abs=0.012)


@pytest.mark.data
@pytest.mark.slow
def test_genuine_files_hold_what_was_published(genuine: Callable[[str, str], Benchmark]) -> None:
    hidden = genuine("cirr", "test")
    assert (len(hidden.tasks[0].queries), len(hidden.tasks[0].gallery)) == (4148, 2315)
    assert hidden.is_published
    assert not hidden.has_targets
    assert hidden.notes == ("annotations rc2", "captions that are blank and asked as they are: pairid 27098")
    fashion = genuine("fashioniq", "val")
    assert [len(task.gallery) for task in fashion.tasks] == [3817, 6346, 5373]
    assert fashion.tasks[0].queries[0].texts == (
        "is shiny and silver with shorter sleeves and fit and flare",
        "fit and flare and is shiny and silver with shorter sleeves",
    )
    objects = genuine("genecis", "val")
    assert [task.name for task in objects.tasks] == ["focus_object", "change_object"]
    assert objects.notes == ("change_object: galleries that list the target twice, where it counts once: 1",)
    places = [query.gallery.index(query.targets[0]) for query in objects.tasks[0].queries]
    assert np.bincount(places, minlength=15).max() < 0.1 * len(places)


@pytest.mark.parametrize(
    ("name", "num_smaller", "expected"),
    [
        ("focus_attribute", 0, True),
        ("focus_attribute", 1, False),
        ("change_object", 1, True),
        ("change_object", 2, False),
    ],
)
def test_a_gallery_of_another_size_is_not_the_published_set(name: str, num_smaller: int, expected: bool) -> None:
    counts = genecis.PUBLISHED[name]
    ids = tuple(map(str, range(counts.gallery_size)))
    whole = circo.Query(query_id="0", reference="r", texts=("t",), targets=("0",), gallery=ids)
    queries = [whole] * (counts.num_queries - num_smaller)
    queries += [dataclasses.replace(whole, gallery=ids[:-1])] * num_smaller
    task = Task(name=name, pictures=(), gallery=(), queries=tuple(queries), excludes_reference=False)
    assert genecis.has_published_sizes(task) is expected


def test_a_mean_over_fewer_than_four_tasks_is_not_shown() -> None:
    query = circo.Query(query_id="0", reference="r", texts=("t",), targets=("a",))
    assert "mean" not in genecis.scores({"focus_object": [_ranked(query, [0])]})
    assert genecis.scores({name: [_ranked(query, [0])] for name in genecis.TASKS})["mean"]["recall_at_1"] == 1
    means = fashioniq.scores({"dress": [_ranked(query, [0])], "shirt": [_ranked(query, [20])]})["mean"]
    assert means == {"recall_at_10": 0.5, "recall_at_50": 1.0}
