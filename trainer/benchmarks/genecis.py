"""GeneCIS (arXiv 2306.07969): focus on, or change, an attribute or an object, each query over a small gallery."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from sightline.data.pools import PoolImage
from sightline.errors import UsageError
from sightline.metrics import recall_at_each
from trainer.benchmarks.annotations import (
    Counts,
    Files,
    found,
    is_folder,
    located,
    records,
    subfolder,
    value_of,
    whole,
    words,
)
from trainer.benchmarks.protocol import Benchmark, Box, Picture, Query, Task
from trainer.benchmarks.ranking import Ranked, Scores, mean_of_groups, target_ranks

KS = (1, 2, 3)
TASKS = ("focus_attribute", "change_attribute", "focus_object", "change_object")
PUBLISHED = {
    "focus_attribute": Counts(num_queries=2_000, gallery_size=10),
    "change_attribute": Counts(num_queries=2_112, gallery_size=15),
    "focus_object": Counts(num_queries=1_960, gallery_size=15),
    "change_object": Counts(num_queries=1_960, gallery_size=15),
}
"""The target counts as one of its gallery."""
NUM_REPEATED = {"change_object": 1}
"""Published galleries that list the target twice, which are smaller by that one picture."""
HOW_TO_GET = (
    "GeneCIS's object tasks use val2017 of COCO (cocodataset.org), its attribute tasks the pictures of Visual Genome "
    "1.2 (visualgenome.org); give the folder that holds val2017/ and VG_100K/"
)
PictureOf = Callable[[Mapping[str, Any]], Picture]
_COCO_FOLDERS, _VG_FOLDERS = ("val2017",), ("VG_100K", "VG_100K_2", "VG_100K_all", "VG_All")


@dataclass(frozen=True)
class _Record:
    query: Query
    pictures: tuple[Picture, ...]
    num_repeated: int


def read(files: Files) -> Benchmark:
    """Every task whose file is there. Raises UsageError or DataLineInvalid naming file, record and key."""
    if files.split != "val":
        raise UsageError(f"split: got {files.split!r}; GeneCIS has one split, val")
    read_tasks = [_task(name, path, images=files.images) for name, path in _annotations(files.annotations)]
    tasks = tuple(task for task, _ in read_tasks)
    return Benchmark(
        name="genecis",
        split="val",
        tasks=tasks,
        annotations=tuple(path for _, path in _annotations(files.annotations)),
        ks={"recall": KS},
        caption_mode="condition",
        is_published=all(has_published_sizes(task) for task in tasks),
        how_to_get_pictures=HOW_TO_GET,
        notes=tuple(note for _, notes in read_tasks for note in notes),
    )


def scores(ranked: Mapping[str, Sequence[Ranked]]) -> Scores:
    """recall@1, 2 and 3 of each task; their mean only when all four were measured, as the paper's headline is."""
    table = {name: recall_at_each(KS, rank_Q=target_ranks(queries)) for name, queries in ranked.items()}
    return table | {"mean": mean_of_groups(table)} if set(table) == set(TASKS) else table


def has_published_sizes(task: Task) -> bool:
    """Whether queries and galleries are as many, and as large, as in the published file: small ones inflate scores."""
    counts, num_repeated = PUBLISHED[task.name], NUM_REPEATED.get(task.name, 0)
    expected = {counts.gallery_size: counts.num_queries - num_repeated, counts.gallery_size - 1: num_repeated}
    return Counter(len(query.gallery) for query in task.queries) == Counter(expected)


def _annotations(path: Path) -> list[tuple[str, Path]]:
    """(task, file) of a folder, or of one file that is named after its task."""
    if is_folder(path):
        names = {task: [f"{at}{task}.json" for at in ("genecis/", "", "genecis_")] for task in TASKS}
        there = [task for task in TASKS if any((path / name).is_file() for name in names[task])]
        return [(task, found(path, names[task])) for task in there or TASKS[:1]]
    task = path.stem.removeprefix("genecis_")
    if task not in TASKS:
        raise UsageError(f"annotations: got {path.name}, expected a file named after its task, {', '.join(TASKS)}")
    return [(task, found(path.parent, [path.name]))]


