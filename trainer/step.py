"""One optimiser step and the loop around it, the same for both stages."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sightline.errors import SettingInvalid, SightlineError
from trainer.checkpoint import Position, read_optimizer, write_checkpoint
from trainer.config import SpeedSettings
from trainer.journal import Journal
from trainer.reporting import Reporter

Batch = dict[str, Tensor]


class TrainingDiverged(SightlineError):
    """A loss or a gradient is no number any more; no weights made of it are kept."""


class Batches(Protocol):
    """Where a stage's batches come from."""

    name: str

    def batch(self, step: int) -> Batch:
        """This worker's share of the batch of `step`: a function of the seed and the step alone."""


class Objective(nn.Module):
    """What a stage minimises: called with a batch, it returns losses by name, 'loss' among them, each a mean."""

    def weigh(self, batch: Batch) -> Tensor:
        """How many items the mean is over, a scalar: what a part of a batch counts beside the others."""
        raise NotImplementedError

    def rates(self) -> Mapping[nn.Parameter, float]:
        """Parameters that learn at another rate than the rest, each with its share of the stage's rate."""
        return {}

    def scaled(self, losses: Mapping[str, Tensor], *, share: Tensor, even: float) -> dict[str, Tensor]:
        """What a part adds to each loss of the whole: its `share` of all items, or `even`, one over the parts."""
        return {name: value * share for name, value in losses.items()}


class Watch(Protocol):
    """Looks at a stage after each of its steps."""

    def __call__(self, done: int) -> bool:
        """True if the stage may end after `done` steps; alike on every worker."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What is trained, on what."""

    batches: Batches
    objective: Objective
    watch: Watch | None = None
    """Who may end it early; None lets it run its steps."""


class StepSettings(Protocol):
    """The settings that every stage has."""

    @property
    def steps(self) -> int:
        """Optimiser steps."""

    @property
    def batch_size(self) -> int:
        """Items a step over all workers."""

    @property
    def accumulate(self) -> int:
        """Parts that a worker reads its share of a batch in."""

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
    speed: SpeedSettings
    device: torch.device
    pace: Pace
    reporter: Reporter
    journal: Journal | None
    """None in every worker but the first."""
    seed: int
    training: Mapping[str, Any]
    """What decides the weights; checkpoints keep it."""


def check_batch(name: str, settings: StepSettings, *, world_size: int) -> None:
    """Raise SettingInvalid unless a batch of the stage of that name gives every worker equal parts: losses gather."""
    if settings.accumulate < 1 or settings.batch_size % (world_size * settings.accumulate):
        raise SettingInvalid(
            f"{name}.batch_size: got {settings.batch_size}, must be a multiple of the {world_size} workers"
            f" times {name}.accumulate {settings.accumulate}"
        )


def run_stage(run: StageRun, *, start: int, resume_from: Path | None) -> None:
    """Train from step `start` to the stage's end; the last step is always a checkpoint.

    `resume_from` names the checkpoint whose optimiser state belongs to `start`.
    Raises TrainingDiverged at the first step whose loss or gradient is not finite,
    on every worker alike.
    """
    optimizer = build_optimizer(run.stage.objective, settings=run.settings, rates=run.stage.objective.rates())
    if resume_from is not None:
        read_optimizer(resume_from, model=run.model, optimizer=optimizer)
    objective = _distributed(_compiled(run.stage.objective, backend=run.speed.compile_backend), reporter=run.reporter)
    objective.train()
    began = time.monotonic()
    for step in range(start, run.settings.steps):
        losses = _one_step(run, objective=objective, optimizer=optimizer, step=step)
        done = step + 1
        may_end = run.stage.watch is not None and run.stage.watch(done)
        is_last = may_end or done == run.settings.steps
        if run.journal and (done % run.pace.log_every == 0 or is_last):
            rate = (done - start) * run.settings.batch_size / (time.monotonic() - began)
            run.journal.write("step", stage=run.stage.batches.name, step=done, **losses, samples_per_s=round(rate, 1))
        if done % run.pace.checkpoint_every == 0 or is_last:
            # A stage that ended early stands at its end, lest a resumed run go on with it.
            _save(run, optimizer=optimizer, step=run.settings.steps if is_last else done, loss=losses["loss"])
        if is_last:
            return


