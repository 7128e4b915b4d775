"""SearchImages with a picture and a sentence, on both hosts and both index drivers, over an encoder without a model."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from retriever_svc.building import build_servicer
from retriever_svc.servicer import RetrieverServicer
from retriever_svc.settings import RetrieverSettings
from sightline.errors import (
    CapabilityMissing,
    EmbeddingSpaceMismatch,
    FieldMissing,
    FieldOutOfRange,
    ImageNotFound,
    IndexEmpty,
    PictureUnreadable,
    SightlineError,
    TextTooLong,
    TooManyItems,
)
from sightline.limits import MAX_EDIT_TEXTS, MAX_IMAGE_ID_CHARS, MAX_TEXT_CHARS
from sightline.rpc.channels import Remote
from sightline.testing.encoder import SECOND_SPACE, FakeEncoder, colour_picture
from sightline.testing.folders import quick_folder
from sightline.testing.qdrant import FakeQdrant
from sightline.v1 import common_pb2, retriever_pb2
from sightline.v1.retriever_pb2_grpc import RetrieverServiceStub

COLOURS = ("red", "green", "blue", "white")
RED = colour_picture("red")


def make_retriever(folder: str, encoder: str, application: str, driver: str, port: int) -> RetrieverServicer:
    settings = RetrieverSettings(
        path=Path(folder),
        encoder_address=encoder,
        encoder_application=application,
        driver=driver,
        qdrant_url="http://127.0.0.1:1",
        qdrant_grpc_port=port,
    )
    return build_servicer(settings)


class Retriever:
    """A started retriever over the encoder that a test wants."""

    def __init__(self, remote: Remote) -> None:
        self._remote, self._stub = remote, RetrieverServiceStub(remote.channel)

    async def store(self, **pictures: bytes) -> None:
        records = [
            retriever_pb2.ImageRecord(image_id=name, picture=common_pb2.Picture(data=data))
            for name, data in pictures.items()
        ]
        await self._remote.unary(self._stub.UpsertImages, retriever_pb2.UpsertImagesRequest(images=records))

    async def found(self, *, k: int = 10, space_id: str = "", **fields: Any) -> list[str]:
        """The ids of the hits; `fields` are those of a ComposedSearch, those of its edit among them."""
        edit = {name: fields.pop(name) for name in ("texts", "negative_texts", "text_weight") if name in fields}
        composed = retriever_pb2.ComposedSearch(edit=common_pb2.Edit(**edit), **fields)
        request = retriever_pb2.SearchImagesRequest(composed=composed, k=k, embedding_space_id=space_id)
        reply = await self._remote.unary(self._stub.SearchImages, request)
        return [image.image_id for image in reply.images]


@pytest.fixture(params=["edge", "server"])
async def start(host: Any, request: pytest.FixtureRequest) -> AsyncIterator[Callable[..., Any]]:
    """`await start(composes_vectors=False)`: a Retriever that holds one picture of each colour."""
    if host.kind == "serve" and request.param == "server":
        pytest.skip("one host tells the drivers apart")
    qdrant = FakeQdrant()
    await qdrant.start()
    with quick_folder() as folder:

        async def start_one(**encoder: Any) -> Retriever:
            endpoint = await host.start("EncoderService", functools.partial(FakeEncoder, **encoder))
            address, application = endpoint.settings.address, endpoint.settings.application
            factory = functools.partial(make_retriever, str(folder), address, application, request.param, qdrant.port)
            return Retriever((await host.start("RetrieverService", factory)).remote)

        yield start_one
        await host.stop_all()
    await qdrant.stop()


def picture(data: bytes) -> common_pb2.Picture:
    return common_pb2.Picture(data=data)


async def test_the_reference_is_left_out_by_id_and_by_digest_unless_it_may_stay(start: Callable[..., Any]) -> None:
    retriever = await start()
    with pytest.raises(IndexEmpty):
        await retriever.found(image_id="red", texts=["blue"])
    await retriever.store(**{colour: colour_picture(colour) for colour in COLOURS}, copy=RED)
    by_id = await retriever.found(image_id="red", texts=["but blue"])
    assert set(by_id) == {*COLOURS, "copy"} - {"red"}
    assert set(by_id[:2]) == {"blue", "copy"}
    by_bytes = await retriever.found(picture=picture(RED), texts=["but blue"])
    assert (by_bytes[0], set(by_bytes)) == ("blue", {*COLOURS} - {"red"})
    assert set((await retriever.found(image_id="red", texts=["but blue"], keep_reference=True))[:3]) == {
        "blue",
        "copy",
        "red",
    }
    assert (await retriever.found(picture=picture(RED), keep_reference=True, k=2)) == ["copy", "red"]
    # The edit alone, an empty edit, a weight, and what is not wanted.
    assert (await retriever.found(texts=["blue"], k=1)) == ["blue"]
    assert (await retriever.found(image_id="red", k=1)) == ["copy"]
    assert (await retriever.found(picture=picture(RED), texts=["blue"], text_weight=1.0, k=1)) == ["blue"]
    assert (await retriever.found(image_id="red", texts=["blue"], text_weight=0.0, k=1)) == ["copy"]
    assert (await retriever.found(image_id="red", texts=["blue"], negative_texts=["red"], k=1)) == ["blue"]
    with pytest.raises(PictureUnreadable):
        await retriever.found(picture=picture(b"no picture"), texts=["blue"])
    with pytest.raises(EmbeddingSpaceMismatch):
        await retriever.found(image_id="red", texts=["blue"], space_id=SECOND_SPACE)
    # A picture that looks the same but has other bytes is no copy of the reference.
    other = colour_picture("red", side=9)
    assert (await retriever.found(picture=picture(other), k=2)) == ["copy", "red"]


async def test_a_stored_reference_is_sent_where_the_composer_has_to_see_it(start: Callable[..., Any]) -> None:
    retriever = await start(composes_vectors=False)
    await retriever.store(**{colour: colour_picture(colour) for colour in COLOURS})
    assert (await retriever.found(image_id="red", texts=["but blue"]))[0] == "blue"
    with pytest.raises(ImageNotFound) as caught:
        await retriever.found(image_id="absent", texts=["but blue"])
    assert caught.value.metadata == {"image_id": "absent"}


async def test_bad_composed_searches_are_refused_by_name(start: Callable[..., Any]) -> None:
    retriever = await start(can_compose=False)
    await retriever.store(red=RED)

    async def refused(kind: type[SightlineError], told: str, **fields: Any) -> None:
        with pytest.raises(kind, match=told):
            await retriever.found(**fields)

    await refused(CapabilityMissing, "no composer", image_id="red", texts=["blue"])
    await refused(CapabilityMissing, "no composer", picture=picture(RED), texts=["blue"])
    assert await retriever.found(texts=["blue"]) == ["red"]
    await refused(FieldMissing, r"composed\.edit\.texts", texts=[" "])
    await refused(FieldMissing, r"composed\.picture\.data", picture=picture(b""), texts=["blue"])
    await refused(FieldMissing, r"composed\.image_id", image_id="", texts=["blue"])
    await refused(FieldOutOfRange, r"composed\.image_id", image_id="x" * (MAX_IMAGE_ID_CHARS + 1))
    await refused(FieldOutOfRange, r"composed\.edit\.text_weight", texts=["blue"], text_weight=-0.1)
    await refused(TooManyItems, r"composed\.edit\.texts", texts=["blue"] * (MAX_EDIT_TEXTS + 1))
    await refused(TextTooLong, r"composed\.edit\.negative_texts\[0\]", negative_texts=["x" * (MAX_TEXT_CHARS + 1)])
    await refused(ImageNotFound, "absent", image_id="absent", texts=["blue"])
