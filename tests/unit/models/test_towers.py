"""The dual encoder against open_clip itself: same vectors, same tokens, any architecture."""

from __future__ import annotations

import json
from pathlib import Path

import open_clip
import pytest
import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from safetensors.torch import save_file

from sightline.errors import SettingInvalid
from sightline.models.config import TowerConfig, ZrigfConfig
from sightline.models.model import ZrigfModel
from sightline.models.towers import DualEncoder, build_tower, grey_patches, tower_config_of_tag
from sightline.models.transforms import Preprocess
from tests.unit.models.conftest import SmallParts

PIXELS = torch.linspace(-2, 2, 2 * 3 * 28 * 28).reshape(2, 3, 28, 28)


def test_without_a_mask_the_picture_tower_is_open_clips_own(small: SmallParts) -> None:
    tower = small.model.tower
    vectors, _ = tower.encode_image(PIXELS)
    assert torch.equal(vectors, tower.model.encode_image(PIXELS, normalize=True))


def test_tokens_are_those_of_open_clips_tower_without_its_last_block(small: SmallParts) -> None:
    visual = small.model.tower.model.visual
    _, tokens = small.model.tower.encode_image(PIXELS)
    visual.output_tokens = True
    del visual.transformer.resblocks[-1]
    assert torch.equal(tokens, visual(PIXELS)[1])


def test_an_empty_mask_changes_nothing(small: SmallParts) -> None:
    tower = small.model.tower
    empty = torch.zeros(2, tower.num_patches, dtype=torch.bool)
    masked = tower.encode_image(PIXELS, empty, mask_token_W=torch.randn(16))
    assert torch.equal(masked[1], tower.encode_image(PIXELS)[1])


def test_a_hidden_patch_cannot_be_seen(small: SmallParts) -> None:
    tower = small.model.tower
    hidden = torch.zeros(2, tower.num_patches, dtype=torch.bool)
    hidden[:, 9] = True  # second row, third column of a 7x7 grid
    other = PIXELS.clone()
    other[:, :, 4:8, 8:12] += 3.0
    first = tower.encode_image(PIXELS, hidden, mask_token_W=torch.zeros(16))
    second = tower.encode_image(other, hidden, mask_token_W=torch.zeros(16))
    assert torch.equal(first[0], second[0])
    assert not torch.equal(tower.encode_image(PIXELS)[0], tower.encode_image(other)[0])


def test_tokens_have_no_class_token(small: SmallParts) -> None:
    assert small.model.tower.encode_image(PIXELS)[1].shape == (2, 49, 16)


def test_cutting_a_batch_to_its_longest_text_changes_no_vector(small: SmallParts) -> None:
    tower = small.model.tower
    ids = torch.from_numpy(small.tower_tokenizer.tokenize(["red", "the blue bird", ""]).ids)
    cut = tower.longest_text(ids)
    assert cut.shape[1] < ids.shape[1]
    torch.testing.assert_close(tower.encode_text(cut), tower.encode_text(ids), atol=1e-6, rtol=0)


def test_the_text_tower_is_open_clips_own(small: SmallParts) -> None:
    tower = small.model.tower
    ids = torch.from_numpy(small.tower_tokenizer.tokenize(["red", "the blue bird sleeps at night " * 3]).ids)
    expected = tower.model.encode_text(ids, normalize=True)
    torch.testing.assert_close(tower.encode_text(ids), expected, atol=1e-6, rtol=0)


def test_a_vector_does_not_depend_on_batch_mates(small: SmallParts) -> None:
    tower = small.model.tower
    ids = torch.from_numpy(small.tower_tokenizer.tokenize(["red", "the blue bird sleeps at night"]).ids)
    alone = tower.encode_text(tower.longest_text(ids[:1]))
    torch.testing.assert_close(tower.encode_text(ids)[:1], alone, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("raw", "expected"), [(0.0, 1.0), (4.0, 54.59815), (9.0, 100.0)])
def test_the_temperature_is_clamped_at_a_hundred(small: SmallParts, raw: float, expected: float) -> None:
    small.model.tower.model.logit_scale.data.fill_(raw)
    assert small.model.tower.logit_scale().item() == pytest.approx(expected, rel=1e-5)


def test_a_clamped_temperature_can_come_back(small: SmallParts) -> None:
    small.model.tower.model.logit_scale.data.fill_(9.0)
    small.model.tower.logit_scale().backward()
    assert small.model.tower.model.logit_scale.grad > 0


def test_greyed_patches_are_exactly_the_hidden_ones() -> None:
    hidden = torch.zeros(1, 49, dtype=torch.bool)
    hidden[0, 8] = True
    greyed = grey_patches(torch.ones(1, 3, 28, 28), hidden)
    assert greyed.sum() == 3 * (28 * 28 - 16)
    assert greyed[:, :, 4:8, 4:8].abs().sum() == 0


def test_an_unknown_tag_is_refused() -> None:
    with pytest.raises(SettingInvalid, match="ViT-Q-99"):
        tower_config_of_tag("ViT-Q-99")


def test_a_custom_tower_takes_no_weights(small_config: ZrigfConfig) -> None:
    with pytest.raises(SettingInvalid, match="open_clip tag"):
        build_tower(small_config.tower, weights="weights.safetensors")


LOCAL = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 28, "layers": 1, "width": 16, "head_width": 8, "patch_size": 4},
    "text_cfg": {"context_length": 9, "vocab_size": 40, "width": 16, "heads": 2, "layers": 1},
}


