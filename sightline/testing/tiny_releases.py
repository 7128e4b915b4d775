"""Real releases, small enough to train nothing and load at once, for tests that need more than a fake."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from sightline.models.composer import Composer, build_composer
from sightline.models.composer_config import ComposerConfig
from sightline.models.config import FusionConfig, TowerConfig, ZrigfConfig
from sightline.models.model import ZrigfModel, build_model
from sightline.models.release import embedding_space_of, save_release
from sightline.models.tokenizer import CorpusTowerTokenizer, train_tokenizer
from sightline.registry import Manifest, Registry

CONTEXT_LENGTH = 16
IMAGE_SIZE = 32
DIMENSION = 32
NUM_TOKENS = 16
TOKEN_WIDTH = 32

_CORPUS = (
    "a red ball on the beach",
    "two blue birds under a tree at night",
    "what colour is the kite ?",
    "a photo of that",
    "a photo of that has no car",
)


SEES_VECTORS = ComposerConfig()
"""A composer of stage 1: a stored vector can be its reference."""
SEES_PIXELS = ComposerConfig(text_side="prompts", picture_side="deep")
"""A composer with prompts in both towers: its reference has to be a picture."""


def save_tiny_encoder(folder: Path, *, composer: ComposerConfig | None = None) -> dict[str, object]:
    """The architecture section of an untrained encoder, written into `folder`, with such a composer if one is named.

    Seed torch for the weights you want; the towers of one seed are the same with
    and without a composer, and so is their space.
    """
    tokenizer = CorpusTowerTokenizer(train_tokenizer(_CORPUS, vocab_size=400), context_length=CONTEXT_LENGTH)
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
    made = None if composer is None else _composer(composer, model=model, tokenizer=tokenizer)
    return save_release(folder, model=model, tower_tokenizer=tokenizer, composer=made)


def publish_folder(folder: Path, *, registry_uri: str, architecture: Mapping[str, object]) -> Manifest:
    """The manifest of the release made in `folder`, published, and named by the channel `stable`."""
    registry = Registry(registry_uri)
    manifest = registry.publish(folder, architecture=dict(architecture), metrics={}, lineage={})
    registry.promote("stable", manifest.release_id, expected_generation=None)
    return manifest


def _composer(config: ComposerConfig, *, model: ZrigfModel, tokenizer: CorpusTowerTokenizer) -> Composer:
    space_id = embedding_space_of(model, tower_tokenizer=tokenizer)
    composer = build_composer(config, tower=model.tower, tokenizer=tokenizer, embedding_space_id=space_id)
    for parameter in composer.parameters():
        # As it starts, it would answer every reference alike.
        parameter.data.add_(parameter.data.clone().normal_(std=0.3))
    return composer.eval()
