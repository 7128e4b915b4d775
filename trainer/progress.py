"""What a person sees of a run: a bar for each stage with loss and samples per second, read from its journal."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from trainer.config import FitConfig
from trainer.journal import STAGES, read_journal

REFRESH_S = 0.5


@contextmanager
def watching(folder: Path, *, steps: Mapping[str, int], console: Console) -> Iterator[None]:
    """Show the run in `folder` until the block ends; `steps` says how many each stage has."""
    progress = _bars(console)
    tasks = {name: progress.add_task(name, total=total, loss="", rate="") for name, total in steps.items() if total > 0}
    ended = threading.Event()
    watcher = threading.Thread(target=_watch, args=(folder, progress, tasks, ended), daemon=True)
    with progress:
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()


def stage_steps(config: FitConfig) -> dict[str, int]:
    """How many steps each stage of a run has."""
    return dict(zip(STAGES, (config.stage1.steps, config.stage2.steps), strict=True))


def _bars(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:>12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[loss]}"),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=console,
    )


def _watch(folder: Path, progress: Progress, tasks: dict[str, TaskID], ended: threading.Event) -> None:
    while not ended.wait(REFRESH_S):
        _show(folder, progress, tasks)
    _show(folder, progress, tasks)


def _show(folder: Path, progress: Progress, tasks: dict[str, TaskID]) -> None:
    newest: dict[str, dict[str, Any]] = {row["stage"]: row for row in read_journal(folder) if row["event"] == "step"}
    for name, row in newest.items():
        if name in tasks:
            progress.update(
                tasks[name],
                completed=row["step"],
                loss=f"loss {row['loss']:.3f}",
                rate=f"{row['samples_per_s']:.0f}/s",
            )
