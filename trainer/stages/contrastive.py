"""Stage 1: which pictures and captions a step reads, and the TIM + TAMIM objective over them."""

# Axes: B pairs, C channels, H and W pixels, L tokens, D embedding width, N patches, M model width.
from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from sightline.data.captions import CaptionRecord
from sightline.data.dialogues import DialogueRecord
from sightline.models.config import FAITHFUL
from sightline.models.faithful.stage import FaithfulContrastiveStage
from sightline.models.model import ContrastiveStage
from trainer.architecture import Built
from trainer.config import ContrastiveSettings
from trainer.data import unique_pictures
from trainer.pictures import Pixels, picture_digests
from trainer.stages.hard_captions import WordSwaps
from trainer.stages.sources import PictureSource
from trainer.step import Objective

_DRAW_SALT, _SWAP_SALT = 2, 8
_TELLING_SHARE = 0.05
_WORD = re.compile(r"\w+")


class ContrastiveObjective(Objective):
    """TIM over the whole batch and TAMIM over its first share."""

    def __init__(self, built: Built, *, settings: ContrastiveSettings) -> None:
        super().__init__()
        kind = FaithfulContrastiveStage if built.model.config.variant == FAITHFUL else ContrastiveStage
        self.stage = kind(built.model, trains_text_encoder=settings.train_text_encoder)
        self.share = settings.tamim_share

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The losses by name; 'loss' is what to minimise."""
        losses = self.stage(**batch, painted_share=self.share)
        return {"loss": losses.total, "tim": losses.matching, "tamim": losses.painting}

    def weigh(self, batch: Mapping[str, Tensor]) -> Tensor:
        """How many pairs there are."""
        return torch.ones_like(batch["pair_ids_B"]).sum()


class ContrastiveBatches:
    """The batches of stage 1. Each is a function of seed, step and worker."""

    name = "contrastive"

    def __init__(
        self,
        built: Built,
        *,
        captions: Sequence[CaptionRecord],
        dialogues: Sequence[DialogueRecord],
        source: PictureSource,
        settings: ContrastiveSettings,
        seed: int,
        rank: int,
    ) -> None:
        self._built, self._settings, self._source = built, settings, source
        self._seed, self._rank = seed, rank
        self._captions = _captions_by_picture(captions)
        self._turns = small_talk(dialogues, captions=captions)
        self._swaps = WordSwaps(record.caption for record in captions) if settings.has_wrong_captions else None

    def batch(self, step: int) -> dict[str, Tensor]:
        """This worker's pairs of `step`, augmented."""
        rows, pixels = self._source.draw(step, size=self._settings.batch_size)
        rng = np.random.default_rng([self._seed, _DRAW_SALT, step, self._rank])
        captions, texts = zip(*(self._said(int(row), rng=rng) for row in rows), strict=True)
        caption_ids, caption_mask = self._built.dialogue_tokenizer.context_ids(
            texts, max_length=self._built.tower_tokenizer.context_length
        )
        return {
            "pixels_BCHW": torch.from_numpy(augment(pixels, settings=self._settings, rng=rng)),
            "tower_ids_BL": torch.from_numpy(self._built.tower_tokenizer.tokenize(texts).ids),
            "caption_ids_BL": torch.from_numpy(caption_ids),
            "caption_mask_BL": torch.from_numpy(caption_mask),
            "pair_ids_B": torch.from_numpy(picture_digests(pixels)),
            **self._wrong(captions, texts=texts, step=step),
        }

    def _said(self, row: int, *, rng: np.random.Generator) -> tuple[str, str]:
        """(a caption, the text around it)."""
        captions = self._captions[row]
        caption = captions[rng.integers(len(captions))]
        if not self._turns or rng.random() >= self._settings.small_talk_share:
            return caption, caption
        turn = self._turns[rng.integers(len(self._turns))]
        return caption, f"{turn} {caption}" if rng.random() < 0.5 else f"{caption} {turn}"

    def _wrong(self, captions: Sequence[str], *, texts: Sequence[str], step: int) -> dict[str, Tensor]:
        """What each text becomes with a word of its caption exchanged; the next picture's text where none can be."""
        if self._swaps is None:
            return {}
        rng = np.random.default_rng([self._seed, _SWAP_SALT, step, self._rank])
        swapped = [self._swaps.swapped(caption, rng=rng) for caption in captions]
        wrong = [
            texts[(row + 1) % len(texts)] if other is None else texts[row].replace(captions[row], other)
            for row, other in enumerate(swapped)
        ]
        return {"wrong_ids_BL": torch.from_numpy(self._built.tower_tokenizer.tokenize(wrong).ids)}


def small_talk(dialogues: Sequence[DialogueRecord], *, captions: Sequence[CaptionRecord]) -> list[str]:
    """The turns, each once, that say nothing pictures could be told apart by: safe to wrap around any caption.

    A turn is left out if it has a word that few captions have: it would name
    another picture.
    """
    num_captions = Counter(word for record in captions for word in set(_words(record.caption)))
    telling = {word for word, count in num_captions.items() if count < _TELLING_SHARE * len(captions)}
    turns = dict.fromkeys(turn for record in dialogues for turn in record.context)
    return [turn for turn in turns if telling.isdisjoint(_words(turn))]


def augment(pixels_BCHW: Pixels, *, settings: ContrastiveSettings, rng: np.random.Generator) -> Pixels:
    """Pictures mirrored and shifted at random; the edge is repeated where a shift uncovers it."""
    reach = settings.shift_pixels
    size_H, size_W = pixels_BCHW.shape[2:]
    padded = np.pad(pixels_BCHW, ((0, 0), (0, 0), (reach, reach), (reach, reach)), mode="edge")
    out = np.empty_like(pixels_BCHW)
    for row in range(len(out)):
        top, left = rng.integers(0, 2 * reach + 1, size=2)
        cut = padded[row, :, top : top + size_H, left : left + size_W]
        out[row] = cut[:, :, ::-1] if rng.random() < settings.flip_share else cut
    return out


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _captions_by_picture(captions: Sequence[CaptionRecord]) -> list[list[str]]:
    by_id: dict[str, list[str]] = {image.image_id: [] for image in unique_pictures(captions)}
    for record in captions:
        by_id[record.image_id].append(record.caption)
    return list(by_id.values())
