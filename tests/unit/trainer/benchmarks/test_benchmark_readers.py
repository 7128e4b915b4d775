"""Readers take the published schema and refuse what breaks it, naming file, record and key."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sightline.data.pools import PoolImage
from sightline.errors import DataLineInvalid, UsageError
from trainer.benchmarks import annotations, circo, fashioniq
from trainer.benchmarks.annotations import Files
from trainer.benchmarks.missing import without_missing
from trainer.benchmarks.protocol import Box, Picture
from trainer.benchmarks.run import KINDS

Small = Callable[[str], Files]
FILES = {
    "circo": "annotations/val.json",
    "cirr": "captions/cap.rc2.val.json",
    "fashioniq": "captions/cap.shirt.val.json",
    "genecis": "genecis/focus_attribute.json",
}


def spoil(path: Path, change: Callable[[Any], object]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def refusal(name: str, files: Files) -> str:
    with pytest.raises(UsageError) as caught:
        KINDS[name].read(files)
    return caught.value.message


@pytest.mark.parametrize("name", KINDS)
def test_every_picture_of_a_well_formed_benchmark_is_found(name: str, small: Small, tmp_path: Path) -> None:
    benchmark = KINDS[name].read(small(name))
    assert without_missing(benchmark, allows_missing=False, out=tmp_path / "out") == (benchmark, None)
    assert benchmark.has_targets
    assert not benchmark.is_published


@pytest.mark.parametrize(
    ("name", "key"),
    [
        *(("circo", key) for key in ("id", "reference_img_id", "relative_caption", "shared_concept", "target_img_id")),
        *(("circo", key) for key in ("gt_img_ids", "semantic_aspects")),
        *(("cirr", key) for key in ("pairid", "reference", "target_hard", "caption", "img_set")),
        *(("fashioniq", key) for key in ("candidate", "target", "captions")),
        *(("genecis", key) for key in ("reference", "target", "gallery", "condition")),
    ],
)
def test_a_missing_key_is_named_with_file_and_record(name: str, key: str, small: Small) -> None:
    files = small(name)
    path = files.annotations / FILES[name]
    spoil(path, lambda rows: rows[2].pop(key))
    assert f"{path}: record 2: {key}: is missing" in refusal(name, files)


BREACHES: list[tuple[str, Callable[[Any], object], str]] = [
    ("circo", lambda rows: rows[1].update(reference_img_id=999), "record 1: reference_img_id: picture '999' is not in"),
    ("circo", lambda rows: rows[1].update(gt_img_ids=[12, 999]), "record 1: gt_img_ids: picture '999' is not in"),
    (
        "circo",
        lambda rows: rows[1].update(gt_img_ids=[22, 12]),
        "gt_img_ids: begins with 22, expected target_img_id 12",
    ),
    ("circo", lambda rows: rows[1].update(gt_img_ids=[12, 2]), "gt_img_ids: holds the reference 2"),
    ("circo", lambda rows: rows[1].update(gt_img_ids=[12, 12]), "gt_img_ids: 12 occurs 2 times"),
    ("circo", lambda rows: rows[1].update(id=True), "record 1: id: got True, expected a whole number"),
    ("circo", lambda rows: rows[3].update(id=0), "record 3: id: 0 is that of record 0, too"),
    ("circo", lambda rows: rows[3].update(id=7), "id: 3 is missing"),
    ("circo", lambda rows: rows.clear(), "expected a list of at least one record"),
    ("circo", lambda rows: rows[1].update(relative_caption="a dog \ud83d"), "holds half a letter, "),
    ("cirr", lambda rows: rows[4].update(pairid=100), "record 4: pairid: 100 is that of record 0, too"),
    ("cirr", lambda rows: rows[0].update(target_hard="dev-9-9-img9"), "record 0: target_hard: picture 'dev-9-9-img9'"),
    ("cirr", lambda rows: rows[0].update(target_hard="dev-40-0-img0"), "target_hard: dev-40-0-img0 is no member"),
    ("cirr", lambda rows: rows[0].update(target_hard="dev-0-0-img0"), "target_hard: dev-0-0-img0 is the reference"),
    ("cirr", lambda rows: rows[0]["img_set"]["members"].pop(), "img_set.members: got 5, expected 6"),
    ("cirr", lambda rows: rows[0]["img_set"].pop("members"), "members: is missing"),
    ("fashioniq", lambda rows: rows[3].update(target="B999"), "record 3: target: picture 'B999' is not in the gallery"),
    ("fashioniq", lambda rows: rows[3].update(captions=["is red"]), "record 3: captions: got ['is red'], expected two"),
    ("genecis", lambda rows: rows[5]["target"].pop("instance_bbox"), "record 5: target: instance_bbox: is missing"),
    ("genecis", lambda rows: rows[5]["gallery"].append(rows[5]["reference"]), "record 5: gallery: holds the reference"),
    (
        "genecis",
        lambda rows: rows[5]["gallery"].append(rows[5]["gallery"][0]),
        "record 5: gallery: names a picture twice",
    ),
    (
        "genecis",
        lambda rows: rows[5]["target"].update(instance_bbox=[0, 0, 0, 5]),
        "record 5: target: instance_bbox: got",
    ),
    (
        "genecis",
        lambda rows: rows[5]["target"].update(instance_bbox=[float("inf"), 0, 1, 1]),
        "record 5: target: instance_bbox: got [inf",
    ),
    (
        "genecis",
        lambda rows: rows[5]["target"].update(instance_bbox=[0, 0, float("nan"), 10**400]),
        "record 5: target: instance_bbox: got [0, 0, nan",
    ),
]


@pytest.mark.parametrize(("name", "change", "message"), BREACHES, ids=[message[:50] for *_, message in BREACHES])
def test_a_broken_record_is_named(name: str, change: Callable[[Any], object], message: str, small: Small) -> None:
    files = small(name)
    spoil(files.annotations / FILES[name], change)
    told = refusal(name, files)
    assert message in told
    assert str(files.annotations / FILES[name]) in told


def test_a_file_of_another_split_is_refused(small: Small) -> None:
    for name, told in (("circo", "target_img_id: is there"), ("cirr", "target_hard: is there")):
        files = small(name)
        path = files.annotations / FILES[name]
        hidden = path.with_name(path.name.replace("val", "test" if name == "circo" else "test1"))
        if name == "cirr":
            split = files.annotations / "image_splits/split.rc2.val.json"
            split.with_name("split.rc2.test1.json").write_text(split.read_text())
        hidden.write_text(path.read_text())
        assert told in refusal(name, replace(files, split="test"))
    assert "the answers of FashionIQ's test are not public" in refusal(
        "fashioniq", replace(small("fashioniq"), split="test")
    )
    assert "got 'dev', CIRCO has val, test" in refusal("circo", replace(small("circo"), split="dev"))


def test_files_that_are_not_there_are_named_with_where_they_were_sought(small: Small, tmp_path: Path) -> None:
    told = refusal("cirr", replace(small("cirr"), annotations=tmp_path / "none"))
    assert f"{tmp_path}/none/captions/cap.rc2.val.json" in told
    assert "cirr_cap.rc2.val.json" in told
    assert "named as cap.rc2.val.json" in refusal("cirr", replace(small("cirr"), annotations=tmp_path / "x.json"))
    assert "named after its task" in refusal("genecis", replace(small("genecis"), annotations=tmp_path / "x.json"))


def test_broken_galleries_are_named(small: Small) -> None:
    files = small("fashioniq")
    spoil(files.annotations / "image_splits/split.dress.val.json", lambda rows: rows.append(rows[0]))
    assert "article: 'B00DRESS0' occurs 2 times" in refusal("fashioniq", files)
    files = small("cirr")
    spoil(files.annotations / "image_splits/split.rc2.val.json", lambda rows: rows.update({"dev-0-0-img0": 3}))
    assert "dev-0-0-img0: got 3, expected a path" in refusal("cirr", files)
    files = small("triplets")
    spoil_line(files.annotations, '{"reference_id": "p0", "text": "x", "target_ids": ["p77"]}')
    assert "record 6: target_ids: picture 'p77' is not in the gallery" in refusal("triplets", files)


def test_a_picture_that_a_split_names_twice_is_named(small: Small) -> None:
    files = small("cirr")
    path = files.annotations / "image_splits/split.rc2.val.json"
    path.write_text(path.read_text().replace("{", '{"dev-3-0-img1": "./dev/other.png", ', 1))
    assert f"{path}: 'dev-3-0-img1' is named 2 times in one object" in refusal("cirr", files)


def spoil_line(path: Path, line: str) -> None:
    path.write_text(f"{path.read_text()}{line}\n")


def test_coco_lists_the_gallery_of_circo_where_it_lies(small: Small, tmp_path: Path) -> None:
    files = small("circo")
    images = {"images": [{"id": number} for number in range(1, 90)]}
    (files.annotations / "annotations" / circo.GALLERY_FILE).write_text(json.dumps(images))
    benchmark = KINDS["circo"].read(files)
    assert len(benchmark.tasks[0].gallery) == 89
    with pytest.raises(
        UsageError, match=r"33 pictures are missing:\n .*000000000057.jpg(.|\n)*23 more, all of them in .*\n.*cocodata"
    ):
        without_missing(benchmark, allows_missing=False, out=tmp_path / "out")
    listed = (tmp_path / "out/circo-val-missing.txt").read_text().splitlines()
    assert [Path(name).stem for name in listed] == [f"{number:012d}" for number in range(57, 90)]


@pytest.mark.parametrize(
    ("row", "told"), [([7], "got [7], expected a JSON object"), ({"file_name": "7.jpg"}, "id: is missing")]
)
def test_a_broken_entry_of_the_gallery_of_circo_is_named(row: Any, told: str, small: Small) -> None:
    files = small("circo")
    path = files.annotations / "annotations" / circo.GALLERY_FILE
    path.write_text(json.dumps({"images": [{"id": 1}, {"id": 2}, row]}))
    assert f"{path}: images: record 2: {told}" in refusal("circo", files)


def test_a_published_set_of_queries_wants_its_published_gallery(small: Small) -> None:
    task = KINDS["fashioniq"].read(small("fashioniq")).tasks[0]
    ask = [annotations.Counts(num_queries=4, gallery_size=size) for size in (12, 11)]
    assert annotations.is_published(task, counts=ask[0], source=Path("cap.json"))
    with pytest.raises(UsageError, match="got 4 queries over a gallery of 12, published are 4 over 11"):
        annotations.is_published(task, counts=ask[1], source=Path("cap.json"))


def test_what_is_missing_is_left_out_and_counted(small: Small, tmp_path: Path) -> None:
    files = small("cirr")
    for number in (0, 4):  # the reference of query 0; a member of all, reference of 4 and target of 1
        (files.images / "dev" / f"dev-{number}-0-img{number % 2}.png").unlink()
    kept, missing = without_missing(KINDS["cirr"].read(files), allows_missing=True, out=tmp_path / "out")
    assert missing is not None
    assert (missing.num_pictures, missing.num_queries) == (2, 3)
    assert [query.query_id for query in kept.tasks[0].queries] == ["102", "103"]
    assert len(kept.tasks[0].gallery) == 54
    assert all(len(query.subset) == 4 for query in kept.tasks[0].queries)


def test_two_captions_become_both_orders_unless_one_is_asked_for(small: Small) -> None:
    files = small("fashioniq")
    both, one = (KINDS["fashioniq"].read(replace(files, caption_mode=mode)) for mode in ("", fashioniq.GIVEN_ORDER))
    assert both.tasks[0].queries[0].texts == ("is red and and longer", "and longer and is red")
    assert one.tasks[0].queries[0].texts == ("is red and and longer",)
    assert (both.caption_mode, one.caption_mode) == ("both_orders_mean", "given_order")
    assert "caption mode: got 'mean'" in refusal("fashioniq", replace(files, caption_mode="mean"))


@pytest.mark.parametrize(
    ("box", "cut"),
    [
        (Box(50, 40, 10, 20), (43, 26, 60, 60)),  # away from the borders: right and bottom stay where they were
        (Box(3, 40, 10, 20), (0, 26, 17, 60)),  # at the left border the box does grow to the right
        (Box(90, 70, 10, 20), (83, 56, 100, 80)),  # cut off at the picture's end
    ],
)
def test_a_part_grows_to_one_side_as_the_published_loader_has_it(box: Box, cut: tuple[int, int, int, int]) -> None:
    pixels = np.random.default_rng(0).integers(1, 256, (80, 100, 3), dtype=np.uint8)
    left, top, right, bottom = cut
    side = max(right - left, bottom - top)
    expected = np.zeros((side, side, 3), dtype=np.uint8)
    x, y = (side - right + left) // 2, (side - bottom + top) // 2
    expected[y : y + bottom - top, x : x + right - left] = pixels[top:bottom, left:right]
    assert np.array_equal(np.asarray(box.cut(Image.fromarray(pixels))), expected)


@pytest.mark.parametrize("box", [Box(900, 4, 12, 9), Box(40, 40, 0.2, 0.2)])
def test_a_part_that_holds_no_pixel_is_named_with_its_picture(tmp_path: Path, box: Box) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (100, 80)).save(path)
    picture = Picture(image=PoolImage(image_id="7", path=path), box=box)
    said = f"{path} (image_id 7): box: got {tuple(box)}, which holds no pixel of a picture of (100, 80)"
    with pytest.raises(DataLineInvalid, match=re.escape(said)):
        picture.read(min_side=32)


def test_a_picture_whose_name_is_too_long_for_any_file_is_missed(tmp_path: Path) -> None:
    found = annotations.located(tmp_path, ["x" * 300, "y"], image_id="7")
    assert found.image.path == tmp_path / ("x" * 300)


def test_a_broken_picture_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"no picture")
    with pytest.raises(DataLineInvalid, match=re.escape(f"{path} (image_id 7)")):
        Picture(image=PoolImage(image_id="7", path=path)).read(min_side=32)
