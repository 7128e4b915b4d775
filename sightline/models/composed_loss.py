"""The loss of stage 2: a composed query finds the caption of what it asks for, among the captions of the batch."""

# Axes: M pairs of query and target of this worker, G pairs of all workers, D embedding width.
from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sightline.models.workers import gather, gather_with_gradient, own_rows, sum_of_workers, world_size

TEMPERATURE = 0.07
SAME_TARGET_COSINE = 0.98
"""Captions whose frozen vectors are closer than this say the same thing."""
WEIGHT_LIMITS = (0.5, 2.0)


class ComposedLoss(NamedTuple):
    """What a step of stage 2 gives; `total` is what to minimise, the rest is detached and for the log."""

    total: Tensor
    accuracy: Tensor
    """Share of queries whose own target is the best."""
    entropy: Tensor
    """Mean entropy of the queries' choice, in nats."""
    positive_cosine: Tensor
    """Mean cosine of a query and its own target."""


def composed_infonce(
    query_MD: Tensor,
    target_MD: Tensor,
    *,
    temperature: float = TEMPERATURE,
    is_same_MG: Tensor | None = None,
    weight_M: Tensor | None = None,
) -> ComposedLoss:
    """Mean of query-to-target and target-to-query cross-entropy of unit vectors, each pair weighted.

    Where is_same_MG is True, the two targets say the same, or are asked for by the
    same query: neither is the other's negative. Weights of about one make a pair count more or less. Under
    torch.distributed the negatives of all workers count, with gradient, and every
    worker must bring the same M; the mean of the workers' losses and gradients
    are those of one worker with all pairs.
    """
    query_GD, target_GD = gather_with_gradient(query_MD), gather_with_gradient(target_MD)
    by_query_MG = _logits(query_MD, target_GD, temperature=temperature, is_same_MG=is_same_MG)
    by_target_MG = _logits(target_MD, query_GD, temperature=temperature, is_same_MG=is_same_MG)
    own_M = own_rows(query_MD)
    loss_M = (_choice(by_query_MG, own_M) + _choice(by_target_MG, own_M)) / 2
    return ComposedLoss(
        total=(loss_M if weight_M is None else loss_M * weight_M).mean(),
        accuracy=(by_query_MG.argmax(dim=1) == own_M).float().mean(),
        entropy=_entropy(by_query_MG.detach()).mean(),
        positive_cosine=(query_MD * target_MD).detach().sum(dim=-1).mean(),
    )


@torch.no_grad()
def entropy_weights(
    query_MD: Tensor, target_MD: Tensor, *, temperature: float = TEMPERATURE, is_same_MG: Tensor | None = None
) -> Tensor:
    """Weights [M] for harder pairs: the entropy of the query's choice over all workers' mean, 0.5 to 2.

    The choice is among the targets of all workers.
    """
    entropy_M = _entropy(_logits(query_MD, gather(target_MD), temperature=temperature, is_same_MG=is_same_MG))
    mean = sum_of_workers(entropy_M.mean()) / world_size()
    return (entropy_M / mean.clamp(min=1e-6)).clamp(*WEIGHT_LIMITS)


def same_targets(
    text_M: Tensor,
    target_MD: Tensor,
    *,
    picture_M: Tensor | None = None,
    query_M: Tensor | None = None,
    limit: float = SAME_TARGET_COSINE,
) -> Tensor:
    """[M, G] True where another pair's caption is the same, or its frozen unit vector closer than `limit`.

    Captions are given as numbers that are equal where the texts are, whichever
    worker has them, and so are the reference pictures: what is asked of one
    picture, and that picture's own caption, are told apart by their words alone,
    as an edit that moves a vector little is the one to learn. Queries likewise:
    what one and the same query finds, as "a photo of $" finds every caption of its
    picture, is no negative, since no query could tell it apart.
    """
    is_same_MG = target_MD @ gather(target_MD).T > limit
    if picture_M is not None:
        is_same_MG &= picture_M.unsqueeze(1) != gather(picture_M)
    is_same_MG |= text_M.unsqueeze(1) == gather(text_M)
    if query_M is not None:
        is_same_MG |= query_M.unsqueeze(1) == gather(query_M)
    return is_same_MG.scatter_(1, own_rows(text_M).unsqueeze(1), False)


def _logits(from_MD: Tensor, to_GD: Tensor, *, temperature: float, is_same_MG: Tensor | None) -> Tensor:
    # Eight bits of bfloat16 would blur neighbouring logits: never in mixed precision.
    with torch.autocast(from_MD.device.type, enabled=False):
        logits_MG = from_MD.float() @ to_GD.float().T / temperature
    return logits_MG if is_same_MG is None else logits_MG.masked_fill(is_same_MG, float("-inf"))


def _choice(logits_MG: Tensor, own_M: Tensor) -> Tensor:
    return F.cross_entropy(logits_MG, own_M, reduction="none")


def _entropy(logits_MG: Tensor) -> Tensor:
    return torch.special.entr(logits_MG.softmax(dim=1)).sum(dim=1)
