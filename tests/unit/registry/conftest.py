"""Small releases to publish: a weights file that is really safetensors, a configuration, a tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from safetensors.numpy import save_file

from sightline.registry import Manifest, Registry

SPACE_A = "aaaaaaaaaaaaaaaa"
SPACE_B = "bbbbbbbbbbbbbbbb"
SPACE_C = "cccccccccccccccc"


def write_release(folder: Path, *, seed: int = 0) -> Path:
    (folder / "tokenizer").mkdir(parents=True, exist_ok=True)
    weights = np.random.default_rng(seed).standard_normal((8, 8)).astype(np.float32)
    save_file({"weight": weights}, folder / "model.safetensors")
    (folder / "config.json").write_text(f'{{"seed": {seed}}}')
    (folder / "tokenizer" / "merges.txt").write_text("a b\n")
    return folder


def architecture(space_id: str = SPACE_A) -> dict[str, Any]:
    return {"embedding_space_id": space_id, "dimension": 8}


@pytest.fixture(params=["folder", "bucket"])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Registry:
    """A registry in a folder, and one in fsspec's in-memory bucket: every test runs against both."""
    if request.param == "folder":
        return Registry(str(tmp_path / "registry"))
    fsspec.filesystem("memory").store.clear()
    return Registry(f"memory://{tmp_path.name}/registry")


@pytest.fixture
def publish(tmp_path: Path) -> Callable[..., Manifest]:
    """Publish the release of a seed and a space: `publish(registry, seed=1)`."""

    def publish_one(registry: Registry, *, seed: int = 0, space_id: str = SPACE_A, **metrics: float) -> Manifest:
        folder = write_release(tmp_path / f"made-{seed}", seed=seed)
        return registry.publish(folder, architecture=architecture(space_id), metrics=metrics, lineage={"seed": seed})

    return publish_one
