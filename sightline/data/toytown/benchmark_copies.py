"""Toytown's composed queries as CIRCO, CIRR, FashionIQ and GeneCIS publish theirs, so that their readers run on them.

The layouts and keys are those of CIRCO (arXiv 2303.15247), CIRR (2108.04024, rc2), FashionIQ (1905.12794) and GeneCIS
(2306.07969). Where a split hides its answers they stand beside it, in a file `answers_*.json` that nobody publishes.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from sightline.data.lines import write_json
from sightline.data.toytown.composed import ComposedPlan, planned_again
from sightline.data.toytown.edit_words import SOMETHING_ELSE, TEMPLATES, worded
from sightline.data.toytown.families import ComposedQuery, ComposedSplit, changes_from
from sightline.data.toytown.genecis_copy import genecis_records
from sightline.data.toytown.language import things_of
from sightline.data.toytown.probes import loose_targets
from sightline.data.toytown.world import PLACES
from sightline.data.triplets import COMPOSED_FOLDER

CATEGORIES = ("dress", "shirt", "toptee")
_ASPECTS = {
    **{"count": "cardinality", "add": "addition", "remove": "negation", "replace": "compare_change"},
    **{"colour": "compare_change", "place": "spatial_relations_background", "time": "spatial_relations_background"},
    "weather": "spatial_relations_background",
}
_CIRR_SPLITS = {"val": ("val", "dev"), "test": ("test1", "test1")}
"""The name of each of our splits, and how its pictures' names begin."""


def write_benchmark_copies(root: Path) -> dict[str, Path]:
    """The folder of each benchmark below `composed/benchmarks/` of the Toytown at `root`, annotations and pictures.

    'circo': `annotations/{val,test}.json` over one gallery of both splits, half of
    the queries loose ("in another place") with every right answer. 'cirr':
    `captions/`, `image_splits/`, subsets of six. 'fashioniq': families in three
    categories, two captions a query. 'genecis': `<task>.json` of the test split.
    Raises UsageError if `write_composed` wrote nothing there.
    """
    plan = planned_again(root)
    out = root / COMPOSED_FOLDER / "benchmarks"
    images = root / COMPOSED_FOLDER / "images"
    writers = {"circo": _write_circo, "cirr": _write_cirr, "fashioniq": _write_fashioniq, "genecis": _write_genecis}
    for name, write in writers.items():
        write(out / name, plan, images)
    return {name: out / name for name in writers}


def picture_numbers(plan: ComposedPlan) -> dict[str, int]:
    """A whole number for each picture of both splits, as COCO and Visual Genome name theirs."""
    ids = (item.image_id for split in plan.splits for item in split.gallery)
    return {image_id: number for number, image_id in enumerate(ids, start=1)}


def _write_circo(out: Path, plan: ComposedPlan, images: Path) -> None:
    numbers = picture_numbers(plan)
    everything = {image_id: scene for split in plan.splits for image_id, scene in split.scenes.items()}
    _write_jpegs(out / "unlabeled2017", numbers, images=images)
    listed = [{"id": number, "file_name": f"{number:012d}.jpg"} for number in numbers.values()]
    write_json(out / "annotations" / "image_info_unlabeled2017.json", {"images": listed})
    for split in plan.splits:
        rng = random.Random(f"circo {split.name} {plan.world.seed}")
        rows = [
            _circo_row(query, number=number, numbers=numbers, targets=targets, text=text, rng=rng)
            for number, query in enumerate(split.queries)
            for text, targets in [_circo_question(query, number=number, everything=everything, rng=rng)]
        ]
        hidden = ("target_img_id", "gt_img_ids", "semantic_aspects") if split.name == "test" else ()
        shown = [{key: value for key, value in row.items() if key not in hidden} for row in rows]
        write_json(out / "annotations" / f"{split.name}.json", shown)
        if hidden:
            write_json(out / "annotations" / "answers_test.json", {row["id"]: row["gt_img_ids"] for row in rows})


def _circo_question(
    query: ComposedQuery, *, number: int, everything: Mapping[str, Any], rng: random.Random
) -> tuple[str, tuple[str, ...]]:
    """(text, right answers): every other query is asked loosely, if its type can be."""
    edit_type = query.change.edit_type
    if number % 2 or edit_type not in SOMETHING_ELSE:
        return query.text, (query.target_id,)
    text = worded(SOMETHING_ELSE[edit_type], change=query.change, rng=rng)
    return text, loose_targets(query, changes=changes_from(query.change.reference, everything))


