"""The faithful variant: what is shared, what it counts, whose ViT it is, and what its configuration says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import ViTModel

from sightline.errors import SettingInvalid
from sightline.models.config import FusionConfig, ZrigfConfig, published_config
from sightline.models.faithful.generator import FaithfulGenerator
from sightline.models.faithful.patches import cut_patches, join_patches
from sightline.models.faithful.tower import faithful_tower_of, load_vit
from sightline.models.model import build_model
from sightline.models.weights import unique_state
from tests.unit.models.conftest import FaithfulParts

AUTHORS_COUNT = {
    "BART-large": 406_291_456,
    "ViT-B/16 with pooler": 86_389_248,
    "information transfer, 12 layers": 12 * 11_543_552,
    "vision_tb and text_tb": 2 * 12_596_224,
    "text pooler": 1_049_600,
    "v2t": 786_432,
    "temperature": 1,
}
"""Line by line what the authors' stage-2 model holds: 658.2 million."""
OURS_BESIDES = {"gate of MF's text block (defect D)": 1, "bias of the preservation loss (defect K)": 1}


def count(*modules: nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


@pytest.mark.slow
def test_the_full_size_counts_what_the_authors_count_line_by_line() -> None:
    with torch.device("meta"):
        generator = build_model(published_config()).generator
    assert isinstance(generator, FaithfulGenerator)
    reader, fusion, layers = generator.reader, generator.fusion, generator.bart.model.decoder.layers
    new = ("vision_attn", "vision_attn_layer_norm", "text_gate", "vision_gate", "mix")
    transfer = sum(count(getattr(layer, name)) for layer in layers for name in new)
    ours = {
        "BART-large": count(generator.bart) - transfer,
        "ViT-B/16 with pooler": count(reader.vit),
        "information transfer, 12 layers": transfer,
        "vision_tb and text_tb": count(fusion.vision_block, fusion.text_block),
        "text pooler": count(reader.text_pooler),
        "v2t": count(reader.v2t),
        "temperature": reader.log_scale.numel(),
    }
    assert ours == AUTHORS_COUNT
    assert round(sum(AUTHORS_COUNT.values()) / 1e6, 1) == 658.2
    assert count(generator) == sum(AUTHORS_COUNT.values()) + sum(OURS_BESIDES.values())


def test_one_v2t_brings_pooled_masked_and_retrieved_pictures_to_the_text(faithful: FaithfulParts) -> None:
    generator = faithful.generator
    assert generator.fusion.v2t is generator.reader.v2t
    assert generator.reader.v2t.bias is None
    assert [name for name in unique_state(generator) if "v2t" in name] == ["fusion.v2t.weight"]


def test_the_reader_of_texts_is_barts_own_encoder(faithful: FaithfulParts) -> None:
    assert faithful.generator.reader.text is faithful.generator.text_encoder
    assert not [name for name in unique_state(faithful.generator) if name.startswith("reader.text.")]


def test_stage_one_starts_from_the_bart_that_stage_two_goes_on_with(faithful: FaithfulParts) -> None:
    ours, theirs = faithful.tower.text.state_dict(), faithful.generator.text_encoder.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert faithful.tower.text is not faithful.generator.text_encoder


def test_states_and_pooled_are_those_of_transformers_vit(faithful: FaithfulParts) -> None:
    pixels = torch.randn(3, 3, 28, 28)
    expected = faithful.tower.vit(pixels)
    states = faithful.tower.read_image(pixels)
    torch.testing.assert_close(states, expected.last_hidden_state)
    torch.testing.assert_close(faithful.tower.vit.pooler(states), expected.pooler_output)


def test_hidden_patches_are_those_of_transformers_mask_token(faithful: FaithfulParts) -> None:
    pixels, hidden = torch.randn(2, 3, 28, 28), torch.rand(2, 49) < 0.4
    masked = ViTModel(faithful.tower.vit.config, use_mask_token=True).eval()
    masked.load_state_dict(faithful.tower.vit.state_dict(), strict=False)
    nn.init.normal_(masked.embeddings.mask_token)
    states = faithful.tower.read_image(pixels, hidden, mask_token_W=masked.embeddings.mask_token[0, 0])
    torch.testing.assert_close(states, masked(pixels, bool_masked_pos=hidden).last_hidden_state)


def test_patches_join_to_the_picture_they_were_cut_from_even_in_half_precision() -> None:
    pixels = torch.randint(0, 256, (2, 3, 12, 12), dtype=torch.uint8)
    patches = cut_patches(pixels, side=4)
    assert patches.shape == (2, 9, 48)
    assert torch.equal(patches[1, 5].view(3, 4, 4), pixels[1, :, 4:8, 8:12])
    assert torch.equal(join_patches(patches.half(), side=4).to(torch.uint8), pixels)


def inputs(k: int = 3, *, b: int = 2) -> dict[str, Tensor]:
    pixels = torch.randint(0, 256, (b * k, 3, 28, 28), dtype=torch.uint8)
    return {
        "context_ids_BL": torch.randint(2, 200, (b, 6)),
        "context_mask_BL": torch.ones(b, 6, dtype=torch.bool),
        "tokens_BKPW": cut_patches(pixels, side=4).unflatten(0, (b, k)).float(),
        "similarity_BK": torch.rand(b, k),
        "image_mask_BK": torch.ones(b, k, dtype=torch.bool),
    }


def test_shares_come_from_the_readers_own_vectors_not_from_retrieval(faithful: FaithfulParts) -> None:
    case, generator = inputs(), faithful.generator
    memory = generator.remember(**case)
    other = generator.remember(**{**case, "similarity_BK": case["similarity_BK"].flip(1)})
    assert torch.equal(memory.image_weights, other.image_weights)
    pixels = join_patches(case["tokens_BKPW"].flatten(0, 1), side=4).to(torch.uint8)
    image = generator.reader.encode_image(pixels)[0].unflatten(0, (2, 3))
    cosine = torch.einsum("bd,bkd->bk", generator.reader.encode_text(case["context_ids_BL"]), image)
    torch.testing.assert_close(memory.image_weights, torch.softmax(cosine / 0.07, dim=1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("grid", "states"), [(7, 50), (2, 5)])
def test_the_memory_holds_the_class_token_and_the_pooled_patches(
    faithful_config: ZrigfConfig, grid: int, states: int
) -> None:
    generator = build_model(replace(faithful_config, fusion=FusionConfig(token_grid=grid))).eval().generator
    assert generator is not None
    memory = generator.remember(**inputs())
    assert memory.num_vision == states == generator.bart.model.decoder.layers[0].num_vision


def test_stage_two_takes_over_once_after_each_stage_one(faithful: FaithfulParts) -> None:
    tower, reader = faithful.tower.v2t.weight.data, faithful.generator.reader.v2t.weight.data
    faithful.model.start_stage_two()
    assert torch.equal(reader, tower)
    reader.add_(1.0)
    faithful.model.start_stage_two()
    assert not torch.equal(reader, tower)
    faithful.model.start_stage_one()
    faithful.model.start_stage_two()
    assert torch.equal(reader, tower)


def test_everything_is_trained_in_stage_two(faithful: FaithfulParts) -> None:
    case = inputs()
    for layer in faithful.generator.bart.model.decoder.layers:
        nn.init.normal_(layer.mix.weight, std=0.3)
        nn.init.normal_(layer.text_gate.weight), nn.init.normal_(layer.vision_gate.weight)
    nn.init.constant_(faithful.generator.fusion.text_gate, 0.5)
    faithful.generator.train()(**case, labels_BT=torch.randint(2, 200, (2, 5))).backward()
    still = [name for name, p in faithful.generator.named_parameters() if p.grad is None or not p.grad.any()]
    assert still == []


def test_without_any_picture_a_step_still_has_finite_gradients_everywhere(faithful: FaithfulParts) -> None:
    case = {**inputs(), "image_mask_BK": torch.zeros(2, 3, dtype=torch.bool)}
    losses = faithful.generator.train().losses(
        **{name: value for name, value in case.items() if name != "similarity_BK"},
        labels_BT=torch.randint(2, 200, (2, 5)),
    )
    assert losses.preservation == 0
    losses.total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in faithful.generator.parameters())


def test_a_vit_checkpoint_is_loaded_whole_with_its_normalisation(faithful: FaithfulParts, tmp_path: Path) -> None:
    vit = ViTModel(faithful.tower.vit.config)
    vit.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.2, 0.3]}')
    assert faithful.config.decoder is not None
    described = faithful_tower_of(tmp_path, text=faithful.config.decoder, context_length=12)
    assert described == faithful.config.tower
    load_vit(faithful.tower, folder=tmp_path)
    assert all(torch.equal(faithful.tower.vit.state_dict()[name], value) for name, value in vit.state_dict().items())
    assert faithful.tower.preprocess.mean == (0.4, 0.5, 0.6)


