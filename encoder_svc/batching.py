"""Batches formed across callers: bounded, fair, and with an outcome of its own for every item. No model, no wire.

    submit -> waiting -> (prepare, in a pool) -> ready -> one batch -> (forward, in the lane's thread) -> caller

Preparing the next batch overlaps the forward pass of the last one. Everything but `prepare` and `forward` runs on the
event loop, so nothing here needs a lock.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypeVar

from sightline.errors import Draining, QueueFull, SettingInvalid

GroupT = TypeVar("GroupT")
ItemT = TypeVar("ItemT")
ReadyT = TypeVar("ReadyT")
ResultT = TypeVar("ResultT")

_MIN_RETRY_S = 0.05
_MAX_RETRY_S = 10.0


@dataclass(frozen=True, kw_only=True)
class BatchSettings:
    """How one queue forms its batches."""

    max_batch: int
    """Most items of one forward pass: throughput paid with the latency and memory of a larger pass."""
    max_queue: int
    """Most items accepted and not yet answered; a call that does not fit is refused with QueueFull."""
    max_wait_ms: float = 4.0
    """Longest a ready item waits for as much company as the last batch had: latency paid for throughput."""
    prepare_ahead: int = 0
    """Most items being prepared or prepared and not yet taken: memory paid for overlap. Zero: twice max_batch."""

    def __post_init__(self) -> None:
        if not 1 <= self.max_batch <= self.max_queue:
            raise SettingInvalid(f"max_batch: got {self.max_batch}, expected 1 to max_queue, {self.max_queue}")
        if self.max_wait_ms < 0 or self.prepare_ahead < 0:
            raise SettingInvalid(f"got {self.max_wait_ms=} and {self.prepare_ahead=}, expected 0 or more")


@dataclass(frozen=True)
class Finished(Generic[ResultT]):
    """What `prepare` returns for an item that needs no forward pass: a cached result or a refusal."""

    result: ResultT


@dataclass(frozen=True, kw_only=True)
class Stages:
    """Seconds of the item of a call that was answered last."""

    queue: float = 0.0
    """Waiting for a place in the pool and for a turn in the lane."""
    decode: float = 0.0
    """Being prepared."""
    forward: float = 0.0
    """In the forward pass, with the batch it shared."""

    def __add__(self, later: Stages) -> Stages:
        """The time of two rounds, one after the other."""
        return Stages(
            queue=self.queue + later.queue, decode=self.decode + later.decode, forward=self.forward + later.forward
        )


class ForwardLane:
    """The one thread of the model, shared by queues that take turns in the order in which they ask."""

    def __init__(self, *, on_thread: Callable[[], None] | None = None) -> None:
        """`on_thread` runs first in the thread."""
        self._turn = asyncio.Lock()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="forward", initializer=on_thread)

    @property
    def is_free(self) -> bool:
        """True while the thread has nothing to do."""
        return not self._turn.locked()

    async def turn(self) -> None:
        """Wait for the thread. First come, first served; each turn is given back by `done`."""
        await self._turn.acquire()

    def done(self) -> None:
        """Give the turn back."""
        self._turn.release()

    def start(self, work: Callable[[], ResultT]) -> asyncio.Future[ResultT]:
        """`work` running in the thread."""
        return asyncio.get_running_loop().run_in_executor(self._pool, work)

    def close(self) -> None:
        """End the thread once it is idle."""
        self._pool.shutdown(wait=True)


@dataclass(slots=True)
class _Call:
    """One `submit`: its results so far and who waits for them."""

    results: list[Any]
    missing: int
    answered: asyncio.Future[Stages]


@dataclass(slots=True)
class _Job:
    """One item on its way."""

    call: _Call
    index: int
    group: Any
    item: Any
    size: int
    accepted: float
    ready: Any = None
    prepare_s: float = 0.0
    forward_s: float = 0.0

    @property
    def is_dropped(self) -> bool:
        """True once nobody waits for it: cancelled, or its call failed."""
        return self.call.answered.done()


@dataclass(kw_only=True)
class _Pace:
    """Smoothed seconds per item, from which a refused caller learns when to come back."""

    seconds_per_item: float = field(default=0.01)

    def observe(self, *, seconds: float, items: int) -> None:
        self.seconds_per_item += 0.2 * (seconds / items - self.seconds_per_item)

    def wait_s(self, items: int) -> float:
        return min(max(items * self.seconds_per_item, _MIN_RETRY_S), _MAX_RETRY_S)


class Batcher(Generic[GroupT, ItemT, ReadyT, ResultT]):
    """One queue. Items of one batch share their group, which is compared by identity."""

    def __init__(
        self,
        forward: Callable[[GroupT, list[ReadyT]], Sequence[ResultT]],
        *,
        lane: ForwardLane,
        settings: BatchSettings,
        prepare: Callable[[GroupT, ItemT], ReadyT | Finished[ResultT]] | None = None,
        pool: Executor | None = None,
        size_of: Callable[[ItemT], int] = lambda _: 0,
        now: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`forward` runs in the lane; `prepare`, if given, in `pool`; items of like `size_of` go together."""
        self._forward = forward
        self._prepare = prepare
        self._lane = lane
        self._pool = pool
        self._size_of = size_of
        self._now = now
        self._settings = settings
        self._ahead = settings.prepare_ahead or 2 * settings.max_batch
        self._waiting: deque[_Job] = deque()
        self._ready: list[_Job] = []
        self._preparing = 0
        self._accepted = 0
        self._company = 1
        self._goal = 1
        self._goal_met = asyncio.Event()
        self._is_empty = asyncio.Event()
        self._is_empty.set()
        self._is_draining = False
        self._pace = _Pace()
        self._passes: set[asyncio.Task[None]] = set()
        self._dispatcher: asyncio.Task[None] | None = None

    @property
    def num_accepted(self) -> int:
        """How many items are accepted and not yet answered."""
        return self._accepted

    def start(self) -> None:
        """Begin to form batches, on the running event loop."""
        self._dispatcher = asyncio.get_running_loop().create_task(self._dispatch())

    async def drain(self) -> None:
        """Refuse new items with Draining and wait until the accepted ones are answered."""
        self._is_draining = True
        await self._is_empty.wait()

    async def stop(self) -> None:
        """Drain, then end the dispatcher."""
        await self.drain()
        if self._dispatcher is not None:
            self._dispatcher.cancel()
            await asyncio.wait([self._dispatcher])

    async def submit(self, items: Sequence[ItemT], *, group: GroupT) -> tuple[list[ResultT], Stages]:
        """One result per item, in order, and where the time went.

        Raises QueueFull if the items do not fit (none is then accepted),
        Draining during a drain, and whatever `forward` or `prepare` raised. Items
        of a call that is cancelled, be it by its deadline, are dropped before
        they cost work.
        """
        with self.places(len(items)):
            return await self.submit_placed(items, group=group)

    @contextmanager
    def places(self, count: int) -> Iterator[None]:
        """Hold places for `count` items that `submit_placed` will bring, for a call that has other work before it.

        Raises QueueFull or Draining at once, before that work was done; a drain
        waits for who holds places.
        """
        self._admit(count)
        try:
            yield
        finally:
            self._give_back(count)

    async def submit_placed(self, items: Sequence[ItemT], *, group: GroupT) -> tuple[list[ResultT], Stages]:
        """As `submit`, for items whose places are held."""
        call = _Call([None] * len(items), len(items), asyncio.get_running_loop().create_future())
        try:
            self._enqueue(call, items, group=group)
            return call.results, await call.answered
        finally:
            self._drop_missing(call)

    def _admit(self, count: int) -> None:
        if self._is_draining:
            raise Draining("the encoder is finishing accepted work before it stops")
        if self._accepted + count > self._settings.max_queue:
            limit = self._settings.max_queue
            message = f"queue: {self._accepted} items wait and {count} more do not fit, limit {limit}"
            raise QueueFull(message, retry_after_s=self._pace.wait_s(self._accepted), limit=limit)
        self._accepted += count
        self._is_empty.clear()

    def _enqueue(self, call: _Call, items: Sequence[ItemT], *, group: GroupT) -> None:
        now = self._now()
        for index, item in enumerate(items):
            self._waiting.append(_Job(call, index, group, item, self._size_of(item), now))
        if not items:
            call.answered.set_result(Stages())
        self._pump()

    def _drop_missing(self, call: _Call) -> None:
        if call.missing:
            call.answered.cancel()
            self._waiting = deque(job for job in self._waiting if not job.is_dropped)
            self._ready = [job for job in self._ready if not job.is_dropped]
            self._pump()

    def _give_back(self, count: int) -> None:
        self._accepted -= count
        if not self._accepted:
            self._is_empty.set()

    # Preparing

    def _pump(self) -> None:
        """Move waiting items on, as many as may be prepared ahead of the lane."""
        while self._waiting and self._preparing + len(self._ready) < self._limit_ahead():
            job = self._waiting.popleft()
            if self._prepare is None:
                job.ready = job.item
                self._add_ready(job)
            elif not job.is_dropped:
                self._start_preparing(job, self._prepare)

    def _limit_ahead(self) -> int:
        return self._ahead if self._prepare is not None else self._settings.max_queue

    def _start_preparing(self, job: _Job, prepare: Callable[[GroupT, ItemT], ReadyT | Finished[ResultT]]) -> None:
        self._preparing += 1
        work = partial(_timed, partial(prepare, job.group, job.item), self._now)
        done = asyncio.get_running_loop().run_in_executor(self._pool, work)
        done.add_done_callback(partial(self._on_prepared, job))

    def _on_prepared(self, job: _Job, done: asyncio.Future[tuple[Any, float]]) -> None:
        self._preparing -= 1
        error = done.exception()
        if error is not None:
            _fail(job, error)
        else:
            self._accept_prepared(job, *done.result())
        self._pump()

    def _accept_prepared(self, job: _Job, ready: ReadyT | Finished[ResultT], seconds: float) -> None:
        job.prepare_s = seconds
        if job.is_dropped:
            return
        if isinstance(ready, Finished):
            self._answer(job, ready.result)
        else:
            job.ready = ready
            self._add_ready(job)

    def _add_ready(self, job: _Job) -> None:
        self._ready.append(job)
        if len(self._ready) >= self._goal:
            self._goal_met.set()

    # Batches

    async def _dispatch(self) -> None:
        while True:
            await self._until_ready(1)
            if self._lane.is_free:
                await self._wait_for_company()
            await self._lane.turn()
            batch = self._take_batch()
            if not batch:
                self._lane.done()
                continue
            task = asyncio.get_running_loop().create_task(self._pass(batch))
            self._passes.add(task)
            task.add_done_callback(self._passes.discard)

    async def _until_ready(self, count: int) -> None:
        self._goal = count
        self._goal_met.clear()
        if len(self._ready) < count:
            await self._goal_met.wait()

    async def _wait_for_company(self) -> None:
        # Callers that wait for their answers come back together, so the last batch says how many to expect. A lone
        # caller expects nobody and never waits; a queue that fills while the lane is busy has waited already.
        if len(self._ready) >= self._company:
            return
        try:
            async with asyncio.timeout(self._settings.max_wait_ms / 1000):
                await self._until_ready(self._company)
        except TimeoutError:
            pass

    def _take_batch(self) -> list[_Job]:
        """The oldest ready item and those of its group that are nearest to it in size, oldest first among equals."""
        self._ready = [job for job in self._ready if not job.is_dropped]
        if not self._ready:
            return []
        head = self._ready[0]
        mates = [job for job in self._ready if job.group is head.group]
        if len(mates) > self._settings.max_batch:
            mates = sorted(mates, key=lambda job: abs(job.size - head.size))[: self._settings.max_batch]
        taken = {id(job) for job in mates}
        self._ready = [job for job in self._ready if id(job) not in taken]
        self._company = len(mates)
        self._pump()
        return mates

    async def _pass(self, batch: list[_Job]) -> None:
        work = partial(_timed, partial(self._forward, batch[0].group, [job.ready for job in batch]), self._now)
        running = self._lane.start(work)
        await asyncio.wait([running])
        self._lane.done()
        error = running.exception()
        if error is not None:
            for job in batch:
                _fail(job, error)
            return
        results, seconds = running.result()
        self._pace.observe(seconds=seconds, items=len(batch))
        for job, result in zip(batch, results, strict=True):
            job.forward_s = seconds
            self._answer(job, result)

    def _answer(self, job: _Job, result: ResultT) -> None:
        call = job.call
        if call.answered.done():
            return
        call.results[job.index] = result
        call.missing -= 1
        if not call.missing:
            waited = self._now() - job.accepted - job.prepare_s - job.forward_s
            call.answered.set_result(Stages(queue=max(waited, 0.0), decode=job.prepare_s, forward=job.forward_s))


def _fail(job: _Job, error: BaseException) -> None:
    if not job.call.answered.done():
        job.call.answered.set_exception(error)


def _timed(work: Callable[[], ResultT], now: Callable[[], float]) -> tuple[ResultT, float]:
    began = now()
    return work(), now() - began
