"""What is encoded, what is kept, and what is forgotten when pictures come in and go out."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from retriever_svc.encoding import EncodedBatch
from retriever_svc.engine import Ask
from retriever_svc.pictures import digest
from retriever_svc.writing import NewImage
from sightline.errors import DimensionMismatch, IndexEmpty, PictureUnreadable, QueueFull
from sightline.rpc.context import CallContext, IncomingCall
from sightline.rpc.timings import StageClock
from sightline.testing.encoder import FIRST_SPACE, SECOND_SPACE, colour_vector

RED, BLUE = (255, 0, 0), (0, 0, 255)


def image(name: str, rgb: tuple[int, int, int], **metadata: str) -> NewImage:
    return NewImage(image_id=name, data=bytes(rgb), metadata=metadata)


def files(bench: Any) -> set[str]:
    """Digests of the pictures that are kept."""
    return {path.name for path in Path(bench.folder / "pictures").rglob("*") if path.is_file()}


async def test_the_same_bytes_are_encoded_once(bench: Any) -> None:
    assert await bench.store(image("a", RED), image("b", RED), image("c", BLUE)) == [None, None, None]
    assert bench.encoder.num_encoded == 2
    await bench.store(image("a", RED), image("c", BLUE))
    assert bench.encoder.num_encoded == 2


async def test_new_metadata_costs_no_encoding_and_keeps_vector_and_tokens(bench: Any) -> None:
    await bench.store(image("a", RED, colour="red"))
    before = await bench.engine.get("a", with_vector=True, with_tokens=True)
    await bench.store(image("a", RED, colour="crimson", mood="warm"))
    after = await bench.engine.get("a", with_vector=True, with_tokens=True)
    assert bench.encoder.num_encoded == 1
    assert dict(after.metadata) == {"colour": "crimson", "mood": "warm"}
    assert after.vector.tobytes() == before.vector.tobytes()
    assert after.tokens.tobytes() == before.tokens.tobytes()


async def test_a_picture_is_kept_as_long_as_any_id_uses_it(bench: Any) -> None:
    await bench.store(image("a", RED), image("b", RED))
    await bench.store(image("a", BLUE))
    assert files(bench) == {digest(bytes(RED)), digest(bytes(BLUE))}
    assert await bench.engine.delete(["b", "b", "absent"]) == 1
    assert files(bench) == {digest(bytes(BLUE))}
    assert await bench.engine.delete(["a"]) == 1
    assert files(bench) == set()


async def test_a_refused_picture_leaves_the_stored_one_as_it_was(bench: Any) -> None:
    await bench.store(image("a", RED))
    bench.encoder.unreadable.add(bytes(BLUE))
    (refusal,) = await bench.store(image("a", BLUE))
    assert isinstance(refusal, PictureUnreadable)
    assert (await bench.engine.get("a", with_vector=False, with_tokens=False)).sha256 == digest(bytes(RED))
    assert files(bench) == {digest(bytes(RED))}


async def test_concurrent_writes_of_one_id_leave_one_whole_picture(bench: Any) -> None:
    await asyncio.gather(*[bench.store(image("same", (n, n, n))) for n in range(8)])
    stored = await bench.engine.get("same", with_vector=True, with_tokens=False)
    assert files(bench) == {stored.sha256}
    colour = next(n for n in range(8) if digest(bytes((n, n, n))) == stored.sha256)
    assert stored.vector.tobytes() == colour_vector((colour,) * 3, space_id=FIRST_SPACE).tobytes()


async def test_two_first_writes_found_one_space(bench: Any) -> None:
    encode = bench.encoder.encode_pictures
    other = asyncio.Event()

    async def late(pictures: list[bytes], *, space_id: str, with_tokens: bool, call: CallContext) -> EncodedBatch:
        if not space_id and bytes(RED) in pictures:
            encoded = await encode(pictures, space_id=SECOND_SPACE, with_tokens=with_tokens, call=call)
            await other.wait()
            return encoded
        return await encode(pictures, space_id=space_id, with_tokens=with_tokens, call=call)

    bench.encoder.encode_pictures = late
    bench.encoder.spaces = [FIRST_SPACE, SECOND_SPACE]
    first = asyncio.create_task(bench.store(image("a", RED)))
    await asyncio.sleep(0)
    assert await bench.store(image("b", BLUE)) == [None]
    other.set()
    assert await first == [None]
    assert bench.engine.space_id == FIRST_SPACE
    assert await bench.nearest(RED) == ("a", pytest.approx(1.0, abs=1e-5), FIRST_SPACE)


async def test_more_writes_than_fit_are_refused_with_a_time_to_come_back(bench: Any) -> None:
    await bench.store(image("a", RED))
    bench.encoder.spaces = [FIRST_SPACE, SECOND_SPACE]
    encode, gate = bench.encoder.encode_pictures, asyncio.Event()

    async def slow(pictures: list[bytes], **fields: Any) -> EncodedBatch:
        await gate.wait()
        return await encode(pictures, **fields)

    bench.encoder.encode_pictures = slow
    running = [asyncio.create_task(bench.store(image(f"p{n}", (n, 1, 1)))) for n in range(8)]
    await asyncio.sleep(0)
    with pytest.raises(QueueFull) as caught:
        await bench.store(image("one more", BLUE))
    assert caught.value.retry_after_s > 0
    gate.set()
    assert await asyncio.gather(*running) == [[None]] * 8


async def test_a_write_that_has_begun_is_finished_though_its_caller_is_gone(bench: Any) -> None:
    await bench.store(image("a", RED))
    async with bench.engine._spaces.lock:
        writing = asyncio.create_task(bench.store(image("b", BLUE)))
        while not bench.engine._writer._running:
            await asyncio.sleep(0)
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
    await bench.engine._writer.finish()
    assert (await bench.nearest(BLUE))[0] == "b"


async def test_a_vector_of_another_width_is_refused(bench: Any) -> None:
    with pytest.raises(IndexEmpty):
        await bench.engine.search_vector(colour_vector(RED, space_id=FIRST_SPACE), ask=Ask(k=1), clock=StageClock())
    await bench.store(image("a", RED))
    with pytest.raises(DimensionMismatch, match="got 31 values, limit 32"):
        await bench.engine.search_vector(
            colour_vector(RED, space_id=FIRST_SPACE)[:-1], ask=Ask(k=1), clock=StageClock()
        )


async def test_metadata_of_a_picture_that_is_deleted_meanwhile_is_encoded_again(bench: Any) -> None:
    await bench.store(image("a", RED))
    async with bench.engine._spaces.lock:
        deleting = asyncio.create_task(bench.engine.delete(["a"]))
        await asyncio.sleep(0)
        writing = asyncio.create_task(
            bench.engine.upsert([image("a", RED, v="2")], call=IncomingCall(), clock=StageClock())
        )
        while len(bench.engine._writer._running) < 2:
            await asyncio.sleep(0)
    assert await deleting == 1
    assert await writing == [None]
    assert (await bench.nearest(RED))[0] == "a"
    assert files(bench) == {digest(bytes(RED))}
