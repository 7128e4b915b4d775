"""open_clip's towers with a pseudo-word in the sentence and learned tokens in their blocks.

Nothing else knows how the blocks of a tower are run with slots replaced. The
sequence is extended: real tokens keep their positions, prompts have none.
Prompts of block j > 1 replace what block j - 1 made of the former ones; behind
the last block that has prompts of its own they flow on. Without prompts either
pass is exactly the plain tower's.
"""

# Axes: B items, L tokens, W token width, V patch width, N patches, P prompts, J blocks with prompts, D embedding width,
# C channels; after C, H and W are pixels. S is a sequence of any kind.
from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from open_clip.transformer import VisionTransformer
from torch import Tensor

from sightline.errors import SettingInvalid
from sightline.models.config import FAITHFUL
from sightline.models.text_tower import CausalTextTower, run_block
from sightline.models.tower import Tower
from sightline.models.towers import DualEncoder

Block = Callable[[Tensor], Tensor]


class PromptedText:
    """Reads sentences in which a pseudo-word stands at every placeholder."""

    def __init__(self, reader: CausalTextTower, *, placeholder_id: int) -> None:
        self.reader, self.placeholder_id = reader, placeholder_id
        self.width = reader.width

    @property
    def num_blocks(self) -> int:
        """Blocks of the tower."""
        return len(self.reader.blocks())

    def encode(self, ids_BL: Tensor, *, pseudo_BW: Tensor, prompts: Tensor | None = None) -> Tensor:
        """Unit vectors [B, D] in float32 of sentences around their pseudo-words.

        Prompts are [J, P, W], or [B, J, P, W] where each sentence has its own;
        they stand behind the start of text, where every token sees them. Raises
        SettingInvalid for a sentence without placeholder.
        """
        return self._read(self.embed_around(ids_BL, pseudo_BW=pseudo_BW), ids_BL=ids_BL, prompts=prompts)

    def encode_plain(self, ids_BL: Tensor, *, prompts: Tensor | None = None) -> Tensor:
        """The same of texts as they are, without pseudo-word."""
        return self._read(self.reader.embed(ids_BL), ids_BL=ids_BL, prompts=prompts)

    def embed_around(self, ids_BL: Tensor, *, pseudo_BW: Tensor) -> Tensor:
        """Embeddings [B, L, W] without positions, the row's pseudo-word at every placeholder before the end of text."""
        is_word_BL = self._before_end(ids_BL) & (ids_BL == self.placeholder_id)
        if not bool((has_word_B := is_word_BL.any(dim=1)).all()):
            row = int((~has_word_B).int().argmax())
            raise SettingInvalid(f"sentence {row}: has no placeholder, id {self.placeholder_id}")
        x_BLW = self.reader.embed(ids_BL)
        return torch.where(is_word_BL.unsqueeze(-1), pseudo_BW.to(x_BLW.dtype).unsqueeze(1), x_BLW)

    def mean_edit(self, ids_BL: Tensor) -> Tensor:
        """Mean embedding [B, W] in float32 of the tokens behind the pseudo-word; zeros where there are none."""
        behind_BL = (ids_BL == self.placeholder_id).cumsum(dim=1) > 0
        is_edit_BL1 = (self._before_end(ids_BL) & behind_BL & (ids_BL != self.placeholder_id)).unsqueeze(-1)
        count_B1 = is_edit_BL1.sum(dim=1).clamp(min=1)
        return (self.reader.embed(ids_BL).float() * is_edit_BL1).sum(dim=1) / count_B1

    def _read(self, x_BLW: Tensor, *, ids_BL: Tensor, prompts: Tensor | None) -> Tensor:
        x_BLW = x_BLW + self.reader.positions(ids_BL)
        x_BSW = run_prompted(self.reader.blocks(), x_BLW, prompts=prompts, at=1)
        behind = 0 if prompts is None else prompts.shape[-2]
        vectors_BD = self.reader.project(x_BSW, end_B=self.reader.end_of_text(ids_BL) + behind)
        return F.normalize(vectors_BD.float(), dim=-1)

    def _before_end(self, ids_BL: Tensor) -> Tensor:
        places_L = torch.arange(ids_BL.shape[1], device=ids_BL.device)
        return places_L < self.reader.end_of_text(ids_BL).unsqueeze(1)


class PromptedPicture:
    """open_clip's VisionTransformer with learned tokens behind the patches, for the reference alone."""

    def __init__(self, tower: DualEncoder, visual: VisionTransformer) -> None:
        self._tower, self._visual = tower, visual
        self.width = int(visual.class_embedding.shape[0])

    @property
    def num_blocks(self) -> int:
        """Blocks of the tower."""
        return len(self._visual.transformer.resblocks)

    def encode(self, pixels_BCHW: Tensor, *, prompts: Tensor | None) -> Tensor:
        """Unit vectors [B, D] in float32 of uint8 or normalised pixels.

        Prompts are [J, P, V], or [B, J, P, V] where each picture has its own;
        they have no say in the pooling.
        """
        visual, transformer = self._visual, self._visual.transformer
        x_BSV = visual._embeds(self._tower.normalize(pixels_BCHW, self._tower.model.logit_scale.dtype))
        real = x_BSV.shape[1]
        blocks = [partial(run_block, block, transformer=transformer) for block in transformer.resblocks]
        x_BSV = run_prompted(blocks, x_BSV, prompts=prompts, at=real)
        pooled_BV, _ = visual._pool(x_BSV[:, :real])
        vectors_BD = pooled_BV if visual.proj is None else pooled_BV @ visual.proj
        return F.normalize(vectors_BD.float(), dim=-1)


def run_prompted(blocks: Sequence[Block], x_BSW: Tensor, *, prompts: Tensor | None, at: int) -> Tensor:
    """States behind the last block, P longer than x; the prompts stand from position `at` on."""
    own_BJPW = None if prompts is None else _for_each(prompts, x_BSW)
    for number, block in enumerate(blocks):
        if own_BJPW is not None and number < own_BJPW.shape[1]:
            replaced = at if number == 0 else at + own_BJPW.shape[2]
            x_BSW = torch.cat([x_BSW[:, :at], own_BJPW[:, number], x_BSW[:, replaced:]], dim=1)
        x_BSW = block(x_BSW)
    return x_BSW


def causal_reader(tower: Tower) -> tuple[DualEncoder, CausalTextTower]:
    """The tower and its text side. Raises SettingInvalid, with the reason, if no pseudo-word can be put into it."""
    needs = "a pseudo-word needs a causal text tower that is read at the end of text"
    if not isinstance(tower, DualEncoder):
        raise SettingInvalid(f"composer: {needs}; the {FAITHFUL} variant reads with BART. Train one on a clip tower")
    if tower.causal_text is None:
        kind = type(getattr(tower.model, "text", tower.model)).__name__
        raise SettingInvalid(f"composer: {needs}; got a {kind} that is another")
    return tower, tower.causal_text


def prompted_picture(tower: DualEncoder) -> PromptedPicture:
    """The tower's picture side. Raises SettingInvalid if it is no transformer of open_clip's own."""
    visual = tower.model.visual
    if not isinstance(visual, VisionTransformer):
        kind = type(visual).__name__
        raise SettingInvalid(f"picture_side deep: got picture tower {kind}, expected a VisionTransformer; use feature")
    return PromptedPicture(tower, visual)


def _for_each(prompts: Tensor, x_BSW: Tensor) -> Tensor:
    return prompts.to(x_BSW.dtype).expand(x_BSW.shape[0], *prompts.shape[-3:])
