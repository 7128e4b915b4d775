"""What a service computes from a release equals what the trainer computed from the model in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sightline.data.captions import CaptionRecord
from sightline.data.dialogues import DialogueRecord, dialogue_text
from sightline.models.config import DecoderConfig, TowerConfig, ZrigfConfig
from sightline.models.decoding import CachedSteps, greedy, limits_for
from sightline.models.generator_model import ImageEvidence
from sightline.models.model import ZrigfModel, build_model
from sightline.models.release import load_encoder, load_generator, save_release
from sightline.models.tokenizer import CorpusTowerTokenizer, DialogueTokenizer, train_tokenizer
from trainer.answers import reply_inputs
from trainer.architecture import Built
from trainer.config import GenerativeSettings
from trainer.stages.generative import GenerativeBatches
from trainer.store import EncodedPictures

TURNS = ["hello there", "what colour is the ball ?"]
LONG_TURNS = [*["it is red ."] * 12, "what colour is the ball ?"]
"""More than the 40 words that are searched by; all of it is read."""
TOO_LONG_TURNS = LONG_TURNS * 9


@pytest.fixture(scope="module")
def tokenizers() -> tuple[CorpusTowerTokenizer, DialogueTokenizer]:
    tokenizer = train_tokenizer(["what colour is the ball ?", "it is red ."], vocab_size=290)
    return CorpusTowerTokenizer(tokenizer, context_length=16), DialogueTokenizer.of_corpus(tokenizer)


@pytest.fixture(scope="module")
def model(tokenizers: tuple[CorpusTowerTokenizer, DialogueTokenizer]) -> ZrigfModel:
    torch.manual_seed(0)
    dialogue = tokenizers[1]
    tower = TowerConfig(
        vocab_size=dialogue.vocab_size,
        embed_dim=8,
        image_size=28,
        patch_size=4,
        vision_width=16,
        vision_layers=1,
        vision_head_width=8,
        text_width=16,
        text_layers=1,
        text_heads=2,
        context_length=16,
    )
    decoder = DecoderConfig(
        vocab_size=dialogue.vocab_size,
        pad_id=dialogue.pad_id,
        bos_id=dialogue.bos_id,
        eos_id=dialogue.eos_id,
        d_model=16,
        decoder_ffn=32,
        encoder_ffn=32,
        init_std=0.3,
    )
    built = build_model(ZrigfConfig(tower=tower, decoder=decoder)).eval()
    assert built.generator is not None
    for layer in built.generator.bart.model.decoder.layers:
        torch.nn.init.normal_(layer.mix.weight, std=0.3)
    return built


@pytest.fixture(scope="module")
def release(
    model: ZrigfModel,
    tokenizers: tuple[CorpusTowerTokenizer, DialogueTokenizer],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    folder = tmp_path_factory.mktemp("parity-release")
    save_release(folder, model=model, tower_tokenizer=tokenizers[0], dialogue_tokenizer=tokenizers[1])
    return folder


def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (40, 30 + 5 * n, 3), dtype=np.uint8)) for n in range(3)]


def test_served_vectors_and_tokens_equal_the_trained_ones(model: ZrigfModel, release: Path) -> None:
    encoder = load_encoder(release, dtype="float32")
    pixels = np.stack([encoder.preprocess(picture) for picture in pictures()])
    vectors, tokens = encoder.encode_images(pixels)
    floats = model.tower.normalize(torch.from_numpy(np.stack([model.tower.preprocess.pixels(p) for p in pictures()])))
    with torch.inference_mode():
        trained = model.fusion_tokens(floats)
        texts = model.tower.encode_text(torch.from_numpy(encoder.tokenize(TURNS).ids))
    np.testing.assert_allclose(vectors, trained[0].numpy(), atol=1e-6)
    np.testing.assert_allclose(tokens, trained[1].numpy(), atol=2e-3)
    np.testing.assert_allclose(encoder.encode_texts(TURNS), texts.numpy(), atol=1e-6)


@pytest.mark.parametrize("turns", [TURNS, LONG_TURNS, TOO_LONG_TURNS])
def test_a_served_reply_equals_the_trained_models_reply(
    model: ZrigfModel,
    release: Path,
    tokenizers: tuple[CorpusTowerTokenizer, DialogueTokenizer],
    turns: list[str],
) -> None:
    assert model.generator is not None
    tokens = np.random.default_rng(1).standard_normal((2, 49, 16)).astype(np.float16)
    generator = load_generator(release, dtype="float32")
    prepared = generator.prepare(turns, [ImageEvidence(tokens=tokens[n], score=0.1 * n) for n in range(2)])
    served = generator.generate(prepared, max_new_tokens=10)

    ids, mask = tokenizers[1].context_ids([dialogue_text(turns)], max_length=96)
    with torch.inference_mode():
        memory = model.generator.remember(
            torch.from_numpy(ids),
            context_mask_BL=torch.from_numpy(mask),
            tokens_BKPW=torch.from_numpy(tokens.astype(np.float32))[None],
            similarity_BK=torch.tensor([[0.0, 0.1]]),
            image_mask_BK=torch.ones(1, 2),
        )
        limits = limits_for(model.generator, max_new_tokens=10)
        trained = list(greedy(CachedSteps(model.generator, memory), limits=limits, should_stop=lambda: False))
    assert served.text == tokenizers[1].decode(trained)
    assert len(set(trained)) > 1


@pytest.mark.parametrize("turns", [TURNS, LONG_TURNS, TOO_LONG_TURNS])
def test_training_evaluation_and_service_read_the_same_of_a_dialogue(
    model: ZrigfModel,
    release: Path,
    tokenizers: tuple[CorpusTowerTokenizer, DialogueTokenizer],
    turns: list[str],
) -> None:
    built = Built(model=model, tower_tokenizer=tokenizers[0], dialogue_tokenizer=tokenizers[1])
    evaluated, trained = evaluated_inputs(built, turns), trained_inputs(built, turns)
    assert torch.equal(evaluated["context_ids_BL"], trained["context_ids_BL"])
    blind = {**evaluated, "image_mask_BK": torch.zeros(1, 1, dtype=torch.bool)}
    with torch.inference_mode():
        memory = model.generator.remember(**blind)  # type: ignore[union-attr]
    prepared = load_generator(release, dtype="float32").prepare(turns)
    assert prepared.context_tokens == evaluated["context_ids_BL"].shape[1]
    torch.testing.assert_close(prepared.memory.packed, memory.packed)


def pool() -> EncodedPictures:
    rng = np.random.default_rng(2)
    return EncodedPictures(
        vectors_ND=rng.standard_normal((3, 8)).astype(np.float32),
        tokens_NPW=rng.standard_normal((3, 49, 16)).astype(np.float16),
        row_of_image=np.arange(3),
    )


def evaluated_inputs(built: Built, turns: list[str]) -> dict[str, torch.Tensor]:
    rows_BK, cosines_BK = np.zeros((1, 1), dtype=np.int64), np.ones((1, 1), dtype=np.float32)
    return reply_inputs(built, contexts=[tuple(turns)], pictures=pool(), rows_BK=rows_BK, cosines_BK=cosines_BK)


def trained_inputs(built: Built, turns: list[str]) -> dict[str, torch.Tensor]:
    batches = GenerativeBatches(
        built,
        dialogues=[DialogueRecord(id="1", context=tuple(turns), response="it is red .")],
        captions=[CaptionRecord(image_id="1", path=Path("1.png"), caption="a ball")],
        pictures=pool(),
        settings=GenerativeSettings(batch_size=1),
        seed=0,
        rank=0,
        world_size=1,
    )
    return batches.batch(0)
