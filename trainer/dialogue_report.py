"""`python -m trainer evaluate <release> --dialogues FILE --pool FILE`: from files to scores and predictions."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sacrebleu
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from sightline.data.dialogues import DialogueRecord, read_dialogues
from sightline.data.lines import write_lines
from sightline.data.pools import PoolImage, read_pool
from sightline.errors import UsageError
from sightline.metrics import WORDS_RULE, read_word_vectors
from sightline.models.model import ZrigfModel
from sightline.registry import Registry
from trainer.architecture import release_cache, released
from trainer.config import FitConfig
from trainer.dialogue_scores import DialogueExam, Measured, Track, evaluate_dialogues
from trainer.fit import resolve
from trainer.pictures import Pixels, load_pictures
from trainer.stages.generative import EncodedPictures, encode_pictures

SCORES_FILE, PREDICTIONS_FILE = "scores.json", "predictions.jsonl"
_ENCODE_BLOCK = 256


@dataclass(frozen=True, kw_only=True)
class DialogueFiles:
    """What a release is measured on."""

    dialogues: Path
    """A JSONL of dialogues; those with an `image_id` of the pool are measured for retrieval too."""
    pool: Path
    """A folder of pictures, or a JSONL of them."""
    word_vectors: Path | None
    """A text file of word vectors; None leaves the embedding scores out."""


@dataclass(frozen=True, kw_only=True)
class DialogueReport:
    """Scores and predictions, and what they were made of."""

    made_of: dict[str, Any]
    """Release, files, settings and the rule for words."""
    measured: Measured


def evaluate_on_dialogues(
    release: str, *, files: DialogueFiles, look: str, config: FitConfig, console: Console
) -> DialogueReport:
    """The report of a release, or of a channel's, on dialogues of a file; `look` is one of `dialogue_scores.LOOKS`.

    Registry, seed and the settings under `evaluation` are those of `config`,
    save that no dialogue is left out. Raises DataLineInvalid for a bad line of
    a file, UsageError if one is absent or empty.
    """
    registry = Registry(config.registry)
    release_id = resolve(release, registry=registry)
    dialogues, images = _read(files)
    _check_vectors(files.word_vectors, console=console)
    built = released(release_id, registry=registry, cache=release_cache(config))
    built.model.eval()
    console.print(f"{len(dialogues)} dialogues, {len(images)} pictures; replies look at: {look}")
    pixels = load_pictures(images, preprocess=built.model.tower.preprocess, cache=config.run.root / "cache")
    with _progress(console) as progress:
        exam = DialogueExam(
            built=built,
            dialogues=dialogues,
            images=images,
            pictures=_encode(built.model, pixels, track=progress.track),
            settings=config.evaluation,
            seed=config.seed,
            track=progress.track,
        )
        measured = evaluate_dialogues(exam, look=look, word_vectors=files.word_vectors)
    return DialogueReport(made_of=_made_of(release_id, files=files, look=look, config=config), measured=measured)


def report_table(report: DialogueReport) -> Table:
    """Every score, to four digits."""
    table = Table("score", "value", show_edge=False)
    for name, value in report.measured.scores.items():
        table.add_row(name, f"{value:.4g}")
    return table


def write_report(folder: Path, report: DialogueReport) -> None:
    """Write `scores.json` and `predictions.jsonl` into `folder`, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    write_lines(folder / PREDICTIONS_FILE, report.measured.predictions)
    text = json.dumps({**report.made_of, "scores": report.measured.scores}, indent=2)
    (folder / SCORES_FILE).write_text(f"{text}\n", encoding="utf-8")


def _read(files: DialogueFiles) -> tuple[list[DialogueRecord], list[PoolImage]]:
    dialogues, images = read_dialogues(files.dialogues), read_pool(files.pool)
    if not dialogues:
        raise UsageError(f"{files.dialogues}: no dialogue; an evaluation needs at least one")
    if not images:
        raise UsageError(f"{files.pool}: no picture; an evaluation needs at least one")
    return dialogues, images


def _check_vectors(path: Path | None, *, console: Console) -> None:
    """Refuse a bad file now rather than when the replies are made: only then is it known which words to keep."""
    if path is not None:
        with console.status(f"checking {path}"):
            read_word_vectors(path, words=())


def _encode(model: ZrigfModel, pixels_NCHW: Pixels, *, track: Track) -> EncodedPictures:
    blocks = [slice(start, start + _ENCODE_BLOCK) for start in range(0, len(pixels_NCHW), _ENCODE_BLOCK)]
    parts = [encode_pictures(model, pixels_NCHW[block]) for block in track(blocks, description="pictures")]
    return EncodedPictures(
        vectors_ND=np.concatenate([part.vectors_ND for part in parts]),
        tokens_NPW=np.concatenate([part.tokens_NPW for part in parts]),
    )


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:>28}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console
    )


def _made_of(release_id: str, *, files: DialogueFiles, look: str, config: FitConfig) -> dict[str, Any]:
    return {
        "release_id": release_id,
        "dialogues": files.dialogues.as_posix(),
        "dialogues_sha256": hashlib.sha256(files.dialogues.read_bytes()).hexdigest(),
        "pool": files.pool.as_posix(),
        "word_vectors": files.word_vectors.as_posix() if files.word_vectors else None,
        "pictures": look,
        "num_images": config.evaluation.num_images,
        "query": "context",
        "decoding": "greedy",
        "max_new_tokens": config.evaluation.max_new_tokens,
        "seed": config.seed,
        "words": f"{WORDS_RULE}|version:{sacrebleu.__version__}",
    }
