"""What a run wrote: triplets, refused answers and the card beside them. Appended, so that a kill loses nothing."""

from __future__ import annotations

import fcntl
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

from sightline.data.edits import EditGenerator, EditRecord, edit_row, read_edits
from sightline.data.lines import read_json, read_lines, text_field
from sightline.errors import UsageError
from sightline.language.answers import folded
from sightline.language.asking import Cost, Problem
from sightline.registry.contents import sync_file, write_durably
from trainer.triplets.asking import Ask, Pair, record_of

CARD_FORMAT = 1
REPEATED = "repeated"
_SYNC_EVERY = 64
"""Outcomes between two flushes to the disk, with the card: what a power cut may cost. A killed process loses none."""


class Ledger:
    """Three files of one run: `NAME.jsonl`, `NAME.rejected.jsonl` and `NAME.card.json`. One process, one thread.

    Opening one repairs a torn last line and takes up what stands there. Raises
    UsageError if another process writes it, another generator began it, or the
    card is missing; DataLineInvalid for a bad line. `about` must be the same in
    every run of a file, `notes` tells of the last one; both stand in the card.
    """

    def __init__(
        self, path: Path, *, name: EditGenerator, about: Mapping[str, Any], notes: Mapping[str, Any] | None = None
    ) -> None:
        if path.suffix != ".jsonl":
            raise UsageError(f"triplets: got {path}, expected a file name that ends in .jsonl")
        self.path, self._name = path, name
        self._about, self._notes = dict(about), dict(notes or {})
        self.rejected_path = path.with_suffix(".rejected.jsonl")
        self.card_path = path.with_suffix(".card.json")
        self.accepted, self.rejected = Counter[str](), Counter[str]()
        """By edit type."""
        self.reasons = Counter[str]()
        self.cost, self.unanswered = Cost(), 0
        self._done, self._pairs = set[str](), set[tuple[str, str]]()
        self._unsynced = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        # Whoever holds the first file holds both.
        self._files = (_opened(path), _opened(self.rejected_path))
        try:
            self._take_up()
            self.sync(is_complete=False)
        except BaseException:
            self.close()
            raise

    def is_done(self, ask: Ask) -> bool:
        """Whether an earlier run settled this ask."""
        return ask.key in self._done

    def settle(self, ask: Ask, result: Pair | Problem, *, cost: Cost) -> None:
        """Write what became of an ask, once. An ask that nobody answered stays open for the next run."""
        if self.is_done(ask):
            return
        self.cost += cost
        if isinstance(result, Problem) and not result.is_final:
            self.unanswered += 1
        elif isinstance(result, Problem):
            self._reject(ask, result)
        else:
            self._accept(ask, result)
        self._unsynced += 1
        if self._unsynced >= _SYNC_EVERY:
            self.sync(is_complete=False)

    def acceptance(self, edit_type: str | None = None) -> float:
        """Share of settled asks that became triplets, of one type or of all; 0 where none is settled."""
        accepted = self.accepted.total() if edit_type is None else self.accepted[edit_type]
        rejected = self.rejected.total() if edit_type is None else self.rejected[edit_type]
        return accepted / max(1, accepted + rejected)

    def sync(self, *, is_complete: bool) -> None:
        """Flush both files and write the card."""
        for file in self._files:
            sync_file(file)
        write_durably(self.card_path, (json.dumps(self.card(is_complete=is_complete), indent=2) + "\n").encode())
        self._unsynced = 0

    def close(self) -> None:
        """Let go of the files."""
        for file in self._files:
            file.close()

    def card(self, *, is_complete: bool) -> dict[str, Any]:
        """What the data set is, and what became of every ask."""
        types = sorted(self.accepted.keys() | self.rejected.keys())
        return {
            "format": CARD_FORMAT,
            "generator": asdict(self._name),
            **self._about,
            **self._notes,
            "is_complete": is_complete,
            "accepted": self.accepted.total(),
            "rejected": self.rejected.total(),
            "unanswered": self.unanswered,
            "acceptance": round(self.acceptance(), 4),
            "by_edit_type": {name: self._of_type(name) for name in types},
            "rejections": dict(self.reasons.most_common()),
            "cost": asdict(self.cost),
        }

    def _of_type(self, name: str) -> dict[str, float]:
        counts = {"accepted": self.accepted[name], "rejected": self.rejected[name]}
        return counts | {"acceptance": round(self.acceptance(name), 4)}

    def _accept(self, ask: Ask, pair: Pair) -> None:
        said = (folded(ask.record.caption), folded(pair.modification))
        if said in self._pairs:
            self._reject(
                ask, Problem(reason=REPEATED, detail=f"another edit of this caption says {pair.modification!r}")
            )
            return
        record = record_of(ask, pair, name=self._name)
        _append(self._files[0], edit_row(record))
        self._count(record)

    def _reject(self, ask: Ask, problem: Problem) -> None:
        row = {"id": ask.key, "image": ask.record.image_id, "edit_type": ask.edit_type}
        row |= {"reason": problem.reason, "detail": problem.detail}
        _append(self._files[1], row)
        self._count_rejected(row)

    def _count(self, record: EditRecord) -> None:
        self._done.add(record.id)
        self._pairs.add((folded(record.reference_caption), folded(record.modification)))
        self.accepted[record.edit_type] += 1

    def _count_rejected(self, row: Mapping[str, Any]) -> None:
        self._done.add(text_field(row, "id"))
        self.rejected[text_field(row, "edit_type")] += 1
        self.reasons[text_field(row, "reason")] += 1

    def _take_up(self) -> None:
        if not any(path.stat().st_size for path in (self.path, self.rejected_path)):
            return
        if not self.card_path.exists():
            raise UsageError(
                f"{self.path}: has no {self.card_path.name} beside it that says what wrote it; name another file"
            )
        card = read_json(self.card_path)
        for field, own in {"generator": asdict(self._name), **self._about}.items():
            if card.get(field) != json.loads(json.dumps(own)):
                raise UsageError(f"{self.path}: was begun with {field} {card.get(field)}, not {own}; name another file")
        self.cost = Cost(**card["cost"])
        for record in read_edits(self.path):
            self._count(record)
        read_lines(self.rejected_path, parse=self._count_rejected)


def _opened(path: Path) -> BinaryIO:
    """The file for appending, this process's alone, its torn last line mended or cut off."""
    file = path.open("a+b", buffering=0)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise UsageError(f"{path}: another run is writing it") from error
    file.seek(0)
    data = file.read()
    if data and not data.endswith(b"\n"):
        start = data.rfind(b"\n") + 1
        if _is_whole(data[start:]):
            file.write(b"\n")
        else:
            file.truncate(start)
    return file


def _is_whole(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _append(file: BinaryIO, row: Mapping[str, Any]) -> None:
    # One unbuffered write: whoever kills the process finds the line whole or, at worst, torn and mended.
    file.write(f"{json.dumps(row, ensure_ascii=False)}\n".encode())
