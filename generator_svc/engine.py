"""Decodes replies in a bounded pool of threads, one token at a time, so that a cancel ends the work at once.

One reply is one job of the pool. Between two steps the job asks its StopSignal
whether anybody still wants the answer; text leaves the pool in coalesced chunks,
since a message a token costs more than the token (`flush_ms`, `flush_tokens`).
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from generator_svc.chunks import ChunkBuffer
from generator_svc.settings import GeneratorSettings
from sightline.errors import Cancelled, DeadlinePassed, QueueFull
from sightline.limits import MAX_REPLY_IMAGES
from sightline.models.generator_model import GenerationResult, GeneratorModel, ImageEvidence, PreparedContext
from sightline.models.release import load_generator
from sightline.models.repetition import RepetitionRules
from sightline.registry import HotReloader, Manifest, Registry, ReloadSettings

_FIRST_GUESS_S = 0.25
_MEMORY = 0.8
_SHORTEST_RETRY_S = 0.05


@dataclass(frozen=True, kw_only=True)
class ReplyJob:
    """What one reply is made of: the turns, oldest first, the pictures, and how to decode."""

    turns: list[str]
    images: list[ImageEvidence]
    max_new_tokens: int
    num_beams: int = 1


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """The dialogue and the pictures are read and fused; seconds spent in the queue and in that work."""

    context: PreparedContext
    queue_s: float
    fuse_s: float


@dataclass(frozen=True)
class Chunk:
    """The next piece of text."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Finished:
    """The reply is whole; seconds spent decoding it."""

    result: GenerationResult
    generate_s: float


ReplyEvent = Prepared | Chunk | Finished


