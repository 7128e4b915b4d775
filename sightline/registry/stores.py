"""Where releases and channels lie: one small interface, a folder and a bucket behind it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import fsspec

from sightline.errors import DependencyUnavailable, SettingInvalid
from sightline.registry.bucket_store import BucketStore
from sightline.registry.local_store import LocalStore
from sightline.registry.manifest import FileEntry, Manifest


class Store(Protocol):
    """Storage of releases and channels. Every method may be called from any thread, and raises OSError on failure."""

    def release_ids(self) -> list[str]:
        """The releases that have a manifest, in order of name."""

    def manifest_bytes(self, release_id: str) -> bytes | None:
        """The release's manifest; None if it has none, so was never wholly published."""

    def stored_entry(self, release_id: str, *, name: str) -> FileEntry | None:
        """The digest and size of a stored file, computed from its bytes; None if it is absent."""

    def add_release(self, folder: Path, *, manifest: Manifest) -> None:
        """Copy the manifest's files from `folder`, check the copies, then make the release visible at once.

        Damaged files of the same release are replaced. On failure nothing is visible.
        """

    def download(self, release_id: str, *, name: str, target: Path) -> None:
        """Copy one stored file to the new file `target`. Raises FileNotFoundError if it is absent."""

    def channel_names(self) -> list[str]:
        """The channels that ever moved, in order of name."""

    def generations(self, channel: str) -> list[int]:
        """The generations of a channel, ascending; empty if it never moved."""

    def generation_bytes(self, channel: str, *, generation: int) -> bytes:
        """One generation's state."""

    def add_generation(self, channel: str, *, generation: int, data: bytes) -> bool:
        """Write one generation whole, unless it exists already: then nothing changes and False is returned."""


def open_store(uri: str) -> Store:
    """The store at `uri`: a local path, or anything fsspec knows (`s3://`, `gs://`, `memory://`).

    Raises SettingInvalid if no installed package handles the URI.
    """
    try:
        filesystem, root = fsspec.core.url_to_fs(uri)
    except (ImportError, ValueError) as error:
        raise SettingInvalid(f"registry: cannot open {uri!r}: {error}") from error
    if "file" in _protocols(filesystem):
        return LocalStore(Path(root))
    return BucketStore(filesystem, root=root)


@contextlib.contextmanager
def storage_errors(uri: str, *, action: str) -> Iterator[None]:
    """Turn an OSError of the storage into DependencyUnavailable, which names the registry and what was tried."""
    try:
        yield
    except OSError as error:
        detail = error.strerror or str(error) or type(error).__name__
        raise DependencyUnavailable(f"registry {uri}: {action} failed: {detail}", service="registry") from error


def _protocols(filesystem: fsspec.AbstractFileSystem) -> tuple[str, ...]:
    return (filesystem.protocol,) if isinstance(filesystem.protocol, str) else tuple(filesystem.protocol)
