"""Experiments end to end on a corpus of a few squares: shared models, cached cells, resumption, rows and report."""

from __future__ import annotations

import io
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from safetensors.torch import load_file

from sightline.data.captions import read_captions
from sightline.data.dialogues import DialogueRecord, write_dialogues
from sightline.data.pools import PoolImage, write_pool
from sightline.data.questions import QuestionRecord, write_questions
from sightline.errors import SettingInvalid, UsageError
from tests.unit.trainer.conftest import COLOURS, KilledAfter
from trainer.config import FitConfig
from trainer.experiments.answering import MAIN, Sight, measure_answers, open_exam
from trainer.experiments.cost import TEXT_ONLY, WHOLE, measure_cost
from trainer.experiments.gating import measure_gate
from trainer.experiments.plan import Cell, Claim, Experiment, Model, Suite
from trainer.experiments.run import Order, missing_tasks, planned_cells, run_experiments
from trainer.experiments.schedule import LocalExecutor, run_tasks
from trainer.experiments.training import running_config, train_model, weights_folder
from trainer.experiments.zrigf import ZRIGF
from trainer.loop import train
from trainer.overrides import replace_nested
from trainer.relevance import calibrated
from trainer.runs import run_folder

pytestmark = pytest.mark.slow


@pytest.fixture
def base(tiny_fit: FitConfig, corpus_folder: Path) -> FitConfig:
    """The squares with a pool, questions about their colours, and annotated dialogues."""
    captions = read_captions(corpus_folder / "captions.jsonl")
    images = {record.image_id: PoolImage(image_id=record.image_id, path=record.path) for record in captions}
    write_pool(corpus_folder / "pool.jsonl", images.values())
    questions = [
        QuestionRecord(
            id=f"q{number}",
            context=("hello there", f"what is box {number}")[number % 2 :],
            fact="colour",
            answer=COLOURS[number % 6],
            choices=COLOURS,
            subject=f"box {number}",
            relevant_image_ids=(str(number),),
        )
        for number in range(8)
    ]
    write_questions(corpus_folder / "questions.jsonl", questions)
    data = replace(tiny_fit.data, pool=Path("pool.jsonl"), questions=Path("questions.jsonl"))
    return replace(tiny_fit, data=data)


def _two_cells(base: FitConfig, data_digest: str) -> list[Cell]:
    """With pictures and without, of one model that shares its stage 1 with nobody."""
    model = Model(config=base, data_digest=data_digest)
    shared = {"experiment": "sight", "seed": base.seed, "model": model, "measure": measure_answers}
    return [
        Cell(name="seen", options=asdict(Sight(k=2, is_gated=False)), **shared),
        Cell(name="blind", options=asdict(Sight(k=0)), **shared),
    ]


TWO = Suite(
    name="two",
    title="Two cells",
    metric=MAIN,
    unit="subjects",
    experiments=(Experiment(name="sight", title="Sight", question="Does it see?", metrics=(MAIN,)),),
    claims=(Claim(experiment="sight", better="seen", worse="blind", text="Seeing helps."),),
    recipe="folder",
    quick_recipe="folder",
    cells=_two_cells,
    notes=lambda rows: [f"{len(rows)} rows"],
)


def _run(suite: Suite, base: FitConfig, out: Path, **values: Any) -> str:
    text = io.StringIO()
    order = Order(out=out, is_local=True, **{"seeds": (0, 1), **values})
    run_experiments(suite, base=base, order=order, console=Console(file=text, width=120))
    return text.getvalue()


def _times(out: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for name in ("models", "cells") for path in (out / name).rglob("*")}


class Killed(LocalExecutor):
    """Dies before its n-th call."""

    def __init__(self, *, calls: int) -> None:
        super().__init__()
        self._left = calls

    def next_done(self) -> str:
        if not self._left:
            raise InterruptedError
        self._left -= 1
        return super().next_done()


