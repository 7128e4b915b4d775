"""What a set of experiments is: models to train once, cells to measure on them, claims to hold against the numbers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import sightline
from trainer.config import FitConfig, SpeedSettings, to_json

_TRAINED = ("data", "model", "stage1", "stage2")


class Trainable(Protocol):
    """What is trained once, whichever cells ask for it; keys of caches."""

    def __hash__(self) -> int:
        """Equal for equal models."""

    @property
    def digest(self) -> str:
        """The name that its weights are kept by, 64 hex digits."""

    @property
    def parent(self) -> Trainable | None:
        """What must have been trained before."""

    @property
    def seed(self) -> int:
        """Its seed."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """All that it is made of, by section, JSON values: for people who open the file of a cell."""

    @property
    def measured_by(self) -> Mapping[str, Any]:
        """Settings of its own that decide what a measurement comes to, JSON values."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model of dialogues and pictures to train."""

    config: FitConfig
    """All that decides its weights; where it runs does not."""
    data_digest: str
    """sha256 of its data: the folder's name does not matter."""
    parent: Model | None = None
    """The model whose weights it starts from, in place of fresh ones; then stage 2 alone is run."""

    @property
    def digest(self) -> str:
        """The name that its weights are kept by, 64 hex digits."""
        parts = {name: to_json(getattr(self.config, name)) for name in _TRAINED} | unusual_speed(self.config.speed)
        parts["data"].pop("root")
        parent = self.parent.digest if self.parent else ""
        return digest_of([sightline.__version__, self.data_digest, parts, self.config.seed, parent])

    @property
    def seed(self) -> int:
        """That of its configuration."""
        return self.config.seed

    @property
    def settings(self) -> Mapping[str, Any]:
        """Data, model, stages and evaluation; how steps are computed where that is unusual."""
        sections = {name: to_json(getattr(self.config, name)) for name in (*_TRAINED, "evaluation")}
        return sections | unusual_speed(self.config.speed)

    @property
    def measured_by(self) -> Mapping[str, Any]:
        """How many questions are asked, and how."""
        return to_json(self.config.evaluation)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One measurement of one model of one seed."""

    experiment: str
    name: str
    seed: int
    model: Trainable
    options: Mapping[str, Any] = field(default_factory=dict)
    """JSON values that the measure reads."""
    measure: Callable[[Cell, Path], Outcome]
    """A function of a module, so that other processes find it; called with the cell and the experiments' folder."""
    is_timed: bool = False
    """Run after everything else and alone, as it takes times."""

    @property
    def digest(self) -> str:
        """The name that its outcome is kept by, 64 hex digits."""
        measured_by = dict(self.model.measured_by)
        return digest_of([self.model.digest, self.measure.__qualname__, dict(self.options), measured_by])


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


def unusual_speed(speed: SpeedSettings) -> dict[str, Any]:
    """The section `speed` of what a model is made of; none for the default, so that names given before it stay."""
    return {} if speed == SpeedSettings() else {"speed": to_json(speed)}


def digest_of(parts: Any) -> str:
    """A name for JSON values, 64 hex digits."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
