"""The values of all workers that train together, with gradient where a loss needs negatives of every one of them."""

# Axes: B items of this worker, G items of all workers.
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

_IS_ALONE: ContextVar[bool] = ContextVar("is_alone", default=False)


def gather_with_gradient(values: Tensor) -> Tensor:
    """The values [B, ...] of all workers as [G, ...] in order of rank; gradients flow back to their owners."""
    return _Gather.apply(values) if world_size() > 1 else values


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        ctx.rows = len(values)
        return gather(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous()
        dist.all_reduce(total)
        return total[_rank() * ctx.rows : (_rank() + 1) * ctx.rows]


def gather(values: Tensor) -> Tensor:
    """The values [B, ...] of all workers as [G, ...] in order of rank, without gradient."""
    if world_size() == 1:
        return values
    parts = [torch.empty_like(values) for _ in range(world_size())]
    dist.all_gather(parts, values.contiguous())
    return torch.cat(parts)


def own_rows(values: Tensor) -> Tensor:
    """[B] where this worker's items stand among those of all workers."""
    return torch.arange(len(values), device=values.device) + _rank() * len(values)


def sum_of_workers(value: Tensor) -> Tensor:
    """The sum of all workers' values, without gradient."""
    total = value.detach().clone()
    if world_size() > 1:
        dist.all_reduce(total)
    return total


def world_size() -> int:
    """Workers that train together; 1 without torch.distributed, and where a worker is `alone`."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() and not _IS_ALONE.get() else 1


@contextmanager
def alone() -> Iterator[None]:
    """Let this worker gather from itself only: for what every worker computes alike, such as a held-out loss."""
    token = _IS_ALONE.set(True)
    try:
        yield
    finally:
        _IS_ALONE.reset(token)


def _rank() -> int:
    return dist.get_rank() if world_size() > 1 else 0
