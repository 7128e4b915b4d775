"""What the retriever asks of an index, whichever engine is behind it.

An index holds one collection per embedding space. One of them is *current*:
it answers. One may be *next*: it is being filled. Every call names the space
that it means, so a vector can never meet the vectors of another space.

Axes: D embedding width, P tokens of a picture, W token width.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Halves = npt.NDArray[np.float16]

SPACE_ID = re.compile(r"[0-9a-f]{16}")
"""What every embedding_space_id looks like."""
IMAGE_VECTOR = "image"
"""Name of the indexed vector."""
TOKEN_VECTOR = "tokens"  # noqa: S105  (a picture's fusion tokens, no secret)
"""Name of the unindexed multivector."""
LABELS_FIELD = "labels"
"""Payload field that filters read: one keyword index serves every metadata key."""
SHA256_FIELD = "sha256"

MAX_TIES = 4096
"""Ties at the last place are put in exact order up to this many of them."""

_NAMESPACE = uuid.UUID("6a3f0d3e-7b1c-5f0a-9d52-2f4f6f1f9a11")


@dataclass(frozen=True, kw_only=True)
class SpaceSpec:
    """One embedding space and the shapes of what is stored in it."""

    space_id: str
    """The embedding_space_id, 16 hex digits."""
    dimension: int
    """D, the width of a vector."""
    token_width: int
    """W, the width of a fusion token; 0 if the encoder gives none."""


@dataclass(frozen=True, kw_only=True)
class ImagePoint:
    """One stored picture: a unit vector [D] and fusion tokens [P, W], both None where they were not asked for."""

    image_id: str
    metadata: Mapping[str, str]
    sha256: str
    """Hex digest of the encoded picture."""
    vector: Floats | None = None
    tokens: Halves | None = None


@dataclass(frozen=True, kw_only=True)
class Hit:
    """One picture that a search found."""

    score: float
    """Cosine similarity, -1 to 1."""
    point: ImagePoint


@dataclass(frozen=True, kw_only=True)
class Condition:
    """The picture's value of `key` is one of `any_of`; the key "image_id" means the picture's id."""

    key: str
    any_of: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Where:
    """What a picture must satisfy: every condition of `must`, none of `must_not`, another digest than `not_sha256`."""

    must: tuple[Condition, ...] = ()
    must_not: tuple[Condition, ...] = ()
    not_sha256: str = ""
    """Digest of a picture that is left out under whatever id; empty leaves none out."""

    @property
    def accepts_all(self) -> bool:
        """Whether every picture satisfies it."""
        return not (self.must or self.must_not or self.not_sha256)


@dataclass(frozen=True, kw_only=True)
class Page:
    """Some stored pictures in the order of their point ids, and where the next page begins."""

    points: tuple[ImagePoint, ...]
    next_id: uuid.UUID | None
    """The point id at which the next page begins; None on the last page."""


@dataclass(frozen=True, kw_only=True)
class CollectionInfo:
    """How much a collection holds."""

    num_points: int
    num_indexed: int
    """How many of them the approximate index covers; the others are searched exactly."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Which collections there are and what each is for."""

    current: str | None = None
    """Space of the collection that answers; None before the first picture."""
    next: str | None = None
    """Space of the collection that is being filled."""
    spaces: Mapping[str, SpaceSpec] = field(default_factory=dict)
    """Every collection by its space; those that are neither current nor next await their removal."""

    @property
    def serving(self) -> SpaceSpec | None:
        """The spec of the current space."""
        return self.spaces[self.current] if self.current is not None else None

    @property
    def retired(self) -> tuple[str, ...]:
        """The spaces whose collections are used no more."""
        return tuple(sorted(set(self.spaces) - {self.current, self.next}))


