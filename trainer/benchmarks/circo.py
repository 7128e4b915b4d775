"""CIRCO (arXiv 2303.15247): several right answers a query, over the unlabelled pictures of COCO 2017."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sightline.data.lines import checked_object, collect, read_json
from sightline.data.pools import PoolImage
from sightline.errors import DataLineInvalid, UsageError
from sightline.metrics import mean_average_precision_at, mean_average_precision_at_each, recall_at_each
from trainer.benchmarks.annotations import (
    Counts,
    Files,
    absent,
    check_ids,
    found,
    is_folder,
    is_published,
    known,
    names,
    records,
    subfolder,
    whole,
    wholes,
    words,
)
from trainer.benchmarks.protocol import Benchmark, Picture, Query, Task
from trainer.benchmarks.ranking import Ranked, Scores, relevant_ranks, target_ranks

KS = (5, 10, 25, 50)
ASPECT_K = 10
SUBMITTED = 50
PUBLISHED = {
    "val": Counts(num_queries=220, gallery_size=123_403),
    "test": Counts(num_queries=800, gallery_size=123_403),
}
GALLERY_FILE = "image_info_unlabeled2017.json"
HOW_TO_GET = (
    "CIRCO searches the unlabelled pictures of COCO 2017: unlabeled2017.zip and image_info_unlabeled2017.zip of "
    "cocodataset.org; give the folder that holds unlabeled2017/"
)


@dataclass(frozen=True)
class _Record:
    query: Query
    number: int


def read(files: Files) -> Benchmark:
    """One split of CIRCO. Raises UsageError or DataLineInvalid naming file, record and key."""
    path, gallery_path = _annotations(files)
    pictures = _gallery(gallery_path, images=files.images)
    ids = {picture.image_id for picture in pictures}
    where = gallery_path or files.images
    parsed = records(path, parse=lambda row: _record(row, split=files.split, ids=ids, where=where))
    check_ids(path, (record.query.query_id for record in parsed), key="id")
    _check_contiguous(path, [record.number for record in parsed])
    task = Task(
        name="circo",
        pictures=pictures,
        gallery=tuple(picture.image_id for picture in pictures),
        queries=tuple(record.query for record in parsed),
        excludes_reference=False,
    )
    return Benchmark(
        name="circo",
        split=files.split,
        tasks=(task,),
        annotations=(path,) if gallery_path is None else (path, gallery_path),
        ks={"map": KS, "recall": KS, "aspect_map": (ASPECT_K,)},
        caption_mode="relative caption",
        is_published=is_published(task, counts=PUBLISHED[files.split], source=path),
        how_to_get_pictures=HOW_TO_GET,
    )


def scores(ranked: Mapping[str, Sequence[Ranked]]) -> Scores:
    """mAP@k over all answers, recall@k of the annotated target, and mAP@10 of each semantic aspect."""
    queries = ranked["circo"]
    whole_set = mean_average_precision_at_each(KS, rank_QR=relevant_ranks(queries))
    table = {"all": whole_set | recall_at_each(KS, rank_Q=target_ranks(queries))}
    for aspect in sorted({aspect for one in queries for aspect in one.query.aspects}):
        ranks = relevant_ranks([one for one in queries if aspect in one.query.aspects])
        table[aspect] = {f"map_at_{ASPECT_K}": mean_average_precision_at(ASPECT_K, rank_QR=ranks)}
    return table


def _annotations(files: Files) -> tuple[Path, Path | None]:
    """(the queries, COCO's list of the gallery if it lies beside them or beside the pictures)."""
    if files.split not in PUBLISHED:
        raise UsageError(f"split: got {files.split!r}, CIRCO has {', '.join(PUBLISHED)}")
    path, folder = files.annotations, files.annotations
    if is_folder(path):
        path = found(path, [f"{at}{files.split}.json" for at in ("annotations/", "", "circo_")])
    else:
        folder = path.parent
    places = [folder, folder / "annotations", files.images, files.images / "annotations", files.images.parent]
    places.append(files.images.parent / "annotations")
    return path, next((at / GALLERY_FILE for at in places if (at / GALLERY_FILE).is_file()), None)


def _gallery(path: Path | None, *, images: Path) -> tuple[Picture, ...]:
    folder = subfolder(images, ["unlabeled2017"])
    if path is None:
        return _gallery_of_folder(folder)
    value = read_json(path)
    listed = value.get("images") if isinstance(value, dict) else None
    if not isinstance(listed, list):
        raise DataLineInvalid(f"{path}: images: expected COCO's list of pictures")
    rows = ((f"{path}: images: record {number}", row) for number, row in enumerate(listed))
    ids = collect(rows, parse=lambda row: whole(checked_object(row), "id"), skip_bad=False, report=None)
    check_ids(path, map(str, ids), key="images.id")
    return tuple(_picture(image_id, folder=folder) for image_id in ids)


def _gallery_of_folder(folder: Path) -> tuple[Picture, ...]:
    """Every picture there is, named by its number; which are missing cannot be told without COCO's list."""
    ids = sorted(int(path.stem) for path in folder.glob("*.jpg") if path.stem.isdecimal())
    if not ids:
        raise UsageError(f"{folder}: holds no picture named as 000000000001.jpg, and no {GALLERY_FILE}. {HOW_TO_GET}")
    return tuple(_picture(image_id, folder=folder) for image_id in ids)


def _picture(image_id: int, *, folder: Path) -> Picture:
    return Picture(image=PoolImage(image_id=str(image_id), path=folder / f"{image_id:012d}.jpg"))


def _record(row: Mapping[str, Any], *, split: str, ids: set[str], where: Path) -> _Record:
    number = whole(row, "id")
    reference = known(str(whole(row, "reference_img_id")), key="reference_img_id", among=ids, where=where)
    words(row, "shared_concept")
    query = Query(
        query_id=str(number),
        reference=reference,
        texts=(words(row, "relative_caption"),),
        targets=_targets(row, reference=reference, ids=ids, where=where) if split == "val" else (),
        aspects=names(row, "semantic_aspects") if split == "val" else (),
    )
    for key in ("target_img_id", "gt_img_ids") if split == "test" else ():
        absent(row, key, split="CIRCO test")
    return _Record(query, number)


def _targets(row: Mapping[str, Any], *, reference: str, ids: set[str], where: Path) -> tuple[str, ...]:
    target = whole(row, "target_img_id")
    targets = wholes(row, "gt_img_ids")
    if targets[0] != target:
        raise ValueError(f"gt_img_ids: begins with {targets[0]}, expected target_img_id {target}")
    if reference in map(str, targets):
        raise ValueError(f"gt_img_ids: holds the reference {reference}")
    return tuple(known(str(one), key="gt_img_ids", among=ids, where=where) for one in targets)


def _check_contiguous(path: Path, numbers: Sequence[int]) -> None:
    if sorted(numbers) != list(range(len(numbers))):
        lost = min(set(range(len(numbers))) - set(numbers))
        raise DataLineInvalid(f"{path}: id: {lost} is missing; {len(numbers)} queries are numbered from 0 on")
