"""Stage 2's half of the `faithful` variant: ViT, BART, MF and IT, all trained, with the preservation loss."""

# Axes: B dialogues, L context tokens, T reply tokens, K pictures, N patches, S = 1 + grid x grid picture states,
# P index tokens (patches of pixels) of width W, D embedding width, M model width.
from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from transformers import BartForConditionalGeneration

from sightline.models.config import DecoderConfig, FaithfulTowerConfig, FusionConfig
from sightline.models.faithful.patches import join_patches
from sightline.models.faithful.preservation import PreservationLoss
from sightline.models.faithful.tower import FaithfulTower, build_faithful_tower
from sightline.models.fusion import FusedMemory, pool_tokens
from sightline.models.generator import ZrigfGenerator


class StageTwoLosses(NamedTuple):
    """What a step of stage 2 gives; `total` is what to minimise."""

    total: Tensor
    reply: Tensor
    preservation: Tensor


class _Read(NamedTuple):
    """Dialogues and pictures as the reader sees them."""

    text_BLM: Tensor
    mask_BL: Tensor
    text_BD: Tensor
    states_BKSW: Tensor
    image_BKD: Tensor
    shown_BK: Tensor


class FaithfulGenerator(ZrigfGenerator):
    """Dialogue and pictures in, a reply out; its own reader sees the pictures and says how far each matters.

    The reader is a dual encoder whose text side is BART's own encoder and whose
    v2t is that of MF: each weight is there once. The pictures' shares are
    recomputed from its vectors, as the authors do, so the scores of retrieval
    do not enter.
    """

    reads_pixels = True

    def __init__(
        self,
        decoder: DecoderConfig,
        fusion: FusionConfig,
        *,
        tower: FaithfulTowerConfig,
        label_smoothing: float = 0.0,
        preservation_weight: float = 0.1,
        bart: BartForConditionalGeneration | None = None,
    ) -> None:
        super().__init__(
            decoder,
            fusion,
            token_width=tower.vision_width,
            has_class_token=True,
            label_smoothing=label_smoothing,
            bart=bart,
        )
        self.reader = build_faithful_tower(tower, text=self.bart.model.encoder)
        self.fusion.v2t = self.reader.v2t
        # The learned temperature is in the similarities that fusion is given.
        self.fusion.register_buffer("similarity_scale", torch.ones(()), persistent=False)
        # In the weights, so that a run that goes on from them, wherever they came from, hands over once.
        self.register_buffer("follows_tower", torch.tensor(True))
        self.preservation = PreservationLoss()
        # The authors' wo_mf leaves it out together with what it protects.
        self.preservation_weight = 0.0 if fusion.wo_mf else preservation_weight
        self.token_grid = fusion.token_grid
        self.num_image_tokens, self.token_width = self.reader.index_token_shape(grid=fusion.token_grid)

    @torch.no_grad()
    def start_from(self, tower: FaithfulTower) -> None:
        """Take over what stage 1 made: ViT, poolers, v2t, temperature and text encoder (ZRIGF, 1.8).

        Only once after stage 1 trained; from then on the reader goes its own
        way. The vision block is this generator's own already.
        """
        if self.follows_tower:
            self.reader.load_state_dict(tower.state_dict())
            self.follows_tower.fill_(False)

    def forward(
        self,
        context_ids_BL: Tensor,
        *,
        context_mask_BL: Tensor,
        tokens_BKPW: Tensor,
        similarity_BK: Tensor,
        image_mask_BK: Tensor,
        labels_BT: Tensor,
        image_ids_BK: Tensor | None = None,
    ) -> Tensor:
        """The total of `losses`; similarity_BK is not read."""
        return self.losses(
            context_ids_BL,
            context_mask_BL=context_mask_BL,
            tokens_BKPW=tokens_BKPW,
            image_mask_BK=image_mask_BK,
            labels_BT=labels_BT,
            image_ids_BK=image_ids_BK,
        ).total

    def losses(
        self,
        context_ids_BL: Tensor,
        *,
        context_mask_BL: Tensor,
        tokens_BKPW: Tensor,
        image_mask_BK: Tensor,
        labels_BT: Tensor,
        image_ids_BK: Tensor | None = None,
    ) -> StageTwoLosses:
        """L = L_LM + weight x L_pres of B dialogues (ZRIGF, section 2).

        image_ids are equal where pictures are; without them all pictures differ.
        """
        read = self._read(context_ids_BL, context_mask_BL, tokens_BKPW, image_mask_BK)
        reply = self.reply_loss(self._fuse(read), labels_BT)
        preservation = self.preservation(
            read.text_BD,
            read.image_BKD,
            image_ids_BK=_own_ids(read.shown_BK) if image_ids_BK is None else image_ids_BK,
            image_mask_BK=read.shown_BK,
            logit_scale=self.reader.logit_scale(),
        )
        total = reply + self.preservation_weight * preservation
        return StageTwoLosses(total=total, reply=reply, preservation=preservation)

    def remember(
        self,
        context_ids_BL: Tensor,
        *,
        context_mask_BL: Tensor,
        tokens_BKPW: Tensor,
        similarity_BK: Tensor,
        image_mask_BK: Tensor,
    ) -> FusedMemory:
        """The memory of each dialogue; tokens are patches of pixels, 0 to 255, and similarity_BK is not read."""
        return self._fuse(self._read(context_ids_BL, context_mask_BL, tokens_BKPW, image_mask_BK))

    def checkpoint_activations(self) -> None:
        """Keep the inputs of BART's and the ViT's layers alone for the backward pass; compute the rest again there."""
        super().checkpoint_activations()
        self.reader.checkpoint_activations()

    def _read(self, ids_BL: Tensor, mask_BL: Tensor, tokens_BKPW: Tensor, image_mask_BK: Tensor) -> _Read:
        mask_BL, shown_BK = mask_BL.bool(), image_mask_BK.bool()
        text_BLM = self.text_encoder(input_ids=ids_BL, attention_mask=mask_BL).last_hidden_state
        states_BKSW, image_BKD = self._read_pictures(tokens_BKPW, shown_BK)
        return _Read(text_BLM, mask_BL, self.reader.text_vectors(text_BLM), states_BKSW, image_BKD, shown_BK)

    def _read_pictures(self, tokens_BKPW: Tensor, shown_BK: Tensor) -> tuple[Tensor, Tensor]:
        """(states [B, K, S, W], unit vectors [B, K, D]); only pictures that there are cost a pass through the ViT."""
        # Without any picture one blank is read and masked: every weight keeps its place in the graph, as DDP needs it.
        shown_BK = shown_BK if bool(shown_BK.any()) else _first_slot(shown_BK)
        pixels = join_patches(tokens_BKPW[shown_BK], side=self.reader.patch_pixels)
        read = self.reader.read_image(pixels.round().clamp(0, 255).to(torch.uint8))
        pooled = torch.cat([read[:, :1], pool_tokens(read[:, 1:], grid=self.token_grid)], dim=1)
        vectors = self.reader.image_vectors(read)
        states_BKSW = pooled.new_zeros(*shown_BK.shape, *pooled.shape[1:]).index_put((shown_BK,), pooled)
        return states_BKSW, vectors.new_zeros(*shown_BK.shape, vectors.shape[1]).index_put((shown_BK,), vectors)

    def _fuse(self, read: _Read) -> FusedMemory:
        # A bfloat16 cosine, scaled, would blur the pictures' shares: never in mixed precision.
        with torch.autocast(read.text_BD.device.type, enabled=False):
            cosine_BK = torch.einsum("bd,bkd->bk", read.text_BD, read.image_BKD)
        return self.fusion(
            read.text_BLM,
            text_mask_BL=read.mask_BL,
            tokens_BKPW=read.states_BKSW,
            similarity_BK=self.reader.logit_scale() * cosine_BK,
            image_mask_BK=read.shown_BK,
        )


def _first_slot(shown_BK: Tensor) -> Tensor:
    slots_BK = torch.zeros_like(shown_BK)
    slots_BK[0, 0] = True
    return slots_BK


def _own_ids(shown_BK: Tensor) -> Tensor:
    return torch.arange(shown_BK.numel(), device=shown_BK.device).view_as(shown_BK)