def test_a_run_writes_rows_claims_and_a_page_that_needs_no_other_file(base: FitConfig, tmp_path: Path) -> None:
    _run(TWO, base, tmp_path / "out")
    rows = json.loads((tmp_path / "out/results.json").read_text())
    assert {frozenset(row) for row in rows} == {frozenset({"experiment", "cell", "metric", "mean", "std", "seeds"})}
    main = {row["cell"]: row for row in rows if row["metric"] == MAIN}
    assert main.keys() == {"seen", "blind"}
    assert main["seen"]["seeds"] == [0, 1]
    assert json.loads((tmp_path / "out/claims.json").read_text())[0]["verdict"] in {
        "supported",
        "not supported",
        "contradicted",
    }
    page = (tmp_path / "out/report.html").read_text()
    assert "<svg" in page
    assert "data:image/png;base64," in page
    assert "Seeing helps." in page
    assert not any(word in page for word in ('src="http', "<script", '<link rel="stylesheet"'))


def test_a_second_call_trains_and_measures_nothing(base: FitConfig, tmp_path: Path) -> None:
    first = _run(TWO, base, tmp_path / "out")
    before = _times(tmp_path / "out")
    second = _run(TWO, base, tmp_path / "out")
    assert "6 tasks to run" in first
    assert "0 tasks to run" in second
    assert _times(tmp_path / "out") == before


def test_another_seed_adds_its_own_and_keeps_the_rest(base: FitConfig, tmp_path: Path) -> None:
    _run(TWO, base, tmp_path / "out", seeds=(0,))
    before = _times(tmp_path / "out")
    assert "3 tasks to run" in _run(TWO, base, tmp_path / "out", seeds=(0, 1))
    after = _times(tmp_path / "out")
    assert {path: after[path] for path in before} == before


def _with_a_second_look(base: FitConfig, data_digest: str) -> list[Cell]:
    cells = _two_cells(base, data_digest)
    return [
        *cells,
        replace(cells[0], experiment="again"),
        replace(cells[0], experiment="again", name="one", options={"k": 1}),
    ]


def test_one_experiment_can_be_run_alone_and_joins_those_that_are_complete(base: FitConfig, tmp_path: Path) -> None:
    again = Experiment(name="again", title="Again", question="Is it the same?", metrics=(MAIN,))
    suite = replace(TWO, cells=_with_a_second_look, experiments=(*TWO.experiments, again))
    _run(suite, base, tmp_path, seeds=(0,), only="sight")
    assert _experiments(tmp_path) == {"sight"}
    assert "1 tasks to run" in _run(suite, base, tmp_path, seeds=(0,), only="again")
    assert _experiments(tmp_path) == {"sight", "again"}


def _experiments(out: Path) -> set[str]:
    return {row["experiment"] for row in json.loads((out / "results.json").read_text())}


def test_other_settings_are_other_cells(base: FitConfig, tmp_path: Path) -> None:
    _run(TWO, base, tmp_path / "out", seeds=(0,))
    changed = replace(base, stage2=replace(base.stage2, steps=4))
    assert "3 tasks to run" in _run(TWO, changed, tmp_path / "out", seeds=(0,))
    # The number of questions changes what is measured, not what is trained.
    fewer = replace(base, evaluation=replace(base.evaluation, max_questions=4))
    assert "2 tasks to run" in _run(TWO, fewer, tmp_path / "out", seeds=(0,))


@pytest.mark.parametrize("calls", [0, 1, 2, 5])  # before all, between training and cells, between cells
def test_a_run_killed_between_tasks_ends_as_an_unbroken_one(base: FitConfig, tmp_path: Path, calls: int) -> None:
    _run(TWO, base, tmp_path / "unbroken")
    out = tmp_path / "broken"
    cells = planned_cells(TWO, base, order=Order(out=out, seeds=(0, 1)))
    with pytest.raises(InterruptedError):
        run_tasks(missing_tasks(cells, out), executor=Killed(calls=calls), on_done=lambda _: None)
    assert f"{6 - calls} tasks to run" in _run(TWO, base, out)
    results = [(folder / "results.json").read_text() for folder in (out, tmp_path / "unbroken")]
    assert results[0] == results[1]


