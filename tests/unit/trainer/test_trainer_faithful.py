"""The faithful variant in training: both stages, what moves in which, two releases, and continuing from them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file

from sightline.data.pools import PoolImage
from sightline.errors import SettingInvalid
from sightline.models.faithful.generator import FaithfulGenerator
from sightline.models.release import load_encoder, load_generator, load_model
from sightline.registry import Registry
from trainer.architecture import Built, build
from trainer.config import FitConfig, ModelSettings
from trainer.data import load_corpus, unique_pictures
from trainer.fit import evaluate_release, fit
from trainer.journal import read_journal
from trainer.loop import train
from trainer.overrides import apply_overrides
from trainer.pictures import read_pixels
from trainer.recipes import recipe
from trainer.reporting import LocalReporter
from trainer.runs import run_folder
from trainer.stages.generative import GenerativeBatches, GenerativeObjective
from trainer.store import EncodedPictures, PictureStore


@pytest.fixture
def faithful_fit(tiny_fit: FitConfig) -> FitConfig:
    """Five steps of each stage of the faithful variant."""
    return apply_overrides(tiny_fit, arguments=["--model.variant", "faithful"])


@pytest.fixture
def publishable(faithful_fit: FitConfig) -> FitConfig:
    """The same onto a channel; stage 1 trains the text encoder, as no trained one is at hand."""
    return replace(faithful_fit, channel="stable", stage1=replace(faithful_fit.stage1, train_text_encoder=True))


def _trained(config: FitConfig, *, name: str) -> dict[str, torch.Tensor]:
    named = replace(config, run=replace(config.run, name=name))
    reporter = LocalReporter(run_folder(named), keep=2)
    train(named, reporter=reporter)
    newest = reporter.restore()
    assert newest is not None
    return load_file(newest / "model.safetensors")


def _stored(config: FitConfig) -> tuple[Built, list[PoolImage], EncodedPictures]:
    """An untrained model, the pictures that training dialogues retrieve from and a copy of one, and what it sees."""
    corpus = load_corpus(config.data)
    built = build(config, texts=corpus.texts())
    images = unique_pictures(corpus.captions_train)
    copy = config.data.root / "copy.bmp"
    Image.open(images[2].path).save(copy)
    images = [*images, PoolImage(image_id="copy", path=copy)]
    store = PictureStore(config.run.root / "cache", model=built.model)
    pixels_of = partial(read_pixels, preprocess=built.model.tower.preprocess)
    return built, images, store.encoded(images, pixels_of=pixels_of)


def _moved(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor], *, prefix: str) -> list[bool]:
    return [not torch.equal(first[name], second[name]) for name in first if name.startswith(prefix)]


def test_an_unknown_variant_is_refused() -> None:
    with pytest.raises(SettingInvalid, match=r"model.variant: got 'siglip'"):
        ModelSettings(variant="siglip")


def test_the_store_holds_the_pixels_of_the_pictures_that_rows_name(faithful_fit: FitConfig) -> None:
    built, images, pool = _stored(faithful_fit)
    tokens = pool.tokens_NPW[np.array([[3, 0], [1, 1]])]
    assert tokens.dtype == np.uint8
    assert tokens.shape == (2, 2, built.model.num_image_tokens, built.model.image_token_width)
    pixels = read_pixels(pool.first_of_rows(images)[3], preprocess=built.model.tower.preprocess)
    side = built.model.tower.patch_pixels
    assert np.array_equal(tokens[0, 0, 1].reshape(3, side, side), pixels[:, :side, side : 2 * side])
    as_indexed = built.model.fusion_tokens(torch.from_numpy(pixels)[None])[1].half()
    assert np.array_equal(as_indexed[0].numpy(), tokens[0, 0])


@pytest.mark.slow
def test_stage_two_trains_everything_but_what_retrieves(faithful_fit: FitConfig) -> None:
    short = _trained(replace(faithful_fit, stage2=replace(faithful_fit.stage2, steps=1)), name="short")
    long = _trained(faithful_fit, name="long")
    assert not any(_moved(short, long, prefix="tower."))
    for part in ("generator.reader.vit.", "generator.bart.model.encoder.layers.", "generator.fusion.v2t"):
        assert any(_moved(short, long, prefix=part)), part
    assert all(_moved(short, long, prefix="generator.preservation."))


@pytest.mark.slow
def test_stage_one_trains_the_picture_side_and_leaves_the_text_encoder(faithful_fit: FitConfig) -> None:
    without = replace(faithful_fit, stage2=replace(faithful_fit.stage2, steps=0))
    short = _trained(replace(without, stage1=replace(without.stage1, steps=1)), name="short")
    long = _trained(without, name="long")
    assert not any(_moved(short, long, prefix="tower.text."))
    for part in ("tower.vit.", "tower.v2t", "tower.text_pooler", "generator.fusion.vision_block", "head."):
        assert any(_moved(short, long, prefix=part)), part


@pytest.mark.slow
def test_stage_two_starts_from_what_stage_one_made(faithful_fit: FitConfig) -> None:
    config = replace(faithful_fit, stage2=replace(faithful_fit.stage2, learning_rate=0.0))
    weights = _trained(config, name="still")
    assert torch.equal(weights["generator.reader.vit.layernorm.weight"], weights["tower.vit.layernorm.weight"])
    assert torch.equal(weights["generator.fusion.v2t.weight"], weights["tower.v2t.weight"])


@pytest.mark.slow
def test_a_fit_publishes_a_release_that_retrieves_and_one_that_generates(
    publishable: FitConfig, tmp_path: Path
) -> None:
    outcome = fit(publishable, console=Console(quiet=True))
    registry = Registry(publishable.registry)
    retrieval, whole = registry.channel("stable-retrieval"), registry.channel("stable")
    assert retrieval is not None
    assert whole is not None
    assert outcome.manifest.lineage["retrieval_release"] == retrieval.release_id
    folders = [registry.fetch(state.release_id, into=tmp_path / "fetched") for state in (retrieval, whole)]
    encoder, generator = load_encoder(folders[0]), load_generator(folders[1])
    encoder.check_golden()
    generator.check_golden()
    assert encoder.embedding_space_id == generator.embedding_space_id
    assert evaluate_release("stable", config=publishable) == outcome.scores
    steps = [row for row in read_journal(run_folder(publishable)) if row["event"] == "step"]
    assert {"loss", "lm", "preservation"} <= steps[-1].keys()


def test_a_random_text_encoder_that_stage_one_would_freeze_is_refused(faithful_fit: FitConfig) -> None:
    said = r"model\.decoder: got ''.* python -m trainer pretrain folder --model\.decoder FOLDER"
    with pytest.raises(SettingInvalid, match=said):
        fit(faithful_fit, console=Console(quiet=True))
    assert not run_folder(faithful_fit).exists()


@pytest.mark.slow
def test_without_stage_one_a_random_text_encoder_is_let_be(faithful_fit: FitConfig) -> None:
    config = replace(faithful_fit, stage1=replace(faithful_fit.stage1, steps=0))
    assert fit(config, console=Console(quiet=True)).manifest


@pytest.mark.slow
def test_continuing_without_stage_one_goes_on_from_the_generator_that_was(
    publishable: FitConfig, tmp_path: Path
) -> None:
    first = fit(publishable, console=Console(quiet=True)).manifest
    again = replace(
        publishable,
        init_from="stable",
        stage1=replace(publishable.stage1, steps=0),
        stage2=replace(publishable.stage2, learning_rate=0.0),
        run=replace(publishable.run, name="again"),
    )
    second = fit(again, console=Console(quiet=True)).manifest
    registry = Registry(publishable.registry)
    models = [load_model(registry.fetch(m.release_id, into=tmp_path / "fetched")).model for m in (first, second)]
    states = [model.state_dict() for model in models]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert registry.channel("stable-retrieval").generation == 1  # type: ignore[union-attr]


@pytest.mark.slow
def test_a_resumed_faithful_run_ends_as_an_unbroken_one(faithful_fit: FitConfig) -> None:
    unbroken = _trained(faithful_fit, name="unbroken")
    broken = replace(faithful_fit, run=replace(faithful_fit.run, name="broken"))

    class Killed(LocalReporter):
        def save(self, write, *, stage, step, loss):  # type: ignore[no-untyped-def]
            super().save(write, stage=stage, step=step, loss=loss)
            if stage == "generative":
                raise InterruptedError

    with pytest.raises(InterruptedError):
        train(broken, reporter=Killed(run_folder(broken), keep=2))
    again = _trained(broken, name="broken")
    assert all(torch.equal(unbroken[name], again[name]) for name in unbroken)


def test_a_step_tells_the_preservation_loss_which_pictures_are_the_same(faithful_fit: FitConfig) -> None:
    corpus, (built, images, pool) = load_corpus(faithful_fit.data), _stored(faithful_fit)
    batches = GenerativeBatches(
        built,
        dialogues=corpus.dialogues_train,
        captions=corpus.captions_train,
        pictures=pool,
        settings=replace(faithful_fit.stage2, batch_size=8, image_dropout=0.0),
        seed=0,
        rank=0,
        world_size=1,
    )
    batch = batches.batch(0)
    equal = batch["tokens_BKPW"].flatten(0, 1).flatten(1)
    same = (equal[:, None] == equal[None]).all(dim=-1)
    ids = batch["image_ids_BK"].flatten()
    assert torch.equal(same, ids[:, None] == ids[None])  # Pictures of equal pixels are one, whatever their files.
    assert len(pool.vectors_ND) < len(images)
    losses = GenerativeObjective(built.model)(batch)
    assert losses["loss"] == losses["lm"] + 0.1 * losses["preservation"]
    assert isinstance(built.model.generator, FaithfulGenerator)


@pytest.mark.slow
def test_the_smoke_recipe_trains_a_faithful_model_on_toytown(tmp_path: Path) -> None:
    arguments = ["--model.variant", "faithful", "--stage1.train_text_encoder"]
    arguments += ["--run.num_workers", "0", "--run.root", str(tmp_path / "runs")]
    arguments += ["--data.root", str(tmp_path / "toytown"), "--registry", str(tmp_path / "registry")]
    config = apply_overrides(recipe("toytown-smoke"), arguments=[*arguments, "--run.name", "smoke"])
    outcome = fit(config, console=Console(quiet=True))
    assert outcome.manifest.architecture["variant"] == "faithful"
    assert len(Registry(config.registry).releases()) == 2
