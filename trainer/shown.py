"""Which pictures replies look at: those that contexts retrieve, random ones, none, or those that dialogues name."""

# Axes: Q dialogues, K pictures of a dialogue, D embedding width.
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sightline.data.dialogues import DialogueRecord, query_text
from trainer.answers import ALWAYS
from trainer.architecture import Built
from trainer.retrieval import encode_texts, nearest_pictures, ranks_of_relevant
from trainer.store import EncodedPictures, Floats, Rows

UNKNOWN = -1
"""In place of a row: the pool has no picture that the dialogue is known to show."""
_DRAW_SALT = 7


@dataclass(frozen=True, kw_only=True)
class Shown:
    """The pictures that each dialogue's reply looks at."""

    rows_QK: Rows
    """Rows of the pool, best first."""
    cosines_QK: Floats
    """How near each is to the dialogue's query."""
    min_score: float = ALWAYS
    """A dialogue whose best picture scores less looks at none."""


def query_vectors(built: Built, dialogues: Sequence[DialogueRecord]) -> Floats:
    """Unit vectors [Q, D] of what the dialogues are searched by: their contexts alone, never a response."""
    return encode_texts(built, [query_text(record.context) for record in dialogues])


def known_rows(dialogues: Sequence[DialogueRecord], *, row_of: Mapping[str, int]) -> Rows:
    """[Q] the row, by id, of the picture that each dialogue names; UNKNOWN if it names none, or none of the pool."""
    return np.array([row_of.get(record.image_id or "", UNKNOWN) for record in dialogues], dtype=np.int64)


def retrieved(queries_QD: Floats, *, pictures: EncodedPictures, k: int, min_score: float = ALWAYS) -> Shown:
    """The k nearest pictures of each query, exactly."""
    rows_QK, cosines_QK = nearest_pictures(queries_QD, pictures_ND=pictures.vectors_ND, k=k)
    return Shown(rows_QK=rows_QK, cosines_QK=cosines_QK, min_score=min_score)


def drawn(queries_QD: Floats, *, pictures: EncodedPictures, k: int, known_Q: Rows, seed: int) -> Shown:
    """k different pictures of the pool for each query, at random, the one it is known to show left out.

    A pool too small for k gives as many as every dialogue can have.
    """
    rng, size = np.random.default_rng([seed, _DRAW_SALT]), len(pictures.vectors_ND)
    k = min(k, size - int((known_Q != UNKNOWN).any()))
    rows_QK = np.stack([_draw(rng, size=size, k=k, known=int(known)) for known in known_Q])
    return _shown(queries_QD, pictures=pictures, rows_QK=rows_QK)


def nothing(queries_QD: Floats) -> Shown:
    """No picture."""
    return Shown(
        rows_QK=np.zeros((len(queries_QD), 0), dtype=np.int64),
        cosines_QK=np.zeros((len(queries_QD), 0), dtype=np.float32),
    )


def known(queries_QD: Floats, *, pictures: EncodedPictures, known_Q: Rows) -> Shown:
    """The one picture that each dialogue is known to show; none may be UNKNOWN."""
    assert (known_Q != UNKNOWN).all(), "only a known picture can be shown"
    return _shown(queries_QD, pictures=pictures, rows_QK=known_Q[:, None])


def ranks_of_known(queries_QD: Floats, *, pictures: EncodedPictures, known_Q: Rows) -> Rows:
    """[Q] zero-based ranks at which the queries find the pictures that they are known to show."""
    return ranks_of_relevant(queries_QD, pictures_ND=pictures.vectors_ND, relevant=list(known_Q[:, None]))


def _draw(rng: np.random.Generator, *, size: int, k: int, known: int) -> Rows:
    if known == UNKNOWN:
        return rng.choice(size, size=k, replace=False)
    rows_K = rng.choice(size - 1, size=k, replace=False)
    return rows_K + (rows_K >= known)  # type: ignore[no-any-return]


def _shown(queries_QD: Floats, *, pictures: EncodedPictures, rows_QK: Rows) -> Shown:
    cosines_QK = np.einsum("qd,qkd->qk", queries_QD, pictures.vectors_ND[rows_QK]).astype(np.float32)
    return Shown(rows_QK=rows_QK, cosines_QK=cosines_QK)
