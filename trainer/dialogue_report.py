"""`python -m trainer evaluate <release> --dialogues FILE --pool FILE`: from files to scores and predictions."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sacrebleu
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from sightline.data.dialogues import DialogueRecord
from sightline.data.formats import read_any_dialogues, read_any_pool
from sightline.data.lines import write_lines
from sightline.data.pools import PoolImage
from sightline.errors import UsageError
from sightline.metrics import WORDS_RULE, read_word_vectors
from sightline.registry import Registry
from trainer.architecture import released
from trainer.config import DataSettings, FitConfig
from trainer.data import pictures_folder
from trainer.dialogue_scores import DialogueExam, Measured, evaluate_dialogues
from trainer.runs import release_cache, resolve
from trainer.store import encode_pool

SCORES_FILE, PREDICTIONS_FILE = "scores.json", "predictions.jsonl"


@dataclass(frozen=True, kw_only=True)
class DialogueFiles:
    """What a release is measured on."""

    dialogues: Path
    """Dialogues in any format of `sightline.data.formats`; those with a picture of the pool measure retrieval too."""
    pool: Path
    """Pictures in any of those formats: a folder, a JSONL, a COCO file, tars."""
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

    Registry, seed, `data.images`, `data.skip_bad` and the settings under
    `evaluation` are those of `config`, save that no dialogue is left out. Raises DataLineInvalid for a bad line of
    a file, UsageError if one is absent or empty.
    """
    registry = Registry(config.registry)
    release_id = resolve(release, registry=registry)
    dialogues, images = _read(files, data=config.data)
    _check_vectors(files.word_vectors, console=console)
    built = released(release_id, registry=registry, cache=release_cache(config))
    built.model.eval().to(config.run.device)
    console.print(f"{len(dialogues)} dialogues, {len(images)} pictures; replies look at: {look}")
    with _progress(console) as progress:
        exam = DialogueExam(
            built=built,
            dialogues=dialogues,
            images=images,
            pictures=encode_pool(
                built.model,
                progress.track(images, description="pictures"),
                cache=config.run.root / "cache",
                skip_bad=config.data.skip_bad,
            ),
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


def _read(files: DialogueFiles, *, data: DataSettings) -> tuple[list[DialogueRecord], list[PoolImage]]:
    dialogues = read_any_dialogues(files.dialogues, skip_bad=data.skip_bad)
    images = read_any_pool(files.pool, images=pictures_folder(data), skip_bad=data.skip_bad)
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
