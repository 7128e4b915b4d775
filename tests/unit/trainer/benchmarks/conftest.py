"""Every benchmark in small: drawn pictures under the names, and records in the schema, of the published files."""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sightline.data.pools import PoolImage, write_pool
from sightline.data.triplets import TripletRecord, write_triplets
from sightline.testing.tiny_releases import save_tiny_encoder
from trainer.benchmarks import circo
from trainer.benchmarks.annotations import Files
from trainer.benchmarks.protocol import Benchmark
from trainer.benchmarks.run import KINDS

NUM_PICTURES = 56
"""More than the 50 that a server wants of each query."""
WriteFiles = Callable[[str], Files]


@pytest.fixture(scope="session")
def tiny_release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an untrained encoder."""
    folder = tmp_path_factory.mktemp("release")
    torch.manual_seed(0)
    save_tiny_encoder(folder)
    return folder


@pytest.fixture
def small(tmp_path: Path) -> WriteFiles:
    """Writes the files of a benchmark by its name, and says where they lie."""

    def write(name: str) -> Files:
        return _WRITERS[name](tmp_path / name)

    return write


@pytest.fixture(scope="session")
def genuine(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Benchmark]:
    """Reads a published benchmark, once, without its pictures; CIRCO's gallery is made up, of the published size."""
    nowhere = tmp_path_factory.mktemp("pictures")

    @functools.cache
    def read(name: str, split: str) -> Benchmark:
        folder = shared_data / "cir_annotations"
        images = _circo_gallery(nowhere, folder) if name == "circo" else nowhere
        return KINDS[name].read(Files(annotations=folder, images=images, split=split))

    return read


def _circo_gallery(images: Path, folder: Path) -> Path:
    rows = [row for split in ("val", "test") for row in json.loads((folder / f"circo_{split}.json").read_text())]
    ids = {row["reference_img_id"] for row in rows} | {one for row in rows for one in row.get("gt_img_ids", [])}
    others = (number for number in range(1, 10**6) if number not in ids)
    ids |= {next(others) for _ in range(circo.PUBLISHED["val"].gallery_size - len(ids))}
    listed = {"images": [{"id": number} for number in sorted(ids)]}
    (images / circo.GALLERY_FILE).write_text(json.dumps(listed), encoding="utf-8")
    return images


def _draw(paths: Sequence[Path]) -> None:
    for folder in {path.parent for path in paths}:
        folder.mkdir(parents=True, exist_ok=True)
    for path, data in zip(paths, _drawn(), strict=False):
        path.write_bytes(data)


@functools.cache
def _drawn() -> tuple[bytes, ...]:
    """Different pictures, encoded once; readers go by their first bytes and not by their names."""
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (NUM_PICTURES, 4, 5, 3), dtype=np.uint8).repeat(8, axis=1).repeat(8, axis=2)
    return tuple(_encoded(Image.fromarray(pixels)) for pixels in colours)


def _encoded(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


def _save(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def _circo(root: Path) -> Files:
    _draw([root / f"unlabeled2017/{number:012d}.jpg" for number in range(1, NUM_PICTURES + 1)])
    hidden = [
        {"id": at, "reference_img_id": at + 1, "relative_caption": f"is darker {at}", "shared_concept": "a dog"}
        for at in range(4)
    ]
    answers = [
        {"target_img_id": at + 11, "gt_img_ids": [at + 11, at + 21], "semantic_aspects": ["negation", f"kind {at % 2}"]}
        for at in range(4)
    ]
    _save(root / "annotations/test.json", hidden)
    _save(root / "annotations/val.json", [row | more for row, more in zip(hidden, answers, strict=True)])
    return Files(annotations=root, images=root, split="val")


def _cirr(root: Path) -> Files:
    for split, folder in (("val", "dev"), ("test1", "test1")):
        names = [f"{folder}-{number}-0-img{number % 2}" for number in range(NUM_PICTURES)]
        _draw([root / folder / f"{name}.png" for name in names])
        _save(root / f"image_splits/split.rc2.{split}.json", {name: f"./{folder}/{name}.png" for name in names})
        rows = [_cirr_row(names[at : at + 6], pairid=100 + at) for at in range(5)]
        hidden = [{key: value for key, value in row.items() if not key.startswith("target")} for row in rows]
        _save(root / f"captions/cap.rc2.{split}.json", rows if split == "val" else hidden)
    return Files(annotations=root, images=root, split="val")


def _cirr_row(members: list[str], *, pairid: int) -> dict[str, Any]:
    return {
        "pairid": pairid,
        "reference": members[0],
        "target_hard": members[3],
        "target_soft": {members[3]: 1.0},
        "caption": "show one more of them",
        "img_set": {"id": pairid, "members": members, "reference_rank": 0, "target_rank": 3},
    }


def _fashioniq(root: Path) -> Files:
    for category in ("dress", "shirt", "toptee"):
        asins = [f"B00{category.upper()}{number}" for number in range(12)]
        _draw([root / f"images/{asin}.{'png' if at % 2 else 'jpg'}" for at, asin in enumerate(asins)])
        rows = [
            {"candidate": asins[at], "target": asins[at + 5], "captions": [" is red.", "and longer? "]}
            for at in range(4)
        ]
        _save(root / f"captions/cap.{category}.val.json", rows)
        _save(root / f"image_splits/split.{category}.val.json", asins)
    return Files(annotations=root, images=root / "images", split="val")


def _genecis(root: Path) -> Files:
    _draw([root / f"val2017/{number:012d}.jpg" for number in range(20)])
    _draw([root / f"VG_100K{'_2' if number % 2 else ''}/{number}.jpg" for number in range(20)])
    for task in ("focus_attribute", "change_attribute", "focus_object", "change_object"):
        named = _part if task.endswith("attribute") else _photo
        rows = [
            {
                "condition": "red",
                "reference": named(at),
                "target": named(at + 1),
                "gallery": [named(at + 2 + other) for other in range(4)],
            }
            for at in range(12)
        ]
        _save(root / f"genecis/{task}.json", rows)
    return Files(annotations=root, images=root, split="val")


def _photo(number: int) -> dict[str, Any]:
    return {"val_image_id": number}


def _part(number: int) -> dict[str, Any]:
    return {"image_id": number, "instance_bbox": [number, 4, 12, 9.5]}


def _triplets(root: Path) -> Files:
    images = [PoolImage(image_id=f"p{number}", path=root / f"images/{number}.png") for number in range(14)]
    _draw([image.path for image in images])
    write_pool(root / "pool.jsonl", images)
    records = [
        TripletRecord(reference_id=f"p{at}", text="the same at night", target_ids=(f"p{at + 1}", f"p{at + 7}"))
        for at in range(6)
    ]
    write_triplets(root / "triplets.jsonl", records)
    return Files(annotations=root / "triplets.jsonl", images=root / "pool.jsonl", split="val")


_WRITERS: dict[str, Callable[[Path], Files]] = {
    "circo": _circo,
    "cirr": _cirr,
    "fashioniq": _fashioniq,
    "genecis": _genecis,
    "triplets": _triplets,
}
