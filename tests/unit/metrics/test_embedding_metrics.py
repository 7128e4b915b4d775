"""Word vectors from a file, and the three similarities against slow, obvious code."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from sightline.errors import DataLineInvalid, UsageError
from sightline.metrics import WordVectors, embedding_similarities, read_word_vectors, words
from tests.unit.metrics.conftest import Pairs

WIDTH = 7


def write_vectors(path: Path, names: list[str], *, header: str = "") -> np.ndarray:
    rows = np.random.default_rng(3).normal(size=(len(names), WIDTH)).round(4)
    lines = [f"{name} {' '.join(map(str, row))}" for name, row in zip(names, rows, strict=True)]
    path.write_text("\n".join([header, *lines] if header else lines) + "\n", encoding="utf-8")
    return rows


@pytest.fixture
def vectors(tmp_path: Path, own_pairs: Pairs) -> WordVectors:
    """Vectors of every other word of the sentences: half of the words are unknown."""
    vocabulary = sorted({word for text in own_pairs.replies + own_pairs.responses for word in words(text)})
    write_vectors(tmp_path / "vectors.txt", vocabulary[::2])
    return read_word_vectors(tmp_path / "vectors.txt", words=vocabulary)


def slow_cosine(first: list[float], second: list[float]) -> float:
    lengths = math.sqrt(sum(a * a for a in first)) * math.sqrt(sum(b * b for b in second))
    return sum(a * b for a, b in zip(first, second, strict=True)) / lengths if lengths else 0.0


def slow_average(first: list[list[float]], second: list[list[float]]) -> float:
    return slow_cosine(*([sum(column) for column in zip(*text, strict=True)] for text in (first, second)))


def slow_extrema(first: list[list[float]], second: list[list[float]]) -> float:
    return slow_cosine(*([max(column, key=abs) for column in zip(*text, strict=True)] for text in (first, second)))


def slow_greedy(first: list[list[float]], second: list[list[float]]) -> float:
    def direction(one: list[list[float]], other: list[list[float]]) -> float:
        return sum(max(slow_cosine(a, b) for b in other) for a in one) / len(one)

    return (direction(first, second) + direction(second, first)) / 2


@pytest.mark.parametrize(
    ("name", "slow"), [("average", slow_average), ("extrema", slow_extrema), ("greedy", slow_greedy)]
)
def test_similarities_equal_loops(own_pairs: Pairs, vectors: WordVectors, name: str, slow: object) -> None:
    found = embedding_similarities(own_pairs.replies, responses=own_pairs.responses, vectors=vectors)
    for value, reply, response in zip(found[f"embedding_{name}"], own_pairs.replies, own_pairs.responses, strict=True):
        if not words(reply):
            assert value == 0
            continue
        texts = [
            [list(vectors.known.get(word, vectors.unknown_D)) for word in words(text)] for text in (reply, response)
        ]
        assert value == pytest.approx(slow(*texts), abs=1e-9)  # type: ignore[operator]


def test_a_text_is_most_similar_to_itself(own_pairs: Pairs, vectors: WordVectors) -> None:
    found = embedding_similarities(own_pairs.responses, responses=own_pairs.responses, vectors=vectors)
    assert all(np.allclose(values, 1.0) for values in found.values())


def test_of_two_equal_extremes_the_negative_counts() -> None:
    known = {"up": np.array([2.0, 1.0]), "down": np.array([-2.0, 1.0])}
    vectors = WordVectors(known=known, unknown_D=np.zeros(2), num_vectors=2)
    found = embedding_similarities(["up down"], responses=["down"], vectors=vectors)
    assert found["embedding_extrema"][0] == pytest.approx(1.0)


@pytest.mark.parametrize("header", ["", f"5 {WIDTH}"])
def test_both_forms_of_a_file_are_read_and_only_what_is_asked_for_is_kept(tmp_path: Path, header: str) -> None:
    path = tmp_path / "vectors.txt"
    rows = write_vectors(path, ["red", ". . .", "über", "7", "red"], header=header)
    found = read_word_vectors(path, words={"red", ". . .", "absent"})
    assert set(found.known) == {"red", ". . ."}
    assert np.allclose(found.known["red"], rows[0]), "of two lines of one word the first counts"
    assert np.allclose(found.unknown_D, rows.mean(axis=0))
    assert (found.width, found.num_vectors) == (WIDTH, 5)
    assert np.allclose(found.rows(["absent", "red"]), [rows.mean(axis=0), rows[0]])
    assert found.known_share(["red", "absent", "no"]) == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", ":1: got 0 fields"),
        (b"red\n", ":1: got 1 fields"),
        (b"red 1 2\nblue 1\n", ":2: got 1 values, expected 2"),
        (b"red 1 2\n\nblue 1 x\n", ":3: could not convert"),
        (b"red 1 nan\n", ":1: value 2 of 2 is not finite"),
        (b"red 1 2\n\xff\xfe 1 2\n", ":2: not UTF-8"),
        (b"3 2\nred 1 2\nblue 1 2\n", "got 2 vectors, expected 3"),
        (b"1 2\n", "got 0 vectors, expected 1"),
    ],
)
def test_a_bad_file_is_named_with_its_line(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "vectors.txt"
    path.write_bytes(content)
    with pytest.raises(DataLineInvalid) as caught:
        read_word_vectors(path, words=())
    assert str(path) in caught.value.message
    assert said in caught.value.message


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nothing\.txt: cannot be read"):
        read_word_vectors(tmp_path / "nothing.txt", words=())


def test_unequal_sets_are_refused(vectors: WordVectors) -> None:
    with pytest.raises(UsageError, match="got 1 for 2 responses"):
        embedding_similarities(["a"], responses=["a", "b"], vectors=vectors)
