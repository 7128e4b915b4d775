"""Pictures that a benchmark names and the disk has not: the run is refused, or goes on without them and says so."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sightline.errors import UsageError
from trainer.benchmarks.protocol import Benchmark, Picture, Query, Task

_SHOWN = 10


@dataclass(frozen=True, kw_only=True)
class Missing:
    """What a run went without; stamped into its result, since no score of it is one of the benchmark."""

    num_pictures: int
    num_queries: int
    """Queries left out because their reference or their annotated answer is missing."""
    first: tuple[str, ...]
    """The paths of the first few."""
    listed_in: str
    """Name of the file beside the result that lists all of them."""


def without_missing(benchmark: Benchmark, *, allows_missing: bool, out: Path) -> tuple[Benchmark, Missing | None]:
    """(what can be measured, what it goes without or None). The paths of what is missing are listed in a file of `out`.

    Raises UsageError naming the first ten missing files, the list and how to
    obtain them, unless `allows_missing`; and then, too, if no query is left.
    """
    gone = {path: picture for task in benchmark.tasks for picture in task.pictures if (path := _absent(picture))}
    listed_in = out / f"{benchmark.name}-{benchmark.split}-missing.txt"
    listed_in.unlink(missing_ok=True)
    if not gone:
        return benchmark, None
    out.mkdir(parents=True, exist_ok=True)
    listed_in.write_text("".join(f"{name}\n" for name in sorted(gone)), encoding="utf-8")
    if not allows_missing:
        raise UsageError(_message(benchmark, sorted(gone), listed_in=listed_in))
    tasks = tuple(_without(task, gone=_ids_at(task, gone)) for task in benchmark.tasks)
    if not all(task.queries for task in tasks):
        raise UsageError(f"{benchmark.name}: {len(gone)} pictures are missing and a task has no query left")
    lost = sum(len(before.queries) - len(now.queries) for before, now in zip(benchmark.tasks, tasks, strict=True))
    first = tuple(sorted(gone)[:_SHOWN])
    missing = Missing(num_pictures=len(gone), num_queries=lost, first=first, listed_in=listed_in.name)
    return replace(benchmark, tasks=tasks, is_published=False), missing


def _absent(picture: Picture) -> str:
    return "" if os.path.isfile(picture.image.path) else str(picture.image.path)


def _ids_at(task: Task, paths: Collection[str]) -> set[str]:
    return {picture.image_id for picture in task.pictures if str(picture.image.path) in paths}


def _message(benchmark: Benchmark, paths: Sequence[str], *, listed_in: Path) -> str:
    more = f"\n  and {len(paths) - _SHOWN} more, all of them in {listed_in}" if len(paths) > _SHOWN else ""
    shown = "".join(f"\n  {path}" for path in paths[:_SHOWN])
    return (
        f"{benchmark.name}: {len(paths)} pictures are missing:{shown}{more}\n{benchmark.how_to_get_pictures}. "
        "To measure what is there, which gives no score of the benchmark, add --allow-missing"
    )


def _without(task: Task, *, gone: set[str]) -> Task:
    return replace(
        task,
        pictures=tuple(picture for picture in task.pictures if picture.image_id not in gone),
        gallery=_kept(task.gallery, gone=gone),
        queries=tuple(_trimmed(query, gone=gone) for query in task.queries if not _is_lost(query, gone=gone)),
    )


def _is_lost(query: Query, *, gone: set[str]) -> bool:
    return query.reference in gone or bool(gone.intersection(query.targets[:1]))


def _trimmed(query: Query, *, gone: set[str]) -> Query:
    targets, gallery, subset = (_kept(ids, gone=gone) for ids in (query.targets, query.gallery, query.subset))
    return replace(query, targets=targets, gallery=gallery, subset=subset)


def _kept(ids: Sequence[str], *, gone: set[str]) -> tuple[str, ...]:
    return tuple(image_id for image_id in ids if image_id not in gone)
