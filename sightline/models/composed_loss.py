"""The loss of stage 2: a composed query finds the caption of what it asks for, among the captions of the batch."""

# Axes: M pairs of query and target, D embedding width.
from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

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
    is_same_MM: Tensor | None = None,
    weight_M: Tensor | None = None,
) -> ComposedLoss:
    """Mean of query-to-target and target-to-query cross-entropy of unit vectors, each pair weighted.

    Where is_same_MM is True, the two targets say the same: neither is the
    other's negative. Weights of about one make a pair count more or less.
    Negatives are those of this call, not of other workers.
    """
    logits_MM = _logits(query_MD, target_MD, temperature=temperature, is_same_MM=is_same_MM)
    own_M = torch.arange(len(query_MD), device=query_MD.device)
    loss_M = (
        F.cross_entropy(logits_MM, own_M, reduction="none") + F.cross_entropy(logits_MM.T, own_M, reduction="none")
    ) / 2
    return ComposedLoss(
        total=(loss_M if weight_M is None else loss_M * weight_M).mean(),
        accuracy=(logits_MM.argmax(dim=1) == own_M).float().mean(),
        entropy=_entropy(logits_MM.detach()).mean(),
        positive_cosine=(logits_MM.detach().diagonal() * temperature).mean(),
    )


@torch.no_grad()
def entropy_weights(
    query_MD: Tensor, target_MD: Tensor, *, temperature: float = TEMPERATURE, is_same_MM: Tensor | None = None
) -> Tensor:
    """Weights [M] for harder pairs: the entropy of the query's choice over the batch's mean, 0.5 to 2."""
    entropy_M = _entropy(_logits(query_MD, target_MD, temperature=temperature, is_same_MM=is_same_MM))
    return (entropy_M / entropy_M.mean().clamp(min=1e-6)).clamp(*WEIGHT_LIMITS)


def same_targets(captions: Sequence[Hashable], target_MD: Tensor, *, limit: float = SAME_TARGET_COSINE) -> Tensor:
    """[M, M] True where another pair's caption is the same, or its frozen unit vector closer than `limit`.

    Captions may be given as numbers that are equal where the texts are.
    """
    first: dict[Hashable, int] = {}
    number_M = torch.tensor([first.setdefault(caption, len(first)) for caption in captions], device=target_MD.device)
    is_same_MM = (number_M.unsqueeze(1) == number_M) | (target_MD @ target_MD.T > limit)
    return is_same_MM.fill_diagonal_(False)


def _logits(query_MD: Tensor, target_MD: Tensor, *, temperature: float, is_same_MM: Tensor | None) -> Tensor:
    # Eight bits of bfloat16 would blur neighbouring logits: never in mixed precision.
    with torch.autocast(query_MD.device.type, enabled=False):
        logits_MM = query_MD.float() @ target_MD.float().T / temperature
    return logits_MM if is_same_MM is None else logits_MM.masked_fill(is_same_MM, float("-inf"))


def _entropy(logits_MM: Tensor) -> Tensor:
    return torch.special.entr(logits_MM.softmax(dim=1)).sum(dim=1)
