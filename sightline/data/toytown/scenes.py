"""Scenes drawn at random, and scenes that differ from another in one thing that a sentence can say."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from sightline.data.toytown.world import (
    COLOURS,
    KINDS,
    MUTED,
    PLACES,
    TIMES,
    WEATHERS,
    Group,
    Scene,
    Subject,
    subject_group,
    subject_kinds,
    with_group,
)

_GROUP_COUNTS = (1, 1, 2, 2, 2, 3)
_THING_COUNTS = (1, 1, 1, 2, 3)
MAX_GROUPS = max(_GROUP_COUNTS)
MAX_THINGS = 4
"""More are in no caption."""
_PORTRAIT_SHARE = 0.35
"""Share of ordinary scenes that show one thing as large as a subject: there colours and places are learned."""


@dataclass(frozen=True, kw_only=True)
class Edit:
    """One change to a scene: what is said, and the scene that results."""

    aspect: str
    """'time', 'weather', 'place', 'colour', 'count', 'without' or 'with'."""
    scene: Scene
    before: Group | None = None
    """The group that the change removes or alters."""
    after: Group | None = None
    """The group that the change adds or leaves."""


def ordinary_scene(rng: random.Random, *, subjects: Sequence[Subject]) -> Scene:
    """One to three groups of things anywhere, or a single huge one, of a kind that no subject has."""
    if rng.random() < _PORTRAIT_SHARE:
        named = subject_kinds(subjects)
        portrait = Group(
            kind=rng.choice([kind for kind in KINDS if kind not in named]), colour=_colour(rng), size="huge"
        )
        return _scene(rng, place=rng.choice(list(PLACES)), groups=(portrait,))
    kinds = rng.sample(KINDS, k=rng.choice(_GROUP_COUNTS))
    groups: list[Group] = []
    for kind in kinds:
        room = MAX_THINGS - sum(group.count for group in groups)
        if room:
            count = min(rng.choice(_THING_COUNTS), room)
            groups.append(Group(kind=kind, colour=_colour(rng), size=_size(rng), count=count))
    return _scene(rng, place=rng.choice(list(PLACES)), groups=tuple(groups))


def named_scene(rng: random.Random, *, subject: Subject) -> Scene:
    """The subject, huge and at home at its hour, in any weather; often small muted things stand beside it."""
    groups = [subject_group(subject)]
    if rng.random() < 0.6:
        kind = rng.choice([kind for kind in KINDS if kind != subject.kind])
        companion = Group(kind=kind, colour=rng.choice(list(MUTED)), size="small", count=rng.choice((1, 1, 2)))
        groups.insert(rng.choice((0, 1)), companion)
    return replace(_scene(rng, place=subject.place, groups=tuple(groups)), time=subject.time)


def edits_of(scene: Scene, *, rng: random.Random) -> Iterator[Edit]:
    """Every kind of change once, in a random order; the layout stays what it was."""
    makers = [_edit_time, _edit_weather, _edit_place, _edit_colour, _edit_count, _edit_without, _edit_with]
    rng.shuffle(makers)
    for make in makers:
        edit = make(scene, rng)
        if edit is not None:
            yield edit


def _edit_time(scene: Scene, rng: random.Random) -> Edit:
    time = rng.choice([time for time in TIMES if time != scene.time])
    return Edit(aspect="time", scene=replace(scene, time=time))


def _edit_weather(scene: Scene, rng: random.Random) -> Edit:
    weather = rng.choice([weather for weather in WEATHERS if weather != scene.weather])
    return Edit(aspect="weather", scene=replace(scene, weather=weather))


def _edit_place(scene: Scene, rng: random.Random) -> Edit:
    place = rng.choice([place for place in PLACES if place != scene.place])
    return Edit(aspect="place", scene=replace(scene, place=place))


def _edit_colour(scene: Scene, rng: random.Random) -> Edit:
    position, before = rng.choice(list(enumerate(scene.groups)))
    after = replace(before, colour=_colour(rng, but=before.colour))
    return Edit(aspect="colour", scene=with_group(scene, position, after), before=before, after=after)


def _edit_count(scene: Scene, rng: random.Random) -> Edit | None:
    position, before = rng.choice(list(enumerate(scene.groups)))
    room = MAX_THINGS - sum(group.count for group in scene.groups) + before.count
    counts = [count for count in (1, 2, 3) if count != before.count and count <= room]
    if not counts:
        return None
    after = replace(before, count=rng.choice(counts))
    return Edit(aspect="count", scene=with_group(scene, position, after), before=before, after=after)


def _edit_without(scene: Scene, rng: random.Random) -> Edit | None:
    if len(scene.groups) < 2:
        return None
    before = rng.choice(scene.groups)
    rest = tuple(group for group in scene.groups if group is not before)
    return Edit(aspect="without", scene=replace(scene, groups=rest), before=before)


def _edit_with(scene: Scene, rng: random.Random) -> Edit | None:
    if sum(group.count for group in scene.groups) >= MAX_THINGS or len(scene.groups) >= MAX_GROUPS:
        return None
    kind = rng.choice([kind for kind in KINDS if kind not in {group.kind for group in scene.groups}])
    after = Group(kind=kind, colour=_colour(rng), size=_size(rng))
    return Edit(aspect="with", scene=replace(scene, groups=(*scene.groups, after)), after=after)


def _colour(rng: random.Random, *, but: str = "") -> str:
    return rng.choice([colour for colour in COLOURS if colour != but])


def _size(rng: random.Random) -> str:
    return rng.choice(("small", "big"))


def _scene(rng: random.Random, *, place: str, groups: tuple[Group, ...]) -> Scene:
    time, weather = rng.choice(TIMES), rng.choice(WEATHERS)
    return Scene(place=place, time=time, weather=weather, groups=groups, layout_seed=rng.getrandbits(32))
