"""The training of one worker: textual inversion, then dual alignment, from wherever the last checkpoint left off."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sightline.data.captions import CaptionRecord
from sightline.data.keywords import keyword_masker
from sightline.errors import CapabilityMissing
from sightline.models.composer import Composer, build_composer, grown
from sightline.models.composer_config import ComposerConfig, PromptConfig
from sightline.models.release import CONFIG_FILE, LoadedModel, load_model
from sightline.registry import Registry
from trainer.checkpoint import Position, read_position, read_weights
from trainer.composing.candidate import Candidate
from trainer.composing.config import ComposeConfig
from trainer.composing.data import ComposedCorpus, corpus_of, training_record
from trainer.composing.encoding import caption_rows, encoded_edits, picture_vectors, plain_ids
from trainer.composing.watch import HeldOut
from trainer.data import unique_pictures
from trainer.journal import COMPOSED_STAGES, Journal
from trainer.reporting import Reporter
from trainer.runs import release_cache, run_folder
from trainer.stages.alignment import AlignmentBatches, AlignmentObjective, EncodedEdits, edit_batch
from trainer.stages.inversion import (
    LincirObjective,
    Pic2WordObjective,
    RowBatches,
    RowObjective,
    SearleObjective,
    searched_words,
)
from trainer.step import Batch, Pace, Stage, StageRun, StepSettings, check_batch, run_stage


class TrainedComposers(nn.Module):
    """What checkpoints of a composer's run hold: the candidates of both stages."""

    def __init__(self, inversion: Candidate, alignment: Candidate | None) -> None:
        super().__init__()
        self.inversion, self.alignment = inversion, alignment

    def chosen(self) -> Composer:
        """What the run came to: the best of its last stage."""
        return (self.alignment or self.inversion).choose()


