"""What every dual encoder is to the rest of the house, whichever networks it is made of."""

# Axes: B items, L tokens, D embedding width, N patches, P index tokens, W token width, C channels; after C, H and W are
# pixels.
from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sightline.models.transforms import Normalize, Preprocess

MAX_LOGIT_SCALE = 100.0
"""Largest inverse temperature, as in CLIP."""


class Tower(nn.Module):
    """Texts and pictures to unit vectors of one space, and pictures to what the index keeps of them."""

    grid: int
    """Patches a side."""
    token_width: int
    """Width of a patch's state."""
    dimension: int
    """Width of the shared space."""
    index_dtype: torch.dtype = torch.float16
    """The smallest type that holds an index token as the generator is given it."""
    open_clip_config: dict[str, Any] | None = None
    """What open_clip rebuilds the tower from; None for a tower that it does not know."""

    def __init__(self, *, preprocess: Preprocess, context_length: int) -> None:
        super().__init__()
        self.context_length = context_length
        self.set_preprocess(preprocess)

    def set_preprocess(self, preprocess: Preprocess) -> None:
        """Read pictures this way from now on: size, cut, and the normalisation that belongs to them."""
        self.preprocess, self.normalize = preprocess, Normalize(preprocess)

    @property
    def num_patches(self) -> int:
        """Patches of a picture: grid x grid."""
        return self.grid * self.grid

    @property
    def patch_pixels(self) -> int:
        """Side in pixels of the picture's part that one token stands for."""
        return self.preprocess.image_size // self.grid

    @property
    @abstractmethod
    def hides_by_token(self) -> bool:
        """Whether hidden patches are replaced by a mask token; else their pixels are greyed."""

    @abstractmethod
    def encode_text(self, ids_BL: Tensor) -> Tensor:
        """Unit vectors [B, D] of token ids."""

    @abstractmethod
    def encode_image(
        self, pixels_BCHW: Tensor, hidden_BN: Tensor | None = None, *, mask_token_W: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """(unit vectors [B, D], patch states [B, N, W] without class token) of uint8 or normalised pixels."""

    @abstractmethod
    def longest_text(self, ids_BL: Tensor) -> Tensor:
        """The ids without the columns that no text of the batch reaches, if the tower allows it."""

    @abstractmethod
    def logit_scale(self) -> Tensor:
        """The inverse temperature, at most 100."""

    @abstractmethod
    def index_tokens(self, pixels_BCHW: Tensor, *, grid: int) -> tuple[Tensor, Tensor]:
        """(unit vectors [B, D], tokens [B, P, W]) as the index keeps them; the decoder's side reads grid x grid."""

    @abstractmethod
    def index_token_shape(self, *, grid: int) -> tuple[int, int]:
        """(P, W) of `index_tokens`."""

    @abstractmethod
    def describe_tokens(self, *, grid: int) -> str:
        """What an index token is, for the digest of the embedding space."""

    @abstractmethod
    def checkpoint_activations(self) -> None:
        """Keep the blocks' inputs alone for the backward pass and compute the rest again there."""

    def save_text_config(self, folder: Path) -> None:
        """Write what else rebuilding the text tower takes; most towers need nothing."""


def capped_scale(raw: Tensor) -> Tensor:
    """exp(raw), at most 100.

    Past the limit the gradient still flows, so the parameter can come back; a
    plain clamp would leave it stuck there.
    """
    limit = torch.log(torch.tensor(MAX_LOGIT_SCALE, device=raw.device, dtype=raw.dtype))
    return (raw - (raw - limit).clamp(min=0).detach()).exp().reshape(())
