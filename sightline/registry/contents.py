"""The files of a release: listing, hashing, copying, and refusing what is unsafe to load."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from sightline.errors import ReleaseInvalid
from sightline.registry.manifest import MANIFEST_NAME, FileEntry, Manifest, check_file_name

UNSAFE_SUFFIXES = frozenset({".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt", ".joblib", ".dill", ".npy", ".npz"})
_CHUNK_BYTES = 1024 * 1024
_MAX_TENSOR_HEADER_BYTES = 100 * 1024 * 1024


def scan_folder(folder: Path) -> dict[str, FileEntry]:
    """Every file below `folder` with its digest and size, in order of name.

    A `manifest.json` of an earlier release is left out. Raises ReleaseInvalid
    for a link, anything that is not a plain file, an unsafe name or content.
    """
    if not folder.is_dir():
        raise ReleaseInvalid(f"{folder} is not a folder")
    entries = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if name == MANIFEST_NAME or (path.is_dir() and not path.is_symlink()):
            continue
        if path.is_symlink() or not path.is_file():
            raise ReleaseInvalid(f"{name} is a link or not a plain file")
        check_safe(path, name=check_file_name(name))
        entries[name] = hash_file(path)
    return entries


def verify_folder(folder: Path, manifest: Manifest) -> None:
    """Check that `folder` holds exactly the manifest's files, each with its size and digest, and none unsafe.

    Raises ReleaseInvalid naming the first file that is not.
    """
    found = scan_folder(folder)
    for name, entry in manifest.files.items():
        if name not in found:
            raise ReleaseInvalid(f"{manifest.release_id}: {name} is missing")
        check_entry(found[name], expected=entry, name=name, release_id=manifest.release_id)
    for name in found:
        if name not in manifest.files:
            raise ReleaseInvalid(f"{manifest.release_id}: {name} is not in the manifest")


def check_entry(got: FileEntry, *, expected: FileEntry, name: str, release_id: str) -> None:
    """Raise ReleaseInvalid unless the file is the one that was published."""
    if got != expected:
        raise ReleaseInvalid(
            f"{release_id}: {name} has {got.size} bytes and sha256 {got.sha256[:12]}, "
            f"expected {expected.size} and {expected.sha256[:12]}"
        )


def hash_file(path: Path) -> FileEntry:
    """The digest and size of one file."""
    with path.open("rb") as source:
        digest = hashlib.file_digest(source, "sha256")
        return FileEntry(sha256=digest.hexdigest(), size=source.tell())


def copy_durably(source: Path, target: Path) -> None:
    """Copy one file's bytes and flush them to the disk. `target` must not exist."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with source.open("rb") as reader, target.open("xb") as writer:
        while chunk := reader.read(_CHUNK_BYTES):
            writer.write(chunk)
        sync_file(writer)


def write_durably(target: Path, data: bytes) -> None:
    """Write a file under another name, flush it, and move it into place, so that nobody ever reads a part of it."""
    partial = target.with_name(f".{target.name}.partial")
    with partial.open("wb") as writer:
        writer.write(data)
        sync_file(writer)
    partial.replace(target)
    sync_folder(target.parent)


def sync_file(writer: BinaryIO) -> None:
    """Flush an open file to the disk."""
    writer.flush()
    os.fsync(writer.fileno())


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk, so that a rename survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_safe(path: Path, *, name: str) -> None:
    """Raise ReleaseInvalid if the file could run code when loaded: a pickle, by its name or by its first bytes."""
    if path.suffix.lower() in UNSAFE_SUFFIXES:
        raise ReleaseInvalid(f"{name}: a {path.suffix.lower()} file may hold a pickle; use safetensors or JSON")
    with path.open("rb") as source:
        start = source.read(8)
        if _is_pickle(start):
            raise ReleaseInvalid(f"{name}: the content is a pickle or a zip archive, whatever the name says")
        if path.suffix.lower() == ".safetensors":
            _check_tensor_header(source, start=start, size=path.stat().st_size, name=name)


def _is_pickle(start: bytes) -> bool:
    # Protocols 2 to 5 open with PROTO and their number; torch.save writes a zip archive with a pickle inside.
    return (len(start) > 1 and start[0] == 0x80 and 2 <= start[1] <= 5) or start[:4] == b"PK\x03\x04"


def _check_tensor_header(source: BinaryIO, *, start: bytes, size: int, name: str) -> None:
    header_bytes = int.from_bytes(start, "little")
    if len(start) < 8 or header_bytes > min(size - 8, _MAX_TENSOR_HEADER_BYTES):
        raise ReleaseInvalid(f"{name}: not a safetensors file: its header would have {header_bytes} of {size} bytes")
    try:
        header = json.loads(source.read(header_bytes))
    except ValueError as error:
        raise ReleaseInvalid(f"{name}: not a safetensors file: its header is not JSON") from error
    if not isinstance(header, dict) or _data_bytes(header) != size - 8 - header_bytes:
        raise ReleaseInvalid(f"{name}: not a whole safetensors file: its tensors do not fill its {size} bytes")


def _data_bytes(header: Mapping[str, object]) -> int:
    ends = [0]
    for name, tensor in header.items():
        offsets = tensor.get("data_offsets") if isinstance(tensor, dict) else None
        if name != "__metadata__" and isinstance(offsets, list) and len(offsets) == 2:
            ends.append(int(offsets[1]))
    return max(ends)