def train_composer(config: ComposeConfig, *, reporter: Reporter) -> None:
    """Train both stages to their end, saving checkpoints through `reporter`. Called by every worker alike."""
    stages: tuple[StepSettings, ...] = (config.inversion, config.alignment)
    for name, settings in zip(COMPOSED_STAGES, stages, strict=True):
        check_batch(name, settings, world_size=reporter.world_size)
    torch.set_num_threads(config.run.threads_per_worker or max(1, (os.cpu_count() or 1) // reporter.world_size))
    corpus = corpus_of(config)
    loaded = load_towers(config)
    models = fresh_composers(config, loaded=loaded)
    training = training_record(config, corpus=corpus)
    folder = reporter.restore()
    position = Position(stage=COMPOSED_STAGES[0], step=0, training=training)
    if folder is not None:
        position = read_position(folder, training=training)
        read_weights(folder, model=models)
    worker = _Worker(config=config, reporter=reporter, corpus=corpus, loaded=loaded, models=models, training=training)
    worker.run(position, resume_from=folder)


def load_towers(config: ComposeConfig) -> LoadedModel:
    """The release that the composer is made for, an id of the registry or a folder, on the device of the run."""
    folder = Path(config.init_from)
    if not (folder / CONFIG_FILE).is_file():
        folder = Registry(config.registry).fetch(config.init_from, into=release_cache(config))
    loaded = load_model(folder)
    loaded.model.to(config.run.device).eval()
    return loaded


def fresh_composers(config: ComposeConfig, *, loaded: LoadedModel) -> TrainedComposers:
    """Both stages' composers as a run begins: the second gets its phi when the first is done.

    Raises CapabilityMissing if stage 1 is left out and the release has no composer to go on from.
    """
    torch.manual_seed(config.seed)
    first = _stage_one(config, loaded=loaded).to(config.run.device)
    inversion = Candidate(first, ema=config.inversion.ema).to(config.run.device)
    if not config.alignment.steps:
        return TrainedComposers(inversion, None)
    second = grown(first, config=config.alignment.composer(first.config), tokenizer=loaded.tower_tokenizer)
    return TrainedComposers(inversion, Candidate(second, ema=config.alignment.ema).to(config.run.device))


class _Worker:
    """Everything that both stages of one worker share."""

    def __init__(
        self,
        *,
        config: ComposeConfig,
        reporter: Reporter,
        corpus: ComposedCorpus,
        loaded: LoadedModel,
        models: TrainedComposers,
        training: Mapping[str, Any],
    ) -> None:
        self._config, self._reporter, self._corpus, self._loaded = config, reporter, corpus, loaded
        self._models, self._training = models, training
        self._journal = Journal(run_folder(config)) if reporter.rank == 0 else None
        self._cache = config.run.root / "cache"

    def run(self, position: Position, *, resume_from: Path | None) -> None:
        """Run what is left of the stages."""
        if self._journal:
            self._journal.rewind(stage=position.stage, step=position.step)
            self._journal.write("start", stage=position.stage, step=position.step, pid=os.getpid())
        makers = dict(zip(COMPOSED_STAGES, (self._inversion, self._alignment), strict=True))
        for name in COMPOSED_STAGES[COMPOSED_STAGES.index(position.stage) :]:
            is_resumed = position.stage == name and position.step > 0
            run = makers[name](is_resumed=is_resumed)
            if run is not None:
                start = position.step if is_resumed else 0
                run_stage(run, start=start, resume_from=resume_from if is_resumed else None)

    def _inversion(self, *, is_resumed: bool) -> StageRun | None:
        settings, candidate = self._config.inversion, self._models.inversion
        if not settings.steps:
            return None
        train, held_out = (self._inversion_rows(part) for part in ("train", "val"))
        if settings.method == "lincir":
            candidate.composer.noise.measure(train["caption_BD"].to(self._config.run.device))
        objective = self._inversion_objective(candidate.composer)
        batches = RowBatches(train, name=COMPOSED_STAGES[0], batch_size=settings.batch_size, **self._place)
        watch = self._watch(candidate, objective, [held_out], settings=settings, name=batches.name)
        return self._stage_run(Stage(batches=batches, objective=objective, watch=watch), settings=settings)

    def _inversion_rows(self, part: str) -> dict[str, torch.Tensor]:
        settings, captions = self._config.inversion, self._captions(part)
        template = self._models.inversion.composer.config.template
        if settings.method == "lincir":
            return caption_rows(self._loaded, captions, masker=keyword_masker(settings.masker), template=template)
        picture_ND = picture_vectors(self._loaded, unique_pictures(captions), cache=self._cache)
        if settings.method == "pic2word":
            return {"picture_BD": picture_ND}
        words_NW = searched_words(
            self._models.inversion.composer,
            picture_ND.to(self._config.run.device),
            plain_ids_L=plain_ids(self._loaded, template=template),
            settings=settings,
            seed=self._config.seed,
        )
        return {"picture_BD": picture_ND, "word_BW": words_NW.cpu()}

    def _inversion_objective(self, composer: Composer) -> RowObjective:
        if self._config.inversion.method == "lincir":
            return LincirObjective(composer)
        if self._config.inversion.method == "pic2word":
            return Pic2WordObjective(composer, plain_ids_L=plain_ids(self._loaded, template=composer.config.template))
        return SearleObjective(composer)

    def _alignment(self, *, is_resumed: bool) -> StageRun | None:
        settings, candidate = self._config.alignment, self._models.alignment
        if candidate is None:
            return None
        composer = candidate.composer
        if not is_resumed:
            first = self._models.inversion.choose()
            composer.phi.load_state_dict(first.phi.state_dict())
            composer.noise.load_state_dict(first.noise.state_dict())
            candidate.restart()
        train, held_out = (self._edits(part, composer=composer) for part in ("train", "val"))
        objective = AlignmentObjective(composer, settings=settings).to(self._config.run.device)
        batches = AlignmentBatches(train, settings=settings, **self._place)
        parts = [edit_batch(held_out, row_B) for row_B in torch.arange(len(held_out)).split(settings.batch_size)]
        watch = self._watch(candidate, objective, parts, settings=settings, name=batches.name)
        return self._stage_run(Stage(batches=batches, objective=objective, watch=watch), settings=settings)

    def _edits(self, part: str, *, composer: Composer) -> EncodedEdits:
        return encoded_edits(
            self._loaded,
            self._corpus.edits_train if part == "train" else self._corpus.edits_val,
            captions=self._captions(part),
            composer=composer,
            settings=self._config.alignment,
            cache=self._cache,
        )

    def _captions(self, part: str) -> Sequence[CaptionRecord]:
        return self._corpus.captions_train if part == "train" else self._corpus.captions_val

    @property
    def _place(self) -> dict[str, int]:
        return {"seed": self._config.seed, "rank": self._reporter.rank, "world_size": self._reporter.world_size}

    def _watch(
        self, candidate: Candidate, objective: RowObjective, parts: list[Batch], *, settings: Any, name: str
    ) -> HeldOut:
        return HeldOut(
            candidate=candidate,
            objective=objective,
            parts=parts,
            every=settings.validate_every,
            patience=settings.patience,
            last=settings.steps,
            report=self._report(name),
            device=torch.device(self._config.run.device),
        )

    def _report(self, name: str) -> Callable[[int, float], None]:
        def report(step: int, loss: float) -> None:
            if self._journal:
                self._journal.write("validation", stage=name, step=step, loss=loss)

        return report

    def _stage_run(self, stage: Stage, *, settings: StepSettings) -> StageRun:
        run = self._config.run
        return StageRun(
            stage=stage,
            model=self._models,
            settings=settings,
            speed=self._config.speed,
            device=torch.device(run.device),
            pace=Pace(log_every=run.log_every, checkpoint_every=run.checkpoint_every),
            reporter=self._reporter,
            journal=self._journal,
            seed=self._config.seed,
            training=self._training,
        )


def _stage_one(config: ComposeConfig, *, loaded: LoadedModel) -> Composer:
    """A fresh phi; where stage 1 is left out, that of the release."""
    if not config.inversion.steps:
        if loaded.composer is None:
            raise CapabilityMissing(
                f"{config.init_from} has no composer to go on from; inversion.steps must be above 0"
            )
        return _without_stage_two(loaded.composer, loaded=loaded)
    return build_composer(
        ComposerConfig(inversion=config.inversion.network()),
        tower=loaded.model.tower,
        tokenizer=loaded.tower_tokenizer,
        embedding_space_id=loaded.embedding_space_id,
    )


def _without_stage_two(composer: Composer, *, loaded: LoadedModel) -> Composer:
    plain = replace(composer.config, text_side="none", picture_side="none", prompts=PromptConfig())
    return grown(composer, config=plain, tokenizer=loaded.tower_tokenizer)
