"""The experiments on composed retrieval: which cells there are, what they share, and one run of all systems."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sightline.data.toytown import write_composed, write_toytown
from sightline.errors import UsageError
from trainer.config import EvaluationSettings, FitConfig
from trainer.experiments.composed import COMPOSED, MODEL_EDITS, NEGATIONS, SUM_WEIGHTS
from trainer.experiments.composers import ComposerModel
from trainer.experiments.finding import asked_digest
from trainer.experiments.negation import NUM_NEGATED, ORDINARY
from trainer.experiments.plan import Cell
from trainer.experiments.run import Order, base_config, planned_cells, run_experiments
from trainer.experiments.zrigf import ZRIGF
from trainer.recipes import recipe

SYSTEMS = [
    *("random", "image-only", "text-only", *(f"sum-{weight}" for weight in SUM_WEIGHTS), "slerp", "caption-that"),
    *("training-free", "pic2word", "searle", "stage1", "full"),
    *("stage1-text-reference", "full-text-reference", "oracle"),
]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of experiments whose world is there already, small."""
    folder = tmp_path_factory.mktemp("composed")
    root = folder / "worlds" / "toytown-800-0.66-0"
    write_toytown(root, scenes=800, seed=0)
    write_composed(root, queries=24, gallery=60, val_queries=12, edits_per_type=1)
    return folder


@pytest.fixture(scope="module")
def base(out: Path) -> FitConfig:
    """The quick recipe with two steps of stage 1."""
    quick = recipe(COMPOSED.quick_recipe)
    return replace(
        quick,
        data=replace(quick.data, root=out / "worlds" / "toytown-800-0.66-0", scenes=800),
        stage1=replace(quick.stage1, steps=2, batch_size=8),
        evaluation=EvaluationSettings(max_questions=8),
    )


@pytest.fixture(scope="module")
def cells(base: FitConfig, out: Path) -> list[Cell]:
    return planned_cells(COMPOSED, base, order=Order(out=out, seeds=(0,)))


@pytest.mark.slow
def test_every_claim_is_about_cells_that_there_are(cells: list[Cell]) -> None:
    known = {(cell.experiment, cell.name) for cell in cells}
    asked = {(claim.experiment, name) for claim in COMPOSED.claims for name in (claim.better, claim.worse)}
    assert asked - known == {("edits", "by a model")}
    assert [cell.name for cell in cells if cell.experiment == "systems"] == SYSTEMS


@pytest.mark.slow
def test_stage_one_is_trained_once_for_all_that_share_it(cells: list[Cell]) -> None:
    parts = [cell.model for cell in cells if cell.experiment in {"parts", "edits"}]
    first = {model.parent.digest for model in parts if isinstance(model.parent, ComposerModel)}
    assert len(first) == 1
    assert first == {cell.model.digest for cell in cells if cell.name == "stage1"}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_all_systems_run_and_are_not_run_again(base: FitConfig, out: Path) -> None:
    order = Order(out=out, is_local=True, seeds=(0,), only="systems")
    run_experiments(COMPOSED, base=base, order=order, console=Console(quiet=True))
    rows = json.loads((out / "results.json").read_text())
    found = {row["cell"]: row["mean"] for row in rows if row["metric"] == "map_at_10"}
    assert list(found) == SYSTEMS
    assert all(0.0 <= value <= 1.0 for value in found.values())
    text = io.StringIO()
    run_experiments(COMPOSED, base=base, order=order, console=Console(file=text, width=120))
    assert " 0 tasks to run" in text.getvalue()
    assert "found in place" in (out / "report.html").read_text()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_negatives_are_taken_away_in_every_way(base: FitConfig, out: Path) -> None:
    order = Order(out=out, is_local=True, seeds=(0,), only="negation")
    run_experiments(COMPOSED, base=base, order=order, console=Console(quiet=True))
    rows = [row for row in json.loads((out / "results.json").read_text()) if row["experiment"] == "negation"]
    assert {row["cell"] for row in rows} == set(NEGATIONS)
    kinds = {f"negation_{kind}_map_at_10" for kind in ("without", "no_longer", "not_but")}
    assert {row["metric"] for row in rows} == {"map_at_10", ORDINARY, NUM_NEGATED} | kinds
    outcomes = {row["cell"]: json.dumps(_scores(rows, row["cell"])) for row in rows}
    assert len(set(outcomes.values())) > 3


