"""What any language model is asked and answers, wherever it runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Why an ask brought nothing that can be used."""

    reason: str
    """A closed word, to be counted."""
    detail: str = ""
    is_final: bool = True
    """False where nobody answered: the same ask may bring something later."""
    is_failure: bool = False
    """Whether it is the model's fault or its host's: no answer, or one that is none."""


@dataclass(frozen=True)
class Cost:
    """What answers cost, as the model's host counts it."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.requests + other.requests,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
        )


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """What was said to a model so far; its answer comes next."""

    messages: Sequence[dict[str, Any]]
    """{"role", "content"}, oldest first, as chat templates and endpoints take them."""
    fields: tuple[str, ...]
    """The text fields of the one JSON object that is wanted."""
    max_tokens: int
    """The answer is cut off behind so many."""
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Completion:
    """What a model answered."""

    text: str = ""
    """As it was written, to be read with distrust."""
    problem: Problem | None = None
    """Why there is no whole answer; None if there is one."""
    cost: Cost = field(default_factory=Cost)


class LanguageModel(Protocol):
    """Answers conversations."""

    name: str
    """What tells it from other models in results and caches."""

    def complete(self, conversations: Sequence[Conversation]) -> list[Completion]:
        """One completion a conversation, in order. Raises UsageError for what no further ask would mend."""
        ...

    def close(self) -> None:
        """End waiting and free what is held; `complete` running in other threads returns soon."""
        ...