def local_folder(folder: Path, **changes: object) -> str:
    values = {"model_cfg": {**LOCAL, **changes}, "preprocess_cfg": {"size": 28, "mean": [0.5] * 3, "std": [0.5] * 3}}
    (folder / "open_clip_config.json").write_text(json.dumps(values))
    return f"local-dir:{folder}"


@pytest.fixture
def local_model() -> CLIP:
    vision, text = LOCAL["vision_cfg"], LOCAL["text_cfg"]
    return CLIP(8, CLIPVisionCfg(**vision), CLIPTextCfg(**text))  # type: ignore[arg-type]


def test_a_local_folder_in_open_clips_format_loads_its_weights(tmp_path: Path, local_model: CLIP) -> None:
    save_file(local_model.state_dict(), tmp_path / "open_clip_model.safetensors")
    tower = build_tower(tower_config_of_tag(local_folder(tmp_path)), weights="own").eval()
    expected = local_model.eval().encode_image(PIXELS, normalize=True)
    torch.testing.assert_close(tower.encode_image(PIXELS)[0], expected)
    assert tower.preprocess.mean == (0.5, 0.5, 0.5)


def test_a_local_weights_file_loads_strictly(tmp_path: Path, local_model: CLIP) -> None:
    state = local_model.state_dict()
    state.pop("ln_final.weight")
    save_file(state, tmp_path / "open_clip_model.safetensors")
    with pytest.raises(SettingInvalid, match="ln_final"):
        build_tower(tower_config_of_tag(local_folder(tmp_path)), weights="own")


@pytest.mark.parametrize(
    "text_changes", [{"no_causal_mask": True, "pool_type": "last"}, {"embed_cls": True}, {"pool_type": "last"}]
)
def test_a_text_tower_that_is_not_causal_is_never_cut(tmp_path: Path, text_changes: dict[str, object]) -> None:
    tag = local_folder(tmp_path, text_cfg={**LOCAL["text_cfg"], **text_changes}, custom_text=True)  # type: ignore[dict-item]
    tower = build_tower(tower_config_of_tag(tag)).eval()
    ids = torch.tensor([[1, 5, 39, 0, 0, 0, 0, 0, 0]])
    assert not tower.cuts_texts
    assert tower.longest_text(ids).shape == ids.shape
    expected = torch.nn.functional.normalize(tower.model.text(ids), dim=-1)
    torch.testing.assert_close(tower.encode_text(ids), expected)


def test_a_custom_text_tower_that_is_causal_is_cut(tmp_path: Path) -> None:
    tag = local_folder(tmp_path, text_cfg={**LOCAL["text_cfg"], "pool_type": "eos", "eos_id": 7}, custom_text=True)  # type: ignore[dict-item]
    tower = build_tower(tower_config_of_tag(tag)).eval()
    ids = torch.tensor([[1, 5, 7, 0, 0, 0, 0, 0, 0], [1, 39, 3, 3, 7, 0, 0, 0, 0]])
    assert tower.longest_text(ids).shape == (2, 5)
    expected = torch.nn.functional.normalize(tower.model.text(ids), dim=-1)
    torch.testing.assert_close(tower.encode_text(tower.longest_text(ids)), expected)


def built(visual: dict[str, object], folder: Path) -> DualEncoder:
    tag = local_folder(folder, vision_cfg={"image_size": 28, **visual})
    return build_tower(tower_config_of_tag(tag)).eval()


@pytest.mark.slow
def test_a_timm_tower_gives_patch_tokens_and_greys_hidden_pixels(tmp_path: Path) -> None:
    visual = {"image_size": 224, "timm_model_name": "vit_tiny_patch16_224", "timm_pool": "", "timm_proj": "linear"}
    tower = built(visual, tmp_path)
    size = tower.preprocess.image_size
    pixels = torch.randn(1, 3, size, size)
    vectors, tokens = tower.encode_image(pixels)
    assert tokens.shape == (1, 196, 192)
    torch.testing.assert_close(vectors, tower.model.encode_image(pixels, normalize=True))
    assert not tower.hides_by_token
    hidden = torch.ones(1, 196, dtype=torch.bool)
    greyed = tower.encode_image(pixels, hidden)[1]
    torch.testing.assert_close(greyed, tower.encode_image(torch.zeros_like(pixels))[1])


@pytest.mark.slow
@pytest.mark.parametrize("tag", ["ViT-B-32", "RN50", "ViT-B-16"])
def test_a_tag_of_open_clip_builds_whole(tag: str) -> None:
    config = tower_config_of_tag(tag)
    tower = build_tower(config).eval()
    model = ZrigfModel(ZrigfConfig(tower=config), tower=tower, generator=None, head=None)
    pixels = torch.randint(0, 256, (1, 3, 224, 224), dtype=torch.uint8)
    with torch.inference_mode():
        vectors, tokens = model.fusion_tokens(pixels)
        expected = tower.model.encode_image(tower.normalize(pixels), normalize=True)
    torch.testing.assert_close(vectors, expected, atol=1e-5, rtol=1e-4)
    assert tokens.shape == (1, 49, tower.token_width)
    assert tower.preprocess == Preprocess.from_open_clip(vars(open_clip.transform.PreprocessCfg()))


def test_measuring_leaves_the_mode_alone(small_config: ZrigfConfig) -> None:
    assert build_tower(small_config.tower).training
    assert isinstance(small_config.tower, TowerConfig)
