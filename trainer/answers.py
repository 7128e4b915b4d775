"""What evaluation asks of a model with 0 to k pictures: replies to many dialogues, and how likely given ones are."""

# Axes: B dialogues, K pictures, P picture tokens, W token width, T reply tokens, V vocabulary.
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sightline.data.dialogues import DialogueRecord, dialogue_text
from sightline.models.decoding import CachedSteps, limits_for
from trainer.architecture import Built, device_of
from trainer.store import EncodedPictures, Floats, Rows

Flags = np.ndarray[Any, np.dtype[np.bool_]]

ALWAYS, NEVER = -1.0, 2.0
"""Score floors under every cosine and above every cosine."""
MAX_RESPONSE_TOKENS = 128
"""Longest response whose likelihood is taken, in tokens, as long as the paper's; a longer one is cut."""


@dataclass(frozen=True, kw_only=True)
class ResponseLosses:
    """How unlikely a model finds each of B responses."""

    nll_B: np.ndarray[Any, np.dtype[np.float64]]
    """Summed negative log-likelihood in nats, the end of text included."""
    num_tokens_B: Rows
    """Tokens summed over. The start of text, which is always the same, is none of them."""

    def part(self, chosen_M: Rows) -> ResponseLosses:
        """Those of some responses."""
        return ResponseLosses(nll_B=self.nll_B[chosen_M], num_tokens_B=self.num_tokens_B[chosen_M])


@torch.inference_mode()
def answer_all(
    built: Built,
    *,
    contexts: Sequence[tuple[str, ...]],
    pictures: EncodedPictures,
    rows_BK: Rows,
    cosines_BK: Floats,
    max_new_tokens: int,
    batch_size: int,
    min_score: float = ALWAYS,
) -> list[str]:
    """The greedy reply to each dialogue, looking at its row's pictures if the best scores enough; K of 0 shows none."""
    texts: list[str] = []
    for start in range(0, len(contexts), batch_size):
        part = slice(start, start + batch_size)
        inputs = reply_inputs(
            built,
            contexts=contexts[part],
            pictures=pictures,
            rows_BK=rows_BK[part],
            cosines_BK=cosines_BK[part],
            min_score=min_score,
        )
        texts += _greedy_rows(built, inputs, max_new_tokens=max_new_tokens)
    return texts


@torch.inference_mode()
def response_losses(
    built: Built,
    *,
    dialogues: Sequence[DialogueRecord],
    pictures: EncodedPictures,
    rows_BK: Rows,
    cosines_BK: Floats,
    batch_size: int,
    min_score: float = ALWAYS,
) -> ResponseLosses:
    """The losses of the dialogues' own responses, teacher-forced, looking at pictures as `answer_all` does."""
    parts = []
    for start in range(0, len(dialogues), batch_size):
        part = slice(start, start + batch_size)
        inputs = reply_inputs(
            built,
            contexts=[record.context for record in dialogues[part]],
            pictures=pictures,
            rows_BK=rows_BK[part],
            cosines_BK=cosines_BK[part],
            min_score=min_score,
        )
        parts.append(_losses(built, inputs, responses=[record.response for record in dialogues[part]]))
    return ResponseLosses(
        nll_B=np.concatenate([part.nll_B for part in parts]),
        num_tokens_B=np.concatenate([part.num_tokens_B for part in parts]),
    )


def reply_inputs(
    built: Built,
    *,
    contexts: Sequence[tuple[str, ...]],
    pictures: EncodedPictures,
    rows_BK: Rows,
    cosines_BK: Floats,
    min_score: float = ALWAYS,
) -> dict[str, Tensor]:
    """The generator's inputs for these dialogues, labels left out; `is_shown` says which pictures count."""
    decoder = built.model.config.decoder
    assert decoder is not None, "only a model with a generator answers"
    ids, mask = built.dialogue_tokenizer.context_ids(
        [dialogue_text(context) for context in contexts], max_length=decoder.context_length
    )
    mask_BK = is_shown(contexts, cosines_BK=cosines_BK, min_score=min_score)
    if not rows_BK.shape[1]:
        # The tensors still need one slot; the mask says that it is empty.
        slot = (len(contexts), 1)
        rows_BK, cosines_BK, mask_BK = np.zeros(slot, np.int64), np.zeros(slot, np.float32), np.zeros(slot, np.bool_)
    inputs = {
        "context_ids_BL": torch.from_numpy(ids),
        "context_mask_BL": torch.from_numpy(mask),
        "tokens_BKPW": torch.from_numpy(pictures.tokens_NPW[rows_BK]).float(),
        "similarity_BK": torch.from_numpy(cosines_BK),
        "image_mask_BK": torch.from_numpy(mask_BK),
    }
    return {name: value.to(device_of(built.model)) for name, value in inputs.items()}


def is_shown(contexts: Sequence[tuple[str, ...]], *, cosines_BK: Floats, min_score: float = ALWAYS) -> Flags:
    """[B, K] True where a reply looks at a picture: all of them where the best scores `min_score` or more, else none.

    A dialogue that nobody opened asks for no picture, in training and here.
    """
    is_opened_B = np.array([bool(dialogue_text(context)) for context in contexts], dtype=bool)
    looks_B = is_opened_B & (cosines_BK.max(axis=1, initial=-np.inf) >= min_score)
    return np.broadcast_to(looks_B[:, None], cosines_BK.shape).copy()


def _losses(built: Built, inputs: dict[str, Tensor], *, responses: Sequence[str]) -> ResponseLosses:
    generator = built.model.generator
    assert generator is not None, "only a model with a generator finds responses likely"
    generator.eval()
    labels = built.dialogue_tokenizer.label_ids(responses, max_length=MAX_RESPONSE_TOKENS)
    labels_BT = torch.from_numpy(labels).to(device_of(built.model))
    logits_BTV = generator.logits(generator.remember(**inputs), labels_BT)
    # Every reply is handed its start of text: counted, it would lower any perplexity.
    labels_BT[:, 0] = -100
    nll_BT = F.cross_entropy(logits_BTV.transpose(1, 2).float(), labels_BT, reduction="none")
    return ResponseLosses(
        nll_B=nll_BT.sum(dim=1).double().cpu().numpy(), num_tokens_B=(labels_BT != -100).sum(dim=1).cpu().numpy()
    )


def _greedy_rows(built: Built, inputs: dict[str, Tensor], *, max_new_tokens: int) -> list[str]:
    generator = built.model.generator
    assert generator is not None, "only a model with a generator answers"
    generator.eval()
    limits = limits_for(generator, max_new_tokens=max_new_tokens)
    steps = CachedSteps(generator, generator.remember(**inputs))
    num_rows = len(inputs["context_ids_BL"])
    device = device_of(built.model)
    new_ids_BT = torch.tensor([limits.start_ids] * num_rows, device=device)
    chosen: list[Tensor] = []
    is_done_B = torch.zeros(num_rows, dtype=torch.bool, device=device)
    for _ in range(limits.max_new_tokens):
        logits_BV = steps.next_logits(new_ids_BT)
        logits_BV[:, list(limits.forbidden_ids)] = float("-inf")
        next_B = logits_BV.argmax(dim=-1).masked_fill(is_done_B, limits.eos_id)
        is_done_B |= next_B == limits.eos_id
        if bool(is_done_B.all()):
            break
        chosen.append(next_B)
        new_ids_BT = next_B.unsqueeze(1)
    rows = torch.stack(chosen, dim=1).tolist() if chosen else [[] for _ in range(num_rows)]
    return [built.dialogue_tokenizer.decode([i for i in row if i != limits.eos_id]) for row in rows]
