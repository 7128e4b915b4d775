"""Composers among the models of experiments: trained on the towers of a model whose stage 1 others may share."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import sightline
from sightline.models.composer import Composer
from sightline.models.release import CONFIG_FILE, LoadedModel, load_model, save_release
from trainer.checkpoint import read_weights
from trainer.composing.config import ComposeConfig
from trainer.composing.loop import fresh_composers, train_composer
from trainer.config import to_json
from trainer.experiments.plan import Model, digest_of, unusual_speed
from trainer.experiments.training import is_trained, keep_run, trained, weights_folder
from trainer.journal import worked_s
from trainer.reporting import LocalReporter
from trainer.runs import run_folder

_TRAINED = ("data", "inversion", "alignment")
COSTS = ("trained_parameters", "training_over_stage1")
"""What `cost_of` tells."""


@dataclass(frozen=True, kw_only=True)
class ComposerModel:
    """A composer to train."""

    config: ComposeConfig
    """All that decides its weights but the towers; where it runs does not."""
    data_digest: str
    """sha256 of captions and edits."""
    parent: Model | ComposerModel
    """Whose towers it stands on; a composer, whose phi it goes on from, where it has no stage 1 of its own."""

    @property
    def digest(self) -> str:
        """The name that its weights are kept by, 64 hex digits."""
        parts = {name: to_json(getattr(self.config, name)) for name in _TRAINED} | unusual_speed(self.config.speed)
        parts["data"].pop("root")
        return digest_of([sightline.__version__, self.data_digest, parts, self.seed, self.parent.digest])

    @property
    def towers(self) -> Model:
        """The model of whose towers it is a composer."""
        return self.parent.towers if isinstance(self.parent, ComposerModel) else self.parent

    @property
    def seed(self) -> int:
        """That of its configuration."""
        return self.config.seed

    @property
    def settings(self) -> Mapping[str, Any]:
        """Data and both stages; how steps are computed where that is unusual."""
        return {name: to_json(getattr(self.config, name)) for name in _TRAINED} | unusual_speed(self.config.speed)

    @property
    def measured_by(self) -> Mapping[str, Any]:
        """Nothing of its own: every query is asked."""
        return {}


def train_composer_model(model: ComposerModel, out: Path) -> None:
    """Train `model` unless `out` holds its weights; an interrupted training goes on. Its parent must have been trained.

    One thread is used.
    """
    if is_trained(model, out):
        return
    config = _running(model, out)
    reporter = LocalReporter(run_folder(config), keep=1)
    train_composer(config, reporter=reporter)
    keep_run(config, reporter=reporter, folder=weights_folder(model, out))


def trained_composer(model: ComposerModel, out: Path) -> tuple[LoadedModel, Composer]:
    """(towers, composer) of a trained model, ready to be asked."""
    loaded = load_model(release_of(model.parent, out))
    models = fresh_composers(_running(model, out), loaded=loaded)
    read_weights(weights_folder(model, out), model=models)
    return loaded, models.chosen()


def cost_of(model: ComposerModel, out: Path) -> dict[str, float]:
    """How many parameters learn in all, and the wall time of both stages over that of stage 1, if there is a second."""
    composer = trained_composer(model, out)[1]
    cost = {COSTS[0]: float(sum(parameter.numel() for parameter in composer.parameters()))}
    if isinstance(model.parent, ComposerModel):
        first, second = (worked_s(weights_folder(one, out)) for one in (model.parent, model))
        cost[COSTS[1]] = (first + second) / first
    return cost


def release_of(model: Model | ComposerModel, out: Path) -> Path:
    """The folder of a release of a trained model's towers, with its composer if it is one; written the first time."""
    folder = out / "releases" / model.digest
    if not (folder / CONFIG_FILE).is_file():
        partial = folder.with_name(f"{folder.name}.{uuid.uuid4().hex}.partial")
        partial.mkdir(parents=True)
        _save(model, out=out, folder=partial)
        try:
            partial.rename(folder)
        except OSError:  # Another task was first, with the same towers.
            shutil.rmtree(partial)
    return folder


def _save(model: Model | ComposerModel, *, out: Path, folder: Path) -> None:
    if isinstance(model, ComposerModel):
        loaded, composer = trained_composer(model, out)
        save_release(folder, model=loaded.model, tower_tokenizer=loaded.tower_tokenizer, composer=composer)
    else:
        built = trained(model, out)
        save_release(folder, model=built.model.retrieval_part(), tower_tokenizer=built.tower_tokenizer)


def _running(model: ComposerModel, out: Path) -> ComposeConfig:
    """The settings of `model` with towers and a place to run: in this process, on one thread."""
    run = replace(
        model.config.run, root=out / "runs", name=model.digest, num_workers=0, threads_per_worker=1, keep_checkpoints=1
    )
    return replace(model.config, init_from=release_of(model.parent, out).as_posix(), run=run)
