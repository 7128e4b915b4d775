"""Channels: generations only rise, one of several publishers wins, and rolling back moves forward."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sightline.errors import ChannelConflict, DataCorrupt, ReleaseInvalid, UsageError
from sightline.registry import Manifest, Registry

Publish = Callable[..., Manifest]


@pytest.fixture
def ids(registry: Registry, publish: Publish) -> list[str]:
    return [publish(registry, seed=seed).release_id for seed in range(3)]


def promote_all(registry: Registry, ids: list[str]) -> None:
    for release_id in ids:
        registry.promote("stable", release_id, expected_generation=None)


@pytest.mark.parametrize("expected", [0, 1, 3])
def test_a_promotion_from_another_generation_changes_nothing(registry: Registry, ids: list[str], expected: int) -> None:
    promote_all(registry, ids[:2])
    with pytest.raises(ChannelConflict, match=f"expected generation {expected}, it is at 2"):
        registry.promote("stable", ids[2], expected_generation=expected)
    state = registry.channel("stable")
    assert state is not None
    assert (state.generation, state.release_id) == (2, ids[1])


@pytest.mark.parametrize("expected", [0, None])
def test_of_racing_publishers_exactly_one_makes_a_generation(
    registry: Registry, ids: list[str], expected: int | None
) -> None:
    together = threading.Barrier(8)

    def promote(turn: int) -> int:
        together.wait(10)
        try:
            return registry.promote("stable", ids[turn % 3], expected_generation=expected).generation
        except ChannelConflict:
            return 0

    with ThreadPoolExecutor(8) as pool:
        made = sorted(generation for generation in pool.map(promote, range(8)) if generation)
    assert made == list(range(1, len(made) + 1))
    if expected == 0:
        assert made == [1]
    assert len(registry.history("stable")) == len(made)


def test_channels_are_independent(registry: Registry, ids: list[str]) -> None:
    promote_all(registry, ids)
    registry.promote("canary", ids[0], expected_generation=0)
    assert registry.channels() == ["canary", "stable"]
    canary = registry.channel("canary")
    assert canary is not None
    assert canary.generation == 1


def test_history_is_newest_first(registry: Registry, ids: list[str]) -> None:
    promote_all(registry, ids)
    assert [state.release_id for state in registry.history("stable")] == ids[::-1]
    assert [state.generation for state in registry.history("stable", limit=2)] == [3, 2]


def test_rolling_back_names_the_old_release_under_a_new_generation(registry: Registry, ids: list[str]) -> None:
    promote_all(registry, ids[:2])
    state = registry.rollback("stable")
    assert (state.generation, state.release_id, state.previous) == (3, ids[0], ids[1])


def test_rolling_back_twice_goes_two_releases_back(registry: Registry, ids: list[str]) -> None:
    promote_all(registry, ids)
    assert registry.rollback("stable").release_id == ids[1]
    assert registry.rollback("stable").release_id == ids[0]
    with pytest.raises(UsageError, match="no earlier release"):
        registry.rollback("stable")


def test_rolling_back_skips_repeated_promotions_of_the_same_release(registry: Registry, ids: list[str]) -> None:
    promote_all(registry, [ids[0], ids[1], ids[1]])
    assert registry.rollback("stable").release_id == ids[0]


def test_rolling_back_after_a_new_promotion_goes_to_what_served_before_it(registry: Registry, ids: list[str]) -> None:
    promote_all(registry, ids[:2])
    registry.rollback("stable")
    promote_all(registry, [ids[2]])
    assert registry.rollback("stable").release_id == ids[0]


def test_rolling_back_from_another_generation_changes_nothing(registry: Registry, ids: list[str]) -> None:
    promote_all(registry, ids)
    with pytest.raises(ChannelConflict):
        registry.rollback("stable", expected_generation=2)


def test_a_channel_that_never_moved_cannot_roll_back(registry: Registry) -> None:
    with pytest.raises(UsageError, match="no earlier release"):
        registry.rollback("stable")


def test_an_unpublished_release_is_not_promoted(registry: Registry) -> None:
    with pytest.raises(ReleaseInvalid, match="never published"):
        registry.promote("stable", "sha256-" + "0" * 64, expected_generation=None)
    assert registry.channel("stable") is None


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"generation": 1}'])
def test_an_unreadable_channel_is_named(tmp_path: Path, publish: Publish, text: str) -> None:
    registry = Registry(str(tmp_path / "registry"))
    promote_all(registry, [publish(registry).release_id])
    (tmp_path / "registry" / "channels" / "stable" / "00000001.json").write_text(text)
    with pytest.raises(DataCorrupt, match="stable, generation 1"):
        registry.channel("stable")
