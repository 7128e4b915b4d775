"""Composed queries at size, beside a Toytown that is there: `composed/`, whose files leave the world's as they are."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from sightline.data.captions import CaptionRecord, write_captions
from sightline.data.lines import read_json, write_json, write_lines
from sightline.data.pools import PoolImage, write_pool
from sightline.data.toytown.caption_edits import caption_edits, whole_caption
from sightline.data.toytown.ceilings import ceilings
from sightline.data.toytown.changes import HeldOut, held_out_of, told_facts
from sightline.data.toytown.edit_words import TEMPLATES
from sightline.data.toytown.families import (
    PICTURES_PER_FAMILY,
    QUERIES_PER_FAMILY,
    ComposedQuery,
    ComposedSplit,
    GalleryScene,
    make_split,
)
from sightline.data.toytown.plan import PlannedScene
from sightline.data.toytown.probes import probe_rows
from sightline.data.toytown.world import Group, Scene, Subject
from sightline.data.toytown.writer import OnProgress, ToytownSummary, draw_all
from sightline.data.triplets import COMPOSED_FOLDER
from sightline.errors import UsageError

SPLITS = ("val", "test")


@dataclass(frozen=True, kw_only=True)
class World:
    """A Toytown as it stands in its `facts.json`."""

    root: Path
    seed: int
    subjects: tuple[Subject, ...]
    planned: tuple[PlannedScene, ...]

    @property
    def picture_size(self) -> int:
        """Pixels a side of its pictures."""
        with Image.open(self.root / "images" / f"{self.planned[0].image_id}.png") as picture:
            return picture.width


@dataclass(frozen=True, kw_only=True)
class ComposedPlan:
    """Both splits, and what edits to train on must avoid."""

    world: World
    held_out: HeldOut
    splits: tuple[ComposedSplit, ...]
    """In the order of `SPLITS`; no two pictures of both tell the same facts, but for references shown again."""


def write_composed(
    root: Path,
    *,
    queries: int = 600,
    gallery: int = 1200,
    val_queries: int = 200,
    edits_per_type: int = 2,
    on_progress: OnProgress | None = None,
) -> ToytownSummary:
    """A folder `composed` in the Toytown at `root`; the same world and arguments write the same bytes.

    `images/`, `gallery_{val,test}.jsonl`, `queries_{val,test}.jsonl` (read as triplets;
    exactly one right answer each), `captions_{val,test}.jsonl` that tell every fact of
    the galleries' pictures, for ceilings alone, `probes.jsonl` about the test gallery,
    `edits_{train,val}.jsonl` from captioned pictures of the world's `train` and `val`
    (up to `edits_per_type` of each type and picture), `ceilings.json`, `facts.json`. The
    validation gallery is as large for its queries as the test gallery for its own.
    Raises UsageError if there is no Toytown or the gallery has fewer than two
    pictures a query, whole dozens of queries counted.
    """
    plan = plan_composed(root, queries=queries, gallery=gallery, val_queries=val_queries)
    out = root / COMPOSED_FOLDER
    planned = [
        PlannedScene(image_id=item.image_id, split=f"edited_{split.name}", scene=item.scene)
        for split in plan.splits
        for item in split.gallery
    ]
    draw_all(planned, images=_cleared(out / "images"), size=plan.world.picture_size, on_progress=on_progress)
    lines = _write_splits(out, plan=plan) | _write_edits(out, plan=plan, per_type=edits_per_type)
    arguments = {"queries": queries, "gallery": gallery, "val_queries": val_queries, "edits_per_type": edits_per_type}
    write_json(out / "facts.json", _facts(plan, arguments=arguments))
    write_json(out / "ceilings.json", {split.name: ceilings(split) for split in plan.splits})
    return ToytownSummary(folder=out, seed=plan.world.seed, lines=lines, num_pictures=len(planned))


def plan_composed(root: Path, *, queries: int, gallery: int, val_queries: int) -> ComposedPlan:
    """What `write_composed` writes for the Toytown at `root`, in memory. Raises UsageError as it does."""
    needed = -(-queries // QUERIES_PER_FAMILY) * PICTURES_PER_FAMILY
    if min(queries, val_queries) < 1 or gallery < needed:
        raise UsageError(f"composed: got {gallery} pictures for {queries} and {val_queries} queries, limit {needed}")
    world = read_world(root)
    held_out = held_out_of(seed=world.seed)
    known = {told_facts(item.scene) for item in world.planned}
    splits = [
        make_split(
            name,
            num_queries=count,
            num_pictures=gallery * count // queries,
            subjects=world.subjects,
            held_out=held_out,
            known=known,
            seed=world.seed,
        )
        for name, count in zip(SPLITS, (val_queries, queries), strict=True)
    ]
    return ComposedPlan(world=world, held_out=held_out, splits=tuple(splits))


def planned_again(root: Path) -> ComposedPlan:
    """The plan of the `composed` folder that was written at `root`. Raises UsageError if there is none."""
    made = read_json(root / COMPOSED_FOLDER / "facts.json")["arguments"]
    return plan_composed(root, queries=made["queries"], gallery=made["gallery"], val_queries=made["val_queries"])


def read_world(root: Path) -> World:
    """The Toytown at `root`. Raises UsageError if there is none."""
    facts = read_json(root / "facts.json")
    planned = (
        PlannedScene(image_id=image_id, split=row["split"], scene=_scene(row))
        for image_id, row in facts["scenes"].items()
    )
    subjects = tuple(Subject(**row) for row in facts["subjects"])
    return World(root=root, seed=facts["seed"], subjects=subjects, planned=tuple(planned))


def _scene(row: Mapping[str, Any]) -> Scene:
    return Scene(
        place=row["place"],
        time=row["time"],
        weather=row["weather"],
        groups=tuple(Group(**group) for group in row["groups"]),
        layout_seed=row["layout_seed"],
    )


def _cleared(images: Path) -> Path:
    images.mkdir(parents=True, exist_ok=True)
    for path in images.glob("edited_*.png"):
        path.unlink()
    return images


def _write_splits(out: Path, *, plan: ComposedPlan) -> dict[str, int]:
    lines: dict[str, int] = {}
    for split in plan.splits:
        gallery, queries = f"gallery_{split.name}.jsonl", f"queries_{split.name}.jsonl"
        pool = (PoolImage(image_id=item.image_id, path=_picture(out, item)) for item in split.gallery)
        lines[gallery] = write_pool(out / gallery, pool)
        lines |= _write_captions(out, split=split, seed=plan.world.seed)
        lines[queries] = write_lines(out / queries, (query_row(query) for query in split.queries))
    probes = probe_rows(plan.splits[-1], seed=plan.world.seed)
    return lines | {"probes.jsonl": write_lines(out / "probes.jsonl", probes)}


def _write_captions(out: Path, *, split: ComposedSplit, seed: int) -> dict[str, int]:
    rng, name = random.Random(f"captions of {split.name} {seed}"), f"captions_{split.name}.jsonl"
    captions = (
        CaptionRecord(image_id=item.image_id, path=_picture(out, item), caption=whole_caption(item.scene, rng=rng))
        for item in split.gallery
    )
    return {name: write_captions(out / name, captions)}


def _picture(out: Path, item: GalleryScene) -> Path:
    return out / "images" / f"{item.image_id}.png"


def query_row(query: ComposedQuery) -> dict[str, Any]:
    """The JSON object of a query: a triplet, and more about it."""
    return {
        "id": query.id,
        "reference_id": query.reference_id,
        "text": query.text,
        "target_ids": [query.target_id],
        "edit_type": query.change.edit_type,
        "is_held_out": query.is_held_out,
        "family": query.family,
        "subset_ids": list(query.subset_ids),
    }


def _write_edits(out: Path, *, plan: ComposedPlan, per_type: int) -> dict[str, int]:
    avoid = {told_facts(item.scene) for split in plan.splits for item in split.gallery}
    lines: dict[str, int] = {}
    for part in ("train", "val"):
        rows = caption_edits(
            [item for item in plan.world.planned if item.split == part],
            part=part,
            per_type=per_type,
            subjects=plan.world.subjects,
            held_out=plan.held_out,
            avoid=avoid,
            seed=plan.world.seed,
        )
        lines[f"edits_{part}.jsonl"] = write_lines(out / f"edits_{part}.jsonl", rows)
    return lines


def _facts(plan: ComposedPlan, *, arguments: Mapping[str, int]) -> dict[str, Any]:
    held_out: dict[str, Sequence[Any]] = {
        "things": sorted(plan.held_out.things),
        "settings": sorted(plan.held_out.settings),
    }
    scenes = {
        item.image_id: {
            "split": split.name,
            "family": item.family,
            "layout_seed": item.scene.layout_seed,
            **item.scene.facts(),
        }
        for split in plan.splits
        for item in split.gallery
    }
    return {
        "seed": plan.world.seed,
        "arguments": dict(arguments),
        "held_out": held_out,
        "templates": TEMPLATES,
        "scenes": scenes,
    }
