"""The training loop of one worker: stage 1, then stage 2, from wherever the last checkpoint left off."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from sightline.errors import SettingInvalid
from trainer.architecture import Built, build
from trainer.checkpoint import Position, read_position, read_weights
from trainer.config import FitConfig, training_digest
from trainer.data import Corpus, load_corpus, unique_pictures
from trainer.journal import STAGES, Journal
from trainer.pictures import Pixels, load_pictures
from trainer.reporting import Reporter
from trainer.stages.contrastive import ContrastiveBatches, ContrastiveObjective
from trainer.stages.generative import GenerativeBatches, GenerativeObjective, annotated_part, encode_pictures
from trainer.step import Pace, Stage, StageRun, StepSettings, run_stage


def train(config: FitConfig, *, reporter: Reporter) -> None:
    """Train both stages to their end, saving checkpoints through `reporter`.

    Called by every worker with the same settings; a finished run of this name
    is left as it is.
    """
    _check_batches(config, world_size=reporter.world_size)
    torch.set_num_threads(config.run.threads_per_worker or max(1, (os.cpu_count() or 1) // reporter.world_size))
    corpus = load_corpus(config.data)
    built = build(config, texts=corpus.texts())
    position, folder = _restore(config, built=built, reporter=reporter)
    worker = _Worker(config=config, reporter=reporter, corpus=corpus, built=built)
    worker.run(position, resume_from=folder)


def run_folder(config: FitConfig) -> Path:
    """Where the run keeps its journal and checkpoints."""
    return config.run.root / config.run.name


class _Worker:
    """Everything that both stages of one worker share."""

    def __init__(self, *, config: FitConfig, reporter: Reporter, corpus: Corpus, built: Built) -> None:
        self._config, self._reporter, self._corpus, self._built = config, reporter, corpus, built
        self._journal = Journal(run_folder(config)) if reporter.rank == 0 else None
        self._images, cache = unique_pictures(corpus.captions_train), config.run.root / "cache"
        self._pixels: Pixels = load_pictures(self._images, preprocess=built.model.tower.preprocess, cache=cache)

    def run(self, position: Position, *, resume_from: Path | None) -> None:
        """Run what is left of the stages."""
        if self._journal:
            self._journal.rewind(stage=position.stage, step=position.step)
            self._journal.write("start", stage=position.stage, step=position.step, pid=os.getpid())
        for name in STAGES[STAGES.index(position.stage) :]:
            is_resumed = position.stage == name and position.step > 0
            run = self._contrastive() if name == STAGES[0] else self._generative()
            run_stage(run, start=position.step if is_resumed else 0, resume_from=resume_from if is_resumed else None)

    def _contrastive(self) -> StageRun:
        settings = self._config.stage1
        if settings.steps:
            self._built.model.start_stage_one()
        batches = ContrastiveBatches(
            self._built,
            captions=self._corpus.captions_train,
            dialogues=self._corpus.dialogues_train,
            pixels_NCHW=self._pixels,
            settings=settings,
            seed=self._config.seed,
            rank=self._reporter.rank,
            world_size=self._reporter.world_size,
        )
        stage = Stage(batches=batches, objective=ContrastiveObjective(self._built, settings=settings))
        return self._stage_run(stage, settings=settings)

    def _generative(self) -> StageRun:
        settings, model = self._config.stage2, self._built.model
        model.start_stage_two()
        batches = GenerativeBatches(
            self._built,
            dialogues=self._corpus.dialogues_train,
            captions=self._corpus.captions_train,
            annotated=annotated_part(
                self._corpus.dialogues_annotated,
                share=settings.annotated_share,
                image_ids=[image.image_id for image in self._images],
            ),
            pictures=encode_pictures(model, self._pixels),
            settings=settings,
            seed=self._config.seed,
            rank=self._reporter.rank,
            world_size=self._reporter.world_size,
        )
        return self._stage_run(Stage(batches=batches, objective=GenerativeObjective(model)), settings=settings)

    def _stage_run(self, stage: Stage, *, settings: StepSettings) -> StageRun:
        run = self._config.run
        return StageRun(
            stage=stage,
            model=self._built.model,
            settings=settings,
            pace=Pace(log_every=run.log_every, checkpoint_every=run.checkpoint_every),
            reporter=self._reporter,
            journal=self._journal,
            seed=self._config.seed,
            training_digest=training_digest(self._config),
        )


def _restore(config: FitConfig, *, built: Built, reporter: Reporter) -> tuple[Position, Path | None]:
    digest = training_digest(config)
    folder = reporter.restore()
    if folder is None:
        return Position(stage=STAGES[0], step=0, training_digest=digest), None
    position = read_position(folder, training_digest=digest)
    read_weights(folder, model=built.model)
    return position, folder


def _check_batches(config: FitConfig, *, world_size: int) -> None:
    for name, settings in (("stage1", config.stage1), ("stage2", config.stage2)):
        if settings.batch_size % world_size:
            raise SettingInvalid(
                f"{name}.batch_size: got {settings.batch_size}, must be a multiple of the {world_size} workers"
            )
