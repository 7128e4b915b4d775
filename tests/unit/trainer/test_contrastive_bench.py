"""The parts of the benchmark that sets stage 1 against a plain CLIP loop of open_clip."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench.contrastive import OUR_LOOPS, Loop, Run, World, measure, plain_loops, rivals, summarise
from bench.plain_clip import SHIPPED_WARMUP_STEPS, PlainPairs, PlainSettings, open_clip_optimizer
from sightline.models.towers import DualEncoder
from sightline.models.transforms import Preprocess
from trainer.architecture import Built
from trainer.config import FitConfig
from trainer.data import load_corpus, unique_pictures
from trainer.pictures import Pixels, load_pictures

CROPPED = PlainSettings(learning_rate=1e-3, warmup_steps=0, is_cropped=True, batch_size=4)


@pytest.fixture
def world(tiny_fit: FitConfig, tmp_path: Path) -> World:
    corpus = load_corpus(tiny_fit.data)
    preprocess = Preprocess(image_size=tiny_fit.model.image_size)
    pixels = load_pictures(unique_pictures(corpus.captions_train), preprocess=preprocess, cache=tmp_path)
    return World(config=tiny_fit, corpus=corpus, pixels=pixels, captions_test=corpus.captions_val)


def test_all_loops_start_from_the_same_weights_and_are_measured_on_the_same_pictures(world: World) -> None:
    runs = [measure(loop, world=world, steps=3, seed=1) for loop in (*OUR_LOOPS, Loop(name="plain", plain=CROPPED))]
    assert len({run["first_weights_sha256"] for run in runs}) == 1
    assert {run["test"]["num_captions"] for run in runs} == {len(world.captions_test)}
    assert all(0 <= run["test"]["caption_recall_at_5"] <= 1 for run in runs)


def test_a_loop_trained_again_gives_the_same_model(world: World) -> None:
    loop = Loop(name="plain", plain=CROPPED)
    first, _, again = (measure(loop, world=world, steps=2, seed=seed)["val"] for seed in (0, 1, 0))
    assert first == again


def test_an_epoch_of_the_plain_loop_shows_every_caption_once_beside_its_picture(world: World) -> None:
    captions = world.corpus.captions_train
    settings = replace(CROPPED, is_cropped=False, batch_size=len(captions))
    built = world.beginning(0).again()
    pixels, ids = PlainPairs(built, captions=captions, pixels_NCHW=world.pixels, settings=settings, seed=0).batch(0)
    row_of = {image.image_id: row for row, image in enumerate(unique_pictures(captions))}
    expected = {
        (_text(built, record.caption), _picture(built, world.pixels[row_of[record.image_id]])) for record in captions
    }
    assert {
        (tuple(ids_L.tolist()), shown.numpy().tobytes()) for ids_L, shown in zip(ids, pixels, strict=True)
    } == expected


def test_gains_biases_and_the_temperature_are_not_decayed(world: World) -> None:
    tower = world.beginning(0).again().model.tower
    assert isinstance(tower, DualEncoder)
    model = tower.model
    spared, decayed = open_clip_optimizer(model, learning_rate=1e-3).param_groups
    assert (spared["weight_decay"], decayed["weight_decay"]) == (0.0, 0.2)
    assert any(parameter is model.logit_scale for parameter in spared["params"])
    assert len(spared["params"]) + len(decayed["params"]) == len(list(model.parameters()))
    assert all(parameter.ndim >= 2 for parameter in decayed["params"])


def test_the_rivals_are_our_rate_and_the_best_by_validation_alone(tiny_fit: FitConfig) -> None:
    loops = plain_loops([1e-3, 2e-3], batch_size=4)
    runs = [_run(loop.name, seed=0, val=place / 10, test=-place / 10) for place, loop in enumerate(loops)]
    same, best = rivals(runs, loops, seed=0, ours=tiny_fit)
    assert same.plain == replace(CROPPED, learning_rate=tiny_fit.stage1.learning_rate)
    assert best == loops[-1]


def test_what_differs_from_ours_differs_and_nothing_else(world: World) -> None:
    whole, *parts = [measure(loop, world=world, steps=1, seed=0)["settings"] for loop in OUR_LOOPS]
    changed = [{name for name in whole if part[name] != whole[name]} for part in parts]
    assert changed == [{"small_talk_share"}, {"tamim_share"}, {"flip_share", "shift_pixels"}, {"has_wrong_captions"}]


def test_only_open_clips_own_warm_up_is_longer_than_ours() -> None:
    *ours, shipped = [loop.with_steps(50, warmup_share=0.1).plain for loop in plain_loops([1e-3], batch_size=4)]
    assert [plain.warmup_steps for plain in ours if plain] == [5, 5]
    assert shipped is not None
    assert shipped.warmup_steps == SHIPPED_WARMUP_STEPS


def test_a_loop_that_lacks_a_seed_has_no_mean() -> None:
    runs = [
        _run("a", seed=0, val=0.1, test=0.2),
        _run("a", seed=1, val=0.3, test=0.6),
        _run("b", seed=0, val=0, test=0),
    ]
    summary = summarise(runs, seeds=[0, 1])
    assert list(summary) == ["a"]
    assert summary["a"]["test caption_recall_at_5"] == {"mean": 0.4, "std": 0.2}


def _run(loop: str, *, seed: int, val: float, test: float) -> Run:
    scores = {split: {"caption_recall_at_5": value} for split, value in (("val", val), ("test", test))}
    return {"loop": loop, "seed": seed, "steps": 1, "cpu_s": 1.0, **scores}


def _text(built: Built, caption: str) -> tuple[int, ...]:
    return tuple(built.tower_tokenizer.tokenize([caption]).ids[0].tolist())


def _picture(built: Built, pixels_CHW: Pixels) -> bytes:
    shown_CHW = built.model.tower.normalize(torch.from_numpy(pixels_CHW.copy()[None]), torch.float32)[0]
    return bytes(shown_CHW.numpy().tobytes())
