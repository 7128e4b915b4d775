"""Defects of the published scripts (A, E, F, H, K, L, N, O, P) beside our runs; letters are those of docs/zrigf.md."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from sightline.data.captions import CaptionRecord, read_captions, write_captions
from sightline.data.dialogues import DialogueRecord, query_text, write_dialogues
from sightline.data.pools import PoolImage
from sightline.errors import DataLineInvalid
from sightline.models.faithful.generator import FaithfulGenerator
from trainer.architecture import Built, build
from trainer.config import ContrastiveSettings, FitConfig, GenerativeSettings
from trainer.data import load_corpus, unique_pictures
from trainer.loop import train
from trainer.overrides import apply_overrides
from trainer.pictures import load_pictures
from trainer.reporting import LocalReporter
from trainer.retrieval import encode_texts, nearest_pictures
from trainer.runs import run_folder
from trainer.stages.contrastive import ContrastiveObjective, small_talk
from trainer.stages.generative import GenerativeBatches, GenerativeObjective
from trainer.step import Objective, StepSettings, build_optimizer, learning_rate_at
from trainer.store import EncodedPictures, Rows, encode_pictures, encode_pool

ROOT = Path(__file__).resolve().parents[3]
CAPTIONS = [CaptionRecord(image_id="0", path=Path("0.png"), caption="a red box")]


@pytest.fixture
def faithful_fit(tiny_fit: FitConfig) -> FitConfig:
    return apply_overrides(tiny_fit, arguments=["--model.variant", "faithful"])


@pytest.fixture
def built(faithful_fit: FitConfig) -> Built:
    return build(faithful_fit, texts=load_corpus(faithful_fit.data).texts())


@pytest.fixture
def pictures(built: Built, faithful_fit: FitConfig) -> EncodedPictures:
    images = unique_pictures(load_corpus(faithful_fit.data).captions_train)
    pixels = load_pictures(images, preprocess=built.model.tower.preprocess, cache=faithful_fit.run.root / "cache")
    return encode_pictures(built.model, pixels)


def candidates(built: Built, pictures: EncodedPictures, dialogues: list[DialogueRecord]) -> Rows:
    batches = GenerativeBatches(
        built,
        dialogues=dialogues,
        captions=CAPTIONS,
        pictures=pictures,
        settings=GenerativeSettings(batch_size=4, num_candidates=3),
        seed=0,
        rank=0,
        world_size=1,
    )
    return batches._rows_BC


def test_a_the_answer_chooses_no_picture(built: Built, pictures: EncodedPictures) -> None:
    for parameter in built.model.tower.text.parameters():
        torch.nn.init.normal_(parameter, std=0.5)  # as far apart as the texts of a trained encoder
    vectors_ND = np.random.default_rng(0).normal(size=pictures.vectors_ND.shape).astype(np.float32)
    pictures = replace(pictures, vectors_ND=vectors_ND)
    asked = [DialogueRecord(id=str(n), context=(f"what is box {n}",), response="it is red") for n in range(20)]
    told = [replace(record, response=f"yellow white {n} green") for n, record in enumerate(asked)]
    assert np.array_equal(candidates(built, pictures, asked), candidates(built, pictures, told))

    def published(dialogues: list[DialogueRecord]) -> Rows:
        texts = [f"{query_text(record.context)} </s> {record.response}" for record in dialogues]
        return nearest_pictures(encode_texts(built, texts), pictures_ND=pictures.vectors_ND, k=3)[0]

    assert not np.array_equal(published(asked), published(told))


@pytest.fixture
def captions_of_noise(tmp_path: Path) -> list[CaptionRecord]:
    """Six pictures in files, five captions each, as a file of captions names them."""
    rng, path = np.random.default_rng(0), tmp_path / "noise" / "captions.jsonl"
    path.parent.mkdir()
    for number in range(6):
        Image.fromarray(rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(path.parent / f"{number}.png")
    pairs = [(str(number), f"box {turn}") for number in range(6) for turn in range(5)]
    write_captions(path, [CaptionRecord(image_id=n, path=path.parent / f"{n}.png", caption=text) for n, text in pairs])
    return read_captions(path)


def test_e_a_picture_with_five_captions_is_in_the_index_once(
    built: Built, captions_of_noise: list[CaptionRecord], tmp_path: Path
) -> None:
    images, query = unique_pictures(captions_of_noise), encode_texts(built, ["what is box 2"])
    ours = encode_pool(built.model, images, cache=tmp_path / "cache", skip_bad=False)
    assert len(images) == len(ours.vectors_ND) == 6
    found = nearest_pictures(query, pictures_ND=ours.vectors_ND, k=3)[0][0]
    assert len({images[row].image_id for row in found}) == 3
    # A row for each caption holds five copies of one picture; here such a pool has each once, too.
    named = [record.image for record in captions_of_noise]
    again = encode_pool(built.model, named, cache=tmp_path / "cache", skip_bad=False)
    assert len(again.vectors_ND) == 6
    published = nearest_pictures(query, pictures_ND=again.vectors_ND[again.row_of_image], k=5)[0][0]
    assert len({named[row].image_id for row in published}) == 1


@pytest.mark.slow
def test_f_what_is_held_out_chooses_no_weight(faithful_fit: FitConfig, tmp_path: Path) -> None:
    held_out = tmp_path / "other.jsonl"
    write_dialogues(held_out, [DialogueRecord(id="x", context=("other",), response="words")])
    dialogues = faithful_fit.data.root / "dialogues.jsonl"
    weights = []
    for name, val in (("one", dialogues), ("two", held_out)):
        data = replace(faithful_fit.data, dialogues_val=val)
        config = replace(faithful_fit, data=data, run=replace(faithful_fit.run, name=name))
        reporter = LocalReporter(run_folder(config), keep=2)
        train(config, reporter=reporter)
        newest = reporter.restore()
        assert newest is not None
        weights.append(load_file(newest / "model.safetensors"))
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize("settings", [ContrastiveSettings(steps=400), GenerativeSettings(steps=400)])
def test_h_the_rate_falls_to_nothing_over_the_optimisers_own_steps(
    settings: ContrastiveSettings | GenerativeSettings,
) -> None:
    assert learning_rate_at(400, settings=settings) == pytest.approx(0.0)
    assert learning_rate_at(399, settings=settings) < 1e-4 * settings.learning_rate

    def published(step: int, *, accumulate: int) -> float:
        """Linear over all batches, but stepped once an optimiser step."""
        return settings.learning_rate * (1 - step / (accumulate * settings.steps))

    assert published(400, accumulate=4) == pytest.approx(0.75 * settings.learning_rate)


def test_k_neither_stage_decays_a_temperature_or_the_bias(built: Built) -> None:
    generator = built.model.generator
    assert isinstance(generator, FaithfulGenerator)
    built.model.start_stage_one()
    first = ContrastiveObjective(built, settings=ContrastiveSettings())
    assert undecayed(first, settings=ContrastiveSettings()) >= {built.model.tower.log_scale}
    built.model.start_stage_two()
    second = GenerativeObjective(built.model)
    ours = undecayed(second, settings=GenerativeSettings())
    assert ours >= {generator.reader.log_scale, generator.preservation.bias}


def undecayed(objective: Objective, *, settings: StepSettings) -> set[torch.nn.Parameter]:
    groups = build_optimizer(objective, settings=settings).param_groups
    assert any(group["weight_decay"] > 0 and group["params"] for group in groups)
    return {parameter for group in groups if group["weight_decay"] == 0 for parameter in group["params"]}


def test_l_the_text_side_meets_talk_around_captions_and_replies_meet_no_picture(
    built: Built, pictures: EncodedPictures
) -> None:
    captions = [CaptionRecord(image_id=str(n), path=Path("x"), caption=f"a picture of thing{n}") for n in range(40)]
    talk = [DialogueRecord(id="1", context=("nice weather",), response="yes")]
    assert small_talk(talk, captions=captions) == ["nice weather"]
    assert ContrastiveSettings().small_talk_share > 0
    batches = GenerativeBatches(
        built,
        dialogues=talk * 40,
        captions=captions,
        pictures=pictures,
        settings=GenerativeSettings(batch_size=40, image_dropout=0.5, num_candidates=3),
        seed=0,
        rank=0,
        world_size=1,
    )
    assert set(batches.batch(0)["image_mask_BK"].any(dim=1).tolist()) == {True, False}


def test_n_the_last_incomplete_batch_of_pictures_is_encoded_too(built: Built) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (67, 3, 16, 16), dtype=np.uint8)
    vectors = encode_pictures(built.model, pixels).vectors_ND
    assert vectors.shape[0] == 67
    np.testing.assert_allclose(vectors[66:], encode_pictures(built.model, pixels[66:]).vectors_ND, atol=1e-5)


def test_o_a_picture_with_a_good_header_and_a_torn_body_is_named(built: Built, tmp_path: Path) -> None:
    path = tmp_path / "torn.png"
    Image.effect_noise((64, 64), 80).convert("RGB").save(path)
    path.write_bytes(path.read_bytes()[:900])
    with Image.open(path) as image:  # all that the published filter asks
        assert image.size == (64, 64)
    with pytest.raises(DataLineInvalid, match=r"torn\.png"):
        load_pictures(
            [PoolImage(image_id="7", path=path)], preprocess=built.model.tower.preprocess, cache=tmp_path / "cache"
        )


def test_p_nothing_that_aged_is_needed() -> None:
    locked = set(re.findall(r"^([a-z0-9][\w.-]*)==", (ROOT / "requirements.lock").read_text(), flags=re.MULTILINE))
    assert locked.isdisjoint({"nlg-eval", "datasets", "accelerate", "gensim", "pycocoevalcap"})
    assert math.isclose(float(re.search(r"transformers==(\d+)", (ROOT / "requirements.lock").read_text())[1]), 5)  # type: ignore[index]
