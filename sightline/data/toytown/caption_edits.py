"""Edits to train on: a captioned training picture, a sentence, and the caption of the scene that it asks for."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from sightline.data.toytown.changes import (
    EDIT_TYPES,
    Change,
    HeldOut,
    ToldFacts,
    change_between,
    is_sound,
    told_facts,
    transform_of,
)
from sightline.data.toytown.edit_words import say_edit
from sightline.data.toytown.language import TIME_PHRASES, WEATHER_PHRASES, ordinary_caption
from sightline.data.toytown.plan import PlannedScene
from sightline.data.toytown.world import Scene, Subject, subject_kinds

RECORD_TYPES = {
    **{"colour": "attribute", "place": "background", "time": "background", "weather": "background"},
    **{"add": "add", "remove": "remove", "replace": "replace", "count": "count"},
}
"""What the records of edits call each of our types."""
MODEL = "toytown-facts"
_TRIES = 20


def caption_edits(
    planned: Sequence[PlannedScene],
    *,
    part: str,
    per_type: int,
    subjects: Sequence[Subject],
    held_out: HeldOut,
    avoid: Collection[ToldFacts],
    seed: int,
) -> list[dict[str, Any]]:
    """JSON objects of edits, up to `per_type` of each type and scene, written by rule from what is true of it.

    Scenes with a subject are left out, whose captions hide what an edit would
    change; so are references and targets with a held-out combination, and targets
    that tell the facts of a scene in `avoid`. The target's caption tells whatever
    the reference's tells, changed as asked.
    """
    rng = random.Random(f"edits {part} {seed}")
    named_kinds = subject_kinds(subjects)
    rows = [
        _row(item, change, part=part, seed=seed, rng=rng)
        for item in planned
        if item.scene.subject is None
        and is_sound(item.scene, named_kinds=named_kinds)
        and not held_out.covers(item.scene)
        for change in _changes(item.scene, per_type=per_type, named_kinds=named_kinds, rng=rng)
        if not held_out.covers(change.target) and told_facts(change.target) not in avoid
    ]
    return list({row["id"]: row for row in rows}.values())


def tells(caption: str, scene: Scene) -> set[str]:
    """Which of 'time' and 'weather' of the scene the caption tells."""
    phrases = {"time": TIME_PHRASES[scene.time], "weather": WEATHER_PHRASES[scene.weather]}
    return {name for name, said in phrases.items() if any(phrase in caption for phrase in said)}


def whole_caption(scene: Scene, *, rng: random.Random) -> str:
    """A caption of a scene without a subject that leaves out neither hour nor weather."""
    caption = ordinary_caption(scene, rng=rng)
    while len(tells(caption, scene)) < 2:
        caption = ordinary_caption(scene, rng=rng)
    return caption


def _changes(scene: Scene, *, per_type: int, named_kinds: Collection[str], rng: random.Random) -> Iterator[Change]:
    """Up to `per_type` different sound changes of each type."""
    for edit_type in EDIT_TYPES:
        found: dict[ToldFacts, Change] = {}
        for _ in range(_TRIES):
            if len(found) == per_type:
                break
            position = rng.randrange(len(scene.groups))
            target = transform_of(scene, edit_type=edit_type, position=position, rng=rng)(scene)
            change = change_between(scene, target) if is_sound(target, named_kinds=named_kinds) else None
            if change is not None:
                found[told_facts(target)] = change
        yield from found.values()


def _row(item: PlannedScene, change: Change, *, part: str, seed: int, rng: random.Random) -> dict[str, Any]:
    reference_caption = ordinary_caption(change.reference, rng=rng)
    told = tells(reference_caption, change.reference) | ({change.edit_type} & {"time", "weather"})
    target_caption = ordinary_caption(change.target, rng=rng)
    while not tells(target_caption, change.target) >= told:
        target_caption = ordinary_caption(change.target, rng=rng)
    modification = say_edit(change, part=part, rng=rng)
    edit_type, version = RECORD_TYPES[change.edit_type], f"1 {part}"
    parts = (item.image_id, reference_caption, modification, target_caption, edit_type, version, str(seed))
    return {
        "id": hashlib.sha256("\n".join(parts).encode()).hexdigest(),
        "image": item.image_id,
        "reference_caption": reference_caption,
        "modification": modification,
        "target_caption": target_caption,
        "edit_type": edit_type,
        "generator": {"kind": "rule", "model": MODEL, "prompt_version": version, "seed": seed},
    }
