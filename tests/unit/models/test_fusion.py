"""MF: pictures by weight, padding without a trace, and a dialogue without pictures left alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sightline.models.fusion import CrossBlock, FusedMemory, MultimodalFusion, pool_tokens

B, K, P, W, L, M = 3, 4, 9, 6, 5, 8


@pytest.fixture
def fusion() -> MultimodalFusion:
    torch.manual_seed(0)
    module = MultimodalFusion(token_width=W, width=M, heads=2, dropout=0.1).eval()
    torch.nn.init.constant_(module.text_gate, 0.7)  # open, so that the text block counts
    return module


def inputs() -> dict[str, Tensor]:
    return {
        "text_BLM": torch.randn(B, L, M),
        "text_mask_BL": torch.ones(B, L, dtype=torch.bool),
        "tokens_BKPW": torch.randn(B, K, P, W),
        "similarity_BK": torch.rand(B, K),
        "image_mask_BK": torch.ones(B, K, dtype=torch.bool),
    }


def rows(memory: FusedMemory, row: int) -> Tensor:
    return memory.packed[row][memory.mask[row]]


def test_padding_the_text_changes_nothing(fusion: MultimodalFusion) -> None:
    case = inputs()
    base = fusion(**case)
    case["text_BLM"] = torch.cat([case["text_BLM"], 9 * torch.randn(B, 20, M)], dim=1)
    case["text_mask_BL"] = torch.cat([case["text_mask_BL"], torch.zeros(B, 20, dtype=torch.bool)], dim=1)
    padded = fusion(**case)
    for row in range(B):
        torch.testing.assert_close(rows(padded, row), rows(base, row), atol=1e-6, rtol=0)


def test_missing_pictures_change_nothing(fusion: MultimodalFusion) -> None:
    case = inputs()
    base = fusion(**case)
    case["tokens_BKPW"] = torch.cat([case["tokens_BKPW"], 9 * torch.randn(B, 2, P, W)], dim=1)
    case["similarity_BK"] = torch.cat([case["similarity_BK"], torch.full((B, 2), 0.99)], dim=1)
    case["image_mask_BK"] = torch.cat([case["image_mask_BK"], torch.zeros(B, 2, dtype=torch.bool)], dim=1)
    padded = fusion(**case)
    torch.testing.assert_close(padded.packed, base.packed, atol=1e-6, rtol=0)
    torch.testing.assert_close(padded.image_weights[:, :K], base.image_weights)


def test_a_dialogue_does_not_depend_on_its_batch_mates(fusion: MultimodalFusion) -> None:
    case = inputs()
    case["image_mask_BK"][1] = False
    together = fusion(**case)
    for row in range(B):
        alone = fusion(**{name: value[row : row + 1] for name, value in case.items()})
        torch.testing.assert_close(together.packed[row], alone.packed[0], atol=1e-6, rtol=0)


def test_the_order_of_pictures_does_not_matter(fusion: MultimodalFusion) -> None:
    case = inputs()
    base = fusion(**case)
    for name in ("tokens_BKPW", "similarity_BK", "image_mask_BK"):
        case[name] = case[name].flip(1)
    torch.testing.assert_close(fusion(**case).packed, base.packed, atol=1e-6, rtol=0)


def test_shares_are_the_softmax_of_scaled_similarities(fusion: MultimodalFusion) -> None:
    case = inputs()
    fusion.similarity_scale.fill_(20.0)
    expected = torch.softmax(20.0 * case["similarity_BK"], dim=1)
    torch.testing.assert_close(fusion(**case).image_weights, expected)


def test_without_a_picture_vision_is_zero_and_masked_and_the_text_unchanged(fusion: MultimodalFusion) -> None:
    case = inputs()
    case["image_mask_BK"][:] = False
    memory = fusion(**case)
    assert memory.packed[:, :P].abs().sum() == 0
    assert not memory.mask[:, :P].any()
    assert memory.image_weights.sum() == 0
    torch.testing.assert_close(memory.packed[:, P:], case["text_BLM"])


def test_gradients_stay_finite_when_some_dialogues_have_no_picture(fusion: MultimodalFusion) -> None:
    case = inputs()
    case["image_mask_BK"][0] = False
    fusion(**case).packed.square().sum().backward()
    gradients = [parameter.grad for parameter in fusion.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


def test_a_closed_gate_leaves_the_text_as_it_was(fusion: MultimodalFusion) -> None:
    torch.nn.init.zeros_(fusion.text_gate)
    case = inputs()
    assert torch.equal(fusion(**case).packed[:, P:], case["text_BLM"])


def test_a_row_without_keys_gets_nothing_from_attention() -> None:
    block = CrossBlock(M, heads=2, dropout=0.0)
    query = torch.randn(1, 3, M)
    nothing = torch.zeros(1, 4, dtype=torch.bool)
    first = block(query, torch.randn(1, 4, M), nothing)
    assert torch.equal(first, block(query, torch.randn(1, 4, M), nothing))


def test_pooling_tokens_is_the_mean_of_their_squares() -> None:
    tokens = torch.randn(2, 36, W)
    pooled = pool_tokens(tokens, grid=3)
    expected = tokens.reshape(2, 3, 2, 3, 2, W).mean(dim=(2, 4)).reshape(2, 9, W)
    torch.testing.assert_close(pooled, expected)


def test_a_grid_that_fits_is_not_touched() -> None:
    tokens = torch.randn(2, 9, W)
    assert pool_tokens(tokens, grid=3) is tokens


def test_repeating_a_memory_keeps_rows_of_a_dialogue_together(fusion: MultimodalFusion) -> None:
    memory = fusion(**inputs())
    repeated = memory.repeat(3)
    assert repeated.packed.shape[0] == 3 * B
    assert torch.equal(repeated.packed[3], memory.packed[1])
