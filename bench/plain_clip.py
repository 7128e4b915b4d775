"""The rival of `bench.contrastive`: towers trained as `open_clip_train` trains them, by open_clip's own parts.

Its own are the model's forward, `ClipLoss`, `cosine_lr` and the training transform. The optimiser and the limit on the
temperature repeat `open_clip_train/main.py` and `train.py`, which give them no name to call. A sample is a caption with
its picture, as a row of open_clip's CSV: a picture with four captions is in an epoch four times.
"""

# Axes: B pairs, C channels, H and W pixels, L tokens.
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from open_clip import ClipLoss, image_transform
from open_clip_train.scheduler import cosine_lr
from PIL import Image
from torch import Tensor, nn

from sightline.data.captions import CaptionRecord
from sightline.models.tokenizer import TowerTokenizer
from sightline.models.towers import DualEncoder
from trainer.architecture import Built
from trainer.data import EpochOrder, unique_pictures
from trainer.pictures import Pixels

SHIPPED_RATE, SHIPPED_WARMUP_STEPS = 5e-4, 10_000
"""open_clip_train's own `--lr` and `--warmup`, made for runs of a hundred thousand steps."""
_BETAS, _EPS, _WEIGHT_DECAY = (0.9, 0.98), 1e-6, 0.2
_ORDER_SALT = 3


@dataclass(frozen=True, kw_only=True)
class PlainSettings:
    """What may be chosen about the plain loop; the rest is as open_clip ships it."""

    learning_rate: float
    """Peak of the cosine schedule."""
    warmup_steps: int
    """Steps that the rate rises over; more than a run has means that it never gets to the peak."""
    is_cropped: bool
    """open_clip's training transform, a crop of 0.9 to 1.0 of the area; else pictures as they are."""
    batch_size: int
    """Pairs a step."""


class PlainPairs:
    """Batches of captions and pictures, every caption once an epoch."""

    def __init__(
        self,
        built: Built,
        *,
        captions: Sequence[CaptionRecord],
        pixels_NCHW: Pixels,
        settings: PlainSettings,
        seed: int,
    ) -> None:
        self._tokenizer: TowerTokenizer = built.tower_tokenizer
        self._tower = built.model.tower
        self._settings, self._pixels = settings, pixels_NCHW
        self._texts = [record.caption for record in captions]
        row_of = {image.image_id: row for row, image in enumerate(unique_pictures(captions))}
        self._rows = np.array([row_of[record.image_id] for record in captions])
        self._order = EpochOrder(len(captions), seed, _ORDER_SALT)
        preprocess = self._tower.preprocess
        self._crop = image_transform(preprocess.image_size, is_train=True, mean=preprocess.mean, std=preprocess.std)

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """(normalised pixels [B, C, H, W], token ids [B, L]) of a step; crops are drawn by torch's global generator."""
        chosen = self._order.batch(step, size=self._settings.batch_size)
        ids_BL = torch.from_numpy(self._tokenizer.tokenize([self._texts[item] for item in chosen]).ids)
        pixels_BCHW = self._pixels[self._rows[chosen]]
        if not self._settings.is_cropped:
            return self._tower.normalize(torch.from_numpy(pixels_BCHW), torch.float32), ids_BL
        pictures = [Image.fromarray(np.ascontiguousarray(picture.transpose(1, 2, 0))) for picture in pixels_BCHW]
        return torch.stack([self._crop(picture) for picture in pictures]), ids_BL


def train_plain(built: Built, *, pairs: PlainPairs, settings: PlainSettings, steps: int, seed: int) -> None:
    """Train the towers of `built` in place for `steps` steps."""
    assert isinstance(built.model.tower, DualEncoder), "the plain loop trains a model of open_clip"
    model, loss = built.model.tower.model, ClipLoss()
    optimizer = open_clip_optimizer(model, learning_rate=settings.learning_rate)
    set_rate = cosine_lr(optimizer, settings.learning_rate, settings.warmup_steps, steps)
    torch.manual_seed(seed)
    model.train()
    for step in range(steps):
        set_rate(step)
        optimizer.zero_grad()
        loss(*model(*pairs.batch(step))).backward()
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))


def open_clip_optimizer(model: nn.Module, *, learning_rate: float) -> torch.optim.AdamW:
    """AdamW as `open_clip_train/main.py` makes it for a ViT: gains, biases and the temperature are not decayed."""
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    spared = [parameter for name, parameter in named if _is_spared(name, parameter)]
    decayed = [parameter for name, parameter in named if not _is_spared(name, parameter)]
    groups = [{"params": spared, "weight_decay": 0.0}, {"params": decayed, "weight_decay": _WEIGHT_DECAY}]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=_BETAS, eps=_EPS)


def _is_spared(name: str, parameter: Tensor) -> bool:
    return parameter.ndim < 2 or any(part in name for part in ("bn", "ln", "bias", "logit_scale"))
