"""Chats from two public corpora as dialogue records: ChatterBot's YAML and Topical-Chat's JSON."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import yaml

from sightline.data.dialogues import DialogueRecord
from sightline.data.lines import SkipReport, read_json
from sightline.errors import UsageError

MAX_TURNS = 3
"""Newest turns that make a context."""
MAX_WORDS = 30
"""Longest reply: a small decoder learns short ones."""


def read_chats(folder: Path, *, report: SkipReport) -> list[DialogueRecord]:
    """Every reply in a folder of `*.yml` (ChatterBot) or `*.json` (Topical-Chat) with the turns before it.

    Ids begin with file and conversation. Replies over 30 words and turns that
    are no text are counted in `report`. Raises UsageError if there is no such
    file.
    """
    records: list[DialogueRecord] = []
    for name, turns in _conversations(folder):
        records += _replies(name, turns, report=report)
    if not records:
        raise UsageError(f"{folder}: holds no conversation in *.yml or *.json")
    report.num_read += len(records)
    return records


def is_validation(record: DialogueRecord) -> bool:
    """True for one context in ten, whichever conversations it occurs in."""
    text = "\n".join(record.context).casefold()
    return int(hashlib.sha256(text.encode()).hexdigest(), 16) % 10 == 0


def _conversations(folder: Path) -> Iterator[tuple[str, list[object]]]:
    for path in sorted(folder.glob("*.yml")):
        # BaseLoader keeps every scalar a text: 'yes' and '42' are turns, not a truth and a number.
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
        for number, turns in enumerate(content["conversations"], start=1):
            yield f"{path.stem}-{number}", list(turns)
    for path in sorted(folder.glob("*.json")):
        for number, conversation in enumerate(read_json(path).values(), start=1):
            yield f"{path.stem}-{number}", [turn["message"] for turn in conversation["content"]]


def _replies(name: str, turns: list[object], *, report: SkipReport) -> Iterator[DialogueRecord]:
    texts = [" ".join(turn.split()) if isinstance(turn, str) else "" for turn in turns]
    for at in range(1, len(texts)):
        context, response = tuple(texts[max(0, at - MAX_TURNS) : at]), texts[at]
        if not response or not all(context):
            report.skipped.append(f"{name}: turn {at + 1} or one before it is no text")
        elif len(response.split()) > MAX_WORDS:
            report.skipped.append(f"{name}: turn {at + 1} has {len(response.split())} words, limit {MAX_WORDS}")
        else:
            yield DialogueRecord(id=f"{name}-{at}", context=context, response=response)
