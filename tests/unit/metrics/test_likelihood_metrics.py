"""Perplexity, what pictures give, and CLIPScore, against slow, obvious code."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sightline.errors import UsageError
from sightline.metrics import clip_scores, perplexity, picture_gain, token_loss, unigram_perplexity

LOSSES, TOKENS = np.array([2.0, 30.0, 1.0]), np.array([1, 10, 4])


def test_perplexity_weighs_tokens_and_not_responses_or_batches() -> None:
    every_token = [2.0] + [3.0] * 10 + [0.25] * 4
    assert perplexity(LOSSES, num_tokens_N=TOKENS) == pytest.approx(math.exp(sum(every_token) / len(every_token)))
    assert token_loss(LOSSES, num_tokens_N=TOKENS) != pytest.approx(np.mean(LOSSES / TOKENS))


def test_perplexity_does_not_depend_on_order() -> None:
    order = np.array([2, 0, 1])
    assert perplexity(LOSSES[order], num_tokens_N=TOKENS[order]) == pytest.approx(
        perplexity(LOSSES, num_tokens_N=TOKENS)
    )


def test_unigram_perplexity_equals_a_loop_over_tokens() -> None:
    seen = [5, 0, 2]
    shares = [(count + 1) / 10 for count in seen]
    logs = [math.log(shares[token]) for token in (0, 0, 1, 2)]
    found = unigram_perplexity(np.array([2, 1, 1]), seen_V=np.array(seen))
    assert found == pytest.approx(math.exp(-sum(logs) / 4))


def test_a_gain_is_told_in_nats_and_in_responses() -> None:
    gain = picture_gain(LOSSES, other_N=np.array([5.0, 27.0, 1.0]), num_tokens_N=TOKENS)
    assert gain.nats_per_token == pytest.approx(0.0)
    assert gain.better_share == pytest.approx((1 + 0 + 0.5) / 3)


def test_pictures_that_change_nothing_gain_nothing() -> None:
    gain = picture_gain(LOSSES, other_N=LOSSES, num_tokens_N=TOKENS)
    assert (gain.nats_per_token, gain.better_share) == (0.0, 0.5)


def test_impossible_losses_are_refused() -> None:
    with pytest.raises(UsageError, match="no token"):
        perplexity(np.array([]), num_tokens_N=np.array([], dtype=np.int64))
    with pytest.raises(UsageError, match="shapes"):
        token_loss(LOSSES, num_tokens_N=TOKENS[:2])
    with pytest.raises(UsageError, match=r"counts of \(2,\) and seen of \(3,\)"):
        unigram_perplexity(TOKENS[:2], seen_V=TOKENS)
    with pytest.raises(UsageError, match="response 1 "):
        token_loss(np.array([1.0, np.inf]), num_tokens_N=np.array([1, 1]))


def slow_clip_score(text: list[float], image: list[float]) -> float:
    lengths = math.sqrt(sum(a * a for a in text) * sum(b * b for b in image))
    return 2.5 * max(sum(a * b for a, b in zip(text, image, strict=True)) / lengths, 0.0)


def test_clip_scores_equal_loops_for_vectors_of_any_length() -> None:
    rng = np.random.default_rng(5)
    text_ND, image_ND = rng.normal(size=(2, 20, 7)).astype(np.float32)
    slow = [slow_clip_score(text, image) for text, image in zip(text_ND.tolist(), image_ND.tolist(), strict=True)]
    assert clip_scores(text_ND, image_ND=image_ND) == pytest.approx(slow, abs=1e-9)
    assert min(slow) == 0 < max(slow)


def test_clip_scores_need_vectors() -> None:
    with pytest.raises(UsageError, match="shapes"):
        clip_scores(np.ones((2, 3)), image_ND=np.ones((3, 2)))
    with pytest.raises(UsageError, match="zero or not finite"):
        clip_scores(np.ones((2, 3)), image_ND=np.zeros((2, 3)))
