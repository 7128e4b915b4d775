"""Repetition control against transformers' own processors, and inside both searches."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from transformers import NoRepeatNGramLogitsProcessor, RepetitionPenaltyLogitsProcessor

from sightline.errors import SettingInvalid
from sightline.models.decoding import CachedSteps, beam_search, greedy, limits_for
from sightline.models.generator import ZrigfGenerator
from sightline.models.repetition import FREE, RepetitionRules
from tests.unit.models.conftest import SmallParts
from tests.unit.models.test_decoding import FreshSteps, drain, endless, memory_of, never


@pytest.fixture
def generator(small: SmallParts) -> ZrigfGenerator:
    assert small.model.generator is not None
    for layer in small.model.generator.bart.model.decoder.layers:
        torch.nn.init.normal_(layer.mix.weight, std=0.3)
    return small.model.generator


def case(seed: int, *, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores of three rows over seven ids, so that repeats abound."""
    made = torch.Generator().manual_seed(seed)
    return torch.randn(3, 7, generator=made), torch.randint(0, 7, (3, length), generator=made)


@pytest.mark.parametrize("length", [1, 2, 3, 9, 40])
@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_banned_ngrams_are_those_of_transformers(size: int, length: int) -> None:
    scores, ids = case(size + length, length=length)
    expected = NoRepeatNGramLogitsProcessor(size)(ids, scores.clone())
    assert torch.equal(RepetitionRules(no_repeat_ngram=size).apply(scores, ids), expected)


@pytest.mark.parametrize("penalty", [0.5, 1.0, 1.3, 5.0])
def test_the_penalty_is_that_of_transformers(penalty: float) -> None:
    scores, ids = case(3, length=5)
    expected = RepetitionPenaltyLogitsProcessor(penalty)(ids, scores.clone())
    torch.testing.assert_close(RepetitionRules(repetition_penalty=penalty).apply(scores, ids), expected)


def test_no_rule_returns_the_scores_themselves() -> None:
    scores, ids = case(0, length=4)
    assert FREE.apply(scores, ids) is scores


def test_rules_leave_the_given_scores_alone() -> None:
    scores, ids = case(0, length=9)
    kept = scores.clone()
    RepetitionRules(no_repeat_ngram=1, repetition_penalty=2.0).apply(scores, ids)
    assert torch.equal(scores, kept)


@pytest.mark.parametrize("values", [{"no_repeat_ngram": -1}, {"repetition_penalty": 0.0}])
def test_a_senseless_rule_is_refused(values: dict[str, float]) -> None:
    with pytest.raises(SettingInvalid, match=next(iter(values))):
        RepetitionRules(**values)  # type: ignore[arg-type]


def test_a_reply_that_repeats_itself_moves_on() -> None:
    steps, limits = endless()
    ruled = dataclasses.replace(limits, rules=RepetitionRules(no_repeat_ngram=2))
    ids, _ = drain(greedy(steps, limits=ruled, should_stop=never))
    said = [limits.start_ids[-1], *ids]
    assert len(set(itertools.pairwise(said))) == len(ids)


@pytest.mark.parametrize("rules", [RepetitionRules(no_repeat_ngram=2), RepetitionRules(repetition_penalty=1.5)])
@pytest.mark.parametrize("num_beams", [1, 3])
def test_rules_with_a_cache_equal_rules_without(
    generator: ZrigfGenerator, rules: RepetitionRules, num_beams: int
) -> None:
    limits = limits_for(generator, max_new_tokens=12, rules=rules)
    memory = memory_of(generator, seed=1).repeat(num_beams)
    with torch.inference_mode():
        if num_beams == 1:
            found = [drain(greedy(kind(generator, memory), limits=limits, should_stop=never)) for kind in KINDS]
        else:
            found = [
                beam_search(kind(generator, memory), limits=limits, num_beams=num_beams, should_stop=never)
                for kind in KINDS
            ]
    assert found[0] == found[1]


KINDS = (CachedSteps, FreshSteps)


def test_greedy_under_rules_is_the_greedy_of_transformers(generator: ZrigfGenerator) -> None:
    """Step by step: their processors over our logits choose what we choose."""
    memory, rules = memory_of(generator, seed=2), RepetitionRules(no_repeat_ngram=2, repetition_penalty=1.4)
    limits = limits_for(generator, max_new_tokens=12, rules=rules)
    said, expected = list(limits.start_ids), []
    processors = (RepetitionPenaltyLogitsProcessor(1.4), NoRepeatNGramLogitsProcessor(2))
    with torch.inference_mode():
        ours, _ = drain(greedy(CachedSteps(generator, memory), limits=limits, should_stop=never))
        for _ in range(len(ours)):
            scores = generator.decode(memory, torch.tensor([said]))[:, -1]
            scores[:, list(limits.forbidden_ids)] = float("-inf")
            for processor in processors:
                scores = processor(torch.tensor([said]), scores)
            expected.append(int(scores.argmax()))
            said.append(expected[-1])
    assert ours == expected
