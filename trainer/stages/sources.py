"""Where the pictures of stage 1 come from: a decoded array in any order, or tars streamed from front to end."""

# Axes: B pairs of this worker, N pictures, C channels; H and W pixels.
from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

import numpy as np

from sightline.data.captions import CaptionRecord
from sightline.data.shards import ShardStream, StreamedPair
from sightline.errors import DataLineInvalid
from sightline.models.transforms import Preprocess
from trainer.data import EpochOrder
from trainer.pictures import Pixels, decoded

_ORDER_SALT = 1
_THREADS = 4
_log = logging.getLogger(__name__)

Rows = np.ndarray[Any, np.dtype[np.int64]]


class Drawn(NamedTuple):
    """This worker's pictures of a step."""

    rows_B: Rows
    """Which pictures, in order of first mention among the captions."""
    pixels_BCHW: Pixels


class PictureSource(Protocol):
    """What stage 1 draws its pictures from."""

    def draw(self, step: int, *, size: int) -> Drawn:
        """This worker's share of the `size` pictures of `step`: a function of the seed and the step alone."""


class ShuffledPictures:
    """Decoded pictures in an order drawn anew each epoch."""

    def __init__(self, pixels_NCHW: Pixels, *, seed: int, rank: int, world_size: int) -> None:
        self._pixels, self._rank, self._world_size = pixels_NCHW, rank, world_size
        self._order = EpochOrder(len(pixels_NCHW), seed, _ORDER_SALT)

    def draw(self, step: int, *, size: int) -> Drawn:
        """Every world_size-th picture of the step's batch."""
        rows_B = self._order.batch(step, size=size)[self._rank :: self._world_size]
        return Drawn(rows_B, self._pixels[rows_B])


class StreamedPictures:
    """Pictures decoded as tars stream by: the tars are local files, but no decoded picture is ever kept on disk."""

    def __init__(
        self,
        records: Sequence[CaptionRecord],
        *,
        preprocess: Preprocess,
        skip_bad: bool,
        seed: int,
        rank: int,
        world_size: int,
    ) -> None:
        self._records, self._preprocess, self._skip_bad = records, preprocess, skip_bad
        self._stream = ShardStream(records, seed=seed, rank=rank, world_size=world_size)
        self._world_size = world_size
        self._pairs: Iterator[StreamedPair] = iter(())
        self._next_pair = -1

    def draw(self, step: int, *, size: int) -> Drawn:
        """The next pairs of this worker's tars; a step out of order goes to its place in them first.

        A picture that cannot be decoded is named by DataLineInvalid, or with
        `skip_bad` logged and replaced by another of the batch, so that a step
        always takes equally many pairs.
        """
        size_B = size // self._world_size
        if step * size_B != self._next_pair:
            self._pairs = self._stream.pairs(self._stream.position_after(step * size_B))
        pairs = [next(self._pairs) for _ in range(size_B)]
        self._next_pair = (step + 1) * size_B
        with ThreadPoolExecutor(max_workers=_THREADS) as pool:
            pictures = list(pool.map(self._decoded, pairs))
        good = [place for place, picture in enumerate(pictures) if picture is not None]
        if not good:
            raise DataLineInvalid(f"step {step}: none of its {size_B} pictures can be decoded")
        chosen = [place if pictures[place] is not None else good[place % len(good)] for place in range(size_B)]
        rows_B = np.array([pairs[place].row for place in chosen], dtype=np.int64)
        return Drawn(rows_B, np.stack([picture for place in chosen if (picture := pictures[place]) is not None]))

    def _decoded(self, pair: StreamedPair) -> Pixels | None:
        try:
            return decoded(self._records[pair.row].image, data=pair.data, preprocess=self._preprocess)
        except DataLineInvalid as error:
            if not self._skip_bad:
                raise
            _log.warning("skipped %s", error.message)
            return None
