"""Starts calls when they are due and measures each from that moment: a slow service cannot slow the load down."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from bench.load.plan import Arrival, LoadPlan, arrivals
from sightline.errors import SightlineError

OK = "OK"
SHED = "SHED"
"""The code of a call that was due but not made, since `max_in_flight` calls were under way."""
UNFINISHED = "UNFINISHED"
"""The code of a call that was still under way when the run had to end."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a call tells of itself beyond its success: seconds to its first text, if it streams."""

    first_text_s: float | None = None


Call = Callable[[int, float], Awaitable[Outcome]]
"""Makes call `number` with a deadline of so many seconds; raises the SightlineError that it met."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One call. All times are seconds; latency and first text count from the moment at which the call was due."""

    kind: str
    due_s: float
    lateness_s: float
    latency_s: float
    code: str
    reason: str = ""
    first_text_s: float | None = None


class Runner:
    """Runs one plan on one event loop; calls get `grace_s` beyond their deadline to come back by themselves."""

    def __init__(self, plan: LoadPlan, *, calls: Mapping[str, Call], grace_s: float = 2.0) -> None:
        self._plan = plan
        self._calls = calls
        self._grace_s = grace_s
        self._samples: list[Sample] = []
        self._running: dict[asyncio.Task[None], Arrival] = {}
        self._defects: list[BaseException] = []
        self._loop = asyncio.get_running_loop()
        self._began_s = self._loop.time()

    async def run(self) -> list[Sample]:
        """One sample per due call, in the order in which they ended. Takes at most duration, timeout and grace.

        Raises what a call raised beside SightlineErrors: a defect of this program.
        """
        self._began_s = self._loop.time()
        for arrival in arrivals(self._plan):
            await self._until(arrival.due_s)
            self._start(arrival)
        if self._running:
            await asyncio.wait(self._running, timeout=self._plan.timeout_s + self._grace_s)
        await self._give_up()
        if self._defects:
            raise self._defects[0]
        return self._samples

    def _now_s(self) -> float:
        return self._loop.time() - self._began_s

    async def _until(self, due_s: float) -> None:
        # Sleeping a zero lets answers in even when this process is behind its schedule.
        await asyncio.sleep(max(0.0, due_s - self._now_s()))

    def _start(self, arrival: Arrival) -> None:
        if len(self._running) >= self._plan.max_in_flight:
            self._add(arrival, started_s=self._now_s(), code=SHED)
            return
        task = asyncio.create_task(self._make(arrival))
        self._running[task] = arrival
        task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[None]) -> None:
        self._running.pop(task, None)
        if not task.cancelled() and (defect := task.exception()) is not None:
            self._defects.append(defect)

    async def _make(self, arrival: Arrival) -> None:
        started_s = self._now_s()
        try:
            outcome = await self._calls[arrival.kind](arrival.number, self._plan.timeout_s)
        except SightlineError as error:
            self._add(arrival, started_s=started_s, code=error.code, reason=error.reason)
        else:
            self._add(arrival, started_s=started_s, code=OK, first_text_s=outcome.first_text_s)

    def _add(
        self, arrival: Arrival, *, started_s: float, code: str, reason: str = "", first_text_s: float | None = None
    ) -> None:
        lateness_s = started_s - arrival.due_s
        self._samples.append(
            Sample(
                kind=arrival.kind,
                due_s=arrival.due_s,
                lateness_s=lateness_s,
                latency_s=self._now_s() - arrival.due_s,
                code=code,
                reason=reason,
                first_text_s=None if first_text_s is None else first_text_s + lateness_s,
            )
        )

    async def _give_up(self) -> None:
        left = dict(self._running)
        for task, arrival in left.items():
            task.cancel()
            self._add(arrival, started_s=arrival.due_s, code=UNFINISHED)
        await asyncio.gather(*left, return_exceptions=True)
