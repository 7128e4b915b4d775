"""Stage 2: dialogues with the pictures that their context retrieves, and the reply loss over them."""

# Axes: B dialogues, K pictures shown, C candidates, N all pictures, P picture tokens, W token width, D embedding width,
# L context tokens, T reply tokens, V vocabulary.
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sightline.data.captions import CaptionRecord
from sightline.data.dialogues import DialogueRecord, dialogue_text, query_text
from sightline.errors import SettingInvalid, UsageError
from sightline.models.faithful.generator import FaithfulGenerator
from sightline.models.model import ZrigfModel
from trainer.architecture import Built
from trainer.config import GenerativeSettings
from trainer.data import EpochOrder
from trainer.retrieval import encode_texts, retrieve
from trainer.stages.names import Names, name_tokens
from trainer.step import Objective
from trainer.store import EncodedPictures, Floats, Rows, StoredArray

_ORDER_SALT, _DRAW_SALT, _ANNOTATED_SALT = 3, 4, 6

Flags = np.ndarray[Any, np.dtype[np.bool_]]


def named_pictures(queries_BD: Floats, *, pictures_ND: StoredArray | Floats, rows_B: Rows) -> tuple[Rows, Floats]:
    """(rows [B, 1], cosines [B, 1]) of the one picture that each query is known to be about."""
    cosines_B = np.einsum("bd,bd->b", queries_BD, pictures_ND[rows_B])
    return rows_B[:, None], cosines_B[:, None].astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class AnnotatedDialogues:
    """Dialogues whose picture is known."""

    dialogues: Sequence[DialogueRecord]
    rows_B: Rows
    """The row of each dialogue's picture."""


def annotated_part(
    dialogues: Sequence[DialogueRecord], *, share: float, row_of: Mapping[str, int]
) -> AnnotatedDialogues | None:
    """A share of the dialogues, at least one, drawn in the same order for every share; None for 0.

    `row_of` gives the row of a picture by its id; dialogues about pictures that
    were left out have none, and are no part of any share. Raises SettingInvalid for a
    share outside 0 to 1, UsageError if there is nothing to take a share of.
    """
    if not 0.0 <= share <= 1.0:
        raise SettingInvalid(f"stage2.annotated_share: got {share}, limits 0 to 1")
    if share == 0.0:
        return None
    dialogues = [record for record in dialogues if record.image_id in row_of]
    if not dialogues:
        raise UsageError(f"stage2.annotated_share: got {share}, but data.dialogues_annotated names no dialogue")
    order = np.random.default_rng(_ANNOTATED_SALT).permutation(len(dialogues))
    chosen = [dialogues[int(row)] for row in order[: max(1, round(share * len(dialogues)))]]
    rows_B = np.array([row_of[record.image_id or ""] for record in chosen], dtype=np.int64)
    return AnnotatedDialogues(dialogues=chosen, rows_B=rows_B)