class StopSignal:
    """Says whether a reply must end: it was cancelled, or its time is up. Safe to ask from any thread."""

    def __init__(
        self,
        *,
        time_remaining: Callable[[], float | None] = lambda: None,
        is_cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        self._time_remaining = time_remaining
        self._is_cancelled = is_cancelled
        self._cancel = threading.Event()

    def cancel(self) -> None:
        """End the reply before its next step."""
        self._cancel.set()

    def __call__(self) -> bool:
        """True once the reply must end."""
        return self._cancel.is_set() or self._is_cancelled() or self._time_remaining() == 0.0

    def check(self) -> None:
        """Raise DeadlinePassed or Cancelled if the reply must end."""
        if self._time_remaining() == 0.0:
            raise DeadlinePassed("the deadline passed before the reply was whole")
        if self._cancel.is_set() or self._is_cancelled():
            raise Cancelled("the caller cancelled the reply")


class ReplyEngine:
    """Runs replies in a pool of threads; takes no more at a time than the settings allow."""

    def __init__(self, settings: GeneratorSettings, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._num_admitted = 0
        self._mean_reply_s = _FIRST_GUESS_S
        self._pool = ThreadPoolExecutor(
            settings.num_decoders,
            thread_name_prefix="reply",
            initializer=torch.set_num_threads,
            initargs=(settings.threads_per_reply,),
        )

    @property
    def num_admitted(self) -> int:
        """How many replies are being made or wait."""
        return self._num_admitted

    @contextmanager
    def admit(self) -> Iterator[None]:
        """Hold one place among the replies. Event loop only.

        Raises QueueFull when every place is taken.
        """
        limit = self._settings.max_replies
        if self._num_admitted >= limit:
            message = f"replies: {self._num_admitted} are under way, limit {limit}"
            raise QueueFull(message, retry_after_s=self._retry_after_s(), limit=limit)
        self._num_admitted += 1
        try:
            yield
        finally:
            self._num_admitted -= 1

    async def generate(self, model: GeneratorModel, job: ReplyJob, *, stop: StopSignal) -> tuple[Prepared, Finished]:
        """The whole reply of `job`, by beam search if it asks for beams.

        Raises Cancelled or DeadlinePassed as soon as `stop` says so.
        """
        asked_s = self._clock()
        work = self._pool.submit(self._decode_whole, model, job, stop=stop, asked_s=asked_s)
        try:
            await asyncio.wait({asyncio.wrap_future(work)})
        finally:
            await _settle(work, stop=stop)
        return work.result()

    async def stream(
        self, model: GeneratorModel, job: ReplyJob, *, stop: StopSignal
    ) -> AsyncGenerator[ReplyEvent, None]:
        """The reply of `job` while it is decoded: one Prepared, any number of Chunks, one Finished.

        Closing the iterator stops the decoding before its next step and returns
        once it has stopped. Raises as `generate` does.
        """
        loop = asyncio.get_running_loop()
        # One event a token, one before and two behind them: the queue never fills.
        events: asyncio.Queue[ReplyEvent | None] = asyncio.Queue(maxsize=job.max_new_tokens + 3)

        def emit(event: ReplyEvent | None) -> None:
            loop.call_soon_threadsafe(events.put_nowait, event)

        work = self._pool.submit(self._decode_steps, model, job, stop=stop, asked_s=self._clock(), emit=emit)
        try:
            while (event := await events.get()) is not None:
                yield event
        finally:
            await _settle(work, stop=stop)
        work.result()

    def close(self) -> None:
        """Refuse new work and return once the running replies are done."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _decode_whole(
        self, model: GeneratorModel, job: ReplyJob, *, stop: StopSignal, asked_s: float
    ) -> tuple[Prepared, Finished]:
        prepared = self._prepare(model, job, stop=stop, asked_s=asked_s)
        started_s = self._clock()
        result = model.generate(
            prepared.context, max_new_tokens=job.max_new_tokens, num_beams=job.num_beams, should_stop=stop
        )
        return prepared, self._finish(result, stop=stop, asked_s=asked_s, started_s=started_s)

    def _decode_steps(
        self,
        model: GeneratorModel,
        job: ReplyJob,
        *,
        stop: StopSignal,
        asked_s: float,
        emit: Callable[[ReplyEvent | None], None],
    ) -> None:
        try:
            prepared = self._prepare(model, job, stop=stop, asked_s=asked_s)
            emit(prepared)
            started_s = self._clock()
            steps = model.stream(prepared.context, max_new_tokens=job.max_new_tokens, should_stop=stop)
            result = self._emit_chunks(steps, emit=emit)
            emit(self._finish(result, stop=stop, asked_s=asked_s, started_s=started_s))
        finally:
            emit(None)

    def _prepare(self, model: GeneratorModel, job: ReplyJob, *, stop: StopSignal, asked_s: float) -> Prepared:
        stop.check()
        started_s = self._clock()
        context = model.prepare(job.turns, job.images)
        stop.check()
        return Prepared(context=context, queue_s=started_s - asked_s, fuse_s=self._clock() - started_s)

    def _emit_chunks(
        self, steps: Generator[str, None, GenerationResult], *, emit: Callable[[ReplyEvent | None], None]
    ) -> GenerationResult:
        settings = self._settings
        buffer = ChunkBuffer(flush_ms=settings.flush_ms, flush_tokens=settings.flush_tokens, clock=self._clock)
        while True:
            try:
                piece = next(steps)
            except StopIteration as end:
                if text := buffer.rest():
                    emit(Chunk(text))
                return end.value
            if text := buffer.add(piece):
                emit(Chunk(text))

    def _finish(self, result: GenerationResult, *, stop: StopSignal, asked_s: float, started_s: float) -> Finished:
        stop.check()
        now_s = self._clock()
        self._mean_reply_s = _MEMORY * self._mean_reply_s + (1 - _MEMORY) * (now_s - asked_s)
        return Finished(result=result, generate_s=now_s - started_s)

    def _retry_after_s(self) -> float:
        """When one place should be free: the mean time of a reply shared by those that decode at once."""
        return max(_SHORTEST_RETRY_S, self._mean_reply_s / self._settings.num_decoders)


async def _settle(work: Future[Any], *, stop: StopSignal) -> None:
    """Return once `work` uses its model no more: never started, or past its last step."""
    stop.cancel()
    if not work.cancel():
        await asyncio.wait({asyncio.wrap_future(work)})


def build_reloader(settings: GeneratorSettings) -> HotReloader[GeneratorModel]:
    """A reloader that follows the channel of `settings`; it loads nothing before its start."""
    return HotReloader(
        registry=Registry(settings.registry),
        channel=settings.channel,
        cache_dir=settings.cache_dir,
        load=partial(
            _load,
            device=settings.device,
            dtype=settings.compute_dtype,
            no_repeat_ngram=settings.no_repeat_ngram,
            repetition_penalty=settings.repetition_penalty,
        ),
        warm_up=_warm_up,
        probe=GeneratorModel.check_golden,
        release=_release,
        settings=ReloadSettings(poll_interval_s=settings.poll_s),
    )


def _load(
    folder: Path, manifest: Manifest, *, device: str, dtype: str, no_repeat_ngram: int, repetition_penalty: float
) -> GeneratorModel:
    rules = RepetitionRules(no_repeat_ngram=no_repeat_ngram, repetition_penalty=repetition_penalty)
    return load_generator(folder, device=device, dtype=dtype, rules=rules)


def _warm_up(model: GeneratorModel) -> None:
    """Answer once with as many pictures as a reply may have and once with none: nobody pays for first-time set-up."""
    blank = np.zeros((model.num_image_tokens, model.image_token_width), dtype=np.float16)
    for count in (0, MAX_REPLY_IMAGES):
        prepared = model.prepare(["warm-up"], [ImageEvidence(tokens=blank, score=0.0)] * count)
        model.generate(prepared, max_new_tokens=2, num_beams=1, should_stop=lambda: False)


def _release(model: GeneratorModel) -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
