"""The documented `ray job submit` commands train and publish on a cluster."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sightline.registry import Registry
from trainer.journal import losses

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    ours = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    return {**kept, **ours, "PATH": f"{BIN}:{os.environ['PATH']}"}


@pytest.fixture(scope="module")
def dashboard() -> Iterator[str]:
    """The address of a Ray cluster of this test's own."""
    port = _free_port()
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        head = subprocess.Popen(
            [
                *(BIN / "ray", "start", "--head", "--block", "--num-cpus", "2", "--port", str(_free_port())),
                *("--dashboard-port", str(port), "--ray-client-server-port", str(_free_port()), "--temp-dir", folder),
                *("--dashboard-agent-listen-port", str(_free_port()), "--dashboard-agent-grpc-port", str(_free_port())),
            ],
            env=_environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            head.terminate()
            head.wait(60)


@pytest.mark.parametrize("entrypoint", [("python", "-m", "trainer"), ("python", "trainer/")], ids=" ".join)
def test_a_submitted_job_trains_and_publishes(dashboard: str, entrypoint: tuple[str, ...], tmp_path: Path) -> None:
    command = [
        *(str(BIN / "ray"), "job", "submit", "--address", dashboard, "--working-dir", ".", "--", *entrypoint),
        *("fit", "toytown-smoke", "--stage1.steps", "3", "--stage2.steps", "3", "--channel", "stable"),
        *("--registry", str(tmp_path / "registry"), "--data.root", str(tmp_path / "toytown")),
        *("--run.root", str(tmp_path / "runs")),
    ]
    done = _submit(command)
    assert done.returncode == 0, done.stdout[-3000:]
    state = Registry(str(tmp_path / "registry")).channel("stable")
    assert state is not None
    assert state.generation == 1


def test_relative_folders_mean_the_same_to_workers_as_to_the_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "trainer", "fit", "toytown-smoke", "--stage1.steps", "2", "--stage2.steps", "2"]
    environment = {**_environment(), "PYTHONPATH": str(ROOT)}
    named = ["--data.root", "town", "--run.root", "runs", "--run.name", "one", "--registry", "registry"]
    done = subprocess.run(
        [*command, *named], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert [stage for stage, _, _ in losses(tmp_path / "runs" / "one")] == ["contrastive"] * 2 + ["generative"] * 2


def _submit(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Submit, waiting for a head that still starts."""
    for _ in range(30):
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=_environment(),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        if "Failed to connect" not in done.stdout and "Connection refused" not in done.stdout:
            return done
        subprocess.run(["sleep", "2"], check=True)
    return done
