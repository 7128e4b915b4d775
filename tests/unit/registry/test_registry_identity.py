"""Content addressing: what makes two releases the same, and the cache that relies on it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sightline.registry import Manifest, Registry

Publish = Callable[..., Manifest]


def test_the_same_content_has_the_same_id_and_keeps_its_first_manifest(registry: Registry, publish: Publish) -> None:
    first = publish(registry, loss=1.0)
    again = publish(registry, loss=2.0)
    assert again == first
    assert registry.releases() == [first.release_id]


def test_another_file_or_another_architecture_is_another_release(registry: Registry, publish: Publish) -> None:
    ids = {publish(registry, seed=seed, space_id=space).release_id for seed in (1, 2) for space in ("a" * 16, "b" * 16)}
    assert len(ids) == 4
    assert registry.releases() == sorted(ids)


def test_the_id_does_not_depend_on_where_the_release_lies(publish: Publish, tmp_path: Path) -> None:
    here, there = Registry(str(tmp_path / "here")), Registry(f"memory://{tmp_path.name}/there")
    assert publish(here).release_id == publish(there).release_id


def test_a_fetched_folder_can_be_published_again_under_the_same_id(
    registry: Registry, publish: Publish, tmp_path: Path
) -> None:
    manifest = publish(registry)
    folder = registry.fetch(manifest.release_id, into=tmp_path / "cache")
    other = Registry(str(tmp_path / "other"))
    copied = other.publish(folder, architecture=manifest.architecture, metrics={}, lineage={})
    assert copied.release_id == manifest.release_id


def test_racing_publishers_of_the_same_content_all_succeed(publish: Publish, tmp_path: Path) -> None:
    made = publish(Registry(f"memory://{tmp_path.name}/made"), seed=5)
    registry = Registry(str(tmp_path / "registry"))
    together = threading.Barrier(4)

    def publish_together(_turn: int) -> str:
        together.wait(10)
        folder = tmp_path / "made-5"
        return registry.publish(folder, architecture=made.architecture, metrics={}, lineage={}).release_id

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(publish_together, range(4))) == {made.release_id}
    assert [path.name for path in (tmp_path / "registry" / "releases").iterdir()] == [made.release_id]


def test_a_cached_release_is_not_downloaded_again(registry: Registry, publish: Publish, tmp_path: Path) -> None:
    manifest = publish(registry)
    stages: list[str] = []
    first = registry.fetch(manifest.release_id, into=tmp_path / "cache")
    number = (first / "config.json").stat().st_ino
    second = registry.fetch(manifest.release_id, into=tmp_path / "cache", on_stage=stages.append)
    assert (second / "config.json").stat().st_ino == number
    assert stages == ["fetching", "verifying"]


@pytest.mark.parametrize("damage", ["edit", "plant", "remove"])
def test_a_damaged_cached_release_is_fetched_again(
    registry: Registry, publish: Publish, tmp_path: Path, damage: str
) -> None:
    manifest = publish(registry)
    folder = registry.fetch(manifest.release_id, into=tmp_path / "cache")
    if damage == "remove":
        (folder / "config.json").unlink()
    else:
        (folder / ("config.json" if damage == "edit" else "extra.json")).write_text("other")
    folder = registry.fetch(manifest.release_id, into=tmp_path / "cache")
    assert (folder / "config.json").read_text() == '{"seed": 0}'
    assert not (folder / "extra.json").exists()


def test_the_cache_keeps_the_releases_used_last(registry: Registry, publish: Publish, tmp_path: Path) -> None:
    ids = [publish(registry, seed=seed).release_id for seed in range(4)]
    for release_id in (*ids[:3], ids[0], ids[3]):
        registry.fetch(release_id, into=tmp_path / "cache", keep=3)
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {ids[0], ids[2], ids[3]}


def test_processes_may_share_a_cache(registry: Registry, publish: Publish, tmp_path: Path) -> None:
    manifest = publish(registry)
    together = threading.Barrier(4)

    def fetch(_turn: int) -> Path:
        together.wait(10)
        return registry.fetch(manifest.release_id, into=tmp_path / "cache")

    with ThreadPoolExecutor(4) as pool:
        folders = set(pool.map(fetch, range(4)))
    assert folders == {tmp_path / "cache" / manifest.release_id}
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [manifest.release_id]
