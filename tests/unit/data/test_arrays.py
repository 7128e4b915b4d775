"""JSON arrays of dialogues: read item by item, wherever a chunk may cut them."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sightline.data.arrays import iter_array
from sightline.data.captions import CaptionRecord
from sightline.data.dialogues import DialogueRecord, query_text, read_dialogues, read_reddit, write_dialogues
from sightline.data.image_chat import read_image_chat, read_image_chat_captions
from sightline.data.lines import SkipReport
from sightline.errors import DataLineInvalid, UsageError

ITEMS = [{"a": 'x"y\\ü\u2028]', "b": [1, {"c": None}]}, 12, "s,]", [], {}, -3.5e2, True]


@pytest.mark.parametrize("chunk", [1, 2, 7, 1000])
@pytest.mark.parametrize("indent", [None, 2])
def test_an_array_read_in_chunks_is_the_array_read_whole(tmp_path: Path, chunk: int, indent: int | None) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(ITEMS, indent=indent, ensure_ascii=False) + "\n", encoding="utf-8")
    assert [item for _, item in iter_array(path, chunk=chunk)] == ITEMS


@pytest.mark.parametrize("text", ["[]", " [ ]\n", "\ufeff[]"])
def test_an_empty_array_has_no_items(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text, encoding="utf-8")
    assert list(iter_array(path)) == []


@pytest.mark.parametrize("chunk", [1, 1000])
@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"a": 1}', "expected one JSON array, got '{'"),
        ("", "expected one JSON array, got ''"),
        ('[\n{"a": 1},\n oops]', r"a\.json:3: not JSON"),
        ('[\n{"a": 1}\n{"a": 2}]', r"a\.json:3: not JSON: expected ','"),
        ('[\n{"a": 1},\n]', r"a\.json:3: not JSON"),
        ('[{"a": 1}', r"a\.json:1: not JSON"),
        ('[\n{"a": "never closed\n', r"a\.json:2: not JSON"),
        ("[1]\n\n[2]", r"a\.json:3: not JSON: text after the end"),
        (f"[1,\n{'[' * 2000}", r"a\.json:2: not JSON: maximum recursion"),
        (f"[1,\n{'1' * 5000}]", r"a\.json:2: not JSON: .*digits"),
    ],
)
def test_what_is_no_array_is_named_by_line(tmp_path: Path, text: str, why: str, chunk: int) -> None:
    path = tmp_path / "a.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataLineInvalid, match=why):
        list(iter_array(path, chunk=chunk))


def test_bytes_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes('["\ufffd",\n"'.encode() + b'\xff"]')
    with pytest.raises(DataLineInvalid, match=r"a\.json:2: not UTF-8"):
        list(iter_array(path))


def test_a_missing_array_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.json: cannot be read"):
        list(iter_array(tmp_path / "none.json"))


def test_a_long_array_takes_the_memory_of_a_chunk(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"context": ["word " * 20], "response": str(n)} for n in range(20_000)]))
    tracemalloc.start()
    num_items = sum(1 for _ in iter_array(path, chunk=10_000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert num_items == 20_000
    assert peak < path.stat().st_size / 10


def chat_file(tmp_path: Path, *dialogs: Any, image_hash: str = "0ab") -> Path:
    path = tmp_path / "chat.json"
    path.write_text(json.dumps([{"image_hash": image_hash, "dialog": dialog, "candidates": []} for dialog in dialogs]))
    return path


TURNS = [["Sweet", "What a lovely dog!"], ["Dull", "It is a dog."], ["Wild", "Wow"]]


def test_image_chat_keeps_the_picture_and_leaves_out_the_styles(tmp_path: Path) -> None:
    (record,) = read_image_chat(chat_file(tmp_path, TURNS))
    assert record == DialogueRecord(
        id="chat-1", context=("What a lovely dog!", "It is a dog."), response="Wow", image_id="0ab"
    )


def test_the_only_turn_of_a_chat_opens_it(tmp_path: Path) -> None:
    (record,) = read_image_chat(chat_file(tmp_path, TURNS[:1]))
    assert (record.context, record.response) == ((), "What a lovely dog!")


@pytest.mark.parametrize("dialog", [[], [["a"], ["b"]], [["Sweet", " "]], None])
def test_bad_image_chat_dialogue_is_named(tmp_path: Path, dialog: object) -> None:
    with pytest.raises(DataLineInvalid, match=r"chat\.json: item 2: dialog"):
        read_image_chat(chat_file(tmp_path, TURNS, dialog))


def test_image_chat_pairs_a_picture_with_all_turns_but_the_last(tmp_path: Path) -> None:
    Image.new("RGB", (2, 2)).save(tmp_path / "0ab.jpg")
    path = chat_file(tmp_path, TURNS, TURNS[:1])
    first, second = read_image_chat_captions(path, images=tmp_path)
    assert first == CaptionRecord(image_id="0ab", path=tmp_path / "0ab.jpg", caption="What a lovely dog! It is a dog.")
    assert second.caption == "What a lovely dog!"


def test_a_chat_without_its_picture_is_named_by_hash(tmp_path: Path) -> None:
    report = SkipReport()
    with pytest.raises(DataLineInvalid, match=r"chat\.json: item 1: image_hash: no picture .*0ab"):
        read_image_chat_captions(chat_file(tmp_path, TURNS), images=tmp_path)
    assert read_image_chat_captions(chat_file(tmp_path, TURNS), images=tmp_path, skip_bad=True, report=report) == []
    assert len(report.skipped) == 1


def test_a_response_without_context_opens_a_dialogue(tmp_path: Path) -> None:
    path = tmp_path / "reddit.json"
    path.write_text(json.dumps([{"context": [], "response": "hello"}]))
    (record,) = read_reddit(path)
    assert (record.context, query_text(record.context)) == ((), "")
    write_dialogues(tmp_path / "d.jsonl", [record])
    assert read_dialogues(tmp_path / "d.jsonl") == [record]
