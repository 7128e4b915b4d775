from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator
from contextlib import ExitStack

import pytest

from generator_svc.engine import Chunk, Finished, Prepared, ReplyEngine, ReplyJob, StopSignal
from generator_svc.settings import GeneratorSettings
from sightline.errors import Cancelled, DeadlinePassed, QueueFull
from sightline.models.generator_model import GenerationResult, PreparedContext


class CountingModel:
    """Counts its steps; each one needs a permit, so that a test decides how far a reply gets."""

    def __init__(self, *, permits: int = 1000) -> None:
        self.permits = threading.Semaphore(permits)
        self.num_prepared = 0
        self.steps = 0

    def prepare(self, turns: list[str], images: list[object]) -> PreparedContext:
        self.num_prepared += 1
        return PreparedContext(memory=None, context_tokens=3, dropped_turns=0, image_weights=[])  # type: ignore[arg-type]

    def stream(
        self, prepared: PreparedContext, *, max_new_tokens: int, should_stop: Callable[[], bool]
    ) -> Generator[str, None, GenerationResult]:
        words: list[str] = []
        while len(words) < max_new_tokens:
            if should_stop():
                return GenerationResult(text="".join(words), finish_reason="cancelled", num_tokens=len(words))
            self.permits.acquire()
            self.steps += 1
            words.append(f"{self.steps} ")
            yield words[-1]
        return GenerationResult(text="".join(words), finish_reason="length", num_tokens=len(words))

    def generate(self, prepared: PreparedContext, *, max_new_tokens: int, num_beams: int, should_stop) -> object:
        steps = self.stream(prepared, max_new_tokens=max_new_tokens, should_stop=should_stop)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                return end.value


class BrokenModel(CountingModel):
    def prepare(self, turns: list[str], images: list[object]) -> PreparedContext:
        raise ArithmeticError("broken")


@pytest.fixture
def engine():
    made = ReplyEngine(GeneratorSettings(max_concurrent_replies=1, max_queued_replies=1, flush_ms=0.0))
    yield made
    made.close()


def job(tokens: int = 5) -> ReplyJob:
    return ReplyJob(turns=["hello"], images=[], max_new_tokens=tokens)


async def test_a_stream_is_prepared_then_chunks_then_finished(engine: ReplyEngine) -> None:
    events = [event async for event in engine.stream(CountingModel(), job(), stop=StopSignal())]
    assert isinstance(events[0], Prepared)
    assert all(isinstance(event, Chunk) for event in events[1:-1])
    assert isinstance(events[-1], Finished)
    assert "".join(event.text for event in events[1:-1]) == events[-1].result.text == "1 2 3 4 5 "


async def test_a_whole_reply_equals_its_stream(engine: ReplyEngine) -> None:
    _, finished = await engine.generate(CountingModel(), job(), stop=StopSignal())
    assert finished.result.text == "1 2 3 4 5 "


async def test_closing_a_stream_stops_decoding_within_one_step(engine: ReplyEngine) -> None:
    model = CountingModel(permits=3)
    events = engine.stream(model, job(tokens=200), stop=StopSignal())
    for _ in range(4):  # prepared and three chunks; now the fourth step waits for its permit
        await anext(events)
    closing = asyncio.create_task(events.aclose())
    await asyncio.sleep(0)
    model.permits.release(200)
    await closing
    assert model.steps <= 4


async def test_a_cancelled_task_waits_until_the_model_is_no_longer_used(engine: ReplyEngine) -> None:
    model = CountingModel(permits=1)
    task = asyncio.create_task(engine.generate(model, job(tokens=200), stop=StopSignal()))
    while model.steps < 1:
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    model.permits.release(200)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert model.steps <= 2


async def test_a_passed_deadline_stops_decoding_within_one_step(engine: ReplyEngine) -> None:
    model = CountingModel()
    stop = StopSignal(time_remaining=lambda: 0.0 if model.steps >= 3 else 1.0)
    with pytest.raises(DeadlinePassed):
        async for _ in engine.stream(model, job(tokens=200), stop=stop):
            pass
    assert model.steps == 3


async def test_a_caller_who_is_gone_stops_decoding_within_one_step(engine: ReplyEngine) -> None:
    model = CountingModel()
    stop = StopSignal(is_cancelled=lambda: model.steps >= 3)
    with pytest.raises(Cancelled):
        await engine.generate(model, job(tokens=200), stop=stop)
    assert model.steps == 3


async def test_a_reply_whose_deadline_passed_in_the_queue_is_never_begun(engine: ReplyEngine) -> None:
    model = CountingModel()
    with pytest.raises(DeadlinePassed):
        await engine.generate(model, job(), stop=StopSignal(time_remaining=lambda: 0.0))
    assert model.num_prepared == 0


async def test_a_reply_cancelled_in_the_queue_is_never_begun(engine: ReplyEngine) -> None:
    model = CountingModel(permits=0)
    first = asyncio.create_task(engine.generate(model, job(), stop=StopSignal()))
    while model.num_prepared < 1:
        await asyncio.sleep(0)
    second = asyncio.create_task(engine.generate(model, job(), stop=StopSignal()))
    await asyncio.sleep(0)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    model.permits.release(200)
    await first
    assert model.num_prepared == 1


async def test_one_reply_more_than_the_places_is_refused_with_a_time_to_come_back(engine: ReplyEngine) -> None:
    with ExitStack() as places:
        places.enter_context(engine.admit())
        places.enter_context(engine.admit())
        with pytest.raises(QueueFull, match="limit 2") as refused, engine.admit():
            pass
    assert refused.value.retry_after_s > 0
    with engine.admit():
        assert engine.num_admitted == 1


async def test_a_place_is_free_again_after_a_failure(engine: ReplyEngine) -> None:
    with pytest.raises(ArithmeticError), engine.admit():
        await engine.generate(BrokenModel(), job(), stop=StopSignal())
    assert engine.num_admitted == 0


async def test_a_failing_model_fails_the_stream_and_not_the_engine(engine: ReplyEngine) -> None:
    with pytest.raises(ArithmeticError):
        [event async for event in engine.stream(BrokenModel(), job(), stop=StopSignal())]
    _, finished = await engine.generate(CountingModel(), job(), stop=StopSignal())
    assert finished.result.num_tokens == 5
