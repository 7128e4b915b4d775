"""What a run of load is: how many calls of which kind start when. Bounded in number and in time."""

from __future__ import annotations

import enum
import ipaddress
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sightline.errors import UsageError

MAX_DURATION_S = 3600.0
MAX_CALLS = 500_000
KINDS = ("chat", "search", "encode", "picture")


class Arrivals(enum.StrEnum):
    """How the starts of calls are spread over time."""

    CONSTANT = "constant"
    """One call every 1/rate seconds."""
    POISSON = "poisson"
    """Exponential pauses of mean 1/rate: what many independent callers look like."""


@dataclass(frozen=True, kw_only=True)
class LoadPlan:
    """One run at one rate."""

    rate: float
    """Calls that start per second, over all kinds."""

    duration_s: float
    """How long calls start; the run then waits for those under way."""

    mix: Mapping[str, float]
    """Kind -> share of the calls; shares add up to 1."""

    arrivals: Arrivals = Arrivals.CONSTANT
    """How starts are spread."""

    timeout_s: float = 10.0
    """Deadline of each call, from its start."""

    max_in_flight: int = 2000
    """Calls under way beyond which a due call is not made but counted as shed: the memory of this process."""

    seed: int = 0
    """Seed of kinds and pauses."""

    def __post_init__(self) -> None:
        """Raise UsageError for a plan that is empty or larger than what one run may be."""
        if not 0 < self.duration_s <= MAX_DURATION_S:
            raise UsageError(f"duration-s: got {self.duration_s}, expected more than 0, at most {MAX_DURATION_S:g}")
        if self.rate <= 0 or self.rate * self.duration_s > MAX_CALLS:
            raise UsageError(
                f"rate: got {self.rate} for {self.duration_s} s, expected more than 0 and at most {MAX_CALLS} calls"
            )
        if self.timeout_s <= 0 or self.max_in_flight < 1:
            raise UsageError(f"timeout-s and max-in-flight: got {self.timeout_s} and {self.max_in_flight}, both > 0")


@dataclass(frozen=True)
class Arrival:
    """One call: when it is due, in seconds from the start of the run, and what it is."""

    due_s: float
    kind: str
    number: int


def arrivals(plan: LoadPlan) -> Iterator[Arrival]:
    """The calls of `plan` in the order in which they are due; the same for the same seed."""
    source = random.Random(plan.seed)
    kinds, shares = list(plan.mix), list(plan.mix.values())
    due_s, number = 0.0, 0
    while due_s < plan.duration_s and number < MAX_CALLS:
        yield Arrival(due_s, source.choices(kinds, shares)[0], number)
        number += 1
        due_s = number / plan.rate if plan.arrivals is Arrivals.CONSTANT else due_s + source.expovariate(plan.rate)


def parse_mix(text: str) -> dict[str, float]:
    """`chat=0.3,search=0.7` as shares that add up to 1. Raises UsageError for an unknown kind or a bad share."""
    weights = parse_pairs(text, name="mix")
    for kind, weight in weights.items():
        if kind not in KINDS:
            raise UsageError(f"mix: got kind {kind!r}, expected one of {', '.join(KINDS)}")
        if weight < 0:
            raise UsageError(f"mix: got {kind}={weight}, expected a share of at least 0")
    total = sum(weights.values())
    if not total:
        raise UsageError(f"mix: got {text!r}, expected shares of which one is over 0")
    return {kind: weight / total for kind, weight in weights.items() if weight}


def parse_pairs(text: str, *, name: str) -> dict[str, float]:
    """`a=1,b=2` as numbers by name. Raises UsageError naming the part that is not one."""
    pairs: dict[str, float] = {}
    for part in text.split(","):
        key, _, value = part.strip().partition("=")
        try:
            pairs[key] = float(value)
        except ValueError as error:
            raise UsageError(f"{name}: got {part!r}, expected name=number") from error
    return pairs


def check_loopback(address: str) -> None:
    """Raise UsageError unless `address` (host:port) is on this machine, so that no load hits strangers by mistake."""
    host = address.rsplit(":", 1)[0].strip("[]")
    if host == "localhost":
        return
    try:
        is_here = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_here = False
    if not is_here:
        raise UsageError(f"address: got {address!r}, expected a loopback address; --allow-remote lifts this")
