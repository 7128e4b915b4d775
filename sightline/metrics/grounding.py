"""Whether a reply states the fact that a picture shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from sightline.errors import UsageError
from sightline.metrics.words import bare_words


class Gradable(Protocol):
    """What a question must have to be graded; `sightline.data.questions.QuestionRecord` has it."""

    @property
    def answer(self) -> str:
        """The one right word."""

    @property
    def choices(self) -> tuple[str, ...]:
        """Every value that the fact can have."""

    @property
    def fact(self) -> str:
        """What is asked for."""


@dataclass(frozen=True, kw_only=True)
class GroundedAccuracy:
    """Shares of right answers."""

    overall: float
    by_fact: dict[str, float]
    num_questions: int


def grade_answer(text: str, question: Gradable) -> bool:
    """True if `text` has the answer as a whole word, in any case, and no rival value of the same fact."""
    said = bare_words(text)
    named = {choice for choice in question.choices if choice.casefold() in said}
    return named == {question.answer}


def accuracy(is_right: Sequence[bool]) -> float:
    """The share of True. Raises UsageError for an empty sequence."""
    if not is_right:
        raise UsageError("answers: got none, expected at least one")
    return sum(is_right) / len(is_right)


def grounded_accuracy(texts: Sequence[str], *, questions: Sequence[Gradable]) -> GroundedAccuracy:
    """The share of questions that the texts, in the same order, answer rightly; overall and for each fact.

    Raises UsageError if the counts differ or there is no question.
    """
    if len(texts) != len(questions):
        raise UsageError(f"answers: got {len(texts)} for {len(questions)} questions")
    is_right = [grade_answer(text, question) for text, question in zip(texts, questions, strict=True)]
    facts = sorted({question.fact for question in questions})
    by_fact = {
        fact: accuracy([right for right, question in zip(is_right, questions, strict=True) if question.fact == fact])
        for fact in facts
    }
    return GroundedAccuracy(overall=accuracy(is_right), by_fact=by_fact, num_questions=len(questions))
