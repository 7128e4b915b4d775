"""How alike a caption and its edited caption are to a frozen text tower, and how many tokens it reads."""

# Axes: N pairs, M captions of both sides, D embedding width.
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from open_clip.tokenizer import SimpleTokenizer

from sightline.errors import SettingInvalid
from sightline.language.asking import Problem
from sightline.models.encoder_model import EncoderModel
from sightline.models.release import load_encoder
from sightline.registry import Registry
from trainer.runs import resolve
from trainer.triplets.asking import Pair

MIN_SIMILARITY, MAX_SIMILARITY = 0.5, 0.97
"""Below, the target is another scene; above, nothing changed."""
_START_AND_END = 2


@dataclass(frozen=True, kw_only=True)
class SimilarityBand:
    """Refuses targets that a release's text tower puts too far from their reference caption, or on top of it."""

    encoder: EncoderModel
    release_id: str
    low: float = MIN_SIMILARITY
    high: float = MAX_SIMILARITY

    def __post_init__(self) -> None:
        if not -1.0 <= self.low < self.high <= 1.0:
            raise SettingInvalid(f"similarity: got {self.low} to {self.high}, limits -1 to 1, the lower one first")

    def check(self, captions: Sequence[str], pairs: Sequence[Pair]) -> list[Problem | None]:
        """The problem of each pair with its caption, or None. One pass of the tower; not for several threads."""
        if not pairs:
            return []
        vectors_MD = self.encoder.encode_texts([*captions, *(pair.target_caption for pair in pairs)])
        before_ND, after_ND = np.split(vectors_MD, 2)
        return [self._problem(float(score)) for score in np.sum(before_ND * after_ND, axis=1)]

    def _problem(self, score: float) -> Problem | None:
        if score < self.low:
            return Problem(reason="too_different", detail=f"similarity {score:.3f}, limit {self.low}")
        if score > self.high:
            return Problem(reason="too_similar", detail=f"similarity {score:.3f}, limit {self.high}")
        return None


def band_of(name: str, *, registry_uri: str, cache_folder: Path, low: float, high: float) -> SimilarityBand:
    """The band of a release, named by its id or a channel. Raises UsageError or ReleaseInvalid as the registry does."""
    registry = Registry(registry_uri)
    release_id = resolve(name, registry=registry)
    encoder = load_encoder(registry.fetch(release_id, into=cache_folder))
    return SimilarityBand(encoder=encoder, release_id=release_id, low=low, high=high)


def clip_token_count(text: str) -> int:
    """How many tokens CLIP's own tokenizer makes of a text, start and end included."""
    return len(_tokenizer().encode(text)) + _START_AND_END


@cache
def _tokenizer() -> SimpleTokenizer:
    return SimpleTokenizer()
