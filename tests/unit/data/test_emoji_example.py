"""The emoji example: twins stay together, nothing is dropped in silence, and our readers read what it writes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from examples.emoji.chats import read_chats
from examples.emoji.edits import write_emoji_edits
from examples.emoji.pictures import base_of, read_emoji
from examples.emoji.prepare import prepare_emoji
from examples.emoji.vectors import word_vectors
from sightline.data.captions import read_captions
from sightline.data.dialogues import DialogueRecord, read_dialogues
from sightline.data.lines import SkipReport, read_lines
from sightline.data.pools import read_pool
from sightline.data.triplets import read_triplets
from sightline.errors import DataLineInvalid, UsageError


def bases_by_split(out: Path, names: Path) -> list[set[str]]:
    rows = [line.split("\t") for line in names.read_text("utf-8").splitlines()[1:]]
    base = {Path(row[0]).stem: base_of(row[1]) for row in rows}
    splits = (read_captions(out / f"captions_{split}.jsonl") for split in ("train", "val", "test"))
    return [{base[record.image_id] for record in records} for records in splits]


@pytest.fixture
def noto(tmp_path: Path) -> Path:
    folder = tmp_path / "noto"
    (folder / "png").mkdir(parents=True)
    rows = ["file\tcodepoints\tname\tkeywords"]
    triplets = ["reference\ttarget\tmodification\tkind"]
    for number in range(40):
        for tone in ("", " 1F3FB", " 1F3FF 200D 2640"):
            stem = f"emoji_{number}{tone.replace(' ', '_')}"
            Image.new("RGBA", (4, 4), (number, 0, 0, 128)).save(folder / "png" / f"{stem}.png")
            rows.append(f"png/{stem}.png\t{0x1F600 + number:X}{tone}\tface {number}{tone}\tface|smile|nr {number}")
        triplets.append(f"emoji_{number}.png\temoji_{number}_1F3FB.png\tgive it a light skin tone\tskin tone")
    rows.append("png/gone.png\t1F9FF\tgone\tgone")
    (folder / "names.tsv").write_text("\n".join(rows), "utf-8")
    (folder / "triplets.tsv").write_text("\n".join(triplets), "utf-8")
    return folder


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    folder = tmp_path / "chats"
    folder.mkdir()
    body = "\n".join(f"- - question {number}?\n  - yes\n  - 42" for number in range(40))
    (folder / "talk.yml").write_text(f"categories:\n- x\nconversations:\n{body}\n- - a\n  - {'long ' * 41}\n", "utf-8")
    return folder


def test_files_are_read_by_our_readers(noto: Path, chats: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    lines, (pictures, replies) = prepare_emoji(noto=noto, dialogues=chats, out=out)
    assert len(read_pool(out / "pool.jsonl")) == lines["pool.jsonl"] == 120
    train, val, test = (read_captions(out / f"captions_{split}.jsonl") for split in ("train", "val", "test"))
    assert len(train) // 4 + len(val) + len(test) == 120
    assert all(not record.path.is_relative_to(noto) for record in train)
    num_triplets = sum(len(read_triplets(out / f"triplets_{split}.jsonl")) for split in ("train", "val", "test"))
    assert num_triplets == 40
    dialogues = [*read_dialogues(out / "dialogues_train.jsonl"), *read_dialogues(out / "dialogues_val.jsonl")]
    assert len(dialogues) == 80
    assert {record.response for record in dialogues} == {"yes", "42"}
    assert pictures.skipped == ["names.tsv:122: picture png/gone.png does not exist"]
    assert replies.skipped == ["talk-41: turn 2 has 41 words, limit 40"]


def test_twins_are_in_one_split(noto: Path, chats: Path, tmp_path: Path) -> None:
    prepare_emoji(noto=noto, dialogues=chats, out=tmp_path / "out")
    train, val, test = bases_by_split(tmp_path / "out", noto / "names.tsv")
    assert len(train) + len(val) + len(test) == len(train | val | test) == 40
    assert val
    assert test


def test_queries_and_edits_share_no_base_and_no_sentence(noto: Path, tmp_path: Path) -> None:
    lines, out = write_emoji_edits(noto=noto, shifted=noto, out=tmp_path / "out"), tmp_path / "out" / "composed"
    base = {one.image_id: one.base for one in read_emoji(noto, report=SkipReport())}
    edits = read_lines(out / "edits_train.jsonl", parse=dict)
    asked = {split: read_triplets(out / f"queries_{split}.jsonl") for split in ("val", "test")}
    assert lines["edits_train.jsonl"] + sum(map(len, asked.values())) == 40
    for split, queries in asked.items():
        gallery = {image.image_id for image in read_pool(out / f"gallery_{split}.jsonl")}
        assert all({query.reference_id, *query.target_ids} <= gallery for query in queries)
        assert not {base[query.reference_id] for query in queries} & {base[row["image"]] for row in edits}
        assert not {query.text for query in queries} & {row["modification"] for row in edits}
        assert read_triplets(out / f"queries_shifted_{split}.jsonl") == queries
        assert lines[f"gallery_shifted_{split}.jsonl"] == len(gallery)
        named = {record.image_id for record in read_captions(out / f"captions_{split}.jsonl")}
        assert named == gallery


def test_base_ignores_tone_and_gender() -> None:
    woman = base_of("1F469 1F3FD 200D 1F680")
    assert woman == base_of("1F468 1F3FF 200D 1F680") == base_of("1F9D1 200D 1F680") == "1F9D1 1F680"
    assert base_of("1F3C3 1F3FB 200D 2640 FE0F") == base_of("1F3C3") != woman


def conversations_of(records: list[DialogueRecord]) -> set[str]:
    return {record.id.rpartition("-")[0] for record in records}


def topical_chat(folder: Path, *names: str) -> None:
    for name in names:
        talks = {
            f"t_{talk}": {"content": [{"message": f"{name} {talk} {at} "} for at in range(6)]} for talk in range(30)
        }
        (folder / f"{name}.json").write_text(json.dumps(talks), "utf-8")


def test_conversations_that_open_alike_are_in_one_split(chats: Path) -> None:
    (chats / "again.yml").write_text((chats / "talk.yml").read_text("utf-8").replace("yes", "no"), "utf-8")
    splits = read_chats(chats, report=SkipReport())
    openings = {split: {record.context[0] for record in records} for split, records in splits.items()}
    assert set(openings) == {"train", "val"}
    assert not openings["train"] & openings["val"]
    assert all(len({record.id.split("-")[0] for record in records}) == 2 for records in splits.values())


def test_a_topical_chat_context_is_the_three_turns_before(tmp_path: Path) -> None:
    topical_chat(tmp_path, "valid_freq")
    splits = read_chats(tmp_path, report=SkipReport())
    records = [record for record in (*splits["train"], *splits["val"]) if record.id.startswith("valid_freq-1-")]
    assert [len(record.context) for record in records] == [1, 2, 3, 3, 3]
    assert records[-1].context == ("valid_freq 0 2", "valid_freq 0 3", "valid_freq 0 4")


@pytest.mark.parametrize(
    ("files", "train"),
    [
        (("test_freq", "train", "valid_freq", "valid_rare"), {"train"}),
        (("test_freq", "valid_freq", "valid_rare"), {"test_freq"}),
        (("valid_freq", "valid_rare"), {"valid_freq", "valid_rare"}),
    ],
)
def test_topical_chat_keeps_its_own_split(tmp_path: Path, files: tuple[str, ...], train: set[str]) -> None:
    topical_chat(tmp_path, *files)
    splits = read_chats(tmp_path, report=SkipReport())
    assert {record.id.split("-")[0] for record in splits["train"]} == train
    assert len(splits["train"]) + len(splits["val"]) == len(files) * 30 * 5
    assert not conversations_of(splits["train"]) & conversations_of(splits["val"])
    held_out = set(files) - train
    assert set(splits) == {"train", "val"} | held_out
    assert all(len(splits[name]) == 150 for name in held_out)


@pytest.mark.parametrize("content", ["[1]", '{"t": 1}', '{"t": {"content": ["hello"]}}'])
def test_a_file_that_is_no_topical_chat_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "train.json").write_text(content, "utf-8")
    with pytest.raises(DataLineInvalid, match=r"train\.json: "):
        read_chats(tmp_path, report=SkipReport())


def test_words_said_alike_have_vectors_alike() -> None:
    texts = [f"i {verb} my {pet} every day" for verb in ("feed", "walk") for pet in ("dog", "cat")] * 3
    texts += [f"the {sky} sky is over us" for sky in ("red", "blue")] * 3
    known, vectors_VD = word_vectors(texts, num_words=50, width=6)
    unit_VD = vectors_VD / np.linalg.norm(vectors_VD, axis=1, keepdims=True)
    cosine = {
        (one, other): float(unit_VD[known.index(one)] @ unit_VD[known.index(other)])
        for one, other in (("dog", "cat"), ("dog", "blue"))
    }
    assert cosine["dog", "cat"] > cosine["dog", "blue"] + 0.5


def test_folders_without_data_are_refused(tmp_path: Path, noto: Path) -> None:
    with pytest.raises(UsageError, match="holds no conversation"):
        prepare_emoji(noto=noto, dialogues=tmp_path / "nothing", out=tmp_path / "out")
    with pytest.raises(UsageError, match=r"names\.tsv: does not exist"):
        prepare_emoji(noto=tmp_path, dialogues=tmp_path, out=tmp_path / "out")


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("corpus", ["chatterbot_en", "topical_chat"])
def test_real_emoji_and_chats_are_prepared(shared_data: Path, tmp_path: Path, corpus: str) -> None:
    noto = shared_data / "emoji_noto128"
    lines, (pictures, _) = prepare_emoji(noto=noto, dialogues=shared_data / corpus, out=tmp_path)
    assert lines["pool.jsonl"] == pictures.num_read == 3530
    assert not pictures.skipped
    train, val, test = bases_by_split(tmp_path, noto / "names.tsv")
    assert not train & val
    assert not (train | val) & test
    assert len(test) > 100
    assert lines["dialogues_train.jsonl"] > 1000
    for split in ("train", "val", "test"):
        assert len(read_captions(tmp_path / f"captions_{split}.jsonl")) == lines[f"captions_{split}.jsonl"]
        assert len(read_triplets(tmp_path / f"triplets_{split}.jsonl")) > 100
