"""`python -m examples.edit_writer WORLD`: teach a small language model some edits, for it to write others."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from examples.command import run
from examples.edit_writer.teaching import Lesson, teach
from sightline.data.captions import CaptionRecord, read_captions, write_captions
from sightline.data.edits import EditRecord, read_edits
from sightline.data.triplets import COMPOSED_FOLDER
from sightline.errors import UsageError

MODEL = "writer"
"""Folder of the model, below `--out`: its name is part of every edit's id."""


def chosen_pictures(edits: Sequence[EditRecord], *, count: int, seed: int) -> set[str]:
    """The ids of the pictures whose edits teach. Raises UsageError unless pictures are left to write about."""
    known = sorted({edit.image_id for edit in edits})
    if not 0 < count < len(known):
        raise UsageError(f"taught: got {count} pictures, limits 1 and {len(known) - 1}, as {len(known)} have edits")
    return set(random.Random(f"edit writer {seed}").sample(known, count))


def unwritten(world: Path, *, split: str, taught: set[str]) -> list[CaptionRecord]:
    """The captions of pictures of a split that have edits and taught nothing."""
    edits = read_edits(world / COMPOSED_FOLDER / f"edits_{split}.jsonl")
    wanted = {edit.image_id for edit in edits} - taught
    return [record for record in read_captions(world / f"captions_{split}.jsonl") if record.image_id in wanted]


def main(
    world: Annotated[Path, typer.Argument(help="Folder of captions, with edits in `composed`.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("var/edit-writer"),
    taught: Annotated[int, typer.Option(help="Pictures whose edits it learns from.")] = 600,
    steps: Annotated[int, typer.Option(min=1, help="Steps of training.")] = Lesson.steps,
    seed: Annotated[int, typer.Option(help="Decides everything drawn.")] = 0,
) -> None:
    """Teach the model, and write beside it the captions that it has not seen."""
    edits = read_edits(world / COMPOSED_FOLDER / "edits_train.jsonl")
    pictures = chosen_pictures(edits, count=taught, seed=seed)
    for split in ("train", "val"):
        path = out / f"captions_{split}.jsonl"
        typer.echo(f"{write_captions(path, unwritten(world, split=split, taught=pictures)):7d}  {path}")
    known = [edit for edit in edits if edit.image_id in pictures]
    with Progress(*Progress.get_default_columns(), "{task.fields[loss]}", console=Console(stderr=True)) as progress:
        task = progress.add_task(f"{len(known):,} edits", total=steps, loss="")
        num_parameters = teach(
            known,
            out / MODEL,
            lesson=Lesson(steps=steps, seed=seed),
            on_step=lambda loss: progress.update(task, advance=1, loss=f"loss {loss:.3f}"),
        )
    typer.echo(f"{num_parameters:,} parameters, taught by {len(known):,} edits of {taught} pictures, in {out / MODEL}")


if __name__ == "__main__":
    run(main)
