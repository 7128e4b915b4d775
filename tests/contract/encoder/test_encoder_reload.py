"""A second release takes over while calls run: none fails, none is mixed, and the old space is still answered."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sightline.models.encoder_model import EncoderModel
from sightline.models.release import load_encoder
from sightline.rpc.tensors import tensor_from_proto

TEXT = "two blue birds"


def png() -> bytes:
    pixels = np.random.default_rng(3).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def expected_vectors(model: EncoderModel, *, picture: bytes) -> tuple[np.ndarray, np.ndarray]:
    pixels = model.preprocess(Image.open(io.BytesIO(picture)))
    return model.encode_texts([TEXT])[0], model.encode_images(pixels[None])[0][0]


def vector_of(reply: Any) -> np.ndarray:
    return tensor_from_proto(reply.items[0].vector, name="vector")


async def until(condition: Callable[[Any], bool], caller: Any) -> Any:
    """The first description that meets `condition`; each look is a call, so nothing sleeps."""
    for _ in range(20_000):
        if condition(description := await caller.describe()):
            return description
    raise AssertionError("the condition was never met")


@pytest.mark.slow
async def test_a_release_published_under_load_takes_over_without_a_failed_call(start: Any, moving_shelf: Any) -> None:
    first = moving_shelf.publish(seed=1)
    caller = await start(moving_shelf.settings(text_cache_bytes=0, image_cache_bytes=0))
    picture, is_over, replies = png(), asyncio.Event(), []

    async def keep_calling() -> None:
        while not is_over.is_set():
            replies.append((await caller.texts([TEXT]), await caller.images([picture])))

    callers = [asyncio.create_task(keep_calling()) for _ in range(8)]
    await until(lambda found: found.served.release_id == first.release_id, caller)
    second = await asyncio.to_thread(moving_shelf.publish, seed=2)
    described = await until(lambda found: found.served.release_id == second.release_id, caller)
    seen = len(replies)
    while len(replies) < seen + 50:
        await caller.describe()
    is_over.set()
    await asyncio.gather(*callers)  # raises if a single call failed

    expected = {
        made.release_id: expected_vectors(load_encoder(moving_shelf.made(seed=seed)), picture=picture)
        for seed, made in ((1, first), (2, second))
    }
    for text, image in replies:
        assert vector_of(text) @ expected[text.served.release_id][0] > 0.9999
        assert vector_of(image) @ expected[image.served.release_id][1] > 0.9999
    assert {text.served.release_id for text, _ in replies} == set(expected)
    assert described.served.generation == 2
    assert (described.reload.reloads, described.reload.failures) == (1, 0)


async def test_the_old_space_is_answered_beside_the_new_one(start: Any, moving_shelf: Any) -> None:
    first = moving_shelf.publish(seed=1)
    caller = await start(moving_shelf.settings())
    second = moving_shelf.publish(seed=2)
    await until(lambda found: found.served.release_id == second.release_id, caller)
    for made in (first, second):
        reply = await caller.texts([TEXT], space_id=made.embedding_space_id)
        assert reply.served.release_id == made.release_id
    assert (await caller.texts([TEXT])).served.release_id == second.release_id


async def test_a_release_that_is_not_what_it_promises_never_serves(start: Any, moving_shelf: Any) -> None:
    first = moving_shelf.publish(seed=1)
    caller = await start(moving_shelf.settings())
    bad = await asyncio.to_thread(moving_shelf.publish, seed=2, golden_of=moving_shelf.made(seed=1))
    described = await until(lambda found: found.reload.failures > 0, caller)
    assert list(described.reload.quarantined_release_ids) == [bad.release_id]
    assert "golden" in described.reload.last_error
    assert (await caller.texts([TEXT])).served.release_id == first.release_id