class VectorIndex(Protocol):
    """An index of pictures. Every method may be called concurrently; a write returns once it is durable."""

    @property
    def driver(self) -> str:
        """ "edge" or "server"."""

    async def open(self) -> None:
        """Make the index ready; raises UsageError or DependencyUnavailable if it cannot be."""

    async def close(self) -> None:
        """Finish what runs and let go of everything."""

    def collection(self, space_id: str) -> str:
        """The name of the collection of a space."""

    async def layout(self) -> Layout:
        """Which collections there are, as of now, other processes' changes included."""

    async def create(self, space: SpaceSpec) -> None:
        """Create the collection of `space`; nothing happens if it is there."""

    async def set_next(self, space_id: str | None) -> None:
        """Name the collection that is being filled, or none."""

    async def switch(self, space_id: str) -> None:
        """Make a collection current, and no longer next, in one step."""

    async def drop(self, space_id: str) -> None:
        """Delete a collection that is not current."""

    async def upsert(self, points: Sequence[ImagePoint], *, space_id: str, is_durable: bool = True) -> None:
        """Store points with their vectors (and tokens), replacing those of the same ids.

        Without `is_durable` they are found at once but may be lost in a power
        cut until `sync`.
        """

    async def sync(self, space_id: str) -> None:
        """Make every write to a collection durable."""

    async def delete(self, image_ids: Sequence[str], *, space_id: str) -> None:
        """Remove points; unknown ids are no error."""

    async def get(
        self, image_ids: Sequence[str], *, space_id: str, with_vector: bool = False, with_tokens: bool = False
    ) -> dict[str, ImagePoint]:
        """The stored ones among `image_ids`, by id."""

    async def page(
        self, *, space_id: str, limit: int, start: uuid.UUID | None = None, where: Where | None = None
    ) -> Page:
        """At most `limit` points from the point id `start` on, without vectors and tokens."""

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

    async def count(self, *, space_id: str, sha256: str | None = None) -> int:
        """How many points there are, or how many of them hold the picture with this digest."""

    async def describe(self, *, space_id: str) -> CollectionInfo:
        """How much the collection holds and how much of it is indexed."""


def point_id(image_id: str) -> uuid.UUID:
    """The id under which a picture is stored: the same for the same image_id in every space."""
    return uuid.uuid5(_NAMESPACE, image_id)


def label(key: str, *, value: str) -> str:
    """One metadata pair as one keyword. The key's length in front keeps `a=b` + `c` apart from `a` + `b=c`."""
    return f"{len(key)}:{key}={value}"


def payload_of(point: ImagePoint) -> dict[str, Any]:
    """What is stored beside a point's vectors."""
    return {
        "image_id": point.image_id,
        "metadata": dict(point.metadata),
        LABELS_FIELD: sorted(label(key, value=value) for key, value in point.metadata.items()),
        SHA256_FIELD: point.sha256,
    }


def point_from(payload: Mapping[str, Any], *, vectors: Mapping[str, Any] | None = None) -> ImagePoint:
    """The point that `payload` and, if they were asked for, `vectors` describe."""
    vectors = vectors or {}
    vector, tokens = vectors.get(IMAGE_VECTOR), vectors.get(TOKEN_VECTOR)
    return ImagePoint(
        image_id=payload["image_id"],
        metadata=payload["metadata"],
        sha256=payload[SHA256_FIELD],
        vector=None if vector is None else np.asarray(vector, dtype=np.float32),
        tokens=None if tokens is None else np.asarray(tokens, dtype=np.float16),
    )


async def best_hits(
    k: int, *, min_score: float | None, fetch: Callable[[int], Awaitable[list[Hit]]], max_ties: int = MAX_TIES
) -> list[Hit]:
    """The `k` best of what `fetch(limit)` gives, ties in the order of their ids even where they straddle place `k`.

    An engine breaks ties as it likes, so one hit more than `k` is fetched, and
    more again while the last one still ties with place `k`.
    """
    limit = k + 1
    hits = await fetch(limit)
    while len(hits) == limit and hits[-1].score == hits[k - 1].score and limit < max_ties:
        limit = min(4 * limit, max_ties)
        hits = await fetch(limit)
    floor = -1.0 if min_score is None else min_score
    kept = [hit for hit in hits if hit.score >= floor]
    return sorted(kept, key=lambda hit: (-hit.score, hit.point.image_id))[:k]


async def with_fusion_tokens(hits: Sequence[Hit], *, index: VectorIndex, space_id: str) -> list[Hit]:
    """`hits` with the fusion tokens of their points; one whose point was deleted since is left out."""
    points = await index.get([hit.point.image_id for hit in hits], space_id=space_id, with_tokens=True)
    return [replace(hit, point=points[hit.point.image_id]) for hit in hits if hit.point.image_id in points]


def collection_name(name: str, *, space_id: str) -> str:
    """The name of the collection of a space in the index `name`."""
    return f"{name}__{space_id}"


def space_of_collection(collection: str, *, name: str) -> str | None:
    """The space whose collection this is in the index `name`, or None if it is another's."""
    start, _, space_id = collection.rpartition("__")
    return space_id if start == name and SPACE_ID.fullmatch(space_id) else None


def engine_floor(min_score: float | None) -> float | None:
    """The floor to give to an engine that keeps only what is above it: just below `min_score`."""
    return None if min_score is None else float(np.nextafter(np.float32(min_score), np.float32(-2)))


def cosine(score: float) -> float:
    """A score of an engine brought into -1 to 1: rounding can lead a hair outside."""
    return min(1.0, max(-1.0, score))
