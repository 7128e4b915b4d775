"""Decoded pictures in one memory-mapped file, so that an epoch reads memory and not PNGs."""

# Axes: N pictures, C channels; H and W pixels.
from __future__ import annotations

import functools
import hashlib
import logging
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from sightline.data.pictures import decode_picture
from sightline.data.pools import PoolImage
from sightline.errors import DataLineInvalid, SightlineError
from sightline.models.transforms import Preprocess

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
_THREADS = 4
_CHUNK = 256
_log = logging.getLogger(__name__)


def load_pictures(images: Sequence[PoolImage], *, preprocess: Preprocess, cache: Path) -> Pixels:
    """Pixels uint8 [N, C, H, W], scaled and cut as the services do it; read-only, kept below `cache` for next time.

    Raises DataLineInvalid naming the first picture that cannot be decoded.
    """
    cache.mkdir(parents=True, exist_ok=True)
    path = cache / f"pictures-{_digest(images, preprocess=preprocess)}.npy"
    if not path.exists():
        _decode_all(images, preprocess=preprocess, path=path)
    return np.load(path, mmap_mode="r")  # type: ignore[no-any-return]


def read_pixels(image: PoolImage, *, preprocess: Preprocess) -> Pixels:
    """Pixels uint8 [C, H, W] of one picture. Raises DataLineInvalid naming file and id if it cannot be decoded."""
    try:
        data = image.read_bytes()
    except OSError as error:
        raise DataLineInvalid(f"{image.path} (image_id {image.image_id}): {error}") from error
    return decoded(image, data=data, preprocess=preprocess)


def pixels_or_none(image: PoolImage, *, preprocess: Preprocess) -> Pixels | None:
    """As `read_pixels`, but of a picture that cannot be decoded None, and a line in the log."""
    try:
        return read_pixels(image, preprocess=preprocess)
    except DataLineInvalid as error:
        _log.warning("skipped %s", error.message)
        return None


def readable(images: Sequence[PoolImage], *, preprocess: Preprocess) -> list[PoolImage]:
    """Those that can be decoded, which is tried; each of the others is a line in the log."""

    def is_readable(image: PoolImage) -> bool:
        return pixels_or_none(image, preprocess=preprocess) is not None

    with ThreadPoolExecutor(max_workers=_THREADS) as pool:
        return [image for image, is_good in zip(images, pool.map(is_readable, images), strict=True) if is_good]


def decoded(image: PoolImage, *, data: bytes, preprocess: Preprocess) -> Pixels:
    """As `read_pixels`, of bytes that were read already."""
    try:
        return preprocess.pixels(decode_picture(data, min_side=preprocess.image_size))
    except (OSError, SightlineError) as error:
        raise DataLineInvalid(f"{image.path} (image_id {image.image_id}): {error}") from error


def picture_digests(pixels_BCHW: Pixels) -> np.ndarray[Any, np.dtype[np.int64]]:
    """A number for each picture, equal where the pixels are: pairs of one picture are no negatives of each other."""
    digests = [hashlib.sha256(picture.tobytes()).digest()[:8] for picture in pixels_BCHW]
    return np.array([int.from_bytes(digest, "little", signed=True) for digest in digests], dtype=np.int64)


def _decode_all(images: Sequence[PoolImage], *, preprocess: Preprocess, path: Path) -> None:
    size = preprocess.image_size
    read = functools.partial(read_pixels, preprocess=preprocess)
    # A name of its own: two workers that start together must not write one file.
    partial = path.with_name(f"{path.stem}.{uuid.uuid4().hex}.partial")
    pixels = np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=(len(images), 3, size, size))
    with ThreadPoolExecutor(max_workers=_THREADS) as pool:
        for start in range(0, len(images), _CHUNK):
            chunk = images[start : start + _CHUNK]
            pixels[start : start + len(chunk)] = list(pool.map(read, chunk))
    pixels.flush()
    partial.replace(path)


def _digest(images: Sequence[PoolImage], *, preprocess: Preprocess) -> str:
    total = hashlib.sha256(preprocess.to_json().encode())
    for image in images:
        state = image.path.stat()
        total.update(f"{image.path.resolve()} {state.st_size} {state.st_mtime_ns} {image.span}\n".encode())
    return total.hexdigest()[:24]
