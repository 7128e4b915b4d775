"""`sightline composed`: write composed queries at size beside a Toytown that is there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from sightline.cli.toytown import drawing, show_summary
from sightline.data.toytown import write_benchmark_copies, write_composed

app = typer.Typer(add_completion=False)


@app.command()
def composed(
    world: Annotated[Path, typer.Option(help="Folder of a Toytown; its own files stay as they are.")],
    *,
    queries: Annotated[int, typer.Option(help="Composed queries to test with.")] = 600,
    gallery: Annotated[int, typer.Option(help="Pictures that they search, two or more a query.")] = 1200,
    val_queries: Annotated[int, typer.Option(help="Composed queries to choose by, over a gallery of their own.")] = 200,
    edits_per_type: Annotated[int, typer.Option(help="Training edits of each type of each captioned picture.")] = 2,
) -> None:
    """Draw a gallery, and write composed queries with exact answers, edits to train on, and copies as benchmarks."""
    console = Console()
    with drawing(console) as on_progress:
        summary = write_composed(
            world,
            queries=queries,
            gallery=gallery,
            val_queries=val_queries,
            edits_per_type=edits_per_type,
            on_progress=on_progress,
        )
    show_summary(summary, console=console)
    for name, folder in write_benchmark_copies(world).items():
        console.print(f"{name}: {folder}", highlight=False)
