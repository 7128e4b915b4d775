"""RetrieverService as a caller sees it, on both hosts, over the edge driver and an encoder without a model."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import io
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from PIL import Image

from retriever_svc.building import build_servicer
from retriever_svc.servicer import RetrieverServicer
from retriever_svc.settings import RetrieverSettings
from sightline.errors import (
    DataCorrupt,
    DeadlinePassed,
    DependencyUnavailable,
    DimensionMismatch,
    EmbeddingSpaceMismatch,
    FieldMissing,
    FieldOutOfRange,
    FilterInvalid,
    ImageNotFound,
    IndexEmpty,
    PageTokenInvalid,
    PictureTooLarge,
    PictureTooManyPixels,
    PictureUnreadable,
    QueueFull,
    Reindexing,
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
from sightline.rpc.aio_host import AioHost, ServiceBinding
from sightline.rpc.channels import ChannelSettings, Remote
from sightline.rpc.context import CallContext
from sightline.rpc.host_settings import HostSettings
from sightline.rpc.status import error_from_rpc
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
from sightline.testing.folders import quick_folder
from sightline.v1 import common_pb2, encoder_pb2
from sightline.v1.common_pb2 import Picture, Tensor
from sightline.v1.encoder_pb2_grpc import EncoderServiceStub
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


def make_retriever(path: str, encoder_address: str, encoder_application: str, **changes: Any) -> RetrieverServicer:
    settings = RetrieverSettings(
        path=Path(path), encoder_address=encoder_address, encoder_application=encoder_application, **changes
    )
    return build_servicer(settings)


class HeldEncoder(FakeEncoder):
    """Does what a text tells: "hold" waits to be cancelled, "nap" a moment, "running" and "cancelled" wait until
    one of these is, and "move on" leaves the space behind."""

    async def start(self) -> None:
        self.running, self.cancelled = asyncio.Event(), asyncio.Event()

    async def EncodeTexts(self, request: Any, call: CallContext) -> Any:
        word = request.texts[0]
        if word in {"hold", "nap"}:
            self.running.set()
            await self._hold(0.3 if word == "nap" else 60)
        if word in {"running", "cancelled"}:
            await getattr(self, word).wait()
        if word == "move on":
            self.publish(SECOND_SPACE, keep=1)
        return await super().EncodeTexts(request, call)

    async def _hold(self, seconds: float) -> None:
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


@dataclass
class Caller:
    """A started retriever, seen from outside."""

    remote: Remote
    stub: Any
    application: str = ""
    folder: Path = Path()

    async def once(self, method: str, request: Any) -> Any:
        """One attempt, past the retries of our channel."""
        metadata = (("application", self.application),)
        try:
            return await getattr(self.stub, method)(request, timeout=20.0, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error) from error

    async def call(self, method: str, request: Any, **kwargs: Any) -> Any:
        return await self.remote.unary(getattr(self.stub, method), request, **kwargs)

    async def store(self, *records: ImageRecord) -> list[common_pb2.ItemStatus]:
        reply = await self.call("UpsertImages", UpsertImagesRequest(images=records))
        return list(reply.items)

    async def empty(self) -> None:
        listed = await self.call("ListImages", ListImagesRequest(page_size=MAX_PAGE_SIZE))
        if listed.images:
            ids = [image.image_id for image in listed.images]
            await self.call("DeleteImages", DeleteImagesRequest(image_ids=ids))

    async def search(self, *, timeout_s: float = 20.0, **fields: Any) -> Any:
        return await self.call("SearchImages", SearchImagesRequest(**({"k": 10} | fields)), timeout_s=timeout_s)

    async def ids(self, **fields: Any) -> list[str]:
        return [image.image_id for image in (await self.search(**fields)).images]

    async def refused(self, kind: type[SightlineError], method: str, request: Any) -> SightlineError:
        with pytest.raises(kind) as caught:
            await self.call(method, request)
        return caught.value


def caller_of(endpoint: Any, *, folder: str) -> Caller:
    return Caller(
        remote=endpoint.remote,
        stub=RetrieverServiceStub(endpoint.remote.channel),
        application=endpoint.settings.application,
        folder=Path(folder),
    )


@dataclass
class Held:
    """A retriever, and the words that its encoder obeys."""

    caller: Caller
    remote: Remote

    async def tell(self, word: str) -> None:
        stub = EncoderServiceStub(self.remote.channel)
        await self.remote.unary(stub.EncodeTexts, encoder_pb2.EncodeTextsRequest(texts=[word]), timeout_s=20.0)


@pytest.fixture
async def held(host: Any) -> AsyncIterator[Held]:
    """A retriever that takes one write at a time and never looks whether its encoder has moved on; it holds red."""
    encoder = await host.start("EncoderService", HeldEncoder)
    with quick_folder() as folder:
        address, application = encoder.settings.address, encoder.settings.application
        changes = {"max_pending_writes": 1, "poll_s": 3600.0}
        factory = functools.partial(make_retriever, str(folder), address, application, **changes)
        started = Held(
            caller=caller_of(await host.start("RetrieverService", factory), folder=str(folder)), remote=encoder.remote
        )
        assert [status.code for status in await started.caller.store(record("red"))] == [0]
        yield started
        await host.stop_all()


def record(
    image_id: str, colour: str | tuple[int, int, int] = "red", *, data: bytes | None = None, **metadata: str
) -> ImageRecord:
    picture = Picture(data=colour_picture(colour) if data is None else data)
    return ImageRecord(image_id=image_id, picture=picture, metadata=metadata)


@pytest.fixture(scope="module")
def kept_folder() -> Iterator[str]:
    """The folder of the one retriever that every test under Ray Serve uses: deploying one takes seconds."""
    with quick_folder() as folder:
        yield str(folder)


@pytest.fixture
async def caller(host: Any, kept_folder: str) -> AsyncIterator[Caller]:
    """A retriever without pictures."""
    encoder = await host.start("EncoderService", make_encoder, keep=True)
    settings = encoder.settings
    is_kept = host.kind == "serve"
    with quick_folder() as fresh_folder:
        folder = kept_folder if is_kept else str(fresh_folder)
        factory = functools.partial(make_retriever, folder, settings.address, settings.application)
        endpoint = await host.start("RetrieverService", factory, keep=is_kept)
        started = caller_of(endpoint, folder=folder)
        await started.empty()
        yield started
        await host.stop_all()


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


async def test_vector_of_the_right_space_finds_and_is_normalised(caller: Caller) -> None:
    await fill(caller)
    vector = tensor_to_proto(7.5 * colour_vector(COLOURS["green"], space_id=FIRST_SPACE))
    reply = await caller.search(vector=vector, embedding_space_id=FIRST_SPACE, k=1)
    assert reply.images[0].image_id == "green"
    assert reply.images[0].score == pytest.approx(1.0, abs=1e-5)


async def test_search_of_an_empty_index_says_so(caller: Caller) -> None:
    empty = SearchImagesRequest(text="red", k=1)
    await caller.refused(IndexEmpty, "SearchImages", empty)
    await fill(caller)
    await caller.call("DeleteImages", DeleteImagesRequest(image_ids=list(COLOURS)))
    await caller.refused(IndexEmpty, "SearchImages", empty)


async def test_search_limits(caller: Caller) -> None:
    await fill(caller)
    vector = colour_vector(COLOURS["red"], space_id=FIRST_SPACE)

    async def refused(kind: type[SightlineError], **fields: Any) -> None:
        await caller.refused(kind, "SearchImages", SearchImagesRequest(**({"k": 1, "text": "red"} | fields)))

    def by(tensor: Tensor) -> dict[str, Any]:
        return {"text": None, "vector": tensor, "embedding_space_id": FIRST_SPACE}

    await refused(FieldMissing, text=None)
    await refused(FieldMissing, text="")
    await refused(TextTooLong, text="x" * (MAX_TEXT_CHARS + 1))
    await refused(FieldOutOfRange, k=0)
    await refused(FieldOutOfRange, k=MAX_SEARCH_K + 1)
    await refused(FieldOutOfRange, min_score=1.01)
    await refused(FieldOutOfRange, min_score=-1.01)
    await refused(FieldOutOfRange, min_score=float("nan"))
    await refused(EmbeddingSpaceMismatch, embedding_space_id=SECOND_SPACE)
    await refused(FieldMissing, text=None, picture=Picture())
    await refused(PictureTooLarge, text=None, picture=Picture(data=b"x" * (MAX_PICTURE_BYTES + 1)))
    await refused(PictureUnreadable, text=None, picture=Picture(data=b"no picture"))
    await refused(FieldMissing, **by(tensor_to_proto(vector)) | {"embedding_space_id": ""})
    await refused(EmbeddingSpaceMismatch, **by(tensor_to_proto(vector)) | {"embedding_space_id": SECOND_SPACE})
    await refused(DimensionMismatch, **by(tensor_to_proto(vector[:-1])))
    await refused(TensorMalformed, **by(tensor_to_proto(np.zeros(DIMENSION, dtype=np.float32))))
    await refused(TensorMalformed, **by(tensor_to_proto(np.full(DIMENSION, np.nan, dtype=np.float32))))
    await refused(TensorMalformed, **by(tensor_to_proto(vector[None])))
    await refused(TensorMalformed, **by(Tensor(data=b"123", dtype=common_pb2.DTYPE_FLOAT32, shape=[DIMENSION])))
    await refused(TensorMalformed, **by(Tensor(data=vector.tobytes(), shape=[DIMENSION])))
    assert len(await caller.ids(text="x" * MAX_TEXT_CHARS, k=MAX_SEARCH_K)) == len(COLOURS)
    assert len(await caller.ids(text="red", k=1, min_score=1.0 - 1e-5, embedding_space_id=FIRST_SPACE)) == 1
    assert await caller.ids(text="red", min_score=-1.0) != []


async def test_filters_narrow_a_search_and_their_limits_hold(caller: Caller) -> None:
    await fill(caller)

    def one(count: int) -> Condition:
        return Condition(key="name", any_of=["red", *[f"v{n}" for n in range(count - 1)]])

    assert await caller.ids(text="blue", filter=Filter(must=[one(MAX_CONDITION_VALUES)] * MAX_CONDITIONS)) == ["red"]
    not_blue = Filter(must_not=[Condition(key="image_id", any_of=["blue"])])
    assert "blue" not in await caller.ids(text="blue", filter=not_blue)
    bad = [
        Filter(must=[one(1)] * (MAX_CONDITIONS + 1)),
        Filter(must_not=[one(1)] * (MAX_CONDITIONS + 1)),
        Filter(must=[one(MAX_CONDITION_VALUES + 1)]),
        Filter(must=[Condition(key="name")]),
        Filter(must=[Condition(any_of=["red"])]),
        Filter(must=[Condition(key="name", any_of=["x" * (MAX_METADATA_CHARS + 1)])]),
    ]
    for wrong in bad:
        await caller.refused(FilterInvalid, "SearchImages", SearchImagesRequest(text="red", k=1, filter=wrong))
        await caller.refused(FilterInvalid, "ListImages", ListImagesRequest(filter=wrong))


async def test_one_bad_picture_fails_alone_and_each_says_why(caller: Caller) -> None:
    long_id, pairs = "i" * MAX_IMAGE_ID_CHARS, {f"k{n}": "v" for n in range(MAX_METADATA_PAIRS)}
    statuses = await caller.store(
        record("good"),
        record("broken", data=b"\x89PNG\r\n\x1a\n then nothing"),
        record("empty", data=b""),
        record("huge", data=b"x" * (MAX_PICTURE_BYTES + 1)),
        record(""),
        record(long_id, **pairs),
        record(long_id + "i"),
        record("too many", **pairs, more="v"),
        record("long", key="v" * (MAX_METADATA_CHARS + 1)),
    )
    reasons = [status.reason for status in statuses]
    assert reasons == [
        "",
        "PICTURE_UNREADABLE",
        "FIELD_MISSING",
        "PICTURE_TOO_LARGE",
        "FIELD_MISSING",
        "",
        "FIELD_OUT_OF_RANGE",
        "FIELD_OUT_OF_RANGE",
        "FIELD_OUT_OF_RANGE",
    ]
    assert [status.code for status in statuses] == [3 if reason else 0 for reason in reasons]
    assert all(bool(status.message) == bool(status.reason) for status in statuses)
    assert sorted(await caller.ids(text="red")) == ["good", long_id]


async def test_only_bad_pictures_found_no_index(caller: Caller, host: Any) -> None:
    (status,) = await caller.store(record("broken", data=b"no picture"))
    assert status.reason == "PICTURE_UNREADABLE"
    described = await caller.call("DescribeIndex", DescribeIndexRequest())
    assert described.num_images == 0
    if host.kind == "aio":  # under Serve other tests have founded the index
        assert (described.dimension, described.served.embedding_space_id) == (0, "")


async def test_calls_with_too_many_or_no_items_are_refused_whole(caller: Caller) -> None:
    full = [record(f"p{n}", (n, n, n)) for n in range(MAX_PICTURES_PER_CALL)]
    await caller.refused(TooManyItems, "UpsertImages", UpsertImagesRequest(images=[*full, record("more")]))
    await caller.refused(FieldMissing, "UpsertImages", UpsertImagesRequest())
    assert {status.code for status in await caller.store(*full)} == {0}
    ids = [f"p{n}" for n in range(MAX_DELETES_PER_CALL)]
    await caller.refused(TooManyItems, "DeleteImages", DeleteImagesRequest(image_ids=[*ids, "more"]))
    await caller.refused(FieldMissing, "DeleteImages", DeleteImagesRequest())
    await caller.refused(FieldMissing, "DeleteImages", DeleteImagesRequest(image_ids=["p1", ""]))
    deleted = await caller.call("DeleteImages", DeleteImagesRequest(image_ids=ids))
    assert deleted.num_deleted == MAX_PICTURES_PER_CALL


async def test_the_later_of_two_with_one_id_is_kept_and_repeating_changes_nothing(caller: Caller) -> None:
    twice = [record("same", "red", turn="1"), record("same", "blue", turn="2")]
    for _ in range(2):
        assert [status.code for status in await caller.store(*twice)] == [0, 0]
        assert await caller.ids(text="blue", min_score=0.99) == ["same"]
        assert await caller.ids(text="red", min_score=0.99) == []
    bad_last = await caller.store(record("same", "green"), record("same", data=b"no picture"))
    assert [status.reason for status in bad_last] == ["", "PICTURE_UNREADABLE"]
    assert await caller.ids(text="green", min_score=0.99) == ["same"]


async def test_a_stored_picture_comes_back_with_what_the_mask_names(caller: Caller) -> None:
    await fill(caller)

    async def get(*paths: str) -> Any:
        return (await caller.call("GetImage", GetImageRequest(image_id="red", read_mask=FieldMask(paths=paths)))).image

    plain = await get()
    assert (plain.image_id, dict(plain.metadata)) == ("red", {"kind": "plain", "name": "red"})
    assert not any(plain.HasField(name) for name in ("picture", "vector", "tokens"))
    whole = await get("picture", "vector", "tokens")
    assert whole.picture.data == colour_picture("red")
    expected = colour_vector(COLOURS["red"], space_id=FIRST_SPACE)
    np.testing.assert_array_equal(tensor_from_proto(whole.vector, name="vector"), expected)
    assert tuple(whole.tokens.shape) == (NUM_TOKENS, TOKEN_WIDTH)
    only = await get("tokens")
    assert only.HasField("tokens")
    assert not only.HasField("vector")


async def test_get_limits(caller: Caller) -> None:
    wrong_mask = GetImageRequest(image_id="red", read_mask=FieldMask(paths=["metadata"]))
    await caller.refused(FieldOutOfRange, "GetImage", wrong_mask)
    await caller.refused(FieldMissing, "GetImage", GetImageRequest())
    error = await caller.refused(ImageNotFound, "GetImage", GetImageRequest(image_id="red"))
    assert error.metadata["image_id"] == "red"
    await fill(caller)
    await caller.refused(ImageNotFound, "GetImage", GetImageRequest(image_id="absent"))


async def test_pages_hold_every_picture_once(caller: Caller) -> None:
    assert list((await caller.call("ListImages", ListImagesRequest())).images) == []
    await fill(caller)
    seen: list[str] = []
    token = ""
    while True:
        page = await caller.call("ListImages", ListImagesRequest(page_size=2, page_token=token))
        seen += [image.image_id for image in page.images]
        token = page.next_page_token
        if not token:
            break
    assert sorted(seen) == sorted(COLOURS)
    whole = await caller.call("ListImages", ListImagesRequest(page_size=MAX_PAGE_SIZE))
    assert [image.image_id for image in whole.images] == seen
    await caller.refused(FieldOutOfRange, "ListImages", ListImagesRequest(page_size=MAX_PAGE_SIZE + 1))


async def test_a_page_token_holds_only_for_the_list_that_it_was_made_for(caller: Caller) -> None:
    await fill(caller)
    kind = Filter(must=[Condition(key="kind", any_of=["plain"])])
    token = (await caller.call("ListImages", ListImagesRequest(page_size=2))).next_page_token
    await caller.call("ListImages", ListImagesRequest(page_size=2, page_token=token))
    for wrong in ("x", "é", "AAAA", token[:-2] + "AA", token + "AAAA"):
        await caller.refused(PageTokenInvalid, "ListImages", ListImagesRequest(page_token=wrong))
    await caller.refused(PageTokenInvalid, "ListImages", ListImagesRequest(page_token=token, filter=kind))


async def test_describe_says_what_the_index_holds(caller: Caller) -> None:
    await fill(caller)
    described = await caller.call("DescribeIndex", DescribeIndexRequest())
    assert (described.num_images, described.dimension, described.driver) == (len(COLOURS), DIMENSION, "edge")
    assert described.collection == f"images__{FIRST_SPACE}"
    assert described.served.embedding_space_id == FIRST_SPACE
    assert described.rollout.target_space_id == ""


async def test_the_request_id_is_echoed(caller: Caller) -> None:
    reply = await caller.call("DescribeIndex", DescribeIndexRequest(), request_id="my-request-1")
    assert reply.served.request_id == "my-request-1"


async def test_what_is_at_a_limit_is_stored_and_found(caller: Caller) -> None:
    longest = "m" * MAX_METADATA_CHARS
    padded = colour_picture("red").ljust(MAX_PICTURE_BYTES, b"\0")
    (status,) = await caller.store(record("full", data=padded, **{longest: longest}))
    assert status.code == 0
    here = Condition(key=longest, any_of=[longest])
    elsewhere = Condition(key="image_id", any_of=["other"])
    where = Filter(must=[here], must_not=[elsewhere] * MAX_CONDITIONS)
    assert await caller.ids(text="red", filter=where) == ["full"]
    assert await caller.ids(picture=Picture(data=padded), min_score=-1.0) == ["full"]
    await caller.refused(ImageNotFound, "GetImage", GetImageRequest(image_id="i" * MAX_IMAGE_ID_CHARS))
    too_long = "i" * (MAX_IMAGE_ID_CHARS + 1)
    await caller.refused(FieldOutOfRange, "GetImage", GetImageRequest(image_id=too_long))
    await caller.refused(FieldOutOfRange, "DeleteImages", DeleteImagesRequest(image_ids=[too_long]))


async def test_a_picture_of_too_many_pixels_is_refused_with_what_it_has_and_may_have(caller: Caller) -> None:
    buffer = io.BytesIO()
    Image.new("1", (20_001, 2_000)).save(buffer, "PNG")
    promised = {"value": "40002000", "limit": "40000000"}
    await fill(caller)
    (status,) = await caller.store(record("huge", data=buffer.getvalue()))
    assert (status.reason, dict(status.metadata)) == ("PICTURE_TOO_MANY_PIXELS", promised)
    by_example = SearchImagesRequest(picture=Picture(data=buffer.getvalue()), k=1)
    assert (await caller.refused(PictureTooManyPixels, "SearchImages", by_example)).metadata == promised


async def test_a_stored_picture_that_was_altered_is_not_returned(caller: Caller) -> None:
    await fill(caller)
    sha256 = hashlib.sha256(colour_picture("red")).hexdigest()
    (caller.folder / "pictures" / sha256[:2] / sha256).write_bytes(b"altered")
    request = GetImageRequest(image_id="red", read_mask=FieldMask(paths=["picture"]))
    error = await caller.refused(DataCorrupt, "GetImage", request)
    assert error.metadata == {"detail": sha256}


async def test_a_passed_deadline_ends_a_search_and_nothing_else(held: Held) -> None:
    with pytest.raises(DeadlinePassed):
        await held.caller.search(text="hold", timeout_s=0.3)
    assert await held.caller.ids(text="red") == ["red"]


async def test_a_cancelled_search_cancels_the_encoding(held: Held) -> None:
    searching = asyncio.create_task(held.caller.search(text="hold"))
    await held.tell("running")
    searching.cancel()
    await held.tell("cancelled")


async def test_one_write_too_many_is_told_when_to_come_back(held: Held) -> None:
    writes = [
        asyncio.create_task(held.caller.once("UpsertImages", UpsertImagesRequest(images=[record(f"p{n}", (n, n, n))])))
        for n in range(8)
    ]
    outcomes = await asyncio.gather(*writes, return_exceptions=True)
    refused = [one for one in outcomes if isinstance(one, BaseException)]
    assert 0 < len(refused) < 8
    for error in refused:
        assert isinstance(error, QueueFull)
        assert (error.metadata, error.retry_after_s) == ({"limit": "1"}, 1.0)


async def test_writes_wait_and_searches_name_the_encoder_once_it_left_the_space(held: Held) -> None:
    await held.tell("move on")
    with pytest.raises(Reindexing):
        await held.caller.once("UpsertImages", UpsertImagesRequest(images=[record("blue", "blue")]))
    vector = tensor_to_proto(colour_vector(COLOURS["red"], space_id=FIRST_SPACE))
    assert await held.caller.ids(vector=vector, embedding_space_id=FIRST_SPACE) == ["red"]
    with pytest.raises(DependencyUnavailable, match="no encoder holds space"):
        await held.caller.once("SearchImages", SearchImagesRequest(text="red", k=1))


async def test_a_running_search_finishes_while_the_service_drains(held: Held, host: Any) -> None:
    searching = asyncio.create_task(held.caller.search(text="nap"))
    await held.tell("running")
    await host.stop_all()
    assert [image.image_id for image in (await searching).images] == ["red"]


async def test_an_encoder_that_is_gone_is_named(host: Any) -> None:
    with quick_folder() as folder:
        factory = functools.partial(make_retriever, str(folder), "127.0.0.1:1", "encoder")
        endpoint = await host.start("RetrieverService", factory)
        caller = caller_of(endpoint, folder=str(folder))
        request = UpsertImagesRequest(images=[record("red")])
        with pytest.raises(DependencyUnavailable) as caught:
            await caller.call("UpsertImages", request, timeout_s=10.0)
        assert caught.value.metadata.get("service") == "encoder"
        await host.stop_all()


async def test_a_new_space_of_the_encoder_takes_over_without_a_failed_or_mixed_answer() -> None:
    """Both services over gRPC, the encoder publishing a second release while searches run."""
    encoder, quick = FakeEncoder(), HostSettings(grace_s=0.5)
    encoding = AioHost([ServiceBinding(service="EncoderService", servicer=encoder)], quick)
    await encoding.start()
    with quick_folder() as folder:
        settings = RetrieverSettings(path=folder, encoder_address=encoding.address, poll_s=0.01)
        finding = AioHost([ServiceBinding(service="RetrieverService", servicer=build_servicer(settings))], quick)
        await finding.start()
        remote = Remote(ChannelSettings(address=finding.address))
        caller = Caller(remote=remote, stub=RetrieverServiceStub(remote.channel))
        await fill(caller)
        spaces: list[str] = []
        while SECOND_SPACE not in spaces[-20:]:
            if len(spaces) == 20:
                encoder.publish(SECOND_SPACE)
            colour = list(COLOURS)[len(spaces) % len(COLOURS)]
            reply = await caller.search(text=colour, k=1, with_tokens=True)
            space_id = reply.served.embedding_space_id
            assert (reply.images[0].image_id, reply.images[0].score) == (colour, pytest.approx(1.0, abs=1e-5))
            tokens = tensor_from_proto(reply.images[0].tokens, name="tokens")
            np.testing.assert_array_equal(tokens, colour_tokens(COLOURS[colour], space_id=space_id))
            spaces.append(space_id)
        assert set(spaces[:20]) == {FIRST_SPACE}
        described = await caller.call("DescribeIndex", DescribeIndexRequest())
        assert (described.num_images, described.collection) == (len(COLOURS), f"images__{SECOND_SPACE}")
        await remote.close()
        await finding.drain_and_stop()
    await encoding.drain_and_stop()
