"""Annotation files of benchmarks, read with suspicion: an error names file, record and key."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from sightline.data.lines import checked_object, collect, read_json
from sightline.data.pools import PoolImage
from sightline.errors import DataLineInvalid, UsageError
from trainer.benchmarks.protocol import Picture, Task

RecordT = TypeVar("RecordT")
_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class Files:
    """Where the files of a benchmark lie, and which of them to read how."""

    annotations: Path
    """The annotation file, or a folder laid out as the benchmark publishes it or flat."""
    images: Path
    """The folder of pictures; for composed queries of your own a pool, too."""
    split: str
    """val, or test where the answers are hidden."""
    caption_mode: str = ""
    """How captions become texts where a benchmark knows several ways; empty takes the published one."""


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How much a published split holds."""

    num_queries: int
    gallery_size: int


def is_folder(path: Path) -> bool:
    """Whether `path` is, or is named like, a folder: an absent one is searched, so that the error says for what."""
    return path.is_dir() or path.suffix != ".json"


def found(folder: Path, names: Sequence[str]) -> Path:
    """The first of `names` that is a file below `folder`. Raises UsageError listing where it was looked for."""
    paths = [folder / name for name in names]
    for path in paths:
        if path.is_file():
            return path
    raise UsageError(f"annotations: none of {', '.join(map(str, paths))} is there", path=paths[0])


def records(path: Path, *, parse: Callable[[Mapping[str, Any]], RecordT]) -> list[RecordT]:
    """The records of a JSON list in file order. Raises DataLineInvalid naming file, record and key."""
    rows = read_json(path)
    if not isinstance(rows, list) or not rows:
        raise DataLineInvalid(f"{path}: got {type(rows).__name__}, expected a list of at least one record")
    items = ((f"{path}: record {number}", row) for number, row in enumerate(rows))
    return collect(items, parse=lambda row: parse(checked_object(row)), skip_bad=False, report=None)


def value_of(row: Mapping[str, Any], key: str) -> Any:
    """The value of a key. Raises ValueError naming the key and those that are there."""
    if key not in row:
        raise ValueError(f"{key}: is missing; the record has {', '.join(row) or 'no key'}")
    return row[key]


def whole(row: Mapping[str, Any], key: str) -> int:
    """The whole number, at least 0, of a key. Raises ValueError naming the key."""
    return _checked_whole(value_of(row, key), key=key)


def wholes(row: Mapping[str, Any], key: str) -> tuple[int, ...]:
    """The non-empty list of different whole numbers of a key. Raises ValueError naming the key."""
    return different([_checked_whole(value, key=key) for value in _listed(row, key)], key=key)


def words(row: Mapping[str, Any], key: str) -> str:
    """The text of a key, not blank. Raises ValueError naming the key."""
    return _checked_text(value_of(row, key), key=key)


def said(row: Mapping[str, Any], key: str) -> str:
    """The text of a key as it is, blank or not: CIRR's test asks one query with a blank. Raises ValueError."""
    value = value_of(row, key)
    if not isinstance(value, str):
        raise ValueError(f"{key}: got {value!r:.60}, expected a text")
    return value


def names(row: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """The non-empty list of different texts of a key. Raises ValueError naming the key."""
    return different([_checked_text(value, key=key) for value in _listed(row, key)], key=key)


def absent(row: Mapping[str, Any], key: str, *, split: str) -> None:
    """Raise ValueError if a key is there that the split hides: the file is that of another split."""
    if key in row:
        raise ValueError(f"{key}: is there, but {split} hides it; is this the file of another split?")


def different(values: Sequence[RecordT], *, key: str) -> tuple[RecordT, ...]:
    """`values`. Raises ValueError naming one that occurs twice."""
    (value, count), *_ = Counter(values).most_common(1)
    if count > 1:
        raise ValueError(f"{key}: {value!r} occurs {count} times")
    return tuple(values)


def known(image_id: str, *, key: str, among: Collection[str], where: Path | str) -> str:
    """`image_id`. Raises ValueError if it is none of a gallery, which `where` describes."""
    if image_id not in among:
        raise ValueError(f"{key}: picture {image_id!r} is not in the gallery of {where}")
    return image_id


def located(folder: Path, candidates: Sequence[str], *, image_id: str) -> Picture:
    """The picture at the first candidate below `folder` that is a file, else at the first, where it is missed."""
    paths = [folder / candidate for candidate in candidates]
    # os.path: a name that is too long for any file is one that is not there.
    path = next((path for path in paths if os.path.isfile(path)), paths[0])
    return Picture(image=PoolImage(image_id=image_id, path=path))


def subfolder(folder: Path, candidates: Iterable[str]) -> Path:
    """The first candidate that is a folder below `folder`, else `folder`."""
    return next((folder / name for name in candidates if (folder / name).is_dir()), folder)


def check_ids(path: Path, query_ids: Iterable[str], *, key: str) -> None:
    """Raise DataLineInvalid if two records have one id."""
    seen: dict[str, int] = {}
    for number, query_id in enumerate(query_ids):
        if query_id in seen:
            first = seen[query_id]
            raise DataLineInvalid(f"{path}: record {number}: {key}: {query_id} is that of record {first}, too")
        seen[query_id] = number


def is_published(task: Task, *, counts: Counts | None, source: Path) -> bool:
    """Whether queries and gallery are as many as in the published split.

    Raises UsageError if one is and the other is not: a smaller gallery inflates
    every score, and a lost record changes it.
    """
    if counts is None:
        return False
    got = (len(task.queries), len(task.gallery))
    expected = (counts.num_queries, counts.gallery_size)
    if (got[0] == expected[0]) != (got[1] == expected[1]):
        raise UsageError(
            f"{source}: got {got[0]} queries over a gallery of {got[1]}, published are {expected[0]} over {expected[1]}"
        )
    return got == expected


def sha256_of(path: Path) -> str:
    """The digest of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def listed(values: Sequence[str], *, limit: int = _SHOWN) -> str:
    """The first few of `values`, and how many more there are."""
    more = f", and {len(values) - limit} more" if len(values) > limit else ""
    return f"{', '.join(values[:limit])}{more}"


def _listed(row: Mapping[str, Any], key: str) -> list[Any]:
    value = value_of(row, key)
    if not isinstance(value, list) or not value:
        raise ValueError(f"{key}: got {value!r:.60}, expected a list that is not empty")
    return value


def _checked_whole(value: Any, *, key: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{key}: got {value!r:.60}, expected a whole number, at least 0")
    return value


def _checked_text(value: Any, *, key: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{key}: got {value!r:.60}, expected a text that is not blank")
    return value
