"""What is written is accepted by rules written apart from the writer, and every breach of a rule is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sightline.errors import UsageError
from trainer.benchmarks import submission_rules
from trainer.benchmarks.annotations import Files
from trainer.benchmarks.protocol import Benchmark
from trainer.benchmarks.ranking import rank_task
from trainer.benchmarks.run import KINDS
from trainer.benchmarks.submission import check_submittable, write_submission

Small = Callable[[str], Files]


def submitted(name: str, small: Small, out: Path) -> tuple[Benchmark, list[Path]]:
    benchmark = KINDS[name].read(replace(small(name), split="test"))
    task = benchmark.tasks[0]
    score_QN = np.random.default_rng(0).random((len(task.queries), len(task.pictures))).astype(np.float32)
    ranked = rank_task(task, score=lambda part: score_QN[part], num_best=50)
    return benchmark, write_submission(out, benchmark, ranked={name: ranked})


def check(benchmark: Benchmark, path: Path) -> None:
    if benchmark.name == "circo":
        gallery = set(map(int, benchmark.tasks[0].gallery))
        submission_rules.check_circo(path, annotations=benchmark.annotations[0], gallery=gallery)
    else:
        submission_rules.check_cirr(path, captions=benchmark.annotations[0], image_split=benchmark.annotations[1])


def test_submissions_have_the_published_form(small: Small, tmp_path: Path) -> None:
    _, (path,) = submitted("circo", small, tmp_path)
    answers = json.loads(path.read_text())
    assert list(answers) == ["0", "1", "2", "3"]
    assert all(len(set(images)) == 50 and all(type(image) is int for image in images) for images in answers.values())
    benchmark, (recall, subset) = submitted("cirr", small, tmp_path)
    of_all, of_subset = json.loads(recall.read_text()), json.loads(subset.read_text())
    assert (of_all.pop("version"), of_all.pop("metric")) == ("rc2", "recall")
    assert (of_subset.pop("version"), of_subset.pop("metric")) == ("rc2", "recall_subset")
    assert list(of_all) == list(of_subset) == [query.query_id for query in benchmark.tasks[0].queries]
    assert {len(images) for images in of_all.values()} == {50}
    assert {len(images) for images in of_subset.values()} == {3}


CIRCO_BREACHES: list[tuple[Callable[[Any], object], str]] = [
    (lambda answers: answers.pop("2"), "1 queries have no answer, such as 2"),
    (lambda answers: answers.update({"4": answers["0"]}), "1 keys are no query, such as '4'"),
    (lambda answers: answers["1"].pop(), "query 1: got 49, expected a list of 50"),
    (lambda answers: answers["1"].__setitem__(0, answers["1"][1]), "query 1: names a picture twice"),
    (lambda answers: answers["1"].__setitem__(0, 999), "query 1: 999 is no picture of the gallery"),
    (lambda answers: answers["1"].__setitem__(0, str(answers["1"][0])), "is no picture of the gallery"),
    (lambda answers: answers.update({"1": "none"}), "query 1: got str, expected a list of 50"),
]
CIRR_BREACHES: list[tuple[Callable[[Any], object], str]] = [
    (lambda answers: answers.update(version="rc1"), "version: got 'rc1', expected 'rc2'"),
    (lambda answers: answers.update(metric="precision"), "metric: got 'precision'"),
    (lambda answers: answers.pop("100"), "1 queries have no answer, such as 100"),
    (lambda answers: answers.update({"x": []}), "1 keys are no query, such as 'x'"),
    (lambda answers: answers["101"].pop(), "query 101: got "),
    (lambda answers: answers["101"].__setitem__(0, answers["101"][1]), "query 101: names a picture twice"),
    (lambda answers: answers["101"].__setitem__(0, "test1-1-0-img1"), "query 101: holds its reference"),
    (lambda answers: answers["101"].__setitem__(0, "dev-0-0-img0"), "'dev-0-0-img0' is none of the"),
]


@pytest.mark.parametrize(("change", "message"), CIRCO_BREACHES, ids=[message for _, message in CIRCO_BREACHES])
def test_circo_refuses(change: Callable[[Any], object], message: str, small: Small, tmp_path: Path) -> None:
    benchmark, (path,) = submitted("circo", small, tmp_path)
    refuses(benchmark, path, change, message)


@pytest.mark.parametrize(("change", "message"), CIRR_BREACHES, ids=[message for _, message in CIRR_BREACHES])
def test_cirr_refuses(change: Callable[[Any], object], message: str, small: Small, tmp_path: Path) -> None:
    benchmark, paths = submitted("cirr", small, tmp_path)
    for path in paths:
        refuses(benchmark, path, change, message)


def refuses(benchmark: Benchmark, path: Path, change: Callable[[Any], object], message: str) -> None:
    answers = json.loads(path.read_text())
    change(answers)
    path.write_text(json.dumps(answers))
    with pytest.raises(UsageError, match=f"{path.name}.*{message.replace('(', '.')}"):
        check(benchmark, path)


def test_a_subset_holds_members_alone_and_files_have_a_limit(small: Small, tmp_path: Path) -> None:
    benchmark, (recall, subset) = submitted("cirr", small, tmp_path)
    refuses(benchmark, subset, lambda rows: rows["100"].__setitem__(0, "test1-40-0-img0"), "none of the 6 pictures")
    refuses(benchmark, recall, lambda rows: rows.update(note="x" * 5_000_000), "limit 5000000")
    recall.write_text("[]")
    with pytest.raises(UsageError, match="got list, expected one object"):
        check(benchmark, recall)


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize(("name", "num_queries"), [("circo", 800), ("cirr", 4148)])
def test_submissions_over_the_genuine_files_are_accepted(
    name: str, num_queries: int, genuine: Callable[[str, str], Benchmark], tmp_path: Path
) -> None:
    benchmark = genuine(name, "test")
    task, rng = benchmark.tasks[0], np.random.default_rng(0)

    def at_random(part: slice) -> np.ndarray[Any, np.dtype[np.float32]]:
        return rng.random((len(task.queries[part]), len(task.pictures)), dtype=np.float32)

    ranked = rank_task(task, score=at_random, num_best=50)
    assert len(ranked) == num_queries
    for path in write_submission(tmp_path, benchmark, ranked={name: ranked}):
        check(benchmark, path)


def test_only_benchmarks_with_a_server_take_submissions() -> None:
    with pytest.raises(UsageError, match="genecis has no server; those of circo, cirr take one"):
        check_submittable("genecis")
