"""Stage 2 of composed retrieval: what a step of dual alignment reads, and what it minimises."""

# Axes: N edits, B edits of a step, L tokens, D embedding width, C channels; after C, H and W are pixels.
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from sightline.models.composed_loss import same_targets
from sightline.models.composer import Composer
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
    target_text_N: Tensor
    """A number for each target caption, equal where the text is."""
    source_text_N: Tensor
    """The same of the references' captions, counted together with the targets'."""
    pixels: Pixels | None = None
    """[P, C, H, W], where the picture tower has prompts to learn."""
    pixel_rows_N: np.ndarray[tuple[int], np.dtype[np.int64]] | None = None
    """The row of each reference among the pixels."""

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
    return {
        "reference": edits.reference_ND[row_B] if edits.pixels is None else _pixels(edits, row_B.tolist()),
        "edit_ids_BL": edits.edit_ids_NL[row_B],
        "plain_ids_BL": edits.plain_ids_L.expand(len(row_B), -1),
        "target_BD": edits.target_ND[row_B],
        "source_BD": edits.source_ND[row_B],
        "target_text_B": edits.target_text_N[row_B],
        "source_text_B": edits.source_text_N[row_B],
    }


class AlignmentObjective(RowObjective):
    """Queries find the captions of what they ask for, by what the settings let learn."""

    def __init__(self, composer: Composer, *, settings: AlignmentSettings) -> None:
        super().__init__()
        self._phi_rate, self._composer = settings.phi_rate, (composer,)
        parts = [name for name in ("adapter", "prompts") if getattr(composer, name) is not None]
        self.stage = CompositionStage(
            composer,
            parts=tuple([*parts, "phi"] if settings.phi_rate else parts),
            temperature=settings.temperature,
            has_reference_pairs=settings.has_reference_pairs,
            weighs_by_entropy=settings.weighs_by_entropy,
        )
        self._noise = settings.reference_noise if settings.reference == "caption" else 0.0

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The loss by name, and what the log shows of it."""
        parts = ("target", "source") if self.stage.has_reference_pairs else ("target",)
        texts = torch.cat([batch[f"{part}_text_B"] for part in parts]).tolist()
        found = self.stage(
            self._blurred(batch["reference"]),
            batch["edit_ids_BL"],
            batch["plain_ids_BL"],
            target_BD=batch["target_BD"],
            source_BD=batch["source_BD"],
            is_same_MM=same_targets(texts, torch.cat([batch[f"{part}_BD"] for part in parts])),
        )
        return {"loss": found.total, "accuracy": found.accuracy, "entropy": found.entropy}

    def rates(self) -> Mapping[nn.Parameter, float]:
        """phi learns at its share of the rate."""
        if not self._phi_rate:
            return {}
        return dict.fromkeys(self._composer[0].phi.parameters(), self._phi_rate)

    def _blurred(self, reference: Tensor) -> Tensor:
        return self._composer[0].noise.blurred(reference, scale=self._noise) if self.training else reference


def _pixels(edits: EncodedEdits, rows: Sequence[int]) -> Tensor:
    assert edits.pixels is not None, "only prompts of the picture tower need pixels"
    assert edits.pixel_rows_N is not None, "pixels come with the row of each reference"
    return torch.from_numpy(edits.pixels[edits.pixel_rows_N[rows]])
