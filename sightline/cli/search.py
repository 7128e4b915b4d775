"""`sightline search`: the pictures that a sentence, a picture, or a picture with an edit finds."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sightline.cli.index import DEFAULT_ADDRESS
from sightline.cli.rewritten import sentence_of, told_line, without_reference
from sightline.client import Client, ComposedSearch, Edit, FoundImages, ImageQuery, Tls
from sightline.errors import UsageError
from sightline.language.endpoint import Endpoint, RewriteSettings
from sightline.limits import MAX_SEARCH_K
from sightline.settings import environment, read_settings

app = typer.Typer(add_completion=False)


@app.command()
def search(
    queries: Annotated[
        list[str] | None, typer.Argument(help="A sentence, or the path of a picture; several sentences count together.")
    ] = None,
    *,
    image: Annotated[
        Path | None,
        typer.Option(help="A picture to start from; the sentences say what is different in the wanted one."),
    ] = None,
    image_id: Annotated[str | None, typer.Option(help="A stored picture to start from.")] = None,
    without: Annotated[
        list[str] | None, typer.Option("--without", help="What the wanted picture has not; repeatable.")
    ] = None,
    text_weight: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="0 leans to the picture, 1 to the sentences.")
    ] = None,
    keep_reference: Annotated[
        bool, typer.Option("--keep-reference", help="Let the picture to start from be found.")
    ] = False,
    rewrite: Annotated[
        bool,
        typer.Option(
            "--rewrite", help="Search by what a language model (SIGHTLINE_REWRITE_*) makes of picture and sentences."
        ),
    ] = False,
    k: Annotated[int, typer.Option("-k", min=1, max=100, help="How many pictures at most.")] = 5,
    where: Annotated[
        list[str] | None, typer.Option("--where", help="KEY=VALUE that a picture's metadata must have; repeatable.")
    ] = None,
    address: Annotated[str, typer.Option(help="host:port of the retriever or of Ray Serve.")] = DEFAULT_ADDRESS,
    ca: Annotated[Path | None, typer.Option(help="PEM certificates that sign the service; turns TLS on.")] = None,
) -> None:
    """Show the pictures nearest to a sentence, to a picture, or to a picture with what is different, best first."""
    tls = Tls(ca_file=ca) if ca is not None else None
    token = environment("SIGHTLINE_TOKEN") or None
    edit = Edit(texts=queries or [], negative_texts=without or [], text_weight=text_weight)
    must = conditions(where or [])
    with Client(address, token=token, tls=tls) as client:
        if rewrite:
            found = _rewritten(edit, client=client, image=image, image_id=image_id, keep=keep_reference, k=k, must=must)
        else:
            query = query_of(edit, image=image, image_id=image_id, keep_reference=keep_reference)
            found = client.search_images(query, k=k, must=must)
    Console().print(hits_table(found))


def query_of(
    edit: Edit, *, image: Path | None = None, image_id: str | None = None, keep_reference: bool = False
) -> ImageQuery:
    """What the command line asks for. One word alone is a sentence or, if it is the path of a file, a picture.

    Raises UsageError for nothing, for two references, and for a path that is no
    file.
    """
    is_edit = len(edit.texts) > 1 or edit.negative_texts or edit.text_weight is not None
    if image is None and image_id is None and not is_edit:
        if not edit.texts:
            raise UsageError("query: got nothing, expected a sentence, the path of a picture, --image or --image-id")
        return _sentence_or_picture(edit.texts[0])
    if image is not None and not image.is_file():
        raise UsageError(f"--image: got {str(image)!r}, expected the path of a picture")
    data = None if image is None else image.read_bytes()
    return ComposedSearch.of(edit, picture=data, image_id=image_id, keep_reference=keep_reference)


def _sentence_or_picture(word: str) -> str | bytes:
    # os.path: a long sentence is no file name, and asking for one must not fail.
    return Path(word).read_bytes() if Path(word).suffix and os.path.isfile(word) else word


def _rewritten(
    edit: Edit,
    *,
    client: Client,
    image: Path | None,
    image_id: str | None,
    keep: bool,
    k: int,
    must: dict[str, list[str]],
) -> FoundImages:
    """The hits of the sentence that a language model makes of picture and edit; the sentence is shown."""
    with closing(Endpoint(read_settings(RewriteSettings, section="rewrite"))) as model:
        told = sentence_of(edit, client=client, model=model, image=image, image_id=image_id)
    Console().print(told_line(told), soft_wrap=True)
    # One more than asked for: the reference may be among them.
    found = client.search_images(told.text, k=min(k + 1, MAX_SEARCH_K), must=must)
    return without_reference(found, image_id=None if keep else image_id, k=k)


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
