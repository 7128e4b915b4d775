"""The arithmetic of experiments: permutation tests, rows, schedules, damage, memory, and the plan of ZRIGF."""

from __future__ import annotations

import base64
import io
import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import sightline
from sightline.data.pools import PoolImage, Span
from sightline.errors import SettingInvalid, UsageError
from trainer.composing.recipes import TOYTOWN_COMPOSED
from trainer.config import FitConfig, SpeedSettings, to_json
from trainer.experiments.answering import embedded, other_subjects
from trainer.experiments.composers import ComposerModel
from trainer.experiments.cost import PeakBytes
from trainer.experiments.damage import damaged
from trainer.experiments.plan import Cell, Claim, Model, Outcome, digest_of
from trainer.experiments.report import write_report
from trainer.experiments.results import result_rows, verdicts
from trainer.experiments.run import Order, base_config
from trainer.experiments.schedule import LocalExecutor, Task, run_tasks
from trainer.experiments.significance import MAX_EXACT, holm, sign_flip_p
from trainer.experiments.zrigf import ABLATIONS, PRESERVATION, ZRIGF, zrigf_notes
from trainer.journal import JOURNAL, worked_s
from trainer.recipes import recipe

QUICK = recipe("toytown-quick")
ANNOTATED = replace(QUICK, data=replace(QUICK.data, dialogues_annotated=Path("annotated.jsonl")))


def _p_by_enumeration(values: list[float]) -> float:
    observed = sum(values)
    totals = [
        sum(s * v for s, v in zip(signs, values, strict=True))
        for signs in itertools.product((1, -1), repeat=len(values))
    ]
    return sum(total >= observed - 1e-9 for total in totals) / len(totals)


@pytest.mark.parametrize("size", [1, 2, 5, 9])
def test_the_exact_p_value_counts_every_change_of_signs(size: int) -> None:
    values = np.random.default_rng(size).normal(loc=0.4, size=size).round(1).tolist()
    assert sign_flip_p(values) == pytest.approx(_p_by_enumeration(values), abs=1e-12)


def test_the_sampled_p_value_is_near_the_exact_one() -> None:
    values = np.random.default_rng(0).normal(loc=0.3, size=MAX_EXACT + 1).tolist()
    assert sign_flip_p(values) == pytest.approx(_p_by_enumeration(values), abs=0.01)
    assert sign_flip_p(values) == sign_flip_p(values)


def test_differences_of_nothing_are_no_evidence() -> None:
    assert sign_flip_p([0.0] * 5) == 1.0
    assert sign_flip_p([0.0] * 50) == 1.0


def test_a_clear_difference_is_never_given_a_p_value_of_zero() -> None:
    assert 0 < sign_flip_p([1.0] * 200) < 0.001


def test_a_test_without_pairs_is_refused() -> None:
    with pytest.raises(UsageError, match="got no pair"):
        sign_flip_p([])


def test_holm_corrects_by_rank_and_keeps_the_order() -> None:
    # 0.01 x 4, 0.02 x 3, 0.03 x 2, and 0.04 x 1, which must not fall below the one before it.
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def _cell(name: str, seed: int, **options: int) -> Cell:
    model = Model(config=replace(QUICK, seed=seed), data_digest="")
    return Cell(
        experiment="e", name=name, seed=seed, model=model, options={"name": name, **options}, measure=_never_measured
    )


def _never_measured(cell: Cell, out: Path) -> Outcome:
    raise AssertionError((cell, out))


def _outcomes(values: dict[str, list[dict[str, float]]]) -> tuple[list[Cell], dict[str, Outcome]]:
    cells, outcomes = [], {}
    for name, by_seed in values.items():
        for seed, samples in enumerate(by_seed):
            cell = _cell(name, seed)
            mean = sum(samples.values()) / len(samples)
            cells.append(cell)
            outcomes[cell.digest] = Outcome(metrics={"grounded_accuracy": mean}, samples=samples)
    return cells, outcomes


def test_a_row_holds_the_mean_and_the_sample_deviation_over_seeds() -> None:
    cells, outcomes = _outcomes({"a": [{"u": 0.2}, {"u": 0.4}, {"u": 0.9}]})
    [row] = result_rows(cells, outcomes)
    assert row == {
        "experiment": "e",
        "cell": "a",
        "metric": "grounded_accuracy",
        "mean": 0.5,
        "std": pytest.approx(0.360555, abs=1e-6),
        "seeds": [0, 1, 2],
    }


def test_the_deviation_of_one_seed_is_zero() -> None:
    [row] = result_rows(*_outcomes({"a": [{"u": 0.2}]}))
    assert (row["mean"], row["std"], row["seeds"]) == (0.2, 0.0, [0])