class GenerativeObjective(Objective):
    """What a variant's stage 2 minimises; holds the generator alone, so the towers that retrieve stay as they are."""

    def __init__(self, model: ZrigfModel) -> None:
        super().__init__()
        assert model.generator is not None, "stage 2 trains a generator"
        self.generator = model.generator
        # What an ablation leaves out of the replies is no part of this stage; DDP would wait for its gradients.
        for parameter in model.generator.idle_parameters():
            parameter.requires_grad_(False)

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The losses by name; 'loss' is what to minimise."""
        inputs = dict(batch)
        image_ids_BK = inputs.pop("image_ids_BK")
        if not isinstance(self.generator, FaithfulGenerator):
            return {"loss": self.generator(**inputs)}
        # Its reader weighs pictures itself; the scores of retrieval do not enter.
        inputs.pop("similarity_BK")
        losses = self.generator.losses(**inputs, image_ids_BK=image_ids_BK)
        return {"loss": losses.total, "lm": losses.reply, "preservation": losses.preservation}

    def weigh(self, batch: Mapping[str, Tensor]) -> Tensor:
        """How many tokens the replies have."""
        return (batch["labels_BT"] != -100).sum()

    def scaled(self, losses: Mapping[str, Tensor], *, share: Tensor, even: float) -> dict[str, Tensor]:
        """Replies count by their tokens, the preservation loss by contexts: of those all parts have equally many."""
        if not isinstance(self.generator, FaithfulGenerator):
            return super().scaled(losses, share=share, even=even)
        reply, preservation = losses["lm"] * share, losses["preservation"] * even
        total = reply + self.generator.preservation_weight * preservation
        return {"loss": total, "lm": reply, "preservation": preservation}


class GenerativeBatches:
    """The batches of stage 2. Each is a function of seed, step and worker."""

    name = "generative"

    def __init__(
        self,
        built: Built,
        *,
        dialogues: Sequence[DialogueRecord],
        captions: Sequence[CaptionRecord],
        annotated: AnnotatedDialogues | None = None,
        pictures: EncodedPictures,
        settings: GenerativeSettings,
        seed: int,
        rank: int,
        world_size: int,
        cache: Path | None = None,
    ) -> None:
        """`annotated` dialogues are trained on in place of `dialogues`, which then only say what a name is."""
        self._built, self._settings, self._pictures = built, settings, pictures
        self._seed, self._rank, self._world_size = seed, rank, world_size
        trained = dialogues if annotated is None else annotated.dialogues
        self._order = EpochOrder(len(trained), seed, _ORDER_SALT)
        self._contexts = [dialogue_text(record.context) for record in trained]
        self._responses = [record.response for record in trained]
        self._rows_BC, self._cosines_BC = (
            self._retrieved(dialogues, cache=cache)
            if annotated is None
            else named_pictures(
                encode_texts(built, [query_text(record.context) for record in trained]),
                pictures_ND=pictures.vectors_ND,
                rows_B=annotated.rows_B,
            )
        )
        # Nothing was said that a picture could be about.
        self._is_open_B = np.array([not context for context in self._contexts])
        self._names = Names(name_tokens(built.dialogue_tokenizer, dialogues=dialogues, captions=captions))

    def batch(self, step: int) -> dict[str, Tensor]:
        """This worker's dialogues of `step`, each with none to `num_images` of its pictures."""
        chosen = self._order.batch(step, size=self._settings.batch_size)[self._rank :: self._world_size]
        rng = np.random.default_rng([self._seed, _DRAW_SALT, step, self._rank])
        context_ids, context_mask = self._built.dialogue_tokenizer.context_ids(
            [self._contexts[row] for row in chosen], max_length=self._max_context
        )
        labels = self._built.dialogue_tokenizer.label_ids(
            [self._responses[row] for row in chosen], max_length=self._settings.max_response_tokens
        )
        context_ids, labels = self._with_swaps(context_ids, labels, rng=rng)
        rows_BK, cosines_BK, mask_BK = self._drawn_pictures(chosen, rng=rng)
        return {
            "context_ids_BL": torch.from_numpy(context_ids),
            "context_mask_BL": torch.from_numpy(context_mask),
            "tokens_BKPW": torch.from_numpy(self._pictures.tokens_NPW[rows_BK]).float(),
            "similarity_BK": torch.from_numpy(cosines_BK),
            "image_mask_BK": torch.from_numpy(mask_BK),
            "image_ids_BK": torch.from_numpy(rows_BK),
            "labels_BT": torch.from_numpy(labels),
        }

    def _retrieved(self, dialogues: Sequence[DialogueRecord], *, cache: Path | None) -> tuple[Rows, Floats]:
        k, query = self._settings.num_candidates, self._settings.query
        found = retrieve(self._built, dialogues, pictures=self._pictures, k=k, query=query, cache=cache)
        return found.rows_QK, found.cosines_QK

    @property
    def _max_context(self) -> int:
        decoder = self._built.model.config.decoder
        assert decoder is not None, "stage 2 trains a generator"
        return decoder.context_length

    def _drawn_pictures(self, chosen: Rows, *, rng: np.random.Generator) -> tuple[Rows, Floats, Flags]:
        """(rows [B, K], cosines [B, K], which are shown [B, K]): each dialogue's draw from its candidates."""
        num_candidates = self._rows_BC.shape[1]
        num_images = min(self._settings.num_images, num_candidates)
        picks_BK = np.sort(rng.random((len(chosen), num_candidates)).argsort(axis=1)[:, :num_images], axis=1)
        shown_B = rng.integers(1, num_images + 1, size=len(chosen))
        shown_B[(rng.random(len(chosen)) < self._settings.image_dropout) | self._is_open_B[chosen]] = 0
        return (
            np.take_along_axis(self._rows_BC[chosen], picks_BK, axis=1),
            np.take_along_axis(self._cosines_BC[chosen], picks_BK, axis=1),
            np.arange(num_images)[None, :] < shown_B[:, None],
        )

    def _with_swaps(self, ids_BL: Rows, labels_BT: Rows, *, rng: np.random.Generator) -> tuple[Rows, Rows]:
        """Contexts and labels with a share of the contexts' names exchanged for random ones, alike in both.

        A model that could learn facts by name would not need to look at pictures,
        and one that met few names could not repeat a new one.
        """
        ids_BL, labels_BT = ids_BL.copy(), labels_BT.copy()
        for ids_L, labels_T in zip(ids_BL, labels_BT, strict=True):
            self._names.exchange(ids_L, labels_T, share=self._settings.swap_share, rng=rng)
        return ids_BL, labels_BT
