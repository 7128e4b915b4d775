"""Hot reload: watch a channel, load what it names beside what serves, check it, swap, and free the old one."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import random
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Generic, ParamSpec, TypeVar

from sightline.errors import DataCorrupt, ReleaseInvalid
from sightline.registry.channels import ChannelState
from sightline.registry.leases import Loaded, LoadedReleases
from sightline.registry.manifest import MANIFEST_NAME, Manifest, read_manifest
from sightline.registry.metrics import ReloadMetrics
from sightline.registry.registry import Registry

__all__ = ["HotReloader", "Loaded", "ReloadSettings", "ReloadState"]

T = TypeVar("T")
R = TypeVar("R")
P = ParamSpec("P")

MAX_SPACES = 2
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReloadSettings:
    """How a replica follows its channel."""

    poll_interval_s: float = 2.0
    """Seconds between two looks at the channel: delay of a new release against load on the storage."""
    poll_jitter: float = 0.2
    """Share by which each wait is shortened or lengthened at random, so that replicas do not load all at once."""
    first_backoff_s: float = 1.0
    """Wait after a failure that may pass; doubles with each further one."""
    max_backoff_s: float = 60.0
    """Longest such wait."""
    max_attempts: int = 3
    """How often loading a release may fail, for another reason than its content, before it is quarantined."""
    cached_releases: int = 4
    """How many releases the local cache keeps: disk against downloading again at a rollback."""
    look_back: int = 16
    """How many channel moves a starting replica searches for the previous embedding space and for a good release."""
    is_previous_space_kept: bool = True
    """Whether a starting replica also loads the last release of another space: memory against a gap in a migration."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReloadState:
    """Where a replica stands with its channel."""

    phase: str
    """"idle", "fetching", "verifying", "loading", "warming", "probing" or "swapping"."""
    serving_generation: int
    """The channel generation that answers; 0 before the first."""
    reloads: int
    """Releases swapped in since start."""
    failures: int
    """Attempts that failed since start."""
    quarantined: tuple[str, ...]
    """Releases that are not tried again until the channel names them under a new generation."""
    last_error: str
    """Why the last attempt failed; empty if none did."""


class _Stopping(Exception):
    """The reloader is being stopped between two phases."""


