"""Whether a reply states the fact that a picture shows, and how near it is to the picture. Axes: N pairs, D width."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from sightline.errors import UsageError
from sightline.metrics.words import bare_words

CLIP_SCORE_WEIGHT = 2.5
"""What stretches the cosines that CLIP gives to about 0 to 1."""


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


def states_any(text: str, *, values: Collection[str]) -> bool:
    """True if `text` has one of `values` as a whole word, in any case."""
    said = bare_words(text)
    return any(value.casefold() in said for value in values)


def invention_rate(texts: Sequence[str], *, values: Collection[str]) -> float:
    """The share of replies to unanswerable questions that state a fact all the same. Raises UsageError for no reply."""
    return accuracy([states_any(text, values=values) for text in texts])


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


def clip_scores(text_ND: npt.NDArray[np.floating], *, image_ND: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """CLIPScore [N] of each text with the picture of its row: 2.5 x the cosine, 0 where that is negative.

    Hessel et al. 2021 (arXiv 2104.08718). Vectors are those of one tower, of any
    length but 0; scores of different towers are not comparable, nor are ours
    with the paper's, which put "A photo depicts" before a caption: a reply is
    none. Raises UsageError if shapes differ or a vector is zero or not finite.
    """
    if text_ND.shape != image_ND.shape or text_ND.ndim != 2:
        raise UsageError(f"vectors: got shapes {text_ND.shape} and {image_ND.shape}, expected one [N, D]")
    text_ND, image_ND = text_ND.astype(np.float64), image_ND.astype(np.float64)
    length_N = np.linalg.norm(text_ND, axis=1) * np.linalg.norm(image_ND, axis=1)
    if not (np.isfinite(length_N) & (length_N > 0)).all():
        raise UsageError("vectors: some are zero or not finite")
    return CLIP_SCORE_WEIGHT * np.maximum((text_ND * image_ND).sum(axis=1) / length_N, 0.0)
