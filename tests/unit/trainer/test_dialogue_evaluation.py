"""A release on dialogues of one's own: what replies look at, what is scored, and what is written."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sightline.data.dialogues import DialogueRecord, write_dialogues
from sightline.data.pools import PoolImage, read_pool, write_pool
from sightline.metrics import bleu_each, perplexity
from sightline.registry import Registry
from tests.unit.trainer.conftest import COLOURS
from trainer import shown
from trainer.__main__ import ERROR_EXIT, main
from trainer.answers import reply_inputs, response_losses
from trainer.architecture import Built, build
from trainer.config import EvaluationSettings, FitConfig
from trainer.data import load_corpus
from trainer.dialogue_scores import LOOKS, NONE, RANDOM, RETRIEVED, SERVED, DialogueExam, evaluate_dialogues
from trainer.pictures import load_pictures
from trainer.publish import publish
from trainer.relevance import calibrated
from trainer.store import EncodedPictures, encode_pictures

DIALOGUES = [
    DialogueRecord(
        id=str(number),
        context=("hello there", f"what is box {number}?"),
        response=" ".join(["it is", COLOURS[number % 6], *["indeed"] * number]),
        image_id=f"{number}.png" if number % 2 else None,
    )
    for number in range(7)
]


def silent(sequence: Sequence[slice], *, description: str) -> Iterable[slice]:
    assert description
    return sequence


@pytest.fixture
def built(tiny_fit: FitConfig) -> Built:
    """An untrained model of the squares."""
    return build(tiny_fit, texts=load_corpus(tiny_fit.data).texts())


@pytest.fixture
def exam(built: Built, corpus_folder: Path, tmp_path: Path) -> DialogueExam:
    """Seven dialogues, three of which name one of the twelve pictures."""
    images: list[PoolImage] = read_pool(corpus_folder)
    pixels = load_pictures(images, preprocess=built.model.tower.preprocess, cache=tmp_path / "cache")
    return DialogueExam(
        built=built,
        dialogues=DIALOGUES,
        images=images,
        pictures=encode_pictures(built.model, pixels),
        settings=EvaluationSettings(max_new_tokens=5, batch_size=3, num_images=2),
        seed=0,
        track=silent,
    )


def slow_loss(exam: DialogueExam, record: DialogueRecord, rows: list[int]) -> tuple[float, int]:
    """One dialogue alone, token by token, the start of text left out."""
    generator = exam.built.model.generator
    assert generator is not None
    query = shown.query_vectors(exam.built, [record])
    inputs = reply_inputs(
        exam.built,
        contexts=[record.context],
        pictures=exam.pictures,
        rows_BK=np.array([rows], dtype=np.int64),
        cosines_BK=(query @ exam.pictures.vectors_ND[rows].T).astype(np.float32),
    )
    labels = torch.from_numpy(exam.built.dialogue_tokenizer.label_ids([record.response], max_length=128))
    with torch.inference_mode():
        log_TV = generator.eval().logits(generator.remember(**inputs), labels)[0].log_softmax(dim=-1)
    told = [-float(log_TV[at, int(labels[0, at])]) for at in range(1, labels.shape[1])]
    return sum(told), len(told)


def test_perplexity_equals_dialogues_taken_one_by_one(exam: DialogueExam) -> None:
    measured = evaluate_dialogues(exam, look=RETRIEVED, word_vectors=None)
    found = shown.retrieved(shown.query_vectors(exam.built, DIALOGUES), pictures=exam.pictures, k=2)
    slow = [slow_loss(exam, record, rows) for record, rows in zip(DIALOGUES, found.rows_QK.tolist(), strict=True)]
    nll, num_tokens = map(np.array, zip(*slow, strict=True))
    assert measured.scores["perplexity"] == pytest.approx(perplexity(nll, num_tokens_N=num_tokens), rel=1e-5)
    assert measured.scores["loss_retrieved"] == pytest.approx(nll.sum() / num_tokens.sum(), rel=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2, 7])
def test_losses_do_not_depend_on_batches(exam: DialogueExam, batch_size: int) -> None:
    choice = shown.nothing(shown.query_vectors(exam.built, DIALOGUES))
    nll, whole = (
        response_losses(
            exam.built,
            dialogues=DIALOGUES,
            pictures=exam.pictures,
            rows_BK=choice.rows_QK,
            cosines_BK=choice.cosines_QK,
            batch_size=size,
        )
        for size in (batch_size, 7)
    )
    assert np.allclose(nll.nll_B, whole.nll_B, atol=1e-4)
    assert nll.num_tokens_B.tolist() == whole.num_tokens_B.tolist()


def test_responses_choose_no_pictures(exam: DialogueExam) -> None:
    """Defect A of the published code: the answer was part of the test queries."""
    other = replace(exam, dialogues=[replace(record, response="a white yellow box 3") for record in DIALOGUES])
    first, second = (evaluate_dialogues(each, look=RETRIEVED, word_vectors=None).predictions for each in (exam, other))
    for name in ("image_ids", "image_scores", "reply"):
        assert [row[name] for row in first] == [row[name] for row in second]


def test_true_pictures_are_compared_on_the_dialogues_that_name_one(exam: DialogueExam) -> None:
    scores = evaluate_dialogues(exam, look=NONE, word_vectors=None).scores
    named = [record for record in DIALOGUES if record.image_id]
    rows = {image.image_id: row for row, image in enumerate(exam.images)}
    true = [slow_loss(exam, record, [rows[record.image_id or ""]]) for record in named]
    nothing = [slow_loss(exam, record, []) for record in named]
    num_tokens = sum(tokens for _, tokens in true)
    assert scores["loss_true"] == pytest.approx(sum(nll for nll, _ in true) / num_tokens, rel=1e-5)
    gain = (sum(nll for nll, _ in nothing) - sum(nll for nll, _ in true)) / num_tokens
    assert scores["gain_true_over_none"] == pytest.approx(gain, abs=1e-5)
    assert scores["num_dialogues_with_picture"] == 3


def test_dialogues_without_pictures_are_scored_all_the_same(exam: DialogueExam) -> None:
    plain = replace(exam, dialogues=[replace(record, image_id=None) for record in DIALOGUES])
    scores = evaluate_dialogues(plain, look=NONE, word_vectors=None).scores
    assert {"bleu_1", "rouge_l", "distinct_2", "perplexity", "loss_random", "gain_retrieved_over_none"} <= scores.keys()
    assert not {"loss_true", "retrieval_recall_at_1", "clip_score", "clip_score_true"} & scores.keys()


def test_served_replies_look_over_the_releases_floor_alone(exam: DialogueExam) -> None:
    best = shown.retrieved(shown.query_vectors(exam.built, DIALOGUES), pictures=exam.pictures, k=2).cosines_QK[:, 0]
    floored = replace(exam, built=calibrated(exam.built, floor=float(np.median(best))))
    rows = evaluate_dialogues(floored, look=SERVED, word_vectors=None).predictions
    assert [len(row["image_ids"]) for row in rows] == [2 if score >= np.median(best) else 0 for score in best]
    everything = evaluate_dialogues(floored, look=RETRIEVED, word_vectors=None)
    assert {len(row["image_ids"]) for row in everything.predictions} == {2}
    assert everything.scores["loss_served"] != everything.scores["loss_retrieved"]
    blind = replace(exam, built=calibrated(exam.built, floor=1.0))
    nowhere = evaluate_dialogues(blind, look=SERVED, word_vectors=None)
    assert nowhere.scores["loss_served"] == pytest.approx(nowhere.scores["loss_none"])
    assert "clip_score" not in nowhere.scores


@pytest.mark.parametrize("look", LOOKS)
def test_what_replies_look_at_stands_in_the_predictions(exam: DialogueExam, look: str) -> None:
    measured = evaluate_dialogues(exam, look=look, word_vectors=None)
    assert [row["id"] for row in measured.predictions] == [record.id for record in DIALOGUES]
    assert {len(row["image_ids"]) for row in measured.predictions} == {0 if look == NONE else 2}
    assert measured.scores["perplexity"] == pytest.approx(np.exp(measured.scores[f"loss_{look}"]))
    replies, responses = ([row[name] for row in measured.predictions] for name in ("reply", "response"))
    assert bleu_each(replies, responses=responses)["bleu_1"] == measured.scores["bleu_1"]


def test_random_pictures_are_seeded_different_and_never_the_true_one(exam: DialogueExam) -> None:
    queries = shown.query_vectors(exam.built, DIALOGUES)
    known = shown.known_rows(DIALOGUES, row_of=exam.pictures.rows_by_id(exam.images))
    first, again, other = (
        shown.drawn(queries, pictures=exam.pictures, k=11, known_Q=known, seed=seed).rows_QK for seed in (0, 0, 1)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert all(len(set(rows)) == 11 and right not in rows for rows, right in zip(first.tolist(), known, strict=True))


@pytest.mark.parametrize(("num_pictures", "k"), [(1, 0), (2, 1), (12, 3)])
def test_a_small_pool_gives_as_many_random_pictures_as_it_can(exam: DialogueExam, num_pictures: int, k: int) -> None:
    few = EncodedPictures(
        vectors_ND=exam.pictures.vectors_ND[:num_pictures],
        tokens_NPW=exam.pictures.tokens_NPW[:num_pictures],
        row_of_image=np.arange(num_pictures),
    )
    queries = shown.query_vectors(exam.built, DIALOGUES)
    known = np.array([0, *[shown.UNKNOWN] * 6])
    assert shown.drawn(queries, pictures=few, k=3, known_Q=known, seed=0).rows_QK.shape == (7, k)


def test_known_pictures_are_ranked_as_a_full_sort_ranks_them(exam: DialogueExam) -> None:
    queries = shown.query_vectors(exam.built, DIALOGUES)
    known = np.arange(7)
    ranks = shown.ranks_of_known(queries, pictures=exam.pictures, known_Q=known)
    scores = queries @ exam.pictures.vectors_ND.T
    assert ranks.tolist() == [int((row >= row[right]).sum()) - 1 for row, right in zip(scores, known, strict=True)]


@pytest.fixture
def released_squares(tiny_fit: FitConfig, built: Built, tmp_path: Path) -> list[str]:
    """The command's arguments that name an untrained release and dialogues of its squares."""
    registry = Registry(tiny_fit.registry)
    manifest = publish(built, config=tiny_fit, registry=registry, scores={}, data_digest="")
    write_dialogues(tmp_path / "dialogues.jsonl", DIALOGUES)
    settings = ["--registry", tiny_fit.registry, "--run.root", str(tmp_path / "runs"), "--evaluation.batch-size", "3"]
    return ["evaluate", manifest.release_id, "--dialogues", str(tmp_path / "dialogues.jsonl"), *settings]


