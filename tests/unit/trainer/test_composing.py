"""A composer's run on towers of a few coloured squares: what it learns, what it leaves, how it is gone on with."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from sightline.data.edits import EditGenerator, EditRecord, write_edits
from sightline.data.lines import write_lines
from sightline.data.pools import PoolImage, write_pool
from sightline.errors import CapabilityMissing, DataLineInvalid, SettingInvalid, UsageError
from sightline.models.composer import Composer
from sightline.models.release import load_encoder, load_model
from sightline.registry import Registry
from tests.unit.trainer.conftest import COLOURS, KilledAfter, write_squares
from trainer.checkpoint import read_weights
from trainer.composing.candidate import Candidate
from trainer.composing.config import (
    AlignmentSettings,
    ComposeConfig,
    ComposedDataSettings,
    ComposeGate,
    InversionSettings,
)
from trainer.composing.loop import fresh_composers, load_towers, train_composer
from trainer.composing.run import compose, refusals
from trainer.config import RunSettings
from trainer.fit import fit
from trainer.journal import losses, read_journal
from trainer.publish import GateRefused
from trainer.reporting import LocalReporter
from trainer.runs import run_folder
from trainer.stages.alignment import AlignmentObjective
from trainer.step import TrainingDiverged, build_optimizer

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with a release of tiny towers, and beside the captions edits, queries and a gallery."""
    root = tmp_path_factory.mktemp("squares")
    config = replace(write_squares(root), channel="stable")
    config = replace(config, stage1=replace(config.stage1, steps=2), stage2=replace(config.stage2, steps=1))
    fit(config, console=QUIET)
    own = root / "own"
    write_edits(own / "edits.jsonl", [edit(number) for number in range(12)])
    write_pool(own / "pool.jsonl", (PoolImage(image_id=str(n), path=own / f"{n}.png") for n in range(12)))
    queries = [
        {"reference_id": str(n), "text": f"is {COLOURS[(n + 1) % 6]}", "target_ids": [str(n + 1)]} for n in range(6)
    ]
    write_lines(own / "queries.jsonl", queries)
    return root


def edit(number: int) -> EditRecord:
    colour, other = COLOURS[number % 6], COLOURS[(number + 1) % 6]
    return EditRecord(
        id=f"{number:064x}",
        image_id=str(number),
        reference_caption=f"a {colour} box",
        modification=f"make it {other}",
        target_caption=f"a {other} box",
        edit_type="attribute",
        generator=EditGenerator(kind="rule", model="test", prompt_version="1", seed=0),
    )


@pytest.fixture
def config(squares: Path, tmp_path: Path) -> ComposeConfig:
    """Six steps of each stage in this process."""
    sizes = {"steps": 6, "batch_size": 4, "validate_every": 2}
    return ComposeConfig(
        recipe="squares",
        registry=str(squares / "registry"),
        data=ComposedDataSettings(
            kind="folder",
            root=squares / "own",
            captions_train=Path("captions.jsonl"),
            captions_val=Path("captions.jsonl"),
            edits_train=Path("edits.jsonl"),
            edits_val=Path("edits.jsonl"),
            queries=Path("queries.jsonl"),
            gallery=Path("pool.jsonl"),
        ),
        inversion=InversionSettings(**sizes),
        alignment=AlignmentSettings(**sizes),
        run=RunSettings(
            root=tmp_path / "runs", name="run", num_workers=0, threads_per_worker=1, checkpoint_every=2, log_every=1
        ),
    )


def settled(config: ComposeConfig) -> ComposeConfig:
    """With the release id in place of the channel, as `compose` hands it to the loop."""
    state = Registry(config.registry).channel("stable")
    assert state is not None
    return replace(config, init_from=state.release_id)