def build_optimizer(
    objective: nn.Module, *, settings: StepSettings, rates: Mapping[nn.Parameter, float] = MappingProxyType({})
) -> torch.optim.AdamW:
    """AdamW over what the stage trains; gains, biases and single numbers are not decayed.

    `rates` names parameters that learn at a share of the rate.
    """
    trained = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    groups = [
        {
            "params": [p for p in trained if (p.ndim >= 2) == is_matrix and rates.get(p, 1.0) == share],
            "weight_decay": settings.weight_decay if is_matrix else 0.0,
            "share": share,
        }
        for share in sorted({1.0, *rates.values()}, reverse=True)
        for is_matrix in (True, False)
    ]
    # One kernel over all weights: for models this small, a call for each costs more than the arithmetic.
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.98), fused=True)


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
        group["lr"] = group["share"] * learning_rate_at(step, settings=run.settings)
    optimizer.zero_grad(set_to_none=True)
    losses = _backward(run, objective=objective, batch=run.stage.batches.batch(step))
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    norm = nn.utils.clip_grad_norm_(trained, run.settings.clip_norm)
    _check_finite(run.stage.batches.name, step=step, loss=float(losses["loss"]), norm=float(norm))
    optimizer.step()
    return {name: round(float(value), 6) for name, value in losses.items()}


def _check_finite(name: str, *, step: int, loss: float, norm: float) -> None:
    if not math.isfinite(loss) or not math.isfinite(norm):
        raise TrainingDiverged(
            f"{name}: step {step + 1} has loss {loss} and a gradient of norm {norm}; try a lower learning rate"
        )


def _backward(run: StageRun, *, objective: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """The losses over the parts of all workers, after leaving their gradient in the parameters."""
    parts = split_batch({name: value.to(run.device) for name, value in batch.items()}, parts=run.settings.accumulate)
    shares = shares_of([run.stage.objective.weigh(part) for part in parts])
    totals: dict[str, Tensor] = {}
    for number, (part, share) in enumerate(zip(parts, shares, strict=True), start=1):
        with _quiet_until(objective, is_last=number == len(parts)):
            with torch.autocast(run.device.type, dtype=torch.bfloat16, enabled=run.speed.precision == "bfloat16"):
                losses = objective(part)
            added = run.stage.objective.scaled(losses, share=share, even=1 / len(parts))
            added["loss"].backward()
        for name, value in added.items():
            totals[name] = totals.get(name, torch.zeros_like(share)) + value.detach().float()
    return {name: _mean_over_workers(value) for name, value in totals.items()}


def split_batch(batch: Batch, *, parts: int) -> list[Batch]:
    """The batch in `parts` equal parts, in order."""
    if parts == 1:
        return [batch]
    chunks = {name: value.chunk(parts) for name, value in batch.items()}
    return [{name: values[number] for name, values in chunks.items()} for number in range(parts)]


def shares_of(weights: Sequence[Tensor]) -> list[Tensor]:
    """What to multiply each part's mean by, so that the workers' mean of the sums is the mean over all items.

    The shares of all parts of all workers add up to the number of workers.
    """
    total = torch.stack(list(weights)).sum().float()
    if dist.is_initialized():
        dist.all_reduce(total)
        total = total / dist.get_world_size()
    return [weight.float() / total.clamp(min=1e-9) for weight in weights]


def _mean_over_workers(value: Tensor) -> Tensor:
    if dist.is_initialized():
        dist.all_reduce(value)
        return value / dist.get_world_size()
    return value


@contextmanager
def _quiet_until(objective: nn.Module, *, is_last: bool) -> Iterator[None]:
    """Let workers exchange gradients behind the last part alone."""
    if is_last or not isinstance(objective, DistributedDataParallel):
        yield
        return
    with objective.no_sync():
        yield


def _compiled(objective: nn.Module, *, backend: str) -> nn.Module:
    """The objective, compiled in place if a backend is named. Raises SettingInvalid for one that torch lacks."""
    if backend:
        known = torch._dynamo.list_backends(exclude_tags=())
        if backend not in known:
            raise SettingInvalid(f"speed.compile_backend: got {backend!r}, torch has {', '.join(known)}")
        objective.compile(backend=backend)
    return objective


def _save(run: StageRun, *, optimizer: torch.optim.Optimizer, step: int, loss: float) -> None:
    position = Position(stage=run.stage.batches.name, step=step, training=run.training)

    def write(folder: Path) -> None:
        write_checkpoint(folder, model=run.model, optimizer=optimizer, position=position)

    run.reporter.save(write, stage=run.stage.batches.name, step=step, loss=loss)


def _distributed(objective: nn.Module, *, reporter: Reporter) -> nn.Module:
    return DistributedDataParallel(objective) if reporter.world_size > 1 else objective
