"""TAMIM: exact masks, and a loss that sees nothing but the masked pixels."""

from __future__ import annotations

import pytest
import torch

from sightline.errors import SettingInvalid
from sightline.models.config import MaskingConfig, cell_side
from sightline.models.fusion import CrossBlock
from sightline.models.tamim import MaskGenerator, PatchMasks, PixelHead, TextAssistedMIM, masked_l1
from tests.unit.models.conftest import SmallParts


@pytest.mark.parametrize(("grid", "cell", "cells"), [(7, 1, 20), (14, 2, 20), (8, 2, 7), (6, 3, 2)])
def test_exactly_the_rounded_up_share_of_cells_is_masked(grid: int, cell: int, cells: int) -> None:
    masks = MaskGenerator(MaskingConfig(cell_patches=cell), grid=grid)(50)
    assert (masks.target.sum(dim=1) == cells * cell**2).all()


@pytest.mark.parametrize(("grid", "side"), [(7, 1), (14, 2), (16, 2), (24, 3), (27, 3), (6, 1), (13, 1)])
def test_cells_follow_the_grid_unless_they_are_set(grid: int, side: int) -> None:
    assert cell_side(MaskingConfig(), grid=grid) == side


def test_cells_are_masked_whole() -> None:
    target = MaskGenerator(MaskingConfig(cell_patches=2), grid=14)(5).target.reshape(5, 7, 2, 7, 2)
    assert (target.any(dim=4).any(dim=2) == target.all(dim=4).all(dim=2)).all()


def test_a_fifth_of_the_masked_patches_stays_visible() -> None:
    masks = MaskGenerator(MaskingConfig(), grid=7)(500)
    assert (masks.hidden & ~masks.target).sum() == 0
    assert masks.hidden.sum() / masks.target.sum() == pytest.approx(0.8, abs=0.02)


def test_equal_generators_draw_equal_masks() -> None:
    draw = MaskGenerator(MaskingConfig(), grid=7)
    first, second = (draw(3, generator=torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first.target, second.target)
    assert torch.equal(first.hidden, second.hidden)


def test_pictures_of_a_batch_have_masks_of_their_own() -> None:
    target = MaskGenerator(MaskingConfig(), grid=7)(20).target
    assert len(torch.unique(target, dim=0)) == 20


def test_a_cell_that_does_not_divide_the_grid_is_refused() -> None:
    with pytest.raises(SettingInvalid, match="cell_patches"):
        MaskGenerator(MaskingConfig(cell_patches=2), grid=7)


def masked_case() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(2, 3, 28, 28), MaskGenerator(MaskingConfig(), grid=7)(2).target


def test_a_perfect_painting_costs_nothing() -> None:
    pixels, mask = masked_case()
    assert masked_l1(pixels, pixels.clone(), mask_BN=mask).item() == 0


def test_pixels_outside_the_mask_do_not_count() -> None:
    pixels, mask = masked_case()
    painted = torch.randn_like(pixels)
    outside = ~mask.reshape(2, 1, 7, 7).repeat_interleave(4, 2).repeat_interleave(4, 3)
    changed = painted + outside * torch.randn_like(pixels)
    assert masked_l1(pixels, painted, mask_BN=mask) == masked_l1(pixels, changed, mask_BN=mask)


def test_the_loss_is_the_mean_error_of_the_masked_pixels() -> None:
    pixels, mask = masked_case()
    assert masked_l1(pixels, pixels + 0.5, mask_BN=mask).item() == pytest.approx(0.5, rel=1e-5)


def test_nothing_masked_costs_nothing() -> None:
    pixels, mask = masked_case()
    assert masked_l1(pixels, pixels + 1, mask_BN=torch.zeros_like(mask)).item() == 0


def test_the_head_puts_every_patch_in_its_place() -> None:
    head = PixelHead(width=6, token_width=5, patch_pixels=4, has_mask_token=True)
    tokens = torch.randn(1, 49, 6)
    other = tokens.clone()
    other[0, 9] += 1.0
    changed = (head(tokens) - head(other)).abs().sum(dim=1)[0] > 0
    expected = torch.zeros(28, 28, dtype=torch.bool)
    expected[4:8, 8:12] = True
    assert torch.equal(changed, expected)


def painter_of(small: SmallParts) -> TextAssistedMIM:
    assert small.model.generator is not None
    assert small.model.head is not None
    fusion = small.model.generator.fusion
    return TextAssistedMIM(v2t=fusion.v2t, vision_block=fusion.vision_block, head=small.model.head).eval()


def test_the_caption_reaches_the_painting_and_its_padding_does_not(small: SmallParts) -> None:
    pixels = torch.randint(0, 256, (1, 3, 28, 28), dtype=torch.uint8)
    masks = PatchMasks(*(part[:1] for part in MaskGenerator(MaskingConfig(), grid=7)(1)))
    text = torch.randn(1, 5, 16)
    mask = torch.tensor([[True, True, True, False, False]])
    paint = painter_of(small)
    base = paint(small.model.tower, pixels, masks, text, mask)[1]
    padding_changed, caption_changed = text.clone(), text.clone()
    padding_changed[:, 3:] += 5
    caption_changed[:, 0] += 5
    assert torch.equal(base, paint(small.model.tower, pixels, masks, padding_changed, mask)[1])
    assert not torch.allclose(base, paint(small.model.tower, pixels, masks, caption_changed, mask)[1])


def test_painting_shares_its_block_with_fusion(small: SmallParts) -> None:
    assert small.model.generator is not None
    assert isinstance(painter_of(small).vision_block, CrossBlock)
    assert painter_of(small).v2t is small.model.generator.fusion.v2t
