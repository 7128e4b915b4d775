"""What the services answer, as plain frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from sightline.errors import SightlineError

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Served:
    """What answered a call."""

    release_id: str
    """The release's digest, or "" for the retriever."""
    generation: int
    """The release channel's generation; zero for the retriever."""
    embedding_space_id: str
    """The vector space of the answer; "" while the index is empty."""
    request_id: str
    """The id under which the services log this call."""
    timings_us: Mapping[str, int] = field(default_factory=dict)
    """Microseconds by stage, in the order of the stages, "total" last."""


@dataclass(frozen=True, kw_only=True, eq=False)
class EncodedText:
    """The outcome for one text."""

    error: SightlineError | None
    """Why this text was refused; None if it was encoded."""
    vector: Array | None
    """The unit vector [dimension] in float32, read-only; None if refused."""
    num_tokens: int
    """The text's length in tokens before cutting."""
    is_truncated: bool
    """True if the text was longer than the tower reads."""


@dataclass(frozen=True, kw_only=True, eq=False)
class EncodedTexts:
    """The outcome for a batch of texts, in request order, all of one embedding space."""

    items: tuple[EncodedText, ...]
    """One outcome per text."""
    served: Served
    """What answered; of a batch that was split, what answered its first part."""

    @property
    def vectors(self) -> Array:
        """All vectors in one array [items, dimension]. Raises the error of the first text that was refused."""
        return _stacked(self.items)


@dataclass(frozen=True, kw_only=True, eq=False)
class EncodedImage:
    """The outcome for one picture."""

    error: SightlineError | None
    """Why this picture was refused; None if it was encoded."""
    vector: Array | None
    """The unit vector [dimension] in float32, read-only; None if refused."""
    tokens: Array | None
    """The fusion tokens [num_tokens, token_width] in float16, read-only; None unless asked for."""
    sha256: str
    """Hex digest of the encoded bytes as sent."""
    width: int
    """Decoded width in pixels."""
    height: int
    """Decoded height in pixels."""


@dataclass(frozen=True, kw_only=True, eq=False)
class EncodedImages:
    """The outcome for a batch of pictures, in request order, all of one embedding space."""

    items: tuple[EncodedImage, ...]
    """One outcome per picture."""
    served: Served
    """What answered; of a batch that was split, what answered its first part."""

    @property
    def vectors(self) -> Array:
        """All vectors in one array [items, dimension]. Raises the error of the first picture that was refused."""
        return _stacked(self.items)


@dataclass(frozen=True, kw_only=True, eq=False)
class EncodedComposed:
    """The outcome for one composed query."""

    error: SightlineError | None
    """Why this query was refused; None if it was encoded."""
    vector: Array | None
    """The unit vector [dimension] in float32, read-only; None if refused."""
    num_tokens: int
    """Length in tokens of the sentence that was read, before cutting."""
    is_truncated: bool
    """True if the edit was longer than the tower reads and lost its end."""
    sha256: str
    """Hex digest of the reference's bytes as sent; "" if none were."""


@dataclass(frozen=True, kw_only=True, eq=False)
class EncodedComposedQueries:
    """The outcome for a batch of composed queries, in request order, all of one embedding space."""

    items: tuple[EncodedComposed, ...]
    """One outcome per query."""
    served: Served
    """What answered; of a batch that was split, what answered its first part."""

    @property
    def vectors(self) -> Array:
        """All vectors in one array [items, dimension]. Raises the error of the first query that was refused."""
        return _stacked(self.items)


