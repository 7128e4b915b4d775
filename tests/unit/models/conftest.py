"""A model small enough to build in milliseconds, with its tokenizers and its release."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer

from sightline.models.config import DecoderConfig, FaithfulTowerConfig, FusionConfig, TowerConfig, ZrigfConfig
from sightline.models.faithful.generator import FaithfulGenerator
from sightline.models.faithful.tokenizer import BartTowerTokenizer
from sightline.models.faithful.tower import FaithfulTower
from sightline.models.model import ZrigfModel, build_model
from sightline.models.release import save_release
from sightline.models.tokenizer import CorpusTowerTokenizer, DialogueTokenizer, train_tokenizer
from tests.unit.models.composing import ROOMS, Room

CORPUS = ["a red ball on the beach", "the blue bird sleeps at night", "what colour is it ?", "it is green ."]
CONTEXT_LENGTH = 12


@dataclass(frozen=True)
class SmallParts:
    """What most tests of the models start from."""

    config: ZrigfConfig
    model: ZrigfModel
    tower_tokenizer: CorpusTowerTokenizer
    dialogue_tokenizer: DialogueTokenizer


@pytest.fixture(autouse=True)
def _torch_seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def rooms() -> dict[str, Room]:
    """Frozen towers that composers are built on; a test that changes a tower restores it."""
    torch.manual_seed(0)
    return {name: build() for name, build in ROOMS.items()}


@pytest.fixture(params=list(ROOMS))
def room(request: pytest.FixtureRequest, rooms: dict[str, Room]) -> Room:
    return rooms[request.param]


@pytest.fixture(scope="session")
def corpus_tokenizer() -> Tokenizer:
    return train_tokenizer(CORPUS, vocab_size=300)


@pytest.fixture(scope="session")
def small_config(corpus_tokenizer: Tokenizer) -> ZrigfConfig:
    vocab_size = corpus_tokenizer.get_vocab_size()
    tower = TowerConfig(
        vocab_size=vocab_size,
        embed_dim=8,
        image_size=28,
        patch_size=4,
        vision_width=16,
        vision_layers=2,
        vision_head_width=8,
        text_width=16,
        text_layers=2,
        text_heads=2,
        context_length=CONTEXT_LENGTH,
    )
    decoder = DecoderConfig(
        vocab_size=vocab_size,
        pad_id=0,
        bos_id=1,
        eos_id=vocab_size - 1,
        d_model=16,
        encoder_layers=1,
        decoder_layers=2,
        encoder_ffn=32,
        decoder_ffn=32,
        max_positions=40,
        context_length=20,
        init_std=0.3,
    )
    return ZrigfConfig(tower=tower, decoder=decoder, fusion=FusionConfig())


@pytest.fixture
def small(small_config: ZrigfConfig, corpus_tokenizer: Tokenizer) -> SmallParts:
    return build_small(small_config, corpus_tokenizer)


@pytest.fixture(scope="session")
def small_release(
    small_config: ZrigfConfig, corpus_tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """A saved release and its architecture section; tests that change it copy it first."""
    torch.manual_seed(0)
    parts = build_small(small_config, corpus_tokenizer)
    folder = tmp_path_factory.mktemp("release")
    architecture = save_release(
        folder,
        model=parts.model,
        tower_tokenizer=parts.tower_tokenizer,
        dialogue_tokenizer=parts.dialogue_tokenizer,
    )
    return folder, architecture


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Path], None]:
    """Puts a folder into a hub cache of its own, in the hub's own layout; nothing outside can be reached."""
    cache = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    def put(repository: str, folder: Path) -> None:
        kept = cache / f"models--{repository.replace('/', '--')}"
        (kept / "refs").mkdir(parents=True)
        (kept / "refs" / "main").write_text("0" * 40)
        shutil.copytree(folder, kept / "snapshots" / ("0" * 40))

    return put


@dataclass(frozen=True)
class FaithfulParts:
    """The same for the other variant."""

    config: ZrigfConfig
    model: ZrigfModel
    tower: FaithfulTower
    generator: FaithfulGenerator
    tower_tokenizer: BartTowerTokenizer
    dialogue_tokenizer: DialogueTokenizer


@pytest.fixture(scope="session")
def faithful_config(small_config: ZrigfConfig) -> ZrigfConfig:
    assert small_config.decoder is not None
    tower = FaithfulTowerConfig(
        text=small_config.decoder,
        image_size=28,
        patch_size=4,
        vision_width=12,
        vision_layers=2,
        vision_heads=2,
        vision_ffn=24,
        context_length=CONTEXT_LENGTH,
    )
    return ZrigfConfig(tower=tower, decoder=small_config.decoder, fusion=FusionConfig())


@pytest.fixture
def faithful(faithful_config: ZrigfConfig, corpus_tokenizer: Tokenizer) -> FaithfulParts:
    return build_faithful(faithful_config, corpus_tokenizer)


def build_faithful(config: ZrigfConfig, tokenizer: Tokenizer) -> FaithfulParts:
    model = build_model(config).eval()
    assert isinstance(model.tower, FaithfulTower)
    assert isinstance(model.generator, FaithfulGenerator)
    dialogue = DialogueTokenizer.of_corpus(tokenizer)
    return FaithfulParts(
        config=config,
        model=model,
        tower=model.tower,
        generator=model.generator,
        tower_tokenizer=BartTowerTokenizer(dialogue, context_length=CONTEXT_LENGTH),
        dialogue_tokenizer=dialogue,
    )


def build_small(config: ZrigfConfig, tokenizer: Tokenizer) -> SmallParts:
    return SmallParts(
        config=config,
        model=build_model(config).eval(),
        tower_tokenizer=CorpusTowerTokenizer(tokenizer, context_length=CONTEXT_LENGTH),
        dialogue_tokenizer=DialogueTokenizer.of_corpus(tokenizer),
    )
