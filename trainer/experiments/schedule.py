"""Tasks that wait for one another, run as far apart as an executor can."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from sightline.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Task:
    """A call to make once the tasks that it needs are done."""

    key: str
    needs: tuple[str, ...] = ()
    function: Callable[..., None]
    arguments: tuple[Any, ...]


class Executor(Protocol):
    """Runs calls, here or elsewhere; what it was given first it starts first."""

    def submit(self, key: str, function: Callable[..., None], *arguments: Any) -> None:
        """Take a call on; it may start now or later."""

    def next_done(self) -> str:
        """Wait for a call to end and give its key; an error that it raised is raised here."""


class LocalExecutor:
    """One call after the other, in this process."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[str, Callable[..., None], tuple[Any, ...]]] = deque()

    def submit(self, key: str, function: Callable[..., None], *arguments: Any) -> None:
        """Put the call at the end of the queue."""
        self._waiting.append((key, function, arguments))

    def next_done(self) -> str:
        """Run the oldest call."""
        key, function, arguments = self._waiting.popleft()
        function(*arguments)
        return key


def run_tasks(tasks: Sequence[Task], *, executor: Executor, on_done: Callable[[str], None]) -> None:
    """Run every task after those it needs, earlier ones first; `on_done` is told each key in this thread.

    Needs that are no task count as done. Raises UsageError if tasks wait for one another in a circle.
    """
    keys = {task.key for task in tasks}
    open_needs = {task.key: set(task.needs) & keys for task in tasks}
    waiting = list(tasks)
    num_running = 0
    while waiting or num_running:
        ready = [task for task in waiting if not open_needs[task.key]]
        waiting = [task for task in waiting if open_needs[task.key]]
        for task in ready:
            executor.submit(task.key, task.function, *task.arguments)
        num_running += len(ready)
        if not num_running:
            raise UsageError(f"tasks wait for one another: {', '.join(task.key for task in waiting)}")
        done = executor.next_done()
        num_running -= 1
        for needs in open_needs.values():
            needs.discard(done)
        on_done(done)
