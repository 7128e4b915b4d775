"""What the benchmark works on: a randomly initialised release, pictures that look like photos, short captions."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from sightline.models.clip_tokenizer import tower_tokenizer_of_tag
from sightline.models.config import ZrigfConfig
from sightline.models.model import build_model
from sightline.models.release import save_release
from sightline.models.towers import tower_config_of_tag
from sightline.registry import Manifest, Registry

WIDTH, HEIGHT = 640, 480
CHANNEL = "stable"

_NOUNS = ("dog", "cat", "bus", "boat", "kite", "horse", "chair", "clock", "pizza", "train", "bird", "bench")
_PLACES = ("in the snow", "by the sea", "on a busy street", "in a kitchen", "under a bridge", "on a wooden table")
_COLOURS = ("red", "blue", "green", "yellow", "black", "white", "brown", "striped")


def publish_release(folder: Path, *, tag: str, seed: int = 0) -> Manifest:
    """A release of the untrained open_clip model `tag`, promoted in the registry `folder / "registry"`."""
    torch.manual_seed(seed)
    config = tower_config_of_tag(tag)
    tokenizer = tower_tokenizer_of_tag(tag, context_length=config.context_length)
    model = build_model(ZrigfConfig(tower=config))
    architecture = save_release(folder / "made", model=model, tower_tokenizer=tokenizer)
    registry = Registry(str(folder / "registry"))
    manifest = registry.publish(folder / "made", architecture=architecture, metrics={}, lineage={"seed": seed})
    registry.promote(CHANNEL, manifest.release_id, expected_generation=None)
    return manifest


def write_pictures(folder: Path, *, count: int, seed: int = 0) -> list[bytes]:
    """`count` distinct 640x480 JPEGs, also written to `folder`: gradients, blobs and sensor noise."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    pictures = [_jpeg(random) for _ in range(count)]
    for number, data in enumerate(pictures):
        (folder / f"{number:05d}.jpg").write_bytes(data)
    return pictures


def write_captions(path: Path, *, count: int, seed: int = 0) -> list[str]:
    """`count` captions of 7 to 12 words, also written to `path`, one a line."""
    random = np.random.default_rng(seed)
    captions = [_caption(random) for _ in range(count)]
    path.write_text("\n".join(captions))
    return captions


def _jpeg(random: np.random.Generator) -> bytes:
    across, down = np.linspace(0, 1, WIDTH)[None, :, None], np.linspace(0, 1, HEIGHT)[:, None, None]
    pixels = 255 * (across * random.random(3) + down * random.random(3)) / 2
    for _ in range(12):
        distance = (across - random.random()) ** 2 + (down - random.random()) ** 2
        pixels = pixels + random.normal(0, 90, 3) * np.exp(-distance / random.uniform(0.002, 0.05))
    pixels += random.normal(0, 6, (HEIGHT, WIDTH, 3))
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _caption(random: np.random.Generator) -> str:
    first, second = random.choice(_NOUNS, 2)
    words = f"a photo of a {random.choice(_COLOURS)} {first} and a {second} {random.choice(_PLACES)}"
    return f"{words} number {random.integers(10_000)}" if random.random() < 0.3 else words
