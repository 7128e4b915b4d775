"""Toytown on disk: readable by our own readers, the same bytes from the same seed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from sightline.cli.toytown import app
from sightline.data.captions import read_captions
from sightline.data.dialogues import read_dialogues
from sightline.data.pools import read_pool
from sightline.data.questions import read_questions
from sightline.data.toytown import write_toytown
from sightline.data.toytown.writer import MIN_SCENES
from sightline.data.triplets import read_triplets
from sightline.errors import UsageError

WORLD_DIGEST = "e48ee22c1c0b1a13a50a0c7891d14d93ee4df4c679c154cd4eddbc730f12cc9b"
"""Of the text files of a world with strangers: experiments are known by the digests of such files."""


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("town")
    write_toytown(folder, scenes=MIN_SCENES, seed=5, size=16, dialogues=200)
    return folder


def test_our_readers_read_every_file(town: Path) -> None:
    captioned = {split: read_captions(town / f"captions_{split}.jsonl") for split in ("train", "val", "test")}
    pool = read_pool(town / "pool.jsonl")
    ids = [{record.image_id for record in records} for records in captioned.values()]
    ids += [{image.image_id for image in pool}]
    for split in ("train", "val", "test"):
        gallery = {image.image_id for image in read_pool(town / f"gallery_{split}.jsonl")}
        for triplet in read_triplets(town / f"triplets_{split}.jsonl"):
            assert {triplet.reference_id, *triplet.target_ids} <= gallery
        ids.append(gallery)
    assert sum(map(len, ids)) == len(set.union(*ids)) == MIN_SCENES
    assert len(read_dialogues(town / "dialogues_train.jsonl")) == 200
    assert len(read_dialogues(town / "dialogues_val.jsonl")) == 20
    pool_ids = {image.image_id for image in pool}
    for name in ("questions.jsonl", "questions_seen.jsonl"):
        questions = read_questions(town / name)
        assert len(questions) >= 192
        assert all(set(question.relevant_image_ids) <= pool_ids for question in questions)


def test_annotated_dialogues_are_those_of_training_that_name_a_subject_each_with_its_picture(town: Path) -> None:
    facts = json.loads((town / "facts.json").read_text())
    names = {subject["name"] for subject in facts["subjects"]}
    training = {record.id: record for record in read_dialogues(town / "dialogues_train.jsonl")}
    annotated = read_dialogues(town / "dialogues_annotated.jsonl")
    captioned = {record.image_id for record in read_captions(town / "captions_train.jsonl")}
    for record in annotated:
        assert (training[record.id].context, training[record.id].response) == (record.context, record.response)
        assert record.image_id in captioned
        assert facts["scenes"][record.image_id]["subject"] in " ".join(record.context)
    about_somebody = [r for r in training.values() if any(name in " ".join(r.context) for name in names)]
    assert len(annotated) == len(about_somebody)


def test_no_picture_is_in_two_splits(town: Path) -> None:
    """Beyond ids and facts: not even two pictures are the same, byte for byte."""
    pictures = {name: digest for name, digest in digests(town).items() if name.endswith(".png")}
    assert len(pictures) == len(set(pictures.values())) == MIN_SCENES


def test_facts_cover_every_picture(town: Path) -> None:
    facts = json.loads((town / "facts.json").read_text())
    assert {f"{image_id}.png" for image_id in facts["scenes"]} == {path.name for path in (town / "images").iterdir()}
    homes = {subject["name"]: subject["place"] for subject in facts["subjects"]}
    for scene in facts["scenes"].values():
        assert scene["subject"] is None or homes[scene["subject"]] == scene["place"]


def test_the_same_seed_writes_the_same_bytes(town: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "pool-99999.png").write_bytes(b"of an earlier town")
    calls: list[tuple[int, int]] = []
    write_toytown(
        tmp_path, scenes=MIN_SCENES, seed=5, size=16, dialogues=200, on_progress=lambda *call: calls.append(call)
    )
    assert digests(tmp_path) == digests(town)
    assert calls == [(done, MIN_SCENES) for done in range(1, MIN_SCENES + 1)]


def test_strangers_only_add_lines(town: Path, tmp_path: Path) -> None:
    write_toytown(tmp_path, scenes=MIN_SCENES, seed=5, size=16, dialogues=200, strangers=30)
    plain, more = digests(town), digests(tmp_path)
    changed = {name for name in more if more[name] != plain.get(name)}
    assert changed == {"dialogues_train.jsonl", "strangers.jsonl"}
    old, new = ((folder / "dialogues_train.jsonl").read_text() for folder in (town, tmp_path))
    assert new.startswith(old)
    assert len(read_dialogues(tmp_path / "dialogues_train.jsonl")) == 230
    pinned = hashlib.sha256("".join(f"{name}{more[name]}" for name in sorted(more) if name[:6] != "images").encode())
    assert pinned.hexdigest() == WORLD_DIGEST


@pytest.mark.parametrize(("scenes", "size"), [(MIN_SCENES - 1, 64), (MIN_SCENES, 15)])
def test_too_small_a_town_is_refused(tmp_path: Path, scenes: int, size: int) -> None:
    with pytest.raises(UsageError, match=f"got {scenes} scenes of {size} pixels"):
        write_toytown(tmp_path, scenes=scenes, size=size)


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_share_that_is_none_is_refused(tmp_path: Path, share: float) -> None:
    with pytest.raises(UsageError, match=rf"got a named share of {share}, limits 0 and 1"):
        write_toytown(tmp_path, scenes=MIN_SCENES, named_share=share)


@pytest.mark.slow
def test_command_writes_town_and_contact_sheet(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["--out", str(tmp_path), "--scenes", str(MIN_SCENES), "--size", "32"])
    assert result.exit_code == 0, result.output
    assert "captions_train.jsonl" in result.output
    with Image.open(tmp_path / "contact_sheet.png") as sheet:
        assert sheet.width > 1000
        assert len(sheet.convert("RGB").getcolors(maxcolors=10_000_000) or []) > 1000
