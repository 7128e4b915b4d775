"""The whole of ZRIGF in either variant, and the module that stage 1 of the `clip` variant trains."""

# Axes: B pairs, L tokens, N patches, C channels; after C, H and W are pixels.
from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import BartForConditionalGeneration

from sightline.errors import CapabilityMissing, SettingInvalid
from sightline.models.bart import read_bart
from sightline.models.config import FaithfulTowerConfig, ZrigfConfig
from sightline.models.faithful.generator import FaithfulGenerator
from sightline.models.faithful.tower import FaithfulTower, build_faithful_tower, load_vit
from sightline.models.generator import ZrigfGenerator
from sightline.models.tamim import MaskGenerator, PatchMasks, PixelHead, TextAssistedMIM
from sightline.models.tim import matching_loss
from sightline.models.tower import Tower
from sightline.models.towers import build_tower


class ZrigfModel(nn.Module):
    """Towers, painting head and generator of one release; an encoder-only model has no head and no generator."""

    def __init__(
        self, config: ZrigfConfig, *, tower: Tower, generator: ZrigfGenerator | None, head: PixelHead | None
    ) -> None:
        super().__init__()
        self.config = config
        self.tower, self.generator, self.head = tower, generator, head

    @property
    def num_image_tokens(self) -> int:
        """Fusion tokens of a picture."""
        return self.tower.index_token_shape(grid=self.config.fusion.token_grid)[0]

    @property
    def image_token_width(self) -> int:
        """Width of a fusion token."""
        return self.tower.index_token_shape(grid=self.config.fusion.token_grid)[1]

    def fusion_tokens(self, pixels_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """(unit vectors [B, D], fusion tokens [B, P, W]) as the index stores them."""
        return self.tower.index_tokens(pixels_BCHW, grid=self.config.fusion.token_grid)

    def retrieval_part(self) -> ZrigfModel:
        """The towers alone, as an encoder-only model: what a retrieval release holds.

        The score floor is the generator's, calibrated behind stage 2: left in,
        each new stage 2 would make another release of the same towers.
        """
        config = dataclasses.replace(self.config, decoder=None, min_score=-1.0)
        return ZrigfModel(config, tower=self.tower, generator=None, head=None)

    def start_stage_one(self) -> None:
        """Let stage 2 begin anew from the towers that are about to be trained."""
        if isinstance(self.generator, FaithfulGenerator):
            self.generator.follows_tower.fill_(True)

    def start_stage_two(self) -> None:
        """Hand stage 1's result to the generator, if it has not; from here on the towers stay as the index knows them.

        A faithful generator trains a reader of its own, from the towers' weights
        on; the other weighs pictures with the towers' temperature.
        """
        assert self.generator is not None, "stage 2 trains a generator"
        if isinstance(self.generator, FaithfulGenerator):
            assert isinstance(self.tower, FaithfulTower), "a faithful generator starts from a faithful tower"
            self.generator.start_from(self.tower)
        else:
            self.generator.set_similarity_scale(self.tower.logit_scale())

    def checkpoint_activations(self) -> None:
        """Trade time for memory in training: blocks keep their inputs and are computed again on the way back."""
        self.tower.checkpoint_activations()
        if self.generator is not None:
            self.generator.checkpoint_activations()


class StageOneLosses(NamedTuple):
    """What a step of stage 1 gives; `total` is what to minimise."""

    total: Tensor
    matching: Tensor
    painting: Tensor


class ContrastiveStage(nn.Module):
    """Stage 1 of ZRIGF, L = tim_weight x TIM + tamim_weight x TAMIM, holding exactly what it trains or reads.

    BART's encoder only lends its states: no gradient, no dropout. With
    `trains_text_encoder`, the negative control, it learns what pictures show and
    tells it to text-only dialogues later. Wrap this in DDP; the text block and
    the decoder are not part of it.
    """

    def __init__(self, model: ZrigfModel, *, trains_text_encoder: bool = False) -> None:
        super().__init__()
        if model.generator is None or model.head is None:
            message = "stage 1 paints with a generator's text encoder; this model only encodes"
            raise CapabilityMissing(message, detail="generator")
        fusion = model.generator.fusion
        self.tower = model.tower
        self.painter = TextAssistedMIM(v2t=fusion.v2t, vision_block=fusion.vision_block, head=model.head)
        self.masks = MaskGenerator(model.config.masking, grid=model.tower.grid)
        self.tim_weight, self.tamim_weight = model.config.tim_weight, model.config.tamim_weight
        # A tuple keeps the lender out of parameters(), so that DDP does not wait for its gradients.
        self._lender = (model.generator.text_encoder,)
        self.learner = model.generator.text_encoder if trains_text_encoder else None

    def forward(
        self,
        pixels_BCHW: Tensor,
        *,
        tower_ids_BL: Tensor,
        caption_ids_BL: Tensor,
        caption_mask_BL: Tensor,
        pair_ids_B: Tensor,
        wrong_ids_BL: Tensor | None = None,
        masks: PatchMasks | None = None,
        painted_share: float = 1.0,
    ) -> StageOneLosses:
        """The losses of B caption-picture pairs.

        pixels are uint8 or normalised; tower_ids the captions for the text
        tower, caption_ids with their mask the same captions for BART's encoder;
        pair_ids_B equal where two pairs show the same picture; wrong_ids captions
        that are wrong about the pictures, one each. Masks are drawn
        from torch's global generator unless given. Only the first
        `painted_share` of the pictures is painted, at least one: painting costs a
        second pass through the tower.
        """
        ids_BL = tower_ids_BL if wrong_ids_BL is None else torch.cat([tower_ids_BL, wrong_ids_BL])
        text_BD, *wrong = self.tower.encode_text(self.tower.longest_text(ids_BL)).split(len(tower_ids_BL))
        image_BD, _ = self.tower.encode_image(pixels_BCHW)
        scale = self.tower.logit_scale()
        matching = matching_loss(text_BD, image_BD, *wrong, pair_ids_B=pair_ids_B, logit_scale=scale)
        painting = self._paint(
            pixels_BCHW, caption_ids_BL, caption_mask_BL, masks, painted=max(1, round(painted_share * len(pixels_BCHW)))
        )
        total = self.tim_weight * matching + self.tamim_weight * painting
        return StageOneLosses(total=total, matching=matching, painting=painting)

    def train(self, mode: bool = True) -> ContrastiveStage:
        """Switch training on or off; the lender stays in evaluation unless it is trained."""
        super().train(mode)
        if self.learner is None:
            self._lender[0].eval()
        return self

    def _paint(
        self, pixels_BCHW: Tensor, ids_BL: Tensor, mask_BL: Tensor, masks: PatchMasks | None, *, painted: int
    ) -> Tensor:
        pixels, ids, mask = pixels_BCHW[:painted], ids_BL[:painted], mask_BL[:painted].bool()
        masks = self.masks.first(painted, given=masks, device=pixels.device)
        with torch.set_grad_enabled(self.learner is not None and torch.is_grad_enabled()):
            text = self._lender[0](input_ids=ids, attention_mask=mask).last_hidden_state
        loss, _ = self.painter(self.tower, pixels, masks, text, mask)
        return loss


def build_model(
    config: ZrigfConfig, *, tower_weights: str = "", tower_source: str = "", bart: Path | None = None
) -> ZrigfModel:
    """A model from its configuration; weights are random unless `tower_weights` or a `bart` folder are given.

    tower_weights and tower_source are those of `build_tower`. With `bart`,
    config.decoder must be what `read_bart` says of the folder. Of a faithful
    tower `tower_weights` is the folder of a ViT checkpoint, and its text encoder
    is the generator's BART.
    """
    tower = build_any_tower(config, weights=tower_weights, source=tower_source)
    if config.decoder is None:
        return ZrigfModel(config, tower=tower, generator=None, head=None)
    generator = build_generator(
        config,
        token_width=tower.token_width,
        bart=None if bart is None else read_bart(bart, context_length=config.decoder.context_length)[1],
    )
    if isinstance(generator, FaithfulGenerator):
        assert isinstance(tower, FaithfulTower), "a faithful generator has a faithful tower"
        # Stage 1 reads with the BART that stage 2 goes on with.
        tower.text.load_state_dict(generator.text_encoder.state_dict())
        generator.reader.set_preprocess(tower.preprocess)
    head = PixelHead(
        width=config.decoder.d_model,
        token_width=tower.token_width,
        patch_pixels=tower.patch_pixels,
        has_mask_token=tower.hides_by_token,
    )
    return ZrigfModel(config, tower=tower, generator=generator, head=head)


def build_any_tower(config: ZrigfConfig, *, weights: str = "", source: str = "") -> Tower:
    """The tower of a configuration's variant. Raises SettingInvalid if the fusion asks for more than its patches."""
    if isinstance(config.tower, FaithfulTowerConfig):
        tower: Tower = build_faithful_tower(config.tower)
        if weights:
            load_vit(tower, folder=Path(weights))
    else:
        tower = build_tower(config.tower, weights=weights, source=source)
    if tower.grid < config.fusion.token_grid:
        raise SettingInvalid(f"token_grid: got {config.fusion.token_grid}, the tower has {tower.grid} patches a side")
    return tower


def build_generator(
    config: ZrigfConfig, *, token_width: int, bart: BartForConditionalGeneration | None = None
) -> ZrigfGenerator:
    """The generator of a configuration's variant; token_width is that of the tower's patch states."""
    assert config.decoder is not None, "a model without a decoder has no generator"
    if not isinstance(config.tower, FaithfulTowerConfig):
        smoothing = config.label_smoothing
        return ZrigfGenerator(
            config.decoder, config.fusion, token_width=token_width, label_smoothing=smoothing, bart=bart
        )
    return FaithfulGenerator(
        config.decoder,
        config.fusion,
        tower=config.tower,
        label_smoothing=config.label_smoothing,
        preservation_weight=config.preservation_weight,
        bart=bart,
    )