def _scores(rows: list[dict[str, Any]], cell: str) -> list[float]:
    return [row["mean"] for row in rows if row["cell"] == cell]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_folder_of_ones_own_is_asked_in_another_style(base: FitConfig, out: Path, tmp_path: Path) -> None:
    root = tmp_path / "own"
    shutil.copytree(base.data.root, root)
    (root / "composed" / "probes.jsonl").unlink()
    for kind in ("queries", "gallery", "captions"):
        shutil.copyfile(root / "composed" / f"{kind}_val.jsonl", root / "composed" / f"{kind}_shifted_test.jsonl")
    targets = _without(root / "composed" / "queries_shifted_test.jsonl", fields={"edit_type", "is_held_out", "family"})
    own = replace(base, data=replace(base.data, kind="folder", root=root))
    order = Order(out=tmp_path / "out", is_local=True, seeds=(0,), only="shifted")
    run_experiments(COMPOSED, base=own, order=order, console=Console(quiet=True))
    rows = json.loads((tmp_path / "out" / "results.json").read_text())
    found = {row["cell"]: row["mean"] for row in rows if row["metric"] == "map_at_10"}
    assert list(found) == SYSTEMS
    (cell,) = (path for path in (tmp_path / "out" / "cells").glob("*.json") if '"image"' in path.read_text())
    examples = json.loads(cell.read_text())["outcome"]["examples"]
    asked = {example["expected"] for example in examples}
    assert asked
    assert asked <= targets
    first = [example["looked_for"] == example["pictures"][0] for example in examples]
    assert first == [example["is_right"] for example in examples]
    page = (tmp_path / "out" / "report.html").read_text()
    assert all(example["looked_for"] in page for example in examples)
    with pytest.raises(UsageError, match=r"'negation' has nothing to measure on recipe toytown-quick \(a clip"):
        run_experiments(COMPOSED, base=own, order=replace(order, only="negation"), console=Console(quiet=True))
    (root / "composed" / "captions_test.jsonl").unlink()
    with pytest.raises(UsageError, match=r"composed/captions_test\.jsonl does not exist"):
        run_experiments(COMPOSED, base=own, order=order, console=Console(quiet=True))


def _without(path: Path, *, fields: set[str]) -> set[str]:
    """The targets of the rows of a file, from which the fields have been taken."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    kept = [{name: value for name, value in row.items() if name not in fields} for row in rows]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in kept))
    return {target for row in rows for target in row["target_ids"]}


@pytest.mark.slow
def test_edits_that_a_language_model_wrote_are_a_cell_beside_those_of_rules(base: FitConfig, tmp_path: Path) -> None:
    root = tmp_path / "own"
    shutil.copytree(base.data.root, root)
    for part, path in zip(("train", "val"), MODEL_EDITS, strict=True):
        shutil.copyfile(root / "composed" / f"edits_{part}.jsonl", root / path)
    own = replace(base, data=replace(base.data, root=root))
    cells = planned_cells(COMPOSED, own, order=Order(out=tmp_path, seeds=(0,)))
    (cell,) = (cell for cell in cells if (cell.experiment, cell.name) == ("edits", "by a model"))
    assert cell.model.settings["data"]["edits_train"] == MODEL_EDITS[0].as_posix()


def test_other_queries_are_another_question(tmp_path: Path) -> None:
    for kind in ("queries", "gallery", "captions"):
        (tmp_path / f"{kind}_test.jsonl").write_text("{}\n")
    first = asked_digest(tmp_path)
    assert asked_digest(tmp_path) == first
    (tmp_path / "queries_test.jsonl").write_text("{} \n")
    second = asked_digest(tmp_path)
    (tmp_path / "probes.jsonl").write_text("")
    assert len({first, second, asked_digest(tmp_path)}) == 3


def test_a_quick_order_names_its_own_recipe() -> None:
    assert base_config(COMPOSED, Order(out=Path("out"), recipe="emoji")).recipe == "emoji"
    with pytest.raises(UsageError, match="--quick trains toytown-quick: got --recipe emoji"):
        base_config(COMPOSED, Order(out=Path("out"), recipe="emoji", is_quick=True))


def test_zrigf_is_refused_without_questions() -> None:
    with pytest.raises(UsageError, match="emoji has no questions"):
        ZRIGF.cells(base_config(ZRIGF, Order(out=Path("out"), recipe="emoji")), "digest")
