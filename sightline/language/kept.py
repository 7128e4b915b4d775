"""What models answered, kept by a digest of what they were asked: in memory, and in a file where one is given.

Hosted models drift: who measures with one keeps its answers, and measures the same again without asking.
"""

from __future__ import annotations

import json
import os
import threading
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sightline.errors import DataLineInvalid
from sightline.language.asking import Problem

MAX_ITEMS = 100_000
"""Answers in memory; the one asked for least recently goes first. A file keeps all."""


class KeptAnswers:
    """Texts and refusals by key; for concurrent use by threads, and of one file by several processes."""

    def __init__(self, path: Path | None = None, *, max_items: int = MAX_ITEMS) -> None:
        """Reads what `path` holds; a line that was torn off is no answer. Raises DataLineInvalid for other files."""
        self._path, self._max_items = path, max_items
        self._found: OrderedDict[str, str | Problem] = OrderedDict()
        self._lock = threading.Lock()
        for key, result in _read(path).items():
            self._remember(key, result)

    def get(self, key: str) -> str | Problem | None:
        """What was kept under `key`; None for nothing."""
        with self._lock:
            if key in self._found:
                self._found.move_to_end(key)
            return self._found.get(key)

    def put(self, key: str, result: str | Problem, *, about: Mapping[str, Any]) -> None:
        """Keep an answer or a refusal; `about` (JSON values) stands beside it in the file, for people."""
        with self._lock:
            self._remember(key, result)
            if self._path is not None:
                _append(self._path, {"key": key, **_row(result), **about})

    def _remember(self, key: str, result: str | Problem) -> None:
        self._found[key] = result
        while len(self._found) > self._max_items:
            self._found.popitem(last=False)


def _row(result: str | Problem) -> dict[str, Any]:
    if isinstance(result, str):
        return {"text": result}
    return {"problem": {"reason": result.reason, "detail": result.detail}}


def _read(path: Path | None) -> dict[str, str | Problem]:
    if path is None or not path.exists():
        return {}
    text = path.read_text(encoding="utf-8", errors="replace")
    if text and not text.endswith("\n"):
        _write(path, b"\n")
    rows = (_parsed(line, where=f"{path}: line {number}") for number, line in enumerate(text.split("\n"), start=1))
    return dict(row for row in rows if row is not None)


def _parsed(line: str, *, where: str) -> tuple[str, str | Problem] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None  # Torn off, or empty: whoever was killed there asks again.
    try:
        result = row["text"] if "text" in row else Problem(is_failure=True, **row["problem"])
        return str(row["key"]), result
    except (KeyError, TypeError) as error:
        raise DataLineInvalid(f"{where}: is no kept answer: {error}") from error


def _append(path: Path, row: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, (json.dumps(row, ensure_ascii=False) + "\n").encode())


def _write(path: Path, data: bytes) -> None:
    """One write at the end of the file, so that lines of several processes stay whole."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(file, data)
    finally:
        os.close(file)
