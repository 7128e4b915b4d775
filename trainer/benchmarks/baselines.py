"""What any composer must beat, from the two towers of a release alone: one of its sides, both summed, or chance."""

# Axes: N pictures, Q queries, D embedding width, C channels; after C, H and W are pixels.
from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from sightline.errors import UsageError
from sightline.models.encoder_model import EncoderModel
from trainer.benchmarks.protocol import Floats, Pixels, References

Combine = Callable[[Floats, Floats], Floats]
"""Query vectors [Q, D], not yet unit, from those of pictures and of texts."""
DEFAULT_WEIGHT = 0.5
PLAIN = "{text}"


class TowerBaseline:
    """A ComposedEncoder that combines what a release's towers see in the reference and read in the text."""

    notes = ()

    def __init__(self, encoder: EncoderModel, *, system: str, combine: Combine) -> None:
        self.system, self.template = system, PLAIN
        self.embedding_space_id, self.dimension = encoder.embedding_space_id, encoder.dimension
        self.image_size = encoder.image_size
        self._encoder, self._combine = encoder, combine

    def preprocess(self, image: Image.Image) -> Pixels:
        """The picture as uint8 [3, H, W]."""
        return self._encoder.preprocess(image)

    def encode_images(self, pixels_NCHW: Pixels) -> Floats:
        """Unit vectors [N, D] of pictures."""
        return self._encoder.encode_images(pixels_NCHW)[0]

    def encode_composed(self, references: References, texts: Sequence[str]) -> Floats:
        """Unit vectors [Q, D] of references and texts combined."""
        return unit(self._combine(references.vectors_QD, self._encoder.encode_texts(texts)))


def image_only(image_QD: Floats, text_QD: Floats) -> Floats:
    """The reference, whatever is asked."""
    return image_QD


def text_only(image_QD: Floats, text_QD: Floats) -> Floats:
    """The text, whatever it was said of."""
    return text_QD


def weighted_sum(weight: float) -> Combine:
    """`weight` of the text and the rest of the picture."""

    def combined(image_QD: Floats, text_QD: Floats) -> Floats:
        summed_QD: Floats = np.float32(1 - weight) * image_QD + np.float32(weight) * text_QD
        return summed_QD

    return combined


def slerp(weight: float) -> Combine:
    """The point at `weight` of the arc from picture to text; the sum where they lie on one line and there is no arc."""

    def combined(image_QD: Floats, text_QD: Floats) -> Floats:
        angle_Q1 = np.arccos(np.clip((image_QD * text_QD).sum(axis=1, keepdims=True), -1.0, 1.0))
        sine_Q1 = np.sin(angle_Q1)
        is_flat_Q1 = sine_Q1 < _FLAT
        safe_Q1 = np.where(is_flat_Q1, 1.0, sine_Q1)
        image_Q1 = np.where(is_flat_Q1, 1 - weight, np.sin((1 - weight) * angle_Q1) / safe_Q1)
        text_Q1 = np.where(is_flat_Q1, weight, np.sin(weight * angle_Q1) / safe_Q1)
        return (image_Q1 * image_QD + text_Q1 * text_QD).astype(np.float32)

    return combined


def chance(seed: int) -> Combine:
    """Directions that know nothing of the query, the same for the same seed and order of queries."""
    rng = np.random.default_rng(seed)
    return lambda image_QD, text_QD: np.asarray(rng.standard_normal(image_QD.shape), dtype=np.float32)


def unit(vectors_QD: Floats) -> Floats:
    """The vectors at length 1. Raises UsageError naming the first that has none."""
    norm_Q1 = np.linalg.norm(vectors_QD, axis=1, keepdims=True)
    if not (norm_Q1 > 0).all():
        raise UsageError(f"query {int((norm_Q1[:, 0] <= 0).argmax())}: its vector has length 0")
    return (vectors_QD / norm_Q1).astype(np.float32)


_FLAT = 1e-6