class HotReloader(Generic[T]):
    """Keeps the release that a channel names loaded, and swaps without a gap.

    `load`, `warm_up`, `probe` and `release` run in a thread of the reloader.
    A release that fails any of the first three is freed and never serves; the
    last good one keeps serving. Storage that does not answer is tried again
    for ever, with backoff: an outage is not the release's fault. A replica
    that starts while the channel names a bad release serves the last good one
    of the channel's history.
    """

    def __init__(
        self,
        *,
        registry: Registry,
        channel: str,
        cache_dir: Path,
        load: Callable[[Path, Manifest], T],
        warm_up: Callable[[T], None],
        probe: Callable[[T], None],
        release: Callable[[T], None],
        settings: ReloadSettings,
    ) -> None:
        self._registry = registry
        self._channel = channel
        self._cache_dir = cache_dir
        self._load = load
        self._warm_up = warm_up
        self._probe = probe
        self._release = release
        self._settings = settings
        self._metrics = ReloadMetrics.shared()
        self._loaded: LoadedReleases[T] = LoadedReleases(free=self._free, max_spaces=MAX_SPACES)
        self._executor = ThreadPoolExecutor(max_workers=2, thread_name_prefix="sightline-reload")
        self._checking = asyncio.Lock()
        self._stopping = asyncio.Event()
        self._poller: asyncio.Task[None] | None = None
        self._freeing: set[Future[None]] = set()
        self._quarantine: dict[str, int] = {}  # release id -> generation it was refused under
        self._attempts: dict[str, int] = {}
        self._has_looked_back = False
        self._setbacks = 0  # failures that may pass, since the last success
        self._state = ReloadState(
            phase="idle", serving_generation=0, reloads=0, failures=0, quarantined=(), last_error=""
        )

    async def start(self) -> None:
        """Load what the channel names, if it names anything, and follow the channel from then on.

        Returns when the first attempt is over; `is_ready` says whether it succeeded.
        """
        await self.check_once()
        self._poller = asyncio.create_task(self._poll(), name=f"follow-{self._channel}")

    async def stop(self) -> None:
        """Stop following, after the phase that is running, and free every release that is not leased."""
        self._stopping.set()
        if self._poller is not None:
            await self._poller
        async with self._checking:
            self._loaded.clear()
            await self._wait_until_freed()
        await asyncio.to_thread(self._executor.shutdown)

    @property
    def is_ready(self) -> bool:
        """Whether a release is loaded. Once true it stays true: no reload interrupts serving."""
        return self._loaded.newest() is not None

    def lease(self, space_id: str | None = None) -> contextlib.AbstractContextManager[Loaded[T]]:
        """The newest release, or the loaded one of `space_id`, for as long as the context lasts.

        May be called from any thread. Raises NotReady before the first
        release, EmbeddingSpaceMismatch if no loaded release has that space.
        """
        return self._loaded.lease(space_id)

    def spaces(self) -> list[str]:
        """The embedding spaces that can be leased now, newest first."""
        return self._loaded.spaces()

    def status(self) -> ReloadState:
        """Where this replica stands with its channel."""
        return dataclasses.replace(self._state, quarantined=tuple(sorted(self._quarantine)))

    async def check_once(self) -> bool:
        """Look at the channel once and take up what it names; whether another release serves now.

        Never raises for a bad release or storage: `status` says what happened.
        """
        async with self._checking:
            await self._wait_until_freed()
            before = self._loaded.newest()
            with contextlib.suppress(_Stopping):
                await self._follow_channel()
            self._set_phase("idle")
            after = self._loaded.newest()
            return after is not None and (before is None or before.manifest != after.manifest)

    def next_delay_s(self) -> float:
        """How long to wait before the next look at the channel, jittered; longer after failures that may pass."""
        settings = self._settings
        delay_s = settings.poll_interval_s
        if self._setbacks:
            backoff_s = settings.first_backoff_s * 2.0 ** min(self._setbacks - 1, 32)
            delay_s = min(max(backoff_s, delay_s), settings.max_backoff_s)
        return delay_s * random.uniform(1 - settings.poll_jitter, 1 + settings.poll_jitter)

    async def _poll(self) -> None:
        while not self._stopping.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), timeout=self.next_delay_s())
            if not self._stopping.is_set():
                await self.check_once()

    async def _follow_channel(self) -> None:
        state = await self._ask(self._registry.channel, self._channel)
        if state is None:
            return
        await self._take_up(state)
        if not self._has_looked_back:
            await self._look_back()

    async def _look_back(self) -> None:
        """Without a good newest release serve an older one; with one, load the previous space's beside it.

        Done once; again only after a setback.
        """
        num_failures = self._state.failures
        history = await self._ask(self._registry.history, self._channel, limit=self._settings.look_back) or []
        for older in history[1:]:
            if not self.is_ready:
                await self._take_up(older)
        newest = self._loaded.newest()
        if newest is not None and self._settings.is_previous_space_kept:
            await self._load_previous_space(history, space_id=newest.manifest.embedding_space_id)
        self._has_looked_back = newest is not None and self._state.failures == num_failures

    async def _load_previous_space(self, history: list[ChannelState], *, space_id: str) -> None:
        for older in history:
            if older.release_id in self._quarantine or older.generation >= self._state.serving_generation:
                continue
            manifest, error = await self._in_thread(self._registry.manifest, older.release_id)
            if error is not None and not isinstance(error, ReleaseInvalid):
                self._note_setback(error)
            if manifest is not None and manifest.embedding_space_id != space_id:
                loaded = await self._attempt(older)
                if loaded is not None:
                    self._loaded.put_oldest(loaded)
                return

    async def _take_up(self, state: ChannelState) -> None:
        if state.generation == self._state.serving_generation or not self._is_allowed(state):
            return
        if self._loaded.bring_forward(state.release_id, generation=state.generation):
            self._note_swap(state)
            return
        loaded = await self._attempt(state)
        if loaded is not None:
            self._enter("swapping")
            self._loaded.put_newest(loaded)
            self._note_swap(state)

    def _is_allowed(self, state: ChannelState) -> bool:
        """Whether to try this release: a refused one only under a new generation, which is somebody's order to."""
        refused_under = self._quarantine.get(state.release_id)
        if refused_under is not None and state.generation > refused_under:
            del self._quarantine[state.release_id]
            return True
        return refused_under is None

    async def _attempt(self, state: ChannelState) -> Loaded[T] | None:
        started = time.perf_counter()
        loaded, error = await self._in_thread(self._load_checked, state)
        if error is not None:
            self._note_failure(error, state=state)
            return None
        self._setbacks = 0
        self._attempts.pop(state.release_id, None)
        _log.info("loaded %s of channel %s in %.2f s", state.release_id, self._channel, time.perf_counter() - started)
        return loaded

    def _load_checked(self, state: ChannelState) -> Loaded[T]:
        """The release, fetched, verified, loaded, warmed up and probed; freed again if a check fails."""
        release_id = state.release_id
        folder = self._registry.fetch(
            release_id, into=self._cache_dir, keep=self._settings.cached_releases, on_stage=self._enter
        )
        manifest = read_manifest((folder / MANIFEST_NAME).read_bytes(), release_id=release_id)
        self._enter("loading")
        with contextlib.ExitStack() as undo:
            value = self._load(folder, manifest)
            undo.callback(self._release, value)
            self._enter("warming")
            self._warm_up(value)
            self._enter("probing")
            self._probe(value)
            undo.pop_all()
        return Loaded(value=value, manifest=manifest, generation=state.generation)

    async def _ask(self, question: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R | None:
        """The registry's answer; None, noted as a setback, if it has none now."""
        answer, error = await self._in_thread(question, *args, **kwargs)
        if error is not None:
            self._note_setback(error)
        return answer

    async def _in_thread(
        self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs
    ) -> tuple[R | None, BaseException | None]:
        """What `work` returned or raised. Storage backends and models raise anything, and none may end the poller."""
        future = asyncio.wrap_future(self._executor.submit(work, *args, **kwargs))
        await asyncio.wait({future})
        error = future.exception()
        if isinstance(error, _Stopping):
            raise error
        return (None, error) if error is not None else (future.result(), None)

    def _enter(self, phase: str) -> None:
        if self._stopping.is_set():
            raise _Stopping
        self._set_phase(phase)

    def _set_phase(self, phase: str) -> None:
        self._state = dataclasses.replace(self._state, phase=phase)

    def _note_swap(self, state: ChannelState) -> None:
        is_reload = self._state.serving_generation > 0
        self._state = dataclasses.replace(
            self._state, serving_generation=state.generation, reloads=self._state.reloads + is_reload
        )
        self._metrics.count(self._channel, result="swapped")
        self._metrics.set_generation(self._channel, generation=state.generation)
        _log.info("serving %s, generation %d of channel %s", state.release_id, state.generation, self._channel)

    def _note_failure(self, error: BaseException, *, state: ChannelState) -> None:
        """Quarantine the release, or count a failure that may pass: storage's without end, others up to a limit."""
        phase = self._state.phase
        self._note_setback(error, what=f"{state.release_id}, {phase}: ")
        is_bad = isinstance(error, ReleaseInvalid | DataCorrupt)
        if not is_bad and phase not in {"idle", "fetching", "verifying"}:
            self._attempts[state.release_id] = self._attempts.get(state.release_id, 0) + 1
            is_bad = self._attempts[state.release_id] >= self._settings.max_attempts
        if is_bad:
            self._quarantine[state.release_id] = state.generation
            self._attempts.pop(state.release_id, None)
            self._setbacks = 0
            self._metrics.count(self._channel, result="quarantined")
            _log.error("quarantined %s, generation %d of %s", state.release_id, state.generation, self._channel)

    def _note_setback(self, error: BaseException, *, what: str = "") -> None:
        message = f"{what}{str(error) or type(error).__name__}"
        self._setbacks += 1
        self._state = dataclasses.replace(self._state, failures=self._state.failures + 1, last_error=message)
        self._metrics.count(self._channel, result="failed")
        _log.warning("channel %s: %s", self._channel, message)

    def _free(self, value: T) -> None:
        try:
            future = self._executor.submit(self._release, value)
        except RuntimeError:
            # A lease outlived `stop`, which has shut the threads down.
            self._release(value)
            return
        self._freeing.add(future)
        future.add_done_callback(self._freeing.discard)

    async def _wait_until_freed(self) -> None:
        """Free what is retired before the next release is loaded: memory holds two, not three."""
        outcomes = await asyncio.gather(*map(asyncio.wrap_future, list(self._freeing)), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                _log.warning("channel %s: freeing a release failed: %s", self._channel, outcome)
