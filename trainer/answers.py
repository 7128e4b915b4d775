"""Replies to many dialogues at once, each from none to k pictures: what evaluation asks of a model."""

# Axes: B dialogues, K pictures, P picture tokens, W token width, T reply tokens, V vocabulary.
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sightline.data.dialogues import query_text
from sightline.models.decoding import CachedSteps, limits_for
from trainer.architecture import Built
from trainer.stages.generative import EncodedPictures, Floats, Rows


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
) -> list[str]:
    """The greedy reply to each dialogue, looking at the pictures of its row; K of 0 shows none."""
    texts: list[str] = []
    for start in range(0, len(contexts), batch_size):
        part = slice(start, start + batch_size)
        inputs = reply_inputs(
            built, contexts=contexts[part], pictures=pictures, rows_BK=rows_BK[part], cosines_BK=cosines_BK[part]
        )
        texts += _greedy_rows(built, inputs, max_new_tokens=max_new_tokens)
    return texts


def reply_inputs(
    built: Built,
    *,
    contexts: Sequence[tuple[str, ...]],
    pictures: EncodedPictures,
    rows_BK: Rows,
    cosines_BK: Floats,
) -> dict[str, Tensor]:
    """The generator's inputs for these dialogues, labels left out."""
    decoder = built.model.config.decoder
    assert decoder is not None, "only a model with a generator answers"
    ids, mask = built.dialogue_tokenizer.context_ids(
        [query_text(context) for context in contexts], max_length=decoder.context_length
    )
    num_images = rows_BK.shape[1]
    # Without pictures the tensors still need one slot; the mask says that it is empty.
    shown_BK = rows_BK if num_images else np.zeros((len(contexts), 1), dtype=np.int64)
    return {
        "context_ids_BL": torch.from_numpy(ids),
        "context_mask_BL": torch.from_numpy(mask),
        "tokens_BKPW": torch.from_numpy(pictures.tokens_NPW[shown_BK]).float(),
        "similarity_BK": torch.from_numpy(cosines_BK if num_images else np.zeros(shown_BK.shape, dtype=np.float32)),
        "image_mask_BK": torch.full(shown_BK.shape, bool(num_images)),
    }


def _greedy_rows(built: Built, inputs: dict[str, Tensor], *, max_new_tokens: int) -> list[str]:
    generator = built.model.generator
    assert generator is not None, "only a model with a generator answers"
    generator.eval()
    limits = limits_for(generator, max_new_tokens=max_new_tokens)
    steps = CachedSteps(generator, generator.remember(**inputs))
    num_rows = len(inputs["context_ids_BL"])
    new_ids_BT = torch.tensor([limits.start_ids] * num_rows)
    chosen: list[Tensor] = []
    is_done_B = torch.zeros(num_rows, dtype=torch.bool)
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
