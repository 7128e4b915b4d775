"""EncoderService on both hosts: what it answers, every limit at the limit and one above, every refusal."""

from __future__ import annotations

import asyncio
import hashlib
import io
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from encoder_svc.settings import MOST_TEXTS_OF_A_CALL
from sightline.errors import (
    Cancelled,
    DeadlinePassed,
    EmbeddingSpaceMismatch,
    FieldMissing,
    NotReady,
    QueueFull,
    TooManyItems,
    Unavailable,
)
from sightline.limits import MAX_PICTURE_BYTES, MAX_PICTURES_PER_CALL, MAX_TEXT_CHARS, MAX_TEXTS_PER_CALL
from sightline.registry import Registry
from sightline.rpc.tensors import tensor_from_proto
from sightline.testing.tiny_releases import CONTEXT_LENGTH, DIMENSION, IMAGE_SIZE, NUM_TOKENS, TOKEN_WIDTH


def picture(seed: int = 0, *, size: tuple[int, int] = (48, 40), kind: str = "PNG", **options: Any) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def vector_of(item: Any) -> np.ndarray:
    assert item.status.code == 0, item.status
    return tensor_from_proto(item.vector, name="vector")


def vectors_of(reply: Any) -> np.ndarray:
    return np.stack([vector_of(item) for item in reply.items])


def outcome(item: Any) -> tuple[int, str]:
    return item.status.code, item.status.reason


@pytest.fixture
async def tight(start: Any, shelf: Any) -> Any:
    """An encoder without caches whose queues hold one full call each."""
    settings = shelf.settings(
        text_cache_bytes=0,
        image_cache_bytes=0,
        max_queued_texts=MOST_TEXTS_OF_A_CALL,
        max_queued_images=MAX_PICTURES_PER_CALL,
    )
    return await start(settings, keep=True)


