"""Folders of transformers that others made: nothing is fetched, none of their code runs, weights are safetensors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sightline.errors import UsageError

LOCAL_ONLY: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
"""What every `from_pretrained` of such a folder is told."""


@contextmanager
def reading(folder: Path, *, what: str) -> Iterator[None]:
    """Turns whatever transformers says about a folder that does not hold `what` into UsageError."""
    if not (folder / "config.json").is_file():
        raise UsageError(f"{folder}: is no folder of a transformers model: it has no config.json", path=folder)
    try:
        yield
    except (OSError, ValueError, KeyError, json.JSONDecodeError) as error:
        raise UsageError(f"{folder}: cannot be read as {what}: {error}", path=folder) from error


def folder_name(folder: Path) -> str:
    """Name of a folder with a digest of its settings and weights: who changes them is another model."""
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("*.json"), *folder.glob("*.safetensors")]):
        with path.open("rb") as file:
            digest.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return f"{folder.resolve().name}@{digest.hexdigest()[:12]}"