def test_a_composed_release_is_the_old_one_with_a_composer(config: ComposeConfig, tmp_path: Path) -> None:
    registry = Registry(config.registry)
    before = load_encoder(registry.fetch(settled(config).init_from, into=tmp_path / "a"), dtype="float32")
    outcome = compose(config, console=QUIET)
    folder = registry.fetch(outcome.manifest.release_id, into=tmp_path / "b")
    after = load_encoder(folder, dtype="float32")
    after.check_golden()
    assert (before.can_compose, after.can_compose) == (False, True)
    assert after.embedding_space_id == before.embedding_space_id == outcome.manifest.embedding_space_id
    pixels = np.random.default_rng(0).integers(0, 255, (3, 3, 16, 16), dtype=np.uint8)
    assert np.array_equal(after.encode_images(pixels)[0], before.encode_images(pixels)[0])
    assert load_model(folder).dialogue_tokenizer is not None
    assert outcome.manifest.lineage["parent_release"] == settled(config).init_from
    assert {"composed_map_at_10", "best_sum_map_at_10"} <= outcome.manifest.metrics.keys()


@pytest.mark.parametrize("method", ["lincir", "pic2word", "searle"])
def test_each_method_trains_phi_and_nothing_else(config: ComposeConfig, method: str) -> None:
    inversion = replace(config.inversion, method=method, optimisation_steps=2)
    config = settled(replace(config, inversion=inversion, alignment=AlignmentSettings(steps=0)))
    fresh = fresh_composers(config, loaded=load_towers(config)).inversion.composer.state_dict()
    reporter = LocalReporter(run_folder(config), keep=1)
    train_composer(config, reporter=reporter)
    trained = _chosen(config)
    assert not torch.equal(trained.phi.state_dict()["layers.0.weight"], fresh["phi.layers.0.weight"])
    assert trained.adapter is None
    assert [stage for stage, _, _ in losses(run_folder(config))] == ["inversion"] * 6


