"""What the retriever asks of the encoder.

Axes: D embedding width, P tokens of a picture, W token width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from retriever_svc.index import Floats, Halves, SpaceSpec
from sightline.composition import Edit
from sightline.errors import SightlineError
from sightline.rpc.context import CallContext


@dataclass(frozen=True, kw_only=True)
class EncodedPicture:
    """The outcome for one picture."""

    vector: Floats
    """Unit vector [D]."""
    tokens: Halves | None
    """Fusion tokens [P, W]; None if the encoder gives none or none were asked for."""


@dataclass(frozen=True, kw_only=True)
class EncodedBatch:
    """The outcomes for some pictures, in order, and the space that they are in."""

    space_id: str
    items: tuple[EncodedPicture | SightlineError, ...]


class Encoder(Protocol):
    """The encoder, seen from here. It raises EmbeddingSpaceMismatch if it does not hold the space asked for."""

    async def close(self) -> None:
        """Let go of the connection."""

    async def announced(self, *, call: CallContext) -> SpaceSpec:
        """The space of the release that the encoder serves now."""

    async def encode_text(self, text: str, *, space_id: str, call: CallContext) -> Floats:
        """The unit vector [D] of a text in the space `space_id`."""

    async def encode_composed(
        self, reference: bytes | Floats | None, *, edit: Edit, space_id: str, call: CallContext
    ) -> Floats:
        """The unit vector [D] of what an edit makes of an encoded picture, of a unit vector [D], or of nothing.

        Raises CapabilityMissing, detail "pixels", for a vector where the
        composer has to see the picture.
        """

    async def encode_pictures(
        self, pictures: Sequence[bytes], *, space_id: str, with_tokens: bool, call: CallContext
    ) -> EncodedBatch:
        """The vectors of any number of pictures; an empty `space_id` leaves the choice to the encoder."""
