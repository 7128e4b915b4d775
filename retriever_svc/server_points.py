"""Points, filters and collections in the words of a Qdrant server.

What goes out in bulk is built as Qdrant's own gRPC messages straight from
arrays: its REST models would check every float of every token on the way.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from qdrant_client import grpc as qdrant
from qdrant_client import models
from qdrant_client.conversions.conversion import RestToGrpc

from retriever_svc.index import (
    IMAGE_VECTOR,
    LABELS_FIELD,
    SHA256_FIELD,
    TOKEN_VECTOR,
    Condition,
    ImagePoint,
    SpaceSpec,
    Where,
    label,
    payload_of,
    point_from,
    point_id,
)


def to_server(point: ImagePoint, *, space: SpaceSpec) -> qdrant.PointStruct:
    """A point with its vectors, as Qdrant stores it."""
    assert point.vector is not None
    vectors = {IMAGE_VECTOR: qdrant.Vector(dense=qdrant.DenseVector(data=point.vector))}
    if point.tokens is not None and space.token_width:
        rows = [qdrant.DenseVector(data=row) for row in point.tokens.astype(np.float32)]
        vectors[TOKEN_VECTOR] = qdrant.Vector(multi_dense=qdrant.MultiDenseVector(vectors=rows))
    return qdrant.PointStruct(
        id=qdrant.PointId(uuid=str(point_id(point.image_id))),
        vectors=qdrant.Vectors(vectors=qdrant.NamedVectors(vectors=vectors)),
        payload=RestToGrpc.convert_payload(payload_of(point)),
    )


def from_server(record: models.Record | models.ScoredPoint) -> ImagePoint:
    """The point that a record of Qdrant describes."""
    vectors: Mapping[str, Any] = record.vector if isinstance(record.vector, dict) else {}
    return point_from(record.payload or {}, vectors=vectors)


def ids_on_server(image_ids: Sequence[str]) -> list[str]:
    """The point ids of pictures."""
    return [str(point_id(name)) for name in image_ids]


def wanted_vectors(*, space: SpaceSpec, with_vector: bool, with_tokens: bool) -> list[str] | bool:
    """The names of the vectors to return, or False for none."""
    pairs = ((IMAGE_VECTOR, with_vector), (TOKEN_VECTOR, with_tokens and space.token_width > 0))
    return [name for name, is_wanted in pairs if is_wanted] or False


def server_filter(where: Where | None) -> models.Filter | None:
    """What a picture must satisfy, as Qdrant says it."""
    if where is None or where.accepts_all:
        return None
    copies = [_match(SHA256_FIELD, [where.not_sha256])] if where.not_sha256 else []
    return models.Filter(must=[_claim(c) for c in where.must], must_not=[*(_claim(c) for c in where.must_not), *copies])


def sha256_filter(sha256: str) -> models.Filter:
    """The points that hold the picture with this digest."""
    return models.Filter(must=[_match(SHA256_FIELD, [sha256])])


def vectors_config(space: SpaceSpec) -> dict[str, models.VectorParams]:
    """The indexed vector and the unindexed multivector of a collection."""
    # Dot of unit vectors is their cosine, and unlike Cosine it stores them untouched.
    vectors = {IMAGE_VECTOR: models.VectorParams(size=space.dimension, distance=models.Distance.DOT)}
    if space.token_width:
        vectors[TOKEN_VECTOR] = models.VectorParams(
            size=space.token_width,
            distance=models.Distance.DOT,
            datatype=models.Datatype.FLOAT16,
            on_disk=True,
            multivector_config=models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM),
            # No links: the tokens are read, never searched.
            hnsw_config=models.HnswConfigDiff(m=0),
        )
    return vectors


def space_from(info: models.CollectionInfo, *, space_id: str) -> SpaceSpec:
    """The spec of a collection that is there already."""
    vectors = info.config.params.vectors
    assert isinstance(vectors, dict)
    tokens = vectors.get(TOKEN_VECTOR)
    token_width = tokens.size if tokens is not None else 0
    return SpaceSpec(space_id=space_id, dimension=vectors[IMAGE_VECTOR].size, token_width=token_width)


def page_id(value: object) -> uuid.UUID | None:
    """The point id at which the next page begins."""
    return uuid.UUID(str(value)) if value is not None else None


def _claim(condition: Condition) -> models.FieldCondition | models.HasIdCondition:
    if condition.key == "image_id":
        return models.HasIdCondition(has_id=list(ids_on_server(condition.any_of)))
    return _match(LABELS_FIELD, [label(condition.key, value=value) for value in condition.any_of])


def _match(key: str, values: list[str]) -> models.FieldCondition:
    return models.FieldCondition(key=key, match=models.MatchAny(any=values))
