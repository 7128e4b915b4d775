"""A corpus of a few coloured squares, and settings small enough to train on it in a blink."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from sightline.data.captions import CaptionRecord, write_captions
from sightline.data.dialogues import DialogueRecord, write_dialogues
from trainer.config import ContrastiveSettings, FitConfig, GenerativeSettings, ModelSettings, RunSettings
from trainer.recipes import FOLDER
from trainer.reporting import LocalReporter

COLOURS = ("red", "green", "blue", "white", "black", "yellow")


class KilledAfter(LocalReporter):
    """A worker that dies right after it kept its n-th checkpoint."""

    def __init__(self, run: Path, *, checkpoints: int) -> None:
        super().__init__(run, keep=2)
        self._left = checkpoints

    def save(self, write: Callable[[Path], None], *, stage: str, step: int, loss: float) -> None:
        super().save(write, stage=stage, step=step, loss=loss)
        self._left -= 1
        if self._left == 0:
            raise InterruptedError


def write_squares(root: Path) -> FitConfig:
    """Settings of five steps of each stage in this process, over the corpus that is written below `root`."""
    return _fit_of(_corpus_folder(root), root=root)


@pytest.fixture
def corpus_folder(tmp_path: Path) -> Path:
    """captions.jsonl with 24 captions of 12 pictures, dialogues.jsonl with 40 dialogues."""
    return _corpus_folder(tmp_path)


def _corpus_folder(root: Path) -> Path:
    folder = root / "own"
    folder.mkdir(parents=True)
    for number in range(12):
        Image.new("RGB", (24, 20 + number), COLOURS[number % 6]).save(folder / f"{number}.png")
    captions = [
        CaptionRecord(image_id=str(number), path=folder / f"{number}.png", caption=f"{start} {COLOURS[number % 6]} box")
        for number in range(12)
        for start in ("a", "this is a")
    ]
    dialogues = [
        DialogueRecord(id=str(number), context=("hello there", f"what is box {number}"), response=f"it is box {number}")
        for number in range(40)
    ]
    write_captions(folder / "captions.jsonl", captions)
    write_dialogues(folder / "dialogues.jsonl", dialogues)
    return folder


@pytest.fixture
def tiny_fit(corpus_folder: Path, tmp_path: Path) -> FitConfig:
    """Five steps of each stage in this process."""
    return _fit_of(corpus_folder, root=tmp_path)


def _fit_of(corpus_folder: Path, *, root: Path) -> FitConfig:
    return replace(
        FOLDER,
        registry=str(root / "registry"),
        data=replace(FOLDER.data, root=corpus_folder, val_share=0.3),
        model=ModelSettings(
            image_size=16,
            token_grid=2,
            vision_width=32,
            vision_layers=1,
            text_width=32,
            text_layers=1,
            embed_dim=16,
            vocab_size=300,
            decoder_width=16,
            decoder_layers=1,
            decoder_heads=2,
        ),
        stage1=ContrastiveSettings(steps=5, batch_size=4),
        stage2=GenerativeSettings(steps=5, batch_size=4),
        run=RunSettings(
            root=root / "runs", name="run", num_workers=0, threads_per_worker=1, checkpoint_every=2, log_every=1
        ),
    )
