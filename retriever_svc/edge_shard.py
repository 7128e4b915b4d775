"""One collection of the edge driver: a qdrant-edge shard in a folder, in the words of the retriever.

Every call holds the interpreter lock and a shard is not to be used by two
threads at once, so `EdgeIndex` calls all of this from one thread of its own.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import qdrant_edge as qdrant

from retriever_svc.index import (
    IMAGE_VECTOR,
    LABELS_FIELD,
    SHA256_FIELD,
    TOKEN_VECTOR,
    CollectionInfo,
    Condition,
    Floats,
    Hit,
    ImagePoint,
    Page,
    SpaceSpec,
    Where,
    cosine,
    engine_floor,
    label,
    payload_of,
    point_from,
    point_id,
)
from sightline.errors import DataCorrupt

_LINKS = 16
_BUILD_CANDIDATES = 100
_FULL_SCAN_KB = 10_000


class EdgeShard:
    """A shard that is open. For one thread."""

    def __init__(self, shard: qdrant.EdgeShard, *, space: SpaceSpec) -> None:
        self._shard = shard
        self._space = space

    @classmethod
    def create(cls, folder: Path, *, space: SpaceSpec) -> EdgeShard:
        """A new, empty shard in `folder`, which may not exist yet."""
        folder.mkdir(parents=True, exist_ok=True)
        shard = qdrant.EdgeShard.create(str(folder), _config(space))
        for name in (LABELS_FIELD, SHA256_FIELD):
            shard.update(qdrant.UpdateOperation.create_field_index(name, qdrant.PayloadSchemaType.Keyword))
        shard.flush()
        return cls(shard, space=space)

    @classmethod
    def load(cls, folder: Path, *, space: SpaceSpec) -> EdgeShard:
        """The shard in `folder`. Raises DataCorrupt if it cannot be read."""
        try:
            return cls(qdrant.EdgeShard.load(str(folder)), space=space)
        except Exception as error:  # the engine raises nothing narrower
            raise DataCorrupt(f"index folder {folder}: {error}", detail=folder.name) from error

    def upsert(self, points: Sequence[ImagePoint], *, is_durable: bool = True) -> None:
        """Store points; without `is_durable` they are in the operating system's hands until `flush`."""
        if points:
            self._shard.update(qdrant.UpdateOperation.upsert_points([self._to_engine(point) for point in points]))
            if is_durable:
                self._shard.flush()

    def delete(self, image_ids: Sequence[str]) -> None:
        """Remove points and flush; returns once they are gone for good."""
        if image_ids:
            self._shard.update(qdrant.UpdateOperation.delete_points([point_id(name) for name in image_ids]))
            self._shard.flush()

    def get(self, image_ids: Sequence[str], *, with_vector: bool, with_tokens: bool) -> dict[str, ImagePoint]:
        """The stored ones among `image_ids`, by id."""
        wanted: list[qdrant.PointId] = [point_id(name) for name in image_ids]
        vectors = [name for name, is_wanted in self._vectors(with_vector, with_tokens) if is_wanted]
        records = self._shard.retrieve(wanted, with_payload=True, with_vector=vectors or False) if wanted else []
        points = [point_from(record.payload or {}, vectors=record.vector) for record in records]  # type: ignore[arg-type]
        return {point.image_id: point for point in points}

    def page(self, *, limit: int, start: uuid.UUID | None, where: Where | None) -> Page:
        """At most `limit` points from the point id `start` on."""
        records, next_id = self._shard.scroll(
            qdrant.ScrollRequest(offset=start, limit=limit, filter=_filter(where), with_payload=True, with_vector=False)
        )
        points = tuple(point_from(record.payload or {}) for record in records)
        return Page(points=points, next_id=next_id if isinstance(next_id, uuid.UUID) else None)

    def search(self, query_D: Floats, *, limit: int, where: Where | None, min_score: float | None) -> list[Hit]:
        """The `limit` nearest points, best first, without vectors and tokens."""
        found = self._shard.query(
            qdrant.QueryRequest(
                limit=limit,
                query=qdrant.Query.Nearest(query_D, using=IMAGE_VECTOR),  # type: ignore[arg-type]  # arrays pass as they are
                filter=_filter(where),
                score_threshold=engine_floor(min_score),
                with_payload=True,
                with_vector=False,
            )
        )
        return [Hit(score=cosine(hit.score), point=point_from(hit.payload or {})) for hit in found]

    def count(self, *, sha256: str | None) -> int:
        """How many points there are, or how many of them hold the picture with this digest."""
        where = None if sha256 is None else qdrant.Filter(must=[_match(SHA256_FIELD, [sha256])])
        return self._shard.count(qdrant.CountRequest(exact=True, filter=where))

    def describe(self) -> CollectionInfo:
        """How much the shard holds and how much of it is indexed."""
        info = self._shard.info()
        # The engine counts the token multivector as a vector of its own.
        per_point = 2 if self._space.token_width else 1
        num_indexed = min(info.points_count, info.indexed_vectors_count // per_point)
        return CollectionInfo(num_points=info.points_count, num_indexed=num_indexed)

    def optimize(self) -> None:
        """Build what is not indexed yet. Holds the interpreter lock for as long as it takes."""
        self._shard.optimize()
        self._shard.flush()

    def flush(self) -> None:
        """Bring everything to disk."""
        self._shard.flush()

    def close(self) -> None:
        """Flush and let go of the folder."""
        self._shard.close()

    def _to_engine(self, point: ImagePoint) -> qdrant.Point:
        vectors: dict[str, Any] = {IMAGE_VECTOR: point.vector}
        if point.tokens is not None and self._space.token_width:
            vectors[TOKEN_VECTOR] = point.tokens.astype(np.float32)
        return qdrant.Point(id=point_id(point.image_id), vector=vectors, payload=payload_of(point))

    def _vectors(self, with_vector: bool, with_tokens: bool) -> tuple[tuple[str, bool], ...]:
        return ((IMAGE_VECTOR, with_vector), (TOKEN_VECTOR, with_tokens and self._space.token_width > 0))


def _config(space: SpaceSpec) -> qdrant.EdgeConfig:
    # Dot of unit vectors is their cosine, and unlike Cosine it stores them untouched.
    vectors = {
        IMAGE_VECTOR: qdrant.EdgeVectorParams(
            size=space.dimension,
            distance=qdrant.Distance.Dot,
            hnsw_config=qdrant.HnswIndexConfig(
                m=_LINKS, ef_construct=_BUILD_CANDIDATES, full_scan_threshold=_FULL_SCAN_KB
            ),
        )
    }
    if space.token_width:
        vectors[TOKEN_VECTOR] = qdrant.EdgeVectorParams(
            size=space.token_width,
            distance=qdrant.Distance.Dot,
            datatype=qdrant.VectorStorageDatatype.Float16,
            memory=qdrant.Memory.Cold,
            multivector_config=qdrant.MultiVectorConfig(qdrant.MultiVectorComparator.MaxSim),
            # No links: the tokens are read, never searched.
            hnsw_config=qdrant.HnswIndexConfig(m=0, ef_construct=4, full_scan_threshold=_FULL_SCAN_KB),
        )
    return qdrant.EdgeConfig(vectors=vectors)


def _filter(where: Where | None) -> qdrant.Filter | None:
    if where is None or where.accepts_all:
        return None
    copies = [_match(SHA256_FIELD, [where.not_sha256])] if where.not_sha256 else []
    return qdrant.Filter(must=[_claim(c) for c in where.must], must_not=[*(_claim(c) for c in where.must_not), *copies])


def _claim(condition: Condition) -> qdrant.FieldCondition | qdrant.HasIdCondition:
    if condition.key == "image_id":
        return qdrant.HasIdCondition({point_id(value) for value in condition.any_of})
    return _match(LABELS_FIELD, [label(condition.key, value=value) for value in condition.any_of])


def _match(key: str, values: list[str]) -> qdrant.FieldCondition:
    return qdrant.FieldCondition(key, match=qdrant.MatchAny(values))
