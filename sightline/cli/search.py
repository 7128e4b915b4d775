"""`sightline search`: the pictures that a sentence or a picture finds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sightline.cli.index import DEFAULT_ADDRESS
from sightline.client import Client, FoundImages, Tls
from sightline.errors import UsageError
from sightline.settings import environment

app = typer.Typer(add_completion=False)


@app.command()
def search(
    query: Annotated[str, typer.Argument(help="A sentence, or the path of a picture.")],
    *,
    k: Annotated[int, typer.Option("-k", min=1, max=100, help="How many pictures at most.")] = 5,
    where: Annotated[
        list[str] | None, typer.Option("--where", help="KEY=VALUE that a picture's metadata must have; repeatable.")
    ] = None,
    address: Annotated[str, typer.Option(help="host:port of the retriever or of Ray Serve.")] = DEFAULT_ADDRESS,
    ca: Annotated[Path | None, typer.Option(help="PEM certificates that sign the service; turns TLS on.")] = None,
) -> None:
    """Show the pictures nearest to a sentence or to a picture, best first."""
    tls = Tls(ca_file=ca) if ca is not None else None
    token = environment("SIGHTLINE_TOKEN") or None
    path = Path(query)
    example = path.read_bytes() if path.suffix and path.is_file() else query
    with Client(address, token=token, tls=tls) as client:
        found = client.search_images(example, k=k, must=conditions(where or []))
    Console().print(hits_table(found))


def conditions(pairs: list[str]) -> dict[str, list[str]]:
    """Metadata key -> accepted values, of KEY=VALUE pairs; raises UsageError for one without "="."""
    accepted: dict[str, list[str]] = {}
    for pair in pairs:
        key, is_pair, value = pair.partition("=")
        if not (key and is_pair):
            raise UsageError(f"--where: got {pair!r}, expected KEY=VALUE")
        accepted.setdefault(key, []).append(value)
    return accepted


def hits_table(found: FoundImages) -> Table:
    """The hits as a table: rank, id, score and metadata."""
    table = Table("", "picture", "score", "metadata", caption=f"space {found.served.embedding_space_id}")
    for rank, image in enumerate(found.images, start=1):
        metadata = ", ".join(f"{key}: {value}" for key, value in sorted(image.metadata.items()))
        table.add_row(str(rank), escape(image.image_id), f"{image.score:.3f}", escape(metadata))
    return table
