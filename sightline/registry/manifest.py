"""What a release says of itself: every file with its digest and size, the architecture, where it came from."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from sightline.errors import ReleaseInvalid

MANIFEST_NAME = "manifest.json"
FORMAT = "sightline-release"
FORMAT_VERSION = 1
MAX_MANIFEST_BYTES = 4 * 1024 * 1024
MAX_FILES = 4096
MAX_NAME_CHARS = 512

_RELEASE_ID = re.compile(r"sha256-[0-9a-f]{64}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SPACE_ID = re.compile(r"[0-9a-f]{16}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FileEntry:
    """One file of a release."""

    sha256: str
    """Digest of the content, 64 hex digits."""
    size: int
    """Length in bytes."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """The description of one release; two manifests of one release id hold the same files and architecture."""

    release_id: str
    """"sha256-" and 64 hex digits: the digest of the files and the architecture."""
    embedding_space_id: str
    """Names the vector space of the release's towers, 16 hex digits."""
    files: Mapping[str, FileEntry]
    """Path inside the release, with forward slashes, to its digest and size."""
    architecture: Mapping[str, Any]
    """What the model is; part of the release id."""
    metrics: Mapping[str, Any]
    """What the trainer measured; not part of the release id."""
    lineage: Mapping[str, Any]
    """Where the release came from: recipe, seed, data, code; not part of the release id."""
    created_at: str
    """When it was published, ISO 8601 in UTC."""
    format_version: int = FORMAT_VERSION
    """The manifest's own version; a foreign one is refused."""

    @property
    def total_bytes(self) -> int:
        """Bytes of all files together, the manifest left out."""
        return sum(entry.size for entry in self.files.values())


def describe_release(
    files: Mapping[str, FileEntry],
    *,
    architecture: Mapping[str, Any],
    metrics: Mapping[str, Any],
    lineage: Mapping[str, Any],
    created_at: str,
) -> Manifest:
    """The manifest of these files. The architecture must name the `embedding_space_id`.

    Raises ReleaseInvalid for an unsafe file name, no file at all, a missing
    or ill-formed embedding space, or a value that JSON cannot hold.
    """
    manifest = Manifest(
        release_id=release_digest(files, architecture=architecture),
        embedding_space_id=str(architecture.get("embedding_space_id", "")),
        files=dict(files),
        architecture=dict(architecture),
        metrics=dict(metrics),
        lineage=dict(lineage),
        created_at=created_at,
    )
    return read_manifest(write_manifest(manifest), release_id=manifest.release_id)


def release_digest(files: Mapping[str, FileEntry], *, architecture: Mapping[str, Any]) -> str:
    """The release id: "sha256-" and the digest of the sorted files and the architecture."""
    content = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "files": {name: [entry.sha256, entry.size] for name, entry in files.items()},
        "architecture": dict(architecture),
    }
    return f"sha256-{hashlib.sha256(_to_json(content).encode()).hexdigest()}"


def write_manifest(manifest: Manifest) -> bytes:
    """The manifest as the bytes of `manifest.json`. Raises ReleaseInvalid for a value that JSON cannot hold."""
    return _to_json({"format": FORMAT, **dataclasses.asdict(manifest)}, indent=1).encode() + b"\n"


def read_manifest(data: bytes, *, release_id: str) -> Manifest:
    """The manifest in `data`, checked to be the one of `release_id`.

    Raises ReleaseInvalid if it is not JSON, of a foreign format or version,
    lists an unsafe file name, or its content does not give `release_id`.
    """
    fields = _parse(data, release_id=release_id)
    try:
        manifest = Manifest(
            **{**fields, "files": {name: FileEntry(**entry) for name, entry in fields["files"].items()}}
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ReleaseInvalid(f"{release_id}: {MANIFEST_NAME} has missing or unknown fields: {error}") from error
    _check_fields(manifest, release_id=release_id)
    return manifest


def check_release_id(release_id: str) -> str:
    """`release_id` itself. Raises ReleaseInvalid unless it is "sha256-" and 64 hex digits."""
    if not _RELEASE_ID.fullmatch(release_id):
        raise ReleaseInvalid(f"release id: got {release_id!r}, expected 'sha256-' and 64 hex digits")
    return release_id


def check_file_name(name: str) -> str:
    """`name` itself. Raises ReleaseInvalid unless it stays inside the release's folder on every system."""
    parts = name.split("/")
    is_odd = not name.isprintable() or "\\" in name or ":" in name or len(name) > MAX_NAME_CHARS
    if is_odd or any(part in {"", ".", ".."} for part in parts) or name == MANIFEST_NAME:
        raise ReleaseInvalid(f"file name {name!r} is not a plain path inside the release")
    return name


def _parse(data: bytes, *, release_id: str) -> dict[str, Any]:
    try:
        fields = json.loads(data)
    except ValueError as error:
        raise ReleaseInvalid(f"{release_id}: {MANIFEST_NAME} is not JSON: {error}") from error
    kind = fields.pop("format", None) if isinstance(fields, dict) else None
    if kind != FORMAT:
        raise ReleaseInvalid(f"{release_id}: {MANIFEST_NAME} has format {kind!r}, expected {FORMAT!r}")
    version = fields.get("format_version")
    if version != FORMAT_VERSION:
        raise ReleaseInvalid(f"{release_id}: format version {version!r} is foreign, this code reads {FORMAT_VERSION}")
    return dict(fields)


def _check_fields(manifest: Manifest, *, release_id: str) -> None:
    if not manifest.files or len(manifest.files) > MAX_FILES:
        raise ReleaseInvalid(f"{release_id}: got {len(manifest.files)} files, expected 1 to {MAX_FILES}")
    for name, entry in manifest.files.items():
        check_file_name(name)
        if not (isinstance(entry.sha256, str) and _SHA256.fullmatch(entry.sha256) and _is_count(entry.size)):
            raise ReleaseInvalid(f"{release_id}: {name} has sha256 {entry.sha256!r} and size {entry.size!r}")
    if not isinstance(manifest.architecture, dict):
        raise ReleaseInvalid(f"{release_id}: architecture is not an object")
    space = manifest.embedding_space_id
    if not _SPACE_ID.fullmatch(str(space)) or space != manifest.architecture.get("embedding_space_id"):
        raise ReleaseInvalid(
            f"{release_id}: embedding_space_id is {space!r}, expected the architecture's 16 hex digits"
        )
    digest = release_digest(manifest.files, architecture=manifest.architecture)
    if {manifest.release_id, digest} != {release_id}:
        raise ReleaseInvalid(f"{release_id}: {MANIFEST_NAME} describes another release, {digest}")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _to_json(value: object, *, indent: int | None = None) -> str:
    try:
        return json.dumps(value, sort_keys=True, allow_nan=False, indent=indent)
    except (TypeError, ValueError) as error:
        raise ReleaseInvalid(f"manifest: not representable as JSON: {error}") from error
