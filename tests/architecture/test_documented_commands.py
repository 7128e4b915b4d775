"""Every documented command of ours is one that its own parser takes: recipes, settings, options and their types."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer.main

from sightline.cli import app
from tests.architecture.test_house import DOCUMENTS, ROOT, documented_commands, relative
from trainer.__main__ import _compose, _parser, _recipes, any_recipe
from trainer.composing.recipes import composed_recipe
from trainer.experiments.run import Order, base_config, suite_named
from trainer.overrides import apply_overrides
from trainer.recipes import recipe

TRAINER = re.compile(r"python3? (?:-m trainer|trainer/)(?= |$)(.*)")
SIGHTLINE = re.compile(r"^(?:\S+=\S+ )*(?:\S*/)?sightline(?= )(.*)")
FINDERS: dict[Callable[..., None], Callable[[str], Any]] = {_compose: composed_recipe, _recipes: any_recipe}
"""Where a command looks its recipe up, if not among those of models."""
SHOWN = (
    *("README.md", "docs/train-your-own.md", "docs/metrics.md", "docs/composed-retrieval.md"),
    *("trainer/README.md", "examples/emoji/README.md"),
)


def calls(document: Path, *, pattern: re.Pattern[str]) -> list[list[str]]:
    """The words after the command, of each documented command that matches."""
    found = (pattern.search(command) for command in documented_commands(document))
    return [shlex.split(match.group(1), comments=True) for match in found if match]


def take_by_trainer(words: list[str]) -> None:
    """Parse as `python -m trainer` does and lay the settings over the recipe; raises what a user would be told."""
    known, settings = _parser().parse_known_args(words)
    if hasattr(known, "suite"):
        rest = tuple(settings[1:] if settings[:1] == ["--"] else settings)
        order = Order(
            out=Path(),
            recipe=known.recipe,
            is_quick=known.quick,
            only=known.only,
            seeds=(0,),
            is_local=True,
            settings=rest,
        )
        base_config(suite_named(known.suite), order=order)
    elif hasattr(known, "captions") or hasattr(known, "benchmark"):
        assert settings == [], f"no option {settings[0]}"
    elif known.recipe:
        apply_overrides(FINDERS.get(known.run, recipe)(known.recipe), arguments=settings)


def take_by_sightline(words: list[str]) -> None:
    """Parse as `sightline` does, down to the last subcommand, without doing anything."""
    command: Any = typer.main.get_command(app)
    rest = list(words)
    # `chat` is a group that also does something by itself.
    while hasattr(command, "get_command") and rest and not rest[0].startswith("-"):
        name = rest.pop(0)
        command = command.get_command(None, name)
        assert command is not None, f"sightline has no command {name!r}"
    with command.make_context("sightline", rest):
        pass


@pytest.mark.parametrize("document", DOCUMENTS, ids=relative)
def test_the_trainer_takes_every_command_that_is_documented(document: Path) -> None:
    for words in calls(document, pattern=TRAINER):
        take_by_trainer(words)


@pytest.mark.parametrize("document", DOCUMENTS, ids=relative)
def test_sightline_takes_every_command_that_is_documented(document: Path) -> None:
    for words in calls(document, pattern=SIGHTLINE):
        take_by_sightline(words)


@pytest.mark.parametrize("name", SHOWN)
def test_the_guides_show_commands_to_check(name: str) -> None:
    assert calls(ROOT / name, pattern=TRAINER)


@pytest.mark.parametrize(
    "words",
    [
        "fit folder --data.rot x",
        "fit foldr",
        "fit folder --stage1.steps many",
        "evaluate stable --dialogs x",
        "triplets a.jsonl --out b.jsonl --seeed 1",
        "compose toytown-tiny",
        "experiments composed --recipe emojj",
        "recipes folder-composd",
        "compose toytown-composed --alignment.stepps 1",
    ],
)
def test_a_command_that_the_trainer_would_refuse_is_found(words: str) -> None:
    with pytest.raises((Exception, SystemExit)):
        take_by_trainer(words.split())


@pytest.mark.parametrize("words", ["serch x", "search x --wher a=b", "index x --batch many", "releases show"])
def test_a_command_that_sightline_would_refuse_is_found(words: str) -> None:
    with pytest.raises((Exception, SystemExit)):
        take_by_sightline(words.split())
