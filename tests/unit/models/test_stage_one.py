"""Stage 1 as one module: what it trains, what it only borrows, and what the optimiser gets."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sightline.errors import CapabilityMissing
from sightline.models.config import ZrigfConfig
from sightline.models.model import ContrastiveStage, build_model
from tests.unit.models.conftest import SmallParts

CAPTIONS = ["a red ball", "the blue bird sleeps at night", "it is green .", "what colour"]


def batch(small: SmallParts) -> dict[str, Tensor]:
    ids, mask = small.dialogue_tokenizer.context_ids(CAPTIONS, max_length=20)
    return {
        "pixels_BCHW": torch.randint(0, 256, (4, 3, 28, 28), dtype=torch.uint8),
        "tower_ids_BL": torch.from_numpy(small.tower_tokenizer.tokenize(CAPTIONS).ids),
        "caption_ids_BL": torch.from_numpy(ids),
        "caption_mask_BL": torch.from_numpy(mask),
        "pair_ids_B": torch.arange(4),
    }


def test_the_total_is_matching_plus_the_weighed_painting(small: SmallParts) -> None:
    losses = ContrastiveStage(small.model)(**batch(small))
    torch.testing.assert_close(losses.total, losses.matching + 0.2 * losses.painting)


def test_every_weight_of_stage_one_gets_a_gradient(small: SmallParts) -> None:
    stage = ContrastiveStage(small.model).train()
    stage(**batch(small)).total.backward()
    assert [name for name, parameter in stage.named_parameters() if parameter.grad is None] == []


def test_the_text_encoder_is_borrowed_frozen_and_without_dropout(small: SmallParts) -> None:
    stage = ContrastiveStage(small.model).train()
    stage(**batch(small)).total.backward()
    assert small.model.generator is not None
    lender = small.model.generator.text_encoder
    assert not lender.training
    assert all(parameter.grad is None for parameter in lender.parameters())
    assert not {id(parameter) for parameter in lender.parameters()} & {
        id(parameter) for parameter in stage.parameters()
    }


def test_the_negative_control_trains_the_text_encoder(small: SmallParts) -> None:
    stage = ContrastiveStage(small.model, trains_text_encoder=True).train()
    stage(**batch(small)).total.backward()
    assert small.model.generator is not None
    layer = small.model.generator.text_encoder.layers[0]
    assert layer.training
    assert layer.fc1.weight.grad.abs().max() > 0


def test_a_share_of_the_pictures_is_painted(small: SmallParts) -> None:
    stage, case = ContrastiveStage(small.model).eval(), batch(small)
    masks = stage.masks(4)
    half = stage(**case, masks=masks, painted_share=0.5)
    first_two = {name: value[:2] for name, value in case.items()}
    expected = stage(**first_two, masks=type(masks)(*(part[:2] for part in masks)))
    torch.testing.assert_close(half.painting, expected.painting)
    assert half.matching == stage(**case, masks=masks).matching


def test_equal_seeds_give_equal_losses(small: SmallParts) -> None:
    stage, case = ContrastiveStage(small.model).eval(), batch(small)
    totals = []
    for _ in range(2):
        torch.manual_seed(3)
        totals.append(stage(**case).total)
    assert totals[0] == totals[1]


def test_an_encoder_only_model_has_no_stage_one(small_config: ZrigfConfig) -> None:
    with pytest.raises(CapabilityMissing):
        ContrastiveStage(build_model(ZrigfConfig(tower=small_config.tower)))
