"""Each distinct model is trained once and kept by its digest; what two models share is a model of its own."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from trainer.architecture import Built, build
from trainer.checkpoint import Position, adopt_weights, read_weights
from trainer.config import FitConfig
from trainer.data import load_corpus, training_record
from trainer.experiments.plan import Model, Trainable
from trainer.journal import JOURNAL, STAGES
from trainer.loop import train
from trainer.reporting import LocalReporter
from trainer.runs import AnyConfig, run_folder

_WEIGHTS = "model.safetensors"


def train_model(model: Model, out: Path) -> None:
    """Train `model` unless `out` holds its weights; an interrupted training goes on from its last checkpoint.

    Its parent must have been trained. One thread is used.
    """
    if is_trained(model, out):
        return
    config = running_config(model, out)
    reporter = LocalReporter(run_folder(config), keep=1)
    if model.parent and reporter.restore() is None:
        training = training_record(config, corpus=load_corpus(config.data))
        position = Position(stage=STAGES[-1], step=0, training=training)
        parent = weights_folder(model.parent, out)
        reporter.save(lambda folder: adopt_weights(parent, into=folder, position=position), stage="", step=0, loss=0.0)
    train(config, reporter=reporter)
    keep_run(config, reporter=reporter, folder=weights_folder(model, out))


def is_trained(model: Trainable, out: Path) -> bool:
    """True if `out` holds the weights of `model`."""
    return weights_folder(model, out).is_dir()


def weights_folder(model: Trainable, out: Path) -> Path:
    """Where the weights of `model` are kept, with the journal of their training."""
    return out / "models" / model.digest


def trained(model: Model, out: Path) -> Built:
    """The trained model, ready to be asked."""
    config = running_config(model, out)
    built = build(config, texts=load_corpus(config.data).texts())
    read_weights(weights_folder(model, out), model=built.model)
    built.model.eval()
    return built


def running_config(model: Model, out: Path) -> FitConfig:
    """The settings of `model` with a place to run: in this process, on one thread."""
    run = replace(
        model.config.run, root=out / "runs", name=model.digest, num_workers=0, threads_per_worker=1, keep_checkpoints=1
    )
    return replace(model.config, run=run)


def keep_run(config: AnyConfig, *, reporter: LocalReporter, folder: Path) -> None:
    """Keep weights and journal of a finished run as `folder`, and drop the rest of it."""
    checkpoint = reporter.restore()
    assert checkpoint is not None, "a finished run has a checkpoint"
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for path in (checkpoint / _WEIGHTS, run_folder(config) / JOURNAL):
        shutil.copyfile(path, partial / path.name)
    partial.rename(folder)
    shutil.rmtree(run_folder(config))
