"""One JSON array of objects, read item by item: a file of millions of dialogues is never in memory as a whole."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO, TypeVar

from sightline.data.lines import SkipReport, checked_object, collect
from sightline.errors import DataLineInvalid, UsageError

RecordT = TypeVar("RecordT")

_CHUNK = 1 << 20
"""Characters read at a time."""
_CUT_SHORT = 16
"""An error this close to the end of what was read may be an item cut in two, and more text may mend it."""
_BLANK = " \t\r\n"


def read_array(
    path: Path,
    *,
    parse: Callable[[Mapping[str, Any]], RecordT],
    skip_bad: bool = False,
    report: SkipReport | None = None,
) -> list[RecordT]:
    """The records of a file that is one JSON array of objects, in file order; `parse` raises ValueError for a bad one.

    Raises DataLineInvalid naming file and position from 1, unless `skip_bad`,
    which counts the item in `report`. What is not JSON at all is named by line
    and never skipped: nothing after it can be told apart.
    """
    return collect(iter_array(path), parse=lambda item: parse(checked_object(item)), skip_bad=skip_bad, report=report)


def iter_array(path: Path, *, chunk: int = _CHUNK) -> Iterator[tuple[str, Any]]:
    """(where, item) of each item of a JSON array, holding one item and some `chunk` characters at a time.

    Raises DataLineInvalid naming the line of what is not JSON or not UTF-8,
    UsageError if the file cannot be read.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            yield from _Scanner(path, file, chunk=chunk).items()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}", path=path) from error
    except UnicodeDecodeError as error:
        raise DataLineInvalid(f"{path}:{_line_that_is_not_utf8(path)}: not UTF-8: {error.reason}") from error


class _Scanner:
    """The text of an array, of which only the part around the reading position is held."""

    def __init__(self, path: Path, file: TextIO, *, chunk: int) -> None:
        self._path, self._file, self._chunk = path, file, chunk
        self._text, self._at, self._lines_gone, self._is_over = "", 0, 0, False
        self._decoder = json.JSONDecoder()

    def items(self) -> Iterator[tuple[str, Any]]:
        if (first := self._next_mark()) != "[":
            raise DataLineInvalid(f"{self._path}: expected one JSON array, got {first!r} at its start")
        number, mark = 0, self._step()
        while mark != "]":
            number += 1
            yield f"{self._path}: item {number}", self._value()
            if (mark := self._next_mark()) not in {",", "]"}:
                raise self._broken("expected ',' or ']' after an item")
            if mark == ",":
                self._at += 1
        self._at += 1
        if self._next_mark():
            raise self._broken("text after the end of the array")

    def _step(self) -> str:
        """The mark behind the one at the reading position."""
        self._at += 1
        return self._next_mark()

    def _next_mark(self) -> str:
        """The next character that is not blank, unread; '' at the end of the file."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in _BLANK:
                self._at += 1
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._read_on():
                return ""

    def _value(self) -> Any:
        self._next_mark()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                behind = error.pos - self._at
                if not self._may_be_cut(error) or not self._read_on():
                    raise self._broken(error.msg, at=self._at + behind) from error
                continue
            except (ValueError, RecursionError) as error:  # a number of thousands of digits; lists in lists in lists
                raise self._broken(str(error)) from error
            # A bare number that ends where the text ends may go on.
            if end < len(self._text) or not self._read_on():
                self._at = end
                return value

    def _may_be_cut(self, error: json.JSONDecodeError) -> bool:
        return error.msg.startswith("Unterminated string") or error.pos >= len(self._text) - _CUT_SHORT

    def _read_on(self) -> bool:
        """Drop what was read, hold at least twice what is left; False at the end of the file."""
        self._lines_gone += self._text.count("\n", 0, self._at)
        left = self._text[self._at :]
        more = "" if self._is_over else self._file.read(max(self._chunk, len(left)))
        self._text, self._at, self._is_over = left + more, 0, not more
        return bool(more)

    def _broken(self, why: str, *, at: int | None = None) -> DataLineInvalid:
        line = self._lines_gone + self._text.count("\n", 0, self._at if at is None else at) + 1
        return DataLineInvalid(f"{self._path}:{line}: not JSON: {why}")


def _line_that_is_not_utf8(path: Path) -> int:
    """Its number from 1, found by reading the file once more: text is decoded ahead of the lines that are counted."""
    with path.open("rb") as file:
        return next((number for number, line in enumerate(file, start=1) if not _is_utf8(line)), 0)


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True