def _circo_row(
    query: ComposedQuery,
    *,
    number: int,
    numbers: Mapping[str, int],
    targets: tuple[str, ...],
    text: str,
    rng: random.Random,
) -> dict[str, Any]:
    return {
        "reference_img_id": numbers[query.reference_id],
        "target_img_id": numbers[query.target_id],
        "relative_caption": text,
        "shared_concept": _shared(query, rng=rng),
        "gt_img_ids": [numbers[target] for target in targets],
        "id": number,
        "semantic_aspects": [_ASPECTS[query.change.edit_type]],
    }


def _shared(query: ComposedQuery, *, rng: random.Random) -> str:
    """What reference and target have in common: a thing, or where they are."""
    common = [group for group in query.change.reference.groups if group in query.change.target.groups]
    where = PLACES[query.change.reference.place]
    return things_of(common[0], rng=rng) if common else f"a picture {where}"


def _write_cirr(out: Path, plan: ComposedPlan, images: Path) -> None:
    for split in plan.splits:
        name, prefix = _CIRR_SPLITS[split.name]
        names = {item.image_id: f"{prefix}-{number}-0-img0" for number, item in enumerate(split.gallery)}
        _copy_pngs(out / prefix, names, images=images)
        write_json(
            out / "image_splits" / f"split.rc2.{name}.json", {one: f"./{prefix}/{one}.png" for one in names.values()}
        )
        rows = [_cirr_row(query, number=number, names=names) for number, query in enumerate(split.queries)]
        if split.name == "test":
            write_json(out / "captions" / "answers_test1.json", {row["pairid"]: row["target_hard"] for row in rows})
            rows = [_without_target(row) for row in rows]
        write_json(out / "captions" / f"cap.rc2.{name}.json", rows)


def _cirr_row(query: ComposedQuery, *, number: int, names: Mapping[str, str]) -> dict[str, Any]:
    target = names[query.target_id]
    return {
        "pairid": number,
        "reference": names[query.reference_id],
        "target_hard": target,
        "target_soft": {target: 1.0},
        "caption": query.text,
        "img_set": {
            "id": query.family,
            "members": [names[image_id] for image_id in query.subset_ids],
            "reference_rank": query.subset_ids.index(query.reference_id),
            "target_rank": query.subset_ids.index(query.target_id),
        },
    }


def _without_target(row: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in row.items() if not key.startswith("target_")}
    return kept | {"img_set": {key: value for key, value in row["img_set"].items() if key != "target_rank"}}


def _write_fashioniq(out: Path, plan: ComposedPlan, images: Path) -> None:
    numbers = picture_numbers(plan)
    asins = {image_id: f"B{number:09d}" for image_id, number in numbers.items()}
    _copy_pngs(out / "images", asins, images=images)
    for split in plan.splits:
        for number, category in enumerate(CATEGORIES):
            ending = f"{category}.{split.name}.json"
            gallery = [asins[item.image_id] for item in split.gallery if (item.family or 0) % 3 == number]
            write_json(out / "image_splits" / f"split.{ending}", gallery)
            rows = list(_fashioniq_rows(split, category=number, asins=asins, seed=plan.world.seed))
            write_json(out / "captions" / f"cap.{ending}", rows)


def _fashioniq_rows(
    split: ComposedSplit, *, category: int, asins: Mapping[str, str], seed: int
) -> Iterator[dict[str, Any]]:
    """Two captions of each query: two wordings of its one edit."""
    rng = random.Random(f"fashioniq {split.name} {category} {seed}")
    for query in split.queries:
        if query.family % 3 == category:
            templates = rng.sample(TEMPLATES[query.change.edit_type][split.name], k=2)
            captions = [worded(template, change=query.change, rng=rng) for template in templates]
            target = {"target": asins[query.target_id]} if split.name == "val" else {}
            yield {**target, "candidate": asins[query.reference_id], "captions": captions}


def _write_genecis(out: Path, plan: ComposedPlan, images: Path) -> None:
    numbers = picture_numbers(plan)
    split = plan.splits[-1]
    shown = {image_id: numbers[image_id] for image_id in split.scenes}
    for folder, name in (("val2017", "{:012d}.jpg"), ("VG_100K", "{}.jpg")):
        _write_jpegs(out / folder, shown, images=images, name=name)
    records = genecis_records(split, numbers=numbers, picture_size=plan.world.picture_size, seed=plan.world.seed)
    for task, rows in records.items():
        write_json(out / f"{task}.json", rows)


def _write_jpegs(folder: Path, numbers: Mapping[str, int], *, images: Path, name: str = "{:012d}.jpg") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for image_id, number in numbers.items():
        with Image.open(images / f"{image_id}.png") as picture:
            picture.save(folder / name.format(number), format="JPEG", quality=95, subsampling=0)


def _copy_pngs(folder: Path, names: Mapping[str, str], *, images: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for image_id, name in names.items():
        shutil.copyfile(images / f"{image_id}.png", folder / f"{name}.png")
