"""The images: built from the lock by hash, run by nobody in particular, with what KubeRay expects inside."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
TARGETS = {"encoder": "encoder_svc", "retriever": "retriever_svc", "generator": "generator_svc", "trainer": "trainer"}


@pytest.fixture(scope="module")
def instructions(deploy: Path) -> list[tuple[str, str]]:
    """Every instruction with its arguments, continuation lines joined and comments left out."""
    text = (deploy / "docker" / "Dockerfile").read_text()
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#")).replace("\\\n", " ")
    return [(line.split(None, 1)[0], " ".join(line.split()[1:])) for line in lines.splitlines() if line.strip()]


def test_there_is_a_target_for_every_room(instructions: list[tuple[str, str]]) -> None:
    stages = [arguments for instruction, arguments in instructions if instruction == "FROM"]
    assert stages[0] == "python:3.11-slim-bookworm AS base"
    assert stages[1:] == [f"base AS {target}" for target in TARGETS]
    entries = [arguments for instruction, arguments in instructions if instruction == "ENTRYPOINT"]
    assert entries == [f'["python", "-m", "{module}"]' for module in TARGETS.values()]


def test_what_is_copied_exists_and_no_package_is_left_out(instructions: list[tuple[str, str]], deploy: Path) -> None:
    copied = {
        source for instruction, arguments in instructions if instruction == "COPY" for source in arguments.split()[:-1]
    }
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"][
        "packages"
    ]
    assert set(packages) <= copied
    assert {"requirements.lock", "bootstrap.lock", "pyproject.toml"} <= copied
    assert [source for source in copied if not (ROOT / source).exists()] == []
    ignored = (deploy / "docker" / "Dockerfile.dockerignore").read_text()
    assert {line[1:] for line in ignored.splitlines() if line.startswith("!")} == copied


def test_packages_come_from_the_lock_by_hash(instructions: list[tuple[str, str]]) -> None:
    installs = [
        command
        for instruction, arguments in instructions
        if instruction == "RUN"
        for command in re.split(r"&&|;", arguments)
        if "pip install" in command
    ]
    assert len(installs) == 3
    assert all("--require-hashes" in command or "--no-deps" in command for command in installs)


def test_nothing_runs_as_root(instructions: list[tuple[str, str]]) -> None:
    users = [arguments for instruction, arguments in instructions if instruction == "USER"]
    assert users == ["1000:1000"]


def test_the_tool_that_kuberays_probes_run_is_inside(instructions: list[tuple[str, str]]) -> None:
    assert any(instruction == "RUN" and "install" in text and "wget" in text for instruction, text in instructions)


def test_programs_are_on_every_shells_path(instructions: list[tuple[str, str]]) -> None:
    # KubeRay may start Ray through a login shell, which forgets the image's PATH.
    assert not any("venv" in arguments for _, arguments in instructions)
    assert not any(
        instruction == "ENV" and "PATH=" in f" {arguments}".replace("_PATH=", "")
        for instruction, arguments in instructions
    )
