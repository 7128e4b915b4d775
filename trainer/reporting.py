"""What the training loop needs of its host: its rank, its last checkpoint, and a place for the next one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

_FOLDER = "checkpoints"


class Reporter(Protocol):
    """One worker's line to the run it belongs to."""

    rank: int
    world_size: int

    def restore(self) -> Path | None:
        """Folder of the newest checkpoint of this run, or None at the start."""

    def save(self, write: Callable[[Path], None], *, stage: str, step: int, loss: float) -> None:
        """Keep a checkpoint that `write` fills. Every worker calls this equally often; the first one writes."""


class LocalReporter:
    """Checkpoints in the run folder, for a run in this process without Ray."""

    rank = 0
    world_size = 1

    def __init__(self, run_folder: Path, *, keep: int) -> None:
        self._folder = run_folder / _FOLDER
        self._keep = keep

    def restore(self) -> Path | None:
        """The newest whole checkpoint; half-written ones have another name."""
        whole = sorted(self._folder.glob("checkpoint_*"))
        return whole[-1] if whole else None

    def save(self, write: Callable[[Path], None], *, stage: str, step: int, loss: float) -> None:
        """Write beside, rename, then drop all but the newest."""
        newest = self.restore()
        number = int(newest.name.rpartition("_")[2]) + 1 if newest else 0
        partial = self._folder / "partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        write(partial)
        partial.rename(self._folder / f"checkpoint_{number:06d}")
        for old in sorted(self._folder.glob("checkpoint_*"))[: -self._keep]:
            shutil.rmtree(old)