def _task(name: str, path: Path, *, images: Path) -> tuple[Task, list[str]]:
    reader = _Reader(images)
    parse = reader.part if name.endswith("attribute") else reader.photo
    read = records(path, parse=lambda row: _record(row, picture_of=parse))
    pictures = {picture.image_id: picture for record in read for picture in record.pictures}
    task = Task(
        name=name,
        pictures=tuple(pictures.values()),
        gallery=(),
        queries=tuple(_shuffled(record.query, number=number) for number, record in enumerate(read)),
        excludes_reference=False,
    )
    repeated = sum(record.num_repeated for record in read)
    return task, [f"{name}: galleries that list the target twice, where it counts once: {repeated}"] if repeated else []


class _Reader:
    """Turns what a record says about a picture into the picture; looks for each file once."""

    def __init__(self, images: Path) -> None:
        self._images, self._coco = images, subfolder(images, _COCO_FOLDERS)
        self._known: dict[str, Picture] = {}

    def photo(self, row: Mapping[str, Any]) -> Picture:
        number = whole(row, "val_image_id")
        path = self._coco / f"{number:012d}.jpg"
        return Picture(image=PoolImage(image_id=str(number), path=path))

    def part(self, row: Mapping[str, Any]) -> Picture:
        number, box = whole(row, "image_id"), _box(row)
        if (name := str(number)) not in self._known:
            places = [f"{folder}/{name}.jpg" for folder in _VG_FOLDERS] + [f"{name}.jpg"]
            self._known[name] = located(self._images, places, image_id=name)
        image_id = f"{name}@{','.join(f'{side:g}' for side in box)}"
        return Picture(image=replace(self._known[name].image, image_id=image_id), box=box)


def _record(row: Mapping[str, Any], *, picture_of: PictureOf) -> _Record:
    reference, target = (
        _picture(value_of(row, key), key=key, picture_of=picture_of) for key in ("reference", "target")
    )
    listed = value_of(row, "gallery")
    if not isinstance(listed, list) or not listed:
        raise ValueError(f"gallery: got {listed!r:.60}, expected a list that is not empty")
    others = [_picture(one, key="gallery", picture_of=picture_of) for one in listed]
    distinct = {picture.image_id: picture for picture in (target, *others)}
    if reference.image_id in distinct:
        raise ValueError(f"gallery: holds the reference {reference.image_id}")
    if len({one.image_id for one in others}) < len(others):
        raise ValueError("gallery: names a picture twice")
    query = Query(
        query_id="",
        reference=reference.image_id,
        texts=(words(row, "condition"),),
        targets=(target.image_id,),
        gallery=tuple(distinct),
    )
    return _Record(query, (reference, *distinct.values()), num_repeated=len(others) + 1 - len(distinct))


def _picture(row: Any, *, key: str, picture_of: PictureOf) -> Picture:
    try:
        return picture_of(row if isinstance(row, dict) else {})
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error


_LARGEST_SIDE = 10**6


def _box(row: Mapping[str, Any]) -> Box:
    sides = value_of(row, "instance_bbox")
    is_box = isinstance(sides, list) and len(sides) == 4 and all(isinstance(side, int | float) for side in sides)
    # Compared, not converted: JSON's NaN is in no range, and a number of 400 digits is no float.
    if not is_box or not all(abs(side) < _LARGEST_SIDE for side in sides) or min(sides[2:]) <= 0:
        raise ValueError(f"instance_bbox: got {sides!r:.60}, expected left, top, width and height")
    return Box(*map(float, sides))


def _shuffled(query: Query, *, number: int) -> Query:
    """Published files and loaders put the target at a fixed place; whoever reads this gallery cannot gain by it."""
    order = np.random.default_rng(number).permutation(len(query.gallery))
    return replace(query, query_id=str(number), gallery=tuple(query.gallery[place] for place in order))
