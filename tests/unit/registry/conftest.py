"""Small releases to publish, a bucket that can fail, and a reloader whose steps are watched."""

from __future__ import annotations

import errno
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from safetensors.numpy import save_file

from sightline.registry import HotReloader, Manifest, Registry, ReloadSettings

SPACE_A = "a" * 16


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


class FaultyBucket(MemoryFileSystem):
    """The in-memory bucket with room for `room` more puts and `answers` more reads."""

    protocol = "faulty"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    room: ClassVar[int]
    answers: ClassVar[int]
    is_dead: ClassVar[bool]

    @classmethod
    def reset(cls) -> None:
        cls.store.clear()
        cls.room = cls.answers = 10**6
        cls.is_dead = False

    def put_file(self, *args: Any, **kwargs: Any) -> Any:
        self._put()
        return super().put_file(*args, **kwargs)

    def pipe_file(self, *args: Any, **kwargs: Any) -> Any:
        self._put()
        return super().pipe_file(*args, **kwargs)

    def cat_file(self, *args: Any, **kwargs: Any) -> Any:
        self._answer()
        return super().cat_file(*args, **kwargs)

    def ls(self, *args: Any, **kwargs: Any) -> Any:
        self._answer()
        return super().ls(*args, **kwargs)

    def _put(self) -> None:
        FaultyBucket.room -= 1
        if FaultyBucket.room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")

    def _answer(self) -> None:
        FaultyBucket.answers -= 1
        if FaultyBucket.is_dead or FaultyBucket.answers < 0:
            raise ConnectionError("the bucket does not answer")


@pytest.fixture
def faulty_bucket() -> Iterator[type[FaultyBucket]]:
    """What `faulty://` URIs reach; set `room`, `answers` or `is_dead` on it."""
    fsspec.register_implementation("faulty", FaultyBucket, clobber=True)
    FaultyBucket.reset()
    yield FaultyBucket
    FaultyBucket.reset()


class Model:
    """Stands for a loaded model; dies only when nobody refers to it."""

    def __init__(self, release_id: str) -> None:
        self.release_id = release_id


class Rig:
    """A reloader whose four callbacks are counted and can be told to fail."""

    def __init__(self, registry: Registry, *, cache_dir: Path, settings: ReloadSettings) -> None:
        self.registry = registry
        self.calls: list[str] = []
        self.released: list[str] = []
        self.fail: dict[str, Exception] = {}
        self.on_step: dict[str, Callable[[], None]] = {}
        self.gate: threading.Event | None = None
        self.reloader: HotReloader[Model] = HotReloader(
            registry=registry,
            channel="stable",
            cache_dir=cache_dir,
            load=self._load,
            warm_up=lambda model: self._step("warm_up"),
            probe=lambda model: self._step("probe"),
            release=self._release,
            settings=settings,
        )

    def _load(self, folder: Path, manifest: Manifest) -> Model:
        assert (folder / "model.safetensors").is_file()
        if self.gate is not None:
            assert self.gate.wait(10)
        self._step("load")
        return Model(manifest.release_id)

    def _release(self, model: Model) -> None:
        self.released.append(model.release_id)
        self._step("release")

    def _step(self, name: str) -> None:
        self.calls.append(name)
        self.on_step.get(name, lambda: None)()
        if name in self.fail:
            raise self.fail[name]

    def promote(self, manifest: Manifest) -> None:
        self.registry.promote("stable", manifest.release_id, expected_generation=None)


@pytest.fixture
async def make_rig(tmp_path: Path) -> AsyncIterator[Callable[..., Rig]]:
    """A rig of its own registry, reload settings by name; stopped at the end."""
    made: list[Rig] = []

    def make(*, uri: str = "", poll_interval_s: float = 3600.0, **settings: Any) -> Rig:
        registry = Registry(uri or str(tmp_path / "registry"))
        reload_settings = ReloadSettings(poll_interval_s=poll_interval_s, **settings)
        made.append(Rig(registry, cache_dir=tmp_path / "cache", settings=reload_settings))
        return made[-1]

    yield make
    for rig in made:
        await rig.reloader.stop()


@pytest.fixture
def rig(make_rig: Callable[..., Rig]) -> Rig:
    """A reloader on a fresh local registry that looks at its channel only when told to."""
    return make_rig()
