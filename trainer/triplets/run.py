"""The one runner: resumes, asks in parallel, filters, counts, writes, and stops where going on would be waste."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from itertools import islice
from typing import Protocol, TypeAlias

from sightline.errors import SightlineError, UsageError
from sightline.language.asking import Cost, Problem
from trainer.triplets.asking import Answer, Ask, Complaint, Pair, TripletGenerator
from trainer.triplets.filters import CountTokens, check_pair
from trainer.triplets.ledger import Ledger

MIN_ACCEPTANCE = 0.3
BREAKER_WINDOW, BREAKER_SHARE = 200, 0.5


class RunStopped(SightlineError):
    """The circuit breaker opened: more than half of the last asks failed. What was written stays valid."""


class PairCheck(Protocol):
    """Judges pairs a batch at a time, in the runner's own thread."""

    def check(self, captions: Sequence[str], pairs: Sequence[Pair]) -> list[Problem | None]:
        """The problem of each pair with its caption, or None."""
        ...


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of an ask, re-asking included."""

    ask: Ask
    result: Pair | Problem
    cost: Cost


_Answers: TypeAlias = "Future[list[Outcome]]"


class CircuitBreaker:
    """Opens when more than `BREAKER_SHARE` of a window of asks failed, so not before half a window is bad."""

    def __init__(self, window: int = BREAKER_WINDOW) -> None:
        self._limit = window * BREAKER_SHARE
        self._recent: deque[bool] = deque(maxlen=window)

    def note(self, result: Pair | Problem) -> None:
        """Count one ask. Raises RunStopped if it was one failure too many."""
        self._recent.append(isinstance(result, Problem) and result.is_failure)
        if sum(self._recent) > self._limit:
            last = f"; the last: {result.detail}" if isinstance(result, Problem) else ""
            raise RunStopped(f"stopped: {sum(self._recent)} of the last {len(self._recent)} asks failed{last}")


def run(
    asks: Iterable[Ask],
    generator: TripletGenerator,
    *,
    ledger: Ledger,
    count_tokens: CountTokens,
    band: PairCheck | None = None,
    on_settled: Callable[[], None] = lambda: None,
) -> None:
    """Settle every ask that `ledger` does not hold yet. A finished run called again asks nothing.

    Raises UsageError for what no ask would mend, and at the end for asks that
    nobody answered or an acceptance under `MIN_ACCEPTANCE`; RunStopped when the
    breaker opens. Whatever was answered before is written.
    """
    todo = [ask for ask in asks if not ledger.is_done(ask)]
    batches, breaker = _batches(todo, size=generator.batch_items), CircuitBreaker()
    pending: set[_Answers] = set()

    def settle(futures: Iterable[_Answers]) -> list[Outcome]:
        judged = _judged(_results(futures), band=band)
        for outcome in judged:
            ledger.settle(outcome.ask, outcome.result, cost=outcome.cost)
            on_settled()
        return judged

    with ThreadPoolExecutor(generator.num_parallel, thread_name_prefix="triplets") as pool:
        try:
            while pending := pending | _submitted(pool, batches, generator, pending=pending, count_tokens=count_tokens):
                done = wait(pending, return_when=FIRST_COMPLETED).done
                judged = settle(done)
                pending -= done
                _raise_first(done)
                for outcome in judged:
                    breaker.note(outcome.result)
        finally:
            # However it ends, answers that were under way are paid for: they are written too.
            generator.close()
            pool.shutdown(wait=True, cancel_futures=True)
            settle(pending)
            ledger.sync(is_complete=False)
    _check_worth(ledger)


def answer(asks: Sequence[Ask], generator: TripletGenerator, *, count_tokens: CountTokens) -> list[Outcome]:
    """What became of each ask; one whose answer is refused is asked again, as often as the generator allows."""
    outcomes: dict[str, Outcome] = {}
    open_asks = list(asks)
    for turn in range(generator.max_asks):
        again = []
        for ask, reply in zip(open_asks, generator.propose(open_asks), strict=True):
            result = _checked(reply, ask=ask, count_tokens=count_tokens)
            before = outcomes[ask.key].cost if turn else Cost()
            outcomes[ask.key] = Outcome(ask=ask, result=result, cost=before + reply.cost)
            if isinstance(result, Problem) and result.is_final:
                again.append(replace(ask, complaint=Complaint(answer=reply.text, message=result.detail)))
        open_asks = again
        if not open_asks:
            break
    return [outcomes[ask.key] for ask in asks]


def _submitted(
    pool: ThreadPoolExecutor,
    batches: Iterator[list[Ask]],
    generator: TripletGenerator,
    *,
    pending: set[_Answers],
    count_tokens: CountTokens,
) -> set[_Answers]:
    """As many batches as keep every thread busy and no more: what waits in line costs nothing to drop."""
    free = islice(batches, generator.num_parallel - len(pending))
    return {pool.submit(answer, batch, generator, count_tokens=count_tokens) for batch in free}


def _results(futures: Iterable[_Answers]) -> list[Outcome]:
    return [o for future in futures if not future.cancelled() and not future.exception() for o in future.result()]


def _raise_first(futures: Iterable[_Answers]) -> None:
    for future in futures:
        future.result()


def _checked(reply: Answer, *, ask: Ask, count_tokens: CountTokens) -> Pair | Problem:
    if isinstance(reply.result, Problem):
        return reply.result
    return check_pair(reply.result, caption=ask.record.caption, count_tokens=count_tokens) or reply.result


def _judged(outcomes: Sequence[Outcome], *, band: PairCheck | None) -> list[Outcome]:
    pairs = [(n, o.ask.record.caption, o.result) for n, o in enumerate(outcomes) if isinstance(o.result, Pair)]
    judged = list(outcomes)
    if band is None or not pairs:
        return judged
    problems = band.check([caption for _, caption, _ in pairs], [pair for _, _, pair in pairs])
    for (position, _, _), problem in zip(pairs, problems, strict=True):
        if problem is not None:
            judged[position] = replace(judged[position], result=problem)
    return judged


def _batches(asks: Sequence[Ask], *, size: int) -> Iterator[list[Ask]]:
    return (list(asks[start : start + size]) for start in range(0, len(asks), size))


def _check_worth(ledger: Ledger) -> None:
    ledger.sync(is_complete=ledger.unanswered == 0)
    if ledger.accepted.total() + ledger.rejected.total() and ledger.acceptance() < MIN_ACCEPTANCE:
        reasons = ", ".join(f"{name} {count}" for name, count in ledger.reasons.most_common(3))
        raise UsageError(
            f"acceptance: got {ledger.acceptance():.0%}, limit {MIN_ACCEPTANCE:.0%}; refused for: {reasons}"
        )
    if ledger.unanswered:
        raise UsageError(f"{ledger.unanswered} asks got no answer; the same command asks them again, and only them")
