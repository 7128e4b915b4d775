"""What every kind of run does before its first step: it gets a name, and the release that it continues an id."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Protocol, TypeVar

from sightline.registry import Registry
from trainer.config import RunSettings
from trainer.reporting import LocalReporter


class AnyConfig(Protocol):
    """What is common to the configurations of runs."""

    @property
    def recipe(self) -> str:
        """Name of the recipe."""

    @property
    def seed(self) -> int:
        """Seed of everything."""

    @property
    def channel(self) -> str:
        """Channel to move; empty moves none."""

    @property
    def force_publish(self) -> bool:
        """Whether to publish what the gate refused."""

    @property
    def init_from(self) -> str:
        """Release id or channel to continue from; empty starts afresh."""

    @property
    def run(self) -> RunSettings:
        """Where and how it runs."""


ConfigT = TypeVar("ConfigT", bound=AnyConfig)


def settled(config: ConfigT, *, registry: Registry) -> ConfigT:
    """`config` with a run name, and with a release id where a channel was named: a resumed run must find the same."""
    name = config.run.name or _fresh_name(config)
    named: ConfigT = replace(config, run=replace(config.run, name=name))  # type: ignore[type-var]
    if not config.init_from:
        return named
    release_id = resolve(config.init_from, registry=registry)
    registry.fetch(release_id, into=release_cache(config))
    return replace(named, init_from=release_id)  # type: ignore[type-var, return-value]


def resolve(name: str, *, registry: Registry) -> str:
    """The release id that `name` is, or that the channel of that name points to."""
    state = None if name.startswith("sha256-") else registry.channel(name)
    return state.release_id if state else name


def release_cache(config: AnyConfig) -> Path:
    """Where fetched releases of this configuration's runs lie."""
    return config.run.root / "cache" / "releases"


def run_folder(config: AnyConfig) -> Path:
    """Where the run keeps its journal and checkpoints."""
    return config.run.root / config.run.name


def trained_checkpoint(config: ConfigT, *, loop: Callable[..., None]) -> Path:
    """Folder of the final checkpoint of `loop(config, reporter=...)`, run on Ray or, without workers, in this process.

    A run of the same name is resumed.
    """
    if config.run.num_workers:
        # Imported here so that a run in this process never loads Ray.
        from trainer.launch import train_on_ray

        return train_on_ray(config, loop=loop)
    reporter = LocalReporter(run_folder(config), keep=config.run.keep_checkpoints)
    loop(config, reporter=reporter)
    checkpoint = reporter.restore()
    assert checkpoint is not None, "a finished run has a checkpoint"
    return checkpoint


def _fresh_name(config: AnyConfig) -> str:
    """Recipe, seed and time; counted where another run began within the same second, lest it be resumed."""
    name = f"{config.recipe}-{config.seed}-{time.strftime('%Y%m%d-%H%M%S')}"
    names = itertools.chain([name], (f"{name}-{count}" for count in itertools.count(2)))
    return next(free for free in names if not (config.run.root / free).exists())
