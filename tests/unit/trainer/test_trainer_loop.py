"""The training loop on a corpus of a few squares: repeatable, resumable, and closed to other settings."""

from __future__ import annotations

import io
import tarfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file

from sightline.data.dialogues import DialogueRecord, write_dialogues
from sightline.errors import DataCorrupt, DataLineInvalid, SettingInvalid
from sightline.models.release import load_generator
from sightline.models.transforms import Preprocess
from sightline.registry import Registry
from tests.unit.trainer.conftest import KilledAfter
from trainer.config import FitConfig
from trainer.data import load_corpus, unique_pictures
from trainer.fit import fit
from trainer.journal import STAGES, losses, read_journal
from trainer.loop import train
from trainer.reporting import LocalReporter
from trainer.runs import run_folder
from trainer.stages.sources import StreamedPictures
from trainer.step import TrainingDiverged

COLOURS = ("red", "green", "blue", "white", "black", "yellow")
pytestmark = pytest.mark.slow


def _run(config: FitConfig, *, name: str) -> FitConfig:
    named = replace(config, run=replace(config.run, name=name))
    train(named, reporter=LocalReporter(run_folder(named), keep=2))
    return named


def _weights(config: FitConfig) -> dict[str, torch.Tensor]:
    newest = LocalReporter(run_folder(config), keep=2).restore()
    assert newest is not None
    return load_file(newest / "model.safetensors")


def _same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_the_same_seed_gives_the_same_losses_twice(tiny_fit: FitConfig) -> None:
    first, second = _run(tiny_fit, name="first"), _run(tiny_fit, name="second")
    assert losses(run_folder(first)) == losses(run_folder(second))
    assert len(losses(run_folder(first))) == 10


def test_another_seed_gives_other_losses(tiny_fit: FitConfig) -> None:
    first, second = _run(tiny_fit, name="first"), _run(replace(tiny_fit, seed=1), name="second")
    assert losses(run_folder(first)) != losses(run_folder(second))


@pytest.mark.parametrize("checkpoints", [1, 2, 3, 5])  # inside stage 1, its last, its end, inside stage 2
def test_a_resumed_run_ends_as_an_unbroken_one(tiny_fit: FitConfig, checkpoints: int) -> None:
    unbroken = _run(tiny_fit, name="unbroken")
    broken = replace(tiny_fit, run=replace(tiny_fit.run, name="broken"))
    with pytest.raises(InterruptedError):
        train(broken, reporter=KilledAfter(run_folder(broken), checkpoints=checkpoints))
    train(broken, reporter=LocalReporter(run_folder(broken), keep=2))
    assert losses(run_folder(broken)) == losses(run_folder(unbroken))
    assert _same(_weights(broken), _weights(unbroken))


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_a_run_that_diverges_says_so_and_keeps_no_weights_that_are_no_numbers(tiny_fit: FitConfig, stage: str) -> None:
    settings = replace(getattr(tiny_fit, stage), learning_rate=1e30, warmup_share=0.0)
    diverging = replace(tiny_fit, run=replace(tiny_fit.run, name="diverged"), **{stage: settings})
    with pytest.raises(TrainingDiverged, match=r"step \d+ has loss .*; try a lower learning rate"):
        train(diverging, reporter=LocalReporter(run_folder(diverging), keep=2))
    if LocalReporter(run_folder(diverging), keep=2).restore() is not None:
        assert all(value.isfinite().all() for value in _weights(diverging).values())


def test_what_a_ray_worker_raised_in_the_end_is_raised_if_it_is_ours() -> None:
    # Imported here: Ray marks the records of every logger, and this module is imported by the fast tests too.
    from ray.train import WorkerGroupError

    from trainer.launch import own_errors

    ours, other = TrainingDiverged("stage1: step 3 has loss nan"), RuntimeError("no memory")
    with pytest.raises(TrainingDiverged, match="step 3"), own_errors():
        raise WorkerGroupError("two failed", {0: other, 1: ours})
    with pytest.raises(WorkerGroupError, match="one failed"), own_errors():
        raise WorkerGroupError("one failed", {0: other})


def test_a_finished_run_is_left_as_it_is(tiny_fit: FitConfig) -> None:
    config = _run(tiny_fit, name="done")
    before = losses(run_folder(config))
    _run(tiny_fit, name="done")
    assert losses(run_folder(config)) == before
    assert [row["event"] for row in read_journal(run_folder(config))].count("start") == 2


def test_a_run_of_other_settings_is_not_resumed(tiny_fit: FitConfig) -> None:
    config = _run(tiny_fit, name="mine")
    other = replace(config, seed=3, stage1=replace(config.stage1, steps=6))
    with pytest.raises(SettingInvalid, match=r"other settings: seed: was 0, is 3; stage1.steps: was 5, is 6; keep"):
        _run(other, name="mine")


