"""Picture to pixels: open_clip's own transform is the measure."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from sightline.errors import SettingInvalid
from sightline.models.transforms import Normalize, Preprocess

SIZES = [(64, 64), (80, 48), (47, 81), (20, 31), (333, 50)]


def picture(size: tuple[int, int]) -> Image.Image:
    width, height = size
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mode", ["shortest", "squash", "longest"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_pixels_equal_those_of_open_clip(size: tuple[int, int], mode: str, interpolation: str) -> None:
    theirs = PreprocessCfg(size=56, resize_mode=mode, interpolation=interpolation)
    ours = Preprocess.from_open_clip(vars(theirs))
    expected = image_transform_v2(theirs, is_train=False)(picture(size))
    got = Normalize(ours)(torch.from_numpy(ours.pixels(picture(size)))[None])[0]
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1"])
def test_every_mode_becomes_three_channels(mode: str) -> None:
    assert Preprocess(image_size=14).pixels(picture((20, 20)).convert(mode)).shape == (3, 14, 14)


def test_floats_pass_as_already_normalised() -> None:
    pixels = torch.randn(1, 3, 4, 4)
    assert torch.equal(Normalize(Preprocess(image_size=4))(pixels), pixels)


def test_settings_round_trip_through_json() -> None:
    preprocess = Preprocess(image_size=31, interpolation="bilinear", resize_mode="squash", fill_color=7)
    assert Preprocess.from_json(preprocess.to_json()) == preprocess


@pytest.mark.parametrize("name", ["image_size", "colour"])
def test_a_missing_or_unknown_setting_is_refused(name: str) -> None:
    text = Preprocess(image_size=31).to_json().replace('"image_size"', f'"{name}x"')
    with pytest.raises(SettingInvalid, match=f"{name}x"):
        Preprocess.from_json(text)


def test_an_unknown_interpolation_is_refused() -> None:
    with pytest.raises(SettingInvalid, match="nearest"):
        Preprocess(image_size=4, interpolation="nearest")
