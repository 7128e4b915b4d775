"""The loaded releases of one replica, and the leases that keep them alive while work runs on them."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from sightline.errors import EmbeddingSpaceMismatch, NotReady
from sightline.registry.manifest import Manifest

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loaded(Generic[T]):
    """One loaded release; take it once and use it for a whole call, so that no call mixes two."""

    value: T
    """What `load` returned."""
    manifest: Manifest
    """What the release says of itself."""
    generation: int
    """The channel generation that brought it."""


class _Slot(Generic[T]):
    """A loaded release and the number of leases on it."""

    def __init__(self, loaded: Loaded[T]) -> None:
        self.loaded = loaded
        self.num_leases = 0
        self.is_retired = False

    @property
    def space_id(self) -> str:
        return self.loaded.manifest.embedding_space_id


class LoadedReleases(Generic[T]):
    """At most one release for each of the `max_spaces` newest embedding spaces.

    Safe to use from any thread. `free` is called once for every value that is
    neither served nor leased any more, from whichever thread ends its last lease.
    """

    def __init__(self, *, free: Callable[[T], None], max_spaces: int) -> None:
        self._free = free
        self._max_spaces = max_spaces
        self._lock = threading.Lock()
        self._slots: list[_Slot[T]] = []  # newest first

    def newest(self) -> Loaded[T] | None:
        """The release that serves by default; None before the first."""
        with self._lock:
            return self._slots[0].loaded if self._slots else None

    def spaces(self) -> list[str]:
        """The embedding spaces that can be leased, newest first."""
        with self._lock:
            return [slot.space_id for slot in self._slots]

    @contextlib.contextmanager
    def lease(self, space_id: str | None = None) -> Iterator[Loaded[T]]:
        """The newest release, or the one of `space_id`; it stays loaded until the context ends.

        Raises NotReady before the first release, and EmbeddingSpaceMismatch
        if no loaded release has that space.
        """
        with self._lock:
            slot = self._find(space_id)
            slot.num_leases += 1
            loaded = slot.loaded
        try:
            yield loaded
        finally:
            with self._lock:
                slot.num_leases -= 1
                is_over = slot.is_retired and slot.num_leases == 0
            if is_over:
                self._free(slot.loaded.value)

    def put_newest(self, loaded: Loaded[T]) -> None:
        """Serve `loaded` from now on. Retires the older release of its space, and any space too many."""
        self._replace(
            lambda slots: [
                _Slot(loaded),
                *(slot for slot in slots if slot.space_id != loaded.manifest.embedding_space_id),
            ]
        )

    def put_oldest(self, loaded: Loaded[T]) -> None:
        """Serve `loaded` to callers that ask for its space; retired at once if there is no room for the space."""
        self._replace(lambda slots: [*slots, _Slot(loaded)])

    def bring_forward(self, release_id: str, *, generation: int) -> bool:
        """Serve an already loaded release as the newest, under a new generation; False if it is not loaded."""
        with self._lock:
            for slot in self._slots:
                if slot.loaded.manifest.release_id == release_id:
                    slot.loaded = dataclasses.replace(slot.loaded, generation=generation)
                    self._slots.sort(key=lambda other: other is not slot)
                    return True
        return False

    def clear(self) -> None:
        """Retire every release; leases that are still open end in their own time."""
        self._replace(lambda slots: [])

    def _find(self, space_id: str | None) -> _Slot[T]:
        if not self._slots:
            raise NotReady("no release is loaded yet")
        for slot in self._slots:
            if space_id in {None, slot.space_id}:
                return slot
        loaded = ", ".join(slot.space_id for slot in self._slots)
        raise EmbeddingSpaceMismatch(
            f"embedding space: got {space_id}, loaded are {loaded}", expected=loaded, got=space_id
        )

    def _replace(self, change: Callable[[list[_Slot[T]]], list[_Slot[T]]]) -> None:
        with self._lock:
            wanted = change(self._slots)
            kept, surplus = wanted[: self._max_spaces], wanted[self._max_spaces :]
            retired = [slot for slot in self._slots if slot not in kept] + [
                slot for slot in surplus if slot not in self._slots
            ]
            self._slots = kept
            for slot in retired:
                slot.is_retired = True
            unused = [slot.loaded.value for slot in retired if slot.num_leases == 0]
        for value in unused:
            self._free(value)
