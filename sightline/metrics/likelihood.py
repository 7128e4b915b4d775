"""How likely a model finds the responses that people gave, and what pictures do to that. Axes: N responses."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sightline.errors import UsageError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class PictureGain:
    """What one choice of pictures gives over another, on the same responses."""

    nats_per_token: float
    """How much the loss falls; below 0, the pictures hurt."""
    better_share: float
    """Share of responses that became likelier, an unchanged one counting half: 0.5 if pictures change nothing."""


def token_loss(nll_N: FloatArray, *, num_tokens_N: IntArray) -> float:
    """The mean loss of a token in nats: the responses' summed losses over their tokens, long responses weighing more.

    The paper's scripts took the mean of batch means instead, which depends on
    how the batches fell. Raises UsageError for no token, differing shapes or a
    loss that is not finite.
    """
    if nll_N.shape != num_tokens_N.shape or nll_N.ndim != 1:
        raise UsageError(f"losses: got shapes {nll_N.shape} and {num_tokens_N.shape}, expected one [N]")
    if not np.isfinite(nll_N).all():
        raise UsageError(f"losses: response {int((~np.isfinite(nll_N)).argmax())} has a loss that is not finite")
    if num_tokens_N.sum() <= 0:
        raise UsageError("losses: got no token, expected at least one")
    return float(nll_N.sum() / num_tokens_N.sum())


def perplexity(nll_N: FloatArray, *, num_tokens_N: IntArray) -> float:
    """exp of `token_loss`. Comparable only between models of one tokenizer. Raises UsageError as `token_loss` does."""
    return math.exp(token_loss(nll_N, num_tokens_N=num_tokens_N))


def unigram_perplexity(counts_V: IntArray, *, seen_V: IntArray) -> float:
    """The perplexity of tokens that occur `counts_V` times to who knows only how often each was seen in training.

    One is added to every `seen_V`, so that no token is impossible. What learnt
    nothing of order or context but frequencies reaches this; a model that does
    not has learnt nothing. Raises UsageError for no token or differing shapes.
    """
    if counts_V.shape != seen_V.shape:
        raise UsageError(f"tokens: got counts of {counts_V.shape} and seen of {seen_V.shape}, expected one [V]")
    log_share_V = np.log((seen_V + 1.0) / (seen_V + 1.0).sum())
    return perplexity(np.array([-(counts_V @ log_share_V)]), num_tokens_N=np.array([counts_V.sum()]))


def picture_gain(nll_N: FloatArray, *, other_N: FloatArray, num_tokens_N: IntArray) -> PictureGain:
    """What the pictures behind `nll_N` give over those behind `other_N`; both are losses of the same responses in nats.

    Raises UsageError as `token_loss` does.
    """
    loss, other = (token_loss(each_N, num_tokens_N=num_tokens_N) for each_N in (nll_N, other_N))
    better = np.mean(nll_N < other_N) + np.mean(nll_N == other_N) / 2
    return PictureGain(nats_per_token=other - loss, better_share=float(better))
