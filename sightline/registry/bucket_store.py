"""A registry in a bucket, or in anything else that fsspec reaches.

A put of one object is whole or absent on every object store, so a release is
visible from the moment its manifest, put last, is there. A channel moves by
an exclusive put (`mode="create"`): s3fs and gcsfs from 2024.12 on send it as a
conditional request, so exactly one of two racing publishers wins. Other
backends look first and put then: there, let one publisher at a time move a
channel. Files of a publication that failed stay behind, unseen; publishing
the same release again completes them.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path

import fsspec

from sightline.errors import ReleaseInvalid
from sightline.registry.contents import check_entry
from sightline.registry.manifest import MANIFEST_NAME, FileEntry, Manifest, write_manifest

_RANGE_BYTES = 32 * 1024 * 1024


class BucketStore:
    """Releases and channels below one prefix of an fsspec file system."""

    def __init__(self, filesystem: fsspec.AbstractFileSystem, *, root: str) -> None:
        self._filesystem = filesystem
        self._root = root.rstrip("/")
        self._put_lock = threading.Lock()

    def release_ids(self) -> list[str]:
        """The releases that have a manifest, in order of name."""
        names = [name for name in self._list("releases") if name.startswith("sha256-")]
        return [name for name in names if self._filesystem.exists(self._path("releases", name, MANIFEST_NAME))]

    def manifest_bytes(self, release_id: str) -> bytes | None:
        """The release's manifest; None if it has none."""
        try:
            return bytes(self._filesystem.cat_file(self._path("releases", release_id, MANIFEST_NAME)))
        except FileNotFoundError:
            return None

    def stored_entry(self, release_id: str, *, name: str) -> FileEntry | None:
        """The digest and size of a stored file, from its bytes read back; None if it is absent."""
        digest, size = hashlib.sha256(), 0
        try:
            for chunk in self._read(self._path("releases", release_id, name)):
                digest.update(chunk)
                size += len(chunk)
        except FileNotFoundError:
            return None
        return FileEntry(sha256=digest.hexdigest(), size=size)

    def add_release(self, folder: Path, *, manifest: Manifest) -> None:
        """Put every file that is not there already, read each back, and put the manifest last."""
        release_id = manifest.release_id
        for name, entry in manifest.files.items():
            if self.stored_entry(release_id, name=name) != entry:
                path = self._path("releases", release_id, name)
                self._filesystem.makedirs(path.rpartition("/")[0], exist_ok=True)
                self._filesystem.put_file(str(folder / name), path)
            stored = self.stored_entry(release_id, name=name)
            if stored is None:
                raise ReleaseInvalid(f"{release_id}: {name} is not there after it was put")
            check_entry(stored, expected=entry, name=name, release_id=release_id)
        self._filesystem.pipe_file(self._path("releases", release_id, MANIFEST_NAME), write_manifest(manifest))

    def download(self, release_id: str, *, name: str, target: Path) -> None:
        """Copy one stored file to `target`, in ranges."""
        with target.open("wb") as writer:
            for chunk in self._read(self._path("releases", release_id, name)):
                writer.write(chunk)

    def channel_names(self) -> list[str]:
        """The channels that ever moved, in order of name."""
        return self._list("channels")

    def generations(self, channel: str) -> list[int]:
        """The generations of a channel, ascending."""
        stems = (name.removesuffix(".json") for name in self._list("channels", channel))
        return sorted(int(stem) for stem in stems if stem.isdigit())

    def generation_bytes(self, channel: str, *, generation: int) -> bytes:
        """One generation's state."""
        return bytes(self._filesystem.cat_file(self._generation_path(channel, generation=generation)))

    def add_generation(self, channel: str, *, generation: int, data: bytes) -> bool:
        """Put one generation exclusively."""
        path = self._generation_path(channel, generation=generation)
        try:
            with self._put_lock:
                self._filesystem.makedirs(path.rpartition("/")[0], exist_ok=True)
                self._filesystem.pipe_file(path, data, mode="create")
        except FileExistsError:
            return False
        return True

    def _path(self, *parts: str) -> str:
        return "/".join((self._root, *parts))

    def _generation_path(self, channel: str, *, generation: int) -> str:
        return self._path("channels", channel, f"{generation:08d}.json")

    def _list(self, *parts: str) -> list[str]:
        path = self._path(*parts)
        # A cached listing would hide what another process has put since.
        self._filesystem.invalidate_cache(path)
        try:
            found = self._filesystem.ls(path, detail=False)
        except FileNotFoundError:
            return []
        return sorted(name.rstrip("/").rpartition("/")[2] for name in found)

    def _read(self, path: str) -> Iterator[bytes]:
        self._filesystem.invalidate_cache(path)
        size = int(self._filesystem.info(path)["size"])
        for start in range(0, size, _RANGE_BYTES):
            yield bytes(self._filesystem.cat_file(path, start=start, end=min(start + _RANGE_BYTES, size)))
