"""`sightline releases`: what a person sees, and the one line they see when it cannot be done."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sightline.cli import main
from sightline.registry import Manifest, Registry

Publish = Callable[..., Manifest]


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.setenv("SIGHTLINE_REGISTRY", str(tmp_path / "registry"))
    monkeypatch.setenv("COLUMNS", "200")
    return Registry(str(tmp_path / "registry"))


@pytest.fixture
def sightline(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Run `sightline releases ...`; gives the exit code and what was printed to either stream."""

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["sightline", "releases", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        captured = capsys.readouterr()
        return int(stopped.value.code or 0), captured.out + captured.err

    return run


Run = Callable[..., tuple[int, str]]


def test_list_shows_every_release_and_its_channels(local: Registry, publish: Publish, sightline: Run) -> None:
    ids = [publish(local, seed=seed).release_id for seed in range(2)]
    local.promote("stable", ids[1], expected_generation=None)
    code, text = sightline("list")
    assert code == 0
    assert all(release_id[7:19] in text for release_id in ids)
    assert "stable (1)" in text


def test_list_fits_a_terminal_of_eighty_columns(
    local: Registry, publish: Publish, sightline: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    manifest = publish(local)
    for channel in ("canary", "stable"):
        local.promote(channel, manifest.release_id, expected_generation=None)
    _, text = sightline("list")
    assert all(each in text for each in (manifest.release_id[7:19], manifest.embedding_space_id, "stable (1)"))
    assert "…" not in text


def test_list_of_an_empty_registry_says_so(local: Registry, sightline: Run) -> None:
    assert sightline("list") == (0, f"No release in {local.uri}.\n")


def test_list_shows_what_is_damaged_beside_what_is_not(local: Registry, publish: Publish, sightline: Run) -> None:
    ids = [publish(local, seed=seed).release_id for seed in range(2)]
    (Path(local.uri) / "releases" / ids[0] / "manifest.json").write_text("{")
    code, text = sightline("list")
    assert code == 0
    assert f"unreadable: {ids[0]}" in text
    assert ids[1][7:19] in text


def test_show_names_the_files_the_metrics_and_the_lineage(local: Registry, publish: Publish, sightline: Run) -> None:
    manifest = publish(local, seed=7, recall=0.5)
    code, text = sightline("show", manifest.release_id[7:15])
    assert code == 0
    assert all(name in text for name in (*manifest.files, "metrics.recall", "lineage.seed", manifest.release_id))


def test_promote_and_rollback_move_the_channel(local: Registry, publish: Publish, sightline: Run) -> None:
    ids = [publish(local, seed=seed).release_id for seed in range(2)]
    for release_id in ids:
        assert sightline("promote", release_id)[0] == 0
    code, text = sightline("rollback")
    assert (code, text) == (0, f"stable: generation 3, {ids[0][7:19]} (was {ids[1][7:19]})\n")


def test_a_channel_names_a_release_for_another_channel(local: Registry, publish: Publish, sightline: Run) -> None:
    manifest = publish(local)
    sightline("promote", manifest.release_id, "--channel", "canary")
    assert sightline("promote", "canary", "--channel", "stable")[0] == 0
    state = local.channel("stable")
    assert state is not None
    assert state.release_id == manifest.release_id


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("show", "nothing"), "'nothing' names no release"),
        (("show", "sha256-"), "names 2 releases"),
        (("rollback",), "no earlier release"),
        (("promote", "sha256-0", "--channel", "Not A Channel"), "error: "),
        (("list", "--registry", "nosuch://x"), "cannot open 'nosuch://x'"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_code_2(
    local: Registry, publish: Publish, sightline: Run, arguments: tuple[str, ...], said: str
) -> None:
    for seed in range(2):
        publish(local, seed=seed)
    code, text = sightline(*arguments)
    assert code == 2
    assert said in text
    assert len(text.splitlines()) == 1


def test_a_conflict_names_both_generations(local: Registry, publish: Publish, sightline: Run) -> None:
    manifest = publish(local)
    code, text = sightline("promote", manifest.release_id, "--expect", "4")
    assert (code, text) == (2, "error: channel stable: expected generation 4, it is at 0\n")


@pytest.mark.slow
def test_the_registry_loads_neither_torch_nor_grpc() -> None:
    code = (
        "import sys, sightline.registry, sightline.cli, sightline.cli.releases;"
        "print({'torch', 'grpc', 'ray'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
