"""Before either stage: a BART learns to write texts back that were damaged, from the corpus' own texts alone."""

# Axes: B texts, L damaged tokens, T whole tokens, M model width.
from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import BartForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

from sightline.models.tokenizer import DialogueTokenizer, Ids
from trainer.data import EpochOrder
from trainer.pretrain_config import DenoisingSettings
from trainer.stages.names import Names
from trainer.step import Objective

_DRAW_SALT, _ORDER_SALT = 11, 12
_MEAN_SPAN = 3.0


class DenoisingObjective(Objective):
    """The cross-entropy of whole texts after damaged ones (BART, Lewis et al. 2020, section 2)."""

    def __init__(self, bart: BartForConditionalGeneration) -> None:
        super().__init__()
        self.bart = bart

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The loss by name; the decoder sees the encoder's states where `seen_BL` is 1 alone."""
        states_BLM = self.bart.model.encoder(
            input_ids=batch["damaged_ids_BL"], attention_mask=batch["damaged_mask_BL"]
        ).last_hidden_state
        read = self.bart(
            encoder_outputs=BaseModelOutput(last_hidden_state=states_BLM),
            attention_mask=batch["seen_BL"],
            labels=batch["labels_BT"],
            use_cache=False,
        )
        return {"loss": read.loss}

    def weigh(self, batch: Mapping[str, Tensor]) -> Tensor:
        """How many tokens the texts have."""
        return (batch["labels_BT"] != -100).sum()


class DenoisingBatches:
    """The batches of the denoising. Each is a function of seed and step."""

    name = "denoising"

    def __init__(
        self,
        tokenizer: DialogueTokenizer,
        *,
        texts: Sequence[str],
        mask_id: int,
        max_length: int,
        settings: DenoisingSettings,
        seed: int,
        names: Names,
    ) -> None:
        """A text over `max_length` tokens, start and end included, loses its start."""
        self._bos_id, self._eos_id, self._pad_id = tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id
        self._mask_id, self._settings, self._seed = mask_id, settings, seed
        self._names = names
        self._rows = [np.array(tokenizer.encode(text)[-(max_length - 2) :], dtype=np.int64) for text in texts]
        self._order = EpochOrder(len(texts), seed, _ORDER_SALT)

    def batch(self, step: int) -> dict[str, Tensor]:
        """The texts of `step`, damaged and whole; one read through its first state alone is damaged by that enough."""
        rng = np.random.default_rng([self._seed, _DRAW_SALT, step])
        whole = [self._text(row, rng=rng) for row in self._order.batch(step, size=self._settings.batch_size)]
        is_alone_B = rng.random(len(whole)) < self._settings.sentence_share
        damaged = [
            ids if is_alone else infilled(ids, share=self._settings.mask_share, mask_id=self._mask_id, rng=rng)
            for ids, is_alone in zip(whole, is_alone_B, strict=True)
        ]
        ids_BL = self._padded(damaged, value=self._pad_id)
        mask_BL = (np.arange(ids_BL.shape[1])[None] < np.array([[len(ids) + 2] for ids in damaged])).astype(np.int64)
        seen_BL = mask_BL.copy()
        seen_BL[is_alone_B, 1:] = 0
        return {
            "damaged_ids_BL": torch.from_numpy(ids_BL),
            "damaged_mask_BL": torch.from_numpy(mask_BL),
            "seen_BL": torch.from_numpy(seen_BL),
            "labels_BT": torch.from_numpy(self._padded(whole, value=-100)),
        }

    def _text(self, row: int, *, rng: np.random.Generator) -> list[int]:
        ids_T = self._rows[row].copy()
        self._names.exchange(ids_T, share=self._settings.swap_share, rng=rng)
        return ids_T.tolist()  # type: ignore[no-any-return]

    def _padded(self, rows: Sequence[Sequence[int]], *, value: int) -> Ids:
        ids = np.full((len(rows), max(map(len, rows)) + 2), value, dtype=np.int64)
        for row, tokens in enumerate(rows):
            ids[row, : len(tokens) + 2] = [self._bos_id, *tokens, self._eos_id]
        return ids


def infilled(ids: Sequence[int], *, share: float, mask_id: int, rng: np.random.Generator) -> list[int]:
    """The ids with spans exchanged for one mask each, whatever their length; about `share` of the tokens are hidden.

    Lengths are Poisson of mean 3; a span of none is a mask put between two
    tokens (BART, Lewis et al. 2020, section 2.2: text infilling).
    """
    # Each draw hides _MEAN_SPAN tokens with this probability, and keeps one token else.
    start = share / (_MEAN_SPAN - (_MEAN_SPAN - 1.0) * share)
    damaged: list[int] = []
    position = 0
    while position < len(ids):
        if rng.random() < start:
            damaged.append(mask_id)
            position += int(rng.poisson(_MEAN_SPAN))
        else:
            damaged.append(ids[position])
            position += 1
    return damaged
