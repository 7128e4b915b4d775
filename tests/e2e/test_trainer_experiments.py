"""`python -m trainer experiments` as a person calls it: on Ray, killed half-way, and called again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = ("--stage1.steps", "2", "--stage2.steps", "2", "--evaluation.max_questions", "16")

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


def _command(out: Path) -> list[str]:
    call = ("-m", "trainer", "experiments", "zrigf", "--quick", "--only", "ablation", "--seeds", "0", "1")
    return [sys.executable, *call, "--out", str(out), "--", *SETTINGS]


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return {**kept, "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}


def _kill_after_first_model(out: Path) -> None:
    running = subprocess.Popen(
        _command(out), cwd=ROOT, env=_environment(), stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        while not any((out / "models").glob("*/model.safetensors")):
            assert running.poll() is None, "the run ended before it trained a model"
            time.sleep(0.2)
    finally:
        os.killpg(running.pid, signal.SIGKILL)
        running.wait(60)


def _run(out: Path) -> str:
    done = subprocess.run(_command(out), cwd=ROOT, env=_environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_killed_run_goes_on_and_a_finished_one_has_nothing_to_do(tmp_path: Path) -> None:
    _kill_after_first_model(tmp_path)
    first = _run(tmp_path)
    assert "14 cells of 14 models" in first
    assert " 0 tasks to run" not in first
    assert " 0 tasks to run" in _run(tmp_path)
    rows = json.loads((tmp_path / "results.json").read_text())
    cells = ["full", "no-tim", "no-tamim", "no-mf", "no-it", "no-stage1", "text-only"]
    assert [row["cell"] for row in rows if row["metric"] == "grounded_accuracy"] == cells
    assert all(row["seeds"] == [0, 1] for row in rows)
    assert not list((tmp_path / "runs").glob("*/checkpoints"))
