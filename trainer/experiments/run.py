"""One call of `python -m trainer experiments`: the world, what is missing, and the results."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from sightline.errors import UsageError
from sightline.settings import nearest
from trainer.config import DataSettings, FitConfig
from trainer.data import draw_world, load_corpus
from trainer.experiments.composed import COMPOSED
from trainer.experiments.composers import ComposerModel, train_composer_model
from trainer.experiments.plan import Cell, Suite, Trainable
from trainer.experiments.report import example_dialogues, write_report
from trainer.experiments.results import (
    Verdict,
    cell_path,
    measure_cell,
    read_outcome,
    result_rows,
    verdicts,
    write_json,
)
from trainer.experiments.schedule import Executor, LocalExecutor, Task, run_tasks
from trainer.experiments.training import is_trained, train_model
from trainer.experiments.zrigf import ZRIGF
from trainer.overrides import apply_overrides
from trainer.recipes import recipe

SUITES: Mapping[str, Suite] = {suite.name: suite for suite in (ZRIGF, COMPOSED)}
"""Every suite by name."""
_ANNOTATED = Path("dialogues_annotated.jsonl")


@dataclass(frozen=True, kw_only=True)
class Order:
    """What one call asks for."""

    out: Path
    recipe: str = ""
    """The recipe of the towers, and their data; empty is the suite's own."""
    is_quick: bool = False
    only: str = ""
    """The one experiment to run; empty runs all."""
    seeds: tuple[int, ...] = (0, 1, 2)
    is_local: bool = False
    """Run in this process, without Ray."""
    settings: tuple[str, ...] = ()
    """Trainer settings laid over the suite's recipe."""


def suite_named(name: str) -> Suite:
    """The suite of that name. Raises UsageError naming the nearest ones."""
    if name not in SUITES:
        raise UsageError(f"no suite {name!r}{nearest(name, list(SUITES))}; known: {', '.join(SUITES)}")
    return SUITES[name]


def run_experiments(suite: Suite, *, base: FitConfig, order: Order, console: Console) -> list[Verdict]:
    """Train and measure what `order.out` does not hold yet, then write results.json, claims.json and report.html.

    `base` is what every cell changes. An order of one experiment runs that one; the files hold every experiment that
    is complete. Raises UsageError for an unknown experiment or a repeated seed.
    """
    _check(suite, order)
    out = order.out.resolve()
    base = _with_world(base, out=out)
    planned = planned_cells(suite, base, order=order)
    cells = [cell for cell in planned if order.only in {"", cell.experiment}]
    if not cells:
        raise UsageError(
            f"--only: experiment {order.only!r} has nothing to measure on recipe {base.recipe} "
            f"(a {base.model.variant} model, data in {base.data.root})"
        )
    tasks = missing_tasks(cells, out)
    num_models = len({cell.model.digest for cell in cells})
    console.print(f"{len(cells)} cells of {num_models} models in {out}; {len(tasks)} tasks to run", soft_wrap=True)
    began = time.monotonic()
    if tasks:
        with _executor(order) as executor, _bars(console) as progress:
            run_tasks(tasks, executor=executor, on_done=_Ticker(progress, tasks))
    found = write_results(suite, complete_cells(planned, out), order=order, base=base)
    console.print(verdict_table(found))
    console.print(f"{time.monotonic() - began:.0f} s; {out / 'report.html'}", soft_wrap=True)
    return found


def planned_cells(suite: Suite, base: FitConfig, *, order: Order) -> list[Cell]:
    """Every cell of the suite for the order's seeds, seed by seed."""
    data_digest = load_corpus(base.data).digest
    return [cell for seed in order.seeds for cell in suite.cells(replace(base, seed=seed), data_digest)]


def complete_cells(planned: Sequence[Cell], out: Path) -> list[Cell]:
    """The cells of those experiments that lack none: cells that several share do not make another one appear."""
    lacking = {cell.experiment for cell in planned if not cell_path(cell, out).exists()}
    return [cell for cell in planned if cell.experiment not in lacking]


def missing_tasks(cells: Sequence[Cell], out: Path) -> list[Task]:
    """The trainings and measurements that `out` does not hold, each once, with what they wait for."""
    missing = {cell.digest: cell for cell in cells if not cell_path(cell, out).exists()}
    models: dict[str, Trainable] = {}
    for cell in missing.values():
        _collect(cell.model, out=out, into=models)
    trainings = [_training(model, out) for model in models.values()]
    plain = [_measuring(cell, out) for cell in missing.values() if not cell.is_timed]
    timed: list[Task] = []
    for cell in (cell for cell in missing.values() if cell.is_timed):
        before = (task.key for task in (timed[-1:] or [*trainings, *plain]))
        timed.append(_measuring(cell, out, after=tuple(before)))
    return [*trainings, *plain, *timed]