async def test_texts_become_unit_vectors_in_order(encoder: Any) -> None:
    both = vectors_of(await encoder.texts(["a red ball", "two blue birds"]))
    alone = [vectors_of(await encoder.texts([text]))[0] for text in ("a red ball", "two blue birds")]
    assert both.shape == (2, DIMENSION)
    assert both.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(both, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(both, alone, atol=1e-5)


async def test_a_text_tells_its_length_and_whether_it_was_cut(encoder: Any) -> None:
    reply = await encoder.texts(["ball", "ball " * 50])
    short, long = reply.items
    assert not short.is_truncated
    assert long.is_truncated
    assert 3 <= short.num_tokens <= CONTEXT_LENGTH < long.num_tokens


async def test_pictures_become_unit_vectors_in_order(encoder: Any) -> None:
    data = [picture(1), picture(2, size=(30, 60))]
    reply = await encoder.images(data)
    vectors = vectors_of(reply)
    assert vectors.shape == (2, DIMENSION)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert [(item.width, item.height) for item in reply.items] == [(48, 40), (30, 60)]
    assert [item.sha256 for item in reply.items] == [hashlib.sha256(one).hexdigest() for one in data]
    assert not any(item.HasField("tokens") for item in reply.items)


async def test_fusion_tokens_come_when_asked_for(encoder: Any) -> None:
    reply = await encoder.images([picture(1)], with_tokens=True)
    tokens = tensor_from_proto(reply.items[0].tokens, name="tokens")
    assert (tokens.shape, tokens.dtype) == ((NUM_TOKENS, TOKEN_WIDTH), np.float16)


async def test_every_reply_says_what_answered_and_where_the_time_went(encoder: Any, shelf: Any) -> None:
    manifest = Registry(shelf.uri).manifest(Registry(shelf.uri).channel("stable").release_id)
    replies = [await encoder.texts(["fresh words"]), await encoder.images([picture(77)]), await encoder.describe()]
    for reply in replies:
        assert reply.served.release_id == manifest.release_id
        assert reply.served.embedding_space_id == manifest.embedding_space_id
        assert reply.served.generation == 1
        assert reply.served.request_id == "test-1"
    stages = [[timing.stage for timing in reply.served.timings] for reply in replies]
    assert stages == [["queue", "forward", "total"], ["queue", "decode", "forward", "total"], ["total"]]


async def test_describe_tells_what_the_release_can_do(encoder: Any) -> None:
    reply = await encoder.describe()
    assert (reply.dimension, reply.context_length, reply.image_size) == (DIMENSION, CONTEXT_LENGTH, IMAGE_SIZE)
    assert (reply.num_tokens, reply.token_width, reply.compute_dtype) == (NUM_TOKENS, TOKEN_WIDTH, "float32")
    assert (reply.reload.phase, reply.reload.serving_generation, reply.reload.failures) == ("idle", 1, 0)


async def test_thirty_two_callers_get_what_each_gets_alone(tight: Any) -> None:
    texts = [f"ball {number}{' of two birds' * (number % 4)}" for number in range(16)]
    data = [picture(100 + number, size=(40 + number, 60)) for number in range(16)]
    alone = [await tight.texts([text]) for text in texts] + [await tight.images([one]) for one in data]
    together = await asyncio.gather(*(tight.texts([text]) for text in texts), *(tight.images([one]) for one in data))
    cosines = [vectors_of(one)[0] @ vectors_of(other)[0] for one, other in zip(alone, together, strict=True)]
    assert min(cosines) > 0.9999


async def test_a_space_that_is_served_may_be_named(encoder: Any) -> None:
    space_id = (await encoder.describe()).served.embedding_space_id
    assert (await encoder.texts(["ball"], space_id=space_id)).served.embedding_space_id == space_id
    assert (await encoder.images([picture()], space_id=space_id)).served.embedding_space_id == space_id


async def test_another_space_is_refused(encoder: Any) -> None:
    for call in (encoder.texts(["ball"], space_id="0" * 16), encoder.images([picture()], space_id="0" * 16)):
        with pytest.raises(EmbeddingSpaceMismatch) as caught:
            await call
        assert caught.value.metadata["got"] == "0" * 16


async def test_items_at_the_limit_pass_and_one_more_is_refused(encoder: Any) -> None:
    texts = await encoder.texts(["ball"] * MAX_TEXTS_PER_CALL)
    images = await encoder.images([picture()] * MAX_PICTURES_PER_CALL)
    assert (len(texts.items), len(images.items)) == (MAX_TEXTS_PER_CALL, MAX_PICTURES_PER_CALL)
    for call in (
        encoder.texts(["ball"] * (MAX_TEXTS_PER_CALL + 1)),
        encoder.images([picture()] * (MAX_PICTURES_PER_CALL + 1)),
    ):
        with pytest.raises(TooManyItems):
            await call


async def test_a_call_without_items_is_refused(encoder: Any) -> None:
    for call in (encoder.texts([]), encoder.images([])):
        with pytest.raises(FieldMissing):
            await call


async def test_a_bad_text_fails_alone(encoder: Any) -> None:
    reply = await encoder.texts(["ball", "", "x" * MAX_TEXT_CHARS, "x" * (MAX_TEXT_CHARS + 1), "bird"])
    expected = [(0, ""), (3, "FIELD_MISSING"), (0, ""), (3, "TEXT_TOO_LONG"), (0, "")]
    assert [outcome(item) for item in reply.items] == expected
    assert "texts[3]: got 4097 characters, limit 4096" in reply.items[3].status.message
    assert not reply.items[1].HasField("vector")


async def test_texts_that_are_all_bad_are_still_answered(encoder: Any) -> None:
    reply = await encoder.texts(["", ""])
    assert [outcome(item) for item in reply.items] == [(3, "FIELD_MISSING")] * 2
    assert reply.served.release_id


async def test_a_bad_picture_fails_alone(encoder: Any) -> None:
    whole = picture(kind="JPEG")
    bomb = _png_header(width=40_000, height=40_000)
    reply = await encoder.images([whole, b"", whole[: len(whole) // 2], b"no picture", bomb, whole])
    assert [outcome(item) for item in reply.items] == [
        (0, ""),
        (3, "FIELD_MISSING"),
        (3, "PICTURE_UNREADABLE"),
        (3, "PICTURE_UNREADABLE"),
        (3, "PICTURE_TOO_MANY_PIXELS"),
        (0, ""),
    ]
    assert reply.items[0].vector == reply.items[5].vector
    assert reply.items[3].sha256 == hashlib.sha256(b"no picture").hexdigest()


async def test_picture_bytes_at_the_limit_pass_and_one_more_is_refused(encoder: Any) -> None:
    whole = picture(kind="JPEG")
    padded = [whole + bytes(size - len(whole)) for size in (MAX_PICTURE_BYTES, MAX_PICTURE_BYTES + 1)]
    reply = await encoder.images(padded)
    assert [outcome(item) for item in reply.items] == [(0, ""), (3, "PICTURE_TOO_LARGE")]


@pytest.mark.slow
async def test_pixels_at_the_limit_pass_and_one_row_more_is_refused(encoder: Any) -> None:
    buffers = [io.BytesIO(), io.BytesIO()]
    for buffer, height in zip(buffers, (5000, 5001), strict=True):
        Image.new("1", (8000, height)).save(buffer, "PNG")
    reply = await encoder.images([buffer.getvalue() for buffer in buffers])
    assert [outcome(item) for item in reply.items] == [(0, ""), (3, "PICTURE_TOO_MANY_PIXELS")]
    assert (reply.items[0].width, reply.items[0].height) == (8000, 5000)


async def test_unusual_pictures_are_read_as_people_see_them(encoder: Any) -> None:
    plain = Image.fromarray(np.random.default_rng(5).integers(0, 256, (40, 40, 3), dtype=np.uint8))
    reference = vectors_of(await encoder.images([_saved(plain, "PNG")]))[0]
    other = Image.new("RGB", plain.size, "white")
    unusual = [
        _saved(plain, "GIF", save_all=True, append_images=[other]),
        _saved(plain.convert("CMYK"), "TIFF"),
        _turned(plain),
        _saved(plain.convert("RGBA"), "PNG"),
        _saved(Image.fromarray(np.asarray(plain.convert("L")).astype(np.uint16) * 257), "PNG"),
    ]
    gif, cmyk, turned, rgba, deep = vectors_of(await encoder.images(unusual))
    grey = vectors_of(await encoder.images([_saved(plain.convert("L"), "PNG")]))[0]
    assert reference @ gif > 0.98  # 256 colours
    for same in (cmyk, turned, rgba):
        assert reference @ same > 0.9999
    assert grey @ deep > 0.9999


async def test_size_is_told_upright_and_before_any_reduced_decoding(encoder: Any) -> None:
    image = Image.new("RGB", (300, 200), "red")
    exif = Image.Exif()
    exif[0x0112] = 6
    reply = await encoder.images([_saved(image, "JPEG"), _saved(image, "JPEG", exif=exif)])
    assert [(item.width, item.height) for item in reply.items] == [(300, 200), (200, 300)]


async def test_a_repeated_picture_gets_the_same_answer(encoder: Any) -> None:
    data = picture(999)
    first, second = [await encoder.images([data], with_tokens=True) for _ in range(2)]
    assert first.items == second.items
    assert "forward" not in {timing.stage for timing in second.served.timings}


async def test_a_full_queue_is_refused_with_a_time_to_come_back(tight: Any) -> None:
    calls = (tight.texts([f"ball {n}"] * MAX_TEXTS_PER_CALL) for n in range(8))
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    refused = [one for one in outcomes if isinstance(one, QueueFull)]
    assert 0 < len(refused) < 8
    assert all(one.retry_after_s > 0 for one in refused)
    assert refused[0].metadata == {"limit": str(MOST_TEXTS_OF_A_CALL)}
    assert all(isinstance(one, QueueFull) or len(one.items) == MAX_TEXTS_PER_CALL for one in outcomes)


async def test_a_passed_deadline_ends_the_call_and_nothing_else(encoder: Any) -> None:
    with pytest.raises(DeadlinePassed):
        await encoder.texts(["late ball"] * MAX_TEXTS_PER_CALL, timeout_s=0.001)
    assert (await encoder.texts(["ball in time"])).items[0].status.code == 0


async def test_a_cancelled_call_gives_its_place_in_the_queue_back(tight: Any) -> None:
    for _ in range(3):
        task = asyncio.create_task(tight.images([picture(size=(400, 400))] * MAX_PICTURES_PER_CALL))
        await tight.describe()
        task.cancel()
        with pytest.raises((asyncio.CancelledError, Cancelled)):
            await task
    assert await _answered_soon(tight, [picture()] * MAX_PICTURES_PER_CALL) == MAX_PICTURES_PER_CALL


async def test_without_a_release_calls_are_told_to_come_back(start: Any, moving_shelf: Any) -> None:
    caller = await start(moving_shelf.settings())
    for call in (caller.texts(["ball"]), caller.images([picture()]), caller.describe()):
        with pytest.raises(NotReady):
            await call


async def test_a_stop_answers_every_accepted_call(start: Any, shelf: Any, host: Any) -> None:
    caller = await start(shelf.settings(text_cache_bytes=0))
    calls = [asyncio.create_task(caller.texts([f"{n}"] * MAX_TEXTS_PER_CALL)) for n in range(6)]
    await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
    await host.stop_all()
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    answered = [one for one in outcomes if not isinstance(one, BaseException)]
    refused = [one for one in outcomes if isinstance(one, BaseException)]
    assert answered
    assert all(len(one.items) == MAX_TEXTS_PER_CALL for one in answered)
    assert all(isinstance(one, Unavailable) for one in refused)


async def _answered_soon(caller: Any, pictures: list[bytes]) -> int:
    """How many items come back once the cancel has reached the service, which a refused caller learns by asking."""
    for _ in range(200):
        try:
            return len((await caller.images(pictures)).items)
        except QueueFull:
            continue
    return 0


def _saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _turned(image: Image.Image) -> bytes:
    """Stored lying on its side, with the EXIF note that tells how to turn it upright."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return _saved(image.transpose(Image.Transpose.ROTATE_90), "PNG", exif=exif)


def _png_header(*, width: int, height: int) -> bytes:
    """A PNG whose header promises more than it holds."""
    small = _saved(Image.new("L", (1, 1)), "PNG")
    header = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + small[24:29]
    return small[:12] + header + zlib.crc32(header).to_bytes(4, "big") + small[33:]
