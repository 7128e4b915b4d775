"""Whether a release is good enough to be published: the recipe's thresholds, and the release that it would replace."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

from trainer.config import GateSettings

COMPARED = ("grounded_accuracy", "retrieval_recall_at_1", "caption_recall_at_10")
"""Scores that may not fall far below the champion's."""


def refusals(
    scores: Mapping[str, float], *, settings: GateSettings, champion: Mapping[str, float] | None = None
) -> list[str]:
    """Why the scores do not pass, a sentence each; empty if they pass.

    A threshold of the recipe is named `min_<score>` or `max_<score>`; a score
    that was not measured fails it. `champion` holds the scores of the release
    that the channel serves now, None if there is none to compare with.
    """
    return _thresholds(scores, settings=settings) + _comparisons(scores, settings=settings, champion=champion or {})


def _thresholds(scores: Mapping[str, float], *, settings: GateSettings) -> list[str]:
    found = []
    for field in fields(settings):
        kind, _, name = field.name.partition("_")
        limit = getattr(settings, field.name)
        if kind not in {"min", "max"} or limit is None:
            continue
        score = scores.get(name)
        if score is None:
            found.append(f"{name}: not measured, but the gate asks for it")
        elif (score < limit) if kind == "min" else (score > limit):
            found.append(f"{name}: got {score:.3f}, {'at least' if kind == 'min' else 'at most'} {limit:.3f} is asked")
    return found


def _comparisons(scores: Mapping[str, float], *, settings: GateSettings, champion: Mapping[str, float]) -> list[str]:
    return [
        f"{name}: got {scores[name]:.3f}, the channel's release has {champion[name]:.3f}, "
        f"tolerance {settings.tolerance:.3f}"
        for name in COMPARED
        if name in scores and name in champion and scores[name] < champion[name] - settings.tolerance
    ]
