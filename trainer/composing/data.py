"""What a composer learns from and is measured on, read and checked."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sightline.data.captions import CaptionRecord
from sightline.data.edits import EditRecord, read_edits
from sightline.data.formats import read_any_captions
from sightline.data.toytown import write_composed
from sightline.data.triplets import COMPOSED_FOLDER
from sightline.errors import DataLineInvalid, UsageError
from trainer.composing.config import ComposeConfig, ComposedDataSettings
from trainer.config import settings_of
from trainer.data import digests_of, draw_world, existing


@dataclass(frozen=True, kw_only=True)
class ComposedCorpus:
    """Every record of a composer's run; of edits there may be none, if only stage 1 runs."""

    captions_train: Sequence[CaptionRecord]
    captions_val: Sequence[CaptionRecord]
    edits_train: Sequence[EditRecord]
    edits_val: Sequence[EditRecord]
    file_digests: dict[str, str]
    """sha256 of each file that was read."""

    @property
    def digest(self) -> str:
        """sha256 of all that the records were read from."""
        return hashlib.sha256(repr(sorted(self.file_digests.items())).encode()).hexdigest()


def load_composed_corpus(settings: ComposedDataSettings) -> ComposedCorpus:
    """The corpus that `settings` names; Toytown is generated first where it is absent.

    Raises DataLineInvalid for a bad line, UsageError for a missing or empty file.
    """
    if settings.kind == "toytown":
        _write_toytown(settings)
    return ComposedCorpus(
        captions_train=_captions(settings, settings.captions_train),
        captions_val=_captions(settings, settings.captions_val),
        edits_train=_edits(settings, settings.edits_train),
        edits_val=_edits(settings, settings.edits_val),
        file_digests=_digests(settings),
    )


def corpus_of(config: ComposeConfig) -> ComposedCorpus:
    """The corpus of a whole run, stage 2's edits checked before stage 1 is trained.

    Raises what `load_composed_corpus` raises, UsageError where stage 2 runs and has no
    edits, DataLineInvalid for an edit of a picture that no caption of its part names.
    """
    corpus, data = load_composed_corpus(config.data), config.data
    if config.alignment.steps:
        _check_edits("edits_train", data.edits_train, corpus.edits_train, captions=corpus.captions_train)
        _check_edits("edits_val", data.edits_val, corpus.edits_val, captions=corpus.captions_val)
    return corpus


def training_record(config: ComposeConfig, *, corpus: ComposedCorpus) -> dict[str, Any]:
    """All that decides a run's weights, by name: its settings and the digest of every file it reads."""
    decisive = {"data", "inversion", "alignment", "speed", "seed", "init_from"}
    workers = {"run.num_workers": max(1, config.run.num_workers)}
    return (
        settings_of(config, sections=decisive)
        | workers
        | {f"file {name}": digest for name, digest in corpus.file_digests.items()}
    )


def _write_toytown(settings: ComposedDataSettings) -> None:
    if not (settings.root / settings.captions_train).exists():
        draw_world(settings.root, settings=settings)
    if not (settings.root / COMPOSED_FOLDER / "facts.json").exists():
        write_composed(settings.root)


def _captions(settings: ComposedDataSettings, name: Path) -> list[CaptionRecord]:
    images = None if settings.images is None else settings.root / settings.images
    captions = read_any_captions(existing(settings, name), images=images, skip_bad=settings.skip_bad)
    if not captions:
        raise UsageError(f"data: {settings.root / name} holds no caption")
    return captions


def _edits(settings: ComposedDataSettings, name: Path | None) -> list[EditRecord]:
    return [] if name is None else read_edits(existing(settings, name), skip_bad=settings.skip_bad)


def _check_edits(
    name: str, path: Path | None, edits: Sequence[EditRecord], *, captions: Sequence[CaptionRecord]
) -> None:
    if not edits:
        told = "names no file" if path is None else f"{path} holds no edit"
        raise UsageError(f"data.{name}: {told}, which stage 2 needs; alignment.steps 0 leaves it out")
    known = {record.image_id for record in captions}
    for edit in edits:
        if edit.image_id not in known:
            raise DataLineInvalid(f"edit {edit.id}: image {edit.image_id!r} is none of the captioned pictures")


def _digests(settings: ComposedDataSettings) -> dict[str, str]:
    names = (settings.captions_train, settings.captions_val, settings.edits_train, settings.edits_val)
    return digests_of(settings.root, names=[name for name in names if name is not None])
