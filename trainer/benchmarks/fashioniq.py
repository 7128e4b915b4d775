"""FashionIQ (arXiv 1905.12794): dresses, shirts and tops, two captions a query, over the whole split of a category."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from sightline.data.lines import read_json
from sightline.errors import DataLineInvalid, UsageError
from sightline.metrics import recall_at_each
from trainer.benchmarks.annotations import (
    Counts,
    Files,
    different,
    found,
    is_published,
    known,
    located,
    records,
    value_of,
    words,
)
from trainer.benchmarks.protocol import Benchmark, Query, Task
from trainer.benchmarks.ranking import Ranked, Scores, mean_of_groups, target_ranks

KS = (10, 50)
CATEGORIES = ("dress", "shirt", "toptee")
PUBLISHED = {
    "dress": Counts(num_queries=2_017, gallery_size=3_817),
    "shirt": Counts(num_queries=2_038, gallery_size=6_346),
    "toptee": Counts(num_queries=1_961, gallery_size=5_373),
}
HOW_TO_GET = (
    "FashionIQ's pictures are listed by address at github.com/XiaoxiaoGuo/fashion-iq, and many addresses are dead; "
    "give a folder of {asin}.png or .jpg"
)
BOTH_ORDERS, GIVEN_ORDER = "both_orders_mean", "given_order"


def read(files: Files) -> Benchmark:
    """The validation split, a task for each category. Raises UsageError or DataLineInvalid naming file, record and key.

    The gallery is the whole split file, not the pictures that queries name: that
    smaller one, found in some papers, makes every score larger.
    """
    if files.split != "val":
        raise UsageError(f"split: got {files.split!r}; the answers of FashionIQ's test are not public, val is measured")
    mode = files.caption_mode or BOTH_ORDERS
    if mode not in _JOINED:
        raise UsageError(f"caption mode: got {mode!r}, expected one of {', '.join(_JOINED)}")
    read_task = partial(_task, root=files.annotations, images=files.images, joined=_JOINED[mode])
    tasks = [read_task(category) for category in CATEGORIES]
    published = [is_published(task, counts=PUBLISHED[task.name], source=paths[0]) for task, paths in tasks]
    return Benchmark(
        name="fashioniq",
        split="val",
        tasks=tuple(task for task, _ in tasks),
        annotations=tuple(path for _, paths in tasks for path in paths),
        ks={"recall": KS},
        caption_mode=mode,
        is_published=all(published),
        how_to_get_pictures=HOW_TO_GET,
        notes=("gallery: the whole split file of a category",),
    )


def scores(ranked: Mapping[str, Sequence[Ranked]]) -> Scores:
    """recall@10 and recall@50 of each category, and their plain mean."""
    table = {name: recall_at_each(KS, rank_Q=target_ranks(queries)) for name, queries in ranked.items()}
    return table | {"mean": mean_of_groups(table)}


def both_orders(first: str, second: str) -> tuple[str, ...]:
    """'{first} and {second}' and '{second} and {first}', each stripped of what ends a sentence."""
    first, second = first.strip(_STRIPPED), second.strip(_STRIPPED)
    return f"{first} and {second}", f"{second} and {first}"


def given_order(first: str, second: str) -> tuple[str, ...]:
    """'{first} and {second}' alone."""
    return both_orders(first, second)[:1]


_STRIPPED = ".?, "
_JOINED: dict[str, Callable[[str, str], tuple[str, ...]]] = {BOTH_ORDERS: both_orders, GIVEN_ORDER: given_order}


def _task(
    category: str, *, root: Path, images: Path, joined: Callable[[str, str], tuple[str, ...]]
) -> tuple[Task, tuple[Path, Path]]:
    captions = _found(root, kind="captions", name=f"cap.{category}.val.json")
    image_split = _found(root, kind="image_splits", name=f"split.{category}.val.json")
    asins = _asins(image_split)
    suffixes = (".png", ".jpg", ".jpeg")
    among = set(asins)
    queries = records(captions, parse=lambda row: _query(row, among=among, where=image_split, joined=joined))
    task = Task(
        name=category,
        pictures=tuple(located(images, [f"{asin}{end}" for end in suffixes], image_id=asin) for asin in asins),
        gallery=asins,
        queries=tuple(_numbered(query, f"{category}-{number}") for number, query in enumerate(queries)),
        excludes_reference=False,
    )
    return task, (captions, image_split)


def _found(root: Path, *, kind: str, name: str) -> Path:
    if not root.is_dir():
        raise UsageError(f"annotations: got {root}, expected the folder that holds captions/ and image_splits/")
    return found(root, [f"{kind}/{name}", f"fashioniq/{kind}/{name}", name])


def _asins(path: Path) -> tuple[str, ...]:
    rows = read_json(path)
    if not isinstance(rows, list) or not rows or not all(isinstance(asin, str) and asin for asin in rows):
        raise DataLineInvalid(f"{path}: expected a list of article numbers")
    try:
        return different(rows, key="article")
    except ValueError as error:
        raise DataLineInvalid(f"{path}: {error}") from error


def _query(
    row: Mapping[str, Any], *, among: set[str], where: Path, joined: Callable[[str, str], tuple[str, ...]]
) -> Query:
    captions = value_of(row, "captions")
    is_pair = isinstance(captions, list) and len(captions) == 2 and all(isinstance(text, str) for text in captions)
    if not is_pair or not any(text.strip(_STRIPPED) for text in captions):
        raise ValueError(f"captions: got {captions!r:.60}, expected two texts, not both blank")
    return Query(
        query_id="",
        reference=known(words(row, "candidate"), key="candidate", among=among, where=where),
        texts=joined(*captions),
        targets=(known(words(row, "target"), key="target", among=among, where=where),),
    )


def _numbered(query: Query, query_id: str) -> Query:
    """FashionIQ numbers nothing: a query is named by category and place."""
    return replace(query, query_id=query_id)
