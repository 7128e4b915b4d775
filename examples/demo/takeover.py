"""Callers that never pause, and what they see when a second release is published."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from examples.demo.counting import Tally
from examples.demo.measure import turns_of
from sightline.client import AsyncClient
from sightline.data.dialogues import query_text
from sightline.data.questions import QuestionRecord
from sightline.errors import SightlineError
from sightline.registry import ChannelState, Registry

POLL_INTERVAL_S = 0.1
SEEN_WITHIN_S = 60.0
PAUSE_S = 0.05
"""Between two calls of one caller: traffic without pause, yet training keeps most of a small machine."""


@dataclass(kw_only=True)
class Takeover:
    """What the callers saw."""

    tally: Tally = field(default_factory=Tally)
    generations: dict[str, dict[int, float]] = field(default_factory=dict)
    """Service -> generation -> when a reply first named it, in seconds since the epoch."""
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    def saw(self, service: str, generation: int) -> None:
        """Note that a reply of `service` named `generation`."""
        self.generations.setdefault(service, {}).setdefault(generation, time.time())
        self._news.set()

    async def wait_for(self, generation: int, *, since_s: float) -> float:
        """Seconds from `since_s` until encoder and generator both named `generation`. Raises TimeoutError."""
        async with asyncio.timeout(SEEN_WITHIN_S):
            while not all(generation in self.generations.get(name, {}) for name in ("encoder", "generator")):
                self._news.clear()
                await self._news.wait()
        return max(self.generations[name][generation] for name in ("encoder", "generator")) - since_s


@contextlib.asynccontextmanager
async def callers(client: AsyncClient, questions: Sequence[QuestionRecord]) -> AsyncIterator[Takeover]:
    """Call all three services in turn, one caller each, until the block ends."""
    takeover = Takeover()
    stopping = asyncio.Event()
    loops = [asyncio.create_task(_call_forever(kind, client, questions, takeover, stopping)) for kind in _CALLS]
    try:
        yield takeover
    finally:
        stopping.set()
        await asyncio.gather(*loops)


async def next_move(registry: Registry, channel: str, *, after: int) -> ChannelState:
    """The channel's state once its generation is beyond `after`."""
    while True:
        state = await asyncio.to_thread(registry.channel, channel)
        if state is not None and state.generation > after:
            return state
        await asyncio.sleep(POLL_INTERVAL_S)


async def _call_forever(
    kind: str, client: AsyncClient, questions: Sequence[QuestionRecord], takeover: Takeover, stopping: asyncio.Event
) -> None:
    for question in itertools.cycle(questions):
        if stopping.is_set():
            return
        with contextlib.suppress(SightlineError):
            generation = await takeover.tally.count(_CALLS[kind](client, question))
            takeover.saw(kind, generation)
        await asyncio.sleep(PAUSE_S)


async def _encode(client: AsyncClient, question: QuestionRecord) -> int:
    return (await client.encode_texts([question.context[-1]])).served.generation


async def _search(client: AsyncClient, question: QuestionRecord) -> int:
    return (await client.search_images(query_text(question.context), k=3)).served.generation


async def _reply(client: AsyncClient, question: QuestionRecord) -> int:
    return (await client.reply(turns_of(question), max_new_tokens=16)).served.generation


_CALLS = {"encoder": _encode, "retriever": _search, "generator": _reply}
