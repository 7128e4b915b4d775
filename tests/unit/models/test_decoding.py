"""Decoding: the cache changes nothing, limits hold, and a caller can stop at any step."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sightline.models.decoding import CachedSteps, DecodingLimits, beam_search, greedy, limits_for
from sightline.models.fusion import FusedMemory
from sightline.models.generator import ZrigfGenerator
from tests.unit.models.conftest import SmallParts


def never() -> bool:
    return False


class FreshSteps:
    """Steps that recompute the whole prefix every time: slow and obvious."""

    def __init__(self, generator: ZrigfGenerator, memory: FusedMemory) -> None:
        self.generator, self.memory = generator, memory
        self.ids: Tensor | None = None

    def next_logits(self, new_ids_RT: Tensor) -> Tensor:
        self.ids = new_ids_RT if self.ids is None else torch.cat([self.ids, new_ids_RT], dim=1)
        return self.generator.decode(self.memory, self.ids)[:, -1]

    def keep(self, rows_R: Tensor) -> None:
        assert self.ids is not None
        self.ids = self.ids[rows_R]


class TableSteps:
    """Steps of a first-order chain: row n of the table is what follows id n."""

    def __init__(self, table: Tensor) -> None:
        self.table = table

    def next_logits(self, new_ids_RT: Tensor) -> Tensor:
        return self.table[new_ids_RT[:, -1]]

    def keep(self, rows_R: Tensor) -> None:
        pass


def drain(decoding: object) -> tuple[list[int], str]:
    ids: list[int] = []
    while True:
        try:
            ids.append(next(decoding))  # type: ignore[call-overload]
        except StopIteration as end:
            return ids, end.value


@pytest.fixture
def generator(small: SmallParts) -> ZrigfGenerator:
    assert small.model.generator is not None
    for layer in small.model.generator.bart.model.decoder.layers:
        torch.nn.init.normal_(layer.mix.weight, std=0.3)
    return small.model.generator


def memory_of(generator: ZrigfGenerator, *, seed: int) -> FusedMemory:
    torch.manual_seed(seed)
    with torch.inference_mode():
        return generator.remember(
            torch.randint(4, 200, (1, 6)),
            context_mask_BL=torch.ones(1, 6),
            tokens_BKPW=torch.randn(1, 2, 49, 16),
            similarity_BK=torch.rand(1, 2),
            image_mask_BK=torch.tensor([[True, seed % 3 > 0]]),
        )


@pytest.mark.parametrize("seed", range(4))
def test_greedy_with_a_cache_equals_greedy_without(generator: ZrigfGenerator, seed: int) -> None:
    memory = memory_of(generator, seed=seed)
    limits = limits_for(generator, max_new_tokens=12)
    with torch.inference_mode():
        cached = drain(greedy(CachedSteps(generator, memory), limits=limits, should_stop=never))
        fresh = drain(greedy(FreshSteps(generator, memory), limits=limits, should_stop=never))
    assert cached == fresh
    assert len(set(cached[0])) > 1


@pytest.mark.parametrize("num_beams", [2, 3, 5])
def test_beams_with_a_cache_equal_beams_without(generator: ZrigfGenerator, num_beams: int) -> None:
    memory = memory_of(generator, seed=1).repeat(num_beams)
    limits = limits_for(generator, max_new_tokens=9)
    with torch.inference_mode():
        cached = beam_search(CachedSteps(generator, memory), limits=limits, num_beams=num_beams, should_stop=never)
        fresh = beam_search(FreshSteps(generator, memory), limits=limits, num_beams=num_beams, should_stop=never)
    assert cached == fresh


def chain(seed: int) -> tuple[TableSteps, DecodingLimits]:
    table = torch.randn(5, 5, generator=torch.Generator().manual_seed(seed))
    return TableSteps(table), DecodingLimits(start_ids=(4, 0), eos_id=4, forbidden_ids=(0,), max_new_tokens=4)


def best_by_hand(table: Tensor, limits: DecodingLimits) -> list[int]:
    """The complete reply with the best mean log-probability, over all replies within the limit."""
    table = table.clone()
    table[:, list(limits.forbidden_ids)] = float("-inf")
    log_probs = table.log_softmax(dim=-1)

    def score(ids: tuple[int, ...]) -> float:
        path = [limits.start_ids[-1], *ids, limits.eos_id]
        return float(sum(log_probs[a, b] for a, b in itertools.pairwise(path))) / (len(ids) + 1)

    choices = [ids for n in range(limits.max_new_tokens) for ids in itertools.product((1, 2, 3), repeat=n)]
    return list(max(choices, key=score))


@pytest.mark.parametrize("seed", range(6))
def test_wide_beams_find_the_best_complete_reply(seed: int) -> None:
    steps, limits = chain(seed)
    found = beam_search(steps, limits=limits, num_beams=60, should_stop=never)
    assert found.ids == best_by_hand(steps.table, limits)
    assert found.finish_reason == "stop"


@pytest.mark.parametrize("seed", range(4))
def test_one_beam_follows_the_greedy_path(seed: int) -> None:
    steps, limits = chain(seed)
    ids, reason = drain(greedy(steps, limits=limits, should_stop=never))
    found = beam_search(steps, limits=limits, num_beams=1, should_stop=never)
    assert (found.ids, found.finish_reason) == (ids, reason)


def endless() -> tuple[TableSteps, DecodingLimits]:
    table = torch.zeros(5, 5)
    table[:, 2] = 9.0
    return TableSteps(table), DecodingLimits(start_ids=(4, 0), eos_id=4, forbidden_ids=(0,), max_new_tokens=6)


def test_a_reply_that_does_not_end_stops_at_the_limit() -> None:
    steps, limits = endless()
    assert drain(greedy(steps, limits=limits, should_stop=never)) == ([2] * 6, "length")


def test_forbidden_ids_are_never_chosen() -> None:
    table = torch.zeros(5, 5)
    table[:, 0] = 50.0
    table[:, 3] = 1.0
    limits = DecodingLimits(start_ids=(4, 0), eos_id=4, forbidden_ids=(0,), max_new_tokens=3)
    assert drain(greedy(TableSteps(table), limits=limits, should_stop=never))[0] == [3, 3, 3]


def stop_after(calls: int) -> Callable[[], bool]:
    counter = itertools.count()
    return lambda: next(counter) >= calls


def test_greedy_stops_within_one_step_of_the_wish() -> None:
    steps, limits = endless()
    assert drain(greedy(steps, limits=limits, should_stop=stop_after(2))) == ([2, 2], "cancelled")


def test_beams_stop_within_one_step_of_the_wish() -> None:
    steps, limits = endless()
    found = beam_search(steps, limits=limits, num_beams=2, should_stop=stop_after(2))
    assert (found.finish_reason, found.num_tokens) == ("cancelled", 2)


def test_a_reply_never_outgrows_the_decoders_positions(generator: ZrigfGenerator) -> None:
    limits = limits_for(generator, max_new_tokens=10_000)
    assert limits.max_new_tokens == 39
    steps = CachedSteps(generator, memory_of(generator, seed=0))
    table = DecodingLimits(
        start_ids=limits.start_ids, eos_id=-1, forbidden_ids=limits.forbidden_ids, max_new_tokens=limits.max_new_tokens
    )
    with torch.inference_mode():
        assert len(drain(greedy(steps, limits=table, should_stop=never))[0]) == 39
