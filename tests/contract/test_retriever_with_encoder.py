"""The retriever over the real encoder, and the encoder without a model held to what the real one does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from encoder_svc.servicer import build_servicer as build_encoder
from encoder_svc.settings import EncoderSettings
from retriever_svc.building import build_servicer as build_retriever
from retriever_svc.settings import RetrieverSettings
from sightline.client import AsyncClient, Endpoints, NewImage
from sightline.errors import EmbeddingSpaceMismatch, FieldMissing, SightlineError, TooManyItems
from sightline.limits import MAX_COMPOSED_PER_CALL, MAX_PICTURES_PER_CALL, MAX_TEXT_CHARS, MAX_TEXTS_PER_CALL
from sightline.registry import Manifest
from sightline.rpc.aio_host import AioHost, ServiceBinding
from sightline.rpc.channels import ChannelSettings, Remote
from sightline.rpc.host_settings import HostSettings
from sightline.rpc.tensors import tensor_to_proto
from sightline.testing.encoder import FakeEncoder, colour_picture
from sightline.testing.folders import quick_folder
from sightline.testing.tiny_releases import SEES_VECTORS, publish_folder, save_tiny_encoder
from sightline.v1 import common_pb2, encoder_pb2
from sightline.v1.encoder_pb2_grpc import EncoderServiceStub

COLOURS = ["red", "green", "blue", "white", "black", "orange", "purple", "teal"]

pytestmark = pytest.mark.slow


def publish(folder: Path, *, seed: int) -> Manifest:
    torch.manual_seed(seed)
    architecture = save_tiny_encoder(folder / f"made-{seed}", composer=SEES_VECTORS)
    return publish_folder(folder / f"made-{seed}", registry_uri=str(folder / "registry"), architecture=architecture)


def real_encoder(folder: Path) -> Any:
    return build_encoder(EncoderSettings(registry=str(folder / "registry"), cache_dir=folder / "cache", poll_s=0.05))


@asynccontextmanager
async def hosted(service: str, servicer: Any) -> AsyncIterator[str]:
    host = AioHost([ServiceBinding(service=service, servicer=servicer)], HostSettings(grace_s=2.0))
    await host.start()
    yield host.address
    await host.drain_and_stop()


async def test_a_release_of_a_new_space_takes_over_without_a_failed_search(tmp_path: Path) -> None:
    first = publish(tmp_path, seed=0)
    with quick_folder() as folder:
        async with hosted("EncoderService", real_encoder(tmp_path)) as encoder:
            settings = RetrieverSettings(path=folder, encoder_address=encoder, poll_s=0.05)
            async with (
                hosted("RetrieverService", build_retriever(settings)) as retriever,
                AsyncClient(Endpoints(encoder=encoder, retriever=retriever)) as client,
            ):
                images = [NewImage(image_id=name, picture=colour_picture(name, side=32)) for name in COLOURS]
                assert set((await client.upsert_images(images)).errors) == {None}
                spaces: list[str] = []
                second: Manifest | None = None
                while second is None or second.embedding_space_id not in spaces[-20:]:
                    name = COLOURS[len(spaces) % len(COLOURS)]
                    found = await client.search_images(colour_picture(name, side=32), k=1, with_tokens=True)
                    assert (found.images[0].image_id, found.images[0].score) == (name, pytest.approx(1.0, abs=1e-3))
                    assert found.images[0].tokens is not None
                    spaces.append(found.served.embedding_space_id)
                    if len(spaces) == 20:
                        second = await asyncio.to_thread(publish, tmp_path, seed=1)
                assert set(spaces) == {first.embedding_space_id, second.embedding_space_id}
                assert (await client.describe_index()).num_images == len(COLOURS)


@pytest.fixture(params=["fake", "real"])
async def encode(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """`await encode(request)`: the reply of the encoder under test, or the SightlineError that it raised."""
    if request.param == "real":
        publish(tmp_path, seed=0)
    servicer = FakeEncoder() if request.param == "fake" else real_encoder(tmp_path)
    async with hosted("EncoderService", servicer) as address:
        remote = Remote(ChannelSettings(address=address))
        stub = EncoderServiceStub(remote.channel)

        async def call(message: Any) -> Any:
            rpc = getattr(stub, type(message).__name__.removesuffix("Request"))
            return await remote.unary(rpc, message)

        yield call
        await remote.close()


async def refused(kind: type[SightlineError], encode: Callable[..., Any], message: Any) -> None:
    with pytest.raises(kind):
        await encode(message)


async def test_fake_and_real_encoder_answer_texts_alike(encode: Callable[..., Any]) -> None:
    request = encoder_pb2.EncodeTextsRequest(texts=["a red house", "", "x" * (MAX_TEXT_CHARS + 1), "word " * 200])
    reply = await encode(request)
    described = await encode(encoder_pb2.DescribeEncoderRequest())
    assert [item.status.reason for item in reply.items] == ["", "FIELD_MISSING", "TEXT_TOO_LONG", ""]
    assert [item.is_truncated for item in reply.items] == [False, False, False, True]
    assert list(reply.items[0].vector.shape) == [described.dimension]
    assert not reply.items[1].HasField("vector")
    assert reply.served.embedding_space_id == described.served.embedding_space_id
    assert reply.served.release_id.startswith("sha256-")
    assert reply.served.generation >= 1


async def test_fake_and_real_encoder_answer_pictures_alike(encode: Callable[..., Any]) -> None:
    pictures = [common_pb2.Picture(data=data) for data in (colour_picture("red", side=9), b"no picture", b"")]
    reply = await encode(encoder_pb2.EncodeImagesRequest(pictures=pictures, with_tokens=True))
    described = await encode(encoder_pb2.DescribeEncoderRequest())
    assert [item.status.reason for item in reply.items] == ["", "PICTURE_UNREADABLE", "FIELD_MISSING"]
    good = reply.items[0]
    assert (good.width, good.height, len(good.sha256)) == (9, 9, 64)
    assert list(good.vector.shape) == [described.dimension]
    assert list(good.tokens.shape) == [described.num_tokens, described.token_width]
    assert good.tokens.dtype == common_pb2.DTYPE_FLOAT16
    plain = await encode(encoder_pb2.EncodeImagesRequest(pictures=pictures[:1]))
    assert not plain.items[0].HasField("tokens")


async def test_fake_and_real_encoder_answer_composed_queries_alike(encode: Callable[..., Any]) -> None:
    described = await encode(encoder_pb2.DescribeEncoderRequest())
    assert (described.can_compose, described.composes_vectors) == (True, True)
    red, edit = common_pb2.Picture(data=colour_picture("red", side=9)), common_pb2.Edit(texts=["is blue"])
    queries = [
        encoder_pb2.ComposedQuery(picture=red, edit=edit),
        encoder_pb2.ComposedQuery(picture=red),
        encoder_pb2.ComposedQuery(edit=edit),
        encoder_pb2.ComposedQuery(vector=tensor_to_proto(np.ones(described.dimension, np.float32)), edit=edit),
        encoder_pb2.ComposedQuery(vector=tensor_to_proto(np.ones(described.dimension + 1, np.float32)), edit=edit),
        encoder_pb2.ComposedQuery(picture=common_pb2.Picture(data=b"no picture"), edit=edit),
        encoder_pb2.ComposedQuery(picture=red, edit=common_pb2.Edit(texts=["word " * 200])),
        encoder_pb2.ComposedQuery(),
    ]
    space_id = described.served.embedding_space_id
    reply = await encode(encoder_pb2.EncodeComposedRequest(queries=queries, embedding_space_id=space_id))
    reasons = ["", "", "", "", "DIMENSION_MISMATCH", "PICTURE_UNREADABLE", "", "FIELD_MISSING"]
    assert [item.status.reason for item in reply.items] == reasons
    assert [item.HasField("vector") for item in reply.items] == [not reason for reason in reasons]
    assert [len(item.sha256) for item in reply.items] == [64, 64, 0, 0, 0, 64, 64, 0]
    assert [item.is_truncated for item in reply.items] == [False] * 6 + [True, False]
    await refused(FieldMissing, encode, encoder_pb2.EncodeComposedRequest())
    await refused(FieldMissing, encode, encoder_pb2.EncodeComposedRequest(queries=queries))
    too_many = encoder_pb2.EncodeComposedRequest(queries=queries[:1] * (MAX_COMPOSED_PER_CALL + 1))
    await refused(TooManyItems, encode, too_many)


async def test_fake_and_real_encoder_refuse_alike(encode: Callable[..., Any]) -> None:
    pictures, texts = [common_pb2.Picture(data=b"x")], ["a"]
    await refused(FieldMissing, encode, encoder_pb2.EncodeTextsRequest())
    await refused(FieldMissing, encode, encoder_pb2.EncodeImagesRequest())
    await refused(TooManyItems, encode, encoder_pb2.EncodeTextsRequest(texts=texts * (MAX_TEXTS_PER_CALL + 1)))
    too_many = encoder_pb2.EncodeImagesRequest(pictures=pictures * (MAX_PICTURES_PER_CALL + 1))
    await refused(TooManyItems, encode, too_many)
    for message in (
        encoder_pb2.EncodeTextsRequest(texts=texts, embedding_space_id="0000000000000000"),
        encoder_pb2.EncodeImagesRequest(pictures=pictures, embedding_space_id="0000000000000000"),
    ):
        await refused(EmbeddingSpaceMismatch, encode, message)