@dataclass(frozen=True, kw_only=True, eq=False)
class FoundImage:
    """One picture that a search found."""

    image_id: str
    """The picture's id."""
    score: float
    """Cosine similarity to the query, -1 to 1."""
    metadata: Mapping[str, str]
    """What was stored beside the picture."""
    tokens: Array | None
    """The fusion tokens, read-only; None unless asked for."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FoundImages:
    """The hits of a search, best first."""

    images: tuple[FoundImage, ...]
    """The hits; ties stand in the order of their ids."""
    served: Served
    """What answered."""


@dataclass(frozen=True, kw_only=True)
class UpsertedImages:
    """The outcome of storing pictures, in request order."""

    errors: tuple[SightlineError | None, ...]
    """One per picture: None if it is stored, else why not."""
    served: Served
    """What answered; of a batch that was split, what answered its last part."""


@dataclass(frozen=True, kw_only=True)
class DeletedImages:
    """The outcome of removing pictures."""

    num_deleted: int
    """How many of the ids were stored until now."""
    served: Served
    """What answered; of a batch that was split, what answered its last part."""


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredImage:
    """One picture of the index."""

    image_id: str
    """The picture's id."""
    metadata: Mapping[str, str]
    """What was stored beside the picture."""
    sha256: str
    """Hex digest of the encoded picture."""
    picture: bytes | None
    """The encoded picture as it was stored; None unless asked for."""
    vector: Array | None
    """The stored unit vector, read-only; None unless asked for."""
    tokens: Array | None
    """The fusion tokens, read-only; None unless asked for."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ImagePage:
    """One page of the index."""

    images: tuple[StoredImage, ...]
    """The pictures, without their bytes, vectors and tokens."""
    next_page_token: str
    """Token of the next page; "" on the last."""
    served: Served
    """What answered."""


@dataclass(frozen=True, kw_only=True)
class Reload:
    """Where a service stands with its release channel."""

    phase: str
    """What the reload is doing: "idle", "fetching", "verifying", "loading", "warming", "probing" or "swapping"."""
    serving_generation: int
    """The generation that answers."""
    reloads: int
    """Releases that were swapped in since start."""
    failures: int
    """Releases that were refused since start."""
    quarantined_release_ids: tuple[str, ...]
    """Releases that are not tried again."""
    last_error: str
    """Why the last one was refused; "" if none was."""


@dataclass(frozen=True, kw_only=True)
class EncoderDescription:
    """What the encoder is and can do."""

    dimension: int
    """Width of its vectors."""
    context_length: int
    """How many tokens of a text it reads."""
    image_size: int
    """Side in pixels to which it brings pictures."""
    num_tokens: int
    """Fusion tokens of a picture."""
    token_width: int
    """Width of a fusion token."""
    compute_dtype: str
    """"float32" or "bfloat16"."""
    can_compose: bool
    """Whether its release holds a composer."""
    composes_vectors: bool
    """Whether a vector can be the reference of a composed query."""
    reload: Reload
    """Where it stands with its release channel."""
    served: Served
    """What answered."""


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """A move of every stored picture into a new embedding space."""

    target_space_id: str
    """The new space; "" when no move is under way."""
    num_done: int
    """Pictures that the new collection holds."""
    num_total: int
    """Pictures that it must hold before the switch."""
    last_error: str
    """Why the last attempt stopped; "" if none did."""


@dataclass(frozen=True, kw_only=True)
class IndexDescription:
    """What the index holds and in which space it answers."""

    num_images: int
    """Stored pictures."""
    num_indexed: int
    """How many of them the approximate index covers; the others are searched exactly."""
    dimension: int
    """Width of the vectors; zero while the index is empty."""
    driver: str
    """"edge" or "server"."""
    collection: str
    """Name of the collection that answers."""
    rollout: Rollout
    """The move into a new embedding space, if one is under way."""
    served: Served
    """What answered."""


@dataclass(frozen=True, kw_only=True)
class UsedImage:
    """One picture that a reply looked at."""

    image_id: str
    """The picture's id; "" for one that came in the request."""
    score: float
    """Cosine similarity to the dialogue, -1 to 1; zero for one that came in the request."""
    weight: float
    """Its share in the fusion; the shares add up to 1."""
    metadata: Mapping[str, str]
    """What was stored beside the picture."""


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What a reply cost."""

    context_tokens: int
    """Tokens of the dialogue that were read."""
    generated_tokens: int
    """Tokens that were decoded."""
    dropped_turns: int
    """Oldest turns that were not read at all."""
    num_images: int
    """Pictures that were looked at."""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """A whole reply."""

    text: str
    """The answer."""
    images: tuple[UsedImage, ...]
    """The pictures that were looked at, in order of weight."""
    finish_reason: str
    """"stop" if the model ended its answer, "length" if max_new_tokens did."""
    usage: Usage
    """What it cost."""
    served: Served
    """What answered."""


@dataclass(frozen=True, kw_only=True)
class ReplyHeader:
    """First event of a streamed reply."""

    images: tuple[UsedImage, ...]
    """The pictures that are looked at, in order of weight."""
    served: Served
    """What is about to answer."""


@dataclass(frozen=True, kw_only=True)
class ReplyText:
    """Next piece of the text of a streamed reply."""

    text: str
    """To be appended to the text so far."""


@dataclass(frozen=True, kw_only=True)
class ReplyFinish:
    """Last event of a streamed reply."""

    finish_reason: str
    """"stop" if the model ended its answer, "length" if max_new_tokens did."""
    usage: Usage
    """What it cost."""
    served: Served
    """What answered, with all timings."""


ReplyEvent = ReplyHeader | ReplyText | ReplyFinish


@dataclass(frozen=True, kw_only=True)
class GeneratorDescription:
    """What the generator is and can do."""

    context_length: int
    """How many tokens of a dialogue it reads."""
    num_image_tokens: int
    """How many fusion tokens a picture must have."""
    image_token_width: int
    """How wide a fusion token must be."""
    reload: Reload
    """Where it stands with its release channel."""
    served: Served
    """What answered."""


def _stacked(items: tuple[EncodedText, ...] | tuple[EncodedImage, ...] | tuple[EncodedComposed, ...]) -> Array:
    for item in items:
        if item.error is not None:
            raise item.error
    return np.stack([item.vector for item in items if item.vector is not None])
