"""Decoded pictures in one memory-mapped file, so that an epoch reads memory and not PNGs."""

# Axes: N pictures, C channels; H and W pixels.
from __future__ import annotations

import hashlib
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


def load_pictures(images: Sequence[PoolImage], *, preprocess: Preprocess, cache: Path) -> Pixels:
    """Pixels uint8 [N, C, H, W], scaled and cut as the services do it; read-only, kept below `cache` for next time.

    Raises DataLineInvalid naming the first picture that cannot be decoded.
    """
    cache.mkdir(parents=True, exist_ok=True)
    path = cache / f"pictures-{_digest(images, preprocess=preprocess)}.npy"
    if not path.exists():
        _decode_all(images, preprocess=preprocess, path=path)
    return np.load(path, mmap_mode="r")  # type: ignore[no-any-return]


def _decode_all(images: Sequence[PoolImage], *, preprocess: Preprocess, path: Path) -> None:
    size = preprocess.image_size
    # A name of its own: two workers that start together must not write one file.
    partial = path.with_name(f"{path.stem}.{uuid.uuid4().hex}.partial")
    pixels = np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=(len(images), 3, size, size))
    with ThreadPoolExecutor(max_workers=_THREADS) as pool:
        for start in range(0, len(images), _CHUNK):
            chunk = images[start : start + _CHUNK]
            pixels[start : start + len(chunk)] = list(pool.map(lambda image: _decode(image, preprocess), chunk))
    pixels.flush()
    partial.replace(path)


def _decode(image: PoolImage, preprocess: Preprocess) -> Pixels:
    try:
        return preprocess.pixels(decode_picture(image.path.read_bytes(), min_side=preprocess.image_size))
    except (OSError, SightlineError) as error:
        raise DataLineInvalid(f"{image.path} (image_id {image.image_id}): {error}") from error


def _digest(images: Sequence[PoolImage], *, preprocess: Preprocess) -> str:
    total = hashlib.sha256(preprocess.to_json().encode())
    for image in images:
        state = image.path.stat()
        total.update(f"{image.path.resolve()} {state.st_size} {state.st_mtime_ns}\n".encode())
    return total.hexdigest()[:24]
