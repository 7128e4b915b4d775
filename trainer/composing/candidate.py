"""A composer in training, with what must survive a crash: its moving average, and the best weights so far."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from sightline.models.composer import Composer
from trainer.step import TrainingDiverged


class Weights(nn.Module):
    """A copy of a module's state, kept as buffers so that checkpoints hold it."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._names = {name: name.replace(".", "|") for name in state}
        for name, value in state.items():
            self.register_buffer(self._names[name], value.detach().clone())

    def state(self) -> dict[str, Tensor]:
        """The copied state, by the module's own names."""
        return {name: self.get_buffer(kept) for name, kept in self._names.items()}

    @torch.no_grad()
    def move(self, state: Mapping[str, Tensor], *, keep: float = 0.0, whole: Collection[str] = ()) -> None:
        """Take over a share of `state`, all of it where `keep` is 0, and in any case all of what `whole` names."""
        for name, mine in self.state().items():
            if keep and name not in whole:
                mine.lerp_(state[name], 1.0 - keep)
            else:
                mine.copy_(state[name])


class Candidate(nn.Module):
    """What a stage trains and what it will hand on: the weights with the least held-out loss.

    The moving average keeps min(ema, (1 + t) / (10 + t)) at step t, from 1 on,
    lest it remember for long what was random. It is one of parameters: buffers
    hold what was measured.
    """

    best_loss: Tensor
    num_steps: Tensor
    num_worse: Tensor

    def __init__(self, composer: Composer, *, ema: float) -> None:
        super().__init__()
        self.composer, self._ema = composer, ema
        self.average = Weights(composer.state_dict())
        self.best = Weights(composer.state_dict())
        self.register_buffer("best_loss", torch.tensor(math.inf))
        self.register_buffer("num_steps", torch.tensor(0))
        self.register_buffer("num_worse", torch.tensor(0))

    def restart(self) -> None:
        """Begin anew from the composer as it is."""
        for weights in (self.average, self.best):
            weights.move(self.composer.state_dict())
        self.num_steps.zero_()

    def step(self) -> None:
        """Let the average follow an optimiser's step."""
        steps = int(self.num_steps.add_(1))
        measured = {name for name, _ in self.composer.named_buffers(remove_duplicate=False)}
        self.average.move(self.composer.state_dict(), keep=min(self._ema, (1 + steps) / (10 + steps)), whole=measured)

    def judge(self, held_out_loss: Callable[[], float]) -> float:
        """The held-out loss of the average, whose weights are kept if none were better.

        Raises TrainingDiverged if it is not finite.
        """
        with self._as(self.average):
            loss = held_out_loss()
        if not math.isfinite(loss):
            raise TrainingDiverged(f"held-out loss: got {loss}; try a lower learning rate")
        if loss < float(self.best_loss):
            self.best.move(self.average.state())
            self.best_loss.fill_(loss)
            self.num_worse.zero_()
        else:
            self.num_worse.add_(1)
        return loss

    def choose(self) -> Composer:
        """The composer with its best weights, in evaluation."""
        self.composer.load_state_dict(self.best.state())
        return self.composer.eval()

    @contextmanager
    def _as(self, weights: Weights) -> Iterator[None]:
        own, was_training = Weights(self.composer.state_dict()), self.composer.training
        self.composer.load_state_dict(weights.state())
        self.composer.eval()
        try:
            yield
        finally:
            self.composer.load_state_dict(own.state())
            self.composer.train(was_training)
