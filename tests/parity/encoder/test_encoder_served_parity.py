"""What the encoder serves equals what the same release gives in process, bit for bit where the batch is the same."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from encoder_svc.engine import EncoderEngine, build_engine
from encoder_svc.settings import EncoderSettings
from sightline.data.pictures import decode_picture
from sightline.models.encoder_model import EncoderModel
from sightline.models.release import load_encoder
from sightline.testing.tiny_releases import publish_folder, save_tiny_encoder

TEXTS = ["a red ball", "two blue birds under a tree at night " * 5, "x"]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parity")
    torch.manual_seed(0)
    architecture = save_tiny_encoder(folder / "made")
    publish_folder(folder / "made", registry_uri=str(folder / "registry"), architecture=architecture)
    return folder


@pytest.fixture
def in_process(registry: Path) -> EncoderModel:
    return load_encoder(registry / "made")


@pytest.fixture
async def served(registry: Path) -> AsyncIterator[EncoderEngine]:
    engine = build_engine(EncoderSettings(registry=str(registry / "registry"), cache_dir=registry / "cache"))
    await engine.start()
    yield engine
    await engine.stop()


def photo(seed: int, *, size: tuple[int, int], kind: str, **options: Any) -> bytes:
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(buffer, kind, **options)
    return buffer.getvalue()


async def test_served_texts_equal_those_in_process(served: EncoderEngine, in_process: EncoderModel) -> None:
    encoding = await served.encode_texts(TEXTS)
    tokenized = in_process.tokenize(TEXTS)
    np.testing.assert_array_equal([item.vector for item in encoding.items], in_process.encode_texts(TEXTS))
    assert [item.num_tokens for item in encoding.items] == tokenized.num_tokens
    assert [item.is_truncated for item in encoding.items] == tokenized.is_truncated


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP"])
async def test_served_pictures_equal_those_in_process(
    served: EncoderEngine, in_process: EncoderModel, kind: str
) -> None:
    data = [photo(seed, size=(60, 44), kind=kind) for seed in range(3)]
    items = (await served.encode_pictures(data)).items
    pixels = np.stack([in_process.preprocess(decode_picture(one)) for one in data])
    vectors, tokens = in_process.encode_images(pixels)
    np.testing.assert_allclose([item.vector for item in items], vectors, atol=1e-6)
    np.testing.assert_allclose([item.tokens for item in items], tokens, atol=1e-2)


async def test_reduced_decoding_of_large_jpegs_moves_a_vector_by_next_to_nothing(
    served: EncoderEngine, in_process: EncoderModel
) -> None:
    data = [photo(seed, size=(1600, 1200), kind="JPEG", quality=90) for seed in range(4)]
    items = (await served.encode_pictures(data)).items
    vectors, _ = in_process.encode_images(np.stack([in_process.preprocess(decode_picture(one)) for one in data]))
    assert min(np.sum(vectors * [item.vector for item in items], axis=1)) > 0.999
    assert [(item.width, item.height) for item in items] == [(1600, 1200)] * 4
