"""Galleries of scenes that are one change apart, and composed queries between them with one right answer each."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations, product

from sightline.data.toytown.changes import (
    Change,
    HeldOut,
    ToldFacts,
    Transform,
    change_between,
    is_sound,
    told_facts,
    transform_of,
)
from sightline.data.toytown.edit_words import say_edit
from sightline.data.toytown.scenes import ordinary_scene
from sightline.data.toytown.world import Scene, Subject, subject_kinds

QUERIES_PER_FAMILY = 12
RENDERS = 3
"""Pictures of each reference scene: the reference and two that look alike, so that the picture alone finds those."""
PICTURES_PER_FAMILY = 2 * 3 * 3 + 3 * (RENDERS - 1)
_PAIRS = tuple(combinations(("colour", "place", "time", "weather", "replace", "count"), 2))
"""Edit types of the two aspects of a family that have three values; in the third a thing comes and goes."""
_CELLS = tuple(product(range(2), range(3), range(3)))
_TRIES = 12

Cell = tuple[int, int, int]
"""Which value each of a family's three aspects has."""
Edge = tuple[int, Cell, Cell]
"""A family, a reference in it and a target one change away."""


@dataclass(frozen=True, kw_only=True)
class GalleryScene:
    """A picture of a gallery."""

    image_id: str
    scene: Scene
    family: int | None
    """Scenes of a family differ in three aspects only; None for one that is like no other."""


@dataclass(frozen=True, kw_only=True)
class ComposedQuery:
    """A reference and an edit that one picture of the gallery answers."""

    id: str
    reference_id: str
    target_id: str
    change: Change
    text: str
    is_held_out: bool
    """True if the target shows a combination of facts that training edits avoid."""
    family: int
    subset_ids: tuple[str, ...]
    """Reference, target, two pictures one change from the reference, and two one change from the target."""


@dataclass(frozen=True, kw_only=True)
class ComposedSplit:
    """A gallery and its queries."""

    name: str
    gallery: tuple[GalleryScene, ...]
    queries: tuple[ComposedQuery, ...]

    @cached_property
    def scenes(self) -> dict[str, Scene]:
        """Every scene of the gallery by the id of its picture."""
        return {item.image_id: item.scene for item in self.gallery}

    @cached_property
    def changes(self) -> dict[str, dict[str, Change]]:
        """For each reference, every picture that is one change away, wherever in the gallery, with that change."""
        references = {query.reference_id: query.change.reference for query in self.queries}
        return {image_id: changes_from(scene, self.scenes) for image_id, scene in references.items()}

    @cached_property
    def looks_alike(self) -> dict[str, tuple[str, ...]]:
        """For each picture, all others that tell the same facts."""
        ids: dict[ToldFacts, list[str]] = defaultdict(list)
        for image_id, scene in self.scenes.items():
            ids[told_facts(scene)].append(image_id)
        return {one: tuple(other for other in same if other != one) for same in ids.values() for one in same}


def changes_from(reference: Scene, scenes: Mapping[str, Scene]) -> dict[str, Change]:
    """Those of the named scenes that are one change away from the reference, with that change."""
    changes = ((name, change_between(reference, scene)) for name, scene in scenes.items())
    return {name: change for name, change in changes if change}


