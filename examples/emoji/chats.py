"""Chats from two public corpora as dialogue records: ChatterBot's YAML and Topical-Chat's JSON."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from sightline.data.dialogues import DialogueRecord
from sightline.data.lines import SkipReport, read_json
from sightline.errors import DataLineInvalid, UsageError

MAX_TURNS = 3
"""Newest turns that make a context."""
MAX_WORDS = 40
"""Longest reply: of Topical-Chat's, 19 in 20 are no longer."""


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """What two people said, in order."""

    file: str
    """The name of its file, without the ending."""
    number: int
    """Its place in the file, from 1."""
    turns: Sequence[object]
    """Texts, and whatever else stands where a text should."""

    @property
    def opening(self) -> str:
        """The first turn, in lower case."""
        return str(self.turns[0]).casefold().strip() if self.turns else ""


def read_chats(folder: Path, *, report: SkipReport) -> dict[str, list[DialogueRecord]]:
    """Every reply in a folder of `*.yml` (ChatterBot) or `*.json` (Topical-Chat) with the turns before it, by split.

    'train' and 'val' are always there; where the corpus comes split, each held-out
    file is there by its name, too, and 'val' is all of them. No conversation is
    in both. Replies over 40 words and turns that are no text are counted in
    `report`. Raises UsageError if there is no such file, DataLineInvalid for one
    that is built otherwise.
    """
    splits: dict[str, list[DialogueRecord]] = {"train": [], "val": []}
    conversations = list(_conversations(folder))
    held_out = _held_out_files(sorted({conversation.file for conversation in conversations}))
    for conversation in conversations:
        records = list(_replies(conversation, report=report))
        report.num_read += len(records)
        is_held_out = conversation.file in held_out if held_out else _is_held_out(conversation)
        splits["val" if is_held_out else "train"] += records
        if conversation.file in held_out:
            splits.setdefault(conversation.file, []).extend(records)
    if not report.num_read:
        raise UsageError(f"{folder}: holds no conversation in *.yml or *.json")
    return splits


def _held_out_files(names: Sequence[str]) -> set[str]:
    """The files that the corpus itself holds out: `valid*`, and `test*` beside a `train*`; none if it comes unsplit.

    Topical-Chat's `train.json` has to be built from the articles it talks about.
    Where it is not there, the test conversations are what is left to train on.
    """
    is_built = any(name.startswith("train") for name in names)
    held_out = {name for name in names if name.startswith(("valid", "test") if is_built else "valid")}
    return held_out if held_out != set(names) else set()


def _is_held_out(conversation: Conversation) -> bool:
    """True for one opening in ten, whichever conversations it opens."""
    return int(hashlib.sha256(conversation.opening.encode()).hexdigest(), 16) % 10 == 0


def _conversations(folder: Path) -> Iterator[Conversation]:
    for path in sorted(folder.glob("*.yml")):
        # BaseLoader keeps every scalar a text: 'yes' and '42' are turns, not a truth and a number.
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
        for number, turns in enumerate(content["conversations"], start=1):
            yield Conversation(file=path.stem, number=number, turns=list(turns))
    for path in sorted(folder.glob("*.json")):
        for number, content in enumerate(_topical(path).values(), start=1):
            yield Conversation(file=path.stem, number=number, turns=_messages(content, where=f"{path}: {number}"))


def _topical(path: Path) -> Mapping[str, object]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise DataLineInvalid(f"{path}: got {type(content).__name__}, expected an object of conversations")
    return content


def _messages(conversation: object, *, where: str) -> list[object]:
    turns = conversation.get("content") if isinstance(conversation, dict) else None
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise DataLineInvalid(f"{where}: content must be a list of objects with message")
    return [turn.get("message") for turn in turns]


def _replies(conversation: Conversation, *, report: SkipReport) -> Iterator[DialogueRecord]:
    name = f"{conversation.file}-{conversation.number}"
    texts = [" ".join(turn.split()) if isinstance(turn, str) else "" for turn in conversation.turns]
    for at in range(1, len(texts)):
        context, response = tuple(texts[max(0, at - MAX_TURNS) : at]), texts[at]
        if not response or not all(context):
            report.skipped.append(f"{name}: turn {at + 1} or one before it is no text")
        elif len(response.split()) > MAX_WORDS:
            report.skipped.append(f"{name}: turn {at + 1} has {len(response.split())} words, limit {MAX_WORDS}")
        else:
            yield DialogueRecord(id=f"{name}-{at}", context=context, response=response)
