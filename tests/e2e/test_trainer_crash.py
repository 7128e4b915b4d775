"""A worker of a Ray Train run is killed in the middle; the run goes on from its checkpoint and publishes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sightline.registry import Registry
from trainer.journal import losses, read_journal

ROOT = Path(__file__).resolve().parents[2]
STARTED_WITHIN_S = 240.0
ENDED_WITHIN_S = 600.0

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


def _fit(folder: Path, name: str, *options: str) -> subprocess.Popen[bytes]:
    command = [
        *(
            sys.executable,
            "-m",
            "trainer",
            "fit",
            "toytown-smoke",
            "--run.name",
            name,
            "--run.root",
            str(folder / "runs"),
        ),
        *("--registry", str(folder / "registry"), "--data.root", str(folder / "toytown"), "--channel", "stable"),
        *("--stage1.steps", "60", "--stage2.steps", "10", "--run.checkpoint_every", "5", *options),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (folder / f"{name}.log").open("w") as log:
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)


def _wait(condition: Callable[[], bool], *, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + STARTED_WITHIN_S
    while not condition():
        assert process.poll() is None, "the run ended before it could be disturbed"
        assert time.monotonic() < end, "the run did not start in time"
        threading.Event().wait(0.05)


def _has_checkpoint(journal: Path) -> bool:
    """True once Ray's controller, which looks twice a second, knows a checkpoint and seven steps were logged."""
    known = journal / "checkpoint_manager_snapshot.json"
    try:
        found = json.loads(known.read_text())["checkpoint_results"]
    except (FileNotFoundError, json.JSONDecodeError):  # not yet there, or half written
        return False
    return len(losses(journal)) >= 7 and bool(found)


def test_a_run_that_diverges_ends_at_once_with_the_step_and_publishes_nothing(tmp_path: Path) -> None:
    process = _fit(tmp_path, "wild", "--stage1.learning_rate", "1e30", "--stage1.warmup_share", "0")
    assert process.wait(timeout=ENDED_WITHIN_S) == 2
    assert "error: contrastive: step 2 has loss nan" in (tmp_path / "wild.log").read_text()
    events = [row["event"] for row in read_journal(tmp_path / "runs" / "wild")]
    assert events.count("start") == 1, "what diverged would do so again"
    assert Registry(str(tmp_path / "registry")).releases() == []


def test_a_run_whose_worker_is_killed_resumes_and_publishes(tmp_path: Path) -> None:
    process = _fit(tmp_path, "killed", "--run.num_workers", "2")
    journal = tmp_path / "runs" / "killed"
    _wait(lambda: _has_checkpoint(journal), process=process)
    started = [row for row in read_journal(journal) if row["event"] == "start"]
    os.kill(started[0]["pid"], signal.SIGKILL)
    assert process.wait(ENDED_WITHIN_S) == 0, (tmp_path / "killed.log").read_text()[-3000:]
    rows = read_journal(journal)
    starts = [row for row in rows if row["event"] == "start"]
    assert len(starts) == 2
    assert starts[1]["step"] >= 5
    steps = [(stage, step) for stage, step, _ in losses(journal)]
    assert steps == [("contrastive", n + 1) for n in range(60)] + [("generative", n + 1) for n in range(10)]
    state = Registry(str(tmp_path / "registry")).channel("stable")
    assert state is not None
    assert state.release_id == rows[-1]["release_id"]


def test_the_same_recipe_and_seed_give_the_same_losses_with_a_crash_and_without(tmp_path: Path) -> None:
    options = ("--run.num_workers", "1", "--run.threads_per_worker", "1")
    whole = _fit(tmp_path, "whole", *options)
    assert whole.wait(ENDED_WITHIN_S) == 0, (tmp_path / "whole.log").read_text()[-3000:]
    killed = _fit(tmp_path, "killed", *options)
    journal = tmp_path / "runs" / "killed"
    _wait(lambda: _has_checkpoint(journal), process=killed)
    os.kill(next(row["pid"] for row in read_journal(journal) if row["event"] == "start"), signal.SIGKILL)
    assert killed.wait(ENDED_WITHIN_S) == 0, (tmp_path / "killed.log").read_text()[-3000:]
    assert losses(journal) == losses(tmp_path / "runs" / "whole")
