"""Triplets from a language model: an endpoint, or an instruct model in a folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from sightline.data.edits import EDIT_TYPES, EditGenerator
from sightline.language.asking import Completion, LanguageModel
from sightline.language.endpoint import Endpoint, EndpointSettings
from trainer.triplets.asking import Answer, Ask
from trainer.triplets.prompt import PROMPT_VERSION, conversation_of, prompt_digest, read_answer


class ModelGenerator:
    """A `TripletGenerator` over any language model."""

    def __init__(
        self, model: LanguageModel, *, called: str, seed: int, num_parallel: int = 1, batch_items: int = 1
    ) -> None:
        self.name = EditGenerator(kind="llm", model=called, prompt_version=PROMPT_VERSION, seed=seed)
        self.prompt_digest = prompt_digest()
        self.num_parallel, self.batch_items, self.max_asks = num_parallel, batch_items, 2
        self._model = model

    def edit_types(self, caption: str) -> Sequence[str]:
        """Every type: a model finds something to change in any caption."""
        return EDIT_TYPES

    def propose(self, asks: Sequence[Ask]) -> list[Answer]:
        """One answer an ask. Raises UsageError if the model's host refuses key, model or path."""
        return [_answer(completion) for completion in self._model.complete([conversation_of(ask) for ask in asks])]

    def close(self) -> None:
        """End waiting."""
        self._model.close()


def by_endpoint(
    settings: EndpointSettings,
    *,
    seed: int,
    sleep: Callable[[float], object] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> ModelGenerator:
    """One that asks an endpoint, one request a caption."""
    endpoint = Endpoint(settings, seed=seed, sleep=sleep, clock=clock)
    return ModelGenerator(endpoint, called=settings.model, seed=seed, num_parallel=settings.num_parallel)


def by_local_model(
    folder: Path, *, seed: int, batch_items: int = 8, temperature: float = 0.8, device: str = "cpu"
) -> ModelGenerator:
    """One over the instruct model in `folder`, one batch at a time. Raises UsageError if there is none."""
    # Imported here: transformers takes seconds that endpoints do not need.
    from sightline.models.instruct import InstructModel

    model = InstructModel(folder, temperature=temperature, batch_items=batch_items, device=device)
    return ModelGenerator(model, called=folder.resolve().name, seed=seed, batch_items=batch_items)


def _answer(completion: Completion) -> Answer:
    result = completion.problem or read_answer(completion.text)
    return Answer(result=result, text=completion.text, cost=completion.cost)