def make_split(
    name: str,
    *,
    num_queries: int,
    num_pictures: int,
    subjects: Sequence[Subject],
    held_out: HeldOut,
    known: set[ToldFacts],
    seed: int,
) -> ComposedSplit:
    """A gallery of `num_pictures` and queries of balanced types, worded from the templates of `name`.

    No two pictures tell the same facts, but for those that show a reference
    again; none tells those of a scene in `known`, to which the new ones are added.
    """
    rng = random.Random(f"composed {name} {seed}")
    pairs = rng.sample(_PAIRS, k=len(_PAIRS))
    families = [
        _family(rng, pair=pairs[number % len(pairs)], subjects=subjects, known=known)
        for number in range(-(-num_queries // QUERIES_PER_FAMILY))
    ]
    scenes = [(number, scene) for number, family in enumerate(families) for scene in family.pictures(rng)]
    rest = num_pictures - len(scenes)
    shown: list[tuple[int | None, Scene]] = [*scenes, *((None, _fresh(rng, subjects, known)) for _ in range(rest))]
    gallery = _numbered(shown, name=name, rng=rng)
    draft = _Draft(name=name, families=families, ids=_first_ids(gallery), held_out=held_out, rng=rng)
    edges = _chosen(families, num_queries=num_queries, rng=rng)
    queries = tuple(draft.query(edge, number=number) for number, edge in enumerate(edges))
    return ComposedSplit(name=name, gallery=gallery, queries=queries)


def _numbered(shown: Sequence[tuple[int | None, Scene]], *, name: str, rng: random.Random) -> tuple[GalleryScene, ...]:
    """The pictures in a random order: their place in it tells nothing."""
    return tuple(
        GalleryScene(image_id=f"edited_{name}-{number:05d}", family=family, scene=scene)
        for number, (family, scene) in enumerate(rng.sample(shown, k=len(shown)))
    )


def _first_ids(gallery: Sequence[GalleryScene]) -> dict[ToldFacts, str]:
    """The picture that stands for each scene: of a reference it is the first, and the others look alike."""
    return {told_facts(item.scene): item.image_id for item in reversed(gallery)}


@dataclass(frozen=True, kw_only=True)
class _Family:
    """Scenes by cell; two whose cells differ in one place are one change apart."""

    scenes: dict[Cell, Scene]
    references: tuple[Cell, ...]
    """No two are one change apart, so that none is another's target."""

    def pictures(self, rng: random.Random) -> list[Scene]:
        """Every scene once and references again, each with a layout of its own."""
        again = [self.scenes[cell] for cell in self.references for _ in range(RENDERS - 1)]
        return [replace(scene, layout_seed=rng.getrandbits(32)) for scene in [*self.scenes.values(), *again]]

    def neighbours(self, cell: Cell) -> list[Cell]:
        """Cells that are one change away."""
        return [other for other in self.scenes if sum(a != b for a, b in zip(cell, other, strict=True)) == 1]

    def change(self, reference: Cell, target: Cell) -> Change:
        """What leads from one cell to one of its neighbours."""
        change = change_between(self.scenes[reference], self.scenes[target])
        assert change is not None
        return change


def _family(
    rng: random.Random, *, pair: tuple[str, str], subjects: Sequence[Subject], known: set[ToldFacts]
) -> _Family:
    named_kinds = subject_kinds(subjects)
    while True:
        scenes = _product(
            ordinary_scene(rng, subjects=subjects), types=("add", *pair), named_kinds=named_kinds, rng=rng
        )
        told = {told_facts(scene) for scene in scenes.values()}
        if len(told) == len(_CELLS) and not told & known:
            known |= told
            second, third = rng.sample(range(3), k=3), rng.sample(range(3), k=3)
            cells = tuple((rng.randrange(2), *pair) for pair in zip(second, third, strict=True))
            return _Family(scenes=scenes, references=cells)


def _product(
    base: Scene, *, types: Sequence[str], named_kinds: Collection[str], rng: random.Random
) -> dict[Cell, Scene]:
    """Two values of one aspect times three of two others; fewer cells, if any, where the next scene is not sound."""
    choices = [_values(base, edit_type=edit_type, named_kinds=named_kinds, rng=rng) for edit_type in types]
    scenes: dict[Cell, Scene] = {}
    for cell in _CELLS if all(choices) else ():
        scene = base
        for value, transforms in zip(cell, choices, strict=True):
            scene = transforms[value](scene)
        if not is_sound(scene, named_kinds=named_kinds):
            break
        scenes[cell] = scene
    return scenes


def _values(base: Scene, *, edit_type: str, named_kinds: Collection[str], rng: random.Random) -> list[Transform]:
    """Three sound and different values of an aspect, the first that of `base`; none where they are not found soon."""
    position = rng.randrange(len(base.groups))
    values: dict[ToldFacts, Transform] = {told_facts(base): lambda scene: scene}
    for _ in range(_TRIES):
        change = transform_of(base, edit_type=edit_type, position=position, rng=rng)
        if is_sound(change(base), named_kinds=named_kinds) and len(values) < 3:
            values[told_facts(change(base))] = change
    return list(values.values()) if len(values) == 3 else []


def _fresh(rng: random.Random, subjects: Sequence[Subject], known: set[ToldFacts]) -> Scene:
    scene = ordinary_scene(rng, subjects=subjects)
    while told_facts(scene) in known:
        scene = ordinary_scene(rng, subjects=subjects)
    known.add(told_facts(scene))
    return scene


def _chosen(families: Sequence[_Family], *, num_queries: int, rng: random.Random) -> list[Edge]:
    """(family, reference, target) of each query; always of a type that is rarest so far among those that are left."""
    counts: Counter[str] = Counter()
    chosen: list[Edge] = []
    for number, family in enumerate(families):
        edges = [(at, to) for at in family.references for to in family.neighbours(at)]
        rng.shuffle(edges)
        for _ in range(min(QUERIES_PER_FAMILY, num_queries - len(chosen))):
            edge = min(edges, key=lambda edge: counts[family.change(*edge).edit_type])
            edges.remove(edge)
            counts[family.change(*edge).edit_type] += 1
            chosen.append((number, *edge))
    return chosen


@dataclass(frozen=True, kw_only=True)
class _Draft:
    """What queries are made of."""

    name: str
    families: Sequence[_Family]
    ids: dict[ToldFacts, str]
    held_out: HeldOut
    rng: random.Random

    def query(self, edge: Edge, *, number: int) -> ComposedQuery:
        """The query that leads along an edge."""
        at, reference, target = edge
        family = self.families[at]
        change = family.change(reference, target)
        members = (reference, target, *self._near(family, reference, target))
        subset = [self.ids[told_facts(family.scenes[cell])] for cell in members]
        return ComposedQuery(
            id=f"{self.name}-{number:05d}",
            reference_id=subset[0],
            target_id=subset[1],
            change=change,
            text=say_edit(change, part=self.name, rng=self.rng),
            is_held_out=self.held_out.covers(change.target),
            family=at,
            subset_ids=tuple(self.rng.sample(subset, k=len(subset))),
        )

    def _near(self, family: _Family, reference: Cell, target: Cell) -> list[Cell]:
        """Two cells that the picture alone takes for the target, and two that the edit alone does."""
        of_reference = [cell for cell in family.neighbours(reference) if cell != target]
        of_target = [cell for cell in family.neighbours(target) if cell not in (reference, *of_reference)]
        return [*self.rng.sample(of_reference, k=2), *self.rng.sample(of_target, k=2)]
