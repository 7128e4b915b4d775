"""The training loop of one worker: stage 1, then stage 2, from wherever the last checkpoint left off."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from sightline.data.captions import CaptionRecord
from sightline.data.pools import PoolImage
from sightline.errors import UsageError
from trainer.architecture import Built, build, device_of
from trainer.checkpoint import Position, read_position, read_weights
from trainer.config import FitConfig
from trainer.data import Corpus, load_corpus, paired_part, training_record, unique_pictures
from trainer.journal import STAGES, Journal
from trainer.pictures import load_pictures, readable
from trainer.reporting import Reporter
from trainer.runs import run_folder
from trainer.stages.contrastive import ContrastiveBatches, ContrastiveObjective
from trainer.stages.generative import GenerativeBatches, GenerativeObjective, annotated_part
from trainer.stages.sources import PictureSource, ShuffledPictures, StreamedPictures
from trainer.step import Pace, Stage, StageRun, StepSettings, check_batch, run_stage
from trainer.store import LEFT_OUT, EncodedPictures, encode_pool


def train(config: FitConfig, *, reporter: Reporter) -> None:
    """Train both stages to their end, saving checkpoints through `reporter`.

    Called by every worker with the same settings; a finished run of this name
    is left as it is.
    """
    for name, settings in (("stage1", config.stage1), ("stage2", config.stage2)):
        check_batch(name, settings, world_size=reporter.world_size)
    torch.set_num_threads(config.run.threads_per_worker or max(1, (os.cpu_count() or 1) // reporter.world_size))
    corpus = load_corpus(config.data)
    built = build(config, texts=corpus.texts())
    built.model.to(config.run.device)
    if config.speed.gradient_checkpointing:
        built.model.checkpoint_activations()
    training = training_record(config, corpus=corpus)
    position, folder = _restore(training, built=built, reporter=reporter)
    worker = _Worker(config=config, reporter=reporter, corpus=corpus, built=built, training=training)
    worker.run(position, resume_from=folder)


class _Worker:
    """Everything that both stages of one worker share."""

    def __init__(
        self, *, config: FitConfig, reporter: Reporter, corpus: Corpus, built: Built, training: Mapping[str, Any]
    ) -> None:
        self._config, self._reporter, self._corpus, self._built = config, reporter, corpus, built
        self._training = training
        self._journal = Journal(run_folder(config)) if reporter.rank == 0 else None
        self._cache = config.run.root / "cache"
        self._preprocess = built.model.tower.preprocess

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
        captions = self._paired_captions()
        batches = ContrastiveBatches(
            self._built,
            captions=captions,
            dialogues=self._corpus.dialogues_train,
            source=self._source(captions),
            settings=settings,
            seed=self._config.seed,
            rank=self._reporter.rank,
        )
        stage = Stage(batches=batches, objective=ContrastiveObjective(self._built, settings=settings))
        return self._stage_run(stage, settings=settings)

    def _generative(self) -> StageRun:
        settings, model = self._config.stage2, self._built.model
        model.start_stage_two()
        images, pictures = self._pictures()
        annotated = annotated_part(
            self._corpus.dialogues_annotated, share=settings.annotated_share, row_of=pictures.rows_by_id(images)
        )
        batches = GenerativeBatches(
            self._built,
            dialogues=self._corpus.dialogues_train,
            captions=self._corpus.captions_train,
            annotated=annotated,
            pictures=pictures,
            settings=settings,
            seed=self._config.seed,
            rank=self._reporter.rank,
            world_size=self._reporter.world_size,
            cache=self._cache,
        )
        return self._stage_run(Stage(batches=batches, objective=GenerativeObjective(model)), settings=settings)

    def _paired_captions(self) -> list[CaptionRecord]:
        """What stage 1 reads. Streams leave out bad pictures as they pass; files are tried beforehand."""
        captions = paired_part(self._corpus.captions_train, share=self._config.stage1.pair_share)
        if not self._config.data.skip_bad or _is_streamed(captions):
            return captions
        images = unique_pictures(captions)
        good = {image.image_id for image in readable(images, preprocess=self._preprocess)}
        self._note_skipped(STAGES[0], num_skipped=len(images) - len(good), num_pictures=len(images))
        if not good:
            raise UsageError(f"data: none of the pictures of {len(captions)} captions can be decoded")
        return [record for record in captions if record.image_id in good]

    def _source(self, captions: Sequence[CaptionRecord]) -> PictureSource:
        seed, rank, world_size = self._config.seed, self._reporter.rank, self._reporter.world_size
        if _is_streamed(captions):
            return StreamedPictures(
                captions,
                preprocess=self._preprocess,
                skip_bad=self._config.data.skip_bad,
                seed=seed,
                rank=rank,
                world_size=world_size,
            )
        pixels = load_pictures(unique_pictures(captions), preprocess=self._preprocess, cache=self._cache)
        return ShuffledPictures(pixels, seed=seed, rank=rank, world_size=world_size)

    def _pictures(self) -> tuple[list[PoolImage], EncodedPictures]:
        """What training dialogues retrieve from, and how the tower of now sees it."""
        images = [*unique_pictures(self._corpus.captions_train), *self._corpus.pool_train]
        skip_bad = self._config.data.skip_bad
        pictures = encode_pool(self._built.model, images, cache=self._cache, skip_bad=skip_bad)
        num_skipped = int((pictures.row_of_image == LEFT_OUT).sum())
        self._note_skipped(STAGES[1], num_skipped=num_skipped, num_pictures=len(images))
        return images, pictures

    def _note_skipped(self, stage: str, *, num_skipped: int, num_pictures: int) -> None:
        """In the journal, which the driver reads: a worker's log may lie on another machine."""
        if self._journal and num_skipped:
            self._journal.write("skipped", stage=stage, num_skipped=num_skipped, num_pictures=num_pictures)

    def _stage_run(self, stage: Stage, *, settings: StepSettings) -> StageRun:
        run = self._config.run
        return StageRun(
            stage=stage,
            model=self._built.model,
            settings=settings,
            speed=self._config.speed,
            device=device_of(self._built.model),
            pace=Pace(log_every=run.log_every, checkpoint_every=run.checkpoint_every),
            reporter=self._reporter,
            journal=self._journal,
            seed=self._config.seed,
            training=self._training,
        )


def _is_streamed(captions: Sequence[CaptionRecord]) -> bool:
    return all(record.span for record in captions)


def _restore(training: Mapping[str, Any], *, built: Built, reporter: Reporter) -> tuple[Position, Path | None]:
    folder = reporter.restore()
    if folder is None:
        return Position(stage=STAGES[0], step=0, training=training), None
    position = read_position(folder, training=training)
    read_weights(folder, model=built.model)
    return position, folder
