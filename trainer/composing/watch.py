"""Held-out loss every few steps: it picks the best weights, and ends a stage that gets no better (LinCIR, issue 15)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from sightline.models.workers import alone
from trainer.composing.candidate import Candidate
from trainer.step import Batch, Objective


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """A stage's watch over its candidate. Every worker computes the same."""

    candidate: Candidate
    objective: Objective
    parts: Sequence[Batch]
    every: int
    """Steps between looks; the last step is one too."""
    patience: int
    """Looks without a better result before the stage may end; 0 never ends it."""
    last: int
    report: Callable[[int, float], None]
    """Told step and loss of every look."""
    device: torch.device

    def __call__(self, done: int) -> bool:
        """True if the stage may end after `done` steps."""
        self.candidate.step()
        if done % self.every and done != self.last:
            return False
        self.report(done, self.candidate.judge(self._loss))
        return bool(self.patience) and int(self.candidate.num_worse) >= self.patience

    @torch.no_grad()
    def _loss(self) -> float:
        with _evaluating(self.objective), alone():
            losses = [self._part_loss(part) * len(next(iter(part.values()))) for part in self.parts]
        return sum(losses) / sum(len(next(iter(part.values()))) for part in self.parts)

    def _part_loss(self, part: Batch) -> float:
        return float(self.objective({name: value.to(self.device) for name, value in part.items()})["loss"])


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    was_training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(was_training)