@pytest.mark.parametrize("checkpoints", [1, 2, 4, 5])
def test_a_killed_run_ends_as_an_unbroken_one(config: ComposeConfig, checkpoints: int) -> None:
    whole, broken = (settled(replace(config, run=replace(config.run, name=name))) for name in ("whole", "broken"))
    train_composer(whole, reporter=LocalReporter(run_folder(whole), keep=2))
    with pytest.raises(InterruptedError):
        train_composer(broken, reporter=KilledAfter(run_folder(broken), checkpoints=checkpoints))
    train_composer(broken, reporter=LocalReporter(run_folder(broken), keep=2))
    assert losses(run_folder(broken)) == losses(run_folder(whole))
    states = [_chosen(config).state_dict() for config in (whole, broken)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_stage_that_gets_no_better_ends_early_and_hands_on_its_best(config: ComposeConfig) -> None:
    stuck = replace(config.inversion, steps=40, learning_rate=0.0, validate_every=1, patience=3)
    config = settled(replace(config, inversion=stuck, alignment=AlignmentSettings(steps=0)))
    train_composer(config, reporter=LocalReporter(run_folder(config), keep=1))
    looks = [row["step"] for row in read_journal(run_folder(config)) if row["event"] == "validation"]
    assert looks == [1, 2, 3, 4], "the first look is the best; three more are not better"


def test_a_release_with_a_composer_goes_on_to_stage_two_alone(config: ComposeConfig) -> None:
    first = compose(replace(config, alignment=AlignmentSettings(steps=0)), console=QUIET)
    alone = replace(config.alignment, phi_rate=0.0)
    on = replace(config, init_from=first.manifest.release_id, inversion=InversionSettings(steps=0), alignment=alone)
    on = replace(on, run=replace(on.run, name="on"))
    composer = load_model(Registry(on.registry).fetch(compose(on, console=QUIET).manifest.release_id, into=on.run.root))
    before = load_model(Registry(on.registry).fetch(first.manifest.release_id, into=on.run.root))
    assert composer.composer is not None
    assert before.composer is not None
    assert composer.composer.adapter is not None
    weights = [one.composer.phi.state_dict()["layers.0.weight"] for one in (composer, before) if one.composer]
    assert torch.equal(*weights)


@pytest.mark.parametrize("text_side", ["tower", "prompts"])
def test_without_anchor_an_ordinary_composer_comes_out(config: ComposeConfig, text_side: str) -> None:
    settings = replace(config.alignment, text_side=text_side, is_anchored=False, phi_rate=0.0)
    config = settled(replace(config, alignment=settings))
    before = _second(config).state_dict()
    train_composer(config, reporter=LocalReporter(run_folder(config), keep=1))
    learned = {
        name.split(".")[0] for name, value in _chosen(config).state_dict().items() if not value.equal(before[name])
    }
    part = "text_tower" if text_side == "tower" else "prompts"
    assert {part, "adapter"} <= learned <= {part, "adapter", "phi", "noise"}, "phi and noise are stage 1's"


def test_stage_two_without_any_phi_is_refused(config: ComposeConfig) -> None:
    with pytest.raises(CapabilityMissing, match="no composer to go on from"):
        compose(replace(config, inversion=InversionSettings(steps=0)), console=QUIET)


def test_phi_and_a_text_tower_learn_at_their_shares_of_the_rate(config: ComposeConfig) -> None:
    composer = _second(settled(config))
    objective = AlignmentObjective(composer, settings=replace(config.alignment, phi_rate=0.25))
    optimizer = build_optimizer(objective, settings=config.alignment, rates=objective.rates())
    share_of = {id(p): group["share"] for group in optimizer.param_groups for p in group["params"]}
    assert {share_of[id(p)] for p in composer.phi.parameters()} == {0.25}
    assert composer.adapter is not None
    assert {share_of[id(p)] for p in composer.adapter.parameters()} == {1.0}
    tower = replace(config.alignment, text_side="tower", text_tower_rate=0.1)
    own = _second(settled(replace(config, alignment=tower)))
    assert own.text_tower is not None
    rates = AlignmentObjective(own, settings=tower).rates()
    assert {rates[p] for p in own.text_tower.parameters()} == {0.1}
    frozen = AlignmentObjective(composer, settings=replace(config.alignment, phi_rate=0.0))
    assert not any(p.requires_grad for p in composer.phi.parameters())
    assert frozen.rates() == {}


def test_the_average_follows_its_formula_also_where_it_was_kept_on_disk(config: ComposeConfig) -> None:
    before, after = (Candidate(_second(settled(config)), ema=0.75) for _ in range(2))
    weight = before.composer.phi.layers[0].weight
    expected = weight.detach().clone()
    for step in range(1, 40):
        _move(before, step=step)
        keep = min(0.75, (1 + step) / (10 + step))
        expected = keep * expected + (1 - keep) * weight.detach()
        if step == 5:
            after.load_state_dict(before.state_dict())
        elif step > 5:
            _move(after, step=step)
    for candidate in (before, after):
        assert torch.allclose(candidate.average.state()["phi.layers.0.weight"], expected, atol=1e-5)


def test_what_was_measured_is_not_averaged(config: ComposeConfig) -> None:
    candidate = Candidate(_second(settled(config)), ema=0.75)
    candidate.composer.noise.std_D.fill_(0.5)
    candidate.step()
    assert candidate.average.state()["noise.std_D"].eq(0.5).all()


def test_the_best_average_stays(config: ComposeConfig) -> None:
    candidate = Candidate(_second(settled(config)), ema=0.75)
    _move(candidate, step=1)
    best = candidate.average.state()["phi.layers.0.weight"].clone()
    assert candidate.judge(lambda: 2.0) == 2.0
    _move(candidate, step=2)
    assert candidate.judge(lambda: 3.0) == 3.0
    assert int(candidate.num_worse) == 1
    assert candidate.choose().state_dict()["phi.layers.0.weight"].equal(best)


def test_the_gate_asks_for_what_was_measured() -> None:
    gate = ComposeGate(min_map_at_10=0.5, min_gain_over_sum=0.05)
    assert refusals({"composed_map_at_10": 0.5, "gain_over_sum": 0.05}, gate=gate) == []
    assert len(refusals({}, gate=gate)) == 2
    assert "0.040" in refusals({"composed_map_at_10": 0.9, "gain_over_sum": 0.04}, gate=gate)[0]


def test_a_refused_composer_is_not_published(config: ComposeConfig) -> None:
    before = Registry(config.registry).releases()
    with pytest.raises(GateRefused, match="composed_map_at_10"):
        compose(replace(config, gate=ComposeGate(min_map_at_10=1.1)), console=QUIET)
    assert Registry(config.registry).releases() == before


def test_an_edit_of_an_unknown_picture_is_named(config: ComposeConfig, squares: Path) -> None:
    write_edits(squares / "own" / "foreign.jsonl", [replace(edit(0), image_id="nowhere")])
    foreign = replace(config.data, edits_train=Path("foreign.jsonl"))
    with pytest.raises(DataLineInvalid, match="'nowhere' is none of the captioned pictures"):
        compose(replace(config, data=foreign), console=QUIET)


@pytest.mark.parametrize("name", ["edits_train", "edits_val"])
def test_stage_two_without_edits_is_refused_before_stage_one_is_trained(
    config: ComposeConfig, squares: Path, name: str
) -> None:
    write_edits(squares / "own" / "empty.jsonl", [])
    for path in (None, Path("empty.jsonl")):
        data = replace(config.data, **{name: path})
        told = "names no file" if path is None else "empty.jsonl holds no edit"
        with pytest.raises(UsageError, match=f"data.{name}: {told}, which stage 2 needs"):
            compose(replace(config, data=data), console=QUIET)
    assert not (config.run.root / "run" / "metrics.jsonl").exists()
    assert compose(replace(config, data=data, alignment=AlignmentSettings(steps=0)), console=QUIET)


@pytest.mark.parametrize("stage", ["inversion", "alignment"])
def test_a_run_that_diverges_says_so_and_publishes_nothing(config: ComposeConfig, stage: str) -> None:
    registry = Registry(config.registry)
    before, channel = registry.releases(), registry.channel("stable")
    settings = replace(getattr(config, stage), learning_rate=1e20, warmup_share=0.0)
    with pytest.raises(TrainingDiverged, match=f"{stage}: step .* try a lower|held-out loss: got nan"):
        compose(replace(config, channel="stable", **{stage: settings}), console=QUIET)
    assert (registry.releases(), registry.channel("stable")) == (before, channel)


def test_a_held_out_loss_that_is_no_number_is_never_the_best(config: ComposeConfig) -> None:
    with pytest.raises(TrainingDiverged, match="held-out loss: got nan"):
        fresh_composers(config, loaded=load_towers(settled(config))).inversion.judge(lambda: math.nan)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: InversionSettings(steps=-1), "inversion.steps: got -1, must be at least 0"),
        (lambda: InversionSettings(validate_every=0), "inversion.validate_every: got 0, must be at least 1"),
        (lambda: InversionSettings(ema=1.0), "inversion.ema: got 1.0, must be at least 0 and below 1"),
        (lambda: AlignmentSettings(temperature=0.0), "alignment.temperature: got 0.0, must be above 0"),
        (lambda: AlignmentSettings(patience=-1), "alignment.patience: got -1"),
        (lambda: AlignmentSettings(clip_norm=-1.0), "alignment.clip_norm: got -1.0, must be above 0"),
        (lambda: AlignmentSettings(phi_rate=math.inf), "alignment.phi_rate: got inf"),
        (lambda: AlignmentSettings(learning_rate=math.nan), "alignment.learning_rate: got nan"),
        (lambda: AlignmentSettings(text_side="none", picture_side="none", phi_rate=0.0), "nothing is left to learn"),
        (lambda: InversionSettings(method="palavra"), "inversion.method: got 'palavra'"),
        (lambda: InversionSettings(masker="nltk"), "inversion.masker: got 'nltk'"),
        (lambda: AlignmentSettings(reference="sketch"), "alignment.reference: got 'sketch'"),
        (lambda: AlignmentSettings(text_side="tower", text_tower_rate=0.0), "text_tower_rate: got 0.0, must be above"),
        (lambda: AlignmentSettings(text_side="none", is_anchored=False), "is_anchored: false needs a text side"),
    ],
)
def test_unknown_settings_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(SettingInvalid, match=message):
        make()


def _move(candidate: Candidate, *, step: int) -> None:
    with torch.no_grad():
        candidate.composer.phi.layers[0].weight.add_(step % 3)
    candidate.step()


def _second(config: ComposeConfig) -> Composer:
    candidate = fresh_composers(config, loaded=load_towers(config)).alignment
    assert candidate is not None
    return candidate.composer


def _chosen(config: ComposeConfig) -> Composer:
    models = fresh_composers(config, loaded=load_towers(config))
    newest = LocalReporter(run_folder(config), keep=1).restore()
    assert newest is not None
    read_weights(newest, model=models)
    return models.chosen()
