"""Files of any format are read by what they are, not by what somebody said they were."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from sightline.data.captions import CaptionRecord, write_captions
from sightline.data.dialogues import DialogueRecord, write_dialogues
from sightline.data.formats import files_of, format_of, read_any_captions, read_any_dialogues, read_any_pool
from sightline.data.lines import SkipReport
from sightline.errors import DataLineInvalid, UsageError

CHAT = [{"image_hash": "0ab", "dialog": [["Sweet", "a dog"], ["Dull", "yes"]]}]
REDDIT = [{"context": ["a", "b"], "response": "c"}]
COCO = {"images": [{"id": 7, "file_name": "0ab.jpg"}], "annotations": [{"image_id": 7, "caption": "a cat"}]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One file of each format beside a folder `images` of one picture."""
    (tmp_path / "images").mkdir()
    Image.new("RGB", (2, 2)).save(tmp_path / "images" / "0ab.jpg")
    for name, content in (("chat", CHAT), ("reddit", REDDIT), ("coco", COCO)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    write_captions(
        tmp_path / "c.jsonl", [CaptionRecord(image_id="a", path=tmp_path / "images" / "0ab.jpg", caption="x")]
    )
    write_dialogues(tmp_path / "d.jsonl", [DialogueRecord(id="1", context=("a",), response="b")])
    return tmp_path


@pytest.mark.parametrize(
    ("name", "kind"),
    [("chat.json", "image_chat"), ("reddit.json", "reddit"), ("coco.json", "coco"), ("c.jsonl", "jsonl")],
)
def test_a_file_is_told_by_its_content(folder: Path, name: str, kind: str) -> None:
    assert format_of(folder / name) == kind
    assert files_of(folder / name) == [folder / name]


def test_tars_and_folders_are_told_by_name(folder: Path) -> None:
    assert format_of(folder / "images") == "folder"
    assert format_of(folder / "train-{000..007}.tar") == "webdataset"


@pytest.mark.parametrize(("name", "captions"), [("chat.json", ["a dog"]), ("coco.json", ["a cat"]), ("c.jsonl", ["x"])])
def test_captions_are_read_from_any_format(folder: Path, name: str, captions: list[str]) -> None:
    records = read_any_captions(folder / name)
    assert [record.caption for record in records] == captions
    assert all(record.path == folder / "images" / "0ab.jpg" for record in records)


@pytest.mark.parametrize("name", ["chat.json", "reddit.json", "d.jsonl"])
def test_dialogues_are_read_from_any_format(folder: Path, name: str) -> None:
    assert len(read_any_dialogues(folder / name)) == 1


@pytest.mark.parametrize("name", ["images", "coco.json", "c.jsonl"])
def test_a_pool_is_read_from_any_format(folder: Path, name: str) -> None:
    assert len(read_any_pool(folder / name)) == 1


def test_a_file_that_is_not_there_is_a_usage_error(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.json: cannot be read"):
        read_any_dialogues(folder / "none.json")


def test_a_format_without_what_is_asked_for_is_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="reddit holds no captions"):
        read_any_captions(folder / "reddit.json")
    with pytest.raises(UsageError, match="coco holds no dialogues"):
        read_any_dialogues(folder / "coco.json")
    with pytest.raises(UsageError, match="image_chat is no pool"):
        read_any_pool(folder / "chat.json")
    with pytest.raises(UsageError, match="no known format"):
        format_of(folder / "captions.csv")


def test_an_array_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('[{"a": 1}]')
    with pytest.raises(DataLineInvalid, match="item 1: neither Image-Chat"):
        format_of(path)


@pytest.mark.data
def test_coco_and_a_real_tar_are_read_where_they_lie(shared_data: Path) -> None:
    coco = shared_data / "coco_mini" / "annotations" / "captions_val2017.json"
    captions = read_any_captions(coco, skip_bad=True, report=SkipReport())
    assert captions[0].path.parent == shared_data / "coco_mini" / "val2017"
    assert len(read_any_captions(shared_data / "cc12m_sample")) == 32
    assert len(read_any_pool(shared_data / "emoji_noto128" / "png")) == 3583
