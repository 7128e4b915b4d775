"""Command-line settings over recipes."""

from __future__ import annotations

from pathlib import Path

import pytest

from sightline.errors import SettingInvalid
from trainer.__main__ import ERROR_EXIT, main
from trainer.composing.recipes import COMPOSED_RECIPES
from trainer.config import FitConfig, flatten, from_json, to_json, training_settings
from trainer.overrides import apply_overrides
from trainer.recipes import RECIPES, recipe


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_recipe_survives_json(name: str) -> None:
    assert from_json(FitConfig, to_json(recipe(name))) == recipe(name)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_setting_of_a_recipe_can_be_written_on_the_command_line(name: str) -> None:
    config = recipe(name)
    arguments = [
        part
        for key, (_, value) in flatten(config).items()
        for part in (f"--{key}", "none" if value is None else str(value))
    ]
    assert apply_overrides(config, arguments=arguments) == config


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(SettingInvalid, match="did you mean toytown-tiny"):
        recipe("toytown-tinny")


def test_the_recipes_of_composers_are_listed_and_told_like_those_of_models(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in (*RECIPES, *COMPOSED_RECIPES))
    assert main(["recipes", "folder-composed", "--inversion.steps", "77"]) == 0
    assert "77" in next(line for line in capsys.readouterr().out.splitlines() if "inversion.steps" in line)
    assert main(["recipes", "folder-composd"]) == ERROR_EXIT
    assert "did you mean folder-composed" in capsys.readouterr().err


def test_a_dotted_setting_changes_that_field_alone() -> None:
    base = recipe("toytown-tiny")
    changed = apply_overrides(base, arguments=["--stage1.steps", "300", "--seed=2", "--data.root", "here"])
    assert (changed.stage1.steps, changed.seed, changed.data.root) == (300, 2, Path("here"))
    assert changed.stage2 == base.stage2


def test_dashes_and_underscores_are_one() -> None:
    changed = apply_overrides(recipe("toytown-tiny"), arguments=["--init-from", "stable", "--run.num-workers", "2"])
    assert (changed.init_from, changed.run.num_workers) == ("stable", 2)


def test_a_boolean_may_stand_alone() -> None:
    changed = apply_overrides(recipe("toytown-tiny"), arguments=["--force-publish", "--seed", "1"])
    assert (changed.force_publish, changed.seed) == (True, 1)


def test_none_unsets_an_optional_setting() -> None:
    changed = apply_overrides(recipe("toytown-tiny"), arguments=["--data.questions", "none"])
    assert changed.data.questions is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stage1.stepz", "3"], r"--stage1.stepz names no setting; did you mean .*stage1\.steps"),
        (["--steps", "3"], r"did you mean stage1\.steps, stage2\.steps"),
        (["--stage1.steps", "many"], "--stage1.steps: got 'many', expected int"),
        (["--stage1.steps", "3.5"], "expected int"),
        (["--force-publish", "perhaps"], "expected bool"),
        (["--stage1.steps"], "needs a value"),
        (["stage1.steps", "3"], "expected --setting value, got 'stage1.steps'"),
    ],
)
def test_a_bad_setting_is_refused_with_what_would_be_right(arguments: list[str], message: str) -> None:
    with pytest.raises(SettingInvalid, match=message):
        apply_overrides(recipe("toytown-tiny"), arguments=arguments)


def test_a_foreign_setting_in_json_is_refused() -> None:
    values = to_json(recipe("toytown-tiny")) | {"sead": 3}
    with pytest.raises(SettingInvalid, match="did you mean seed"):
        from_json(FitConfig, values)


@pytest.mark.parametrize(
    ("argument", "changes"),
    [
        ("--seed=1", True),
        ("--stage2.steps=9", True),
        ("--speed.precision=bfloat16", True),
        ("--run.name=x", False),
        ("--channel=x", False),
    ],
)
def test_what_decides_the_weights_is_recorded_and_nothing_else(argument: str, changes: bool) -> None:
    base = recipe("toytown-tiny")
    assert (training_settings(apply_overrides(base, arguments=[argument])) != training_settings(base)) is changes
