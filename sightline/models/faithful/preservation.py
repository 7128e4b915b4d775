"""The preservation loss of stage 2: who belongs to whom is kept alive while everything is fine-tuned."""

# Axes: B contexts of this worker, G contexts of all workers, K pictures of a context, D embedding width.
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sightline.models.workers import gather, gather_with_gradient, own_rows, sum_of_workers, world_size

START_BIAS = -10.0
"""Start of the bias, as in SigLIP: nearly all pairs are negatives, and without it they would drown the rest."""


class PreservationLoss(nn.Module):
    """Binary cross-entropy of every context with every picture of the batch (ZRIGF, 1.6).

    The target of context c and picture k of context i is 1 where c is i. A
    picture that context c was shown too is none of its negatives, whoever else
    was shown it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.tensor(START_BIAS))

    def forward(
        self, text_BD: Tensor, image_BKD: Tensor, *, image_ids_BK: Tensor, image_mask_BK: Tensor, logit_scale: Tensor
    ) -> Tensor:
        """The mean over all pairs that count, a scalar; zero without any picture.

        Vectors are of unit length; image_ids are equal where pictures are, and
        the mask is True where there is a picture. Under torch.distributed the
        pictures of all workers count, and the mean of the workers' losses is the
        loss of one worker with all contexts.
        """
        image_GKD, ids_GK, mask_GK = gather_with_gradient(image_BKD), gather(image_ids_BK), gather(image_mask_BK)
        # As in the matching loss: bfloat16 would blur neighbouring logits.
        with torch.autocast(text_BD.device.type, enabled=False):
            logits_BGK = logit_scale * torch.einsum("bd,gkd->bgk", text_BD, image_GKD) + self.bias
        target_BGK = targets(text_BD, num_contexts=len(image_GKD)).unsqueeze(-1).expand_as(logits_BGK)
        counts_BGK = mask_GK.unsqueeze(0) & ((target_BGK > 0) | ~shown_to(image_ids_BK, image_mask_BK, ids_GK))
        losses_BGK = F.binary_cross_entropy_with_logits(logits_BGK, target_BGK, reduction="none")
        num_pairs = sum_of_workers(counts_BGK.sum()).clamp(min=1)
        return (losses_BGK * counts_BGK).sum() * world_size() / num_pairs


def targets(text_BD: Tensor, *, num_contexts: int) -> Tensor:
    """[B, G]: the identity over contexts, this worker's rows of it."""
    target_BG = text_BD.new_zeros(len(text_BD), num_contexts)
    return target_BG.scatter_(1, own_rows(text_BD).unsqueeze(1), 1.0)


def shown_to(image_ids_BK: Tensor, image_mask_BK: Tensor, ids_GK: Tensor) -> Tensor:
    """[B, G, K] True where context b was shown the k-th picture of context g."""
    equal_BGKJ = ids_GK[None, :, :, None] == image_ids_BK[:, None, None, :]
    return (equal_BGKJ & image_mask_BK[:, None, None, :]).any(dim=-1)
