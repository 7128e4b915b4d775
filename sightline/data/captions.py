"""`captions.jsonl`: {"image_id", "path", "caption"}, several lines a picture allowed; paths relative to the file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sightline.data.lines import SkipReport, picture_field, read_lines, relative_path, text_field, write_lines
from sightline.data.pools import PoolImage, Span, unpacked


@dataclass(frozen=True, kw_only=True)
class CaptionRecord:
    """One caption of one picture."""

    image_id: str
    path: Path
    """The picture, or the tar that holds it; exists when the record was read."""
    caption: str
    span: Span | None = None
    """Where in `path` the picture's bytes lie; None for the whole file."""

    @property
    def image(self) -> PoolImage:
        """The picture alone."""
        return PoolImage(image_id=self.image_id, path=self.path, span=self.span)


def read_captions(path: Path, *, skip_bad: bool = False, report: SkipReport | None = None) -> list[CaptionRecord]:
    """The captions of a JSONL file in file order.

    Raises DataLineInvalid naming file and line, and the picture if it is
    missing; with `skip_bad` such lines are counted in `report`, else logged.
    """
    return read_lines(path, parse=partial(_parse, folder=path.parent), skip_bad=skip_bad, report=report)


def write_captions(path: Path, records: Iterable[CaptionRecord]) -> int:
    """The number of captions written to a JSONL file. Raises UsageError for a picture inside a tar."""
    return write_lines(path, (_row(record, folder=path.parent) for record in records))


def _parse(row: Mapping[str, Any], *, folder: Path) -> CaptionRecord:
    return CaptionRecord(
        image_id=text_field(row, "image_id"),
        caption=text_field(row, "caption"),
        path=picture_field(row, "path", folder=folder),
    )


def _row(record: CaptionRecord, *, folder: Path) -> dict[str, str]:
    where = relative_path(unpacked(record.image), folder=folder)
    return {"image_id": record.image_id, "path": where, "caption": record.caption}
