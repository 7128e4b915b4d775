"""Whether a dialogue needs pictures at all: the score floor, calibrated on held-out replies, and what it is worth."""

# Axes: B dialogues, K pictures.
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from sightline.data.dialogues import DialogueRecord, query_text
from sightline.metrics import perplexity, states_any
from trainer.answers import ResponseLosses, response_losses
from trainer.architecture import Built
from trainer.config import EvaluationSettings
from trainer.stages.generative import EncodedPictures, Floats, Rows, encode_texts, nearest_pictures

ALWAYS, NEVER = -1.0, 2.0
"""Floors under every cosine and above every cosine."""


@dataclass(frozen=True, kw_only=True)
class Retrieved:
    """Dialogues and what their contexts find in a pool."""

    dialogues: Sequence[DialogueRecord]
    pictures: EncodedPictures
    rows_BK: Rows
    cosines_BK: Floats


def retrieve(
    built: Built, *, dialogues: Sequence[DialogueRecord], pictures: EncodedPictures, settings: EvaluationSettings
) -> Retrieved:
    """The pictures of each dialogue, by its context alone."""
    queries_BD = encode_texts(built, [query_text(record.context) for record in dialogues])
    rows_BK, cosines_BK = nearest_pictures(queries_BD, pictures_ND=pictures.vectors_ND, k=settings.num_images)
    return Retrieved(dialogues=dialogues, pictures=pictures, rows_BK=rows_BK, cosines_BK=cosines_BK)


def calibrate(built: Built, *, found: Retrieved, settings: EvaluationSettings) -> float:
    """The highest floor whose replies cost no more than the best floor's, by `floor_tolerance` nats a token.

    A picture is worth looking at if it makes the held-out reply likelier: no
    label says which dialogues are visual.
    """
    seen, unseen = (losses_over(built, found=found, min_score=floor, settings=settings) for floor in (ALWAYS, NEVER))
    slack = settings.floor_tolerance * float(seen.num_tokens_B.sum())
    return highest_floor(found.cosines_BK[:, 0], gain_B=unseen.nll_B - seen.nll_B, slack=slack)


def highest_floor(best_B: Floats, *, gain_B: npt.NDArray[np.floating], slack: float) -> float:
    """The highest floor that forgoes at most `slack` more than the best floor does, -1 to 1.

    best_B is each dialogue's highest cosine, gain_B what its pictures spare.
    """
    order_B = np.argsort(best_B, kind="stable")
    scores_B = best_B[order_B].astype(np.float64)
    forgone = np.concatenate([[0.0], np.cumsum(gain_B[order_B].astype(np.float64))])
    # Behind the last of equal scores: a floor cannot tell them apart.
    is_border = np.concatenate([[True], np.append(scores_B[1:] > scores_B[:-1], True)])
    count = int(np.flatnonzero(is_border & (forgone <= forgone[is_border].min() + slack)).max())
    if count == 0:
        return ALWAYS
    above = scores_B[count] if count < len(scores_B) else 1.0
    return float(np.clip((scores_B[count - 1] + above) / 2, -1.0, 1.0))


def calibrated(built: Built, *, floor: float) -> Built:
    """The model with the floor in its configuration, so that its release carries it."""
    built.model.config = replace(built.model.config, min_score=floor)
    return built


def relevance_scores(
    built: Built, *, found: Retrieved, values: frozenset[str], settings: EvaluationSettings
) -> dict[str, float]:
    """Perplexity with every picture, with those over the release's floor and with none; share of dialogues shown any.

    With `values`, the facts that questions ask for, also apart for dialogues
    whose reply states one and for the others, which are small talk.
    """
    floor = built.model.config.min_score
    losses = {
        name: losses_over(built, found=found, min_score=min_score, settings=settings)
        for name, min_score in (("ungated", ALWAYS), ("gated", floor), ("unseen", NEVER))
    }
    is_visual_B = np.array([states_any(record.response, values=values) for record in found.dialogues], dtype=bool)
    groups = {"": np.ones_like(is_visual_B)}
    if values:
        groups |= {"visual_": is_visual_B, "small_talk_": ~is_visual_B}
    scores = {"score_floor": floor}
    for prefix, chosen_B in groups.items():
        if chosen_B.any():
            scores |= {
                f"{prefix}{name}_perplexity": perplexity(
                    all_B.nll_B[chosen_B], num_tokens_N=all_B.num_tokens_B[chosen_B]
                )
                for name, all_B in losses.items()
            }
            scores[f"{prefix}picture_rate"] = float((found.cosines_BK[chosen_B, 0] >= floor).mean())
    return scores


def losses_over(built: Built, *, found: Retrieved, min_score: float, settings: EvaluationSettings) -> ResponseLosses:
    """The losses of the dialogues' replies, looking at their pictures where the best is over the floor."""
    return response_losses(
        built,
        dialogues=found.dialogues,
        pictures=found.pictures,
        rows_BK=found.rows_BK,
        cosines_BK=found.cosines_BK,
        batch_size=settings.batch_size,
        min_score=min_score,
    )
