"""IT and the generator: equal to BART at the start, trainable everywhere, blind only without pictures."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BartForConditionalGeneration, DynamicCache, EncoderDecoderCache

from sightline.errors import SettingInvalid
from sightline.models.config import FusionConfig, ZrigfConfig
from sightline.models.generator import ZrigfGenerator, bart_config
from tests.unit.models.conftest import SmallParts


def batch(config: ZrigfConfig, *, pictures: int = 2) -> dict[str, Tensor]:
    torch.manual_seed(1)
    assert config.decoder is not None
    ids = torch.randint(4, config.decoder.vocab_size - 1, (3, 7))
    mask = torch.ones(3, 7, dtype=torch.long)
    mask[1, 5:] = 0
    image_mask = torch.ones(3, pictures, dtype=torch.bool)
    image_mask[2] = False
    return {
        "context_ids_BL": ids,
        "context_mask_BL": mask,
        "tokens_BKPW": torch.randn(3, pictures, 49, 16),
        "similarity_BK": torch.rand(3, pictures),
        "image_mask_BK": image_mask,
    }


def labels(config: ZrigfConfig) -> Tensor:
    assert config.decoder is not None
    values = torch.randint(4, config.decoder.vocab_size - 1, (3, 6))
    values[1, 4:] = -100
    return values


@pytest.fixture
def generator(small: SmallParts) -> ZrigfGenerator:
    assert small.model.generator is not None
    return small.model.generator


def test_a_fresh_generator_gives_the_logits_of_its_bart_for_any_picture(small_config: ZrigfConfig) -> None:
    assert small_config.decoder is not None
    bart = BartForConditionalGeneration(bart_config(small_config.decoder)).eval()
    ours = ZrigfGenerator(small_config.decoder, small_config.fusion, token_width=16, bart=copy.deepcopy(bart)).eval()
    case, wanted = batch(small_config), labels(small_config)
    got = ours.logits(ours.remember(**case), wanted)
    plain = bart(
        input_ids=case["context_ids_BL"],
        attention_mask=case["context_mask_BL"],
        decoder_input_ids=ours.shift_right(wanted),
    ).logits
    torch.testing.assert_close(got, plain, atol=1e-5, rtol=1e-5)
    assert plain.std() > 0.1


def test_a_generator_that_starts_open_hears_its_pictures_before_any_training(small_config: ZrigfConfig) -> None:
    assert small_config.decoder is not None
    fusion = dataclasses.replace(small_config.fusion, start="open")
    ours = ZrigfGenerator(small_config.decoder, fusion, token_width=16).eval()
    case, wanted = batch(small_config), labels(small_config)
    seen = ours.logits(ours.remember(**case), wanted)
    other = ours.logits(ours.remember(**{**case, "tokens_BKPW": -case["tokens_BKPW"]}), wanted)
    changed = (seen - other).abs().amax(dim=(1, 2))
    assert (changed[:2] > 0.1).all()
    assert changed[2] < 1e-6  # It was shown no picture.


def test_a_start_that_does_not_exist_is_refused() -> None:
    with pytest.raises(SettingInvalid, match="'shut'"):
        FusionConfig(start="shut")


def test_every_weight_gets_a_finite_gradient(small_config: ZrigfConfig, generator: ZrigfGenerator) -> None:
    torch.nn.init.constant_(generator.fusion.text_gate, 0.1)
    generator.train()
    generator(**batch(small_config), labels_BT=labels(small_config)).backward()
    bad = [
        name
        for name, parameter in generator.named_parameters()
        if parameter.grad is None or not parameter.grad.isfinite().all()
    ]
    assert bad == []


def test_the_mixing_weights_of_the_pictures_learn_from_the_first_step(
    small_config: ZrigfConfig, generator: ZrigfGenerator
) -> None:
    generator(**batch(small_config), labels_BT=labels(small_config)).backward()
    width = generator.config.d_model
    for layer in generator.bart.model.decoder.layers:
        assert layer.mix.weight.grad[:, 2 * width :].abs().max() > 0


def mixed(generator: ZrigfGenerator) -> ZrigfGenerator:
    """The generator with its pictures mixed in, as after some training."""
    for layer in generator.bart.model.decoder.layers:
        torch.nn.init.normal_(layer.mix.weight, std=0.3)
    torch.nn.init.constant_(generator.fusion.text_gate, 0.5)
    return generator


def test_pictures_change_the_reply_once_they_are_mixed_in(small_config: ZrigfConfig, generator: ZrigfGenerator) -> None:
    case, wanted = batch(small_config), labels(small_config)
    mixed(generator)
    first = generator.logits(generator.remember(**case), wanted)
    case["tokens_BKPW"] = torch.randn_like(case["tokens_BKPW"])
    second = generator.logits(generator.remember(**case), wanted)
    assert not torch.allclose(first[:2], second[:2], atol=1e-3)
    assert torch.equal(first[2], second[2])  # this dialogue has no picture


def test_logits_do_not_depend_on_padding_or_batch_mates(small_config: ZrigfConfig, generator: ZrigfGenerator) -> None:
    case, wanted = batch(small_config), labels(small_config)
    mixed(generator)
    together = generator.logits(generator.remember(**case), wanted)
    alone = {name: value[1:2] for name, value in case.items()}
    alone["context_ids_BL"], alone["context_mask_BL"] = (
        case["context_ids_BL"][1:2, :5],
        case["context_mask_BL"][1:2, :5],
    )
    single = generator.logits(generator.remember(**alone), wanted[1:2])
    torch.testing.assert_close(together[1, :4], single[0, :4], atol=1e-5, rtol=1e-5)


def test_the_loss_is_the_smoothed_cross_entropy_of_counted_labels(
    small_config: ZrigfConfig, generator: ZrigfGenerator
) -> None:
    case, wanted = batch(small_config), labels(small_config)
    generator.label_smoothing = 0.1
    log_probs = generator.logits(generator.remember(**case), wanted).log_softmax(dim=-1)
    total = torch.zeros(())
    for row, column in (wanted != -100).nonzero().tolist():
        scores = log_probs[row, column]
        total = total - 0.9 * scores[wanted[row, column]] - 0.1 * scores.mean()
    expected = total / (wanted != -100).sum()
    torch.testing.assert_close(generator(**case, labels_BT=wanted), expected)


def test_decoder_ids_start_with_end_of_text_and_hide_the_ignored(generator: ZrigfGenerator) -> None:
    eos, pad = generator.config.eos_id, generator.config.pad_id
    shifted = generator.shift_right(torch.tensor([[1, 5, eos], [1, -100, -100]]))
    assert shifted.tolist() == [[eos, 1, 5], [eos, 1, pad]]


@pytest.mark.parametrize("num_beams", [1, 3])
def test_transformers_own_generate_runs_on_the_packed_memory(
    small_config: ZrigfConfig, generator: ZrigfGenerator, num_beams: int
) -> None:
    case = batch(small_config)
    mixed(generator)
    memory = generator.remember(**case)
    shared: dict[str, Any] = {
        "attention_mask": memory.mask,
        "max_new_tokens": 8,
        "num_beams": num_beams,
        "do_sample": False,
    }
    cached = generator.bart.generate(
        encoder_outputs=generator.encoder_outputs(memory),
        past_key_values=EncoderDecoderCache(DynamicCache(), DynamicCache()),
        **shared,
    )
    fresh = generator.bart.generate(encoder_outputs=generator.encoder_outputs(memory), use_cache=False, **shared)
    assert torch.equal(cached, fresh)


def test_the_similarity_scale_is_stored_with_the_weights(generator: ZrigfGenerator) -> None:
    generator.set_similarity_scale(torch.tensor(33.0))
    assert generator.state_dict()["fusion.similarity_scale"].item() == 33.0
