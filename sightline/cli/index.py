"""`sightline index`: bring a folder or a JSONL of pictures into the index, and go on where it stopped."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sightline.client import AsyncClient, NewImage, Tls
from sightline.data.captions import read_captions
from sightline.data.lines import SkipReport
from sightline.data.pools import read_pool
from sightline.errors import PictureTooLarge, SightlineError, UsageError
from sightline.limits import MAX_METADATA_CHARS, MAX_PAGE_SIZE, MAX_PICTURE_BYTES
from sightline.settings import environment

DEFAULT_ADDRESS = "127.0.0.1:9000"
_MAX_CAPTIONS = 8
_SHOWN_BAD = 20

app = typer.Typer(add_completion=False)


@dataclass(frozen=True, kw_only=True)
class Item:
    """One picture to bring into the index."""

    image_id: str
    path: Path
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(kw_only=True)
class Outcome:
    """What became of the pictures so far."""

    num_stored: int = 0
    """Pictures that were sent and stored."""
    num_unchanged: int = 0
    """Pictures that the index held already, byte for byte."""
    bad: list[tuple[str, str]] = field(default_factory=list)
    """Id of each picture that was refused, and why."""

    @property
    def num_seen(self) -> int:
        """Every picture that was dealt with."""
        return self.num_stored + self.num_unchanged + len(self.bad)


@app.command()
def index(
    source: Annotated[Path, typer.Argument(help="A folder of pictures, or a JSONL of captions or of a pool.")],
    *,
    address: Annotated[str, typer.Option(help="host:port of the retriever or of Ray Serve.")] = DEFAULT_ADDRESS,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Count bad lines and pictures instead of failing because of them.")
    ] = False,
    concurrency: Annotated[int, typer.Option(min=1, max=8, help="Calls under way at once.")] = 4,
    batch: Annotated[int, typer.Option(min=1, max=64, help="Pictures of one call.")] = 16,
    ca: Annotated[Path | None, typer.Option(help="PEM certificates that sign the service; turns TLS on.")] = None,
) -> None:
    """Store pictures in the index. Run it again to go on: what is stored already is not sent.

    A bearer token is read from SIGHTLINE_TOKEN. Exit code: 0 if every picture
    is stored, 1 if some were refused (0 with --skip-bad), 2 if it had to stop.
    """
    console = Console()
    report = SkipReport()
    items = read_items(source, skip_bad=skip_bad, report=report)
    outcome = Outcome()
    began = time.perf_counter()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("indexing", total=len(items))
        work = _run(
            address,
            items,
            outcome=outcome,
            concurrency=concurrency,
            batch=batch,
            ca=ca,
            on_progress=lambda: progress.update(task, completed=outcome.num_seen),
        )
        try:
            asyncio.run(work)
        finally:
            seconds = time.perf_counter() - began
            _print_summary(
                console, outcome, num_items=len(items), num_skipped_lines=len(report.skipped), seconds=seconds
            )
    if outcome.bad and not skip_bad:
        raise typer.Exit(1)


def read_items(source: Path, *, skip_bad: bool = False, report: SkipReport | None = None) -> list[Item]:
    """The pictures of a folder, a captions file or a pool file, each once; captions become metadata.

    A picture's captions are kept under "caption", "caption_2" and so on, up to
    eight, cut to 256 characters. Raises UsageError or DataLineInvalid.
    """
    if not source.exists():
        raise UsageError(f"{source}: does not exist")
    if source.is_dir() or not _has_captions(source):
        images = read_pool(source, skip_bad=skip_bad, report=report)
        return [Item(image_id=image.image_id, path=image.path) for image in images]
    captions: dict[str, list[str]] = {}
    paths: dict[str, Path] = {}
    for record in read_captions(source, skip_bad=skip_bad, report=report):
        captions.setdefault(record.image_id, []).append(record.caption)
        paths.setdefault(record.image_id, record.path)
    return [Item(image_id=name, path=paths[name], metadata=_caption_metadata(captions[name])) for name in paths]


async def index_items(
    client: AsyncClient,
    items: Sequence[Item],
    *,
    outcome: Outcome,
    concurrency: int = 4,
    batch: int = 16,
    on_progress: Callable[[], None] = lambda: None,
) -> None:
    """Store what the index does not hold yet, and count in `outcome`; an unreadable picture fails alone.

    Raises the SightlineError of the first call that fails whole; what `outcome`
    counts is then stored, and another run goes on from there.
    """
    stored = await stored_images(client)
    batches = _batches(items, size=batch)

    async def work() -> None:
        for part in batches:
            await _store(client, part, stored=stored, outcome=outcome)
            on_progress()

    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(work())


async def stored_images(client: AsyncClient) -> dict[str, tuple[str, dict[str, str]]]:
    """Digest and metadata of every stored picture, by id."""
    stored: dict[str, tuple[str, dict[str, str]]] = {}
    token = ""
    while True:
        page = await client.list_images(page_size=MAX_PAGE_SIZE, page_token=token)
        stored |= {image.image_id: (image.sha256, dict(image.metadata)) for image in page.images}
        token = page.next_page_token
        if not token:
            return stored


async def _run(
    address: str,
    items: Sequence[Item],
    *,
    outcome: Outcome,
    concurrency: int,
    batch: int,
    ca: Path | None,
    on_progress: Callable[[], None],
) -> None:
    tls = Tls(ca_file=ca) if ca is not None else None
    token = environment("SIGHTLINE_TOKEN") or None
    async with AsyncClient(address, token=token, tls=tls, timeout_s=120.0) as client:
        try:
            await index_items(
                client, items, outcome=outcome, concurrency=concurrency, batch=batch, on_progress=on_progress
            )
        except* SightlineError as failures:
            # Workers fail together when the service goes away; one reason is enough to read.
            raise failures.exceptions[0] from None


async def _store(
    client: AsyncClient, part: Sequence[Item], *, stored: Mapping[str, tuple[str, dict[str, str]]], outcome: Outcome
) -> None:
    images = []
    for item in part:
        try:
            data = await asyncio.to_thread(_read, item.path)
        except (OSError, PictureTooLarge) as error:
            outcome.bad.append((item.image_id, str(error)))
            continue
        if stored.get(item.image_id) == (hashlib.sha256(data).hexdigest(), dict(item.metadata)):
            outcome.num_unchanged += 1
        else:
            images.append(NewImage(image_id=item.image_id, picture=data, metadata=item.metadata))
    if images:
        reply = await client.upsert_images(images)
        for image, refusal in zip(images, reply.errors, strict=True):
            if refusal is None:
                outcome.num_stored += 1
            else:
                outcome.bad.append((image.image_id, refusal.message))


def _read(path: Path) -> bytes:
    size = path.stat().st_size
    if size > MAX_PICTURE_BYTES:
        raise PictureTooLarge(f"got {size} bytes, limit {MAX_PICTURE_BYTES}", value=size, limit=MAX_PICTURE_BYTES)
    return path.read_bytes()


def _batches(items: Sequence[Item], *, size: int) -> Iterator[Sequence[Item]]:
    # One iterator shared by all workers: each takes the next part when it is free.
    return (items[start : start + size] for start in range(0, len(items), size))


def _has_captions(path: Path) -> bool:
    """Whether the first line of a JSONL that can be read has a caption."""
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                continue
            return isinstance(row, dict) and "caption" in row
    return False


def _caption_metadata(captions: Sequence[str]) -> dict[str, str]:
    names = ["caption", *[f"caption_{number}" for number in range(2, _MAX_CAPTIONS + 1)]]
    return {name: caption[:MAX_METADATA_CHARS] for name, caption in zip(names, captions, strict=False)}


def _print_summary(
    console: Console, outcome: Outcome, *, num_items: int, num_skipped_lines: int, seconds: float
) -> None:
    rate = outcome.num_stored / seconds if seconds else 0.0
    console.print(
        f"{num_items} pictures: {outcome.num_stored} stored ({rate:.1f}/s), {outcome.num_unchanged} unchanged, "
        f"{len(outcome.bad)} refused, {num_skipped_lines} bad lines, {seconds:.1f} s"
    )
    for image_id, reason in outcome.bad[:_SHOWN_BAD]:
        console.print(f"refused {escape(image_id)}: {escape(reason)}", soft_wrap=True)
    if len(outcome.bad) > _SHOWN_BAD:
        console.print(f"... and {len(outcome.bad) - _SHOWN_BAD} more")
    if outcome.num_seen < num_items:
        console.print(f"stopped with {num_items - outcome.num_seen} to go; run the same command again to go on")
