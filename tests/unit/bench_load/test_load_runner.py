from __future__ import annotations

import asyncio

import numpy as np
import pytest

from bench.load.plan import LoadPlan
from bench.load.runner import OK, SHED, UNFINISHED, Outcome, Runner, Sample
from bench.load.summary import knee, summarise
from bench.load.sweep import measure, rising_rates
from sightline.errors import QueueFull

PLAN = LoadPlan(rate=200.0, duration_s=0.1, mix={"search": 1.0}, timeout_s=0.2)


async def answer(number: int, timeout_s: float) -> Outcome:
    return Outcome()


async def test_every_due_call_is_made_once() -> None:
    made = []

    async def note(number: int, timeout_s: float) -> Outcome:
        made.append(number)
        return Outcome()

    samples = await Runner(PLAN, calls={"search": note}).run()
    assert made == list(range(20))
    assert {sample.code for sample in samples} == {OK}


async def test_a_stalled_service_does_not_hold_back_later_calls() -> None:
    stall = asyncio.Event()
    made = []

    async def stalled(number: int, timeout_s: float) -> Outcome:
        made.append(number)
        if number == PLAN.rate * PLAN.duration_s - 1:
            stall.set()  # the last call is made although not one has come back
        await stall.wait()
        return Outcome()

    samples = await Runner(PLAN, calls={"search": stalled}).run()
    assert len(made) == 20
    # Omission would report 20 fast calls; from the due time the first one waited for the whole run.
    assert max(sample.latency_s for sample in samples) >= 0.09


async def test_latency_counts_from_the_due_time_and_not_from_the_start() -> None:
    loop = asyncio.get_running_loop()

    async def block_the_loop(number: int, timeout_s: float) -> Outcome:
        until = loop.time() + 0.02
        while loop.time() < until:  # this process is late for everything behind it
            pass
        return Outcome()

    plan = LoadPlan(rate=200.0, duration_s=0.05, mix={"search": 1.0})
    samples = await Runner(plan, calls={"search": block_the_loop}).run()
    assert max(sample.latency_s for sample in samples) >= 0.1
    assert max(sample.lateness_s for sample in samples) >= 0.05


async def test_refusals_keep_their_code_and_reason() -> None:
    async def refuse(number: int, timeout_s: float) -> Outcome:
        raise QueueFull("full", retry_after_s=0.1, limit=1)

    samples = await Runner(PLAN, calls={"search": refuse}).run()
    assert {(sample.code, sample.reason) for sample in samples} == {("RESOURCE_EXHAUSTED", "QUEUE_FULL")}


async def test_calls_beyond_the_cap_are_shed_and_counted() -> None:
    plan = LoadPlan(rate=200.0, duration_s=0.1, mix={"search": 1.0}, timeout_s=0.05, max_in_flight=3)

    async def hang(number: int, timeout_s: float) -> Outcome:
        await asyncio.Event().wait()
        return Outcome()

    samples = await Runner(plan, calls={"search": hang}, grace_s=0.0).run()
    codes = [sample.code for sample in samples]
    assert (codes.count(SHED), codes.count(UNFINISHED)) == (17, 3)


async def test_calls_that_never_end_do_not_keep_the_run_alive() -> None:
    plan = LoadPlan(rate=100.0, duration_s=0.05, mix={"search": 1.0}, timeout_s=0.01)

    async def hang(number: int, timeout_s: float) -> Outcome:
        await asyncio.Event().wait()
        return Outcome()

    samples = await Runner(plan, calls={"search": hang}, grace_s=0.0).run()
    assert [sample.code for sample in samples] == [UNFINISHED] * 5


async def test_a_defect_of_this_program_is_not_hidden_among_the_codes() -> None:
    async def fail(number: int, timeout_s: float) -> Outcome:
        raise KeyError("defect")

    with pytest.raises(KeyError):
        await Runner(PLAN, calls={"search": fail}).run()


def sample(latency_s: float, *, code: str = OK, kind: str = "search", first_text_s: float | None = None) -> Sample:
    return Sample(kind=kind, due_s=0.0, lateness_s=0.0, latency_s=latency_s, code=code, first_text_s=first_text_s)


def test_percentiles_equal_sorting_by_hand() -> None:
    seconds = np.random.default_rng(0).exponential(0.1, 1001)
    summary = summarise(PLAN, [sample(s) for s in seconds], objectives_ms={"search": 100.0})
    in_order = sorted(seconds)
    assert summary.total.latency.p50_ms == pytest.approx(in_order[500] * 1000)
    assert summary.total.latency.p99_ms == pytest.approx(in_order[990] * 1000)


def test_goodput_counts_calls_that_succeed_within_the_objective() -> None:
    samples = [sample(0.01), sample(0.01, code="UNAVAILABLE"), sample(5.0)]
    summary = summarise(PLAN, samples, objectives_ms={"search": 100.0})
    assert (summary.total.ok, summary.total.in_objective) == (2, 1)
    assert summary.total.goodput == pytest.approx(1 / PLAN.duration_s)
    assert summary.total.codes == {"OK": 2, "UNAVAILABLE": 1}


async def test_a_sweep_stops_once_more_load_shows_no_more_and_finds_the_knee() -> None:
    rates: list[float] = []

    async def capacity_100(number: int, timeout_s: float) -> Outcome:
        if rates[-1] > 100 and number % 4:
            raise QueueFull("full", retry_after_s=0.1, limit=1)
        return Outcome()

    async def pause() -> None:
        rates.append(wanted[len(rates)])

    wanted = rising_rates(50.0, factor=2.0, steps=6)
    rates.append(wanted[0])
    measured = await measure(
        PLAN,
        rates=wanted,
        calls={"search": capacity_100},
        objectives_ms={"search": 1000.0},
        report=lambda run: None,
        pause=pause,
    )
    assert [run.rate for run in measured.runs] == [50.0, 100.0, 200.0]
    best = knee(measured.runs, share=0.95)
    assert best is not None
    assert best.rate == 100.0