def _word(better: list[dict[str, float]], worse: list[dict[str, float]], *, margin: float = 0.0) -> str:
    claim = Claim(experiment="e", better="a", worse="b", text="", margin=margin)
    cells, outcomes = _outcomes({"a": better, "b": worse})
    [verdict] = verdicts(replace(ZRIGF, claims=(claim,)), cells, outcomes)
    return verdict.verdict


def _units(value: float) -> dict[str, float]:
    return {f"u{number}": value + 0.01 * (number % 3) for number in range(12)}


def test_a_claim_is_supported_where_units_and_every_seed_agree() -> None:
    assert _word([_units(0.9)] * 3, [_units(0.4)] * 3) == "supported"
    assert _word([_units(0.4)] * 3, [_units(0.9)] * 3) == "contradicted"
    assert _word([_units(0.4)] * 3, [_units(0.4)] * 3) == "not supported"


def test_one_seed_that_says_otherwise_leaves_a_claim_unsupported() -> None:
    assert _word([_units(0.9), _units(0.9), _units(0.3)], [_units(0.4)] * 3) == "not supported"


def test_a_margin_must_be_beaten_too() -> None:
    assert _word([_units(0.9)] * 3, [_units(0.4)] * 3, margin=0.3) == "supported"
    assert _word([_units(0.9)] * 3, [_units(0.7)] * 3, margin=0.3) == "contradicted"
    assert _word([_units(0.4)] * 3, [_units(0.45)] * 3, margin=-0.1) == "supported"


def test_a_claim_about_a_cell_that_was_not_run_is_left_out() -> None:
    claim = Claim(experiment="e", better="a", worse="missing", text="")
    assert verdicts(replace(ZRIGF, claims=(claim,)), *_outcomes({"a": [_units(0.9)]})) == []


def _order_of(needs: dict[str, tuple[str, ...]]) -> list[str]:
    done: list[str] = []
    tasks = [Task(key=key, needs=wanted, function=lambda: None, arguments=()) for key, wanted in needs.items()]
    run_tasks(tasks, executor=LocalExecutor(), on_done=done.append)
    return done


def test_tasks_run_after_what_they_need_and_otherwise_in_order() -> None:
    assert _order_of({"c": ("a", "b"), "a": (), "b": ("a",), "d": ("elsewhere",)}) == ["a", "d", "b", "c"]


def test_tasks_in_a_circle_are_refused() -> None:
    with pytest.raises(UsageError, match="tasks wait for one another: a, b"):
        _order_of({"a": ("b",), "b": ("a",), "c": ()})


def test_an_error_of_a_task_ends_the_run() -> None:
    def fail() -> None:
        raise ZeroDivisionError

    calls: list[Callable[..., None]] = [fail]
    tasks = [Task(key="a", function=calls[0], arguments=())]
    with pytest.raises(ZeroDivisionError):
        run_tasks(tasks, executor=LocalExecutor(), on_done=lambda _: None)


@pytest.mark.parametrize(("kind", "amount"), [("blur", 2.0), ("noise", 0.2), ("coarse", 4.0)])
def test_damage_changes_pictures_the_same_way_twice_and_more_for_more(kind: str, amount: float) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, size=(3, 3, 20, 20)).astype(np.uint8)
    first, second = (damaged(pixels, kind=kind, amount=amount, seed=1) for _ in range(2))
    stronger = damaged(pixels, kind=kind, amount=2 * amount, seed=1)
    assert np.array_equal(first, second)
    assert first.shape == pixels.shape
    change, more = (np.abs(found.astype(float) - pixels).mean() for found in (first, stronger))
    assert 0 < change < more


def test_no_amount_is_no_damage_and_an_unknown_kind_is_refused() -> None:
    pixels = np.full((1, 3, 4, 4), 7, dtype=np.uint8)
    assert np.array_equal(damaged(pixels, kind="blur", amount=0.0, seed=0), pixels)
    with pytest.raises(SettingInvalid, match="got 'rain', expected one of blur, noise, coarse"):
        damaged(pixels, kind="rain", amount=1.0, seed=0)


def test_a_shuffled_question_gets_pictures_of_another_subject() -> None:
    subjects = ["a", "a", "b", "c", "b"]
    chosen = other_subjects(subjects, seed=0)
    assert all(subjects[other] != subject for subject, other in zip(subjects, chosen, strict=True))


