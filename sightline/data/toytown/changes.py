"""Single changes of a scene: which one leads from a scene to another, and scenes that one change leads to."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sightline.data.toytown.scenes import MAX_GROUPS, MAX_THINGS
from sightline.data.toytown.world import (
    COLOURS,
    KINDS,
    PLACES,
    TIMES,
    WEATHERS,
    Group,
    Scene,
    with_group,
)

EDIT_TYPES = ("colour", "place", "time", "weather", "add", "remove", "replace", "count")
"""What one edit in words can change about a scene."""
_HELD_OUT_SHARE = 8
"""One in so many combinations is held out."""

ToldFacts = tuple[str, str, str, tuple[tuple[str, str, int], ...]]
"""Place, time, weather, and kind, colour and count of each group in order of kinds."""
Transform = Callable[[Scene], Scene]


@dataclass(frozen=True, kw_only=True)
class Change:
    """One edit between two scenes that sentences can say in full."""

    edit_type: str
    """One of `EDIT_TYPES`."""
    reference: Scene
    target: Scene
    before: Group | None = None
    """The group that the change removes or alters."""
    after: Group | None = None
    """The group that the change adds or leaves."""


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Combinations of facts that no training edit starts from or leads to."""

    things: frozenset[tuple[str, str]]
    """Kinds with a colour."""
    settings: frozenset[tuple[str, str]]
    """Places with a time."""

    def covers(self, scene: Scene) -> bool:
        """True if the scene shows one of the combinations."""
        things = {(group.kind, group.colour) for group in scene.groups}
        return bool(things & self.things) or (scene.place, scene.time) in self.settings


def told_facts(scene: Scene) -> ToldFacts:
    """What an edit must get right. Sizes and the order from left to right are none of it: no edit is about them."""
    groups = tuple(sorted((group.kind, group.colour, group.count) for group in scene.groups))
    return scene.place, scene.time, scene.weather, groups


def held_out_of(*, seed: int) -> HeldOut:
    """An eighth of the kinds with a colour, and of the places with a time."""
    rng = random.Random(f"held out of edits {seed}")
    things = [(kind, colour) for kind in KINDS for colour in COLOURS]
    settings = [(place, time) for place in PLACES for time in TIMES]
    return HeldOut(
        things=frozenset(rng.sample(things, k=len(things) // _HELD_OUT_SHARE)),
        settings=frozenset(rng.sample(settings, k=len(settings) // _HELD_OUT_SHARE)),
    )


def is_sound(scene: Scene, *, named_kinds: Collection[str]) -> bool:
    """True if a sentence can name each thing, none looks like a subject of `named_kinds`, and there is room for all."""
    kinds = [group.kind for group in scene.groups]
    return (
        0 < sum(group.count for group in scene.groups) <= MAX_THINGS
        and len(set(kinds)) == len(kinds) <= MAX_GROUPS
        and not any(group.size == "huge" and group.kind in named_kinds for group in scene.groups)
    )


def change_between(reference: Scene, target: Scene) -> Change | None:
    """The one change that leads from `reference` to `target`; None if they tell the same or it takes several.

    Each kind stands in a scene once, as in `is_sound` ones.
    """
    settings = [name for name in ("place", "time", "weather") if getattr(reference, name) != getattr(target, name)]
    before = {(group.kind, group.colour, group.count): group for group in reference.groups}
    after = {(group.kind, group.colour, group.count): group for group in target.groups}
    gone = [group for key, group in before.items() if key not in after]
    new = [group for key, group in after.items() if key not in before]
    if len(settings) + max(len(gone), len(new)) != 1:
        return None
    edit_type = settings[0] if settings else _group_change(gone, new)
    if edit_type is None:
        return None
    return Change(
        edit_type=edit_type,
        reference=reference,
        target=target,
        before=gone[0] if gone else None,
        after=new[0] if new else None,
    )


def _group_change(gone: Sequence[Group], new: Sequence[Group]) -> str | None:
    if not gone or not new:
        return "remove" if gone else "add"
    old, now = gone[0], new[0]
    aspects = {"replace": "kind", "colour": "colour", "count": "count"}
    changed = [edit_type for edit_type, name in aspects.items() if getattr(old, name) != getattr(now, name)]
    return changed[0] if len(changed) == 1 else None


def transform_of(scene: Scene, *, edit_type: str, position: int, rng: random.Random) -> Transform:
    """A change of that type, at random, to be done to `scene` or to others that have the same number of groups.

    `position` is the group that is coloured, counted, replaced or removed. The
    scene that results need not be sound.
    """
    group = scene.groups[position]
    if edit_type in _SETTINGS:
        setting = {edit_type: _other(rng, _SETTINGS[edit_type], than=getattr(scene, edit_type))}
        return lambda at: replace(at, **setting)
    if edit_type == "add":
        new = Group(kind=rng.choice(KINDS), colour=rng.choice(list(COLOURS)), size=rng.choice(("small", "big")))
        return lambda at: replace(at, groups=(*at.groups, new))
    if edit_type == "remove":
        return lambda at: replace(at, groups=(*at.groups[:position], *at.groups[position + 1 :]))
    name, values = _GROUP_VALUES[edit_type]
    changed = {name: _other(rng, values, than=getattr(group, name))}
    return lambda at: with_group(at, position, replace(at.groups[position], **changed))


_SETTINGS: dict[str, Sequence[str]] = {"place": list(PLACES), "time": TIMES, "weather": WEATHERS}
_GROUP_VALUES: dict[str, tuple[str, Sequence[Any]]] = {
    "colour": ("colour", list(COLOURS)),
    "replace": ("kind", KINDS),
    "count": ("count", (1, 2, 3)),
}


def _other(rng: random.Random, values: Sequence[Any], *, than: Any) -> Any:
    return rng.choice([value for value in values if value != than])
