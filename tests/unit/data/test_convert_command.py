"""`sightline convert` writes what the readers of captions and dialogues read."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from sightline.cli import main
from sightline.data.captions import read_captions
from sightline.data.dialogues import read_dialogues

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def convert(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `sightline convert ...`; gives the exit code and what was printed to either stream."""

    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["sightline", "convert", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        captured = capsys.readouterr()
        return int(stopped.value.code or 0), captured.out + captured.err

    return run


@pytest.fixture
def annotations(tmp_path: Path) -> Path:
    """A COCO file of two captions, the second of a picture that is not there."""
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "pictures" / "7.png")
    images = [{"id": 7, "file_name": "7.png"}, {"id": 8, "file_name": "gone.png"}]
    captions = [{"image_id": 7, "caption": "a cat"}, {"image_id": 8, "caption": "gone"}]
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps({"images": images, "annotations": captions}))
    return path


def test_coco_becomes_captions_beside_which_the_pictures_are_found(
    convert: Run, annotations: Path, tmp_path: Path
) -> None:
    out = tmp_path / "mine" / "captions.jsonl"
    code, text = convert("coco", annotations, "--images", tmp_path / "pictures", "--out", out, "--skip-bad")
    assert code == 0
    assert "1 captions in" in text
    assert "skipped 1 of 2" in text
    (record,) = read_captions(out)
    assert (record.image_id, record.caption, record.path.name) == ("7", "a cat", "7.png")


def test_a_missing_picture_stops_unless_it_may_be_skipped(convert: Run, annotations: Path, tmp_path: Path) -> None:
    out = tmp_path / "captions.jsonl"
    code, text = convert("coco", annotations, "--images", tmp_path / "pictures", "--out", out)
    assert code == 2
    assert "annotation 2" in text
    assert not out.exists()


@pytest.mark.parametrize(
    ("command", "item"),
    [
        ("image-chat", {"image_hash": "h", "dialog": [["Sweet", "hi"], ["Calm", "hello"]]}),
        ("reddit", {"context": ["hi"], "response": "hello"}),
    ],
)
def test_other_dialogues_become_ours(convert: Run, tmp_path: Path, command: str, item: object) -> None:
    source, out = tmp_path / "source.json", tmp_path / "dialogues.jsonl"
    source.write_text(json.dumps([item]))
    assert convert(command, source, "--out", out)[0] == 0
    (record,) = read_dialogues(out)
    assert (record.context, record.response) == (("hi",), "hello")
