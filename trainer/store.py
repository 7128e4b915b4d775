"""What the frozen tower sees in pictures, computed once, on disk: a vector and fusion tokens for each distinct picture.

A store belongs to one tower: its folder is named by a digest of weights, preprocessing and token grid. Rows are only
ever appended, so a store that was killed half-way goes on, and pools share rows. Two pictures are one row if the pixels
that the tower would read are the same: other containers, metadata, lossless recompression and changes outside the cut
fall together, by definition without a loss; a JPEG compressed anew does not.
"""

# Axes: N distinct pictures of a pool, S pictures of the store, P picture tokens, W token width, D embedding width.
from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sightline.data.pools import PoolImage
from sightline.models.model import ZrigfModel
from sightline.models.weights import space_digest, unique_state
from trainer.architecture import device_of
from trainer.digests import DIGEST, DIGEST_BYTES, DigestIndex
from trainer.pictures import Pixels, pixels_or_none, read_pixels

Floats = np.ndarray[Any, np.dtype[np.float32]]
Tokens = np.ndarray[Any, np.dtype[np.float16]] | np.ndarray[Any, np.dtype[np.uint8]]
Rows = np.ndarray[Any, np.dtype[np.int64]]
PixelsOf = Callable[[PoolImage], Pixels | None]
"""Decodes a picture; None leaves it out."""
LEFT_OUT = -1
"""In place of the row of a picture that was left out."""

_THREADS = 4
_CHUNK = 64
"""Pictures decoded, encoded and written at a time: what a crash costs, and the memory of a fill."""
_TOKENS, _VECTORS, _PIXELS, _SOURCES = "tokens.raw", "vectors.f32", "pixels.sha", "sources.sha"
_ON_DISK = {torch.float16: "<f2", torch.uint8: "|u1"}
_SOURCE = np.dtype([("digest", DIGEST), ("row", "<i8")])


class StoredArray:
    """Rows of an array on disk, in an order of their own. Indexing reads what is asked for and keeps nothing mapped."""

    def __init__(self, path: Path, *, dtype: str, shape: tuple[int, ...], rows: Rows) -> None:
        self._path, self._dtype, self._row_shape, self._rows = path, np.dtype(dtype), shape, rows
        self.shape = (len(rows), *shape)
        self._num_needed = int(rows.max(initial=-1)) + 1

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> np.ndarray[Any, Any]:
        """A copy of the rows at `index`: a slice, a row, or any array of rows."""
        if not len(self._rows):
            return np.zeros((*self._rows[index].shape, *self._row_shape), self._dtype)
        # Mapped anew each time: pages of a mapping that stays would count as this process's memory.
        # Behind the rows that are needed, another process may be half-way through writing the next.
        stored = np.memmap(self._path, dtype=self._dtype, mode="r", shape=(self._num_needed, *self._row_shape))
        return np.array(stored[self._rows[index]])


@dataclass(frozen=True, kw_only=True)
class EncodedPictures:
    """A pool as the frozen tower sees it: N distinct pictures."""

    vectors_ND: StoredArray | Floats
    """Unit vectors."""
    tokens_NPW: StoredArray | Tokens
    """Fusion tokens, equal to those that the index stores."""
    row_of_image: Rows
    """For each picture that was asked for, its row among the N, equal for pictures that are the same, or LEFT_OUT."""
    digest: str = ""
    """Tower and pool, for keys; '' if unknown."""

    def rows_by_id(self, images: Sequence[PoolImage]) -> dict[str, int]:
        """The row of each of the pictures that were asked for, which are `images`, by id; none of one left out."""
        rows = zip(images, self.row_of_image.tolist(), strict=True)
        return {image.image_id: row for image, row in rows if row != LEFT_OUT}

    def first_of_rows(self, images: Sequence[PoolImage]) -> list[PoolImage]:
        """For each row the first of `images` that it shows."""
        rows, first = np.unique(self.row_of_image, return_index=True)
        return [images[int(place)] for place in first[rows != LEFT_OUT]]


