"""Composed queries on their way: what each needs encoded before and beside it, and what becomes of the parts.

No model and no wire: the engine encodes what `Needs` lists and hands it to
`answer`.
"""

# Axes: D embedding width; C channels, H and W pixels.
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from encoder_svc.pictures import PictureVector, RefusedPicture
from sightline.composition import Edit, leaning, without
from sightline.errors import DimensionMismatch
from sightline.rpc.vectors import check_dimension

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, eq=False)
class ComposedAsk:
    """One composed query."""

    reference: bytes | Float32 | None
    """An encoded picture, a unit vector [D], or nothing."""
    edit: Edit
    """What the wanted picture has; without a reference it has a text."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ToCompose:
    """A reference with its sentence, for the composer."""

    reference: bytes | npt.NDArray[Any]
    """An encoded picture that waits to be decoded, a unit vector [D], or pixels [C, H, W]."""
    sentence: str
    """The edit's texts as one; may be empty."""
    digest: bytes = b""
    """SHA-256 of the reference's bytes; empty if none were sent, and until they are read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ComposedVector:
    """One encoded composed query."""

    vector: Float32
    """[D], of unit length."""
    num_tokens: int
    """Length of the sentence that was read before cutting, the end included."""
    is_truncated: bool
    """Whether it was longer than the context."""
    digest: bytes = b""
    """SHA-256 of the reference's bytes; empty if none were sent."""


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What must be encoded for the queries of a call, each thing once."""

    pictures: list[bytes]
    """References whose own vectors are needed."""
    texts: list[str]
    """Sentences whose plain vectors are needed."""
    num_composed: int
    """How many queries the composer answers."""


def needs_of(asks: Sequence[ComposedAsk], *, composes_vectors: bool) -> Needs:
    """What to encode; a composer that `composes_vectors` reads a reference's own vector, another its pixels."""
    pictures = [
        ask.reference
        for ask in asks
        if isinstance(ask.reference, bytes) and (composes_vectors or ask.edit.leans_to_picture)
    ]
    texts = [text for ask in asks for text in _plain_texts(ask)]
    num_composed = sum(ask.reference is not None for ask in asks)
    return Needs(pictures=list(dict.fromkeys(pictures)), texts=list(dict.fromkeys(texts)), num_composed=num_composed)


def seen_reference(
    ask: ComposedAsk, *, pictures: Mapping[bytes, PictureVector | RefusedPicture], dimension: int
) -> PictureVector | Float32 | RefusedPicture | None:
    """What is known of a query's reference: its own vector, or why it is refused; None if neither is."""
    if isinstance(ask.reference, bytes):
        return pictures.get(ask.reference)
    if ask.reference is not None:
        try:
            check_dimension(ask.reference, name="vector", dimension=dimension)
        except DimensionMismatch as error:
            return RefusedPicture(error=error, digest=b"")
    return ask.reference


def to_compose(ask: ComposedAsk, *, seen: PictureVector | Float32 | None, composes_vectors: bool) -> ToCompose:
    """The composer's input for a query that has a reference."""
    assert ask.reference is not None, "only a query with a reference is composed"
    if isinstance(seen, PictureVector) and composes_vectors:
        return ToCompose(reference=seen.vector, sentence=ask.edit.sentence, digest=seen.digest)
    return ToCompose(reference=ask.reference, sentence=ask.edit.sentence)


def answer(
    ask: ComposedAsk, made: ComposedVector, *, seen: PictureVector | Float32 | None, texts: Mapping[str, Float32]
) -> ComposedVector:
    """The outcome of a query: `made`, moved by the edit's weight and away from its negative texts.

    `made` is the composer's, or, where there is no reference, the sentence's
    own; `seen` is the reference's own vector, needed where the edit leans to
    it; `texts` holds the plain vectors by sentence.
    """
    vector_D = made.vector
    picture_D = seen.vector if isinstance(seen, PictureVector) else seen
    if ask.reference is not None:
        vector_D = leaning(vector_D, edit=ask.edit, picture_D=picture_D, sentence_D=texts.get(ask.edit.sentence))
    vector_D = without(vector_D, negatives_ND=[texts[text] for text in ask.edit.negatives])
    return replace(made, vector=vector_D)


def _plain_texts(ask: ComposedAsk) -> list[str]:
    is_plain = ask.reference is None or ask.edit.leans_to_text
    return [*([ask.edit.sentence] if is_plain else []), *ask.edit.negatives]
