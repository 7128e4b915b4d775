"""`sightline convert`: bring other projects' files into the two that training and indexing read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sightline.data.captions import write_captions
from sightline.data.coco import read_coco_captions
from sightline.data.dialogues import read_reddit, write_dialogues
from sightline.data.image_chat import read_image_chat
from sightline.data.lines import SkipReport

app = typer.Typer(no_args_is_help=True, help="Write captions.jsonl or dialogues.jsonl from other formats.")

Source = Annotated[Path, typer.Argument(help="The file to read.")]
Out = Annotated[Path, typer.Option(help="The JSONL to write.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Count bad items instead of stopping at the first.")]


@app.command()
def coco(
    source: Source,
    *,
    images: Annotated[Path, typer.Option(help="The folder in which the pictures lie.")],
    out: Out = Path("captions.jsonl"),
    skip_bad: SkipBad = False,
) -> None:
    """COCO's captions JSON to captions, one line each."""
    report = SkipReport()
    records = read_coco_captions(source, images=images, skip_bad=skip_bad, report=report)
    _tell(write_captions(out, records), "captions", out=out, report=report)


@app.command()
def image_chat(source: Source, *, out: Out = Path("dialogues.jsonl"), skip_bad: SkipBad = False) -> None:
    """Image-Chat's JSON array to dialogues."""
    report = SkipReport()
    records = read_image_chat(source, skip_bad=skip_bad, report=report)
    _tell(write_dialogues(out, records), "dialogues", out=out, report=report)


@app.command()
def reddit(source: Source, *, out: Out = Path("dialogues.jsonl"), skip_bad: SkipBad = False) -> None:
    """A JSON array of Reddit conversations to dialogues."""
    report = SkipReport()
    records = read_reddit(source, skip_bad=skip_bad, report=report)
    _tell(write_dialogues(out, records), "dialogues", out=out, report=report)


def _tell(count: int, what: str, *, out: Path, report: SkipReport) -> None:
    typer.echo(f"{count} {what} in {out}")
    if report.skipped:
        typer.echo(report.summary())
