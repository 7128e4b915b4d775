"""Pictures made worse on purpose, each function of its seed alone."""

# Axes: N pictures, C channels; H and W pixels.
from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter

from sightline.errors import SettingInvalid
from trainer.pictures import Pixels


def damaged(pixels_NCHW: Pixels, *, kind: str, amount: float, seed: int) -> Pixels:
    """A copy of the pictures, damaged; an amount of 0 damages nothing.

    `blur` is the radius in pixels, `noise` the deviation as a share of white,
    `coarse` by how many the resolution is divided before it is scaled back up.
    Raises SettingInvalid for another kind.
    """
    if kind not in _KINDS:
        raise SettingInvalid(f"damage: got {kind!r}, expected one of {', '.join(_KINDS)}")
    if amount == 0:
        return np.array(pixels_NCHW)
    rng = np.random.default_rng([seed, 7])
    return np.stack([_KINDS[kind](pixels_CHW, amount, rng) for pixels_CHW in pixels_NCHW])


def _blurred(pixels_CHW: Pixels, radius: float, _: np.random.Generator) -> Pixels:
    return _pixels(_image(pixels_CHW).filter(ImageFilter.GaussianBlur(radius)))


def _noisy(pixels_CHW: Pixels, deviation: float, rng: np.random.Generator) -> Pixels:
    noise_CHW = rng.normal(scale=255 * deviation, size=pixels_CHW.shape)
    return np.clip(pixels_CHW + noise_CHW, 0, 255).round().astype(np.uint8)


def _coarse(pixels_CHW: Pixels, divisor: float, _: np.random.Generator) -> Pixels:
    image = _image(pixels_CHW)
    small = image.resize(
        (max(1, round(image.width / divisor)), max(1, round(image.height / divisor))), Image.Resampling.BOX
    )
    return _pixels(small.resize(image.size, Image.Resampling.BICUBIC))


def _image(pixels_CHW: Pixels) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(pixels_CHW.transpose(1, 2, 0)))


def _pixels(image: Image.Image) -> Pixels:
    return np.asarray(image, dtype=np.uint8).transpose(2, 0, 1)


_KINDS: dict[str, Callable[[Pixels, float, np.random.Generator], Pixels]] = {
    "blur": _blurred,
    "noise": _noisy,
    "coarse": _coarse,
}
