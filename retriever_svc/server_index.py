"""The driver for a Qdrant server or cluster, over gRPC. Several retrievers may share one."""

from __future__ import annotations

import math
import uuid
import warnings
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
from qdrant_client import AsyncQdrantClient, models
from qdrant_client import grpc as qdrant
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse

from retriever_svc.index import (
    IMAGE_VECTOR,
    LABELS_FIELD,
    SHA256_FIELD,
    CollectionInfo,
    Floats,
    Hit,
    ImagePoint,
    Layout,
    Page,
    SpaceSpec,
    Where,
    best_hits,
    collection_name,
    cosine,
    engine_floor,
    space_of_collection,
    with_fusion_tokens,
)
from retriever_svc.server_points import (
    from_server,
    ids_on_server,
    page_id,
    server_filter,
    sha256_filter,
    space_from,
    to_server,
    vectors_config,
    wanted_vectors,
)
from retriever_svc.settings import QdrantSettings
from sightline.errors import DeadlinePassed, DependencyUnavailable, QueueFull, Reindexing, SightlineError

_OVERSAMPLING = 2.0


class ServerIndex:
    """A VectorIndex on a Qdrant server. See `retriever_svc.index.VectorIndex`.

    Where it is written down: the alias `<name>` points to the current
    collection, the alias `<name>__next` to the one that is being filled, and a
    collection's name ends in its space. Searches name the collection and not
    the alias, so that a search and its vector belong to one space even while
    another process moves the alias.
    """

    def __init__(self, settings: QdrantSettings) -> None:
        self._settings = settings
        self._name = settings.collection
        self._client = _client(settings)
        self._specs: dict[str, SpaceSpec] = {}

    @property
    def driver(self) -> str:
        """ "server"."""
        return "server"

    async def open(self) -> None:
        """Ask the server for the layout; raises DependencyUnavailable if it does not answer."""
        await self.layout()

    async def close(self) -> None:
        """Close the channels."""
        await self._client.close()

    def collection(self, space_id: str) -> str:
        """The name of the collection of a space."""
        return collection_name(self._name, space_id=space_id)

    async def layout(self) -> Layout:
        """Which collections there are, as of now, other processes' changes included."""
        async with _errors():
            collections = (await self._client.get_collections()).collections
            aliases = {a.alias_name: a.collection_name for a in (await self._client.get_aliases()).aliases}
            found = [space_id for c in collections if (space_id := self._space_of(c.name)) is not None]
            spaces = {space_id: await self._spec(space_id) for space_id in found}
        current, following = (self._space_of(aliases.get(name, "")) for name in (self._name, self._next_alias))
        return Layout(current=current, next=following if following != current else None, spaces=spaces)

    async def create(self, space: SpaceSpec) -> None:
        """Create the collection of `space`; nothing happens if it is there."""
        name = self.collection(space.space_id)
        async with _errors():
            if not await self._client.collection_exists(name):
                await self._create(name, space)
            for field in (LABELS_FIELD, SHA256_FIELD):
                await self._client.create_payload_index(name, field, models.PayloadSchemaType.KEYWORD, wait=True)

    async def set_next(self, space_id: str | None) -> None:
        """Name the collection that is being filled, or none."""
        await self._move_aliases([self._next_alias], pointing={self._next_alias: space_id} if space_id else {})

    async def switch(self, space_id: str) -> None:
        """Make a collection current, and no longer next, in one call."""
        await self._move_aliases([self._name, self._next_alias], pointing={self._name: space_id})

    async def drop(self, space_id: str) -> None:
        """Delete a collection that is not current."""
        self._specs.pop(space_id, None)
        async with _errors():
            await self._client.delete_collection(self.collection(space_id))

    async def upsert(self, points: Sequence[ImagePoint], *, space_id: str, is_durable: bool = True) -> None:
        """Store points with their vectors (and tokens), replacing those of the same ids; they are durable."""
        if not points:
            return
        async with _errors():
            space = await self._spec(space_id)
            messages = [to_server(point, space=space) for point in points]
            request = qdrant.UpsertPoints(collection_name=self.collection(space_id), wait=True, points=messages)
            await self._client.grpc_points.Upsert(request, timeout=self._settings.timeout_s)

    async def sync(self, space_id: str) -> None:
        """Nothing to do: the server writes ahead."""

    async def delete(self, image_ids: Sequence[str], *, space_id: str) -> None:
        """Remove points; unknown ids are no error."""
        if not image_ids:
            return
        selector = models.PointIdsList(points=list(ids_on_server(image_ids)))
        async with _errors():
            await self._client.delete(self.collection(space_id), selector, wait=True)

    async def get(
        self, image_ids: Sequence[str], *, space_id: str, with_vector: bool = False, with_tokens: bool = False
    ) -> dict[str, ImagePoint]:
        """The stored ones among `image_ids`, by id."""
        if not image_ids:
            return {}
        async with _errors():
            space = await self._spec(space_id)
            records = await self._client.retrieve(
                self.collection(space_id),
                ids_on_server(image_ids),
                with_payload=True,
                with_vectors=wanted_vectors(space=space, with_vector=with_vector, with_tokens=with_tokens),
            )
        return {point.image_id: point for point in map(from_server, records)}

    async def page(
        self, *, space_id: str, limit: int, start: uuid.UUID | None = None, where: Where | None = None
    ) -> Page:
        """At most `limit` points from the point id `start` on, without vectors and tokens."""
        async with _errors():
            records, following = await self._client.scroll(
                self.collection(space_id),
                scroll_filter=server_filter(where),
                limit=limit,
                offset=str(start) if start is not None else None,
                with_payload=True,
                with_vectors=False,
            )
        return Page(points=tuple(map(from_server, records)), next_id=page_id(following))

    async def search(
        self,
        query_D: Floats,
        *,
        space_id: str,
        k: int,
        where: Where | None = None,
        min_score: float | None = None,
        with_tokens: bool = False,
    ) -> list[Hit]:
        """The `k` points nearest to the unit vector `query_D`, best first, ties in the order of their ids."""

        async def fetch(limit: int) -> list[Hit]:
            async with _errors():
                reply = await self._client.query_points(
                    self.collection(space_id),
                    query=query_D.tolist(),
                    using=IMAGE_VECTOR,
                    query_filter=server_filter(where),
                    search_params=self._search_params(),
                    score_threshold=engine_floor(min_score),
                    limit=limit,
                    with_payload=True,
                    with_vectors=False,
                )
            return [Hit(score=cosine(hit.score), point=from_server(hit)) for hit in reply.points]

        hits = await best_hits(k, min_score=min_score, fetch=fetch)
        return await with_fusion_tokens(hits, index=self, space_id=space_id) if with_tokens else hits

    async def count(self, *, space_id: str, sha256: str | None = None) -> int:
        """How many points there are, or how many of them hold the picture with this digest."""
        where = None if sha256 is None else sha256_filter(sha256)
        async with _errors():
            reply = await self._client.count(self.collection(space_id), count_filter=where, exact=True)
        return reply.count

    async def describe(self, *, space_id: str) -> CollectionInfo:
        """How much the collection holds and how much of it is indexed."""
        async with _errors():
            info = await self._client.get_collection(self.collection(space_id))
            space = await self._spec(space_id)
        num_points = await self.count(space_id=space_id)
        # Qdrant counts the token multivector as a vector of its own.
        per_point = 2 if space.token_width else 1
        return CollectionInfo(
            num_points=num_points, num_indexed=min(num_points, (info.indexed_vectors_count or 0) // per_point)
        )

    @property
    def _next_alias(self) -> str:
        return f"{self._name}__next"

    def _space_of(self, collection: str) -> str | None:
        return space_of_collection(collection, name=self._name)

    async def _spec(self, space_id: str) -> SpaceSpec:
        # A collection's shapes never change, so they are asked for once.
        if space_id not in self._specs:
            info = await self._client.get_collection(self.collection(space_id))
            self._specs[space_id] = space_from(info, space_id=space_id)
        return self._specs[space_id]

    async def _create(self, name: str, space: SpaceSpec) -> None:
        quantization = None
        if self._settings.quantization == "scalar":
            scalar = models.ScalarQuantizationConfig(type=models.ScalarType.INT8, quantile=0.99, always_ram=True)
            quantization = models.ScalarQuantization(scalar=scalar)
        vectors = vectors_config(space)
        vectors[IMAGE_VECTOR].quantization_config = quantization
        await self._client.create_collection(
            name,
            vectors_config=vectors,
            shard_number=self._settings.shards,
            replication_factor=self._settings.replication,
            on_disk_payload=True,
        )

    async def _move_aliases(self, names: Sequence[str], *, pointing: dict[str, str]) -> None:
        """Point aliases elsewhere in one call; of `names`, those that `pointing` does not hold are deleted."""
        async with _errors():
            existing = {alias.alias_name for alias in (await self._client.get_aliases()).aliases}
            actions: list[Any] = [
                models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=name))
                for name in names
                if name in existing
            ]
            actions += [
                models.CreateAliasOperation(
                    create_alias=models.CreateAlias(collection_name=self.collection(space_id), alias_name=name)
                )
                for name, space_id in pointing.items()
            ]
            if actions:
                await self._client.update_collection_aliases(actions)

    def _search_params(self) -> models.SearchParams | None:
        if self._settings.quantization == "none":
            return None
        rescored = models.QuantizationSearchParams(rescore=True, oversampling=_OVERSAMPLING)
        return models.SearchParams(quantization=rescored)


