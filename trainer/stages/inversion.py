"""Stage 1 of composed retrieval: what a step of textual inversion reads, and what it minimises, by each method."""

# Axes: N captions or pictures, B of them in a step, L tokens, D embedding width, W token width.
from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from sightline.models.composed_loss import composed_infonce
from sightline.models.composer import Composer
from sightline.models.composer_stages import InversionStage
from trainer.composing.config import InversionSettings
from trainer.data import EpochOrder
from trainer.step import Batch, Objective

_ORDER_SALT = 21
SEARLE_TEMPERATURE = 0.25


class RowBatches:
    """Batches of rows of tensors that lie in memory: a function of seed and step."""

    def __init__(
        self, rows: Mapping[str, Tensor], *, name: str, batch_size: int, seed: int, rank: int, world_size: int
    ) -> None:
        """`rows` are equally long; `name` is the stage's."""
        self.name, self._rows, self._batch_size = name, dict(rows), batch_size
        self._rank, self._world_size = rank, world_size
        self._order = EpochOrder(len(next(iter(self._rows.values()))), seed, _ORDER_SALT)

    def batch(self, step: int) -> Batch:
        """This worker's rows of `step`."""
        chosen = torch.from_numpy(self._order.batch(step, size=self._batch_size)[self._rank :: self._world_size])
        return {name: values[chosen] for name, values in self._rows.items()}


class RowObjective(Objective):
    """An objective over rows, each of which counts once."""

    def weigh(self, batch: Mapping[str, Tensor]) -> Tensor:
        """How many rows there are."""
        first = next(iter(batch.values()))
        return torch.tensor(len(first), device=first.device)


class LincirObjective(RowObjective):
    """Self-masking projection: captions alone (LinCIR, arXiv 2312.01998)."""

    def __init__(self, composer: Composer) -> None:
        super().__init__()
        self.stage = InversionStage(composer)

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The loss by name."""
        return {"loss": self.stage(batch["caption_BD"], batch["masked_ids_BL"])}


class Pic2WordObjective(RowObjective):
    """A picture's word in "a photo of $" finds the picture's vector among those of the batch (arXiv 2302.03084)."""

    def __init__(self, composer: Composer, *, plain_ids_L: Tensor) -> None:
        super().__init__()
        composer.train_only("phi")
        self.composer = composer
        self.register_buffer("plain_ids_L", plain_ids_L, persistent=False)

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The loss by name."""
        return {"loss": composed_infonce(self._read(batch["picture_BD"]), batch["picture_BD"]).total}

    def _read(self, picture_BD: Tensor) -> Tensor:
        assert isinstance(self.plain_ids_L, Tensor)
        ids_BL = self.plain_ids_L.expand(len(picture_BD), -1)
        return self.composer(picture_BD, ids_BL)


class SearleObjective(RowObjective):
    """phi's word of a picture is told from others' by the word that was searched for it alone (arXiv 2303.15247, 3.2).

    Its regularisation by sentences of a language model is left out.
    """

    def __init__(self, composer: Composer) -> None:
        super().__init__()
        composer.train_only("phi")
        self.composer = composer

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The loss by name."""
        words_BW = F.normalize(self.composer.phi(batch["picture_BD"]), dim=-1)
        searched_BW = F.normalize(batch["word_BW"], dim=-1)
        return {"loss": composed_infonce(words_BW, searched_BW, temperature=SEARLE_TEMPERATURE).total}


def searched_words(
    composer: Composer, picture_ND: Tensor, *, plain_ids_L: Tensor, settings: InversionSettings, seed: int
) -> Tensor:
    """Pseudo-words [N, W], each searched for one picture: "a photo of $" comes as near to it as it can.

    SEARLE's optimisation-based inversion (arXiv 2303.15247, 3.1) without its
    regularisation: AdamW at 2e-2, weight decay 0.01, from N(0, 0.02). A block of
    pictures is searched at a time; each picture's word depends on it alone.
    """
    generator = torch.Generator().manual_seed(seed)
    composer.train_only()
    plain_1L = composer.tower.longest_text(plain_ids_L[None].to(picture_ND.device))
    found = []
    for part_BD in picture_ND.split(settings.batch_size):
        drawn_BW = torch.randn(len(part_BD), composer.width, generator=generator) * 0.02
        word_BW = torch.nn.Parameter(drawn_BW.to(part_BD.device))
        optimizer = torch.optim.AdamW([word_BW], lr=2e-2, weight_decay=0.01)
        ids_BL = plain_1L.expand(len(part_BD), -1)
        for _ in range(settings.optimisation_steps):
            optimizer.zero_grad()
            cosine_B = (composer.read(ids_BL, word_BW) * part_BD).sum(dim=-1)
            (1.0 - cosine_B).sum().backward()
            optimizer.step()
        found.append(word_BW.detach())
    return torch.cat(found)
