"""Grading replies: the right word and no rival."""

from __future__ import annotations

import pytest

from sightline.data.questions import QuestionRecord
from sightline.errors import UsageError
from sightline.metrics import accuracy, distinct_n, grade_answer, grounded_accuracy


def question(answer: str = "red", fact: str = "colour") -> QuestionRecord:
    choices = ("red", "orange", "green") if fact == "colour" else ("beach", "park")
    return QuestionRecord(
        id="q", context=("?",), fact=fact, answer=answer, choices=choices, subject="juno", relevant_image_ids=("p",)
    )


@pytest.mark.parametrize("text", ["juno is red.", "RED", "it is red, red!", "red-ish", "a red boat in the park"])
def test_answer_word_is_right(text: str) -> None:
    assert grade_answer(text, question())


@pytest.mark.parametrize("text", ["", "juno is green.", "red or green", "hundred", "reddish", "orange", "juno"])
def test_missing_answer_or_rival_is_wrong(text: str) -> None:
    assert not grade_answer(text, question())


def test_values_of_another_fact_are_no_rivals() -> None:
    assert grade_answer("the red one lives at the beach", question("beach", "place"))


def test_accuracy_is_told_for_each_fact() -> None:
    asked = [question(), question(), question("beach", "place")]
    scores = grounded_accuracy(["red", "green", "at the beach"], questions=asked)
    assert scores.by_fact == {"colour": 0.5, "place": 1.0}
    assert scores.overall == pytest.approx(2 / 3)
    assert scores.num_questions == 3


def test_answers_must_match_questions() -> None:
    with pytest.raises(UsageError, match="got 1 for 2 questions"):
        grounded_accuracy(["red"], questions=[question(), question()])
    with pytest.raises(UsageError, match="got none"):
        accuracy([])


def test_distinct_n_counts_within_texts() -> None:
    assert distinct_n(["a b a", "A b"], n=1) == 2 / 5
    assert distinct_n(["a b a", "a b"], n=2) == 2 / 3
    assert distinct_n(["a"], n=2) == 0
    with pytest.raises(UsageError, match="limit 1"):
        distinct_n(["a"], n=0)
