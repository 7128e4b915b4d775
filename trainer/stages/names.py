"""Which tokens are names of what pictures show, and names exchanged for one another, so that nobody learns by name."""

# Axes: L tokens of a text, V vocabulary.
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sightline.data.captions import CaptionRecord
from sightline.data.dialogues import DialogueRecord, dialogue_text
from sightline.models.tokenizer import DialogueTokenizer

_RARE_SHARE = 0.05
"""A token in fewer texts than this is rare: a name perhaps, no word that sentences are built of."""
_NUM_BYTE_TOKENS = 258
"""Padding, start and the 256 bytes: they come first in the corpus-trained vocabulary."""

Flags = np.ndarray[Any, np.dtype[np.bool_]]
Ids = np.ndarray[Any, np.dtype[np.int64]]


class Names:
    """The tokens that are names, and how they are exchanged."""

    def __init__(self, is_name_V: Flags) -> None:
        self._is_name_V, self._ids = is_name_V, np.flatnonzero(is_name_V)

    def exchange(self, ids_L: Ids, *alike: Ids, share: float, rng: np.random.Generator) -> None:
        """Exchange a share of the names of `ids_L` for names drawn at random, each everywhere, in place.

        In the texts `alike` the same names become the same others.
        """
        names = np.unique(ids_L[self._is_name_V[ids_L]])
        swapped = names[rng.random(len(names)) < share]
        others = rng.choice(self._ids, size=len(swapped))
        for text in (ids_L, *alike):
            before = text.copy()
            for old, new in zip(swapped, others, strict=True):
                text[before == old] = new


def name_tokens(
    tokenizer: DialogueTokenizer, *, dialogues: Sequence[DialogueRecord], captions: Sequence[CaptionRecord]
) -> Flags:
    """[V] True for tokens that name what pictures show: said in captions, and rare there and in the dialogues."""
    turns = [text for record in dialogues for text in (dialogue_text(record.context), record.response)]
    is_rare_V = count_texts(tokenizer, turns) < _RARE_SHARE * len(dialogues)
    captioned_V = count_texts(tokenizer, [record.caption for record in captions])
    is_name_V = is_rare_V & (captioned_V > 0) & (captioned_V < _RARE_SHARE * len(captions))
    # Byte tokens spell; only tokens behind them stand for words or parts of words.
    is_name_V[:_NUM_BYTE_TOKENS] = is_name_V[tokenizer.eos_id] = False
    return is_name_V


def count_texts(tokenizer: DialogueTokenizer, texts: Sequence[str]) -> Ids:
    """[V] In how many of the texts each token occurs."""
    num_texts_V = np.zeros(tokenizer.vocab_size, dtype=np.int64)
    for text in texts:
        # An empty context has no tokens, and NumPy would take an empty list for floats.
        num_texts_V[np.unique(np.array(tokenizer.encode(text), dtype=np.int64))] += 1
    return num_texts_V
