"""The SDK for programs with an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Literal, Self, TypeVar, Unpack

from google.protobuf.field_mask_pb2 import FieldMask

from sightline.client import convert
from sightline.client.endpoints import Endpoints, Tls, channel_settings
from sightline.client.requests import (
    ComposedQuery,
    ImageQuery,
    NewImage,
    ReplyOptions,
    SearchOptions,
    Turn,
    batches,
    composed_query,
    filter_message,
    reply_fields,
    search_request,
)
from sightline.client.results import (
    DeletedImages,
    EncodedComposedQueries,
    EncodedImages,
    EncodedTexts,
    EncoderDescription,
    FoundImages,
    GeneratorDescription,
    ImagePage,
    IndexDescription,
    Reply,
    ReplyEvent,
    StoredImage,
    UpsertedImages,
)
from sightline.limits import (
    DEFAULT_PAGE_SIZE,
    MAX_COMPOSED_PER_CALL,
    MAX_DELETES_PER_CALL,
    MAX_PICTURES_PER_CALL,
    MAX_TEXTS_PER_CALL,
)
from sightline.rpc.channels import Remote
from sightline.rpc.context import CallContext, IncomingCall
from sightline.rpc.status import error_from_item
from sightline.v1 import common_pb2, encoder_pb2, generator_pb2, retriever_pb2
from sightline.v1.encoder_pb2_grpc import EncoderServiceStub
from sightline.v1.generator_pb2_grpc import GeneratorServiceStub
from sightline.v1.retriever_pb2_grpc import RetrieverServiceStub

HeavyField = Literal["picture", "vector", "tokens"]
BatchT = TypeVar("BatchT")
AnswerT = TypeVar(
    "AnswerT",
    encoder_pb2.EncodeTextsResponse,
    encoder_pb2.EncodeImagesResponse,
    encoder_pb2.EncodeComposedResponse,
)

_PARALLEL_BATCHES = 4


class AsyncClient:
    """Asks the encoder, the retriever and the generator. For concurrent use by the tasks of one event loop.

    Every method takes `timeout_s`, which bounds each call on the wire, retries
    included; a batch over the services' limits becomes several calls. It raises
    the SightlineError that the service raised; DependencyUnavailable means that
    nobody answered at the address.
    """

    def __init__(
        self,
        endpoints: Endpoints | str,
        *,
        token: str | None = None,
        timeout_s: float = 30.0,
        tls: Tls | None = None,
    ) -> None:
        self._endpoints = Endpoints.at(endpoints) if isinstance(endpoints, str) else endpoints
        self._token = token
        self._timeout_s = timeout_s
        self._tls = tls
        self._remotes: dict[str, Remote] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the channels; running calls are cancelled."""
        while self._remotes:
            await self._remotes.popitem()[1].close()

    async def encode_texts(
        self, texts: Sequence[str], *, embedding_space_id: str = "", timeout_s: float | None = None
    ) -> EncodedTexts:
        """Unit vectors of any number of texts, in order, all of one embedding space.

        A text that is refused carries its error; the others are encoded. If
        `embedding_space_id` is given, any other space is refused.
        """
        remote, call = self._remote("EncoderService"), _operation()
        stub = EncoderServiceStub(remote.channel)

        async def encode(part: Sequence[str], space: str) -> encoder_pb2.EncodeTextsResponse:
            request = encoder_pb2.EncodeTextsRequest(texts=part, embedding_space_id=space)
            return await remote.unary(stub.EncodeTexts, request, parent=call, timeout_s=timeout_s)

        parts = batches(texts, max_items=MAX_TEXTS_PER_CALL, size=len)
        replies = await _in_one_space(parts, encode, space=embedding_space_id)
        items = tuple(convert.encoded_text(item) for reply in replies for item in reply.items)
        return EncodedTexts(items=items, served=convert.served(replies[0].served))

    async def encode_images(
        self,
        pictures: Sequence[bytes],
        *,
        with_tokens: bool = False,
        embedding_space_id: str = "",
        timeout_s: float | None = None,
    ) -> EncodedImages:
        """Unit vectors, and fusion tokens if asked for, of any number of encoded pictures, as in `encode_texts`."""
        remote, call = self._remote("EncoderService"), _operation()
        stub = EncoderServiceStub(remote.channel)

        async def encode(part: Sequence[bytes], space: str) -> encoder_pb2.EncodeImagesResponse:
            messages = [common_pb2.Picture(data=data) for data in part]
            request = encoder_pb2.EncodeImagesRequest(
                pictures=messages, with_tokens=with_tokens, embedding_space_id=space
            )
            return await remote.unary(stub.EncodeImages, request, parent=call, timeout_s=timeout_s)

        parts = batches(pictures, max_items=MAX_PICTURES_PER_CALL, size=len)
        replies = await _in_one_space(parts, encode, space=embedding_space_id)
        items = tuple(convert.encoded_image(item) for reply in replies for item in reply.items)
        return EncodedImages(items=items, served=convert.served(replies[0].served))

    async def encode_composed(
        self, queries: Sequence[ComposedQuery], *, embedding_space_id: str = "", timeout_s: float | None = None
    ) -> EncodedComposedQueries:
        """Unit vectors of what edits make of references, any number of them, as in `encode_texts`.

        A vector as reference needs `embedding_space_id`, its space. Raises
        CapabilityMissing where a reference needs a composer that the release has
        not, and UsageError for two references in one query.
        """
        remote, call = self._remote("EncoderService"), _operation()
        stub = EncoderServiceStub(remote.channel)

        async def encode(part: Sequence[ComposedQuery], space: str) -> encoder_pb2.EncodeComposedResponse:
            messages = [composed_query(query) for query in part]
            request = encoder_pb2.EncodeComposedRequest(queries=messages, embedding_space_id=space)
            return await remote.unary(stub.EncodeComposed, request, parent=call, timeout_s=timeout_s)

        parts = batches(queries, max_items=MAX_COMPOSED_PER_CALL, size=_reference_bytes)
        replies = await _in_one_space(parts, encode, space=embedding_space_id)
        items = tuple(convert.encoded_composed(item) for reply in replies for item in reply.items)
        return EncodedComposedQueries(items=items, served=convert.served(replies[0].served))

    async def describe_encoder(self, *, timeout_s: float | None = None) -> EncoderDescription:
        """Which release the encoder serves and what it can do."""
        remote, call = self._remote("EncoderService"), _operation()
        stub = EncoderServiceStub(remote.channel)
        request = encoder_pb2.DescribeEncoderRequest()
        return convert.encoder_description(
            await remote.unary(stub.DescribeEncoder, request, parent=call, timeout_s=timeout_s)
        )

    async def search_images(
        self, query: ImageQuery, *, k: int = 10, timeout_s: float | None = None, **options: Unpack[SearchOptions]
    ) -> FoundImages:
        """The at most `k` (1 to 100) stored pictures nearest to a text, a picture, a vector or a ComposedSearch.

        Best first. A ComposedSearch raises CapabilityMissing where no composer
        answers, and ImageNotFound for a reference that is not stored.
        """
        remote, call = self._remote("RetrieverService"), _operation()
        stub = RetrieverServiceStub(remote.channel)
        request = search_request(query, k=k, options=options)
        return convert.found_images(await remote.unary(stub.SearchImages, request, parent=call, timeout_s=timeout_s))

    async def upsert_images(self, images: Iterable[NewImage], *, timeout_s: float | None = None) -> UpsertedImages:
        """Store any number of pictures; an id that is stored already is replaced. One outcome per picture, in order.

        Batches go one after the other, so that of two pictures with one id the
        later wins; a failure leaves the batches before it stored.
        """
        remote, call = self._remote("RetrieverService"), _operation()
        stub = RetrieverServiceStub(remote.channel)
        errors, reply = [], retriever_pb2.UpsertImagesResponse()
        for part in batches(images, max_items=MAX_PICTURES_PER_CALL, size=_picture_bytes):
            request = retriever_pb2.UpsertImagesRequest(images=[_record(image) for image in part])
            reply = await remote.unary(stub.UpsertImages, request, parent=call, timeout_s=timeout_s)
            errors += [error_from_item(status) for status in reply.items]
        return UpsertedImages(errors=tuple(errors), served=convert.served(reply.served))

    async def delete_images(self, image_ids: Sequence[str], *, timeout_s: float | None = None) -> DeletedImages:
        """Remove any number of pictures; an unknown id is no error."""
        remote, call = self._remote("RetrieverService"), _operation()
        stub = RetrieverServiceStub(remote.channel)
        num_deleted, reply = 0, retriever_pb2.DeleteImagesResponse()
        for part in batches(image_ids, max_items=MAX_DELETES_PER_CALL, size=len):
            request = retriever_pb2.DeleteImagesRequest(image_ids=part)
            reply = await remote.unary(stub.DeleteImages, request, parent=call, timeout_s=timeout_s)
            num_deleted += reply.num_deleted
        return DeletedImages(num_deleted=num_deleted, served=convert.served(reply.served))

    async def get_image(
        self, image_id: str, *, read: Sequence[HeavyField] = (), timeout_s: float | None = None
    ) -> StoredImage:
        """One stored picture, with the heavy fields that `read` names. Raises ImageNotFound."""
        remote, call = self._remote("RetrieverService"), _operation()
        stub = RetrieverServiceStub(remote.channel)
        mask = FieldMask(paths=read) if read else None
        request = retriever_pb2.GetImageRequest(image_id=image_id, read_mask=mask)
        return convert.stored_image(
            (await remote.unary(stub.GetImage, request, parent=call, timeout_s=timeout_s)).image
        )

    async def list_images(
        self,
        *,
        page_size: int = DEFAULT_PAGE_SIZE,
        page_token: str = "",
        must: Mapping[str, Sequence[str]] | None = None,
        must_not: Mapping[str, Sequence[str]] | None = None,
        timeout_s: float | None = None,
    ) -> ImagePage:
        """One page of the stored pictures, in a stable order; conditions as in `search_images`."""
        remote, call = self._remote("RetrieverService"), _operation()
        stub = RetrieverServiceStub(remote.channel)
        request = retriever_pb2.ListImagesRequest(
            page_size=page_size, page_token=page_token, filter=filter_message(must=must, must_not=must_not)
        )
        return convert.image_page(await remote.unary(stub.ListImages, request, parent=call, timeout_s=timeout_s))

    async def describe_index(self, *, timeout_s: float | None = None) -> IndexDescription:
        """What the index holds and in which space it answers."""
        remote, call = self._remote("RetrieverService"), _operation()
        stub = RetrieverServiceStub(remote.channel)
        request = retriever_pb2.DescribeIndexRequest()
        return convert.index_description(
            await remote.unary(stub.DescribeIndex, request, parent=call, timeout_s=timeout_s)
        )

    async def reply(
        self, dialogue: Sequence[Turn], *, timeout_s: float | None = None, **options: Unpack[ReplyOptions]
    ) -> Reply:
        """The whole answer to a dialogue, oldest turn first, the last one by the user."""
        remote, call = self._remote("GeneratorService"), _operation()
        stub = GeneratorServiceStub(remote.channel)
        request = generator_pb2.ReplyRequest(**reply_fields(dialogue, options=options))
        return convert.reply(await remote.unary(stub.Reply, request, parent=call, timeout_s=timeout_s))

    async def stream_reply(
        self, dialogue: Sequence[Turn], *, timeout_s: float | None = None, **options: Unpack[ReplyOptions]
    ) -> AsyncGenerator[ReplyEvent, None]:
        """The answer as it is written: one ReplyHeader, any number of ReplyText, one ReplyFinish.

        Closing the generator (`contextlib.aclosing`) before its end cancels the
        work. A stream is never tried again.
        """
        remote, call = self._remote("GeneratorService"), _operation()
        stub = GeneratorServiceStub(remote.channel)
        request = generator_pb2.StreamReplyRequest(**reply_fields(dialogue, options=options))
        frames = remote.stream(stub.StreamReply, request, parent=call, timeout_s=timeout_s)
        async with aclosing(frames):
            async for frame in frames:
                yield convert.reply_event(frame)

    async def describe_generator(self, *, timeout_s: float | None = None) -> GeneratorDescription:
        """Which release the generator serves and what it can do."""
        remote, call = self._remote("GeneratorService"), _operation()
        stub = GeneratorServiceStub(remote.channel)
        request = generator_pb2.DescribeGeneratorRequest()
        return convert.generator_description(
            await remote.unary(stub.DescribeGenerator, request, parent=call, timeout_s=timeout_s)
        )

    def _remote(self, service: str) -> Remote:
        # Opened when first called: inside the event loop, and only where an address is known.
        if service not in self._remotes:
            settings = channel_settings(
                service, endpoints=self._endpoints, token=self._token, timeout_s=self._timeout_s, tls=self._tls
            )
            self._remotes[service] = Remote(settings)
        return self._remotes[service]


def _operation() -> CallContext:
    # Every batch of one operation shares its request id and trace.
    return IncomingCall()


async def _in_one_space(
    parts: Iterable[BatchT], encode: Callable[[BatchT, str], Awaitable[AnswerT]], *, space: str
) -> list[AnswerT]:
    # The first reply fixes the space: a release that changes between two batches
    # must not mix its vectors with the ones before.
    first, *others = parts
    replies = [await encode(first, space)]
    if others:
        settled = space or replies[0].served.embedding_space_id
        slots = asyncio.Semaphore(_PARALLEL_BATCHES)

        async def within(part: BatchT) -> AnswerT:
            async with slots:
                return await encode(part, settled)

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(within(part)) for part in others]
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        replies += [task.result() for task in tasks]
    return replies


def _reference_bytes(query: ComposedQuery) -> int:
    return 0 if query.picture is None else len(query.picture)


def _picture_bytes(image: NewImage) -> int:
    return len(image.picture)


def _record(image: NewImage) -> retriever_pb2.ImageRecord:
    picture = common_pb2.Picture(data=image.picture)
    return retriever_pb2.ImageRecord(image_id=image.image_id, picture=picture, metadata=image.metadata)
