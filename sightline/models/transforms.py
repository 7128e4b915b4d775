"""Picture to pixels, one owner for trainer and services; its settings ship in the release as preprocess.json.

Resizing happens in Pillow on bytes and gives uint8; scaling to floats happens
once per batch on the device, inside the model. The result equals open_clip's
own inference transform.
"""

# Axes: B pictures, C channels, H and W pixels.
from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from sightline.errors import SettingInvalid

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
_RESIZE_MODES = ("shortest", "squash", "longest")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preprocess:
    """How a decoded picture becomes pixels."""

    image_size: int
    """Side of the square result in pixels."""
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    interpolation: str = "bicubic"
    """bicubic or bilinear, antialiased."""
    resize_mode: str = "shortest"
    """shortest: short side to size, then centre crop; squash: both sides to size; longest: long side, then padding."""
    fill_color: int = 0
    """Grey level of the padding of `longest`, 0 to 255."""

    def __post_init__(self) -> None:
        if self.interpolation not in _FILTERS:
            raise SettingInvalid(f"interpolation: got {self.interpolation!r}, expected one of {sorted(_FILTERS)}")
        if self.resize_mode not in _RESIZE_MODES:
            raise SettingInvalid(f"resize_mode: got {self.resize_mode!r}, expected one of {_RESIZE_MODES}")

    @classmethod
    def from_open_clip(cls, values: Mapping[str, Any]) -> Preprocess:
        """The settings that an open_clip tower carries as `visual.preprocess_cfg`."""
        size = values["size"]
        sides = {size} if isinstance(size, int) else set(size)
        if len(sides) != 1:
            raise SettingInvalid(f"image size: got {size}, expected a square")
        return cls(
            image_size=sides.pop(),
            mean=_triple(values["mean"]),
            std=_triple(values["std"]),
            interpolation=values["interpolation"],
            resize_mode=values["resize_mode"],
            fill_color=values["fill_color"],
        )

    def to_json(self) -> str:
        """The settings as JSON with sorted keys; part of the embedding space's digest."""
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Preprocess:
        """The settings that `to_json` wrote. Raises SettingInvalid for an unknown or missing key."""
        values = json.loads(text)
        names = {field.name for field in dataclasses.fields(cls)}
        if set(values) != names:
            raise SettingInvalid(f"preprocess: got the keys {sorted(values)}, expected {sorted(names)}")
        return cls(**{**values, "mean": _triple(values["mean"]), "std": _triple(values["std"])})

    def pixels(self, image: Image.Image) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """The picture as uint8 [3, H, W], resized and cropped, not yet normalised. Safe from many threads."""
        rgb = image if image.mode == "RGB" else image.convert("RGB")
        return np.ascontiguousarray(np.asarray(self._fit(rgb), dtype=np.uint8).transpose(2, 0, 1))

    def _fit(self, image: Image.Image) -> Image.Image:
        size, resample = self.image_size, _FILTERS[self.interpolation]
        if self.resize_mode == "squash":
            return image.resize((size, size), resample)
        if self.resize_mode == "longest":
            return self._pad(image.resize(_scaled_longest(image.size, size), resample))
        return _crop(image.resize(_scaled_shortest(image.size, size), resample), size)

    def _pad(self, image: Image.Image) -> Image.Image:
        size = self.image_size
        canvas = Image.new("RGB", (size, size), (self.fill_color,) * 3)
        canvas.paste(image, ((size - image.width) // 2, (size - image.height) // 2))
        return canvas


class Normalize(nn.Module):
    """uint8 pixels [B, 3, H, W] to the normalised floats that the tower reads."""

    def __init__(self, preprocess: Preprocess) -> None:
        super().__init__()
        # Plain numbers, not buffers: casting the module to bfloat16 must not round them.
        self.scale = [1.0 / (255.0 * std) for std in preprocess.std]
        self.shift = [mean / std for mean, std in zip(preprocess.mean, preprocess.std, strict=True)]

    def forward(self, pixels_BCHW: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """(pixels / 255 - mean) / std, computed in float32, in `dtype`; floats pass through as already normalised."""
        if pixels_BCHW.is_floating_point():
            return pixels_BCHW.to(dtype)
        scale_C11 = torch.tensor(self.scale, device=pixels_BCHW.device).reshape(3, 1, 1)
        shift_C11 = torch.tensor(self.shift, device=pixels_BCHW.device).reshape(3, 1, 1)
        return (pixels_BCHW.float().mul_(scale_C11).sub_(shift_C11)).to(dtype)


def _triple(values: Any) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def _scaled_shortest(size_WH: tuple[int, int], size: int) -> tuple[int, int]:
    width, height = size_WH
    # torchvision truncates the long side; a rounded one would move the crop by a pixel.
    return (size, max(size, size * height // width)) if width <= height else (max(size, size * width // height), size)


def _scaled_longest(size_WH: tuple[int, int], size: int) -> tuple[int, int]:
    width, height = size_WH
    scale = size / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _crop(image: Image.Image, size: int) -> Image.Image:
    left, top = round((image.width - size) / 2.0), round((image.height - size) / 2.0)
    return image.crop((left, top, left + size, top + size))
