"""The registry: immutable releases under their digest, and channels that point to them."""

from __future__ import annotations

import contextlib
import shutil
import time
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sightline.errors import ChannelConflict, ReleaseInvalid, UsageError
from sightline.registry.channels import (
    ChannelState,
    check_channel_name,
    read_channel,
    rollback_target,
    write_channel,
)
from sightline.registry.contents import scan_folder, verify_folder, write_durably
from sightline.registry.manifest import (
    MANIFEST_NAME,
    MAX_MANIFEST_BYTES,
    Manifest,
    check_release_id,
    describe_release,
    read_manifest,
    write_manifest,
)
from sightline.registry.stores import open_store, storage_errors

_PARTIAL_PREFIX = ".partial-"
_ABANDONED_AFTER_S = 24 * 3600.0


def _ignore(_stage: str) -> None:
    """Nobody watches the stages."""


class Registry:
    """Releases and channels at one URI: a local folder, or anything fsspec knows.

    Any number of threads and processes may use one registry. Every method
    raises DependencyUnavailable when the storage does not answer or is full.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._store = open_store(uri)

    @property
    def uri(self) -> str:
        """Where this registry lies."""
        return self._uri

    def publish(
        self,
        folder: Path,
        *,
        architecture: Mapping[str, Any],
        metrics: Mapping[str, Any],
        lineage: Mapping[str, Any],
    ) -> Manifest:
        """The manifest of the release that now holds the files of `folder`.

        The same files and architecture give the same release id, and
        publishing them again keeps the first manifest. Every stored byte is
        read back and compared. Raises ReleaseInvalid for a folder with unsafe
        or no files; a failure leaves nothing that `releases` shows.
        """
        manifest = describe_release(
            scan_folder(folder),
            architecture=architecture,
            metrics=metrics,
            lineage=lineage,
            created_at=_now(),
        )
        with storage_errors(self._uri, action=f"publishing {manifest.release_id}"):
            if not self._is_stored(manifest):
                self._store.add_release(folder, manifest=manifest)
        return self.manifest(manifest.release_id)

    def fetch(
        self,
        release_id: str,
        *,
        into: Path,
        keep: int = 4,
        on_stage: Callable[[str], None] = _ignore,
    ) -> Path:
        """The folder `into`/<release id> with every file verified, downloaded unless it is there already.

        `into` is a cache that several processes may share; it keeps the `keep`
        releases that were fetched last. `on_stage` hears "fetching" and
        "verifying". Raises ReleaseInvalid if the release is half-written,
        tampered with or unsafe.
        """
        on_stage("fetching")
        manifest = self.manifest(release_id)
        folder = into / release_id
        if folder.is_dir():
            on_stage("verifying")
            if self._is_cached(folder, manifest=manifest):
                return folder
            shutil.rmtree(folder, ignore_errors=True)
            on_stage("fetching")
        with storage_errors(self._uri, action=f"fetching {release_id}"):
            self._download(manifest, folder=folder, on_stage=on_stage)
        _prune(into, keep=keep)
        return folder

    def manifest(self, release_id: str) -> Manifest:
        """The release's manifest. Raises ReleaseInvalid if there is none, or it is not this release's."""
        check_release_id(release_id)
        with storage_errors(self._uri, action=f"reading the manifest of {release_id}"):
            data = self._store.manifest_bytes(release_id)
        if data is None:
            raise ReleaseInvalid(f"{release_id}: no manifest in {self._uri}: half-written or never published")
        if len(data) > MAX_MANIFEST_BYTES:
            raise ReleaseInvalid(f"{release_id}: manifest has {len(data)} bytes, limit {MAX_MANIFEST_BYTES}")
        return read_manifest(data, release_id=release_id)

    def releases(self) -> list[str]:
        """The ids of all wholly published releases, in order of name."""
        with storage_errors(self._uri, action="listing releases"):
            return self._store.release_ids()

    def channels(self) -> list[str]:
        """The names of all channels, in order."""
        with storage_errors(self._uri, action="listing channels"):
            return self._store.channel_names()

    def channel(self, name: str) -> ChannelState | None:
        """Where the channel points now; None if it never moved."""
        states = self.history(name, limit=1)
        return states[0] if states else None

    def history(self, name: str, *, limit: int = 100) -> list[ChannelState]:
        """The last `limit` moves of the channel, newest first; empty if it never moved."""
        check_channel_name(name)
        with storage_errors(self._uri, action=f"reading channel {name}"):
            generations = self._store.generations(name)[-limit:]
            return [
                read_channel(
                    self._store.generation_bytes(name, generation=generation), name=name, generation=generation
                )
                for generation in reversed(generations)
            ]

    def promote(self, name: str, release_id: str, *, expected_generation: int | None) -> ChannelState:
        """The channel's new state: one generation further, pointing to `release_id`.

        `expected_generation` is the generation the caller has seen, 0 for a
        channel that never moved, None for whatever it is now. Raises
        ChannelConflict if it is another by now, and ReleaseInvalid if the
        release is not wholly published.
        """
        self.manifest(release_id)
        current = self.channel(name)
        return self._move(name, release_id, current=current, expected_generation=expected_generation)

    def rollback(self, name: str, *, expected_generation: int | None = None) -> ChannelState:
        """The channel's new state: one generation further, pointing to the release before the current one.

        Each further rollback goes one release further back. Raises UsageError
        if there is none, and ChannelConflict as `promote` does.
        """
        history = self.history(name, limit=10**9)
        target = rollback_target(history) if history else None
        if target is None:
            raise UsageError(f"channel {name}: no earlier release to roll back to")
        self.manifest(target.release_id)
        return self._move(
            name,
            target.release_id,
            current=history[0],
            expected_generation=expected_generation,
            restores=target.restores or target.generation,
        )

    def _move(
        self,
        name: str,
        release_id: str,
        *,
        current: ChannelState | None,
        expected_generation: int | None,
        restores: int | None = None,
    ) -> ChannelState:
        generation = current.generation if current else 0
        if expected_generation not in {None, generation}:
            raise ChannelConflict(f"channel {name}: expected generation {expected_generation}, it is at {generation}")
        state = ChannelState(
            generation=generation + 1,
            release_id=release_id,
            previous=current.release_id if current else None,
            published_at=_now(),
            restores=restores,
        )
        with storage_errors(self._uri, action=f"moving channel {name}"):
            is_first = self._store.add_generation(name, generation=state.generation, data=write_channel(state))
        if not is_first:
            raise ChannelConflict(f"channel {name}: another publisher made generation {state.generation}")
        return state

    def _is_stored(self, manifest: Manifest) -> bool:
        data = self._store.manifest_bytes(manifest.release_id)
        if data is None:
            return False
        try:
            read_manifest(data, release_id=manifest.release_id)
        except ReleaseInvalid:
            return False
        stored = (self._store.stored_entry(manifest.release_id, name=name) for name in manifest.files)
        return all(got == entry for got, entry in zip(stored, manifest.files.values(), strict=True))

    def _is_cached(self, folder: Path, *, manifest: Manifest) -> bool:
        try:
            verify_folder(folder, manifest)
        except (ReleaseInvalid, FileNotFoundError):
            return False
        _touch(folder)
        return True

    def _download(self, manifest: Manifest, *, folder: Path, on_stage: Callable[[str], None]) -> None:
        partial = folder.with_name(f"{_PARTIAL_PREFIX}{uuid.uuid4().hex}")
        try:
            for name in manifest.files:
                target = partial / name
                target.parent.mkdir(parents=True, exist_ok=True)
                self._download_file(manifest.release_id, name=name, target=target)
            on_stage("verifying")
            verify_folder(partial, manifest)
            write_durably(partial / MANIFEST_NAME, write_manifest(manifest))
            with contextlib.suppress(FileExistsError):
                _rename_new(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _download_file(self, release_id: str, *, name: str, target: Path) -> None:
        try:
            self._store.download(release_id, name=name, target=target)
        except FileNotFoundError as error:
            raise ReleaseInvalid(f"{release_id}: {name} is missing in {self._uri}") from error


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _touch(folder: Path) -> None:
    """Mark a cached release as used; the cache drops the least recently marked."""
    (folder / MANIFEST_NAME).touch()


def _rename_new(source: Path, target: Path) -> None:
    """Rename a folder. Raises FileExistsError if another process put the same release there first."""
    try:
        source.rename(target)
    except OSError as error:
        if target.is_dir():
            raise FileExistsError(target) from error
        raise


def _prune(cache: Path, *, keep: int) -> None:
    """Remove all but the `keep` releases used last, and what crashed downloads left behind.

    A release that another process has mapped into memory stays readable to it.
    """
    manifests = sorted(cache.glob(f"sha256-*/{MANIFEST_NAME}"), key=_last_used, reverse=True)
    for path in manifests[keep:]:
        shutil.rmtree(path.parent, ignore_errors=True)
    oldest = time.time() - _ABANDONED_AFTER_S
    for path in cache.glob(f"{_PARTIAL_PREFIX}*"):
        if _last_used(path) < oldest:
            shutil.rmtree(path, ignore_errors=True)


def _last_used(path: Path) -> float:
    """When the path was last marked; now, if another process has just removed it."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return time.time()
