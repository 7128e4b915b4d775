"""Replies from a fused memory, one token a step with a key-value cache: greedy, or by beams."""

# Axes: R rows (one per beam), T new tokens, V vocabulary.
from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache

from sightline.models.fusion import FusedMemory
from sightline.models.generator import ZrigfGenerator
from sightline.models.repetition import FREE, RepetitionRules

STOP, LENGTH, CANCELLED = "stop", "length", "cancelled"
"""Why a reply ended: the model ended it, the limit was reached, or the caller did not want more."""


@dataclass(frozen=True, kw_only=True)
class DecodedIds:
    """A reply as token ids."""

    ids: list[int]
    """Without start and end of text."""
    finish_reason: str
    num_tokens: int
    """Steps taken; the end of text is one of them."""


class Steps(Protocol):
    """Next-token log-probabilities of growing rows."""

    def next_logits(self, new_ids_RT: Tensor) -> Tensor:
        """Logits [R, V] after the rows grew by these ids."""

    def keep(self, rows_R: Tensor) -> None:
        """Continue with these rows in this order."""


class CachedSteps:
    """Steps that compute only what is new; the memory is read once."""

    def __init__(self, generator: ZrigfGenerator, memory: FusedMemory) -> None:
        self._generator, self._memory = generator, memory
        # Unsized caches: the pictures' keys lie behind those of the text layers.
        self._cache = EncoderDecoderCache(DynamicCache(), DynamicCache())

    def next_logits(self, new_ids_RT: Tensor) -> Tensor:
        """Logits [R, V] after the rows grew by these ids."""
        return self._generator.decode(self._memory, new_ids_RT, cache=self._cache)[:, -1].float()

    def keep(self, rows_R: Tensor) -> None:
        """Continue with these rows in this order; all rows share one dialogue, so the memory stays."""
        self._cache.self_attention_cache.reorder_cache(rows_R)


@dataclass(frozen=True, kw_only=True)
class DecodingLimits:
    """What bounds a reply."""

    start_ids: tuple[int, ...]
    """What the decoder reads before the first step."""
    eos_id: int
    forbidden_ids: tuple[int, ...]
    """Ids that are never chosen: padding and start of text."""
    max_new_tokens: int
    """Most steps, the end of text included."""
    rules: RepetitionRules = FREE
    """What may be said twice."""


def limits_for(generator: ZrigfGenerator, *, max_new_tokens: int, rules: RepetitionRules = FREE) -> DecodingLimits:
    """The limits of a reply; BART's replies start with end-of-text and start-of-text.

    max_new_tokens is lowered to what the decoder's positions allow.
    """
    config = generator.config
    start = (config.eos_id, config.bos_id)
    return DecodingLimits(
        start_ids=start,
        eos_id=config.eos_id,
        forbidden_ids=(config.pad_id, config.bos_id),
        max_new_tokens=min(max_new_tokens, config.max_positions - len(start) + 1),
        rules=rules,
    )


def greedy(
    steps: Steps, *, limits: DecodingLimits, should_stop: Callable[[], bool], device: torch.device | str = "cpu"
) -> Generator[int, None, str]:
    """The ids of the likeliest continuation, one per step; the generator's return value says why it ended.

    `should_stop` is asked before every step.
    """
    said = new_ids = list(limits.start_ids)
    for _ in range(limits.max_new_tokens):
        if should_stop():
            return CANCELLED
        logits_1V = _allowed(steps.next_logits(torch.tensor([new_ids], device=device)), limits)
        chosen = int(limits.rules.apply(logits_1V, torch.tensor([said], device=device)).argmax())
        if chosen == limits.eos_id:
            return STOP
        yield chosen
        said, new_ids = [*said, chosen], [chosen]
    return LENGTH


def beam_search(
    steps: Steps,
    *,
    limits: DecodingLimits,
    num_beams: int,
    should_stop: Callable[[], bool],
    device: torch.device | str = "cpu",
) -> DecodedIds:
    """The reply with the best mean log-probability per token that `num_beams` rows find.

    `steps` has num_beams rows of one dialogue. It ends once num_beams replies
    are complete and no running row is better than the worst of them.
    """
    beams = _Beams(width=num_beams, eos_id=limits.eos_id, device=device)
    new_ids_RT = torch.tensor([limits.start_ids] * num_beams, device=device)
    for taken in range(limits.max_new_tokens):
        if should_stop():
            return beams.best(CANCELLED, num_tokens=taken)
        scores_RV = _allowed(steps.next_logits(new_ids_RT), limits).log_softmax(dim=-1)
        said_RT = torch.tensor([[*limits.start_ids, *row] for row in beams.rows], device=device)
        rows_R, new_ids_RT = beams.grow(limits.rules.apply(scores_RV, said_RT))
        steps.keep(rows_R)
        if beams.is_done():
            return beams.best(STOP, num_tokens=taken + 1)
    return beams.best(LENGTH, num_tokens=limits.max_new_tokens)


class _Beams:
    """Running rows and complete replies of one beam search."""

    def __init__(self, *, width: int, eos_id: int, device: torch.device | str) -> None:
        self.width, self.eos_id = width, eos_id
        self.rows: list[list[int]] = [[] for _ in range(width)]
        # At the start all rows are equal; only the first may grow.
        self.scores_R = torch.tensor([0.0] + [float("-inf")] * (width - 1), device=device)
        self.complete: list[tuple[float, list[int]]] = []

    def grow(self, scores_RV: Tensor) -> tuple[Tensor, Tensor]:
        """(rows to keep [R], their new ids [R, 1]) of the best continuations; ended ones become complete."""
        vocabulary = scores_RV.shape[1]
        totals, flat = (self.scores_R[:, None] + scores_RV).flatten().topk(2 * self.width)
        candidates = list(
            zip(totals.tolist(), (flat // vocabulary).tolist(), (flat % vocabulary).tolist(), strict=True)
        )
        running = [candidate for candidate in candidates if candidate[2] != self.eos_id][: self.width]
        for total, row, chosen in candidates[: self.width]:
            if chosen == self.eos_id and total > float("-inf"):
                self.complete.append((total / (len(self.rows[row]) + 1), self.rows[row]))
        self.complete = sorted(self.complete, key=lambda item: -item[0])[: self.width]
        self.rows = [[*self.rows[row], chosen] for _, row, chosen in running]
        self.scores_R = self.scores_R.new_tensor([total for total, _, _ in running])
        kept = torch.tensor([row for _, row, _ in running], device=self.scores_R.device)
        return kept, torch.tensor([[chosen] for _, _, chosen in running], device=self.scores_R.device)

    def is_done(self) -> bool:
        """Whether no running row can still beat the worst complete reply, judged by its mean so far."""
        if len(self.complete) < self.width:
            return False
        return float(self.scores_R.max()) / (len(self.rows[0]) + 1) <= self.complete[-1][0]

    def best(self, reason: str, *, num_tokens: int) -> DecodedIds:
        """The best complete reply; without one, the best running row."""
        if self.complete:
            kept_reason = CANCELLED if reason == CANCELLED else STOP
            return DecodedIds(ids=self.complete[0][1], finish_reason=kept_reason, num_tokens=num_tokens)
        return DecodedIds(ids=self.rows[int(self.scores_R.argmax())], finish_reason=reason, num_tokens=num_tokens)


def _allowed(logits_RV: Tensor, limits: DecodingLimits) -> Tensor:
    logits_RV = logits_RV.clone()
    logits_RV[:, list(limits.forbidden_ids)] = float("-inf")
    return logits_RV
