"""The SDK for programs without an event loop: the same calls, made on a loop in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from sightline.client.async_client import AsyncClient, HeavyField
from sightline.client.endpoints import Endpoints, Tls
from sightline.client.requests import ComposedQuery, ImageQuery, NewImage, ReplyOptions, SearchOptions, Turn
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
from sightline.limits import DEFAULT_PAGE_SIZE

ResultT = TypeVar("ResultT")


class Client:
    """Asks the services and waits for the answers. For concurrent use by threads.

    What each method does and raises, AsyncClient says.
    """

    def __init__(
        self,
        endpoints: Endpoints | str,
        *,
        token: str | None = None,
        timeout_s: float = 30.0,
        tls: Tls | None = None,
    ) -> None:
        self._client = AsyncClient(endpoints, token=token, timeout_s=timeout_s, tls=tls)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="sightline-client", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the channels and the loop. Closing twice does nothing more."""
        if self._loop.is_closed():
            return
        self._wait(self._client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def encode_texts(
        self, texts: Sequence[str], *, embedding_space_id: str = "", timeout_s: float | None = None
    ) -> EncodedTexts:
        """Unit vectors of any number of texts, in order, all of one embedding space."""
        return self._wait(self._client.encode_texts(texts, embedding_space_id=embedding_space_id, timeout_s=timeout_s))

    def encode_images(
        self,
        pictures: Sequence[bytes],
        *,
        with_tokens: bool = False,
        embedding_space_id: str = "",
        timeout_s: float | None = None,
    ) -> EncodedImages:
        """Unit vectors, and fusion tokens if asked for, of any number of encoded pictures."""
        return self._wait(
            self._client.encode_images(
                pictures, with_tokens=with_tokens, embedding_space_id=embedding_space_id, timeout_s=timeout_s
            )
        )

    def encode_composed(
        self, queries: Sequence[ComposedQuery], *, embedding_space_id: str = "", timeout_s: float | None = None
    ) -> EncodedComposedQueries:
        """Unit vectors of what edits make of references, any number of them."""
        return self._wait(
            self._client.encode_composed(queries, embedding_space_id=embedding_space_id, timeout_s=timeout_s)
        )

    def describe_encoder(self, *, timeout_s: float | None = None) -> EncoderDescription:
        """Which release the encoder serves and what it can do."""
        return self._wait(self._client.describe_encoder(timeout_s=timeout_s))

    def search_images(
        self, query: ImageQuery, *, k: int = 10, timeout_s: float | None = None, **options: Unpack[SearchOptions]
    ) -> FoundImages:
        """The at most `k` stored pictures nearest to a text, a picture's bytes, a vector, or a ComposedSearch."""
        return self._wait(self._client.search_images(query, k=k, timeout_s=timeout_s, **options))

    def upsert_images(self, images: Iterable[NewImage], *, timeout_s: float | None = None) -> UpsertedImages:
        """Store any number of pictures; one outcome per picture, in order."""
        return self._wait(self._client.upsert_images(images, timeout_s=timeout_s))

    def delete_images(self, image_ids: Sequence[str], *, timeout_s: float | None = None) -> DeletedImages:
        """Remove any number of pictures; an unknown id is no error."""
        return self._wait(self._client.delete_images(image_ids, timeout_s=timeout_s))

    def get_image(
        self, image_id: str, *, read: Sequence[HeavyField] = (), timeout_s: float | None = None
    ) -> StoredImage:
        """One stored picture, with the heavy fields that `read` names. Raises ImageNotFound."""
        return self._wait(self._client.get_image(image_id, read=read, timeout_s=timeout_s))

    def list_images(
        self,
        *,
        page_size: int = DEFAULT_PAGE_SIZE,
        page_token: str = "",
        must: Mapping[str, Sequence[str]] | None = None,
        must_not: Mapping[str, Sequence[str]] | None = None,
        timeout_s: float | None = None,
    ) -> ImagePage:
        """One page of the stored pictures, in a stable order."""
        return self._wait(
            self._client.list_images(
                page_size=page_size, page_token=page_token, must=must, must_not=must_not, timeout_s=timeout_s
            )
        )

    def describe_index(self, *, timeout_s: float | None = None) -> IndexDescription:
        """What the index holds and in which space it answers."""
        return self._wait(self._client.describe_index(timeout_s=timeout_s))

    def reply(
        self, dialogue: Sequence[Turn], *, timeout_s: float | None = None, **options: Unpack[ReplyOptions]
    ) -> Reply:
        """The whole answer to a dialogue, oldest turn first, the last one by the user."""
        return self._wait(self._client.reply(dialogue, timeout_s=timeout_s, **options))

    def stream_reply(
        self, dialogue: Sequence[Turn], *, timeout_s: float | None = None, **options: Unpack[ReplyOptions]
    ) -> Iterator[ReplyEvent]:
        """The answer as it is written: one ReplyHeader, any number of ReplyText, one ReplyFinish."""
        events = self._client.stream_reply(dialogue, timeout_s=timeout_s, **options)
        try:
            while (event := self._wait(_next(events))) is not None:
                yield event
        finally:
            if not self._loop.is_closed():
                self._wait(events.aclose())

    def describe_generator(self, *, timeout_s: float | None = None) -> GeneratorDescription:
        """Which release the generator serves and what it can do."""
        return self._wait(self._client.describe_generator(timeout_s=timeout_s))

    def _wait(self, work: Coroutine[Any, Any, ResultT]) -> ResultT:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


async def _next(events: AsyncIterator[ReplyEvent]) -> ReplyEvent | None:
    return await anext(events, None)
