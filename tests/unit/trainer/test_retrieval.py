"""Retrieval in blocks equals the whole matrix, and what knows the answers stays out of evaluation."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from sightline.data.dialogues import DialogueRecord
from sightline.errors import SettingInvalid, UsageError
from sightline.metrics import ranks_of_first_relevant
from trainer.answers import reply_inputs
from trainer.architecture import Built, build
from trainer.config import FitConfig, GenerativeSettings
from trainer.data import load_corpus, unique_pictures
from trainer.pictures import read_pixels
from trainer.retrieval import (
    Retrieved,
    encode_texts,
    nearest_pictures,
    ranks_of_relevant,
    read_retrieved,
    retrieve,
    searched_text,
    write_retrieved,
)
from trainer.stages.generative import GenerativeBatches
from trainer.store import EncodedPictures, PictureStore


@pytest.fixture
def built(tiny_fit: FitConfig) -> Built:
    """An untrained model of the squares."""
    return build(tiny_fit, texts=load_corpus(tiny_fit.data).texts())


@pytest.fixture
def pictures(built: Built, tiny_fit: FitConfig) -> EncodedPictures:
    """The training pictures as the tower sees them."""
    store = PictureStore(tiny_fit.run.root / "cache", model=built.model)
    images = unique_pictures(load_corpus(tiny_fit.data).captions_train)
    return store.encoded(images, pixels_of=partial(read_pixels, preprocess=built.model.tower.preprocess))


def unit(rng: np.random.Generator, num: int, width: int) -> np.ndarray:
    vectors = rng.normal(size=(num, width)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("k", [1, 3, 50])
@pytest.mark.parametrize(("query_block", "picture_block"), [(1, 1), (2, 7), (100, 100)])  # 7 does not divide 20
def test_nearest_pictures_in_blocks_equal_the_whole_matrix(k: int, query_block: int, picture_block: int) -> None:
    rng = np.random.default_rng(0)
    queries, pictures = unit(rng, 5, 4), unit(rng, 20, 4)
    rows, cosines = nearest_pictures(
        queries, pictures_ND=pictures, k=k, query_block=query_block, picture_block=picture_block
    )
    whole = queries @ pictures.T
    expected = np.argsort(-whole, axis=1, kind="stable")[:, :k]
    assert np.array_equal(rows, expected)
    assert np.allclose(cosines, np.take_along_axis(whole, expected, axis=1), atol=1e-6)


@pytest.mark.parametrize("picture_block", [1, 3, 8, 64])
def test_of_equally_near_pictures_the_first_rows_are_taken(picture_block: int) -> None:
    pictures = np.repeat(np.eye(4, dtype=np.float32), 5, axis=0)
    rows, _ = nearest_pictures(np.eye(4, dtype=np.float32), pictures_ND=pictures, k=3, picture_block=picture_block)
    assert rows.tolist() == [[5 * query, 5 * query + 1, 5 * query + 2] for query in range(4)]


@pytest.mark.parametrize(("query_block", "picture_block"), [(1, 1), (4, 7), (100, 100)])
def test_ranks_in_blocks_equal_the_whole_matrix(query_block: int, picture_block: int) -> None:
    rng = np.random.default_rng(1)
    queries, pictures = unit(rng, 9, 3), unit(rng, 30, 3)
    relevant = [np.sort(rng.choice(30, size=1 + query % 3, replace=False)) for query in range(9)]
    mask = np.zeros((9, 30), dtype=bool)
    for query, rows in enumerate(relevant):
        mask[query, rows] = True
    ranks = ranks_of_relevant(
        queries, pictures_ND=pictures, relevant=relevant, query_block=query_block, picture_block=picture_block
    )
    assert np.array_equal(ranks, ranks_of_first_relevant(queries @ pictures.T, relevant_QT=mask))


def test_a_query_without_a_relevant_picture_is_named() -> None:
    with pytest.raises(UsageError, match="query 1: has no relevant picture"):
        ranks_of_relevant(
            np.eye(2, dtype=np.float32),
            pictures_ND=np.eye(2, dtype=np.float32),
            relevant=[np.array([0]), np.array([], dtype=np.int64)],
        )


DIALOGUE = DialogueRecord(id="1", context=("what is it", "a box"), response="it is red")


def test_the_answer_is_searched_only_where_it_is_asked_for() -> None:
    assert searched_text(DIALOGUE, query="context") == "what is it a box"
    assert searched_text(DIALOGUE, query="context_response") == "what is it a box it is red"
    with pytest.raises(SettingInvalid, match=r"stage2.query: got 'both', expected one of context, context_response"):
        searched_text(DIALOGUE, query="both")


@pytest.mark.parametrize("query", ["context", "context_response"])
def test_a_search_is_kept_with_what_it_searched_by(
    built: Built, pictures: EncodedPictures, tmp_path: Path, query: str
) -> None:
    first = retrieve(built, [DIALOGUE] * 3, pictures=pictures, k=4, query=query, cache=tmp_path)
    kept = list(tmp_path.glob("retrieved-*"))
    again = retrieve(built, [DIALOGUE] * 3, pictures=pictures, k=4, query=query, cache=tmp_path)
    assert list(tmp_path.glob("retrieved-*")) == kept
    assert first.query == again.query == query
    expected = encode_texts(built, [searched_text(DIALOGUE, query=query)] * 3) @ pictures.vectors_ND[:].T
    assert np.array_equal(again.rows_QK, np.argsort(-expected, axis=1, kind="stable")[:, :4])
    assert np.array_equal(again.rows_QK, first.rows_QK)


def test_an_index_built_with_answers_is_refused_in_evaluation(tmp_path: Path) -> None:
    found = Retrieved(rows_QK=np.zeros((1, 1), np.int64), cosines_QK=np.zeros((1, 1), np.float32), query="context")
    write_retrieved(tmp_path / "fair", found)
    write_retrieved(tmp_path / "leaky", replace(found, query="context_response"))
    assert read_retrieved(tmp_path / "fair").for_evaluation()
    with pytest.raises(UsageError, match="was built with 'context_response'; evaluation takes 'context' alone"):
        read_retrieved(tmp_path / "leaky").for_evaluation()


def test_training_may_search_with_answers(built: Built, pictures: EncodedPictures) -> None:
    dialogues = [replace(DIALOGUE, response=f"it is {colour}") for colour in ("red", "green", "blue")]
    found = {}
    for query in ("context", "context_response"):
        settings = GenerativeSettings(batch_size=3, query=query)
        batches = GenerativeBatches(
            built, dialogues=dialogues, captions=[], pictures=pictures, settings=settings, seed=0, rank=0, world_size=1
        )
        found[query] = batches._cosines_BC
    assert len(np.unique(found["context"], axis=0)) == 1
    assert len(np.unique(found["context_response"], axis=0)) == 3


def test_a_dialogue_that_nobody_opened_is_shown_no_picture(built: Built, pictures: EncodedPictures) -> None:
    dialogues = [replace(DIALOGUE, context=()), replace(DIALOGUE, context=("hi",)), DIALOGUE]
    batches = GenerativeBatches(
        built,
        dialogues=dialogues,
        captions=[],
        pictures=pictures,
        settings=GenerativeSettings(batch_size=3, image_dropout=0.0),
        seed=0,
        rank=0,
        world_size=1,
    )
    batch = batches.batch(0)
    order = batches._order.batch(0, size=3)
    assert batch["image_mask_BK"].any(dim=1).tolist() == [bool(dialogues[row].context) for row in order]
    inputs = reply_inputs(
        built,
        contexts=[(), ("hi",)],
        pictures=pictures,
        rows_BK=np.zeros((2, 2), np.int64),
        cosines_BK=np.zeros((2, 2), np.float32),
    )
    assert inputs["image_mask_BK"].tolist() == [[False, False], [True, True]]


def test_words_never_met_in_training_are_spelled(built: Built) -> None:
    text = "żółw 龜 xyzzy"
    assert built.dialogue_tokenizer.decode(built.dialogue_tokenizer.encode(text)).strip() == text
    assert np.isfinite(encode_texts(built, [text, ""])).all()