@pytest.mark.parametrize("lost", ["pooler.dense.weight", "layernorm.bias"])
def test_a_vit_checkpoint_with_a_weight_missing_is_refused(faithful: FaithfulParts, tmp_path: Path, lost: str) -> None:
    ViTModel(faithful.tower.vit.config).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file(
        {n: v for n, v in weights.items() if n != lost}, tmp_path / "model.safetensors", metadata={"format": "pt"}
    )
    with pytest.raises(SettingInvalid, match=lost):
        load_vit(faithful.tower, folder=tmp_path)


def test_a_folder_without_a_vit_is_refused(faithful: FaithfulParts, tmp_path: Path) -> None:
    with pytest.raises(SettingInvalid, match="no ViT checkpoint"):
        load_vit(faithful.tower, folder=tmp_path)


def test_the_configuration_survives_its_json(faithful_config: ZrigfConfig, small_config: ZrigfConfig) -> None:
    for config, variant in ((faithful_config, "faithful"), (small_config, "clip")):
        assert config.variant == variant
        assert ZrigfConfig.from_json(config.to_json()) == config


def test_a_configuration_from_before_there_were_variants_is_a_clip_one(small_config: ZrigfConfig) -> None:
    values = json.loads(small_config.to_json())
    del values["variant"], values["preservation_weight"]
    assert ZrigfConfig.from_json(json.dumps(values)) == small_config


def test_an_unknown_variant_is_refused(small_config: ZrigfConfig) -> None:
    with pytest.raises(SettingInvalid, match="'siglip', expected clip or faithful"):
        ZrigfConfig.from_json(json.dumps({**json.loads(small_config.to_json()), "variant": "siglip"}))


def test_a_reader_with_another_bart_than_the_generator_is_refused(faithful_config: ZrigfConfig) -> None:
    assert faithful_config.decoder is not None
    with pytest.raises(SettingInvalid, match="reads with its own BART"):
        replace(faithful_config, decoder=replace(faithful_config.decoder, encoder_layers=3))
