"""JSON Lines: objects in, checked fields out; a bad line is named by file and number, never dropped in silence."""

from __future__ import annotations

import json
import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from sightline.errors import DataLineInvalid, UsageError

RecordT = TypeVar("RecordT")
_HALVES = re.compile(rb"\\u[dD][89a-fA-F]")
"""Escapes of UTF-16's surrogates: in pairs they are letters, alone none."""
_NEAR = 20
_log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class SkipReport:
    """What a reader left out. Pass one in to show it to people; without one the reader logs a warning."""

    num_read: int = 0
    """Lines that became records."""
    skipped: list[str] = field(default_factory=list)
    """One message per line left out, each naming file and line."""

    def summary(self) -> str:
        """'skipped 2 of 10 lines; first: ...', or 'skipped 0 of 10 lines'."""
        total = self.num_read + len(self.skipped)
        first = f"; first: {self.skipped[0]}" if self.skipped else ""
        return f"skipped {len(self.skipped)} of {total} lines{first}"


def read_lines(
    path: Path,
    *,
    parse: Callable[[Mapping[str, Any]], RecordT],
    skip_bad: bool = False,
    report: SkipReport | None = None,
) -> list[RecordT]:
    """The records of a JSONL file in file order; `parse` raises ValueError for a bad object. Blank lines do not count.

    Raises DataLineInvalid naming file and line, unless `skip_bad`, which counts
    the line in `report`. Raises UsageError if the file cannot be read.
    """
    numbered = enumerate(read_bytes(path).split(b"\n"), start=1)
    items = ((f"{path}:{number}", line) for number, line in numbered if line.strip())
    return collect(items, parse=lambda line: parse(object_in(line)), skip_bad=skip_bad, report=report)


def collect(
    items: Iterable[tuple[str, Any]],
    *,
    parse: Callable[[Any], RecordT],
    skip_bad: bool,
    report: SkipReport | None,
) -> list[RecordT]:
    """`parse` of every (where, item); ValueError becomes DataLineInvalid at `where`, or is counted if `skip_bad`."""
    kept: list[RecordT] = []
    told = SkipReport() if report is None else report
    before = len(told.skipped)
    for where, item in items:
        try:
            kept.append(parse(item))
        except ValueError as error:
            if not skip_bad:
                raise DataLineInvalid(f"{where}: {error}") from error
            told.skipped.append(f"{where}: {error}")
    told.num_read += len(kept)
    if report is None and len(told.skipped) > before:
        _log.warning("%s", told.summary())
    return kept


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """The number of objects written to `path`, one a line, UTF-8, keys in the order given. Makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_bytes("".join(f"{line}\n" for line in lines).encode())
    return len(lines)


def read_json(path: Path) -> Any:
    """The value of a whole JSON file. Raises DataLineInvalid naming file and line, UsageError if it cannot be read.

    An object that names a key twice is refused: the first value would be lost.
    """
    data = read_bytes(path)
    try:
        return _whole(json.loads(data.decode(), object_pairs_hook=_distinct), source=data)
    except _Refused as error:
        raise DataLineInvalid(f"{path}: {error}") from error
    except json.JSONDecodeError as error:
        raise DataLineInvalid(f"{path}:{error.lineno}: not JSON: {error.msg}") from error
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataLineInvalid(f"{path}:{line}: not UTF-8: {error.reason}") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, or lists in lists in lists
        raise DataLineInvalid(f"{path}: not JSON: {error}") from error


def write_json(path: Path, value: Any) -> None:
    """Write one JSON value to `path`, UTF-8, a line for each item of its lists and objects. Makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(json.dumps(value, indent=1, ensure_ascii=False).encode())


def read_bytes(path: Path) -> bytes:
    """The bytes of a data file. Raises UsageError naming the file if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}", path=path) from error


def text_field(row: Mapping[str, Any], name: str) -> str:
    """The non-blank text of a field. Raises ValueError naming the field."""
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name}: got {_shown(value)}, expected a text that is not blank")
    return _encodable(value, name=name)


def texts_field(row: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """The non-empty list of non-blank texts of a field. Raises ValueError naming the field."""
    value = row.get(name)
    is_texts = isinstance(value, list) and value and all(isinstance(item, str) and item.strip() for item in value)
    if not is_texts:
        raise ValueError(f"{name}: got {_shown(value)}, expected a list of texts that are not blank")
    return tuple(_encodable(text, name=name) for text in value or ())


def turns_field(row: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """The list of non-blank texts of a field, which may be empty: a dialogue that nobody opened. Raises ValueError."""
    return () if row.get(name) == [] else texts_field(row, name)


def object_in(line: bytes) -> Mapping[str, Any]:
    """The JSON object that a line is. Raises ValueError saying what it is instead."""
    try:
        return checked_object(_whole(json.loads(line.decode()), source=line))
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at column {error.colno}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: {error.reason} at byte {error.start} of the line") from error
    except RecursionError as error:
        raise ValueError(f"not JSON: {error}") from error


def checked_object(value: Any) -> Mapping[str, Any]:
    """`value` if it is a JSON object. Raises ValueError showing what it is instead."""
    if not isinstance(value, dict):
        raise ValueError(f"got {_shown(value)}, expected a JSON object")
    return value


def picture_field(row: Mapping[str, Any], name: str, *, folder: Path) -> Path:
    """The path of an existing picture, relative to `folder` in the file. Raises ValueError naming the missing file."""
    path = folder / text_field(row, name)
    if not os.path.isfile(path):
        raise ValueError(f"{name}: picture {path} does not exist")
    return path


def relative_path(path: Path, *, folder: Path) -> str:
    """`path` as written in a JSONL file in `folder`: relative with forward slashes, absolute only if outside it."""
    try:
        return path.resolve().relative_to(folder.resolve()).as_posix()
    except ValueError:
        return path.resolve().as_posix()


class _Refused(ValueError):
    """Valid JSON that loses something: a key that an object names twice, half of a letter."""


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        key, count = Counter(key for key, _ in pairs).most_common(1)[0]
        raise _Refused(f"{_shown(key)} is named {count} times in one object")
    return found


def _whole(value: Any, *, source: bytes) -> Any:
    """`value`, unless a text of it holds half of a pair of escapes, which no file, tokenizer or message can hold."""
    if not _HALVES.search(source):
        return value
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        near = error.object[max(0, error.start - _NEAR) : error.end + _NEAR]
        raise _Refused(f"holds half a letter, {error.object[error.start]!r}, in {near!r}") from error
    return value


def _encodable(text: str, *, name: str) -> str:
    """`text`, whose reader may not have come by `_whole`."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name}: got {_shown(text)}, which holds half a letter") from error
    return text


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
