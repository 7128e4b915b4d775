"""Text-image matching (TIM): the symmetric contrastive loss of stage 1, over the pairs of all workers."""

# Axes: B pairs of this worker, G pairs of all workers, D embedding width.
from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


def matching_loss(text_BD: Tensor, image_BD: Tensor, *, pair_ids_B: Tensor, logit_scale: Tensor) -> Tensor:
    """Mean of text-to-image and image-to-text cross-entropy (ZRIGF, TIM), a scalar.

    Vectors are of unit length. Two pairs with the same id show the same picture:
    neither is the other's negative. Under torch.distributed the negatives of
    all workers count, with gradient; every worker must bring the same B. The
    mean of the workers' losses is the loss of one worker with all pairs, and
    so is the mean of their gradients, which DDP forms.
    """
    text_GD, image_GD = gather_with_gradient(torch.stack([text_BD, image_BD], dim=1)).unbind(dim=1)
    own_B = own_rows(text_BD)
    rivals_BG = same_picture(pair_ids_B, own_B=own_B)
    # At a scale of 100 the eight bits of bfloat16 would blur neighbouring logits: never in mixed precision.
    with torch.autocast(text_BD.device.type, enabled=False):
        by_text_BG = (logit_scale * text_BD @ image_GD.T).masked_fill(rivals_BG, float("-inf"))
        by_image_BG = (logit_scale * image_BD @ text_GD.T).masked_fill(rivals_BG, float("-inf"))
        return (F.cross_entropy(by_text_BG, own_B) + F.cross_entropy(by_image_BG, own_B)) / 2


def same_picture(pair_ids_B: Tensor, *, own_B: Tensor) -> Tensor:
    """[B, G] True where another pair shows the same picture and so is no negative."""
    ids_G = gather(pair_ids_B)
    rivals_BG = pair_ids_B.unsqueeze(1) == ids_G.unsqueeze(0)
    rows_B = torch.arange(len(pair_ids_B), device=pair_ids_B.device)
    rivals_BG[rows_B, own_B] = False
    return rivals_BG


def gather_with_gradient(values: Tensor) -> Tensor:
    """The values [B, ...] of all workers as [G, ...] in order of rank; gradients flow back to their owners."""
    return _Gather.apply(values) if world_size() > 1 else values


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        ctx.rows = len(values)
        return gather(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous()
        dist.all_reduce(total)
        return total[_rank() * ctx.rows : (_rank() + 1) * ctx.rows]


def gather(values: Tensor) -> Tensor:
    """The values [B, ...] of all workers as [G, ...] in order of rank, without gradient."""
    if world_size() == 1:
        return values
    parts = [torch.empty_like(values) for _ in range(world_size())]
    dist.all_gather(parts, values.contiguous())
    return torch.cat(parts)


def own_rows(values: Tensor) -> Tensor:
    """[B] where this worker's items stand among those of all workers."""
    return torch.arange(len(values), device=values.device) + _rank() * len(values)


def sum_of_workers(value: Tensor) -> Tensor:
    """The sum of all workers' values, without gradient."""
    total = value.detach().clone()
    if world_size() > 1:
        dist.all_reduce(total)
    return total


def world_size() -> int:
    """Workers that train together; 1 without torch.distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _rank() -> int:
    return dist.get_rank() if world_size() > 1 else 0
