"""Unit vectors of pictures on disk, encoded once for each embedding space, whatever benchmark asks.

Rows are only ever appended, a chunk at a time, so that a killed run goes on where it was, and benchmarks over the same
pictures share them.
"""

# Axes: N pictures, B pictures of a chunk, D embedding width.
from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from trainer.benchmarks.protocol import ComposedEncoder, Floats, Picture, Pixels
from trainer.digests import DIGEST, DIGEST_BYTES, DigestIndex
from trainer.store import Rows, StoredArray, append_bytes, locked

_VECTORS, _KEYS = "vectors.f32", "keys.sha"
_THREADS = 4
_CHUNK = 64
"""Pictures decoded, encoded and written at a time: what a crash costs, and the memory of a fill."""


class FeatureStore:
    """The vectors of one embedding space below `cache`. Many processes may share it; one fills it at a time."""

    def __init__(self, cache: Path, *, encoder: ComposedEncoder) -> None:
        self._encoder = encoder
        name = hashlib.sha256(encoder.embedding_space_id.encode()).hexdigest()[:24]
        self.folder = cache / f"features-{name}"

    def vectors(self, pictures: Sequence[Picture]) -> Iterator[int]:
        """How many of `pictures` are known so far, after each chunk; the rows are then those of `stored`.

        Raises DataLineInvalid naming the first picture that cannot be read; those
        before it stay.
        """
        with locked(self.folder):
            index = self._opened()
            for start in range(0, len(pictures), _CHUNK):
                chunk = pictures[start : start + _CHUNK]
                self._fill(chunk, index=index)
                yield start + len(chunk)

    def stored(self, pictures: Sequence[Picture]) -> StoredArray:
        """The unit vectors [N, D] of pictures that `vectors` went through."""
        index = self._index()
        rows: Rows = np.array([index.known(picture.digest()) for picture in pictures], dtype=np.int64)
        return StoredArray(self.folder / _VECTORS, dtype="<f4", shape=(self._encoder.dimension,), rows=rows)

    def _opened(self) -> DigestIndex:
        """What is there, cut to the rows that both files hold whole: a crash may have ended between them."""
        widths = {_VECTORS: 4 * self._encoder.dimension, _KEYS: DIGEST_BYTES}
        for name in widths:
            (self.folder / name).touch()
        self._num_rows = min((self.folder / name).stat().st_size // width for name, width in widths.items())
        for name, width in widths.items():
            os.truncate(self.folder / name, self._num_rows * width)
        return self._index()

    def _index(self) -> DigestIndex:
        keys = np.fromfile(self.folder / _KEYS, dtype=DIGEST)
        return DigestIndex(keys, rows=np.arange(len(keys)))

    def _fill(self, pictures: Sequence[Picture], *, index: DigestIndex) -> None:
        fresh = {digest: one for one in pictures if index.row(digest := one.digest()) is None}
        if not fresh:
            return
        vectors_BD = encode_pictures(self._encoder, list(fresh.values()))
        append_bytes(self.folder / _VECTORS, np.ascontiguousarray(vectors_BD, dtype="<f4").tobytes())
        append_bytes(self.folder / _KEYS, b"".join(fresh))
        for digest in fresh:
            index.add(digest, row=self._num_rows)
            self._num_rows += 1


def encode_pictures(encoder: ComposedEncoder, pictures: Sequence[Picture]) -> Floats:
    """Unit vectors [B, D] of pictures, decoded in threads."""
    return encoder.encode_images(read_pixels(encoder, pictures))


def read_pixels(encoder: ComposedEncoder, pictures: Sequence[Picture]) -> Pixels:
    """Pixels [B, C, H, W] of pictures as `encoder` sees them, decoded in threads."""

    def read(picture: Picture) -> Pixels:
        return encoder.preprocess(picture.read(min_side=encoder.image_size))

    with ThreadPoolExecutor(max_workers=_THREADS) as pool:
        return np.stack(list(pool.map(read, pictures)))
