"""Child processes of the demo: the trainer, the indexer, and a local Ray cluster that serves."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
SERVE_CONFIG = ROOT / "deploy" / "ray" / "serve.yaml"
STOP_GRACE_S = 30.0


class StepFailed(Exception):
    """A child process ended with an error; the message names the command and its log."""


async def run_step(arguments: Sequence[str], *, log: Path | None = None) -> None:
    """Run `python -m <arguments>` to its end, its output on the terminal or in `log`.

    Raises StepFailed if it exits with anything but 0.
    """
    with contextlib.ExitStack() as stack:
        out = stack.enter_context(log.open("w")) if log else None
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            *arguments,
            cwd=ROOT,
            stdout=out,
            stderr=subprocess.STDOUT if out else None,
            env=child_environment(),
        )
        if await process.wait() != 0:
            where = f"; see {log}" if log else ""
            raise StepFailed(f"python -m {' '.join(arguments)} exited with {process.returncode}{where}")


def child_environment(**extra: str) -> dict[str, str]:
    """The environment of a child that must not join a Ray cluster which happens to run on this machine."""
    return {**os.environ, "RAY_ADDRESS": "local", "RAY_USAGE_STATS_ENABLED": "0", "OMP_WAIT_POLICY": "passive", **extra}


def free_port() -> int:
    """A TCP port of the loopback interface that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def write_serve_config(path: Path, *, port: int, variables: dict[str, dict[str, str]]) -> Path:
    """The deployed Serve configuration with this run's port and, for each application, its own variables."""
    config = yaml.safe_load(SERVE_CONFIG.read_text())
    config["grpc_options"]["port"] = port
    config["http_options"] = {"host": "127.0.0.1", "port": free_port()}
    for application in config["applications"]:
        present = application.setdefault("runtime_env", {}).setdefault("env_vars", {})
        for name, value in present.items():
            present[name] = f"127.0.0.1:{port}" if name.endswith("_ADDRESS") else value
        present.update(variables.get(application["name"], {}))
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path


@contextlib.asynccontextmanager
async def serving(config: Path, *, log: Path) -> AsyncIterator[None]:
    """Run `serve run <config>` on a Ray cluster of its own until the block ends."""
    with (
        tempfile.TemporaryDirectory(prefix="sightline-", ignore_cleanup_errors=True) as ray_folder,
        log.open("w") as out,
    ):
        process = await asyncio.create_subprocess_exec(
            str(Path(sys.executable).with_name("serve")),
            "run",
            str(config),
            cwd=ROOT,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=child_environment(RAY_TMPDIR=ray_folder, OMP_NUM_THREADS="1"),
        )
        try:
            yield
            if process.returncode is not None:
                raise StepFailed(f"serve run ended with {process.returncode}; see {log}")
        finally:
            await stop(process)


async def stop(process: asyncio.subprocess.Process) -> None:
    """Interrupt a process group, and kill it if it has not ended after STOP_GRACE_S."""
    if process.returncode is None:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(process.wait(), STOP_GRACE_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
