"""Batches of both stages, and the arithmetic of a step."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sightline.data.captions import CaptionRecord
from sightline.data.dialogues import DialogueRecord
from sightline.data.pools import PoolImage
from sightline.errors import SettingInvalid, UsageError
from trainer.architecture import Built, build
from trainer.config import ContrastiveSettings, EvaluationSettings, FitConfig, GenerativeSettings
from trainer.data import Corpus, load_corpus, unique_pictures
from trainer.evaluate import spread
from trainer.pictures import Pixels, load_pictures, read_pixels
from trainer.stages.contrastive import ContrastiveBatches, ContrastiveObjective, augment, small_talk
from trainer.stages.generative import GenerativeBatches, annotated_part
from trainer.stages.sources import ShuffledPictures
from trainer.step import build_optimizer, learning_rate_at, step_seed
from trainer.store import EncodedPictures, PictureStore, encode_pictures


@pytest.fixture
def corpus(tiny_fit: FitConfig) -> Corpus:
    """The squares and their dialogues."""
    return load_corpus(tiny_fit.data)


@pytest.fixture
def built(tiny_fit: FitConfig, corpus: Corpus) -> Built:
    """An untrained model of the squares."""
    return build(tiny_fit, texts=corpus.texts())


@pytest.fixture
def pixels(built: Built, corpus: Corpus, tiny_fit: FitConfig) -> Pixels:
    """The training pictures."""
    images: list[PoolImage] = unique_pictures(corpus.captions_train)
    return load_pictures(images, preprocess=built.model.tower.preprocess, cache=tiny_fit.run.root / "cache")


@pytest.fixture
def pictures(built: Built, corpus: Corpus, tiny_fit: FitConfig) -> EncodedPictures:
    """The training pictures as the tower sees them."""
    pixels_of = partial(read_pixels, preprocess=built.model.tower.preprocess)
    store = PictureStore(tiny_fit.run.root / "cache", model=built.model)
    return store.encoded(unique_pictures(corpus.captions_train), pixels_of=pixels_of)


def _contrastive(
    built: Built, corpus: Corpus, pixels: Pixels, *, rank: int = 0, world_size: int = 1, **settings: Any
) -> ContrastiveBatches:
    return ContrastiveBatches(
        built,
        captions=corpus.captions_train,
        dialogues=corpus.dialogues_train,
        source=ShuffledPictures(pixels, seed=0, rank=rank, world_size=world_size),
        settings=ContrastiveSettings(batch_size=6, **settings),
        seed=0,
        rank=rank,
    )


def _generative(built: Built, corpus: Corpus, pictures: EncodedPictures, **settings: Any) -> GenerativeBatches:
    return GenerativeBatches(
        built,
        dialogues=corpus.dialogues_train,
        captions=corpus.captions_train,
        pictures=pictures,
        settings=GenerativeSettings(batch_size=64, **settings),
        seed=0,
        rank=0,
        world_size=1,
    )


def test_workers_share_a_batch_between_them(built: Built, corpus: Corpus, pixels: Pixels) -> None:
    whole = _contrastive(built, corpus, pixels).batch(3)["pair_ids_B"].tolist()
    parts = [_contrastive(built, corpus, pixels, rank=rank, world_size=2).batch(3)["pair_ids_B"] for rank in (0, 1)]
    assert sorted(torch.cat(parts).tolist()) == sorted(whole)


def test_a_batch_is_a_function_of_its_step(built: Built, corpus: Corpus, pixels: Pixels) -> None:
    batches = _contrastive(built, corpus, pixels)
    first, again, other = batches.batch(2), batches.batch(2), batches.batch(3)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["pixels_BCHW"], other["pixels_BCHW"])


def test_each_text_comes_with_a_wrong_one_and_is_what_it_was(built: Built, corpus: Corpus, pixels: Pixels) -> None:
    plain = _contrastive(built, corpus, pixels).batch(3)
    batch = _contrastive(built, corpus, pixels, has_wrong_captions=True).batch(3)
    wrong_BL = batch.pop("wrong_ids_BL")
    assert all(torch.equal(batch[name], plain[name]) for name in plain | batch)
    assert wrong_BL.shape == batch["tower_ids_BL"].shape
    assert (wrong_BL != batch["tower_ids_BL"]).any(dim=1).all()


def test_wrong_captions_make_matching_harder_and_nothing_else(built: Built, corpus: Corpus, pixels: Pixels) -> None:
    batch = _contrastive(built, corpus, pixels, has_wrong_captions=True).batch(0)
    objective = ContrastiveObjective(built, settings=ContrastiveSettings()).eval()
    told = {name: value for name, value in batch.items() if name != "wrong_ids_BL"}
    torch.manual_seed(0)
    with_wrong = objective(batch)
    torch.manual_seed(0)
    without = objective(told)
    assert with_wrong["tim"] > without["tim"]
    assert torch.equal(with_wrong["tamim"], without["tamim"])


def test_augmentation_without_reach_or_mirrors_changes_nothing() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, size=(3, 3, 8, 8), dtype=np.uint8)
    settings = ContrastiveSettings(shift_pixels=0, flip_share=0.0)
    assert np.array_equal(augment(pixels, settings=settings, rng=np.random.default_rng(0)), pixels)


def test_a_mirrored_picture_is_mirrored() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, size=(3, 3, 8, 8), dtype=np.uint8)
    settings = ContrastiveSettings(shift_pixels=0, flip_share=1.0)
    assert np.array_equal(augment(pixels, settings=settings, rng=np.random.default_rng(0)), pixels[..., ::-1])


def test_small_talk_names_nothing_that_tells_pictures_apart() -> None:
    captions = [
        CaptionRecord(image_id=str(n), path=Path(f"{n}.png"), caption=f"a picture of thing{n}") for n in range(40)
    ]
    dialogues = [
        DialogueRecord(id="1", context=("nice weather", "where is thing7"), response="x"),
        DialogueRecord(id="2", context=("nice weather", "a picture, please"), response="x"),
    ]
    assert small_talk(dialogues, captions=captions) == ["nice weather", "a picture, please"]


def test_without_swaps_the_words_are_the_dialogues_own(built: Built, corpus: Corpus, pictures: EncodedPictures) -> None:
    batch = _generative(built, corpus, pictures, swap_share=0.0).batch(0)
    texts = {built.dialogue_tokenizer.decode([i for i in row if i >= 0]) for row in batch["labels_BT"].tolist()}
    assert texts <= {record.response for record in corpus.dialogues_train}


def test_image_dropout_of_one_shows_no_picture(built: Built, corpus: Corpus, pictures: EncodedPictures) -> None:
    batch = _generative(built, corpus, pictures, image_dropout=1.0).batch(0)
    assert not batch["image_mask_BK"].any()


def test_shown_pictures_vary_from_none_to_all(built: Built, corpus: Corpus, pictures: EncodedPictures) -> None:
    batch = _generative(built, corpus, pictures, image_dropout=0.2, num_images=3).batch(0)
    assert set(batch["image_mask_BK"].sum(dim=1).tolist()) == {0, 1, 2, 3}


def test_shown_pictures_are_candidates_with_their_own_similarity(
    built: Built, corpus: Corpus, pictures: EncodedPictures
) -> None:
    batches = _generative(built, corpus, pictures, num_candidates=4)
    batch = batches.batch(0)
    assert batch["similarity_BK"].shape == (64, 3)
    assert (batch["similarity_BK"].diff(dim=1) <= 0).all()


def test_the_rate_rises_to_its_peak_and_ends_at_zero() -> None:
    settings = ContrastiveSettings(steps=100, learning_rate=1.0, warmup_share=0.1)
    rates = [learning_rate_at(step, settings=settings) for step in range(101)]
    assert rates[0] > 0
    assert max(rates) == rates[10] == 1.0
    assert rates[100] == pytest.approx(0.0)


def test_no_two_steps_stages_or_workers_share_randomness() -> None:
    seeds = {
        step_seed(seed, stage=stage, step=step, rank=rank)
        for seed in range(3)
        for stage in ("a", "b")
        for step in range(20)
        for rank in range(3)
    }
    assert len(seeds) == 3 * 2 * 20 * 3


def test_gains_biases_and_the_temperature_are_not_decayed(built: Built) -> None:
    optimizer = build_optimizer(built.model, settings=ContrastiveSettings(weight_decay=0.3))
    plain = {id(p) for group in optimizer.param_groups if group["weight_decay"] == 0.0 for p in group["params"]}
    assert id(built.model.tower.model.logit_scale) in plain
    assert all(id(p) in plain for p in built.model.parameters() if p.ndim < 2)


@pytest.mark.parametrize(("limit", "expected"), [(0, [0, 1, 2, 3, 4]), (9, [0, 1, 2, 3, 4]), (3, [0, 2, 4]), (1, [0])])
def test_a_limit_takes_items_from_all_over(limit: int, expected: list[int]) -> None:
    assert spread(range(5), limit=limit) == expected


def test_the_text_only_control_never_shows_a_picture() -> None:
    from trainer.recipes import TOYTOWN_TEXT_ONLY

    assert TOYTOWN_TEXT_ONLY.stage2.image_dropout == 1.0


def _annotated(count: int) -> list[DialogueRecord]:
    return [
        DialogueRecord(id=str(n), context=(f"what is box {n}",), response="red", image_id=str(n)) for n in range(count)
    ]


@pytest.mark.parametrize(("share", "expected"), [(0.01, 1), (0.25, 10), (0.26, 10), (1.0, 40)])
def test_a_share_of_annotated_dialogues_is_part_of_every_larger_one(share: float, expected: int) -> None:
    image_ids = [str(number) for number in reversed(range(40))]
    row_of = {image_id: row for row, image_id in enumerate(image_ids)}
    part = annotated_part(_annotated(40), share=share, row_of=row_of)
    whole = annotated_part(_annotated(40), share=1.0, row_of=row_of)
    assert part is not None
    assert whole is not None
    assert part.dialogues == whole.dialogues[:expected]
    assert [image_ids[row] for row in part.rows_B] == [record.image_id for record in part.dialogues]


def test_settings_that_show_no_picture_at_all_are_refused() -> None:
    with pytest.raises(SettingInvalid, match=r"stage2.num_images: got 0, must be at least 1"):
        GenerativeSettings(num_images=0)
    with pytest.raises(SettingInvalid, match=r"evaluation.num_images: got 0, must be at least 1"):
        EvaluationSettings(num_images=0)


def test_no_share_trains_on_text_only_dialogues() -> None:
    assert annotated_part(_annotated(4), share=0.0, row_of={}) is None


def test_a_share_of_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match=r"got 0.5, but data.dialogues_annotated names no dialogue"):
        annotated_part([], share=0.5, row_of={})
    with pytest.raises(SettingInvalid, match=r"got 1.5, limits 0 to 1"):
        annotated_part(_annotated(4), share=1.5, row_of={})


def test_an_annotated_dialogue_is_shown_its_own_picture_only(built: Built, corpus: Corpus, pixels: Pixels) -> None:
    image_ids = [image.image_id for image in unique_pictures(corpus.captions_train)]
    annotated = [
        DialogueRecord(id=image_id, context=(f"what is box {image_id}",), response="red", image_id=image_id)
        for image_id in image_ids
    ]
    pictures = encode_pictures(built.model, pixels)
    row_of = pictures.rows_by_id(unique_pictures(corpus.captions_train))
    batches = GenerativeBatches(
        built,
        dialogues=corpus.dialogues_train,
        captions=corpus.captions_train,
        annotated=annotated_part(annotated, share=1.0, row_of=row_of),
        pictures=pictures,
        settings=GenerativeSettings(batch_size=len(image_ids), image_dropout=0.0),
        seed=0,
        rank=0,
        world_size=1,
    )
    batch = batches.batch(0)
    tokens_BPW = batch["tokens_BKPW"][:, 0].numpy()
    assert batch["tokens_BKPW"].shape[1] == 1
    assert batch["image_mask_BK"].all()
    expected = {pictures.tokens_NPW[row].tobytes() for row in range(len(image_ids))}
    assert {tokens_PW.astype(np.float16).tobytes() for tokens_PW in tokens_BPW} == expected
