"""Real releases, small enough to train nothing and load at once, for tests that need more than a fake."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from sightline.models.config import FusionConfig, TowerConfig, ZrigfConfig
from sightline.models.model import build_model
from sightline.models.release import save_release
from sightline.models.tokenizer import CorpusTowerTokenizer, train_tokenizer
from sightline.registry import Manifest, Registry

CONTEXT_LENGTH = 16
IMAGE_SIZE = 32
DIMENSION = 32
NUM_TOKENS = 16
TOKEN_WIDTH = 32

_CORPUS = ("a red ball on the beach", "two blue birds under a tree at night", "what colour is the kite ?")


def save_tiny_encoder(folder: Path) -> dict[str, object]:
    """The architecture section of an untrained encoder, written into `folder`. Seed torch for the weights you want."""
    tokenizer = CorpusTowerTokenizer(train_tokenizer(_CORPUS, vocab_size=300), context_length=CONTEXT_LENGTH)
    tower = TowerConfig(
        vocab_size=tokenizer.vocab_size,
        embed_dim=DIMENSION,
        image_size=IMAGE_SIZE,
        patch_size=8,
        vision_width=TOKEN_WIDTH,
        vision_layers=1,
        vision_head_width=16,
        text_width=32,
        text_layers=1,
        text_heads=2,
        context_length=CONTEXT_LENGTH,
    )
    model = build_model(ZrigfConfig(tower=tower, fusion=FusionConfig(token_grid=4)))
    return save_release(folder, model=model, tower_tokenizer=tokenizer)


def publish_folder(folder: Path, *, registry_uri: str, architecture: Mapping[str, object]) -> Manifest:
    """The manifest of the release made in `folder`, published, and named by the channel `stable`."""
    registry = Registry(registry_uri)
    manifest = registry.publish(folder, architecture=dict(architecture), metrics={}, lineage={})
    registry.promote("stable", manifest.release_id, expected_generation=None)
    return manifest
