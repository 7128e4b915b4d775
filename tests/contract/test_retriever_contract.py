"""RetrieverService as a caller sees it, on both hosts, over the edge driver and an encoder without a model."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from retriever_svc.building import build_servicer
from retriever_svc.servicer import RetrieverServicer
from retriever_svc.settings import RetrieverSettings
from sightline.errors import (
    DimensionMismatch,
    EmbeddingSpaceMismatch,
    FieldMissing,
    FieldOutOfRange,
    FilterInvalid,
    ImageNotFound,
    IndexEmpty,
    PageTokenInvalid,
    PictureTooLarge,
    PictureUnreadable,
    SightlineError,
    TensorMalformed,
    TextTooLong,
    TooManyItems,
)
from sightline.limits import (
    MAX_CONDITION_VALUES,
    MAX_CONDITIONS,
    MAX_DELETES_PER_CALL,
    MAX_IMAGE_ID_CHARS,
    MAX_METADATA_CHARS,
    MAX_METADATA_PAIRS,
    MAX_PAGE_SIZE,
    MAX_PICTURE_BYTES,
    MAX_PICTURES_PER_CALL,
    MAX_SEARCH_K,
    MAX_TEXT_CHARS,
)
from sightline.rpc.channels import Remote
from sightline.rpc.tensors import tensor_from_proto, tensor_to_proto
from sightline.testing.encoder import (
    DIMENSION,
    FIRST_SPACE,
    NUM_TOKENS,
    SECOND_SPACE,
    TOKEN_WIDTH,
    FakeEncoder,
    colour_picture,
    colour_tokens,
    colour_vector,
)
from sightline.v1 import common_pb2, retriever_pb2
from sightline.v1.common_pb2 import Picture, Tensor
from sightline.v1.retriever_pb2 import (
    Condition,
    DeleteImagesRequest,
    DescribeIndexRequest,
    Filter,
    GetImageRequest,
    ImageRecord,
    ListImagesRequest,
    SearchImagesRequest,
    UpsertImagesRequest,
)
from sightline.v1.retriever_pb2_grpc import RetrieverServiceStub

COLOURS = {"red": (255, 0, 0), "green": (0, 128, 0), "blue": (0, 0, 255), "white": (255, 255, 255), "black": (0, 0, 0)}


def make_encoder() -> FakeEncoder:
    return FakeEncoder()


def make_retriever(path: str, encoder_address: str, encoder_application: str) -> RetrieverServicer:
    settings = RetrieverSettings(
        path=Path(path), encoder_address=encoder_address, encoder_application=encoder_application
    )
    return build_servicer(settings)


@dataclass
class Caller:
    """A started retriever, seen from outside."""

    remote: Remote
    stub: Any

    async def call(self, method: str, request: Any, **kwargs: Any) -> Any:
        return await self.remote.unary(getattr(self.stub, method), request, **kwargs)

    async def store(self, *records: ImageRecord) -> list[common_pb2.ItemStatus]:
        reply = await self.call("UpsertImages", UpsertImagesRequest(images=records))
        return list(reply.items)

    async def search(self, **fields: Any) -> Any:
        return await self.call("SearchImages", SearchImagesRequest(**({"k": 10} | fields)))

    async def ids(self, **fields: Any) -> list[str]:
        return [image.image_id for image in (await self.search(**fields)).images]

    async def refused(self, kind: type[SightlineError], method: str, request: Any) -> SightlineError:
        with pytest.raises(kind) as caught:
            await self.call(method, request)
        return caught.value


def record(
    image_id: str, colour: str | tuple[int, int, int] = "red", *, data: bytes | None = None, **metadata: str
) -> ImageRecord:
    picture = Picture(data=colour_picture(colour) if data is None else data)
    return ImageRecord(image_id=image_id, picture=picture, metadata=metadata)


@pytest.fixture
async def caller(host: Any, tmp_path: Path) -> AsyncIterator[Caller]:
    """A retriever with an empty index."""
    encoder = await host.start("EncoderService", make_encoder, keep=True)
    settings = encoder.settings
    factory = functools.partial(make_retriever, str(tmp_path), settings.address, settings.application)
    endpoint = await host.start("RetrieverService", factory)
    yield Caller(remote=endpoint.remote, stub=RetrieverServiceStub(endpoint.remote.channel))


async def fill(caller: Caller) -> None:
    statuses = await caller.store(*[record(name, name, kind="plain", name=name) for name in COLOURS])
    assert [status.code for status in statuses] == [0] * len(COLOURS)


async def test_text_finds_the_picture_that_it_names_with_tokens_and_timings(caller: Caller) -> None:
    await fill(caller)
    reply = await caller.search(text="something blue", k=2, with_tokens=True)
    best = reply.images[0]
    assert best.image_id == "blue"
    assert best.score == pytest.approx(1.0, abs=1e-5)
    assert dict(best.metadata) == {"kind": "plain", "name": "blue"}
    tokens = tensor_from_proto(best.tokens, name="tokens")
    np.testing.assert_array_equal(tokens, colour_tokens(COLOURS["blue"], space_id=FIRST_SPACE))
    assert tokens.shape == (NUM_TOKENS, TOKEN_WIDTH)
    assert reply.served.embedding_space_id == FIRST_SPACE
    assert reply.served.release_id == ""
    assert [timing.stage for timing in reply.served.timings] == ["encode", "search", "total"]


async def test_picture_finds_its_like(caller: Caller) -> None:
    await fill(caller)
    reply = await caller.search(picture=Picture(data=colour_picture((250, 5, 5), side=3)), k=1)
    assert [image.image_id for image in reply.images] == ["red"]
    assert not reply.images[0].HasField("tokens")