@pytest.mark.slow
def test_the_command_prints_a_table_and_writes_scores_and_predictions(
    released_squares: list[str], corpus_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vectors, out = tmp_path / "vectors.txt", tmp_path / "out" / "here"
    vectors.write_text("it 1 0\nis 0 1\nred 0.5 0.5\n", encoding="utf-8")
    options = ["--pool", str(corpus_folder), "--word-vectors", str(vectors), "--out", str(out), "--pictures", RANDOM]
    assert main([*released_squares, *options]) == 0
    report = json.loads((out / "scores.json").read_text(encoding="utf-8"))
    rows = [json.loads(line) for line in (out / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == len(DIALOGUES)
    assert {"loss", "rouge_l", "embedding_greedy", "clip_score"} <= rows[0]["scores"].keys()
    assert report["query"] == "context"
    assert report["pictures"] == RANDOM
    printed = capsys.readouterr().out
    assert all(name in printed for name in report["scores"])
    assert {"embedding_average", "retrieval_median_rank", "gain_true_over_random"} <= report["scores"].keys()


@pytest.mark.slow
@pytest.mark.data
def test_real_dialogues_are_measured_over_real_pictures(
    released_squares: list[str], shared_data: Path, tmp_path: Path
) -> None:
    pictures, talk = shared_data / "emoji_noto128" / "png", shared_data / "topical_chat" / "valid_rare.json"
    if not pictures.is_dir() or not talk.is_file():
        pytest.skip("emoji_noto128 and topical_chat are not among the real data")
    images = read_pool(pictures)[::97]
    write_pool(tmp_path / "pool.jsonl", images)
    write_dialogues(tmp_path / "dialogues.jsonl", topical_dialogues(talk, image_ids=[each.image_id for each in images]))
    out = tmp_path / "out"
    assert main([*released_squares, "--pool", str(tmp_path / "pool.jsonl"), "--out", str(out)]) == 0
    report = json.loads((out / "scores.json").read_text(encoding="utf-8"))
    assert report["scores"]["num_dialogues"] == report["scores"]["num_dialogues_with_picture"] == 30
    assert 1 <= report["scores"]["retrieval_median_rank"] <= len(images)


def topical_dialogues(path: Path, *, image_ids: Sequence[str]) -> list[DialogueRecord]:
    """The first four turns of thirty conversations, each about a picture of its own."""
    conversations = [talk["content"] for talk in json.loads(path.read_text(encoding="utf-8")).values()]
    said = [[turn["message"] for turn in turns] for turns in conversations if len(turns) >= 4][:30]
    pairs = zip(said, image_ids, strict=False)
    return [
        DialogueRecord(id=f"{number}", context=tuple(turns[:3]), response=turns[3], image_id=image_id)
        for number, (turns, image_id) in enumerate(pairs)
    ]


@pytest.mark.slow
def test_the_command_gives_the_same_scores_twice(
    released_squares: list[str], corpus_folder: Path, tmp_path: Path
) -> None:
    outs = [tmp_path / "first.json", tmp_path / "folder" / "of its own" / "second.json"]
    for out in outs:
        assert main([*released_squares, "--pool", str(corpus_folder), "--json", str(out)]) == 0
    assert outs[0].read_text(encoding="utf-8") == outs[1].read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--dialogues", "d.jsonl"], "--dialogues and --pool go together"),
        (["--pool", "p.jsonl"], "--dialogues and --pool go together"),
        (["--pictures", "random"], "--dialogues and --pool go together"),
        (["--dialogues", "absent.jsonl", "--pool", "p.jsonl"], "absent.jsonl: cannot be read"),
    ],
)
def test_a_wrong_evaluation_is_refused_by_name(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "stable", "--registry", str(tmp_path / "registry"), *arguments]) == ERROR_EXIT
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_a_bad_line_is_refused_before_anything_is_computed(
    released_squares: list[str], corpus_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vectors = tmp_path / "vectors.txt"
    vectors.write_text("it 1 0\nis 0\n", encoding="utf-8")
    options = ["--pool", str(corpus_folder), "--word-vectors", str(vectors)]
    assert main([*released_squares, *options]) == ERROR_EXIT
    assert "vectors.txt:2: got 1 values" in capsys.readouterr().err.replace("\n", "")


@pytest.mark.slow
def test_own_files_are_read_as_the_data_settings_say(
    released_squares: list[str], corpus_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["0.png", "1.png", "torn.png"]
    (corpus_folder / names[2]).write_bytes((corpus_folder / names[0]).read_bytes()[:60])
    coco = {"images": [{"id": n, "file_name": name} for n, name in enumerate(names)], "annotations": []}
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    command = [*released_squares, "--pool", str(tmp_path / "coco.json"), "--json", str(tmp_path / "scores.json")]
    settings = ["--data.images", str(corpus_folder), "--data.skip-bad"]
    assert main([*command, *settings]) == 0
    assert json.loads((tmp_path / "scores.json").read_text())["num_pool_pictures"] == 2
    capsys.readouterr()
    assert main([*command, *settings[:2]]) == ERROR_EXIT
    assert "torn.png (image_id 2)" in capsys.readouterr().err.replace("\n", "")
