"""What stage 2 learns beside phi: prompts of either tower, and an adapter of the reference's vector."""

# Axes: B items, K experts, J blocks with prompts, P prompts, W token width, V patch width, D embedding width.
from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sightline.errors import SettingInvalid
from sightline.models.composer_config import PromptConfig

INIT_STD = 0.02


class Prompts(NamedTuple):
    """Learned tokens; None leaves a tower as it is."""

    text: Tensor | None
    """[J, P, W], or [B, J, P, W] where experts are mixed by the edit."""
    picture: Tensor | None
    """[J, P, V], or [B, J, P, V]."""


class PromptLearner(nn.Module):
    """Prompts of the first J blocks of either tower (MaPLe, arXiv 2210.03117), text prompts mixed from K experts.

    A width of zero leaves a side out. Starts as `config.start` says, but for the
    words, which `start_from` is given.
    """

    def __init__(self, config: PromptConfig, *, depth: int, text_width: int = 0, picture_width: int = 0) -> None:
        super().__init__()
        count, experts = config.num_prompts, config.num_experts
        self.text = _fresh(experts, depth, count, text_width) if text_width else None
        self.gate = nn.Linear(text_width, experts) if experts > 1 else None
        is_coupled = config.coupling == "linear"
        self.coupling = nn.ModuleList(nn.Linear(text_width, picture_width) for _ in range(depth if is_coupled else 0))
        self.picture = _fresh(depth, count, picture_width) if picture_width and not is_coupled else None

    def forward(self, edit_BW: Tensor) -> Prompts:
        """The prompts for edits whose mean token embedding is given; without experts they are the same for all."""
        text = self._mixed(edit_BW)
        if not self.coupling:
            return Prompts(text=text, picture=self.picture)
        assert text is not None, "picture prompts are coupled to text prompts"
        linked = [linear(part) for linear, part in zip(self.coupling, text.unbind(dim=-3), strict=True)]
        return Prompts(text=text, picture=torch.stack(linked, dim=-3))

    @torch.no_grad()
    def start_from(self, words_PW: Tensor) -> None:
        """Let the first block's text prompts begin as these embeddings; prompts beyond them keep their start."""
        if self.text is not None:
            count = min(len(words_PW), self.text.shape[2])
            self.text[:, 0, :count] = words_PW[:count].to(self.text.dtype)

    def _mixed(self, edit_BW: Tensor) -> Tensor | None:
        if self.text is None or self.gate is None:
            return None if self.text is None else self.text[0]
        weight_BK = F.softmax(self.gate(edit_BW), dim=-1)
        return torch.einsum("bk,kjpw->bjpw", weight_BK, self.text)


class FeatureAdapter(nn.Module):
    """z + A(z), A a bottleneck that starts at zero: moves a picture's vector to where phi was trained on captions'."""

    def __init__(self, dimension: int, *, width: int = 0) -> None:
        super().__init__()
        hidden = width or max(1, dimension // 4)
        self.down, self.up = nn.Linear(dimension, hidden), nn.Linear(hidden, dimension)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, vectors_BD: Tensor) -> Tensor:
        """Vectors [B, D] of about unit length; exactly the given ones until something was learned."""
        unit = vectors_BD.shape[1] ** 0.5
        return vectors_BD + self.up(F.gelu(self.down(vectors_BD * unit))) / unit


def prompt_depth(depth: int, *, num_blocks: int) -> int:
    """How many blocks have prompts of their own: `depth`, or three quarters of the blocks where it is zero; 9 of 12.

    Raises SettingInvalid if the tower has fewer.
    """
    if depth > num_blocks:
        raise SettingInvalid(f"prompt depth: got {depth}, the towers have {num_blocks} blocks")
    return depth or math.ceil(0.75 * num_blocks)


def _fresh(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape) * INIT_STD)
