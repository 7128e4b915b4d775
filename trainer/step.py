"""One optimiser step and the loop around it, the same for both stages."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from trainer.checkpoint import Position, read_optimizer, write_checkpoint
from trainer.journal import Journal
from trainer.reporting import Reporter


class Batches(Protocol):
    """Where a stage's batches come from."""

    name: str

    def batch(self, step: int) -> dict[str, Tensor]:
        """This worker's share of the batch of `step`: a function of the seed and the step alone."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What is trained, on what."""

    batches: Batches
    objective: nn.Module
    """Called with a batch; returns losses by name, 'loss' among them."""


class StepSettings(Protocol):
    """The settings that every stage has."""

    @property
    def steps(self) -> int:
        """Optimiser steps."""

    @property
    def batch_size(self) -> int:
        """Items a step over all workers."""

    @property
    def learning_rate(self) -> float:
        """Peak rate."""

    @property
    def weight_decay(self) -> float:
        """Decay of matrices."""

    @property
    def warmup_share(self) -> float:
        """Share of the steps that the rate rises over."""

    @property
    def clip_norm(self) -> float:
        """Largest norm of the gradient."""


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How often a run looks up from its work."""

    log_every: int
    checkpoint_every: int


@dataclass(frozen=True, kw_only=True)
class StageRun:
    """A stage with all that running it needs."""

    stage: Stage
    model: nn.Module
    """What checkpoints hold: the whole model, not only what the stage trains."""
    settings: StepSettings
    pace: Pace
    reporter: Reporter
    journal: Journal | None
    """None in every worker but the first."""
    seed: int
    training: Mapping[str, Any]
    """What decides the weights; checkpoints keep it."""


def run_stage(run: StageRun, *, start: int, resume_from: Path | None) -> None:
    """Train from step `start` to the stage's end; the last step is always a checkpoint.

    `resume_from` names the checkpoint whose optimiser state belongs to `start`.
    """
    optimizer = build_optimizer(run.stage.objective, settings=run.settings)
    if resume_from is not None:
        read_optimizer(resume_from, model=run.model, optimizer=optimizer)
    objective = _distributed(run.stage.objective, reporter=run.reporter)
    objective.train()
    began = time.monotonic()
    for step in range(start, run.settings.steps):
        losses = _one_step(run, objective=objective, optimizer=optimizer, step=step)
        done = step + 1
        if run.journal and (done % run.pace.log_every == 0 or done == run.settings.steps):
            rate = (done - start) * run.settings.batch_size / (time.monotonic() - began)
            run.journal.write("step", stage=run.stage.batches.name, step=done, **losses, samples_per_s=round(rate, 1))
        if done % run.pace.checkpoint_every == 0 or done == run.settings.steps:
            _save(run, optimizer=optimizer, step=done, loss=losses["loss"])


def build_optimizer(objective: nn.Module, *, settings: StepSettings) -> torch.optim.AdamW:
    """AdamW over what the stage trains; gains, biases and single numbers are not decayed."""
    trained = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.98))


def learning_rate_at(step: int, *, settings: StepSettings) -> float:
    """The rate of a step: linear warm-up, then a cosine that reaches zero one step after the last."""
    warmup = settings.warmup_share * settings.steps
    if step < warmup:
        return settings.learning_rate * (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(settings.steps - warmup, 1)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def step_seed(seed: int, *, stage: str, step: int, rank: int) -> int:
    """The seed of all randomness of one step in one worker."""
    text = f"{seed} {stage} {step} {rank}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def _one_step(run: StageRun, *, objective: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> dict[str, float]:
    torch.manual_seed(step_seed(run.seed, stage=run.stage.batches.name, step=step, rank=run.reporter.rank))
    for group in optimizer.param_groups:
        group["lr"] = learning_rate_at(step, settings=run.settings)
    losses = objective(run.stage.batches.batch(step))
    optimizer.zero_grad(set_to_none=True)
    losses["loss"].backward()
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    nn.utils.clip_grad_norm_(trained, run.settings.clip_norm)
    optimizer.step()
    return {name: round(float(value.detach()), 6) for name, value in losses.items()}


def _save(run: StageRun, *, optimizer: torch.optim.Optimizer, step: int, loss: float) -> None:
    position = Position(stage=run.stage.batches.name, step=step, training=run.training)

    def write(folder: Path) -> None:
        write_checkpoint(folder, model=run.model, optimizer=optimizer, position=position)

    run.reporter.save(write, stage=run.stage.batches.name, step=step, loss=loss)


def _distributed(objective: nn.Module, *, reporter: Reporter) -> nn.Module:
    return DistributedDataParallel(objective) if reporter.world_size > 1 else objective