def _client(settings: QdrantSettings) -> AsyncQdrantClient:
    options: dict[str, Any] = {}
    if settings.ca_file is not None:
        options["root_certificates"] = settings.ca_file.read_bytes()
    with warnings.catch_warnings():
        # It warns of a key over plain http, which is how servers inside one cluster are often run.
        warnings.simplefilter("ignore", UserWarning)
        return AsyncQdrantClient(
            url=settings.url,
            grpc_port=settings.grpc_port,
            prefer_grpc=True,
            api_key=settings.api_key.reveal() if settings.api_key is not None else None,
            timeout=math.ceil(settings.timeout_s),
            grpc_options=options,
            # It would ask over REST, while everything else goes over gRPC.
            check_compatibility=False,
        )


@asynccontextmanager
async def _errors() -> AsyncIterator[None]:
    """Qdrant's failures as ours."""
    try:
        yield
    except ResourceExhaustedResponse as error:
        raise QueueFull("qdrant limits the rate", retry_after_s=float(error.retry_after_s), limit="qdrant") from error
    except grpc.aio.AioRpcError as error:
        raise _translated(error) from error


def _translated(error: grpc.aio.AioRpcError) -> SightlineError:
    code = error.code()
    if code == grpc.StatusCode.NOT_FOUND:
        # Another retriever has switched and dropped what this one still knew.
        return Reindexing("the collection is gone; the index has moved on")
    if code == grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlinePassed("qdrant did not answer in time")
    return DependencyUnavailable(f"qdrant: {code.name}: {(error.details() or '')[:200]}", service="qdrant")
