"""EncodeComposed on both hosts: what it answers, in batches across callers, every refusal, and across releases."""

from __future__ import annotations

import asyncio
import io
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image

from sightline.composition import slerp, without
from sightline.errors import (
    CapabilityMissing,
    DeadlinePassed,
    EmbeddingSpaceMismatch,
    FieldMissing,
    NotReady,
    TooManyItems,
)
from sightline.limits import MAX_COMPOSED_PER_CALL, MAX_EDIT_TEXTS, MAX_TEXT_CHARS
from sightline.models.encoder_model import EncoderModel
from sightline.models.release import load_encoder
from sightline.rpc.tensors import tensor_from_proto, tensor_to_proto
from sightline.testing.tiny_releases import DIMENSION, SEES_PIXELS, SEES_VECTORS
from sightline.v1.common_pb2 import Edit, Picture, Tensor
from sightline.v1.encoder_pb2 import ComposedQuery

SEED = 5


def png(seed: int = 0) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def query(*texts: str, reference: bytes | np.ndarray | None = None, **edit: Any) -> ComposedQuery:
    made = ComposedQuery(edit=Edit(texts=texts, **edit))
    if isinstance(reference, bytes):
        made.picture.data = reference
    elif reference is not None:
        made.vector.CopyFrom(tensor_to_proto(reference))
    return made


def vector_of(item: Any) -> np.ndarray:
    assert item.status.code == 0, item.status
    return tensor_from_proto(item.vector, name="vector")


@pytest.fixture(scope="session")
def composing_shelf(tmp_path_factory: pytest.TempPathFactory, shelf: Any) -> Any:
    """A registry whose one release composes."""
    made = type(shelf)(folder=tmp_path_factory.mktemp("composing"))
    made.publish(seed=SEED, composer=SEES_VECTORS)
    return made


@pytest.fixture(scope="session")
def model(composing_shelf: Any) -> EncoderModel:
    """What `composer` serves, in this process."""
    return load_encoder(composing_shelf.made(seed=SEED, composes=True))


@pytest.fixture
async def composer(start: Any, composing_shelf: Any) -> Any:
    return await start(composing_shelf.settings(max_wait_ms=100.0), keep=True)


def composed_in_process(model: EncoderModel, data: bytes, sentence: str) -> np.ndarray:
    pixels = model.preprocess(Image.open(io.BytesIO(data)))[None]
    return model.encode_composed(model.encode_images(pixels)[0], [sentence])[0]


async def test_vectors_are_those_of_the_model_whatever_the_reference(composer: Any, model: EncoderModel) -> None:
    seen = model.encode_images(model.preprocess(Image.open(io.BytesIO(png(1))))[None])[0][0]
    composed = composed_in_process(model, png(1), "is blue and at night")
    blue, car = model.encode_texts(["is blue", "a car"])
    queries = {
        "picture": (query("is blue.", "at night", reference=png(1)), composed),
        "vector": (query("is blue", "at night", reference=3 * seen), composed),
        "empty edit": (query(reference=png(1)), composed_in_process(model, png(1), "")),
        "blank edit": (query(" ", "", reference=png(1)), composed_in_process(model, png(1), "")),
        "no picture": (query("is blue", text_weight=0.2), blue),
        "to the picture": (
            query("is blue", "at night", reference=png(1), text_weight=0.25),
            slerp(seen, composed, share=0.5),
        ),
        "to the text": (query("is blue", reference=png(1), text_weight=1.0), blue),
        "not a car": (query("is blue", negative_texts=["a car"]), without(blue, negatives_ND=[car])),
    }
    space_id = model.embedding_space_id
    reply = await composer.composed([asked for asked, _ in queries.values()], space_id=space_id)
    for (name, (_, expected)), item in zip(queries.items(), reply.items, strict=True):
        assert vector_of(item) @ expected > 0.9999, name
    assert reply.served.embedding_space_id == space_id
    assert [len(item.sha256) for item in reply.items] == [64, 0, 64, 64, 0, 64, 64, 0]
    described = await composer.describe()
    assert (described.can_compose, described.composes_vectors) == (True, True)


async def test_eight_callers_share_passes_and_get_what_each_gets_alone(composer: Any) -> None:
    """How many share the first time is up to the machine: callers who come back together are soon expected together."""
    queries = [query(f"has {n} birds", reference=png(n)) for n in range(8)]
    alone = [await composer.composed([one]) for one in queries]
    for _ in range(50):
        together = await asyncio.gather(*(composer.composed([one]) for one in queries))
        cosines = [vector_of(a.items[0]) @ vector_of(b.items[0]) for a, b in zip(alone, together, strict=True)]
        assert min(cosines) > 0.9999
        if len(passes_of(together)) <= 4:
            return
    pytest.fail(f"8 callers never shared 4 passes; the last took {passes_of(together)} microseconds")


def passes_of(replies: list[Any]) -> set[int]:
    """The composer's passes, by their durations: callers of one batch tell the same, and the pictures are cached."""
    return {timing.duration_us for reply in replies for timing in reply.served.timings if timing.stage == "forward"}


