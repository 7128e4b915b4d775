"""The folder of the edge driver: who may use it, which collections it holds, and which one answers.

lock            held by the one process that uses the folder
current.json    which collections there are and what each is for
shards/<name>/  one qdrant-edge shard each; those that current.json does not name are leftovers
"""

from __future__ import annotations

import asyncio
import dataclasses
import fcntl
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from retriever_svc.index import Layout, SpaceSpec
from sightline.errors import DataCorrupt, UsageError

_FORMAT = 1
_LOCK_RETRY_S = 0.1


@dataclass(frozen=True, kw_only=True)
class FolderState:
    """What current.json says."""

    layout: Layout = field(default_factory=Layout)
    shards: Mapping[str, str] = field(default_factory=dict)
    """Name of the shard folder of each space."""
    num_made: int = 0
    """How many shard folders were ever named, so that no name comes twice."""


class EdgeFolder:
    """The folder, once its lock is held."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock: int | None = None
        self.state = FolderState()

    async def open(self, *, wait_s: float) -> None:
        """Take the lock, waiting at most `wait_s` for another process to let go of it, and read current.json.

        Raises UsageError naming the folder if another process keeps it, and
        DataCorrupt if current.json cannot be read.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        await self._take_lock(wait_s=wait_s)
        self.state = self._read()
        self._remove_leftovers()

    def close(self) -> None:
        """Let go of the lock."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def add(self, space: SpaceSpec, *, shard: str) -> None:
        """Write down a new collection and the name of its shard."""
        layout = self.state.layout
        spaces = {**layout.spaces, space.space_id: space}
        shards = {**self.state.shards, space.space_id: shard}
        self._save(dataclasses.replace(self.state, layout=dataclasses.replace(layout, spaces=spaces), shards=shards))

    def replace(self, space_id: str, *, shard: str) -> None:
        """Write down that another shard now holds a collection."""
        self._save(dataclasses.replace(self.state, shards={**self.state.shards, space_id: shard}))

    def remove(self, space_id: str) -> None:
        """Strike out a collection."""
        layout = self.state.layout
        spaces = {name: spec for name, spec in layout.spaces.items() if name != space_id}
        shards = {name: shard for name, shard in self.state.shards.items() if name != space_id}
        following = None if layout.next == space_id else layout.next
        changed = dataclasses.replace(layout, spaces=spaces, next=following)
        self._save(dataclasses.replace(self.state, layout=changed, shards=shards))

    def arrange(self, layout: Layout) -> None:
        """Write down which collection is current and which is next."""
        assert {layout.current, layout.next} - {None} <= set(layout.spaces)
        self._save(dataclasses.replace(self.state, layout=layout))

    def _save(self, state: FolderState) -> None:
        document = {
            "format": _FORMAT,
            "current": state.layout.current,
            "next": state.layout.next,
            "spaces": {name: dataclasses.asdict(spec) for name, spec in state.layout.spaces.items()},
            "shards": dict(state.shards),
            "num_made": state.num_made,
        }
        partial = self._folder / "current.json.partial"
        with partial.open("w", encoding="utf-8") as file:
            json.dump(document, file, indent=2, sort_keys=True)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self._folder / "current.json")
        sync_folder(self._folder)
        self.state = state

    def shard_path(self, name: str) -> Path:
        """Where the shard `name` lies."""
        return self._folder / "shards" / name

    def path_of(self, space_id: str) -> Path:
        """Where the shard of a collection lies."""
        return self.shard_path(self.state.shards[space_id])

    def new_shard_name(self, space_id: str) -> str:
        """A name that no shard of this folder has."""
        self.state = dataclasses.replace(self.state, num_made=self.state.num_made + 1)
        return f"{space_id}-{self.state.num_made}"

    async def _take_lock(self, *, wait_s: float) -> None:
        descriptor = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + wait_s
        while not _try_lock(descriptor):
            if loop.time() >= give_up_at:
                owner = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
                os.close(descriptor)
                raise UsageError(
                    f"index folder {self._folder} is in use by another process (pid {owner}); "
                    "the edge driver takes one process per folder"
                )
            await asyncio.sleep(_LOCK_RETRY_S)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        self._lock = descriptor

    def _read(self) -> FolderState:
        path = self._folder / "current.json"
        if not path.exists():
            return FolderState()
        try:
            return _parse(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, KeyError, TypeError) as error:
            raise DataCorrupt(f"index folder {self._folder}: current.json cannot be read", detail=str(error)) from error

    def _remove_leftovers(self) -> None:
        shards = self._folder / "shards"
        known = set(self.state.shards.values())
        for path in shards.iterdir() if shards.is_dir() else ():
            if path.name not in known:
                shutil.rmtree(path)


def sync_folder(folder: Path) -> None:
    """Bring the names in `folder` to disk, so that a rename survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _parse(document: dict[str, Any]) -> FolderState:
    if document["format"] != _FORMAT:
        raise ValueError(f"format: got {document['format']}, expected {_FORMAT}")
    spaces = {name: SpaceSpec(**spec) for name, spec in document["spaces"].items()}
    layout = Layout(current=document["current"], next=document["next"], spaces=spaces)
    shards = {name: document["shards"][name] for name in spaces}
    return FolderState(layout=layout, shards=shards, num_made=document["num_made"])