def test_peak_bytes_counts_what_is_alive_at_one_time() -> None:
    before = torch.ones(1000)
    with PeakBytes() as counter:
        first = before * 2  # 4,000 bytes
        second = first + 1  # 8,000 alive
        del first
        third = second * 2  # 8,000 again
        third.add_(1)
        third.view(10, 100).sum()  # and one number
        del second, third
    assert counter.peak == 8004


def _plan(seed: int = 0) -> list[Cell]:
    return list(ZRIGF.cells(replace(ANNOTATED, seed=seed), "data"))


def test_without_annotated_dialogues_none_are_trained_on() -> None:
    assert "labelled" not in {cell.experiment for cell in ZRIGF.cells(QUICK, "data")}


def test_the_plan_has_the_experiments_and_ablations_that_were_promised() -> None:
    cells = _plan()
    assert {cell.experiment for cell in cells} == {
        "ablation",
        "relevance",
        "pictures",
        "losses",
        "quality",
        "labelled",
        "harder",
        "gate",
        "cost",
    }
    assert [cell.name for cell in cells if cell.experiment == "ablation"] == list(ABLATIONS)
    assert list(ABLATIONS) == ["full", "no-tim", "no-tamim", "no-mf", "no-it", "no-stage1", "text-only"]
    assert {c.name for c in cells if c.experiment == "relevance"} == {
        "retrieved",
        "random",
        "random without a floor",
        "shuffled",
        "none",
        "oracle",
    }
    assert len({(cell.experiment, cell.name) for cell in cells}) == len(cells)


def _faithful_cells() -> list[Cell]:
    return list(ZRIGF.cells(replace(ANNOTATED, model=replace(QUICK.model, variant="faithful")), "data"))


def test_a_faithful_model_is_asked_everything_but_what_its_parts_cost() -> None:
    names = [(cell.experiment, cell.name) for cell in _faithful_cells() if cell.name not in PRESERVATION]
    assert names == [(cell.experiment, cell.name) for cell in _plan() if cell.experiment != "cost"]


def test_the_preservation_loss_is_weighed_in_faithful_models_alone_on_one_stage_one() -> None:
    models = {cell.name: cell.model for cell in _faithful_cells() if cell.experiment == "losses"}
    weights = [models[name].settings["stage2"]["preservation_weight"] for name in PRESERVATION]
    assert weights == [0.0, 0.1, 1.0]
    assert len({models[name].parent.digest for name in PRESERVATION}) == 1  # type: ignore[union-attr]
    assert models["preservation 0.1"].digest == models["tamim 10"].digest  # the full model
    assert not {cell.name for cell in _plan()} & PRESERVATION.keys()


@pytest.mark.parametrize("is_quick", [False, True])
def test_settings_behind_the_command_plan_faithful_models_of_one_stage_one(is_quick: bool, tmp_path: Path) -> None:
    settings = ("--model.variant", "faithful", "--model.decoder", "bart")
    base = base_config(ZRIGF, Order(out=tmp_path, is_quick=is_quick, settings=settings))
    assert (base.model.variant, base.model.decoder) == ("faithful", "bart")
    cells = [cell for cell in ZRIGF.cells(base, "data") if cell.experiment == "ablation"]
    assert [cell.name for cell in cells] == list(ABLATIONS)
    models = [model for cell in cells for model in (cell.model, cell.model.parent) if model]
    assert {model.config.model.variant for model in models} == {"faithful"}
    assert {model.config.model.decoder for model in models} == {"bart"}
    assert len({cell.model.parent.digest for cell in cells if cell.model.parent}) == 3  # As of the clip variant.


def test_every_claim_is_about_cells_of_the_plan() -> None:
    known = {(cell.experiment, cell.name) for cell in _plan()}
    named = {(claim.experiment, name) for claim in ZRIGF.claims for name in (claim.better, claim.worse)}
    assert named <= known
    assert {claim.experiment for claim in ZRIGF.claims} <= {experiment.name for experiment in ZRIGF.experiments}


def test_each_distinct_model_is_planned_once() -> None:
    cells = _plan()
    by_name = {(cell.experiment, cell.name): cell.model.digest for cell in cells}
    assert by_name["ablation", "full"] == by_name["losses", "tamim 10"] == by_name["relevance", "oracle"]
    assert by_name["ablation", "no-tamim"] == by_name["losses", "tamim 0"] == by_name["harder", "noise: no-tamim"]
    stages = {cell.model.parent.digest for cell in cells if cell.model.parent and cell.experiment == "ablation"}
    assert len(stages) == 3  # full, no-tim and no-tamim; the rest share that of full or have none


