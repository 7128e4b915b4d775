"""`sightline toytown`: write the generated world to a folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from sightline.data.toytown.contact_sheet import write_contact_sheet
from sightline.data.toytown.plan import NAMED_SHARE
from sightline.data.toytown.writer import OnProgress, ToytownSummary, write_toytown

app = typer.Typer(add_completion=False)


@app.command()
def toytown(
    out: Annotated[Path, typer.Option(help="Folder to write; made if absent.")],
    *,
    scenes: Annotated[int, typer.Option(help="Number of pictures, 800 or more.")] = 3000,
    seed: Annotated[int, typer.Option(help="Decides everything; the same seed writes the same bytes.")] = 0,
    size: Annotated[int, typer.Option(help="Width and height of a picture in pixels, 16 or more.")] = 64,
    dialogues: Annotated[int, typer.Option(help="Number of training dialogues.")] = 2000,
    strangers: Annotated[int, typer.Option(help="Training dialogues more, about names that no picture shows.")] = 0,
    named_share: Annotated[
        float, typer.Option(help="Of the captioned pictures, those that show somebody with a name.")
    ] = NAMED_SHARE,
) -> None:
    """Draw Toytown: pictures, captions, text-only dialogues, questions, composed queries, and a contact sheet."""
    console = Console()
    with drawing(console) as on_progress:
        summary = write_toytown(
            out,
            scenes=scenes,
            seed=seed,
            size=size,
            dialogues=dialogues,
            strangers=strangers,
            named_share=named_share,
            on_progress=on_progress,
        )
    sheet = out / "contact_sheet.png"
    write_contact_sheet(sheet, seed=seed)
    show_summary(summary, console=console)
    console.print(f"Look at {sheet}")


@contextmanager
def drawing(console: Console) -> Iterator[OnProgress]:
    """A bar that shows how many pictures are drawn; what is yielded moves it."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("drawing", total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def show_summary(summary: ToytownSummary, *, console: Console) -> None:
    """Print how much was written where."""
    table = Table(title=f"Toytown, seed {summary.seed}: {summary.num_pictures} pictures in {summary.folder}")
    table.add_column("file")
    table.add_column("lines", justify="right")
    for name, lines in summary.lines.items():
        table.add_row(name, str(lines))
    console.print(table)
