"""Batches: who shares one, who waits, who is refused, and what happens to a neighbour that fails."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import pytest

from encoder_svc.batching import Batcher, BatchSettings, Finished, ForwardLane, Stages
from sightline.errors import Draining, PictureUnreadable, QueueFull, SettingInvalid

FOREVER_MS = 3_600_000.0


class Gate:
    """A forward pass that doubles its items, notes every batch, and lets one through at a time while it is shut."""

    def __init__(self, *, is_open: bool = True) -> None:
        self.batches: list[tuple[object, list[int]]] = []
        self.threads: set[str] = set()
        self._open = threading.Event()
        self._entered = threading.Semaphore(0)
        if is_open:
            self._open.set()

    def open(self) -> None:
        self._open.set()

    async def entered(self) -> None:
        """Return once one more pass has begun."""
        await asyncio.to_thread(self._entered.acquire)

    def __call__(self, group: object, items: list[int]) -> list[int]:
        self.batches.append((group, items))
        self.threads.add(threading.current_thread().name)
        self._entered.release()
        assert self._open.wait(10)
        return [2 * item for item in items]

    @property
    def sizes(self) -> list[int]:
        return [len(items) for _, items in self.batches]


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as threads:
        yield threads


@asynccontextmanager
async def running(
    forward: Callable[[object, list[int]], list[int]],
    *,
    max_batch: int = 4,
    max_queue: int = 16,
    max_wait_ms: float = 0.0,
    lane: ForwardLane | None = None,
    **more: object,
) -> AsyncIterator[Batcher[object, int, int, int]]:
    own = lane or ForwardLane()
    settings = BatchSettings(max_batch=max_batch, max_queue=max_queue, max_wait_ms=max_wait_ms)
    batcher: Batcher[object, int, int, int] = Batcher(forward, lane=own, settings=settings, **more)  # type: ignore[arg-type]
    batcher.start()
    try:
        yield batcher
    finally:
        await batcher.stop()
        if lane is None:
            own.close()


async def in_background(batcher: Batcher[object, int, int, int], items: list[int], group: object = "g") -> asyncio.Task:
    task = asyncio.create_task(batcher.submit(items, group=group))
    await asyncio.sleep(0)
    return task


async def test_results_come_back_in_order() -> None:
    async with running(Gate(), max_batch=3) as batcher:
        results, _ = await batcher.submit(list(range(10)), group="g")
    assert results == [2 * item for item in range(10)]


async def test_an_empty_call_is_answered_without_a_pass() -> None:
    gate = Gate()
    async with running(gate) as batcher:
        assert await batcher.submit([], group="g") == ([], Stages())
    assert gate.batches == []


async def test_callers_that_arrive_during_a_pass_share_the_next() -> None:
    gate = Gate(is_open=False)
    async with running(gate, max_batch=8) as batcher:
        tasks = [await in_background(batcher, [0])]
        await gate.entered()
        tasks += [await in_background(batcher, [number]) for number in range(1, 6)]
        gate.open()
        answers = [(await task)[0] for task in tasks]
    assert answers == [[0], [2], [4], [6], [8], [10]]
    assert gate.sizes == [1, 5]


@pytest.mark.parametrize(("count", "sizes"), [(7, [7]), (8, [7, 1]), (15, [7, 7, 1])])
async def test_a_batch_never_exceeds_its_limit(count: int, sizes: list[int]) -> None:
    gate = Gate()
    async with running(gate, max_batch=7) as batcher:
        await batcher.submit(list(range(count)), group="g")
    assert gate.sizes == sizes


async def test_a_lone_caller_never_waits_for_company() -> None:
    gate = Gate()
    async with running(gate, max_wait_ms=FOREVER_MS) as batcher:
        for number in range(3):
            assert (await batcher.submit([number], group="g"))[0] == [2 * number]
    assert gate.sizes == [1, 1, 1]


async def test_an_idle_lane_waits_for_as_many_as_came_last_time() -> None:
    gate = Gate()
    async with running(gate, max_wait_ms=FOREVER_MS) as batcher:
        await batcher.submit([1, 2, 3], group="g")
        tasks = [await in_background(batcher, [number]) for number in (4, 5)]
        assert gate.sizes == [3]
        tasks.append(await in_background(batcher, [6]))
        await asyncio.gather(*tasks)
    assert gate.sizes == [3, 3]


async def test_the_wait_for_company_ends() -> None:
    gate = Gate()
    async with running(gate, max_wait_ms=1.0) as batcher:
        await batcher.submit([1, 2, 3], group="g")
        await batcher.submit([4], group="g")
    assert gate.sizes == [3, 1]


async def test_a_full_queue_refuses_a_call_whole_and_says_when_to_come_back() -> None:
    gate = Gate(is_open=False)
    async with running(gate, max_queue=4) as batcher:
        task = await in_background(batcher, [1, 2])
        with pytest.raises(QueueFull, match="2 items wait and 3 more do not fit, limit 4") as caught:
            await batcher.submit([3, 4, 5], group="g")
        assert batcher.num_accepted == 2
        at_the_limit = await in_background(batcher, [3, 4])
        gate.open()
        assert (await task)[0] + (await at_the_limit)[0] == [2, 4, 6, 8]
    assert 0 < caught.value.retry_after_s <= 10
    assert caught.value.metadata == {"limit": "4"}


async def test_the_queue_has_room_again_after_an_answer() -> None:
    async with running(Gate(), max_queue=4) as batcher:
        for _ in range(5):
            await batcher.submit([1, 2, 3, 4], group="g")
        assert batcher.num_accepted == 0


async def test_items_of_different_releases_never_share_a_pass() -> None:
    gate = Gate(is_open=False)
    async with running(gate, max_batch=8) as batcher:
        tasks = [await in_background(batcher, [0], "old")]
        await gate.entered()
        for number in range(1, 5):
            tasks.append(await in_background(batcher, [number], "old" if number % 2 else "new"))
        gate.open()
        await asyncio.gather(*tasks)
    assert gate.batches == [("old", [0]), ("old", [1, 3]), ("new", [2, 4])]


async def test_a_cancelled_call_is_dropped_before_it_costs_a_pass() -> None:
    gate = Gate(is_open=False)
    async with running(gate, max_queue=4) as batcher:
        first = await in_background(batcher, [1])
        await gate.entered()
        cancelled = await in_background(batcher, [2, 3, 4])
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        assert batcher.num_accepted == 1
        last = await in_background(batcher, [5])
        gate.open()
        assert (await first)[0] + (await last)[0] == [2, 10]
    assert gate.batches == [("g", [1]), ("g", [5])]


async def test_a_call_past_its_deadline_is_dropped_like_a_cancelled_one() -> None:
    gate = Gate(is_open=False)
    async with running(gate) as batcher:
        first = await in_background(batcher, [1])
        await gate.entered()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await batcher.submit([2], group="g")
        gate.open()
        await first
    assert gate.sizes == [1]


async def test_a_call_cancelled_during_its_pass_harms_nobody() -> None:
    gate = Gate(is_open=False)
    async with running(gate) as batcher:
        doomed = await in_background(batcher, [1])
        await gate.entered()
        waiting = await in_background(batcher, [2])
        doomed.cancel()
        gate.open()
        assert (await waiting)[0] == [4]


async def test_a_pass_that_raises_fails_its_callers_and_no_others() -> None:
    def forward(group: object, items: list[int]) -> list[int]:
        if group == "broken":
            raise RuntimeError("out of memory")
        return items

    async with running(forward) as batcher:
        broken, whole = await in_background(batcher, [1, 2], "broken"), await in_background(batcher, [3], "whole")
        with pytest.raises(RuntimeError, match="out of memory"):
            await broken
        assert (await whole)[0] == [3]
        assert batcher.num_accepted == 0


async def test_one_bad_item_fails_alone(pool: ThreadPoolExecutor) -> None:
    def prepare(group: object, item: int) -> int | Finished[object]:
        return Finished(PictureUnreadable("bad")) if item == 2 else item

    async with running(Gate(), prepare=prepare, pool=pool) as batcher:
        results, _ = await batcher.submit([1, 2, 3], group="g")
    assert [results[0], results[2]] == [2, 6]
    assert isinstance(results[1], PictureUnreadable)


async def test_a_defect_while_preparing_fails_the_call(pool: ThreadPoolExecutor) -> None:
    def prepare(group: object, item: int) -> int:
        return 1 // item

    async with running(Gate(), prepare=prepare, pool=pool) as batcher:
        with pytest.raises(ZeroDivisionError):
            await batcher.submit([1, 0], group="g")
        assert (await batcher.submit([1], group="g"))[0] == [2]


async def test_a_finished_item_needs_no_pass(pool: ThreadPoolExecutor) -> None:
    gate = Gate()
    async with running(gate, prepare=lambda group, item: Finished(item + 1), pool=pool) as batcher:
        assert (await batcher.submit([1, 2], group="g"))[0] == [2, 3]
    assert gate.batches == []


async def test_the_next_batch_is_prepared_during_a_pass(pool: ThreadPoolExecutor) -> None:
    gate, prepared = Gate(is_open=False), threading.Semaphore(0)

    def prepare(group: object, item: int) -> int:
        prepared.release()
        return item

    async with running(gate, prepare=prepare, pool=pool) as batcher:
        first = await in_background(batcher, [1])
        await gate.entered()
        second = await in_background(batcher, [2, 3])
        for _ in range(3):
            assert await asyncio.to_thread(prepared.acquire, timeout=10)
        gate.open()
        assert (await first)[0] + (await second)[0] == [2, 4, 6]


async def test_no_more_is_prepared_ahead_than_allowed(pool: ThreadPoolExecutor) -> None:
    gate, prepared = Gate(is_open=False), []

    def prepare(group: object, item: int) -> int:
        prepared.append(item)
        return item

    async with running(gate, max_batch=2, prepare=prepare, pool=pool) as batcher:
        first = await in_background(batcher, [0])
        await gate.entered()
        rest = await in_background(batcher, list(range(1, 12)))
        await asyncio.to_thread(pool.submit(lambda: None).result)
        assert len(prepared) <= 1 + 2 * 2
        gate.open()
        await asyncio.gather(first, rest)
    assert sorted(prepared) == list(range(12))


async def test_two_queues_take_turns_on_one_lane() -> None:
    order: list[str] = []
    gate = Gate(is_open=False)

    def named(name: str) -> Callable[[object, list[int]], list[int]]:
        def forward(group: object, items: list[int]) -> list[int]:
            order.append(name)
            return gate(group, items)

        return forward

    lane = ForwardLane()
    async with (
        running(named("text"), max_batch=1, lane=lane) as texts,
        running(named("picture"), max_batch=1, lane=lane) as pictures,
    ):
        tasks = [await in_background(texts, [0])]
        await gate.entered()
        tasks += [await in_background(texts, [1, 2, 3]), await in_background(pictures, [1, 2, 3])]
        gate.open()
        await asyncio.gather(*tasks)
    lane.close()
    assert order == ["text"] + ["text", "picture"] * 3


async def test_passes_run_off_the_event_loop() -> None:
    gate = Gate()
    async with running(gate) as batcher:
        await batcher.submit([1], group="g")
    assert threading.current_thread().name not in gate.threads


async def test_items_of_like_size_share_a_pass_and_the_oldest_always_goes() -> None:
    gate = Gate()
    async with running(gate, max_batch=3, size_of=lambda item: item) as batcher:
        results, _ = await batcher.submit([50, 1, 51, 2, 52, 3], group="g")
    assert results == [100, 2, 102, 4, 104, 6]
    assert [items for _, items in gate.batches] == [[50, 51, 52], [1, 2, 3]]


async def test_a_drain_refuses_new_calls_and_answers_the_accepted() -> None:
    gate = Gate(is_open=False)
    async with running(gate) as batcher:
        accepted = await in_background(batcher, [1, 2])
        drain = asyncio.create_task(batcher.drain())
        await asyncio.sleep(0)
        with pytest.raises(Draining):
            await batcher.submit([3], group="g")
        assert not drain.done()
        gate.open()
        await drain
        assert (await accepted)[0] == [2, 4]


async def test_stages_tell_the_item_that_was_answered_last(pool: ThreadPoolExecutor) -> None:
    ticks = iter(range(100))
    async with running(Gate(), prepare=lambda group, item: item, pool=pool, now=lambda: next(ticks)) as batcher:
        _, stages = await batcher.submit([1], group="g")
    # accepted 0, prepared 1 to 2, forward 3 to 4, answered 5: three of the five ticks were waiting.
    assert stages == Stages(queue=3, decode=1, forward=1)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"max_batch": 0}, "max_batch: got 0"),
        ({"max_batch": 9}, "max_batch: got 9, expected 1 to max_queue, 8"),
        ({"max_wait_ms": -1.0}, "max_wait_ms"),
        ({"prepare_ahead": -1}, "prepare_ahead"),
    ],
)
def test_settings_out_of_range_are_refused(changed: dict[str, int], named: str) -> None:
    with pytest.raises(SettingInvalid, match=named):
        BatchSettings(**{"max_batch": 4, "max_queue": 8} | changed)  # type: ignore[arg-type]
