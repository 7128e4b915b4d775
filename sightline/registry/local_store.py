"""A registry in a folder. A release appears by one rename, a channel's generation by one hard link."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import time
import uuid
from pathlib import Path

from sightline.errors import ReleaseInvalid
from sightline.registry.contents import copy_durably, hash_file, sync_file, sync_folder, verify_folder, write_durably
from sightline.registry.manifest import MANIFEST_NAME, FileEntry, Manifest, write_manifest

_STAGING_PREFIX = ".staging-"
_ABANDONED_AFTER_S = 24 * 3600.0


class LocalStore:
    """Releases and channels below one folder, which several processes and machines may share.

    Needs a file system with atomic rename and hard links: any local disk, NFS.
    """

    def __init__(self, root: Path) -> None:
        self._releases = root / "releases"
        self._channels = root / "channels"

    def release_ids(self) -> list[str]:
        """The releases that have a manifest, in order of name."""
        return sorted(path.parent.name for path in self._releases.glob(f"sha256-*/{MANIFEST_NAME}"))

    def manifest_bytes(self, release_id: str) -> bytes | None:
        """The release's manifest; None if it has none."""
        path = self._releases / release_id / MANIFEST_NAME
        return path.read_bytes() if path.is_file() else None

    def stored_entry(self, release_id: str, *, name: str) -> FileEntry | None:
        """The digest and size of a stored file; None if it is absent."""
        path = self._releases / release_id / name
        return hash_file(path) if path.is_file() else None

    def add_release(self, folder: Path, *, manifest: Manifest) -> None:
        """Copy into a hidden folder, check, write the manifest, and rename the whole into place."""
        self._releases.mkdir(parents=True, exist_ok=True)
        self._remove_abandoned()
        staging = self._releases / f"{_STAGING_PREFIX}{uuid.uuid4().hex}"
        try:
            staging.mkdir()
            for name in manifest.files:
                copy_durably(folder / name, staging / name)
            verify_folder(staging, manifest)
            for path in (staging, *(path for path in staging.rglob("*") if path.is_dir())):
                sync_folder(path)
            write_durably(staging / MANIFEST_NAME, write_manifest(manifest))
            self._place(staging, manifest=manifest)
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def download(self, release_id: str, *, name: str, target: Path) -> None:
        """Copy one stored file to `target`."""
        shutil.copyfile(self._releases / release_id / name, target)

    def channel_names(self) -> list[str]:
        """The channels that ever moved, in order of name."""
        return sorted({path.parent.name for path in self._channels.glob("*/*.json")})

    def generations(self, channel: str) -> list[int]:
        """The generations of a channel, ascending."""
        return sorted(int(path.stem) for path in (self._channels / channel).glob("*.json") if path.stem.isdigit())

    def generation_bytes(self, channel: str, *, generation: int) -> bytes:
        """One generation's state."""
        return self._generation_path(channel, generation=generation).read_bytes()

    def add_generation(self, channel: str, *, generation: int, data: bytes) -> bool:
        """Write a hidden file and link it under its name: a link, unlike a rename, never replaces."""
        path = self._generation_path(channel, generation=generation)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{uuid.uuid4().hex}.partial")
        try:
            with partial.open("xb") as writer:
                writer.write(data)
                sync_file(writer)
            os.link(partial, path)
        except FileExistsError:
            return False
        finally:
            partial.unlink(missing_ok=True)
        sync_folder(path.parent)
        return True

    def _generation_path(self, channel: str, *, generation: int) -> Path:
        return self._channels / channel / f"{generation:08d}.json"

    def _place(self, staging: Path, *, manifest: Manifest) -> None:
        """Rename the finished folder into place, unless the same release is there whole; what is damaged moves aside.

        A folder that another publisher renames here is whole from the first moment, so it is never taken for damaged.
        """
        target = self._releases / manifest.release_id
        while not _rename_new(staging, target) and not _is_intact(target, manifest=manifest):
            with contextlib.suppress(FileNotFoundError):
                target.rename(self._releases / f"{_STAGING_PREFIX}damaged-{uuid.uuid4().hex}")
        sync_folder(self._releases)

    def _remove_abandoned(self) -> None:
        oldest = time.time() - _ABANDONED_AFTER_S
        for path in self._releases.glob(f"{_STAGING_PREFIX}*"):
            with contextlib.suppress(FileNotFoundError):  # another publisher cleans up, too
                if path.stat().st_mtime < oldest:
                    shutil.rmtree(path, ignore_errors=True)


def _rename_new(source: Path, target: Path) -> bool:
    """Rename a folder; False if there is one already. Raises OSError for any other reason."""
    try:
        source.rename(target)
    except OSError as error:
        if error.errno not in {errno.EEXIST, errno.ENOTEMPTY}:
            raise
        return False
    return True


def _is_intact(folder: Path, *, manifest: Manifest) -> bool:
    try:
        verify_folder(folder, manifest)
    except (ReleaseInvalid, FileNotFoundError):
        return False
    return (folder / MANIFEST_NAME).is_file()