def test_a_training_killed_inside_goes_on_from_its_checkpoint(base: FitConfig, tmp_path: Path) -> None:
    model = Model(config=base, data_digest="squares")
    train_model(model, tmp_path / "unbroken")
    config = running_config(model, tmp_path / "broken")
    with pytest.raises(InterruptedError):
        train(config, reporter=KilledAfter(run_folder(config), checkpoints=4))
    train_model(model, tmp_path / "broken")
    assert _weights(model, tmp_path / "broken") == _weights(model, tmp_path / "unbroken")


def _weights(model: Model, out: Path) -> dict[str, list[float]]:
    loaded = load_file(weights_folder(model, out) / "model.safetensors")
    return {name: value.flatten().tolist() for name, value in loaded.items()}


def _cell_named(base: FitConfig, experiment: str, name: str) -> Cell:
    cells = [cell for cell in ZRIGF.cells(base, "squares") if (cell.experiment, cell.name) == (experiment, name)]
    assert len(cells) == 1
    return cells[0]


def _train_all(model: Model, out: Path) -> None:
    if model.parent:
        _train_all(model.parent, out)
    train_model(model, out)


@pytest.mark.parametrize("name", ["full", "no-mf", "no-it", "no-tim", "text-only"])
def test_a_shared_stage_one_gives_the_weights_of_a_training_of_its_own(
    base: FitConfig, tmp_path: Path, name: str
) -> None:
    model = _cell_named(base, "ablation", name).model
    assert model.parent is not None
    alone = replace(model, parent=None)
    _train_all(model, tmp_path)
    _train_all(alone, tmp_path)
    assert _weights(model, tmp_path) == _weights(alone, tmp_path)


def test_labels_train_stage_two_alone_on_their_own_pictures(base: FitConfig, tmp_path: Path) -> None:
    captions = read_captions(base.data.root / "captions.jsonl")
    image_id = next(record.image_id for record in captions)
    annotated = [DialogueRecord(id="a", context=("what is box 1",), response="red", image_id=image_id)]
    write_dialogues(base.data.root / "annotated.jsonl", annotated)
    data = replace(base.data, dialogues_annotated=Path("annotated.jsonl"), captions_val=Path("captions.jsonl"))
    tuned = _cell_named(replace(base, data=data), "labelled", "fine-tuned 100%").model
    assert tuned.parent is not None
    _train_all(tuned, tmp_path)
    before, after = (load_file(weights_folder(m, tmp_path) / "model.safetensors") for m in (tuned.parent, tuned))
    changed = {name.split(".")[0] for name in before if not before[name].equal(after[name])}
    assert changed == {"generator"}


def test_annotated_dialogues_of_unknown_pictures_are_refused(base: FitConfig, tmp_path: Path) -> None:
    write_dialogues(
        base.data.root / "annotated.jsonl",
        [DialogueRecord(id="a", context=("what",), response="red", image_id="nowhere")],
    )
    config = replace_nested(base, values={"data.dialogues_annotated": Path("annotated.jsonl")})
    with pytest.raises(UsageError, match=r"annotated\.jsonl: dialogue 1 \(id a\): image_id: .*'nowhere'"):
        train_model(Model(config=config, data_digest=""), tmp_path)


def test_a_gate_shows_no_more_than_every_picture_and_no_less_than_none(base: FitConfig, tmp_path: Path) -> None:
    cells = {cell.name: cell for cell in ZRIGF.cells(base, "squares") if cell.experiment == "gate"}
    _train_all(cells["no picture"].model, tmp_path)
    found = {name: measure_gate(cell, tmp_path).metrics for name, cell in cells.items()}
    every, over, none = (found[name] for name in ("every picture", "over the floor", "no picture"))
    assert every["score_floor"] == over["score_floor"]
    assert (every["small_talk_picture_rate"], none["small_talk_picture_rate"]) == (1.0, 0.0)
    assert 0.0 <= over["small_talk_picture_rate"] <= 1.0
    assert every["small_talk_perplexity"] != none["small_talk_perplexity"]
    blind = replace(cells["every picture"], options=asdict(Sight(k=0)), measure=measure_answers)
    assert measure_answers(blind, tmp_path).metrics[MAIN] == none[MAIN]


