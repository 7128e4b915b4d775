"""Records of GeneCIS' four tasks about Toytown: a condition of a word or two, and a gallery made for each query."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from sightline.data.toytown.changes import Change
from sightline.data.toytown.families import ComposedQuery, ComposedSplit
from sightline.data.toytown.world import Scene

GALLERY_SIZES = {"focus_attribute": 10, "change_attribute": 15, "focus_object": 15, "change_object": 15}
"""Pictures to choose from, the target among them."""
_ASPECTS = ("place", "time", "weather")

Row = dict[str, Any]
PictureOf = Callable[[str], Row]


def genecis_records(
    split: ComposedSplit, *, numbers: Mapping[str, int], picture_size: int, seed: int
) -> dict[str, list[Row]]:
    """The records of each task; `gallery` lists the distractors, the target stands apart.

    Change: the reference with another colour ('pink'), or with another thing
    ('dog'); distractors are pictures that look like the reference, its neighbours and
    the target's, and strangers. Focus: what the target shares with the reference,
    a value of an aspect ('weather') or a kind of thing ('dog'), and no distractor does.
    """

    def photo(image_id: str) -> Row:
        return {"val_image_id": numbers[image_id]}

    def part(image_id: str) -> Row:
        return {"image_id": numbers[image_id], "instance_bbox": [0, 0, picture_size, picture_size]}

    makers = {
        "focus_attribute": (_focus_attribute, part),
        "change_attribute": (_change(("colour",), condition=_new_colour), part),
        "focus_object": (_focus_object, photo),
        "change_object": (_change(("add", "replace"), condition=_new_kind), photo),
    }
    return {
        task: [
            _row(chosen, size=GALLERY_SIZES[task], picture_of=picture_of)
            for chosen in make(split, GALLERY_SIZES[task] - 1, random.Random(f"genecis {task} {seed}"))
        ]
        for task, (make, picture_of) in makers.items()
    }


_Chosen = tuple[str, str, str, Sequence[str]]
"""Reference, condition, target, distractors."""
_Maker = Callable[[ComposedSplit, int, random.Random], Iterator[_Chosen]]


def _row(chosen: _Chosen, *, size: int, picture_of: PictureOf) -> Row:
    reference, condition, target, distractors = chosen
    assert len({target, *distractors} - {reference}) == size
    return {
        "condition": condition,
        "gallery": [picture_of(image_id) for image_id in distractors],
        "reference": picture_of(reference),
        "target": picture_of(target),
    }


def _new_colour(change: Change) -> str:
    assert change.after is not None
    return change.after.colour


def _new_kind(change: Change) -> str:
    assert change.after is not None
    return change.after.kind


def _change(types: Sequence[str], *, condition: Callable[[Change], str]) -> _Maker:
    def make(split: ComposedSplit, size: int, rng: random.Random) -> Iterator[_Chosen]:
        for query in split.queries:
            if query.change.edit_type in types:
                distractors = _near_and_far(query, split=split, size=size, rng=rng)
                yield query.reference_id, condition(query.change), query.target_id, distractors

    return make


def _near_and_far(query: ComposedQuery, *, split: ComposedSplit, size: int, rng: random.Random) -> list[str]:
    """Pictures that look like the reference, the rest of the query's subset, and others at random."""
    asked = (query.reference_id, query.target_id)
    near = [*split.looks_alike[query.reference_id], *(one for one in query.subset_ids if one not in asked)]
    far = [image_id for image_id in split.scenes if image_id not in {*near, *asked}]
    return [*near, *rng.sample(far, k=size - len(near))]


def _focus_attribute(split: ComposedSplit, size: int, rng: random.Random) -> Iterator[_Chosen]:
    for number, (image_id, reference) in enumerate(_references(split)):
        aspect = _ASPECTS[number % len(_ASPECTS)]
        is_shared = partial(_has_value, aspect=aspect, value=getattr(reference, aspect))
        yield from _focused(split, image_id, aspect, size, rng, is_shared=is_shared)


def _focus_object(split: ComposedSplit, size: int, rng: random.Random) -> Iterator[_Chosen]:
    for image_id, reference in _references(split):
        kind = rng.choice(reference.groups).kind
        yield from _focused(split, image_id, kind, size, rng, is_shared=partial(_has_kind, kind=kind))


def _focused(
    split: ComposedSplit,
    reference_id: str,
    condition: str,
    size: int,
    rng: random.Random,
    *,
    is_shared: Callable[[Scene], bool],
) -> Iterator[_Chosen]:
    """A target that shares what is focused on, among pictures that do not; none where there are too few."""
    near = {reference_id, *split.looks_alike[reference_id]}
    others = [image_id for image_id in split.scenes if image_id not in near]
    sharing = [image_id for image_id in others if is_shared(split.scenes[image_id])]
    lacking = [image_id for image_id in others if not is_shared(split.scenes[image_id])]
    if sharing and len(lacking) >= size:
        yield reference_id, condition, rng.choice(sharing), rng.sample(lacking, k=size)


def _references(split: ComposedSplit) -> list[tuple[str, Scene]]:
    """The reference pictures of the queries, each once."""
    return list({query.reference_id: query.change.reference for query in split.queries}.items())


def _has_value(scene: Scene, *, aspect: str, value: str) -> bool:
    return bool(getattr(scene, aspect) == value)


def _has_kind(scene: Scene, *, kind: str) -> bool:
    return any(group.kind == kind for group in scene.groups)
