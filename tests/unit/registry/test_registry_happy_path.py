"""Publishing, fetching and promoting, on a folder and on a bucket."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sightline.registry import Manifest, Registry

Publish = Callable[..., Manifest]


def test_a_fetched_release_has_the_published_bytes(registry: Registry, publish: Publish, tmp_path: Path) -> None:
    manifest = publish(registry, seed=3)
    folder = registry.fetch(manifest.release_id, into=tmp_path / "cache")
    for name in manifest.files:
        assert (folder / name).read_bytes() == (tmp_path / "made-3" / name).read_bytes()


def test_promotion_raises_the_generation_and_remembers_the_previous_release(
    registry: Registry, publish: Publish
) -> None:
    first, second = publish(registry, seed=1), publish(registry, seed=2)
    registry.promote("stable", first.release_id, expected_generation=None)
    state = registry.promote("stable", second.release_id, expected_generation=1)
    assert (state.generation, state.release_id, state.previous) == (2, second.release_id, first.release_id)
    assert registry.channel("stable") == state


def test_a_channel_that_never_moved_is_none(registry: Registry) -> None:
    assert registry.channel("stable") is None
