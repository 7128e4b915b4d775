"""The pictures that a reply looks at, and the embedding space that they belong to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, kw_only=True)
class LookedAt:
    """One picture: its id and score, empty and zero if it came in the request, and its fusion tokens [P, W]."""

    image_id: str
    score: float
    metadata: Mapping[str, str]
    tokens: npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, kw_only=True)
class PicturesOfSpace:
    """Pictures, best first, whose tokens and scores are of one space; the space is empty if nothing says it."""

    images: tuple[LookedAt, ...]
    embedding_space_id: str
