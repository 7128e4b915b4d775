"""What an edit asks for, and the arithmetic around the composer's vector. NumPy alone.

A composer answers one reference with one sentence. Several sentences, sentences
that say what is not wanted, and a weight between picture and sentence are made
of plain vectors of the same space, here and nowhere else.
"""

# Axes: D embedding width, N sentences.
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float32]

AS_TRAINED = 0.5
"""The text weight at which the query is what the composer was trained to give."""
NEGATIVE_SHARE = 0.3
"""How much of the mean of what is not wanted is taken away: less than half of the query's length, so that the query
still decides what is near and the negative sentences only which of that comes first."""
_LEAST_SINE = 1e-6


@dataclass(frozen=True, kw_only=True)
class Edit:
    """What the wanted picture has and its reference has not."""

    texts: Sequence[str] = ()
    """Up to 4 sentences of up to 4096 characters, read as one joined by " and "; a blank one counts as none."""
    negative_texts: Sequence[str] = ()
    """Up to 4 sentences of what the wanted picture has not; a blank one counts as none."""
    text_weight: float | None = None
    """Between the reference's own vector (0) and the plain vector of the texts (1); None is 0.5, as trained."""

    @property
    def sentence(self) -> str:
        """The texts as one sentence; empty if there is none."""
        return " and ".join(_plain(self.texts))

    @property
    def negatives(self) -> tuple[str, ...]:
        """The negative texts that say something."""
        return tuple(_plain(self.negative_texts))

    @property
    def leans_to_picture(self) -> bool:
        """Whether the reference's own vector counts."""
        return self.text_weight is not None and self.text_weight < AS_TRAINED

    @property
    def leans_to_text(self) -> bool:
        """Whether the plain vector of the texts counts; it cannot where there is no text."""
        return self.text_weight is not None and self.text_weight > AS_TRAINED and bool(self.sentence)


def leaning(composed_D: Vector, *, edit: Edit, picture_D: Vector | None, sentence_D: Vector | None) -> Vector:
    """The unit vector [D] of a composed query, moved as far as the edit's weight says.

    `picture_D` and `sentence_D` are unit vectors; each must be there where the
    edit leans to it.
    """
    weight = AS_TRAINED if edit.text_weight is None else edit.text_weight
    if edit.leans_to_picture:
        assert picture_D is not None, "an edit that leans to the picture needs its vector"
        return slerp(picture_D, composed_D, share=weight / AS_TRAINED)
    if edit.leans_to_text:
        assert sentence_D is not None, "an edit that leans to the text needs its vector"
        return slerp(composed_D, sentence_D, share=(weight - AS_TRAINED) / (1 - AS_TRAINED))
    return composed_D


def without(query_D: Vector, *, negatives_ND: Sequence[Vector], share: float = NEGATIVE_SHARE) -> Vector:
    """The unit vector [D] of a query from which `share` of the mean of unit vectors is taken away."""
    if not negatives_ND:
        return query_D
    mean_D = np.mean(np.asarray(negatives_ND, dtype=np.float64), axis=0)
    return _unit(query_D.astype(np.float64) - share * mean_D)


def slerp(start_D: Vector, end_D: Vector, *, share: float) -> Vector:
    """The unit vector [D] that lies `share` (0 to 1) of the way on the arc between two unit vectors.

    Where there is no one arc, between a vector and itself or its opposite, it is
    the nearer end.
    """
    start, end = start_D.astype(np.float64), end_D.astype(np.float64)
    angle = float(np.arccos(np.clip(start @ end, -1.0, 1.0)))
    if share in {0.0, 1.0} or np.sin(angle) < _LEAST_SINE:
        return start_D if share < AS_TRAINED else end_D
    return _unit(np.sin((1 - share) * angle) * start + np.sin(share * angle) * end)


def _plain(texts: Sequence[str]) -> list[str]:
    stripped = (text.strip().rstrip(". ") for text in texts)
    return [text for text in stripped if text]


def _unit(vector_D: npt.NDArray[Any]) -> Vector:
    return (vector_D / np.linalg.norm(vector_D)).astype(np.float32)
