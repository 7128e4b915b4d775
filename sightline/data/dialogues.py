"""Dialogues: `dialogues.jsonl` of {"id", "context": [..], "response", "image_id"?}, Reddit's array, and queries."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sightline.data.arrays import read_array
from sightline.data.lines import SkipReport, read_lines, text_field, turns_field, write_lines

MAX_QUERY_WORDS = 40
"""Newest words of a dialogue that make its query."""


@dataclass(frozen=True, kw_only=True)
class DialogueRecord:
    """Turns of a conversation and the reply that followed them."""

    id: str
    context: tuple[str, ...]
    """Turns, oldest first; none if the response opens the dialogue, which then asks for no picture."""
    response: str
    image_id: str | None = None
    """The picture that the dialogue is about; None for a text-only dialogue."""


def query_text(turns: Sequence[str]) -> str:
    """The one text by which pictures are searched for a dialogue: its turns, oldest first, joined by a space.

    Only what was said before the reply goes in, never the reply. Of a long
    dialogue the newest 40 words are kept: text towers read some 77 tokens and
    cut the end, which is where the question stands.
    """
    return " ".join(_words(turns)[-MAX_QUERY_WORDS:])


def dialogue_text(turns: Sequence[str]) -> str:
    """The one text that a generator reads of a dialogue: all its turns, oldest first, joined by a space.

    Whoever reads it cuts it to the tokens that the model takes, and keeps the
    newest. Of 40 words or fewer it is `query_text`.
    """
    return " ".join(_words(turns))


def read_dialogues(path: Path, *, skip_bad: bool = False, report: SkipReport | None = None) -> list[DialogueRecord]:
    """The dialogues of a JSONL file in file order.

    Raises DataLineInvalid naming file and line; with `skip_bad` such lines are
    counted in `report`, else logged.
    """
    return read_lines(path, parse=_parse, skip_bad=skip_bad, report=report)


def write_dialogues(path: Path, records: Iterable[DialogueRecord]) -> int:
    """The number of dialogues written to a JSONL file."""
    return write_lines(path, (_row(record) for record in records))


def read_reddit(path: Path, *, skip_bad: bool = False, report: SkipReport | None = None) -> list[DialogueRecord]:
    """The dialogues of a Reddit conversation file: one JSON array of {"context": [..], "response"}, read item by item.

    Ids are the file's name and the record's position from 1. Raises
    DataLineInvalid naming file, item and field.
    """
    return numbered(read_array(path, parse=_parse_reddit, skip_bad=skip_bad, report=report), stem=path.stem)


def numbered(records: Sequence[DialogueRecord], *, stem: str) -> list[DialogueRecord]:
    """The records with ids of the file's name and their position from 1."""
    return [replace(record, id=f"{stem}-{number}") for number, record in enumerate(records, start=1)]


def _words(turns: Sequence[str]) -> list[str]:
    return [word for turn in turns for word in turn.split()]


def _parse(row: Mapping[str, Any]) -> DialogueRecord:
    return DialogueRecord(
        id=text_field(row, "id"),
        context=turns_field(row, "context"),
        response=text_field(row, "response"),
        image_id=None if row.get("image_id") is None else text_field(row, "image_id"),
    )


def _row(record: DialogueRecord) -> dict[str, Any]:
    row: dict[str, Any] = {"id": record.id, "context": list(record.context), "response": record.response}
    return row if record.image_id is None else {**row, "image_id": record.image_id}


def _parse_reddit(row: Mapping[str, Any]) -> DialogueRecord:
    return DialogueRecord(id="", context=turns_field(row, "context"), response=text_field(row, "response"))
