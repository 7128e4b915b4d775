"""`questions.jsonl`: dialogues that end in a question whose answer stands in pictures, and what grades it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sightline.data.lines import SkipReport, read_lines, text_field, texts_field, write_lines


@dataclass(frozen=True, kw_only=True)
class QuestionRecord:
    """A question about one fact of one subject."""

    id: str
    context: tuple[str, ...]
    """Turns, oldest first; the last one asks."""
    fact: str
    """What is asked for, such as 'colour' or 'place'."""
    answer: str
    """The one right word."""
    choices: tuple[str, ...]
    """Every value that the fact can have, the answer among them: an answer must name no rival."""
    subject: str
    relevant_image_ids: tuple[str, ...]
    """All pictures of the pool that show the subject."""


def read_questions(path: Path, *, skip_bad: bool = False, report: SkipReport | None = None) -> list[QuestionRecord]:
    """The questions of a JSONL file in file order.

    Raises DataLineInvalid naming file and line; with `skip_bad` such lines are
    counted in `report`, else logged.
    """
    return read_lines(path, parse=_parse, skip_bad=skip_bad, report=report)


def write_questions(path: Path, records: Iterable[QuestionRecord]) -> int:
    """The number of questions written to a JSONL file."""
    return write_lines(path, (asdict(record) for record in records))


def _parse(row: Mapping[str, Any]) -> QuestionRecord:
    answer, choices = text_field(row, "answer"), texts_field(row, "choices")
    if answer not in choices:
        raise ValueError(f"answer: got {answer!r}, expected one of {', '.join(choices)}")
    return QuestionRecord(
        id=text_field(row, "id"),
        context=texts_field(row, "context"),
        fact=text_field(row, "fact"),
        answer=answer,
        choices=choices,
        subject=text_field(row, "subject"),
        relevant_image_ids=texts_field(row, "relevant_image_ids"),
    )
