"""A whole fit in this process: what it publishes, what it refuses, and how it is told so."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from sightline.models.composer import build_composer
from sightline.models.composer_config import ComposerConfig
from sightline.models.release import load_encoder, load_generator, load_model, save_release
from sightline.registry import Registry
from trainer.__main__ import ERROR_EXIT, main
from trainer.config import FitConfig, GateSettings
from trainer.fit import evaluate_release, fit
from trainer.journal import read_journal
from trainer.publish import GateRefused
from trainer.runs import run_folder


@pytest.fixture
def console() -> Console:
    return Console(quiet=True)


@pytest.mark.slow
def test_a_fit_publishes_a_release_that_services_can_load(
    tiny_fit: FitConfig, console: Console, tmp_path: Path
) -> None:
    outcome = fit(replace(tiny_fit, channel="stable"), console=console)
    registry = Registry(tiny_fit.registry)
    state = registry.channel("stable")
    assert state is not None
    assert (state.generation, state.release_id) == (1, outcome.manifest.release_id)
    folder = registry.fetch(state.release_id, into=tmp_path / "fetched")
    encoder, generator = load_encoder(folder, dtype="float32"), load_generator(folder, dtype="float32")
    encoder.check_golden()
    generator.check_golden()
    assert encoder.embedding_space_id == generator.embedding_space_id == outcome.manifest.embedding_space_id
    assert outcome.manifest.lineage["recipe"] == tiny_fit.recipe


@pytest.mark.slow
def test_two_runs_that_begin_in_one_second_are_two(
    tiny_fit: FitConfig, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.runs.time.strftime", lambda _: "now")
    for num_images in (1, 2):
        changed = replace(tiny_fit, stage2=replace(tiny_fit.stage2, num_images=num_images))
        fit(replace(changed, run=replace(changed.run, name="")), console=console)
    assert {path.name for path in tiny_fit.run.root.glob("*-now*")} == {"folder-0-now", "folder-0-now-2"}


@pytest.mark.slow
def test_what_the_trainer_measured_is_what_the_published_release_scores(tiny_fit: FitConfig, console: Console) -> None:
    outcome = fit(replace(tiny_fit, channel="stable"), console=console)
    assert evaluate_release("stable", config=tiny_fit) == outcome.scores


@pytest.mark.slow
def test_a_refused_release_is_not_published_and_moves_no_channel(tiny_fit: FitConfig, console: Console) -> None:
    strict = replace(tiny_fit, channel="stable", gate=GateSettings(min_caption_recall_at_10=1.1))
    with pytest.raises(GateRefused, match="caption_recall_at_10"):
        fit(strict, console=console)
    registry = Registry(tiny_fit.registry)
    assert registry.releases() == []
    assert registry.channel("stable") is None
    assert read_journal(run_folder(strict))[-1]["refusals"]


@pytest.mark.slow
def test_a_forced_fit_publishes_what_the_gate_refused(tiny_fit: FitConfig, console: Console) -> None:
    gate = GateSettings(min_caption_recall_at_10=1.1)
    assert fit(replace(tiny_fit, gate=gate, force_publish=True), console=console).manifest


@pytest.mark.slow
def test_continuing_a_release_without_stage_one_keeps_its_embedding_space(
    tiny_fit: FitConfig, console: Console
) -> None:
    first = fit(replace(tiny_fit, channel="stable"), console=console)
    again = replace(
        tiny_fit,
        channel="stable",
        init_from="stable",
        stage1=replace(tiny_fit.stage1, steps=0),
        run=replace(tiny_fit.run, name="again"),
    )
    second = fit(again, console=console)
    assert second.manifest.release_id != first.manifest.release_id
    assert second.manifest.embedding_space_id == first.manifest.embedding_space_id
    assert second.channel is not None
    assert second.channel.generation == 2


@pytest.mark.slow
def test_continuing_a_release_with_stage_one_gives_a_new_embedding_space(tiny_fit: FitConfig, console: Console) -> None:
    first = fit(replace(tiny_fit, channel="stable"), console=console)
    again = replace(tiny_fit, init_from="stable", run=replace(tiny_fit.run, name="again"))
    assert fit(again, console=console).manifest.embedding_space_id != first.manifest.embedding_space_id


@pytest.mark.slow
def test_a_composer_is_passed_on_while_its_embedding_space_stays(
    tiny_fit: FitConfig, console: Console, tmp_path: Path
) -> None:
    stable = give_a_composer(fit(tiny_fit, console=console).manifest.release_id, config=tiny_fit, folder=tmp_path)
    again = replace(tiny_fit, init_from=stable, run=replace(tiny_fit.run, name="again"))
    second = fit(replace(again, stage1=replace(tiny_fit.stage1, steps=0)), console=console).manifest
    folders = [Registry(tiny_fit.registry).fetch(one, into=tmp_path) for one in (stable, second.release_id)]
    first, kept = (load_model(folder).composer for folder in folders)
    assert first is not None
    assert kept is not None
    assert all(kept.state_dict()[name].equal(value) for name, value in first.state_dict().items())
    load_encoder(folders[1], dtype="float32").check_golden()


@pytest.mark.slow
def test_a_composer_is_left_out_aloud_where_stage_one_leaves_its_embedding_space(
    tiny_fit: FitConfig, console: Console, tmp_path: Path
) -> None:
    stable = give_a_composer(fit(tiny_fit, console=console).manifest.release_id, config=tiny_fit, folder=tmp_path)
    again = replace(tiny_fit, init_from=stable, run=replace(tiny_fit.run, name="again"))
    said = io.StringIO()
    assert not fit(again, console=Console(file=said)).manifest.architecture["has_composer"]
    assert "composer" in said.getvalue()
    assert [row["is_kept"] for row in read_journal(run_folder(again)) if row["event"] == "composer"] == [False]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["fit", "toytown-tyni"], "toytown-tiny"),
        (["fit", "toytown-tiny", "--stage1.stepz", "3"], "stage1.steps"),
        (["fit", "toytown-tiny", "--stage1.steps", "many"], "expected int"),
        (["fit", "toytown-tiny", "--stage1.steps"], "needs a value"),
        (["fit", "folder", "--data.root", "nowhere"], "nowhere"),
    ],
)
def test_a_wrong_command_says_what_would_be_right(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments]) == ERROR_EXIT
    assert said in capsys.readouterr().err


def give_a_composer(release_id: str, *, config: FitConfig, folder: Path) -> str:
    """The id of the same release with an untrained composer."""
    registry = Registry(config.registry)
    loaded = load_model(registry.fetch(release_id, into=folder / "fetched"))
    composer = build_composer(
        ComposerConfig(),
        tower=loaded.model.tower,
        tokenizer=loaded.tower_tokenizer,
        embedding_space_id=loaded.embedding_space_id,
    )
    architecture = save_release(
        folder / "composing",
        model=loaded.model,
        tower_tokenizer=loaded.tower_tokenizer,
        dialogue_tokenizer=loaded.dialogue_tokenizer,
        composer=composer.eval(),
    )
    return registry.publish(folder / "composing", architecture=architecture, metrics={}, lineage={}).release_id
