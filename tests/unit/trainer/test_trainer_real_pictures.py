"""A whole fit over other people's files where they lie: COCO's folders, a tar of WebDataset, Topical-Chat's talk."""

from __future__ import annotations

import io
import shutil
import tarfile
from pathlib import Path

import pytest

from examples.emoji.chats import read_chats
from sightline.data.dialogues import write_dialogues
from sightline.data.lines import SkipReport
from sightline.registry import Registry
from trainer.__main__ import ERROR_EXIT, main
from trainer.journal import read_journal

FEW_STEPS = (
    *("--run.num_workers", "0", "--run.threads_per_worker", "1", "--run.name", "run", "--run.log_every", "1"),
    *(
        "--model.image_size",
        "32",
        "--model.vision_layers",
        "1",
        "--model.vision_width",
        "32",
        "--model.text_width",
        "32",
    ),
    *("--model.text_layers", "1", "--model.decoder_layers", "1", "--model.vocab_size", "1000"),
    *("--model.token_grid", "2", "--stage1.steps", "3", "--stage1.batch_size", "8"),
    *("--stage2.steps", "3", "--stage2.batch_size", "8", "--evaluation.max_dialogues", "20"),
)


@pytest.fixture
def talk(shared_data: Path, tmp_path: Path) -> list[str]:
    """Arguments that name real dialogues, and folders to train in."""
    folder = shared_data / "topical_chat"
    if not folder.is_dir():
        pytest.skip("topical_chat is not among the real data")
    write_dialogues(tmp_path / "talk.jsonl", read_chats(folder, report=SkipReport())["train"][:120])
    runs = ["--registry", str(tmp_path / "registry"), "--run.root", str(tmp_path / "runs"), "--channel", "stable"]
    return ["--data.dialogues_train", str(tmp_path / "talk.jsonl"), *runs, *FEW_STEPS]


def metrics_of(folder: Path) -> dict[str, float]:
    registry = Registry(str(folder / "registry"))
    state = registry.channel("stable")
    assert state is not None
    return dict(registry.manifest(state.release_id).metrics)


@pytest.mark.slow
@pytest.mark.data
def test_coco_trains_where_it_lies(shared_data: Path, talk: list[str], tmp_path: Path) -> None:
    coco = shared_data / "coco_mini"
    if not coco.is_dir():
        pytest.skip("coco_mini is not among the real data")
    captions = [f"annotations/captions_{split}2017.json" for split in ("train", "val")]
    own = ["--data.root", str(coco), "--data.captions_train", captions[0], "--data.captions_val", captions[1]]
    assert main(["fit", "folder", *own, "--data.pool", "val2017", *talk]) == 0
    scores = metrics_of(tmp_path)
    assert scores["num_captions"] == 395
    steps = [event["stage"] for event in read_journal(tmp_path / "runs" / "run") if event["event"] == "step"]
    assert steps == ["contrastive"] * 3 + ["generative"] * 3


@pytest.mark.slow
@pytest.mark.data
def test_a_web_dataset_trains_where_it_lies(shared_data: Path, talk: list[str], tmp_path: Path) -> None:
    tars = shared_data / "cc12m_sample"
    if not tars.is_dir():
        pytest.skip("cc12m_sample is not among the real data")
    own = ["--data.captions_train", str(tars), "--data.captions_val", str(tars), "--data.pool", str(tars)]
    assert main(["fit", "folder", *own, *talk]) == 0
    assert metrics_of(tmp_path)["num_captions"] == 32


@pytest.mark.slow
@pytest.mark.data
def test_a_spoilt_picture_of_a_web_dataset_is_named_by_tar_and_sample(
    shared_data: Path, talk: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if not (shared_data / "cc12m_sample").is_dir():
        pytest.skip("cc12m_sample is not among the real data")
    (genuine,) = (shared_data / "cc12m_sample").glob("*.tar")
    spoilt = tmp_path / "spoilt.tar"
    shutil.copyfile(genuine, spoilt)
    name = spoil_one(spoilt)
    assert main(["fit", "folder", "--data.captions_train", str(spoilt), *talk]) == ERROR_EXIT
    said = capsys.readouterr().err
    assert "spoilt.tar" in said
    assert name in said


def spoil_one(path: Path) -> str:
    """The sample whose picture was replaced by text, in place."""
    with tarfile.open(path) as tar:
        members = [(member, tar.extractfile(member)) for member in tar.getmembers()]
        parts = [(member, file.read()) for member, file in members if file is not None]
    first = next(member.name for member, _ in parts if member.name.endswith(".jpg"))
    with tarfile.open(path, "w") as tar:
        for member, data in parts:
            content = b"no picture" if member.name == first else data
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return Path(first).stem
