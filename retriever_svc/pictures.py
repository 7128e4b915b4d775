"""The stored pictures themselves, so that a new embedding space can be filled without anybody sending them again."""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import fsspec

from sightline.errors import DataCorrupt

_PARALLEL_SYNCS = 16


def digest(data: bytes) -> str:
    """The hex sha256 of encoded picture bytes."""
    return hashlib.sha256(data).hexdigest()


class PictureStore(Protocol):
    """Picture bytes by their digest. Methods may be called concurrently."""

    async def put(self, pictures: Iterable[bytes]) -> None:
        """Store pictures; returns once they are durable. One that is there already costs a look."""

    async def get(self, sha256: str) -> bytes:
        """The bytes of a picture; raises DataCorrupt if they are absent or altered."""

    async def missing(self, digests: Iterable[str]) -> list[str]:
        """Those of `digests` that are not stored."""

    async def remove(self, digests: Iterable[str]) -> None:
        """Forget pictures; unknown ones are no error."""


def open_pictures(uri: str) -> PictureStore:
    """The store at `uri`: a folder, or any fsspec URI such as "s3://bucket/pictures"."""
    if "://" in uri:
        return RemotePictures(uri)
    return FolderPictures(Path(uri))


class FolderPictures:
    """Pictures in a folder, one file each, named by digest. A file is whole or not there, also after a power cut."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def put(self, pictures: Iterable[bytes]) -> None:
        """Store pictures; returns once they are durable. One that is there already costs a look."""
        await asyncio.to_thread(self._put, list(pictures))

    async def get(self, sha256: str) -> bytes:
        """The bytes of a picture; raises DataCorrupt if they are absent or altered."""
        return await asyncio.to_thread(_read, self._path(sha256), sha256=sha256)

    async def missing(self, digests: Iterable[str]) -> list[str]:
        """Those of `digests` that are not stored."""
        return await asyncio.to_thread(lambda: [sha for sha in digests if not self._path(sha).is_file()])

    async def remove(self, digests: Iterable[str]) -> None:
        """Forget pictures; unknown ones are no error."""
        await asyncio.to_thread(self._remove, list(digests))

    def _remove(self, digests: Sequence[str]) -> None:
        for sha256 in digests:
            self._path(sha256).unlink(missing_ok=True)

    def _path(self, sha256: str) -> Path:
        return self._folder / sha256[:2] / sha256

    def _put(self, pictures: Sequence[bytes]) -> None:
        # Syncs that wait side by side share one commit of the file system's journal.
        with ThreadPoolExecutor(max_workers=_PARALLEL_SYNCS) as pool:
            changed = {path.parent for path in pool.map(self._write, pictures) if path is not None}
            list(pool.map(_sync_folder, changed))

    def _write(self, data: bytes) -> Path | None:
        path = self._path(digest(data))
        if path.is_file():
            return None
        if not path.parent.is_dir():
            path.parent.mkdir(parents=True, exist_ok=True)
            _sync_folder(self._folder)
        partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            _write_synced(partial, data)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        return path


class RemotePictures:
    """Pictures in a bucket, one object each, named by digest."""

    def __init__(self, uri: str) -> None:
        self._filesystem, self._root = fsspec.core.url_to_fs(uri)

    async def put(self, pictures: Iterable[bytes]) -> None:
        """Store pictures; returns once they are durable. One that is there already costs a look."""
        await asyncio.to_thread(self._put, list(pictures))

    async def get(self, sha256: str) -> bytes:
        """The bytes of a picture; raises DataCorrupt if they are absent or altered."""
        return await asyncio.to_thread(self._get, sha256)

    async def missing(self, digests: Iterable[str]) -> list[str]:
        """Those of `digests` that are not stored."""
        return await asyncio.to_thread(lambda: [sha for sha in digests if not self._filesystem.exists(self._path(sha))])

    async def remove(self, digests: Iterable[str]) -> None:
        """Forget pictures; unknown ones are no error."""
        await asyncio.to_thread(self._remove, list(digests))

    def _path(self, sha256: str) -> str:
        return f"{self._root}/{sha256[:2]}/{sha256}"

    def _put(self, pictures: Sequence[bytes]) -> None:
        for data in pictures:
            path = self._path(digest(data))
            if not self._filesystem.exists(path):
                self._filesystem.pipe_file(path, data)

    def _get(self, sha256: str) -> bytes:
        try:
            return _checked(self._filesystem.cat_file(self._path(sha256)), sha256=sha256)
        except FileNotFoundError as error:
            raise _absent(sha256) from error

    def _remove(self, digests: Sequence[str]) -> None:
        for sha256 in digests:
            path = self._path(sha256)
            if self._filesystem.exists(path):
                self._filesystem.rm_file(path)


def _read(path: Path, *, sha256: str) -> bytes:
    try:
        return _checked(path.read_bytes(), sha256=sha256)
    except FileNotFoundError as error:
        raise _absent(sha256) from error


def _checked(data: Any, *, sha256: str) -> bytes:
    if digest(data) != sha256:
        raise DataCorrupt(f"stored picture {sha256}: its bytes have another digest", detail=sha256)
    return bytes(data)


def _absent(sha256: str) -> DataCorrupt:
    return DataCorrupt(f"stored picture {sha256}: its bytes are absent", detail=sha256)


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
