"""Readers and writers: what is written is read back, and a bad line is named, counted, never dropped in silence."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sightline.data.captions import CaptionRecord, read_captions, write_captions
from sightline.data.coco import read_coco_captions, read_coco_pool
from sightline.data.dialogues import (
    DialogueRecord,
    dialogue_text,
    query_text,
    read_dialogues,
    read_reddit,
    write_dialogues,
)
from sightline.data.lines import SkipReport
from sightline.data.pools import PoolImage, read_pool, write_pool
from sightline.data.questions import QuestionRecord, read_questions, write_questions
from sightline.data.triplets import TripletRecord, read_triplets, write_triplets
from sightline.errors import DataLineInvalid, UsageError


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "images" / "größe.png"
    path.parent.mkdir()
    Image.new("RGB", (2, 2)).save(path)
    return path


def written(path: Path, *rows: object) -> Path:
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def test_captions_are_read_as_written(tmp_path: Path, picture: Path) -> None:
    records = [CaptionRecord(image_id="a", path=picture, caption=text) for text in ("eine Straße", "日本 — “x”")]
    assert write_captions(tmp_path / "c.jsonl", records) == 2
    assert read_captions(tmp_path / "c.jsonl") == records
    assert json.loads((tmp_path / "c.jsonl").read_text("utf-8").splitlines()[0])["path"] == "images/größe.png"


def test_dialogues_are_read_as_written(tmp_path: Path) -> None:
    records = [
        DialogueRecord(id="1", context=("hi", "hello\nyou"), response="ok"),
        DialogueRecord(id="2", context=("look",), response="nice", image_id="a"),
    ]
    write_dialogues(tmp_path / "d.jsonl", records)
    assert read_dialogues(tmp_path / "d.jsonl") == records


def test_triplets_and_questions_are_read_as_written(tmp_path: Path) -> None:
    triplets = [TripletRecord(reference_id="a", text="at night", target_ids=("b", "c"))]
    questions = [
        QuestionRecord(
            id="q",
            context=("which?",),
            fact="colour",
            answer="red",
            choices=("red", "blue"),
            subject="juno",
            relevant_image_ids=("p",),
        )
    ]
    write_triplets(tmp_path / "t.jsonl", triplets)
    write_questions(tmp_path / "q.jsonl", questions)
    assert read_triplets(tmp_path / "t.jsonl") == triplets
    assert read_questions(tmp_path / "q.jsonl") == questions


def test_pool_is_read_as_written(tmp_path: Path, picture: Path) -> None:
    images = [PoolImage(image_id="a", path=picture)]
    write_pool(tmp_path / "pool.jsonl", images)
    assert read_pool(tmp_path / "pool.jsonl") == images


def test_folder_pool_holds_pictures_of_all_subfolders(tmp_path: Path, picture: Path) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    Image.new("RGB", (2, 2)).save(tmp_path / "B.JPEG")
    assert [image.image_id for image in read_pool(tmp_path)] == ["B.JPEG", "images/größe.png"]


def test_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no picture"):
        read_pool(tmp_path)


def test_picture_outside_the_folder_is_written_absolute(tmp_path: Path, picture: Path) -> None:
    target = tmp_path / "elsewhere" / "c.jsonl"
    write_captions(target, [CaptionRecord(image_id="a", path=picture, caption="x")])
    assert read_captions(target)[0].path == picture.resolve()


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{not json", "not JSON"),
        (f'{{"image_id": {"[" * 100_000}', "not JSON: maximum recursion"),
        (f'{{"image_id": {"1" * 5000}}}', "digits"),
        ({"image_id": "a", "path": "images/größe.png", "caption": "a dog \ud83d"}, "holds half a letter, .*a dog"),
        ({"image_id": "a", "path": "x" * 300, "caption": "x"}, "does not exist"),
        ('["a"]', "expected a JSON object"),
        ({"image_id": "a", "path": "images/größe.png"}, "caption: got None"),
        ({"image_id": 7, "path": "images/größe.png", "caption": "x"}, "image_id: got 7"),
        ({"image_id": "a", "path": "images/größe.png", "caption": "  "}, "caption: got '  '"),
        ({"image_id": "a", "path": "images/gone.png", "caption": "x"}, "gone.png does not exist"),
    ],
)
def test_bad_line_is_named_by_file_and_line(tmp_path: Path, picture: Path, line: object, why: str) -> None:
    good = {"image_id": "a", "path": "images/größe.png", "caption": "x"}
    path = written(tmp_path / "c.jsonl", good, "", line, good)
    with pytest.raises(DataLineInvalid, match=f"c.jsonl:3: .*{why}"):
        read_captions(path)
    report = SkipReport()
    assert len(read_captions(path, skip_bad=True, report=report)) == 2
    assert report.num_read == 2
    assert re.search(why, report.skipped[0])
    assert report.summary().startswith("skipped 1 of 3 lines; first: ")


def test_skipping_without_a_report_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = written(tmp_path / "d.jsonl", "oops", {"id": "1", "context": ["a"], "response": "b"})
    assert len(read_dialogues(path, skip_bad=True)) == 1
    assert "skipped 1 of 2 lines" in caplog.text
    assert "d.jsonl:1" in caplog.text


def test_line_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_bytes(b'{"id": "1", "context": ["a"], "response": "b"}\n{"id": "\xff"}\n')
    with pytest.raises(DataLineInvalid, match=r"d\.jsonl:2: not UTF-8"):
        read_dialogues(path)


def test_line_separators_inside_a_text_do_not_break_lines(tmp_path: Path) -> None:
    record = DialogueRecord(id="1", context=("a\u2028b\x85c",), response="d")
    write_dialogues(tmp_path / "d.jsonl", [record])
    assert read_dialogues(tmp_path / "d.jsonl") == [record]


def test_missing_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.jsonl: cannot be read"):
        read_captions(tmp_path / "none.jsonl")


@pytest.mark.parametrize("context", [["a", ""], [""], "a", None, ["a", 3]])
def test_bad_context_is_refused(tmp_path: Path, context: Any) -> None:
    path = written(tmp_path / "d.jsonl", {"id": "1", "context": context, "response": "b"})
    with pytest.raises(DataLineInvalid, match=r"d\.jsonl:1: context"):
        read_dialogues(path)


def test_pool_id_that_occurs_twice_is_refused(tmp_path: Path, picture: Path) -> None:
    row = {"image_id": "a", "path": "images/größe.png"}
    with pytest.raises(DataLineInvalid, match=r"pool\.jsonl:2: .*twice"):
        read_pool(written(tmp_path / "pool.jsonl", row, row))


def test_question_whose_answer_is_no_choice_is_refused(tmp_path: Path) -> None:
    row = {"id": "q", "context": ["?"], "fact": "f", "answer": "a", "choices": ["b"], "subject": "s"}
    with pytest.raises(DataLineInvalid, match="expected one of b"):
        read_questions(written(tmp_path / "q.jsonl", {**row, "relevant_image_ids": ["p"]}))


def test_reddit_array_is_read_and_a_bad_item_named(tmp_path: Path) -> None:
    good = {"context": ["a", "b"], "response": "c"}
    path = tmp_path / "reddit.json"
    halved = {"context": ["a \ud83d"], "response": "c"}
    path.write_text(json.dumps([good, halved]))
    with pytest.raises(DataLineInvalid, match=r"reddit\.json: item 2: context: got .*, which holds half a letter"):
        read_reddit(path)
    path.write_text(json.dumps([good, {"context": ["a"]}, halved, good]))
    with pytest.raises(DataLineInvalid, match=r"reddit\.json: item 2: response"):
        read_reddit(path)
    records = read_reddit(path, skip_bad=True, report=SkipReport())
    assert [(record.id, record.context, record.response) for record in records] == [
        ("reddit-1", ("a", "b"), "c"),
        ("reddit-2", ("a", "b"), "c"),
    ]


def coco_file(tmp_path: Path) -> Path:
    path = tmp_path / "captions.json"
    images = [{"id": 7, "file_name": "größe.png"}, {"id": 8, "file_name": "gone.png"}]
    captions = [(7, "a cat \n"), (7, "a dog"), (9, "nowhere"), (8, "gone")]
    annotations = [{"id": n, "image_id": image_id, "caption": text} for n, (image_id, text) in enumerate(captions)]
    path.write_text(json.dumps({"info": {}, "images": images, "annotations": annotations}))
    return path


def test_coco_captions_name_what_is_missing(tmp_path: Path, picture: Path) -> None:
    path, report = coco_file(tmp_path), SkipReport()
    with pytest.raises(DataLineInvalid, match=r"captions\.json: annotation 3: image_id: 9"):
        read_coco_captions(path, images=picture.parent)
    records = read_coco_captions(path, images=picture.parent, skip_bad=True, report=report)
    assert [(record.image_id, record.caption) for record in records] == [("7", "a cat"), ("7", "a dog")]
    assert "gone.png does not exist" in report.skipped[1]


def test_coco_pool_holds_each_picture_once(tmp_path: Path, picture: Path) -> None:
    pool = read_coco_pool(coco_file(tmp_path), images=picture.parent, skip_bad=True, report=SkipReport())
    assert pool == [PoolImage(image_id="7", path=picture)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"images": [], "annotations": ["a dog \\ud83d"]}', "holds half a letter"),
        ("[" * 100_000, "not JSON: maximum recursion"),
        (f'{{"images": {"1" * 5000}}}', "not JSON: .*digits"),
    ],
)
def test_json_that_nothing_can_hold_is_refused_by_file(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "captions.json").write_text(text)
    with pytest.raises(DataLineInvalid, match=rf"captions\.json: {said}"):
        read_coco_captions(tmp_path / "captions.json", images=tmp_path)


def test_an_emoji_spelt_as_two_escapes_is_one_letter(tmp_path: Path, picture: Path) -> None:
    path = written(tmp_path / "c.jsonl", '{"image_id": "a", "path": "images/größe.png", "caption": "\\ud83d\\ude00"}')
    assert read_captions(path)[0].caption == "😀"


def test_file_that_is_not_coco_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('{"images": []}')
    with pytest.raises(DataLineInvalid, match="no list 'annotations'"):
        read_coco_captions(path, images=tmp_path)


@pytest.mark.parametrize(
    ("image", "said"),
    [({"id": 8}, "file_name: got None"), ({"file_name": "a.png"}, "id: got None"), (8, "id: got None")],
)
def test_a_bad_image_of_a_coco_file_is_named_by_place_or_skipped(
    tmp_path: Path, picture: Path, image: Any, said: str
) -> None:
    path, report = tmp_path / "captions.json", SkipReport()
    annotations = [{"image_id": 7, "caption": "a cat"}]
    images = [{"id": 7, "file_name": "größe.png"}, image]
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    with pytest.raises(DataLineInvalid, match=rf"captions\.json: image 2: {said}"):
        read_coco_captions(path, images=picture.parent)
    records = read_coco_captions(path, images=picture.parent, skip_bad=True, report=report)
    assert [record.image_id for record in records] == ["7"]
    assert (report.num_read, len(report.skipped)) == (1, 1)


def test_the_line_of_a_coco_file_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "captions.json"
    path.write_bytes(b'{"images": [],\n\n"annotations": ["\xff"]}')
    with pytest.raises(DataLineInvalid, match=r"captions\.json:3: not UTF-8"):
        read_coco_captions(path, images=tmp_path)


@pytest.mark.data
def test_real_coco_annotations_are_read(shared_data: Path) -> None:
    folder = shared_data / "coco_mini"
    num_captions = 0
    for path in sorted((folder / "annotations").glob("captions_*.json")):
        images = folder / path.stem.removeprefix("captions_")
        pool = read_coco_pool(path, images=images, skip_bad=True, report=SkipReport())
        captions = read_coco_captions(path, images=images, skip_bad=True, report=SkipReport())
        assert {record.image_id for record in captions} <= {image.image_id for image in pool}
        num_captions += len(captions)
    assert num_captions > 159 * 4


def test_query_is_the_turns_in_order() -> None:
    assert query_text(["  do you\nknow juno? ", "", "yes."]) == "do you know juno? yes."


def test_query_keeps_the_newest_words() -> None:
    turns = [f"word{number}" for number in range(100)]
    assert query_text(turns).split() == turns[-40:]


def test_a_generator_reads_every_word_of_a_dialogue() -> None:
    turns = [f"word{number}" for number in range(100)]
    assert dialogue_text(turns).split() == turns


@pytest.mark.parametrize("num_words", [0, 1, 39, 40])
def test_a_short_dialogue_is_read_as_it_is_searched(num_words: int) -> None:
    turns = [f" Word{number} \n" for number in range(num_words)]
    assert dialogue_text(turns) == query_text(turns)
