from __future__ import annotations

import itertools

import pytest

from bench.load.plan import Arrivals, LoadPlan, arrivals, check_loopback, parse_mix
from sightline.errors import UsageError


def plan(**changes: object) -> LoadPlan:
    return LoadPlan(**{"rate": 50.0, "duration_s": 2.0, "mix": {"chat": 0.3, "search": 0.7}, **changes})


def test_constant_arrivals_are_evenly_spaced_and_end_in_time() -> None:
    due = [arrival.due_s for arrival in arrivals(plan())]
    assert due == pytest.approx([i / 50 for i in range(100)])


def test_poisson_arrivals_keep_the_rate_and_vary_the_pauses() -> None:
    due = [arrival.due_s for arrival in arrivals(plan(arrivals=Arrivals.POISSON, duration_s=100.0))]
    pauses = [later - sooner for sooner, later in itertools.pairwise(due)]
    assert len(due) == pytest.approx(5000, rel=0.05)
    mean = sum(pauses) / len(pauses)
    deviation = (sum((pause - mean) ** 2 for pause in pauses) / len(pauses)) ** 0.5
    assert deviation == pytest.approx(mean, rel=0.1)  # what makes it Poisson


def test_the_same_seed_gives_the_same_load() -> None:
    assert list(arrivals(plan(arrivals=Arrivals.POISSON))) == list(arrivals(plan(arrivals=Arrivals.POISSON)))
    assert list(arrivals(plan(seed=1))) != list(arrivals(plan(seed=2)))


def test_the_mix_is_kept() -> None:
    kinds = [arrival.kind for arrival in arrivals(plan(duration_s=60.0))]
    assert kinds.count("chat") / len(kinds) == pytest.approx(0.3, abs=0.03)


def test_shares_of_a_mix_add_up_to_one() -> None:
    assert parse_mix("chat=1,search=3,encode=0") == {"chat": 0.25, "search": 0.75}


@pytest.mark.parametrize("text", ["", "chat", "chat=x", "dance=1", "chat=0", "chat=-1,search=2"])
def test_a_bad_mix_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_mix(text)


@pytest.mark.parametrize(
    "changes",
    [{"rate": 0.0}, {"rate": 1e9}, {"duration_s": 0.0}, {"duration_s": 3601.0}, {"timeout_s": 0.0}],
)
def test_a_plan_beyond_its_bounds_is_refused(changes: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        plan(**changes)


@pytest.mark.parametrize("address", ["127.0.0.1:9000", "localhost:1", "[::1]:50051", "127.8.0.3:9"])
def test_addresses_of_this_machine_pass(address: str) -> None:
    check_loopback(address)


@pytest.mark.parametrize("address", ["10.0.0.1:9000", "example.com:80", "dns:///encoder:50051", "0.0.0.0:9000"])
def test_addresses_elsewhere_need_a_word(address: str) -> None:
    with pytest.raises(UsageError, match="--allow-remote"):
        check_loopback(address)
