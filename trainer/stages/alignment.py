"""Stage 2 of composed retrieval: what a step of dual alignment reads, and what it minimises."""

# Axes: N edits, B edits of a step, L tokens, D embedding width, C channels; after C, H and W are pixels.
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sightline.models.composed_loss import same_targets
from sightline.models.composer import PARTS, Composer
from sightline.models.composer_stages import CompositionStage
from trainer.composing.config import AlignmentSettings
from trainer.pictures import Pixels
from trainer.stages.inversion import RowBatches, RowObjective
from trainer.step import Batch


@dataclass(frozen=True, kw_only=True)
class EncodedEdits:
    """Edits as the frozen towers see them."""

    reference_ND: Tensor
    """Unit vectors of the reference pictures, or of their captions."""
    edit_ids_NL: Tensor
    plain_ids_L: Tensor
    """The sentence without an edit."""
    target_ND: Tensor
    """Unit vectors of the target captions."""
    source_ND: Tensor
    """Unit vectors of the references' captions."""
    picture_N: Tensor
    """A number for each reference picture."""
    target_text_N: Tensor
    """A number for each target caption, equal where the text is."""
    source_text_N: Tensor
    """The same of the references' captions, counted together with the targets'."""
    target_query_N: Tensor
    """A number for each query of a picture and an edit, equal where both are."""
    source_query_N: Tensor
    """The same of the pictures without an edit, counted together with them."""
    target_ids_NL: Tensor | None = None
    """Ids of the target captions, where the branch that learns reads them too."""
    source_ids_NL: Tensor | None = None
    """The same of the references' captions."""
    pixels: Pixels | None = None
    """[P, C, H, W] of the references by their numbers, where the picture tower has prompts to learn."""

    def __len__(self) -> int:
        return len(self.target_ND)


class AlignmentBatches:
    """The batches of stage 2. Each is a function of seed and step."""

    name = "alignment"

    def __init__(
        self, edits: EncodedEdits, *, settings: AlignmentSettings, seed: int, rank: int, world_size: int
    ) -> None:
        self._edits = edits
        rows = {"row_B": torch.arange(len(edits))}
        size = settings.batch_size
        self._rows = RowBatches(rows, name=self.name, batch_size=size, seed=seed, rank=rank, world_size=world_size)

    def batch(self, step: int) -> Batch:
        """This worker's edits of `step`."""
        return edit_batch(self._edits, self._rows.batch(step)["row_B"])


def edit_batch(edits: EncodedEdits, row_B: Tensor) -> Batch:
    """Those edits with all that a step reads of them."""
    captions = {"target_ids_BL": edits.target_ids_NL, "source_ids_BL": edits.source_ids_NL}
    return {
        "reference": edits.reference_ND[row_B] if edits.pixels is None else _pixels(edits, row_B),
        "edit_ids_BL": edits.edit_ids_NL[row_B],
        "plain_ids_BL": edits.plain_ids_L.expand(len(row_B), -1),
        "target_BD": edits.target_ND[row_B],
        "source_BD": edits.source_ND[row_B],
        "target_text_B": edits.target_text_N[row_B],
        "source_text_B": edits.source_text_N[row_B],
        "target_query_B": edits.target_query_N[row_B],
        "source_query_B": edits.source_query_N[row_B],
        "picture_B": edits.picture_N[row_B],
        **{name: ids_NL[row_B] for name, ids_NL in captions.items() if ids_NL is not None},
    }


class AlignmentObjective(RowObjective):
    """Queries find the captions of what they ask for, by what the settings let learn."""

    def __init__(self, composer: Composer, *, settings: AlignmentSettings) -> None:
        super().__init__()
        self._composer = (composer,)
        self._rate_of = {"phi": settings.phi_rate, "text_tower": settings.text_tower_rate}
        self.stage = CompositionStage(
            composer,
            parts=tuple(part for part in PARTS if getattr(composer, part) is not None and self._rate_of.get(part, 1.0)),
            temperature=settings.temperature,
            has_reference_pairs=settings.has_reference_pairs,
            weighs_by_entropy=settings.weighs_by_entropy,
        )
        self._noise = settings.reference_noise if settings.reference == "caption" else 0.0

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The loss by name, and what the log shows of it."""
        found = self.stage(
            self._blurred(batch["reference"]),
            batch["edit_ids_BL"],
            batch["plain_ids_BL"],
            target_BD=batch["target_BD"],
            source_BD=batch["source_BD"],
            is_same_MG=same_targets(
                self._of_captions(batch, "{}_text_B"),
                self._of_captions(batch, "{}_BD"),
                picture_M=self._of_captions(batch, "picture_B"),
                query_M=self._of_captions(batch, "{}_query_B"),
            ),
            caption_ids_ML=self._of_captions(batch, "{}_ids_BL") if "target_ids_BL" in batch else None,
        )
        return {"loss": found.total, "accuracy": found.accuracy, "entropy": found.entropy}

    def rates(self) -> Mapping[nn.Parameter, float]:
        """phi and a text tower learn at their shares of the rate."""
        modules = ((getattr(self._composer[0], part), rate) for part, rate in self._rate_of.items() if rate)
        return {p: rate for module, rate in modules if module is not None for p in module.parameters()}

    def _of_captions(self, batch: Mapping[str, Tensor], name: str) -> Tensor:
        """What the batch holds of the targets' captions and, behind it, of the references' where those take part."""
        parts = ("target", "source") if self.stage.has_reference_pairs else ("target",)
        return torch.cat([batch[name.format(part)] for part in parts])

    def _blurred(self, reference: Tensor) -> Tensor:
        return self._composer[0].noise.blurred(reference, scale=self._noise) if self.training else reference


def _pixels(edits: EncodedEdits, row_B: Tensor) -> Tensor:
    assert edits.pixels is not None, "only prompts of the picture tower need pixels"
    return torch.from_numpy(edits.pixels[edits.picture_N[row_B].numpy()])
