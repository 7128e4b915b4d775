"""The two modules that are trained: phi on captions alone, then what stage 2 adds, on triplets. Wrap them in DDP."""

# Axes: B items, M pairs of a doubled batch, G those of all workers, L tokens, D embedding width.
from __future__ import annotations

import torch
from torch import Tensor, nn

from sightline.errors import SettingInvalid
from sightline.models.composed_loss import (
    TEMPERATURE,
    ComposedLoss,
    composed_infonce,
    entropy_weights,
)
from sightline.models.composer import Composer
from sightline.models.inversion import smp_loss


class InversionStage(nn.Module):
    """Stage 1: phi turns a caption's blurred vector into a word that, in the masked caption, brings it back (LinCIR).

    Holds phi alone; no picture is seen.
    """

    def __init__(self, composer: Composer) -> None:
        super().__init__()
        if composer.prompts is not None or composer.adapter is not None:
            raise SettingInvalid("stage 1: this composer has prompts or an adapter, which stage 2 adds")
        composer.train_only("phi")
        self.composer = composer

    def forward(self, caption_BD: Tensor, masked_ids_BL: Tensor) -> Tensor:
        """The loss, a scalar, of unit vectors of whole captions and the ids of the same captions, masked."""
        ids_BL = self.composer.tower.longest_text(masked_ids_BL)
        pseudo_BW = self.composer.phi(self.composer.noise(caption_BD))
        return smp_loss(self.composer.read(ids_BL, pseudo_BW), caption_BD)


class CompositionStage(nn.Module):
    """Stage 2: references with their edits find the captions of what is asked for, in the frozen text tower's space.

    Each batch is doubled (RTD, arXiv 2406.09188): "a photo of $" finds the
    reference's own caption. That caption so becomes the hard negative of a query
    which ignores its edit, and the path without edit stays alive.
    """

    def __init__(
        self,
        composer: Composer,
        *,
        parts: tuple[str, ...],
        temperature: float = TEMPERATURE,
        has_reference_pairs: bool = True,
        weighs_by_entropy: bool = False,
    ) -> None:
        """`parts` of the composer learn: what stage 2 adds, or phi too."""
        super().__init__()
        composer.train_only(*parts)
        self.composer, self.temperature = composer, temperature
        self.has_reference_pairs, self.weighs_by_entropy = has_reference_pairs, weighs_by_entropy

    def forward(
        self,
        reference: Tensor,
        edit_ids_BL: Tensor,
        plain_ids_BL: Tensor,
        *,
        target_BD: Tensor,
        source_BD: Tensor,
        is_same_MG: Tensor | None = None,
        caption_ids_ML: Tensor | None = None,
    ) -> ComposedLoss:
        """The loss of B triplets, M = 2 B pairs with reference pairs, else B.

        reference is as `Composer.forward` takes it; plain_ids are those of empty
        edits; target and source the frozen tower's unit vectors of the captions
        of target and reference; is_same_MG of targets first, then sources
        (`same_targets`). caption_ids are those captions' own, in that order: given,
        they are read by the branch that learns, with gradient, in place of the
        frozen vectors, which RTD found to collapse.
        """
        pseudo_BW = self.composer.pseudo_words(reference, edit_ids_BL)
        ids_ML, target_MD = edit_ids_BL, target_BD
        if self.has_reference_pairs:
            ids_ML, target_MD = torch.cat([edit_ids_BL, plain_ids_BL]), torch.cat([target_BD, source_BD])
            pseudo_BW = pseudo_BW.repeat(2, 1)
        query_MD = self.composer.read(self.composer.tower.longest_text(ids_ML), pseudo_BW)
        if caption_ids_ML is not None:
            target_MD = self.composer.read_plain(self.composer.tower.longest_text(caption_ids_ML))
        return composed_infonce(
            query_MD,
            target_MD,
            temperature=self.temperature,
            is_same_MG=is_same_MG,
            weight_M=self._weights(query_MD, target_MD, is_same_MG) if self.weighs_by_entropy else None,
        )

    def _weights(self, query_MD: Tensor, target_MD: Tensor, is_same_MG: Tensor | None) -> Tensor:
        return entropy_weights(query_MD, target_MD, temperature=self.temperature, is_same_MG=is_same_MG)