def test_a_run_of_other_data_is_not_resumed(tiny_fit: FitConfig) -> None:
    config = _run(tiny_fit, name="mine")
    path = config.data.root / "dialogues.jsonl"
    path.write_text(path.read_text(encoding="utf-8").replace("hello", "hi"), encoding="utf-8")
    with pytest.raises(SettingInvalid, match=r"file dialogues.jsonl: the file's content changed"):
        _run(config, name="mine")


def test_a_run_of_other_pictures_is_not_resumed(tiny_fit: FitConfig) -> None:
    more = tiny_fit.data.root / "more"
    more.mkdir()
    Image.new("RGB", (20, 20), "pink").save(more / "a.png")
    config = _run(replace(tiny_fit, data=replace(tiny_fit.data, pool_train=Path("more"))), name="mine")
    Image.new("RGB", (20, 20), "grey").save(more / "b.png")
    with pytest.raises(SettingInvalid, match=r"pictures of pool_train: the file's content changed"):
        _run(config, name="mine")


def test_a_run_of_another_number_of_workers_is_not_resumed(tiny_fit: FitConfig) -> None:
    # Losses of one checkpoint on two workers' draws would be those of no run at all.
    config = _run(tiny_fit, name="mine")
    other = replace(config, run=replace(config.run, num_workers=2))
    with pytest.raises(SettingInvalid, match=r"run\.num_workers: was 1, is 2"):
        train(other, reporter=LocalReporter(run_folder(other), keep=2))


def test_a_picture_file_that_cannot_be_decoded_is_named_or_left_out(tiny_fit: FitConfig) -> None:
    broken = load_corpus(tiny_fit.data).captions_train[0].path
    broken.write_bytes(b"no picture")
    with pytest.raises(DataLineInvalid, match=broken.name.replace(".", r"\.")):
        _run(tiny_fit, name="strict")
    data = replace(tiny_fit.data, skip_bad=True)
    config = _run(replace(tiny_fit, data=data), name="lenient")
    assert read_journal(run_folder(config))[-1]["stage"] == "generative"
    num_pictures = len(unique_pictures(load_corpus(data).captions_train))
    told = [row for row in read_journal(run_folder(config)) if row["event"] == "skipped"]
    assert [(row["stage"], row["num_skipped"], row["num_pictures"]) for row in told] == [
        (stage, 1, num_pictures) for stage in STAGES
    ]


def test_a_checkpoint_without_its_state_is_refused(tiny_fit: FitConfig) -> None:
    config = _run(tiny_fit, name="torn")
    newest = LocalReporter(run_folder(config), keep=2).restore()
    assert newest is not None
    (newest / "state.json").unlink()
    with pytest.raises(DataCorrupt, match=r"state\.json is unreadable"):
        _run(tiny_fit, name="torn")


def test_stage_two_leaves_the_towers_as_stage_one_left_them(tiny_fit: FitConfig) -> None:
    short = _run(replace(tiny_fit, stage2=replace(tiny_fit.stage2, steps=1)), name="short")
    long = _run(replace(tiny_fit, stage2=replace(tiny_fit.stage2, steps=5)), name="long")
    first, second = _weights(short), _weights(long)
    towers = [name for name in first if name.startswith("tower.")]
    assert towers
    assert all(torch.equal(first[name], second[name]) for name in towers)
    assert not torch.equal(first["generator.fusion.v2t.weight"], second["generator.fusion.v2t.weight"])


@pytest.mark.parametrize(("is_trained", "changes"), [(False, False), (True, True)])
def test_stage_one_trains_the_text_encoder_in_the_negative_control_only(
    tiny_fit: FitConfig, is_trained: bool, changes: bool
) -> None:
    stage1 = replace(tiny_fit.stage1, train_text_encoder=is_trained)
    texts = [
        _weights(
            _run(
                replace(tiny_fit, stage1=replace(stage1, steps=steps), stage2=replace(tiny_fit.stage2, steps=0)),
                name=f"{steps}",
            )
        )
        for steps in (1, 5)
    ]
    name = next(name for name in texts[0] if "encoder.layers.0.fc1.weight" in name and "decoder" not in name)
    assert (not torch.equal(texts[0][name], texts[1][name])) is changes


def test_a_batch_that_workers_cannot_share_is_refused(tiny_fit: FitConfig) -> None:
    reporter = LocalReporter(run_folder(tiny_fit), keep=2)
    reporter.world_size = 3
    with pytest.raises(SettingInvalid, match=r"stage1.batch_size: got 4, must be a multiple of the 3 workers"):
        train(tiny_fit, reporter=reporter)


def test_checkpoints_hold_no_pickle(tiny_fit: FitConfig) -> None:
    config = _run(tiny_fit, name="files")
    suffixes = {path.suffix for path in run_folder(config).rglob("*") if path.is_file()}
    assert suffixes == {".safetensors", ".json", ".jsonl"}


