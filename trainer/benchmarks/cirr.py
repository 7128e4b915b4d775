"""CIRR (arXiv 2108.04024), annotations rc2: pictures of NLVR2, and a ranking among six that look alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sightline.data.lines import read_json
from sightline.data.pools import PoolImage
from sightline.errors import DataLineInvalid, UsageError
from sightline.metrics import recall_at_each
from trainer.benchmarks.annotations import (
    Counts,
    Files,
    absent,
    check_ids,
    found,
    is_folder,
    is_published,
    known,
    listed,
    names,
    records,
    said,
    value_of,
    whole,
    words,
)
from trainer.benchmarks.protocol import Benchmark, Picture, Query, Task
from trainer.benchmarks.ranking import Ranked, Scores, subset_ranks, target_ranks

KS, SUBSET_KS = (1, 5, 10, 50), (1, 2, 3)
SUBMITTED, SUBMITTED_OF_SUBSET = 50, 3
NUM_MEMBERS = 6
PUBLISHED = {
    "train": Counts(num_queries=28_225, gallery_size=16_939),
    "val": Counts(num_queries=4_181, gallery_size=2_297),
    "test1": Counts(num_queries=4_148, gallery_size=2_315),
}
HOW_TO_GET = (
    "CIRR's pictures are those of NLVR2, given out on request (lil.nlp.cornell.edu/nlvr); "
    "give the folder that holds dev/ and test1/"
)


def read(files: Files) -> Benchmark:
    """One split of CIRR. Raises UsageError or DataLineInvalid naming file, record and key."""
    split = "test1" if files.split == "test" else files.split
    captions, image_split = _annotations(files.annotations, split=split)
    pictures = _gallery(image_split, images=files.images)
    ids = {picture.image_id for picture in pictures}
    queries = records(captions, parse=lambda row: _query(row, split=split, ids=ids, where=image_split))
    check_ids(captions, (query.query_id for query in queries), key="pairid")
    task = Task(
        name="cirr",
        pictures=pictures,
        gallery=tuple(picture.image_id for picture in pictures),
        queries=tuple(queries),
        excludes_reference=True,
    )
    return Benchmark(
        name="cirr",
        split=split,
        tasks=(task,),
        annotations=(captions, image_split),
        ks={"recall": KS, "subset_recall": SUBSET_KS},
        caption_mode="caption",
        is_published=is_published(task, counts=PUBLISHED[split], source=captions),
        how_to_get_pictures=HOW_TO_GET,
        notes=("annotations rc2", *_note_of_blanks(queries)),
    )


def scores(ranked: Mapping[str, Sequence[Ranked]]) -> Scores:
    """recall@k without the reference, the same among the other members of its set, and the mean of R@5 and Rs@1."""
    queries = ranked["cirr"]
    row = recall_at_each(KS, rank_Q=target_ranks(queries))
    row |= {f"subset_{name}": value for name, value in recall_at_each(SUBSET_KS, rank_Q=subset_ranks(queries)).items()}
    return {"all": row | {"average": (row["recall_at_5"] + row["subset_recall_at_1"]) / 2}}


def _note_of_blanks(queries: Sequence[Query]) -> list[str]:
    blanks = [query.query_id for query in queries if not query.texts[0].strip()]
    return [f"captions that are blank and asked as they are: pairid {listed(blanks)}"] if blanks else []


def _annotations(path: Path, *, split: str) -> tuple[Path, Path]:
    """(captions, image split) of a folder, or of a captions file with its image split beside it or in its folder."""
    if split not in PUBLISHED:
        raise UsageError(f"split: got {split!r}, CIRR has {', '.join(PUBLISHED)}")
    if is_folder(path):
        cap, part = f"cap.rc2.{split}.json", f"split.rc2.{split}.json"
        folders = ("", "cirr/")
        captions = found(path, [*(f"{at}captions/{cap}" for at in folders), cap, f"cirr_{cap}"])
        return captions, found(path, [*(f"{at}image_splits/{part}" for at in folders), part, f"cirr_{part}"])
    if "cap." not in path.name:
        raise UsageError(f"annotations: got {path.name}, expected a file named as cap.rc2.{split}.json")
    part = path.name.replace("cap.", "split.")
    return path, found(path.parent, [part, f"../image_splits/{part}"])


def _gallery(path: Path, *, images: Path) -> tuple[Picture, ...]:
    rows = read_json(path)
    if not isinstance(rows, dict) or not rows:
        raise DataLineInvalid(f"{path}: expected an object from picture to path")
    bad = next((name for name, value in rows.items() if not isinstance(value, str) or not value.strip()), None)
    if bad is not None:
        raise DataLineInvalid(f"{path}: {bad}: got {rows[bad]!r:.60}, expected a path")
    return tuple(Picture(image=PoolImage(image_id=name, path=images / value)) for name, value in rows.items())


def _query(row: Mapping[str, Any], *, split: str, ids: set[str], where: Path) -> Query:
    is_hidden = split == "test1"
    reference = known(words(row, "reference"), key="reference", among=ids, where=where)
    if is_hidden:
        absent(row, "target_hard", split="CIRR test1")
    target = "" if is_hidden else known(words(row, "target_hard"), key="target_hard", among=ids, where=where)
    members = _members(row, ids=ids, where=where)
    for key, name in [("reference", reference)] if is_hidden else [("reference", reference), ("target_hard", target)]:
        if name not in members:
            raise ValueError(f"{key}: {name} is no member of img_set")
    if target == reference:
        raise ValueError(f"target_hard: {target} is the reference")
    return Query(
        query_id=str(whole(row, "pairid")),
        reference=reference,
        texts=(said(row, "caption"),),
        targets=() if is_hidden else (target,),
        subset=tuple(name for name in members if name != reference),
    )


def _members(row: Mapping[str, Any], *, ids: set[str], where: Path) -> tuple[str, ...]:
    image_set = value_of(row, "img_set")
    if not isinstance(image_set, dict):
        raise ValueError(f"img_set: got {image_set!r:.60}, expected an object")
    members = names(image_set, "members")
    if len(members) != NUM_MEMBERS:
        raise ValueError(f"img_set.members: got {len(members)}, expected {NUM_MEMBERS}")
    return tuple(known(name, key="img_set.members", among=ids, where=where) for name in members)
