"""Encoded pictures as they were sent, as the model takes them, and as it leaves them."""

# Axes: D embedding width, P picture tokens, W token width, C channels; after C, H and W are pixels.
from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sightline.data.pictures import decode_with_size
from sightline.errors import SightlineError
from sightline.models.encoder_model import EncoderModel

Float32 = npt.NDArray[np.float32]
Float16 = npt.NDArray[np.float16]
UInt8 = npt.NDArray[np.uint8]

_REDUCED_SIDE = 2
"""A large JPEG is decoded at no less than this many times the model's picture size: a shrink by two or more averages
away what the coarser decoding lost."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoded:
    """A picture ready for the model."""

    pixels: UInt8
    digest: bytes
    width: int
    height: int


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureVector:
    """One encoded picture."""

    vector: Float32
    """[D], of unit length."""
    tokens: Float16
    """[P, W], what a generator fuses."""
    digest: bytes
    """SHA-256 of the encoded bytes."""
    width: int
    """Upright width in pixels, as sent."""
    height: int
    """Upright height in pixels, as sent."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RefusedPicture:
    """A picture that could not be decoded, or a vector that is no reference here."""

    error: SightlineError
    """Why."""
    digest: bytes
    """SHA-256 of the encoded bytes; empty if none were sent."""


def decode(data: bytes, *, model: EncoderModel, digest: bytes = b"") -> Decoded | RefusedPicture:
    """The picture as `model` takes it, or why it cannot be read; `digest` saves computing it again."""
    digest = digest or hashlib.sha256(data).digest()
    try:
        image, (width, height) = decode_with_size(data, min_side=_REDUCED_SIDE * model.image_size)
    except SightlineError as error:
        return RefusedPicture(error=error, digest=digest)
    return Decoded(pixels=model.preprocess(image), digest=digest, width=width, height=height)
