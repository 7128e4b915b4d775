"""Pictures cut into patches of raw pixels and put together again: what the index keeps for the `faithful` variant."""

# Axes: B pictures, N patches, W pixel values of a patch; C channels; after C, H and W are pixels.
from __future__ import annotations

import math

from torch import Tensor


def cut_patches(pixels_BCHW: Tensor, *, side: int) -> Tensor:
    """Patches [B, N, 3 x side x side] in reading order, of the pixels' dtype."""
    cut = pixels_BCHW.unfold(2, side, side).unfold(3, side, side)
    return cut.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)


def join_patches(patches_BNW: Tensor, *, side: int) -> Tensor:
    """The pictures [B, 3, H, W] that `cut_patches` cut."""
    grid = math.isqrt(patches_BNW.shape[1])
    cut = patches_BNW.unflatten(2, (3, side, side)).unflatten(1, (grid, grid))
    return cut.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)
