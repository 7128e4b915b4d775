"""`triplets.jsonl`: {"reference_id", "text", "target_ids": [..]}, a picture and a sentence that ask for others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sightline.data.lines import SkipReport, read_lines, text_field, texts_field, write_lines

COMPOSED_FOLDER = "composed"
"""Where queries, galleries and edits lie, below the folder of the captions and pictures that towers learn from."""


@dataclass(frozen=True, kw_only=True)
class TripletRecord:
    """A composed query with every right answer."""

    reference_id: str
    text: str
    """What the target has that the reference has not, such as 'the same but at night'."""
    target_ids: tuple[str, ...]
    """All pictures of the gallery that answer the query; at least one."""


def read_triplets(path: Path, *, skip_bad: bool = False, report: SkipReport | None = None) -> list[TripletRecord]:
    """The composed queries of a JSONL file in file order.

    Raises DataLineInvalid naming file and line; with `skip_bad` such lines are
    counted in `report`, else logged.
    """
    return read_lines(path, parse=_parse, skip_bad=skip_bad, report=report)


def write_triplets(path: Path, records: Iterable[TripletRecord]) -> int:
    """The number of composed queries written to a JSONL file."""
    return write_lines(path, (_row(record) for record in records))


def _parse(row: Mapping[str, Any]) -> TripletRecord:
    return TripletRecord(
        reference_id=text_field(row, "reference_id"),
        text=text_field(row, "text"),
        target_ids=texts_field(row, "target_ids"),
    )


def _row(record: TripletRecord) -> dict[str, Any]:
    return {"reference_id": record.reference_id, "text": record.text, "target_ids": list(record.target_ids)}
