"""`metrics.jsonl`: one line per logged step, written by the first worker, read by whoever watches the run."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

JOURNAL = "metrics.jsonl"
STAGES = ("contrastive", "generative")
"""The stages of a model in their order."""
COMPOSED_STAGES = ("inversion", "alignment")
"""Those of a composer in theirs."""
_ORDER = (*STAGES, *COMPOSED_STAGES)


class Journal:
    """Appends events to a run's journal. One writer a run."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / JOURNAL

    def write(self, event: str, **values: Any) -> None:
        """One line: the event, its values and the time in seconds since the epoch."""
        line = json.dumps({"event": event, **values, "time": round(time.time(), 3)})
        with self._path.open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")

    def rewind(self, *, stage: str, step: int) -> None:
        """Drop the steps after `step` of `stage`: a resumed run writes them again, with the same losses."""
        kept = [row for row in read_journal(self._path.parent) if not _is_after(row, stage=stage, step=step)]
        text = "".join(f"{json.dumps(row)}\n" for row in kept)
        self._path.write_text(text, encoding="utf-8")


def read_journal(folder: Path) -> list[dict[str, Any]]:
    """Every whole line of a run's journal, oldest first; [] before the first."""
    path = folder / JOURNAL
    return list(_parse(path.read_text(encoding="utf-8"))) if path.exists() else []


def losses(folder: Path) -> list[tuple[str, int, float]]:
    """(stage, step, loss) of every logged step, in order."""
    return [(row["stage"], row["step"], row["loss"]) for row in read_journal(folder) if row["event"] == "step"]


def worked_s(folder: Path) -> float:
    """Wall seconds that a run was at work: from every start to the last event before the next one."""
    total, rows = 0.0, read_journal(folder)
    for before, after in pairwise(rows):
        total += 0.0 if after["event"] == "start" else after["time"] - before["time"]
    return total


def skipped_pictures(folder: Path) -> tuple[int, int]:
    """(pictures that could not be decoded, pictures there were) of the newest stage that left some out; zeros if none.

    Stage 2 looks at all the pictures of stage 1.
    """
    told = [row for row in read_journal(folder) if row["event"] == "skipped"]
    return (told[-1]["num_skipped"], told[-1]["num_pictures"]) if told else (0, 0)


def _parse(text: str) -> Iterator[dict[str, Any]]:
    for line in text.splitlines(keepends=True):
        if line.endswith("\n"):  # The last line may still be in the writing.
            yield json.loads(line)


def _is_after(row: dict[str, Any], *, stage: str, step: int) -> bool:
    if row["event"] not in {"step", "stage", "validation"}:
        return False
    return (_ORDER.index(row["stage"]), row["step"]) > (_ORDER.index(stage), step)
