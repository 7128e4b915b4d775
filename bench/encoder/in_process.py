"""The work itself, without a service: decode, preprocess and batched forward passes on the same cores."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import cycle, islice
from typing import Any

import numpy as np

from sightline.data.pictures import decode_picture
from sightline.models.encoder_model import EncoderModel


class InProcess:
    """One loaded model and a pool that decodes with as many threads as the forward pass has."""

    def __init__(self, model: EncoderModel, *, threads: int) -> None:
        self._model = model
        self._pool = ThreadPoolExecutor(threads)

    def pictures_per_s(self, pictures: Sequence[bytes], *, seconds: float, batch: int, is_overlapped: bool) -> float:
        """Pictures per second over at least `seconds`; overlapped, the next batch is decoded during a pass."""
        batches = _batches(pictures, size=batch)
        return _rate(self._overlapped(batches) if is_overlapped else self._in_turn(batches), seconds=seconds)

    def texts_per_s(self, texts: Sequence[str], *, seconds: float, batch: int) -> float:
        """Texts per second over at least `seconds`."""

        def steps() -> Iterator[int]:
            for part in _batches(texts, size=batch):
                yield len(self._model.encode_texts(part))

        return _rate(steps(), seconds=seconds)

    def _decode(self, data: bytes) -> Any:
        return self._model.preprocess(decode_picture(data))

    def _in_turn(self, batches: Iterator[list[bytes]]) -> Iterator[int]:
        for part in batches:
            pixels = list(self._pool.map(self._decode, part))
            yield self._forward(pixels)

    def _overlapped(self, batches: Iterator[list[bytes]]) -> Iterator[int]:
        ahead = self._start_decoding(next(batches))
        for part in batches:
            pixels = [future.result() for future in ahead]
            ahead = self._start_decoding(part)
            yield self._forward(pixels)

    def _start_decoding(self, part: list[bytes]) -> list[Future[Any]]:
        return [self._pool.submit(self._decode, data) for data in part]

    def _forward(self, pixels: list[Any]) -> int:
        vectors, _ = self._model.encode_images(np.stack(pixels))
        return len(vectors)


def _batches(items: Sequence[Any], *, size: int) -> Iterator[list[Any]]:
    endless = cycle(items)
    while True:
        yield list(islice(endless, size))


def _rate(steps: Iterator[int], *, seconds: float, now: Callable[[], float] = time.perf_counter) -> float:
    next(steps)  # the first pass warms up
    began, items = now(), 0
    while (elapsed := now() - began) < seconds:
        items += next(steps)
    return items / elapsed
