"""Text-image matching (TIM): the symmetric contrastive loss of stage 1, over the pairs of all workers."""

# Axes: B pairs of this worker, G pairs of all workers, D embedding width.
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sightline.models.workers import gather, gather_with_gradient, own_rows


def matching_loss(
    text_BD: Tensor,
    image_BD: Tensor,
    wrong_BD: Tensor | None = None,
    *,
    pair_ids_B: Tensor,
    logit_scale: Tensor,
) -> Tensor:
    """Mean of text-to-image and image-to-text cross-entropy (ZRIGF, TIM), a scalar.

    Vectors are of unit length. Two pairs with the same id show the same picture:
    neither is the other's negative. wrong_BD are captions that are wrong about
    each picture, and negatives of that picture alone (in the manner of NegCLIP,
    arXiv 2210.01936). Under torch.distributed the negatives of
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
        if wrong_BD is not None:
            by_wrong_B = logit_scale * (image_BD * wrong_BD).sum(dim=1)
            by_image_BG = torch.cat([by_image_BG, by_wrong_B.unsqueeze(1)], dim=1)
        return (F.cross_entropy(by_text_BG, own_B) + F.cross_entropy(by_image_BG, own_B)) / 2


def same_picture(pair_ids_B: Tensor, *, own_B: Tensor) -> Tensor:
    """[B, G] True where another pair shows the same picture and so is no negative."""
    ids_G = gather(pair_ids_B)
    rivals_BG = pair_ids_B.unsqueeze(1) == ids_G.unsqueeze(0)
    rows_B = torch.arange(len(pair_ids_B), device=pair_ids_B.device)
    rivals_BG[rows_B, own_B] = False
    return rivals_BG
