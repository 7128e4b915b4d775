"""Stage 1 of the `faithful` variant: TIM and TAMIM over one reading of the captions."""

# Axes: B pairs, L tokens, M text width, N patches, C channels; after C, H and W are pixels.
from __future__ import annotations

import torch
from torch import Tensor, nn

from sightline.errors import CapabilityMissing
from sightline.models.faithful.tower import FaithfulTower
from sightline.models.model import StageOneLosses, ZrigfModel
from sightline.models.tamim import MaskGenerator, PatchMasks, TextAssistedMIM
from sightline.models.tim import matching_loss


class FaithfulContrastiveStage(nn.Module):
    """L = tim_weight x TIM + tamim_weight x TAMIM (ZRIGF, 1.3 and 1.4), holding exactly what it trains or reads.

    BART's encoder is frozen and in evaluation; its states are computed once and
    serve both losses. With `trains_text_encoder`, the negative control, it learns
    what pictures show. Wrap this in DDP.
    """

    def __init__(self, model: ZrigfModel, *, trains_text_encoder: bool = False) -> None:
        super().__init__()
        if model.generator is None or model.head is None:
            message = "stage 1 paints with a generator's vision block; this model only encodes"
            raise CapabilityMissing(message, detail="generator")
        assert isinstance(model.tower, FaithfulTower), "this stage trains a faithful tower"
        self.tower = model.tower
        self.tower.text.requires_grad_(trains_text_encoder)
        self.trains_text_encoder = trains_text_encoder
        # One v2t for pooled pictures, masked patches and, in stage 2, retrieved ones.
        self.painter = TextAssistedMIM(
            v2t=self.tower.v2t, vision_block=model.generator.fusion.vision_block, head=model.head
        )
        self.masks = MaskGenerator(model.config.masking, grid=model.tower.grid)
        self.tim_weight, self.tamim_weight = model.config.tim_weight, model.config.tamim_weight

    def forward(
        self,
        pixels_BCHW: Tensor,
        *,
        tower_ids_BL: Tensor,
        pair_ids_B: Tensor,
        wrong_ids_BL: Tensor | None = None,
        masks: PatchMasks | None = None,
        painted_share: float = 1.0,
        caption_ids_BL: Tensor | None = None,
        caption_mask_BL: Tensor | None = None,
    ) -> StageOneLosses:
        """The losses of B caption-picture pairs.

        pixels are uint8 or normalised; pair_ids_B equal where two pairs show the
        same picture; wrong_ids captions that are wrong about the pictures, one
        each. Masks are drawn from torch's global generator unless given.
        Only the first `painted_share` of the pictures is painted, at least one.
        caption_ids and their mask are the captions for a BART that reads apart
        from the tower: here it does not, and they are not read.
        """
        with torch.set_grad_enabled(self.trains_text_encoder and torch.is_grad_enabled()):
            ids_BL = tower_ids_BL if wrong_ids_BL is None else torch.cat([tower_ids_BL, wrong_ids_BL])
            states_BLM, mask_BL = self.tower.read_text(self.tower.longest_text(ids_BL))
        text_BM, *wrong = self.tower.text_vectors(states_BLM).split(len(tower_ids_BL))
        image_BM, _ = self.tower.encode_image(pixels_BCHW)
        scale = self.tower.logit_scale()
        matching = matching_loss(text_BM, image_BM, *wrong, pair_ids_B=pair_ids_B, logit_scale=scale)
        painted = max(1, round(painted_share * len(pixels_BCHW)))
        chosen = self.masks.first(painted, given=masks, device=pixels_BCHW.device)
        painting, _ = self.painter(self.tower, pixels_BCHW[:painted], chosen, states_BLM[:painted], mask_BL[:painted])
        total = self.tim_weight * matching + self.tamim_weight * painting
        return StageOneLosses(total=total, matching=matching, painting=painting)

    def train(self, mode: bool = True) -> FaithfulContrastiveStage:
        """Switch training on or off; the text encoder stays in evaluation unless it is trained."""
        super().train(mode)
        if not self.trains_text_encoder:
            self.tower.text.eval()
        return self
