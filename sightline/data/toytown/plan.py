"""Which scenes there are and which split each belongs to. No two scenes of Toytown share their facts."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sightline.data.toytown.language import edit_text
from sightline.data.toytown.scenes import edits_of, named_scene, ordinary_scene
from sightline.data.toytown.world import Scene, Subject
from sightline.data.triplets import TripletRecord

CAPTION_SPLITS = ("train", "val", "test")
COMPOSED_SPLITS = ("composed_train", "composed_val", "composed_test")
NAMED_SHARE = 0.66
"""Of the captioned scenes, those that show a subject."""
_POOL_NAMED_SHARE = 0.8
_EDITS_PER_BASE = 4
_COMPOSED_BASES = {"composed_train": 0.6, "composed_val": 0.1, "composed_test": 0.3}


@dataclass(frozen=True, kw_only=True)
class PlannedScene:
    """A scene with its picture's id and the one split that it belongs to."""

    image_id: str
    split: str
    """'train', 'val', 'test' (captioned), 'pool' (held out) or one of COMPOSED_SPLITS."""
    scene: Scene


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All scenes, in the order of their ids, and the composed queries between some of them."""

    scenes: tuple[PlannedScene, ...]
    triplets: dict[str, tuple[TripletRecord, ...]]
    """By composed split."""

    def of_split(self, split: str) -> list[PlannedScene]:
        """The scenes of one split."""
        return [planned for planned in self.scenes if planned.split == split]


def make_plan(*, num_scenes: int, seed: int, subjects: Sequence[Subject], named_share: float = NAMED_SHARE) -> Plan:
    """`num_scenes` scenes with distinct facts: a fifth pool, a twentieth composed, most of the rest train.

    Four of five scenes of the pool and a `named_share` of the captioned ones show a
    subject, each subject equally often (give or take one).
    """
    maker = _Maker(rng=random.Random(f"scenes {seed}"), subjects=subjects)
    sizes = {"val": num_scenes // 40, "test": num_scenes // 40, "pool": num_scenes // 5}
    num_composed = num_scenes // 20
    sizes["train"] = num_scenes - num_composed - sum(sizes.values())
    for split in ("train", "val", "test", "pool"):
        maker.add_mixture(split, size=sizes[split], named_share=_POOL_NAMED_SHARE if split == "pool" else named_share)
    triplets = maker.add_composed(num_composed)
    return Plan(scenes=tuple(maker.planned), triplets=triplets)


class _Maker:
    """Collects scenes and refuses facts that were there before: that is what keeps the splits apart."""

    def __init__(self, *, rng: random.Random, subjects: Sequence[Subject]) -> None:
        self.planned: list[PlannedScene] = []
        self._rng = rng
        self._subjects = subjects
        self._digests: dict[str, PlannedScene] = {}

    def add_mixture(self, split: str, *, size: int, named_share: float) -> None:
        num_named = round(size * named_share)
        order = self._rng.sample(self._subjects, k=len(self._subjects))
        for number in range(size):
            if number < num_named:
                self._add_fresh(split, make=_named(self._rng, order[number % len(order)]))
            else:
                self._add_fresh(split, make=self._ordinary)

    def add_composed(self, size: int) -> dict[str, tuple[TripletRecord, ...]]:
        triplets: dict[str, tuple[TripletRecord, ...]] = {}
        room = size
        for split, share in _COMPOSED_BASES.items():
            part = min(room, round(size * share)) if split != COMPOSED_SPLITS[-1] else room
            room -= part
            triplets[split] = tuple(self._composed_of(split, size=part))
        return triplets

    def _composed_of(self, split: str, *, size: int) -> list[TripletRecord]:
        triplets: list[TripletRecord] = []
        end = len(self.planned) + size
        while len(self.planned) < end:
            base = self._add_fresh(split, make=self._ordinary)
            for edit in list(edits_of(base.scene, rng=self._rng))[:_EDITS_PER_BASE]:
                target = self._digests.get(edit.scene.digest())
                if target is None and len(self.planned) < end:
                    target = self._add(split, edit.scene)
                if target is not None and target.split == split:
                    text = edit_text(edit, rng=self._rng)
                    ids = (target.image_id,)
                    triplets.append(TripletRecord(reference_id=base.image_id, text=text, target_ids=ids))
        return triplets

    def _ordinary(self) -> Scene:
        return ordinary_scene(self._rng, subjects=self._subjects)

    def _add_fresh(self, split: str, *, make: Callable[[], Scene]) -> PlannedScene:
        scene = make()
        while scene.digest() in self._digests:
            scene = make()
        return self._add(split, scene)

    def _add(self, split: str, scene: Scene) -> PlannedScene:
        planned = PlannedScene(image_id=f"{split}-{len(self.planned):05d}", split=split, scene=scene)
        self.planned.append(planned)
        self._digests[scene.digest()] = planned
        return planned


def _named(rng: random.Random, subject: Subject) -> Callable[[], Scene]:
    return lambda: named_scene(rng, subject=subject)
