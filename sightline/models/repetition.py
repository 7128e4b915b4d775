"""Repetition control of replies: no n-gram twice, and a penalty for what was said before."""

# Axes: R rows (one per beam), T ids so far, V vocabulary.
from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from sightline.errors import SettingInvalid


@dataclasses.dataclass(frozen=True, kw_only=True)
class RepetitionRules:
    """What a reply may repeat of itself. The defaults leave every score as it is."""

    no_repeat_ngram: int = 0
    """Ids in a row that may stand once only; 0 allows all. The authors decoded with 3, BART's own default."""
    repetition_penalty: float = 1.0
    """Over 1 makes what was said less likely: a positive score is divided by it, a negative one multiplied."""

    def __post_init__(self) -> None:
        """Raise SettingInvalid for a value outside its range."""
        if self.no_repeat_ngram < 0:
            raise SettingInvalid(f"no_repeat_ngram: got {self.no_repeat_ngram}, must be at least 0")
        if not 0.0 < self.repetition_penalty < float("inf"):
            raise SettingInvalid(f"repetition_penalty: got {self.repetition_penalty}, must be above 0")

    def apply(self, scores_RV: Tensor, ids_RT: Tensor) -> Tensor:
        """The scores [R, V] of the next id after the ids of each row, start ids included."""
        return _ban_ngrams(_penalise(scores_RV, ids_RT, self.repetition_penalty), ids_RT, self.no_repeat_ngram)


FREE = RepetitionRules()
"""No rule at all."""


def _penalise(scores_RV: Tensor, ids_RT: Tensor, penalty: float) -> Tensor:
    if penalty == 1.0:
        return scores_RV
    said_RT = scores_RV.gather(1, ids_RT)
    return scores_RV.scatter(1, ids_RT, torch.where(said_RT < 0, said_RT * penalty, said_RT / penalty))


def _ban_ngrams(scores_RV: Tensor, ids_RT: Tensor, size: int) -> Tensor:
    if not size or ids_RT.shape[1] < size:
        return scores_RV
    scores_RV = scores_RV.clone()
    for row, ids in enumerate(ids_RT.tolist()):
        start = ids[len(ids) - size + 1 :]
        banned = [ids[at + size - 1] for at in range(len(ids) - size + 1) if ids[at : at + size - 1] == start]
        scores_RV[row, banned] = float("-inf")
    return scores_RV