def test_what_is_under_the_floor_is_answered_without_a_picture(base: FitConfig, tmp_path: Path) -> None:
    cells = {cell.name: cell for cell in ZRIGF.cells(base, "squares") if cell.experiment == "gate"}
    model = cells["no picture"].model
    _train_all(model, tmp_path)
    calibrated(open_exam(model, tmp_path).built, floor=1.0)
    found = {name: measure_gate(cell, tmp_path) for name, cell in cells.items()}
    assert found["over the floor"].samples == found["no picture"].samples
    perplexities = {name: outcome.metrics["small_talk_perplexity"] for name, outcome in found.items()}
    assert perplexities["over the floor"] == perplexities["no picture"] != perplexities["every picture"]


def test_pictures_under_the_floor_are_neither_counted_nor_put_on_the_page(base: FitConfig, tmp_path: Path) -> None:
    model = Model(config=base, data_digest="squares")
    train_model(model, tmp_path)
    calibrated(open_exam(model, tmp_path).built, floor=1.0)
    every = replace(_two_cells(base, "squares")[0], model=model)
    found = measure_answers(replace(every, options=asdict(Sight(k=2))), tmp_path)
    assert [example["pictures"] for example in found.examples] == [[]] * len(found.examples)
    assert "right_picture_share" not in found.metrics
    seen = measure_answers(every, tmp_path)
    assert [len(example["pictures"]) for example in seen.examples] == [2] * len(seen.examples)
    assert seen.metrics["right_picture_share"] > 0


def test_the_cost_of_the_text_only_model_is_its_own_measure(base: FitConfig, tmp_path: Path) -> None:
    model = Model(config=base, data_digest="squares")
    train_model(model, tmp_path)
    found = {}
    for part in (TEXT_ONLY, WHOLE):
        cell = Cell(experiment="cost", name=part, seed=0, model=model, options={"part": part}, measure=measure_cost)
        found[part] = measure_cost(cell, tmp_path).metrics
    assert found[TEXT_ONLY]["parameters_ratio"] == found[TEXT_ONLY]["memory_ratio"] == 1.0
    assert found[WHOLE]["parameters_ratio"] > 1.5
    assert found[WHOLE]["memory_ratio"] > 1.5
    assert found[WHOLE]["latency_ms"] > 0


def test_the_cost_of_a_faithful_models_parts_is_refused(base: FitConfig, tmp_path: Path) -> None:
    faithful = replace_nested(base, values={"model.variant": "faithful"})
    model = Model(config=faithful, data_digest="squares")
    train_model(model, tmp_path)
    cell = Cell(experiment="cost", name=WHOLE, seed=0, model=model, options={"part": WHOLE}, measure=measure_cost)
    with pytest.raises(SettingInvalid, match=r"model.variant: got 'faithful'; cost is taken of the parts of a 'clip'"):
        measure_cost(cell, tmp_path)
    with pytest.raises(UsageError, match=r"'cost' has nothing to measure on recipe \S+ \(a faithful model"):
        _run(ZRIGF, faithful, tmp_path, only="cost")


def test_an_unknown_way_of_choosing_pictures_is_refused(base: FitConfig, tmp_path: Path) -> None:
    model = Model(config=base, data_digest="squares")
    train_model(model, tmp_path)
    cell = replace(_two_cells(base, "squares")[0], model=model, options={"pictures": "best"})
    with pytest.raises(SettingInvalid, match="got 'best', expected retrieved, oracle, random or shuffled"):
        measure_answers(cell, tmp_path)


def test_an_order_that_names_no_experiment_is_refused(base: FitConfig, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no experiment 'sigth'"):
        _run(TWO, base, tmp_path, only="sigth")
    with pytest.raises(UsageError, match="expected each once"):
        _run(TWO, base, tmp_path, seeds=(1, 1))
