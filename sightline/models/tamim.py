"""Text-assisted masked image modelling (TAMIM): paint hidden patches with the caption's help, stage 1."""

# Axes: B pictures, N patches, W token width, M model width, L text tokens, C channels; after C, H and W are pixels.
from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sightline.models.config import MaskingConfig, cell_side, num_masked_cells
from sightline.models.fusion import CrossBlock
from sightline.models.tower import Tower


class PatchMasks(NamedTuple):
    """One fresh random mask per picture."""

    target: Tensor
    """[B, N], True where the loss counts."""
    hidden: Tensor
    """[B, N], True where the tower sees the mask token; a subset of target."""


class MaskGenerator:
    """Masks whole cells of patches: exactly ceil(ratio x cells) of them per picture."""

    def __init__(self, config: MaskingConfig, *, grid: int) -> None:
        self.config = config
        self.cell_patches = cell_side(config, grid=grid)
        self.side = grid // self.cell_patches
        self.num_masked = num_masked_cells(self.side**2, ratio=config.ratio)

    def __call__(self, batch: int, *, generator: torch.Generator | None = None) -> PatchMasks:
        """Masks for `batch` pictures, drawn on the CPU from `generator`, else from the global one."""
        cells = self.side**2
        order_BC = torch.rand(batch, cells, generator=generator).argsort(dim=1)
        masked_BC = torch.zeros(batch, cells, dtype=torch.bool).scatter_(1, order_BC[:, : self.num_masked], True)
        target_BN = self._to_patches(masked_BC)
        kept_BN = torch.rand(target_BN.shape, generator=generator) < self.config.visible_ratio
        return PatchMasks(target=target_BN, hidden=target_BN & ~kept_BN)

    def first(self, painted: int, *, given: PatchMasks | None, device: torch.device) -> PatchMasks:
        """Masks of the first `painted` pictures on the device: of those given, else drawn."""
        masks = self(painted) if given is None else PatchMasks(*(part[:painted] for part in given))
        return PatchMasks(*(part.to(device) for part in masks))

    def _to_patches(self, cells_BC: Tensor) -> Tensor:
        times = self.cell_patches
        map_BSS = cells_BC.unflatten(1, (self.side, self.side))
        return map_BSS.repeat_interleave(times, dim=1).repeat_interleave(times, dim=2).flatten(1)


class PixelHead(nn.Module):
    """Fused tokens back to pixels: t2v, then a 1x1 convolution and PixelShuffle. Owns the mask token."""

    def __init__(self, *, width: int, token_width: int, patch_pixels: int, has_mask_token: bool) -> None:
        super().__init__()
        self.t2v = nn.Linear(width, token_width, bias=False)
        self.to_pixels = nn.Conv2d(token_width, 3 * patch_pixels**2, kernel_size=1)
        self.shuffle = nn.PixelShuffle(patch_pixels)
        self.mask_token_W = nn.Parameter(torch.zeros(token_width)) if has_mask_token else None

    def forward(self, fused_BNM: Tensor) -> Tensor:
        """Pixels [B, 3, H, W] in the tower's normalised range."""
        grid = round(fused_BNM.shape[1] ** 0.5)
        map_BWGG = self.t2v(fused_BNM).transpose(1, 2).unflatten(2, (grid, grid))
        return self.shuffle(self.to_pixels(map_BWGG))


class TextAssistedMIM(nn.Module):
    """The TAMIM loss. Shares v2t and the vision block with multimodal fusion."""

    def __init__(self, *, v2t: nn.Linear, vision_block: CrossBlock, head: PixelHead) -> None:
        super().__init__()
        self.v2t, self.vision_block, self.head = v2t, vision_block, head

    def forward(
        self, tower: Tower, pixels_BCHW: Tensor, masks: PatchMasks, text_BLM: Tensor, text_mask_BL: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(L1 on the masked pixels, a scalar; the painted pixels [B, 3, H, W]) from uint8 or normalised pixels."""
        pixels_BCHW = tower.normalize(pixels_BCHW)
        _, tokens_BNW = tower.encode_image(pixels_BCHW, masks.hidden, mask_token_W=self.head.mask_token_W)
        fused_BNM = self.vision_block(self.v2t(tokens_BNW), text_BLM, text_mask_BL)
        painted_BCHW = self.head(fused_BNM)
        # Pixels beyond the last whole patch belong to no token, so nobody can paint them.
        pixels_BCHW = pixels_BCHW[..., : painted_BCHW.shape[-2], : painted_BCHW.shape[-1]]
        return masked_l1(pixels_BCHW, painted_BCHW, mask_BN=masks.target), painted_BCHW


def masked_l1(pixels_BCHW: Tensor, painted_BCHW: Tensor, *, mask_BN: Tensor) -> Tensor:
    """Mean absolute error over the masked pixels and three channels; zero if nothing is masked."""
    grid = round(mask_BN.shape[1] ** 0.5)
    mask_B1GG = mask_BN.reshape(-1, 1, grid, grid).to(pixels_BCHW.dtype)
    mask_B1HW = F.interpolate(mask_B1GG, size=pixels_BCHW.shape[-2:], mode="nearest")
    error = ((pixels_BCHW - painted_BCHW).abs() * mask_B1HW).sum()
    return error / (3.0 * mask_B1HW.sum()).clamp(min=1.0)
