"""Composed searches: which reference, what it is encoded from, and how it is kept out of the hits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from retriever_svc.index import Condition, Floats, VectorIndex, Where
from retriever_svc.pictures import PictureStore, digest
from sightline.composition import Edit
from sightline.errors import CapabilityMissing, ImageNotFound

Reference = bytes | Floats | None
"""What an encoder can start from: an encoded picture, a unit vector [D], or nothing."""


@dataclass(frozen=True, kw_only=True)
class ComposedSearch:
    """A reference and what the wanted picture has in its place."""

    edit: Edit
    """What the wanted picture has and the reference has not."""
    picture: bytes = b""
    """The reference as encoded bytes; empty if it is stored, or if there is none."""
    image_id: str = ""
    """The id of the stored reference; empty if it was sent, or if there is none."""
    keep_reference: bool = False
    """Whether the reference may be found."""

    async def narrowed(self, where: Where | None) -> Where | None:
        """What a hit must satisfy: `where`, and not to be the reference."""
        if self.keep_reference:
            return where
        if self.image_id:
            itself = Condition(key="image_id", any_of=(self.image_id,))
            return replace(where or Where(), must_not=(*(where or Where()).must_not, itself))
        if self.picture:
            return replace(where or Where(), not_sha256=await asyncio.to_thread(digest, self.picture))
        return where


async def from_reference(
    search: ComposedSearch,
    encode: Callable[[Reference], Awaitable[Floats]],
    *,
    index: VectorIndex,
    pictures: PictureStore,
    space_id: str,
) -> Floats:
    """What `encode` makes of the search's reference; a stored one is read from the index, without its picture.

    Only where the composer has to see it are the stored bytes sent. Raises
    ImageNotFound for an unknown id, and what `encode` raises.
    """
    if not search.image_id:
        return await encode(search.picture or None)
    stored = (await index.get([search.image_id], space_id=space_id, with_vector=True)).get(search.image_id)
    if stored is None:
        raise ImageNotFound(f"composed.image_id: no picture has the id {search.image_id!r}", image_id=search.image_id)
    try:
        return await encode(stored.vector)
    except CapabilityMissing as error:
        if error.metadata.get("detail") != "pixels":
            raise
    return await encode(await pictures.get(stored.sha256))
