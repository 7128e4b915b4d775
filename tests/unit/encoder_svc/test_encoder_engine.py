"""The engine on a real tiny release: caches, spaces, refusals, precision, the end."""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from encoder_svc.engine import EncoderEngine, build_engine
from encoder_svc.pictures import PictureVector, RefusedPicture
from encoder_svc.settings import EncoderSettings
from sightline.errors import Draining, EmbeddingSpaceMismatch, NotReady, PictureUnreadable
from sightline.testing.tiny_releases import publish_folder, save_tiny_encoder


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engine")
    torch.manual_seed(0)
    architecture = save_tiny_encoder(folder / "made")
    publish_folder(folder / "made", registry_uri=str(folder / "registry"), architecture=architecture)
    return folder


def engine_of(shelf: Path, **changes: object) -> EncoderEngine:
    values = {"registry": str(shelf / "registry"), "cache_dir": shelf / "cache", "max_text_batch": 4}
    return build_engine(EncoderSettings(**(values | changes)))  # type: ignore[arg-type]


@pytest.fixture
async def engine(shelf: Path) -> AsyncIterator[EncoderEngine]:
    engine = engine_of(shelf)
    await engine.start()
    yield engine
    await engine.stop()


def png(seed: int = 0) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


async def test_a_text_seen_before_needs_no_forward_pass(engine: EncoderEngine) -> None:
    first = await engine.encode_texts(["ball", "bird"])
    again = await engine.encode_texts(["bird", "ball"])
    assert first.stages.forward > 0
    assert again.stages.forward == 0
    assert [item.vector.tolist() for item in again.items] == [item.vector.tolist() for item in first.items[::-1]]


async def test_known_and_new_texts_come_back_in_order(engine: EncoderEngine) -> None:
    await engine.encode_texts(["bird"])
    mixed = await engine.encode_texts(["ball", "bird", "kite"])
    alone = [(await engine.encode_texts([text])).items[0] for text in ("ball", "bird", "kite")]
    np.testing.assert_allclose([i.vector for i in mixed.items], [i.vector for i in alone], atol=1e-5)


async def test_a_picture_seen_before_is_not_even_decoded(engine: EncoderEngine) -> None:
    first = await engine.encode_pictures([png()])
    again = await engine.encode_pictures([png()])
    assert again.items[0] is first.items[0]
    assert again.stages.forward == 0


async def test_caches_of_no_bytes_compute_every_time(shelf: Path) -> None:
    engine = engine_of(shelf, text_cache_bytes=0, image_cache_bytes=0)
    await engine.start()
    for _ in range(2):
        assert (await engine.encode_texts(["ball"])).stages.forward > 0
        assert (await engine.encode_pictures([png()])).stages.forward > 0
    await engine.stop()


async def test_a_refused_picture_keeps_its_digest_and_its_neighbours(engine: EncoderEngine) -> None:
    whole, broken, other = (await engine.encode_pictures([png(1), b"nothing", png(2)])).items
    assert isinstance(broken, RefusedPicture)
    assert isinstance(broken.error, PictureUnreadable)
    assert broken.digest == hashlib.sha256(b"nothing").digest()
    assert isinstance(whole, PictureVector)
    assert isinstance(other, PictureVector)


async def test_another_space_is_refused(engine: EncoderEngine) -> None:
    with pytest.raises(EmbeddingSpaceMismatch):
        await engine.encode_texts(["ball"], space_id="f" * 16)


async def test_before_the_first_release_nothing_is_answered(tmp_path: Path) -> None:
    engine = engine_of(tmp_path)
    await engine.start()
    assert not engine.is_ready
    with pytest.raises(NotReady):
        await engine.encode_texts(["ball"])
    with pytest.raises(NotReady):
        engine.newest()
    await engine.stop()


async def test_after_a_stop_nothing_is_accepted(shelf: Path) -> None:
    engine = engine_of(shelf)
    await engine.start()
    await engine.stop()
    with pytest.raises((NotReady, Draining)):
        await engine.encode_texts(["ball"])


async def test_bfloat16_stays_close_to_float32(shelf: Path, engine: EncoderEngine) -> None:
    lower = engine_of(shelf, compute_dtype="bfloat16")
    await lower.start()
    assert lower.newest().value.compute_dtype == "bfloat16"
    for call in ("encode_texts", "encode_pictures"):
        items = ["ball", "bird"] if call == "encode_texts" else [png(1), png(2)]
        exact, rounded = [(await getattr(one, call)(items)).items for one in (engine, lower)]
        cosines = [a.vector @ b.vector for a, b in zip(exact, rounded, strict=True)]
        assert min(cosines) > 0.99
    await lower.stop()


async def test_the_loop_is_free_while_the_model_works(engine: EncoderEngine) -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while not work.done():
            turns += 1
            await asyncio.sleep(0)

    work = asyncio.create_task(engine.encode_texts([f"ball {n}" for n in range(200)]))
    await count()
    assert turns > 100
    assert len(work.result().items) == 200