class PictureStore:
    """The store of one tower below `cache`. Many processes may share it; one fills it at a time, the others wait."""

    def __init__(self, cache: Path, *, model: ZrigfModel) -> None:
        self._model = model
        grid = model.config.fusion.token_grid
        settings = {"preprocess": model.tower.preprocess.to_json(), "tokens": model.tower.describe_tokens(grid=grid)}
        name = space_digest(tower_state=unique_state(model.tower), settings=settings, tokenizer_files=[])
        self.folder = cache / f"tokens-{name}"
        self._token_shape = model.tower.index_token_shape(grid=grid)
        self._token_dtype = np.dtype(_ON_DISK[model.tower.index_dtype])
        self._widths = {
            _TOKENS: self._token_dtype.itemsize * self._token_shape[0] * self._token_shape[1],
            _VECTORS: 4 * model.tower.dimension,
            _PIXELS: DIGEST_BYTES,
        }

    def encoded(self, images: Iterable[PoolImage], *, pixels_of: PixelsOf) -> EncodedPictures:
        """Every picture, those that the store lacks decoded by `pixels_of` (called in threads) and encoded first.

        What it gives no pixels of is left out, and asked for again the next time.

        Memory is a chunk of pictures and some 60 bytes a picture. What
        `pixels_of` raises passes through; pictures before the bad one stay.
        """
        with locked(self.folder):
            rows = self._rows(images, pixels_of=pixels_of)
        kept = rows[rows != LEFT_OUT]
        _, first, inverse = np.unique(kept, return_index=True, return_inverse=True)
        order = np.argsort(first)
        distinct = kept[first[order]]
        row_of_image = np.full(len(rows), LEFT_OUT, dtype=np.int64)
        row_of_image[rows != LEFT_OUT] = np.argsort(order)[inverse]
        return EncodedPictures(
            vectors_ND=StoredArray(
                self.folder / _VECTORS, dtype="<f4", shape=(self._model.tower.dimension,), rows=distinct
            ),
            tokens_NPW=StoredArray(
                self.folder / _TOKENS, dtype=self._token_dtype.str, shape=self._token_shape, rows=distinct
            ),
            row_of_image=row_of_image,
            digest=f"{self.folder.name}-{hashlib.sha256(distinct.tobytes()).hexdigest()[:16]}",
        )

    def _rows(self, images: Iterable[PoolImage], *, pixels_of: PixelsOf) -> Rows:
        self._drop_torn_rows()
        fill = _Fill(self, model=self._model, pixels_of=pixels_of)
        found = [fill.rows(chunk) for chunk in _chunks(images)]
        return np.concatenate(found) if found else np.zeros(0, np.int64)

    def _drop_torn_rows(self) -> None:
        """Cut every file to the rows that all of them hold: a crash may have ended between two files.

        Notes of lost rows go too: the next pictures of these numbers are others.
        """
        paths = {name: self.folder / name for name in (*self._widths, _SOURCES)}
        for path in paths.values():
            path.touch()
        self.num_rows = min(paths[name].stat().st_size // width for name, width in self._widths.items())
        for name, width in self._widths.items():
            os.truncate(paths[name], self.num_rows * width)
        notes = np.fromfile(paths[_SOURCES], dtype=_SOURCE)
        kept = notes[notes["row"] < self.num_rows]
        if kept.nbytes < paths[_SOURCES].stat().st_size:
            paths[_SOURCES].write_bytes(kept.tobytes())

    def known_sources(self) -> DigestIndex:
        """Rows by the digest of the file they came from."""
        known = np.fromfile(self.folder / _SOURCES, dtype=_SOURCE)
        return DigestIndex(known["digest"], rows=known["row"])

    def known_pixels(self) -> DigestIndex:
        """Rows by the digest of their pixels."""
        digests = np.fromfile(self.folder / _PIXELS, dtype=DIGEST)
        return DigestIndex(digests, rows=np.arange(len(digests)))

    def append(self, *, tokens: Tokens, vectors: Floats, pixels: Sequence[bytes]) -> None:
        """Add rows, on disk when this returns."""
        for name, data in ((_TOKENS, tokens.tobytes()), (_VECTORS, vectors.tobytes()), (_PIXELS, b"".join(pixels))):
            append_bytes(self.folder / name, data)
        self.num_rows += len(pixels)

    def remember(self, digests: Sequence[bytes], *, rows: Sequence[int]) -> None:
        """Note which row each file gave; after `append`, so that a note never names a row that is not there."""
        notes = np.array(list(zip(digests, rows, strict=True)), dtype=_SOURCE)
        append_bytes(self.folder / _SOURCES, notes.tobytes())


class _Fill:
    """One pass over pictures: known files cost a look-up, new ones are decoded, new pixels are encoded."""

    def __init__(self, store: PictureStore, *, model: ZrigfModel, pixels_of: PixelsOf) -> None:
        self._store, self._model, self._pixels_of = store, model, pixels_of
        self._sources, self._pixels = store.known_sources(), store.known_pixels()

    def rows(self, images: Sequence[PoolImage]) -> Rows:
        sources = [source_digest(image) for image in images]
        missing = [place for place, digest in enumerate(sources) if self._sources.row(digest) is None]
        if missing:
            self._add([images[place] for place in missing], sources=[sources[place] for place in missing])
        rows = (self._sources.row(digest) for digest in sources)
        return np.array([LEFT_OUT if row is None else row for row in rows], dtype=np.int64)

    def _add(self, images: Sequence[PoolImage], *, sources: Sequence[bytes]) -> None:
        with ThreadPoolExecutor(max_workers=_THREADS) as pool:
            read = list(zip(sources, pool.map(self._pixels_of, images), strict=True))
        pixels = {source: picture for source, picture in read if picture is not None}
        digests = [hashlib.sha256(picture.tobytes()).digest()[:DIGEST_BYTES] for picture in pixels.values()]
        decoded = zip(digests, pixels.values(), strict=True)
        if fresh := {digest: picture for digest, picture in decoded if self._pixels.row(digest) is None}:
            self._encode(fresh)
        rows = [self._pixels.known(digest) for digest in digests]
        self._store.remember(list(pixels), rows=rows)
        for source, row in zip(pixels, rows, strict=True):
            self._sources.add(source, row=row)

    def _encode(self, fresh: dict[bytes, Pixels]) -> None:
        vectors_BD, tokens_BPW = encode_pixels(self._model, np.stack(list(fresh.values())))
        first_row = self._store.num_rows
        self._store.append(tokens=tokens_BPW, vectors=vectors_BD, pixels=list(fresh))
        for place, digest in enumerate(fresh):
            self._pixels.add(digest, row=first_row + place)


def encode_pool(model: ZrigfModel, images: Iterable[PoolImage], *, cache: Path, skip_bad: bool) -> EncodedPictures:
    """The pictures as the model's tower sees them, kept in its store below `cache`.

    Raises DataLineInvalid naming the first that cannot be decoded, unless
    `skip_bad`, which leaves it out and logs it.
    """
    read = pixels_or_none if skip_bad else read_pixels
    pixels_of = partial(read, preprocess=model.tower.preprocess)
    return PictureStore(cache, model=model).encoded(images, pixels_of=pixels_of)


def encode_pictures(model: ZrigfModel, pixels_NCHW: Pixels) -> EncodedPictures:
    """Decoded pictures encoded into memory, each a row of its own: for few, and for those that exist nowhere else."""
    chunks = [pixels_NCHW[start : start + _CHUNK] for start in range(0, len(pixels_NCHW), _CHUNK)]
    encoded = [encode_pixels(model, np.array(chunk)) for chunk in chunks]
    return EncodedPictures(
        vectors_ND=np.concatenate([vectors for vectors, _ in encoded]),
        tokens_NPW=np.concatenate([tokens for _, tokens in encoded]),
        row_of_image=np.arange(len(pixels_NCHW)),
    )


@torch.no_grad()
def encode_pixels(model: ZrigfModel, pixels_BCHW: Pixels) -> tuple[Floats, Tokens]:
    """(unit vectors [B, D], fusion tokens [B, P, W]) of decoded pictures, tokens in the tower's `index_dtype`."""
    model.tower.eval()
    vectors_BD, tokens_BPW = model.fusion_tokens(torch.from_numpy(pixels_BCHW).to(device_of(model)))
    return vectors_BD.float().cpu().numpy(), tokens_BPW.to(model.tower.index_dtype).cpu().numpy()


def source_digest(image: PoolImage) -> bytes:
    """What tells a picture's file: where it is, its size and when it was written; no byte of it is read."""
    state = image.path.stat()
    text = f"{image.path.resolve()} {state.st_size} {state.st_mtime_ns} {image.span}"
    return hashlib.sha256(text.encode()).digest()[:DIGEST_BYTES]


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """`folder`, made if need be, for this process alone until the block ends; others wait."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def append_bytes(path: Path, data: bytes) -> None:
    """Add to the end of a file, on disk when this returns."""
    with path.open("ab") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _chunks(images: Iterable[PoolImage]) -> Iterator[list[PoolImage]]:
    rest = iter(images)
    while chunk := list(islice(rest, _CHUNK)):
        yield chunk
