"""What perfect but partial readers reach on composed queries, computed from the facts of the gallery."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from sightline.data.toytown.changes import Change
from sightline.data.toytown.families import ComposedQuery, ComposedSplit
from sightline.data.toytown.world import Group, Scene

_KS = (1, 5, 10, 50)
_SUBSET_KS = (1, 2, 3)


class _Window(NamedTuple):
    """Where the target's rank lies: after `ahead` pictures, among `tied` with equal chances."""

    ahead: int
    tied: int

    def recall_at(self, k: int) -> float:
        """The chance that the target is among the first k."""
        return min(max(k - self.ahead, 0), self.tied) / self.tied

    def precision_at(self, k: int) -> float:
        """The expected average precision of the one target within the first k."""
        ranks = range(self.ahead + 1, min(k, self.ahead + self.tied) + 1)
        return sum(1 / rank for rank in ranks) / self.tied


_Rule = Callable[[ComposedSplit, ComposedQuery, Sequence[str]], _Window]


def ceilings(split: ComposedSplit) -> dict[str, dict[str, float]]:
    """Exact expected scores by reader: 'composer', 'picture_only', 'text_only' and 'chance', by name of the score.

    Scores are 'recall_at_{1,5,10,50}', 'map_at_{1,5,10,50}' over the gallery and
    'subset_recall_at_{1,2,3}' over each query's six, always without the reference. The
    composer knows picture and text. Of the picture alone one knows the reference's
    facts: first come the pictures that look alike, then those one change away, in
    any order; so it never has the target first. Of the text alone one knows what the
    sentence says of the target, and every picture of which that is true is as
    good. Where readers must choose, they draw.
    """
    return {name: _scores(split, rule=rule) for name, rule in _RULES.items()}


def says_of(change: Change, scene: Scene) -> bool:
    """True if what the edit's sentence says of its target is true of the scene."""
    if change.edit_type in {"place", "time", "weather"}:
        return bool(getattr(scene, change.edit_type) == getattr(change.target, change.edit_type))
    kinds = {group.kind for group in scene.groups}
    if change.edit_type in {"remove", "replace"} and change.before and change.before.kind in kinds:
        return False
    after = change.after
    return after is None or any(_is_said(group, after, edit_type=change.edit_type) for group in scene.groups)


def _is_said(group: Group, after: Group, *, edit_type: str) -> bool:
    """A new colour leaves open how many there are, but for one or several; another kind or count tells no colour."""
    if edit_type == "colour":
        counts_agree = (group.count > 1) == (after.count > 1)
        return (group.kind, group.colour) == (after.kind, after.colour) and counts_agree
    if edit_type == "add":
        return (group.kind, group.colour, group.count) == (after.kind, after.colour, after.count)
    return (group.kind, group.count) == (after.kind, after.count)


def _scores(split: ComposedSplit, *, rule: _Rule) -> dict[str, float]:
    everything = [item.image_id for item in split.gallery]
    windows = [rule(split, query, everything) for query in split.queries]
    subsets = [rule(split, query, query.subset_ids) for query in split.queries]
    return {
        **{f"recall_at_{k}": _mean([window.recall_at(k) for window in windows]) for k in _KS},
        **{f"map_at_{k}": _mean([window.precision_at(k) for window in windows]) for k in _KS},
        **{f"subset_recall_at_{k}": _mean([window.recall_at(k) for window in subsets]) for k in _SUBSET_KS},
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _composer(split: ComposedSplit, query: ComposedQuery, candidates: Sequence[str]) -> _Window:
    return _Window(ahead=0, tied=1)


def _picture_only(split: ComposedSplit, query: ComposedQuery, candidates: Sequence[str]) -> _Window:
    within = set(candidates)
    alike = within.intersection(split.looks_alike[query.reference_id])
    return _Window(ahead=len(alike), tied=len(within & split.changes[query.reference_id].keys()))


def _text_only(split: ComposedSplit, query: ComposedQuery, candidates: Sequence[str]) -> _Window:
    others = [image_id for image_id in candidates if image_id != query.reference_id]
    return _Window(ahead=0, tied=sum(says_of(query.change, split.scenes[image_id]) for image_id in others))


def _chance(split: ComposedSplit, query: ComposedQuery, candidates: Sequence[str]) -> _Window:
    return _Window(ahead=0, tied=len(candidates) - 1)


_RULES: dict[str, _Rule] = {
    "composer": _composer,
    "picture_only": _picture_only,
    "text_only": _text_only,
    "chance": _chance,
}