async def test_a_bad_query_fails_alone_and_by_name(composer: Any, model: EncoderModel) -> None:
    wide, zero = np.ones(DIMENSION + 1, np.float32), np.zeros(DIMENSION, np.float32)
    bad = {
        "queries[1].edit.texts: got nothing": query(),
        "queries[2].edit.texts: got nothing": query(negative_texts=["a car"]),
        "queries[3].edit.texts: got 5 items": query(*["x"] * (MAX_EDIT_TEXTS + 1)),
        "queries[4].edit.negative_texts[0]: got 4097": query("x", negative_texts=["x" * (MAX_TEXT_CHARS + 1)]),
        "queries[5].edit.text_weight: got 1.5": query("x", text_weight=1.5),
        "queries[6].picture.data: got nothing": ComposedQuery(picture=Picture(), edit=Edit(texts=["x"])),
        "picture": query("x", reference=b"no picture"),
        "vector: got 33 values": query("x", reference=wide),
        "queries[9].vector: its length is 0": query("x", reference=zero),
        "queries[10].vector.dtype": ComposedQuery(vector=Tensor(data=b"1234", shape=[1])),
    }
    good = [query("is blue", reference=png(1)), query("blue " * 100, reference=png(1))]
    reply = await composer.composed([good[0], *bad.values(), good[1]], space_id=model.embedding_space_id)
    reasons = ["FIELD_MISSING"] * 2 + ["TOO_MANY_ITEMS", "TEXT_TOO_LONG", "FIELD_OUT_OF_RANGE", "FIELD_MISSING"]
    reasons += ["PICTURE_UNREADABLE", "DIMENSION_MISMATCH", "TENSOR_MALFORMED", "TENSOR_MALFORMED"]
    assert [item.status.reason for item in reply.items] == ["", *reasons, ""]
    assert [told in item.status.message for told, item in zip(bad, reply.items[1:-1], strict=True)] == [True] * len(bad)
    assert (reply.items[0].is_truncated, reply.items[-1].is_truncated) == (False, True)
    assert (reply.items[-1].num_tokens > 100, len(reply.items[7].sha256)) == (True, 64)


async def test_a_call_is_refused_whole_for_its_size_its_space_and_its_time(composer: Any, model: EncoderModel) -> None:
    full = [query("x", reference=png(n % 3)) for n in range(MAX_COMPOSED_PER_CALL)]
    assert len((await composer.composed(full)).items) == MAX_COMPOSED_PER_CALL
    by_vector = query("x", reference=np.ones(DIMENSION, np.float32))
    for kind, call in (
        (TooManyItems, composer.composed([*full, query("x")])),
        (FieldMissing, composer.composed([])),
        (FieldMissing, composer.composed([query("x"), by_vector])),
        (EmbeddingSpaceMismatch, composer.composed([by_vector], space_id="0" * 16)),
        (
            DeadlinePassed,
            composer.composed([query(f"late {n}", reference=png(90 + n)) for n in range(64)], timeout_s=0.001),
        ),
    ):
        with pytest.raises(kind):
            await call


async def test_without_a_composer_the_call_is_unimplemented_and_a_sentence_is_answered(encoder: Any) -> None:
    with pytest.raises(CapabilityMissing) as caught:
        await encoder.composed([query("is blue"), query("is blue", reference=png())])
    assert caught.value.metadata == {"detail": "composer"}
    assert caught.value.__cause__.code() is grpc.StatusCode.UNIMPLEMENTED  # type: ignore[union-attr]
    assert vector_of((await encoder.composed([query("is blue")])).items[0]).shape == (DIMENSION,)
    described = await encoder.describe()
    assert (described.can_compose, described.composes_vectors) == (False, False)


async def test_a_composer_takes_over_where_there_was_none_and_then_one_that_has_to_see(
    start: Any, moving_shelf: Any
) -> None:
    caller = await start(moving_shelf.settings())
    with pytest.raises(NotReady):
        await caller.composed([query("is blue")])
    first = await asyncio.to_thread(moving_shelf.publish, seed=1)
    await _until_serving(caller, first)
    with pytest.raises(CapabilityMissing):
        await caller.composed([query("is blue", reference=png())])
    seen = (await caller.images([png()])).items[0].vector
    second = await asyncio.to_thread(moving_shelf.publish, seed=1, composer=SEES_VECTORS)
    assert second.embedding_space_id == first.embedding_space_id
    await _until_serving(caller, second)
    asked = ComposedQuery(vector=seen, edit=Edit(texts=["is blue"]))
    reply = await caller.composed([asked], space_id=first.embedding_space_id)
    assert reply.served.release_id == second.release_id
    third = await asyncio.to_thread(moving_shelf.publish, seed=2, composer=SEES_PIXELS)
    described = await _until_serving(caller, third)
    assert (described.can_compose, described.composes_vectors) == (True, False)
    with pytest.raises(CapabilityMissing) as caught:
        await caller.composed([asked], space_id=third.embedding_space_id)
    assert caught.value.metadata == {"detail": "pixels"}
    reply = await caller.composed([query("is blue", reference=png())])
    expected = load_encoder(moving_shelf.made(seed=2, composes=True))
    pixels = expected.preprocess(Image.open(io.BytesIO(png())))[None]
    assert vector_of(reply.items[0]) @ expected.encode_composed(pixels, ["is blue"])[0] > 0.9999


async def _until_serving(caller: Any, manifest: Any) -> Any:
    for _ in range(20_000):
        try:
            described = await caller.describe()
        except NotReady:
            continue
        if described.served.release_id == manifest.release_id:
            return described
    raise AssertionError("the release never took over")
