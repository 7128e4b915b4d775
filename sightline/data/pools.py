"""A pool of pictures: a folder, or a JSONL of {"image_id", "path"} with paths relative to the file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from sightline.data.lines import SkipReport, picture_field, read_lines, relative_path, text_field, write_lines
from sightline.data.pictures import PICTURE_SUFFIXES
from sightline.errors import UsageError


class Span(NamedTuple):
    """Part of a file, in bytes."""

    start: int
    length: int


@dataclass(frozen=True, kw_only=True)
class PoolImage:
    """One picture of a pool; its id is unique in the pool."""

    image_id: str
    path: Path
    span: Span | None = None
    """Where in `path`, a tar, the picture's bytes lie; None for the whole file."""

    def read_bytes(self) -> bytes:
        """The encoded picture. Raises OSError if it cannot be read."""
        if self.span is None:
            return self.path.read_bytes()
        with self.path.open("rb") as file:
            file.seek(self.span.start)
            return file.read(self.span.length)


def unpacked(image: PoolImage) -> Path:
    """The picture's own file. Raises UsageError if it lies inside a tar."""
    if image.span is not None:
        raise UsageError(f"picture {image.image_id} lies inside {image.path}; unpack the tar to name it in a file")
    return image.path


def read_pool(folder_or_jsonl: Path, *, skip_bad: bool = False, report: SkipReport | None = None) -> list[PoolImage]:
    """The pictures of a folder and its subfolders, ordered by path, or of a JSONL in file order.

    In a folder the id is the path relative to it, with forward slashes. Raises
    UsageError for an empty folder, DataLineInvalid for a bad line, a missing
    picture or an id seen before.
    """
    if folder_or_jsonl.is_dir():
        return _read_folder(folder_or_jsonl)
    folder, seen = folder_or_jsonl.parent, set[str]()

    def parse(row: Mapping[str, Any]) -> PoolImage:
        image_id = text_field(row, "image_id")
        if image_id in seen:
            raise ValueError(f"image_id: {image_id!r} occurs twice in the pool")
        image = PoolImage(image_id=image_id, path=picture_field(row, "path", folder=folder))
        seen.add(image_id)
        return image

    return read_lines(folder_or_jsonl, parse=parse, skip_bad=skip_bad, report=report)


def write_pool(path: Path, images: Iterable[PoolImage]) -> int:
    """The number of pictures written to a JSONL pool."""
    return write_lines(path, (_row(image, folder=path.parent) for image in images))


def _read_folder(folder: Path) -> list[PoolImage]:
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURE_SUFFIXES and path.is_file())
    if not paths:
        raise UsageError(f"{folder}: holds no picture ({', '.join(sorted(PICTURE_SUFFIXES))})", path=folder)
    return [PoolImage(image_id=path.relative_to(folder).as_posix(), path=path) for path in paths]


def _row(image: PoolImage, *, folder: Path) -> dict[str, str]:
    return {"image_id": image.image_id, "path": relative_path(unpacked(image), folder=folder)}
