"""Order, splits and pictures of a corpus."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sightline.data.dialogues import DialogueRecord, write_dialogues
from sightline.data.pools import PoolImage
from sightline.data.questions import QuestionRecord, write_questions
from sightline.errors import DataLineInvalid, SettingInvalid, UsageError
from sightline.models.transforms import Preprocess
from trainer.config import FitConfig, training_settings
from trainer.data import EpochOrder, load_corpus, paired_part, training_record, unique_pictures
from trainer.pictures import load_pictures


@pytest.mark.parametrize("size", [1, 4, 7, 25])  # 7 and 4 do not divide 10; 25 spans epochs
def test_every_item_comes_once_an_epoch(size: int) -> None:
    order = EpochOrder(10, 0, 1)
    stream = np.concatenate([order.batch(step, size=size) for step in range(-(-100 // size))])
    for epoch in range(10):
        assert sorted(stream[10 * epoch : 10 * epoch + 10]) == list(range(10))


def test_an_order_depends_on_seed_salt_and_epoch() -> None:
    base = EpochOrder(50, 0, 1).batch(0, size=50)
    for other in (EpochOrder(50, 1, 1).batch(0, size=50), EpochOrder(50, 0, 2).batch(0, size=50)):
        assert not np.array_equal(base, other)
    assert not np.array_equal(base, EpochOrder(50, 0, 1).batch(1, size=50))


def test_a_picture_is_never_on_both_sides_of_a_split(tiny_fit: FitConfig) -> None:
    corpus = load_corpus(tiny_fit.data)
    train = {record.image_id for record in corpus.captions_train}
    val = {record.image_id for record in corpus.captions_val}
    assert train
    assert val
    assert not train & val
    assert {image.image_id for image in corpus.pool} == val


def test_a_context_is_never_on_both_sides_of_a_split(tiny_fit: FitConfig) -> None:
    corpus = load_corpus(tiny_fit.data)
    sides = [{record.context for record in side} for side in (corpus.dialogues_train, corpus.dialogues_val)]
    assert not sides[0] & sides[1]


def test_a_picture_with_two_captions_is_one_picture(tiny_fit: FitConfig) -> None:
    corpus = load_corpus(tiny_fit.data)
    images = unique_pictures(corpus.captions_train)
    assert len(images) == len({record.image_id for record in corpus.captions_train})
    assert 2 * len(images) == len(corpus.captions_train)


def test_fewer_pairs_are_whole_pictures_and_part_of_more(tiny_fit: FitConfig) -> None:
    captions = load_corpus(tiny_fit.data).captions_train
    parts = [{record.image_id for record in paired_part(captions, share=share)} for share in (0.3, 0.6, 1.0)]
    assert parts[0] < parts[1] < parts[2]
    assert paired_part(captions, share=1.0) == list(captions)
    assert all(record in paired_part(captions, share=0.3) for record in captions if record.image_id in parts[0])


@pytest.mark.parametrize("share", [0.0, -0.5, 1.1])
def test_a_share_of_pairs_outside_its_limits_is_refused(share: float) -> None:
    with pytest.raises(SettingInvalid, match=rf"stage1\.pair_share: got {share}, limits above 0 to 1"):
        paired_part([], share=share)


def test_a_share_that_leaves_no_picture_is_refused(tiny_fit: FitConfig) -> None:
    captions = load_corpus(tiny_fit.data).captions_train
    with pytest.raises(UsageError, match=f"1e-09 of {len(captions)} captions leaves no picture"):
        paired_part(captions, share=1e-9)


def test_the_digest_follows_the_questions_that_nothing_answers(tiny_fit: FitConfig, corpus_folder: Path) -> None:
    path = corpus_folder / "strangers.jsonl"
    path.write_text('{"id": "1", "context": ["who is zed"], "response": "i do not know"}\n', encoding="utf-8")
    corpus = load_corpus(replace(tiny_fit.data, strangers=Path("strangers.jsonl")))
    assert [record.context for record in corpus.strangers] == [("who is zed",)]
    assert "strangers.jsonl" in corpus.file_digests


def test_the_digest_follows_the_files(tiny_fit: FitConfig, corpus_folder: Path) -> None:
    before = load_corpus(tiny_fit.data).digest
    path = corpus_folder / "dialogues.jsonl"
    path.write_text(path.read_text(encoding="utf-8").replace("hello", "hi"), encoding="utf-8")
    assert load_corpus(tiny_fit.data).digest != before


@pytest.mark.parametrize("setting", ["captions", "pool", "pool_train"])
def test_the_digest_follows_the_pictures(tiny_fit: FitConfig, corpus_folder: Path, setting: str) -> None:
    folder = corpus_folder / "more"
    folder.mkdir()
    Image.new("RGB", (20, 20), "red").save(folder / "0.png")
    settings = tiny_fit.data if setting == "captions" else replace(tiny_fit.data, **{setting: Path("more")})
    before = load_corpus(settings).file_digests
    Image.new("RGB", (33, 44), "blue").save(corpus_folder / "0.png" if setting == "captions" else folder / "1.png")
    after = load_corpus(settings).file_digests
    assert before.keys() == after.keys()
    assert f"pictures of {setting}" in {name for name in before if before[name] != after[name]}


def test_dialogues_that_nobody_opened_stand_on_both_sides_of_a_split(tiny_fit: FitConfig, corpus_folder: Path) -> None:
    opened = [DialogueRecord(id=str(number), context=(), response=f"it is box {number}") for number in range(40)]
    write_dialogues(corpus_folder / "dialogues.jsonl", opened)
    corpus = load_corpus(tiny_fit.data)
    sides = [{record.response for record in side} for side in (corpus.dialogues_train, corpus.dialogues_val)]
    assert sides[0]
    assert sides[1]
    assert not sides[0] & sides[1]


def test_a_question_about_a_picture_outside_the_pool_is_named(tiny_fit: FitConfig, corpus_folder: Path) -> None:
    question = QuestionRecord(
        id="7",
        context=("which",),
        fact="colour",
        answer="red",
        choices=("red",),
        subject="box",
        relevant_image_ids=("x",),
    )
    write_questions(corpus_folder / "questions.jsonl", [question])
    settings = replace(tiny_fit.data, questions=Path("questions.jsonl"))
    said = r"own/questions\.jsonl: question 1 \(id 7\): relevant_image_ids: 'x' is not in the pool"
    with pytest.raises(DataLineInvalid, match=said):
        load_corpus(settings)
    assert load_corpus(replace(settings, skip_bad=True)).questions == []


def test_an_annotated_dialogue_without_a_known_picture_is_named_or_skipped(
    tiny_fit: FitConfig, corpus_folder: Path
) -> None:
    known = load_corpus(tiny_fit.data).captions_train[0].image_id
    dialogues = [
        DialogueRecord(id=f"d{n}", context=("which",), response="red", image_id=image_id)
        for n, image_id in enumerate([known, None, "x"])
    ]
    write_dialogues(corpus_folder / "annotated.jsonl", dialogues)
    settings = replace(tiny_fit.data, dialogues_annotated=Path("annotated.jsonl"))
    with pytest.raises(DataLineInvalid, match=r"own/annotated\.jsonl: dialogue 2 \(id d1\): image_id: .* None"):
        load_corpus(settings)
    assert load_corpus(replace(settings, skip_bad=True)).dialogues_annotated == dialogues[:1]


def test_a_missing_file_is_named(tiny_fit: FitConfig) -> None:
    with pytest.raises(UsageError, match=r"absent\.jsonl does not exist; data\.root is"):
        load_corpus(replace(tiny_fit.data, dialogues_train=Path("absent.jsonl")))


def test_an_unknown_kind_is_refused(tiny_fit: FitConfig) -> None:
    with pytest.raises(SettingInvalid, match=r"data\.kind: got 'zoo'"):
        load_corpus(replace(tiny_fit.data, kind="zoo"))


def test_an_empty_side_is_refused(tiny_fit: FitConfig) -> None:
    with pytest.raises(UsageError, match="no record in captions_val"):
        load_corpus(replace(tiny_fit.data, val_share=0.0))


def test_pictures_are_what_the_services_would_see(tiny_fit: FitConfig, tmp_path: Path) -> None:
    from sightline.data.pictures import decode_picture

    preprocess = Preprocess(image_size=16)
    images = unique_pictures(load_corpus(tiny_fit.data).captions_train)
    pixels = load_pictures(images, preprocess=preprocess, cache=tmp_path)
    expected = [preprocess.pixels(decode_picture(image.path.read_bytes())) for image in images]
    assert np.array_equal(pixels, np.stack(expected))


def test_decoded_pictures_are_kept_for_the_next_run(tiny_fit: FitConfig, tmp_path: Path) -> None:
    images = unique_pictures(load_corpus(tiny_fit.data).captions_train)
    for _ in range(2):
        load_pictures(images, preprocess=Preprocess(image_size=16), cache=tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_an_unreadable_picture_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\nno more")
    with pytest.raises(DataLineInvalid, match=r"broken\.png \(image_id b\)"):
        load_pictures([PoolImage(image_id="b", path=path)], preprocess=Preprocess(image_size=16), cache=tmp_path / "c")


@pytest.mark.parametrize(
    ("setting", "name"),
    [("decoder", "{}"), ("tower", "{}"), ("tower", "local-dir:{}"), ("tower", "ViT-B-32:{}/weights.safetensors")],
)
def test_a_run_knows_a_local_part_by_its_bytes(tiny_fit: FitConfig, tmp_path: Path, setting: str, name: str) -> None:
    part = tmp_path / "part"
    part.mkdir()
    (part / "weights.safetensors").write_bytes(b"one")
    config = replace(tiny_fit, model=replace(tiny_fit.model, **{setting: name.format(part)}))
    corpus = load_corpus(config.data)
    first = training_record(config, corpus=corpus)
    assert training_record(config, corpus=corpus) == first
    (part / "weights.safetensors").write_bytes(b"two")
    second = training_record(config, corpus=corpus)
    assert {key for key in first if first[key] != second[key]} == {f"file model.{setting}"}
    assert not training_record(replace(config, init_from="stable"), corpus=corpus).keys() & {f"file model.{setting}"}


@pytest.mark.parametrize("decoder", ["", "facebook/bart-base"])
def test_a_run_without_local_parts_is_known_by_settings_and_data(tiny_fit: FitConfig, decoder: str) -> None:
    config = replace(tiny_fit, model=replace(tiny_fit.model, decoder=decoder, tower="ViT-B-32:laion2b_s34b_b79k"))
    corpus = load_corpus(config.data)
    files = {f"file {name}": digest for name, digest in corpus.file_digests.items()}
    assert training_record(config, corpus=corpus) == training_settings(config) | {"run.num_workers": 1} | files