def write_results(suite: Suite, cells: Sequence[Cell], *, order: Order, base: FitConfig) -> list[Verdict]:
    """Write the three files from the outcomes of `cells`, all of them measured, and return the verdicts."""
    out = order.out.resolve()
    outcomes = {cell.digest: read_outcome(cell, out) for cell in cells}
    rows, found = result_rows(cells, outcomes), verdicts(suite, cells, outcomes)
    write_json(out / "results.json", rows)
    write_json(out / "claims.json", [asdict(verdict) for verdict in found])
    write_report(
        out / "report.html",
        suite=suite,
        rows=rows,
        verdicts=found,
        dialogues=example_dialogues(cells, outcomes),
        setting={
            "command": command_line(suite, order),
            "recipe": base.recipe,
            "seeds": list(order.seeds),
            "is_quick": order.is_quick,
            "num_trained": len({cell.model.digest for cell in cells}),
        },
    )
    return found


def command_line(suite: Suite, order: Order) -> str:
    """The call that the order is, without where it writes."""
    words = ["python -m trainer experiments", suite.name, *(["--quick"] if order.is_quick else [])]
    words += ["--recipe", order.recipe] if order.recipe else []
    words += ["--only", order.only] if order.only else []
    words += ["--seeds", *map(str, order.seeds)]
    return " ".join([*words, *(["--", *order.settings] if order.settings else [])])


def verdict_table(found: Sequence[Verdict]) -> Table:
    """The verdicts as a person reads them first."""
    table = Table("claim", "difference", "p", "verdict", show_edge=False)
    for verdict in found:
        difference = f"{verdict.difference:+.3f} ± {verdict.deviation:.3f}"
        table.add_row(verdict.claim.text, difference, f"{verdict.p_value:.4f}", verdict.verdict)
    return table


def base_config(suite: Suite, order: Order) -> FitConfig:
    """The order's recipe or the suite's, the small one for a quick order, under the order's settings.

    Raises UsageError for a quick order that names a recipe and for models that would start from a release,
    SettingInvalid for an unknown recipe.
    """
    if order.recipe and order.is_quick:
        raise UsageError(f"--quick trains {suite.quick_recipe}: got --recipe {order.recipe} beside it")
    named = recipe(order.recipe or (suite.quick_recipe if order.is_quick else suite.recipe))
    base = apply_overrides(named, arguments=order.settings)
    if base.init_from:
        raise UsageError(f"--init-from: got {base.init_from!r}, but experiments train each model themselves")
    return base


def _check(suite: Suite, order: Order) -> None:
    if len(set(order.seeds)) != len(order.seeds) or not order.seeds:
        raise UsageError(f"--seeds: got {list(order.seeds)}, expected each once and at least one")
    known = [experiment.name for experiment in suite.experiments]
    if order.only and order.only not in known:
        raise UsageError(f"--only: no experiment {order.only!r}{nearest(order.only, known)}; known: {', '.join(known)}")


def _with_world(config: FitConfig, *, out: Path) -> FitConfig:
    """`config` on its own Toytown below `out`, with annotated triples; other data stay where they are."""
    if config.data.kind != "toytown":
        return replace(config, data=replace(config.data, root=config.data.root.resolve()))
    world = config.data
    root = out / "worlds" / f"toytown-{world.scenes}-{world.named_share:g}-{world.seed}"
    if not root.exists():
        partial = root.with_name(f"{root.name}.partial")
        draw_world(partial, settings=world)
        partial.rename(root)
    data: DataSettings = replace(world, root=root, dialogues_annotated=_ANNOTATED)
    return replace(config, data=data)


def _collect(model: Trainable, *, out: Path, into: dict[str, Trainable]) -> None:
    if is_trained(model, out) or model.digest in into:
        return
    if model.parent:
        _collect(model.parent, out=out, into=into)
    into[model.digest] = model


def _training(model: Trainable, out: Path) -> Task:
    needs = (model.parent.digest,) if model.parent else ()
    function = train_composer_model if isinstance(model, ComposerModel) else train_model
    return Task(key=model.digest, needs=needs, function=function, arguments=(model, out))


def _measuring(cell: Cell, out: Path, *, after: tuple[str, ...] = ()) -> Task:
    return Task(key=cell.digest, needs=(cell.model.digest, *after), function=measure_cell, arguments=(cell, out))


def _executor(order: Order) -> AbstractContextManager[Executor]:
    if order.is_local:
        return nullcontext(LocalExecutor())
    # Imported here so that a run in this process never loads Ray.
    from trainer.launch import ray_executor

    return ray_executor()


def _bars(console: Console) -> Progress:
    columns = (TextColumn("{task.description:>10}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console)


class _Ticker:
    """A bar for trainings and one for measurements."""

    def __init__(self, progress: Progress, tasks: Sequence[Task]) -> None:
        self._progress = progress
        kinds = {"trained": (train_model, train_composer_model), "measured": (measure_cell,)}
        self._bar_of: dict[str, TaskID] = {}
        for name, functions in kinds.items():
            own = [task.key for task in tasks if task.function in functions]
            self._bar_of |= dict.fromkeys(own, progress.add_task(name, total=len(own)))

    def __call__(self, key: str) -> None:
        self._progress.advance(self._bar_of[key])