def test_the_time_that_an_interrupted_run_stood_still_is_not_counted(tmp_path: Path) -> None:
    times = [("start", 10.0), ("step", 13.0), ("start", 1000.0), ("step", 1002.0), ("validation", 1002.5)]
    rows = [{"event": event, "time": time} for event, time in times]
    (tmp_path / JOURNAL).write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert worked_s(tmp_path) == 5.5
    assert worked_s(tmp_path / "none") == 0.0


def test_a_page_embeds_a_picture_of_a_tar_and_not_the_tar(tmp_path: Path) -> None:
    image = io.BytesIO()
    Image.new("RGB", (2, 2), "red").save(image, format="PNG")
    tar = tmp_path / "0.tar"
    tar.write_bytes(b"x" * 512 + image.getvalue() + b"x" * 512)
    uri = embedded(PoolImage(image_id="1", path=tar, span=Span(start=512, length=len(image.getvalue()))))
    head, _, body = uri.partition(",")
    assert head == "data:image/png;base64"
    assert base64.b64decode(body) == image.getvalue()


@pytest.mark.parametrize(("asked_with", "heading"), [("", "Dialogues"), ("data:image/png;base64,AA", "Queries")])
def test_a_page_calls_what_was_asked_by_its_name(asked_with: str, heading: str, tmp_path: Path) -> None:
    setting = {"command": "", "recipe": "", "seeds": [0], "is_quick": False, "num_trained": 0}
    example = {"turns": ["but red"], "asked_with": asked_with, "expected": "p7", "looked_for": "", "answers": []}
    suite = replace(ZRIGF, notes=lambda rows: [])
    write_report(tmp_path / "a.html", suite=suite, rows=[], verdicts=[], dialogues=[example], setting=setting)
    page = (tmp_path / "a.html").read_text()
    headings = [name for name in ("Dialogues", "Queries") if f"<h2>{name}</h2>" in page]
    assert headings == [heading]
    assert ("expected: picture p7" in page) == bool(asked_with)


def test_a_digest_tells_seeds_settings_and_data_apart_but_not_folders() -> None:
    model = Model(config=QUICK, data_digest="x")
    moved = replace(QUICK, data=replace(QUICK.data, root=Path("elsewhere")), run=replace(QUICK.run, root=Path("there")))
    assert replace(model, config=moved).digest == model.digest
    others: list[FitConfig] = [
        replace(QUICK, seed=1),
        replace(QUICK, stage1=replace(QUICK.stage1, tim_weight=0.5)),
        replace(QUICK, model=replace(QUICK.model, wo_it=True)),
    ]
    digests = {replace(model, config=config).digest for config in others}
    assert (
        len({model.digest, replace(model, data_digest="y").digest, replace(model, parent=model).digest} | digests) == 6
    )


def test_a_digest_tells_speeds_apart_and_says_nothing_of_the_usual_one() -> None:
    model = Model(config=QUICK, data_digest="x")
    parts = {name: to_json(getattr(QUICK, name)) for name in ("data", "model", "stage1", "stage2")}
    parts["data"].pop("root")
    assert model.digest == digest_of([sightline.__version__, "x", parts, QUICK.seed, ""])
    fast = replace(model, config=replace(QUICK, speed=SpeedSettings(precision="bfloat16")))
    assert fast.digest != model.digest


def test_a_composers_digest_tells_speeds_apart() -> None:
    towers = Model(config=QUICK, data_digest="x")
    composer = ComposerModel(config=TOYTOWN_COMPOSED, data_digest="y", parent=towers)
    fast = replace(composer, config=replace(TOYTOWN_COMPOSED, speed=SpeedSettings(precision="bfloat16")))
    assert fast.digest != composer.digest


def test_models_that_would_start_from_a_release_are_refused() -> None:
    with pytest.raises(UsageError, match="--init-from: got 'stable'"):
        base_config(ZRIGF, Order(out=Path("out"), settings=("--init-from", "stable")))


def test_notes_name_the_best_k_and_the_crossover() -> None:
    def row(experiment: str, cell: str, mean: float) -> dict[str, object]:
        return {"experiment": experiment, "cell": cell, "metric": "grounded_accuracy", "mean": mean}

    rows = [row("pictures", f"k={k}", 0.1 * min(k, 4)) for k in (0, 1, 2, 3)]
    rows += [row("labelled", "fine-tuned 0%", 0.5)]
    shares = {"1%": 0.1, "5%": 0.3, "25%": 0.6, "100%": 0.9}
    rows += [row("labelled", f"labels only {share}", mean) for share, mean in shares.items()]
    first, second = zrigf_notes(rows)
    assert "the best mean is that of k = 3" in first
    assert "at 25% of the annotated triples (0.600)" in second
