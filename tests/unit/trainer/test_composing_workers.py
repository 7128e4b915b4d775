"""Composers trained by two workers: negatives, what says the same, weights and held-out losses are those of one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from sightline.errors import SettingInvalid
from sightline.models.composer_config import ComposerConfig, InversionConfig
from tests.two_workers import in_two_workers
from tests.unit.models.composing import OWN_TOWER, STAGE_TWO, Room, corpus_room
from tests.unit.trainer.test_trainer_speed import ITEMS, OneBatch, Silent, assert_close
from trainer.composing.candidate import Candidate
from trainer.composing.config import AlignmentSettings, InversionSettings
from trainer.composing.loop import train_composer
from trainer.composing.recipes import COMPOSED_SMOKE
from trainer.composing.watch import HeldOut
from trainer.config import SpeedSettings
from trainer.stages.alignment import AlignmentObjective
from trainer.stages.inversion import Pic2WordObjective, RowObjective, SearleObjective
from trainer.step import Batch, Pace, Stage, StageRun, StepSettings, run_stage

NAMES = ("red", "green", "blue", "white", "black", "yellow", "pink", "grey")
CALM = InversionConfig(dropout=0.0, noise_scale=0.0)
ALIGNED = AlignmentSettings(steps=1, batch_size=ITEMS, clip_norm=1e9, temperature=0.3, weighs_by_entropy=True)
INVERTED = InversionSettings(steps=1, batch_size=ITEMS, clip_norm=1e9)


def aligned(room: Room, config: ComposerConfig, settings: AlignmentSettings) -> tuple[RowObjective, StepSettings]:
    composer = room.composer(replace(config, inversion=CALM))
    return AlignmentObjective(composer, settings=settings), settings


def pic2word(room: Room) -> tuple[RowObjective, StepSettings]:
    composer = room.composer(ComposerConfig(inversion=CALM))
    return Pic2WordObjective(composer, plain_ids_L=room.ids([""])[0]), INVERTED


def searle(room: Room) -> tuple[RowObjective, StepSettings]:
    return SearleObjective(room.composer(ComposerConfig(inversion=CALM))), INVERTED


CASES: dict[str, Callable[[Room], tuple[RowObjective, StepSettings]]] = {
    "full": partial(aligned, config=STAGE_TWO, settings=ALIGNED),
    "no reference pairs": partial(aligned, config=STAGE_TWO, settings=replace(ALIGNED, has_reference_pairs=False)),
    "own tower, no anchor": partial(
        aligned, config=OWN_TOWER, settings=replace(ALIGNED, text_side="tower", is_anchored=False)
    ),
    "pic2word": pic2word,
    "searle": searle,
}


def batch_of(name: str, room: Room) -> Batch:
    """Eight items; of different workers, the first and the sixth want the same caption, and two pairs ask the same."""
    torch.manual_seed(5)
    vectors = {part: F.normalize(torch.randn(ITEMS, room.tower.dimension), dim=-1) for part in "abc"}
    if name in ("pic2word", "searle"):
        return {"picture_BD": vectors["a"], "word_BW": torch.randn(ITEMS, 12)}
    vectors["b"][5] = vectors["b"][0]
    captions = {
        f"{part}_ids_BL": torch.from_numpy(room.tokenizer.tokenize([f"a {name} {thing}" for name in NAMES]).ids)
        for part, thing in (("target", "ball"), ("source", "cat"))
    }
    return {
        "reference": vectors["a"],
        "edit_ids_BL": room.ids([f"is {name}" for name in NAMES]),
        "plain_ids_BL": room.ids([""] * ITEMS),
        "target_BD": vectors["b"],
        "source_BD": vectors["c"],
        "target_text_B": torch.tensor([0, 1, 2, 3, 4, 0, 6, 7]),
        "source_text_B": torch.tensor([8, 9, 10, 2, 12, 13, 14, 15]),
        "picture_B": torch.tensor([0, 1, 1, 2, 0, 3, 2, 0]),
        "target_query_B": torch.tensor([0, 1, 2, 3, 4, 5, 3, 0]),
        "source_query_B": torch.tensor([6, 7, 7, 8, 6, 9, 8, 6]),
        **(captions if "no anchor" in name else {}),
    }


def after_a_step(name: str, *, rank: int = 0, world_size: int = 1) -> dict[str, Tensor]:
    """Every gradient of one step of the real loop, its loss, and the held-out loss behind it."""
    torch.manual_seed(0)
    room = corpus_room()
    (objective, settings), batch, held_out = CASES[name](room), batch_of(name, room), []
    reporter = Silent(rank=rank, world_size=world_size)
    composer = next(module for module in objective.modules() if hasattr(module, "phi"))
    watch = HeldOut(
        candidate=Candidate(composer, ema=0.0),
        objective=objective,
        parts=[batch],
        every=1,
        patience=0,
        last=1,
        report=lambda step, loss: held_out.append(loss),
        device=torch.device("cpu"),
    )
    batches = OneBatch(batch, name="alignment", rank=rank, world_size=world_size)
    run = StageRun(
        stage=Stage(batches=batches, objective=objective, watch=watch),
        model=objective,
        settings=settings,
        speed=SpeedSettings(),
        device=torch.device("cpu"),
        pace=Pace(log_every=1, checkpoint_every=1),
        reporter=reporter,
        journal=None,
        seed=0,
        training={},
    )
    run_stage(run, start=0, resume_from=None)
    found = {part: p.grad for part, p in objective.named_parameters() if p.grad is not None}
    return {**found, "loss": torch.tensor(reporter.loss), "held_out": torch.tensor(held_out[0])}


def _worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    for name in CASES:
        save_file(after_a_step(name, rank=rank, world_size=2), f"{folder}/{rank} {name}.safetensors")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def by_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What either of two workers found in every case."""
    folder = tmp_path_factory.mktemp("two")
    in_two_workers("tests.unit.trainer.test_composing_workers", _worker.__name__, str(folder))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_two_workers_take_the_step_of_one_with_twice_the_batch(name: str, by_two: Path) -> None:
    alone = after_a_step(name)
    for rank in (0, 1):
        assert_close(load_file(by_two / f"{rank} {name}.safetensors"), alone)


@pytest.mark.parametrize("stage", ["inversion", "alignment"])
def test_a_batch_that_workers_cannot_share_is_refused(stage: str) -> None:
    config = replace(COMPOSED_SMOKE, **{stage: replace(getattr(COMPOSED_SMOKE, stage), batch_size=9)})
    with pytest.raises(SettingInvalid, match=rf"{stage}.batch_size: got 9, must be a multiple of the 2 workers"):
        train_composer(config, reporter=Silent(world_size=2))
