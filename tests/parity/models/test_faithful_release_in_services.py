"""The two releases of a faithful run in the engines of the two services that load them, from a picture to a reply."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from encoder_svc.engine import build_engine as build_encoder
from encoder_svc.pictures import PictureVector
from encoder_svc.settings import EncoderSettings
from generator_svc.engine import ReplyEngine, ReplyJob, StopSignal, build_reloader
from generator_svc.settings import GeneratorSettings
from sightline.models.config import DecoderConfig, FaithfulTowerConfig, ZrigfConfig
from sightline.models.faithful.tokenizer import BartTowerTokenizer
from sightline.models.generator_model import ImageEvidence
from sightline.models.model import build_model
from sightline.models.release import load_encoder, load_generator, save_release
from sightline.models.tokenizer import DialogueTokenizer, train_tokenizer
from sightline.registry import Registry

CORPUS = ["a red ball on the beach", "the blue bird sleeps at night", "what colour is it ?", "it is green ."]
TURNS = ["hello there", "what colour is the ball ?"]
PATCH = 4


@dataclass(frozen=True)
class Shelf:
    """A registry whose channel `stable` generates and whose `stable-retrieval` retrieves, and both folders."""

    registry: str
    whole: Path
    towers: Path
    cache: Path


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    folder = tmp_path_factory.mktemp("faithful")
    torch.manual_seed(0)
    dialogue = DialogueTokenizer.of_corpus(train_tokenizer(CORPUS, vocab_size=300))
    decoder = DecoderConfig(
        vocab_size=dialogue.vocab_size, pad_id=0, bos_id=1, eos_id=dialogue.eos_id, d_model=16, init_std=0.3
    )
    tower = FaithfulTowerConfig(
        text=decoder, image_size=28, patch_size=PATCH, vision_width=12, vision_layers=1, vision_heads=2, vision_ffn=24
    )
    model = build_model(ZrigfConfig(tower=tower, decoder=decoder)).eval()
    tokenizer = BartTowerTokenizer(dialogue, context_length=tower.context_length)
    whole = save_release(folder / "whole", model=model, tower_tokenizer=tokenizer, dialogue_tokenizer=dialogue)
    towers = save_release(folder / "towers", model=model.retrieval_part(), tower_tokenizer=tokenizer)
    registry = Registry(str(folder / "registry"))
    for channel, name, architecture in (("stable", "whole", whole), ("stable-retrieval", "towers", towers)):
        manifest = registry.publish(folder / name, architecture=architecture, metrics={}, lineage={})
        registry.promote(channel, manifest.release_id, expected_generation=None)
    return Shelf(str(folder / "registry"), folder / "whole", folder / "towers", folder / "cache")


def png() -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 36, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


async def encoded(shelf: Shelf) -> tuple[PictureVector, np.ndarray, str]:
    """(the picture, the dialogue's vector, the embedding space) as the encoder's engine answers."""
    engine = build_encoder(
        EncoderSettings(
            registry=shelf.registry,
            channel="stable-retrieval",
            cache_dir=shelf.cache / "encoder",
            compute_dtype="float32",
            max_text_batch=2,
            max_image_batch=2,
        )
    )
    await engine.start()
    picture = (await engine.encode_pictures([png()])).items[0]
    text = (await engine.encode_texts([" ".join(TURNS)])).items[0].vector
    space = engine.newest().value.embedding_space_id
    await engine.stop()
    assert isinstance(picture, PictureVector)
    return picture, text, space


async def test_the_encoder_serves_the_towers_of_stage_one(shelf: Shelf) -> None:
    picture, text, _ = await encoded(shelf)
    whole = load_encoder(shelf.whole, dtype="float32")
    pixels = whole.preprocess(Image.open(io.BytesIO(png())))[None]
    vector, tokens = whole.encode_images(pixels)
    np.testing.assert_allclose(picture.vector, vector[0], atol=1e-6)
    np.testing.assert_array_equal(picture.tokens, tokens[0])
    np.testing.assert_allclose(text, whole.encode_texts([" ".join(TURNS)])[0], atol=1e-6)


async def test_the_generator_answers_from_what_the_encoder_gave(shelf: Shelf) -> None:
    picture, _, space = await encoded(shelf)
    settings = GeneratorSettings(registry=shelf.registry, cache_dir=shelf.cache / "generator", compute_dtype="float32")
    reloader, engine = build_reloader(settings), ReplyEngine(settings)
    await reloader.start()
    images = [ImageEvidence(tokens=picture.tokens, score=0.3)]
    with reloader.lease(space) as release:
        job = ReplyJob(turns=TURNS, images=images, max_new_tokens=5)
        prepared, finished = await engine.generate(release.value, job, stop=StopSignal())
    await reloader.stop()
    engine.close()
    in_process = load_generator(shelf.whole, dtype="float32")
    assert prepared.context.image_weights == [1.0]
    expected = in_process.generate(in_process.prepare(TURNS, images), max_new_tokens=5)
    assert finished.result.text == expected.text
