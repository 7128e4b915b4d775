"""What a set of experiments is: models to train once, cells to measure on them, claims to hold against the numbers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sightline
from trainer.config import FitConfig, to_json


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model to train, once, whichever cells ask for it."""

    config: FitConfig
    """All that decides its weights; where it runs does not."""
    data_digest: str
    """sha256 of its data: the folder's name does not matter."""
    parent: Model | None = None
    """The model whose weights it starts from, in place of fresh ones; then stage 2 alone is run."""

    @property
    def digest(self) -> str:
        """The name that its weights are kept by, 64 hex digits."""
        parts = {name: to_json(getattr(self.config, name)) for name in ("data", "model", "stage1", "stage2")}
        parts["data"].pop("root")
        parent = self.parent.digest if self.parent else ""
        return _digest([sightline.__version__, self.data_digest, parts, self.config.seed, parent])


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One measurement of one model of one seed."""

    experiment: str
    name: str
    seed: int
    model: Model
    options: Mapping[str, Any] = field(default_factory=dict)
    """JSON values that the measure reads."""
    measure: Callable[[Cell, Path], Outcome]
    """A function of a module, so that other processes find it; called with the cell and the experiments' folder."""
    is_timed: bool = False
    """Run after everything else and alone, as it takes times."""

    @property
    def digest(self) -> str:
        """The name that its outcome is kept by, 64 hex digits."""
        evaluation = to_json(self.model.config.evaluation)
        return _digest([self.model.digest, self.measure.__qualname__, dict(self.options), evaluation])


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a cell came to."""

    metrics: dict[str, float]
    samples: dict[str, float] = field(default_factory=dict)
    """The main metric of each unit, such as a subject: what paired tests compare. Empty if nothing can be paired."""
    examples: list[dict[str, Any]] = field(default_factory=list)
    """Dialogues for the report, JSON values."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """That one cell beats another of the same experiment by more than a margin, in the main metric."""

    experiment: str
    better: str
    worse: str
    text: str
    margin: float = 0.0
    """Below 0 it claims no more than that `better` is not worse by that much."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """What a group of cells asks, and how the report shows it."""

    name: str
    title: str
    question: str
    metrics: tuple[str, ...]
    """Columns of its table; the first one is drawn."""
    axis: str = ""
    """What the numbers in its cells' names count: the cells are drawn as lines over it; empty draws bars."""
    is_logarithmic: bool = False


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Experiments that are run and reported together."""

    name: str
    title: str
    metric: str
    """The main metric: what claims are about."""
    unit: str
    """What paired tests compare, in the plural, such as 'subjects'."""
    experiments: tuple[Experiment, ...]
    claims: tuple[Claim, ...]
    recipe: str
    quick_recipe: str
    cells: Callable[[FitConfig, str], Sequence[Cell]]
    """Every cell of one configuration, its seed set; the text is the digest of its data."""
    notes: Callable[[Sequence[Mapping[str, Any]]], Sequence[str]]
    """Sentences that the rows of the results give beyond the claims."""


def _digest(parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
