"""Whether a dialogue needs pictures at all: the score floor, calibrated on held-out replies, and what it is worth."""

# Axes: B dialogues, K pictures.
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from sightline.data.dialogues import DialogueRecord
from sightline.metrics import perplexity, states_any
from trainer.answers import ALWAYS, NEVER, Flags, ResponseLosses, is_shown, response_losses
from trainer.architecture import Built
from trainer.config import EvaluationSettings
from trainer.retrieval import retrieve
from trainer.shown import UNKNOWN, drawn, query_vectors
from trainer.store import EncodedPictures, Floats, Rows

_CHANCE_QUANTILE, _CHANCE_SEED = 0.99, 0


@dataclass(frozen=True, kw_only=True)
class Searched:
    """Dialogues and what their contexts find in a pool."""

    dialogues: Sequence[DialogueRecord]
    pictures: EncodedPictures
    rows_BK: Rows
    cosines_BK: Floats

    def shown(self, *, floor: float) -> Flags:
        """[B] True for dialogues that are shown pictures under this floor."""
        contexts = [record.context for record in self.dialogues]
        is_shown_BK = is_shown(contexts, cosines_BK=self.cosines_BK, min_score=floor)
        return np.any(is_shown_BK, axis=1)


def search(
    built: Built, *, dialogues: Sequence[DialogueRecord], pictures: EncodedPictures, settings: EvaluationSettings
) -> Searched:
    """The pictures of each dialogue, by its context alone."""
    found = retrieve(built, dialogues, pictures=pictures, k=settings.num_images, query="context").for_evaluation()
    return Searched(dialogues=dialogues, pictures=pictures, rows_BK=found.rows_QK, cosines_BK=found.cosines_QK)


def calibrate(built: Built, *, found: Searched, settings: EvaluationSettings) -> float:
    """The highest floor whose replies cost no more than the best floor's, by `floor_tolerance` nats a token.

    A picture is worth looking at if it makes the held-out reply likelier: no
    label says which dialogues are visual. Nor is it if random pictures score as
    much, where that forgoes nothing.
    """
    with_pictures = _losses(built, found=found, floor=ALWAYS, settings=settings)
    without = _losses(built, found=found, floor=NEVER, settings=settings)
    slack = settings.floor_tolerance * float(without.num_tokens_B.sum())
    gain_B = without.nll_B - with_pictures.nll_B
    return highest_floor(found.cosines_BK[:, 0], gain_B=gain_B, slack=slack, chance=_chance(built, found=found))


def highest_floor(best_B: Floats, *, gain_B: npt.NDArray[np.floating], slack: float, chance: float = ALWAYS) -> float:
    """The highest floor that forgoes at most `slack` more than the best floor does, -1 to 1.

    best_B is each dialogue's highest cosine, gain_B what its pictures spare. The
    floor lies half-way between the highest score that it drops, or `chance` if
    that is higher, and the lowest that it keeps.
    """
    order_B = np.argsort(best_B, kind="stable")
    scores_B = best_B[order_B].astype(np.float64)
    forgone = np.concatenate([[0.0], np.cumsum(gain_B[order_B].astype(np.float64))])
    # Behind the last of equal scores: a floor cannot tell them apart.
    is_border = np.concatenate([[True], np.append(scores_B[1:] > scores_B[:-1], True)])
    count = int(np.flatnonzero(is_border & (forgone <= forgone[is_border].min() + slack)).max())
    below = scores_B[count - 1] if count else ALWAYS
    above = scores_B[count] if count < len(scores_B) else 1.0
    return float(np.clip((max(below, min(chance, above)) + above) / 2, -1.0, 1.0))


def calibrated(built: Built, *, floor: float) -> Built:
    """The model with the floor in its configuration, so that its release carries it."""
    built.model.config = replace(built.model.config, min_score=floor)
    return built


def relevance_scores(
    built: Built, *, found: Searched, values: frozenset[str], settings: EvaluationSettings
) -> dict[str, float]:
    """Perplexity with every picture, with those over the release's floor and with none; share of dialogues shown any.

    With `values`, the facts that questions ask for, also apart for dialogues
    whose reply states one and for the others, which are small talk.
    """
    floor = built.model.config.min_score
    floors = {"ungated": ALWAYS, "gated": floor, "unseen": NEVER}
    losses = {name: _losses(built, found=found, floor=one, settings=settings) for name, one in floors.items()}
    scores = {"score_floor": floor}
    for prefix, chosen_M in _groups(found.dialogues, values=values).items():
        if len(chosen_M):
            scores |= {f"{prefix}{name}_perplexity": _perplexity(each.part(chosen_M)) for name, each in losses.items()}
            scores[f"{prefix}picture_rate"] = float(found.shown(floor=floor)[chosen_M].mean())
    return scores


def _chance(built: Built, *, found: Searched) -> float:
    """The score that the best of as many random pictures reaches for one dialogue in a hundred."""
    queries_BD = query_vectors(built, found.dialogues)
    unknown_B = np.full(len(queries_BD), UNKNOWN)
    random = drawn(queries_BD, pictures=found.pictures, k=found.rows_BK.shape[1], known_Q=unknown_B, seed=_CHANCE_SEED)
    return float(np.quantile(random.cosines_QK.max(axis=1), _CHANCE_QUANTILE))


def _groups(dialogues: Sequence[DialogueRecord], *, values: frozenset[str]) -> dict[str, Rows]:
    """The places of all dialogues, and with `values` of those whose reply states one and of the others, by prefix."""
    everything = {"": np.arange(len(dialogues))}
    if not values:
        return everything
    is_visual_B = np.array([states_any(record.response, values=values) for record in dialogues], dtype=bool)
    return everything | {"visual_": np.flatnonzero(is_visual_B), "small_talk_": np.flatnonzero(~is_visual_B)}


def _perplexity(losses: ResponseLosses) -> float:
    return perplexity(losses.nll_B, num_tokens_N=losses.num_tokens_B)


def _losses(built: Built, *, found: Searched, floor: float, settings: EvaluationSettings) -> ResponseLosses:
    return response_losses(
        built,
        dialogues=found.dialogues,
        pictures=found.pictures,
        rows_BK=found.rows_BK,
        cosines_BK=found.cosines_BK,
        batch_size=settings.batch_size,
        min_score=floor,
    )
