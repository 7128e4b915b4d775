"""`python -m trainer COMMAND`, also as `python trainer/ COMMAND`; `--help` lists the commands."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:
    # `python trainer/` puts this folder on the path in place of the one above it.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sightline.errors import SettingInvalid, SightlineError, UsageError
from sightline.settings import nearest
from trainer.benchmarks.command import add_benchmark
from trainer.composing.config import ComposeConfig
from trainer.composing.recipes import COMPOSED_RECIPES, composed_recipe
from trainer.composing.run import compose
from trainer.config import FitConfig, flatten
from trainer.dialogue_report import DialogueFiles, evaluate_on_dialogues, report_table, write_report
from trainer.dialogue_scores import LOOKS, RETRIEVED
from trainer.evaluate import Scores
from trainer.fit import evaluate_release, fit, score_table
from trainer.overrides import apply_overrides
from trainer.pretrain import pretrain, pretraining_of
from trainer.publish import GateRefused
from trainer.recipes import RECIPES, recipe
from trainer.triplets.command import add_arguments, make_triplets

GATE_REFUSED_EXIT, ERROR_EXIT = 3, 2


def main(arguments: Sequence[str]) -> int:
    """The exit code of one command: 0, 2 for an error, 3 if the gate refused."""
    parser = _parser()
    known, settings = parser.parse_known_args(arguments)
    # What files and servers say is shown as it is, never read as markup, nor ":100:" as an emoji.
    console = Console(markup=False, emoji=False)
    try:
        known.run(known, settings, console)
    except GateRefused as error:
        console.print(_told("not published:", error), soft_wrap=True)
        return GATE_REFUSED_EXIT
    except SightlineError as error:
        Console(stderr=True).print(_told("error:", error), soft_wrap=True)
        return ERROR_EXIT
    return 0


def _told(what: str, error: SightlineError) -> Text:
    return Text.assemble((what, "red"), f" {error.message}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m trainer", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("fit", help="train a recipe and publish what passes its gate", allow_abbrev=False)
    command.add_argument("recipe", help="a recipe's name; every setting follows as --name value")
    command.set_defaults(run=_fit)
    text = "make the small BART that a recipe names as its decoder, from the recipe's own texts"
    command = commands.add_parser("pretrain", help=text, allow_abbrev=False)
    command.add_argument("recipe", help="a recipe's name; every setting follows as --name value")
    command.set_defaults(run=_pretrain)
    text = "give a release a composer: textual inversion from captions, then dual alignment from edits"
    command = commands.add_parser("compose", help=text, allow_abbrev=False)
    command.add_argument("recipe", help="a composer recipe's name; every setting follows as --name value")
    command.set_defaults(run=_compose)
    text = "write edits of captioned pictures, to learn composed retrieval from; a run that stopped is gone on with"
    command = commands.add_parser("triplets", help=text, allow_abbrev=False)
    add_arguments(command)
    command.set_defaults(run=_triplets)
    _add_evaluate(commands.add_parser("evaluate", help="measure a published release", allow_abbrev=False))
    text = "measure composed retrieval: circo, cirr, fashioniq, genecis, or queries of your own"
    add_benchmark(commands.add_parser("benchmark", help=text, allow_abbrev=False))
    _add_experiments(commands)
    command = commands.add_parser("recipes", help="list the recipes, or every setting of one", allow_abbrev=False)
    command.add_argument("recipe", nargs="?", default="")
    command.set_defaults(run=_recipes)
    return parser


def _add_experiments(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "train and measure many models and report what they show; what was done before is not done again"
    command = commands.add_parser("experiments", help=text, allow_abbrev=False)
    command.add_argument("suite", help="zrigf or composed")
    command.add_argument("--quick", action="store_true", help="small models and few steps: a smoke test in minutes")
    command.add_argument("--recipe", default="", metavar="NAME", help="towers and data of another recipe")
    command.add_argument("--only", default="", metavar="NAME", help="run one experiment of the suite")
    command.add_argument("--out", type=Path, help="folder to write; var/experiments/SUITE[-RECIPE] by default")
    command.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of each cell")
    command.add_argument("--local", action="store_true", help="one task after the other in this process, without Ray")
    command.set_defaults(run=_experiments)


def _experiments(known: argparse.Namespace, settings: list[str], console: Console) -> None:
    # Imported here: plots and pages are nothing that a training needs.
    from trainer.experiments.run import Order, base_config, run_experiments, suite_named

    suite = suite_named(known.suite)
    name = "-".join(filter(None, [known.suite, known.recipe, "quick" if known.quick else ""]))
    order = Order(
        out=known.out or Path("var/experiments") / name,
        recipe=known.recipe,
        is_quick=known.quick,
        only=known.only,
        seeds=tuple(known.seeds),
        is_local=known.local,
        settings=tuple(settings[1:] if settings[:1] == ["--"] else settings),
    )
    run_experiments(suite, base=base_config(suite, order), order=order, console=console)


def _add_evaluate(command: argparse.ArgumentParser) -> None:
    command.add_argument("release", help="a release id or a channel")
    command.add_argument("--recipe", default="toytown-tiny", help="the recipe whose data is asked, unless files are")
    command.add_argument("--json", type=Path, help="file to write every score to")
    files = command.add_argument_group("to measure it on dialogues of your own")
    files.add_argument("--dialogues", type=Path, help="a JSONL of dialogues")
    files.add_argument("--pool", type=Path, help="a folder of pictures, or a JSONL of them")
    files.add_argument("--word-vectors", type=Path, help="a text file of word vectors, for the embedding scores")
    files.add_argument("--pictures", choices=LOOKS, help=f"what replies look at (default: {RETRIEVED})")
    files.add_argument("--out", type=Path, help="folder to write scores.json and predictions.jsonl to")
    command.set_defaults(run=_evaluate)


def _fit(known: argparse.Namespace, settings: list[str], console: Console) -> None:
    fit(apply_overrides(recipe(known.recipe), arguments=settings), console=console)


def _pretrain(known: argparse.Namespace, settings: list[str], console: Console) -> None:
    pretrain(apply_overrides(pretraining_of(recipe(known.recipe)), arguments=settings), console=console)


def _triplets(known: argparse.Namespace, settings: list[str], console: Console) -> None:
    if settings:
        raise UsageError(f"triplets: no option {settings[0]}; python -m trainer triplets --help lists them")
    make_triplets(known, console=console)


def _compose(known: argparse.Namespace, settings: list[str], console: Console) -> None:
    compose(apply_overrides(composed_recipe(known.recipe), arguments=settings), console=console)


def _evaluate(known: argparse.Namespace, settings: list[str], console: Console) -> None:
    config = apply_overrides(recipe(known.recipe), arguments=settings)
    if known.json:
        known.json.parent.mkdir(parents=True, exist_ok=True)
    if known.dialogues and known.pool:
        scores = _evaluate_files(known, config=config, console=console)
    elif any((known.dialogues, known.pool, known.word_vectors, known.pictures, known.out)):
        raise UsageError("evaluate: --dialogues and --pool go together, and the options of own dialogues need both")
    else:
        scores = evaluate_release(known.release, config=config)
        console.print(score_table(scores))
    if known.json:
        known.json.write_text(json.dumps(scores, indent=2) + "\n", encoding="utf-8")


def _evaluate_files(known: argparse.Namespace, *, config: FitConfig, console: Console) -> Scores:
    files = DialogueFiles(dialogues=known.dialogues, pool=known.pool, word_vectors=known.word_vectors)
    look = known.pictures or RETRIEVED
    report = evaluate_on_dialogues(known.release, files=files, look=look, config=config, console=console)
    console.print(report_table(report))
    if known.out:
        write_report(known.out, report)
        console.print(f"wrote {known.out}", soft_wrap=True)
    return report.measured.scores


def _recipes(known: argparse.Namespace, settings: list[str], console: Console) -> None:
    if not known.recipe:
        console.print("\n".join([*RECIPES, *(f"{name} (of a composer)" for name in COMPOSED_RECIPES)]))
        return
    config = apply_overrides(any_recipe(known.recipe), arguments=settings)
    table = Table("setting", "value", show_edge=False)
    for name, (_, value) in flatten(config).items():
        table.add_row(f"--{name}", str(value))
    console.print(table)


def any_recipe(name: str) -> FitConfig | ComposeConfig:
    """The recipe of that name, a model's or a composer's. Raises SettingInvalid naming the nearest ones."""
    recipes: dict[str, FitConfig | ComposeConfig] = {**RECIPES, **COMPOSED_RECIPES}
    if name not in recipes:
        known = list(recipes)
        raise SettingInvalid(f"no recipe {name!r}{nearest(name, known)}; known: {', '.join(known)}")
    return recipes[name]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