def test_only_the_newest_checkpoints_are_kept(tiny_fit: FitConfig) -> None:
    config = _run(tiny_fit, name="kept")
    assert len(list((run_folder(config) / "checkpoints").iterdir())) == 2


@pytest.fixture
def streamed_fit(tiny_fit: FitConfig) -> FitConfig:
    """The same run from three tars in place of captions.jsonl."""
    root = tiny_fit.data.root
    for shard in range(3):
        with tarfile.open(root / f"part-{shard}.tar", "w") as tar:
            for number in range(4 * shard, 4 * shard + 4):
                text = f"a {COLOURS[number % 6]} box".encode()
                tar.add(root / f"{number}.png", arcname=f"{number}.png")
                info = tarfile.TarInfo(f"{number}.txt")
                info.size = len(text)
                tar.addfile(info, io.BytesIO(text))
    return replace(tiny_fit, data=replace(tiny_fit.data, captions_train=Path("part-{0..2}.tar")))


@pytest.mark.parametrize("checkpoints", [1, 2, 5])
def test_a_run_over_streamed_tars_goes_on_inside_an_epoch(streamed_fit: FitConfig, checkpoints: int) -> None:
    unbroken = _run(streamed_fit, name="unbroken")
    broken = replace(streamed_fit, run=replace(streamed_fit.run, name="broken"))
    with pytest.raises(InterruptedError):
        train(broken, reporter=KilledAfter(run_folder(broken), checkpoints=checkpoints))
    train(broken, reporter=LocalReporter(run_folder(broken), keep=2))
    assert losses(run_folder(broken)) == losses(run_folder(unbroken))
    assert _same(_weights(broken), _weights(unbroken))
    assert not list((streamed_fit.run.root / "cache").glob("pictures-*"))  # nothing decoded was kept


def _spoil(path: Path, *, member: str) -> None:
    with tarfile.open(path) as tar:
        place = tar.getmember(member).offset_data
    with path.open("r+b") as file:
        file.seek(place)
        file.write(b"broken!!")


def test_a_broken_picture_of_a_tar_is_named_or_replaced(streamed_fit: FitConfig) -> None:
    captions = load_corpus(streamed_fit.data).captions_train
    _spoil(captions[0].path, member=captions[0].image_id.partition("/")[2] + ".png")
    source = partial(StreamedPictures, captions, preprocess=Preprocess(image_size=16), seed=0, rank=0, world_size=1)
    with pytest.raises(DataLineInvalid, match=rf"part-\d\.tar \(image_id {captions[0].image_id}\)"):
        source(skip_bad=False).draw(0, size=len(captions))
    drawn = source(skip_bad=True).draw(0, size=len(captions))
    assert set(drawn.rows_B.tolist()) == set(range(1, len(captions)))
    assert len(drawn.pixels_BCHW) == len(captions)


def test_a_run_leaves_out_what_it_was_told_to_skip(streamed_fit: FitConfig, tmp_path: Path) -> None:
    """In stage 1, in the store of stage 2 and in the evaluation."""
    captions = load_corpus(streamed_fit.data).captions_train
    _spoil(captions[0].path, member=captions[0].image_id.partition("/")[2] + ".png")
    held_out = load_corpus(streamed_fit.data).captions_val
    _spoil(held_out[0].path, member=held_out[0].image_id.partition("/")[2] + ".png")
    config = replace(streamed_fit, data=replace(streamed_fit.data, skip_bad=True))
    text = io.StringIO()
    outcome = fit(config, console=Console(file=text, width=120))
    assert outcome.scores["num_captions"] == len(held_out) - 1
    assert f"skipped 1 of {len(captions)} training pictures" in text.getvalue()


def test_odd_dialogues_are_trained_on_measured_and_answered(tiny_fit: FitConfig, tmp_path: Path) -> None:
    """Nobody opened it, one turn alone, words that no training text has."""
    odd = [(), ("hi",), ("żółw 龜 xyzzy?",), ("hi", "what is box 3")]
    dialogues = [DialogueRecord(id=str(n), context=odd[n % 4], response=f"it is {n}") for n in range(16)]
    for name, part in (("odd.jsonl", [one for one in dialogues if one.context != odd[2]]), ("val.jsonl", dialogues)):
        write_dialogues(tiny_fit.data.root / name, part)
    data = replace(tiny_fit.data, dialogues_train=Path("odd.jsonl"), dialogues_val=Path("val.jsonl"))
    outcome = fit(replace(tiny_fit, data=data), console=Console(quiet=True))
    assert outcome.scores["perplexity"] > 1
    release = Registry(tiny_fit.registry).fetch(outcome.manifest.release_id, into=tmp_path / "fetched")
    served = load_generator(release)
    for turns in odd[1:]:
        prepared = served.prepare(list(turns))
        assert served.generate(prepared, max_new_tokens=4).num_tokens > 0
