"""Ways to compute a step: parts, workers, precision, recomputing and compiling change speed, not what is learned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sightline.errors import SettingInvalid
from sightline.models.config import VARIANTS, MaskingConfig
from sightline.models.faithful.generator import FaithfulGenerator
from sightline.models.faithful.tower import FaithfulTower
from sightline.models.towers import DualEncoder
from tests.two_workers import in_two_workers
from tests.unit.trainer.conftest import KilledAfter, write_squares
from trainer.architecture import Built, build
from trainer.config import ContrastiveSettings, FitConfig, GenerativeSettings, RunSettings, SpeedSettings
from trainer.data import load_corpus
from trainer.journal import losses, read_journal
from trainer.loop import train
from trainer.reporting import LocalReporter
from trainer.runs import run_folder
from trainer.stages.contrastive import ContrastiveObjective
from trainer.stages.generative import GenerativeObjective
from trainer.step import Batch, Objective, Pace, Stage, StageRun, run_stage, shares_of, split_batch

STAGES = ("contrastive", "generative")
ITEMS = 8


class OneBatch:
    """The same batch at every step, a worker's rows of it."""

    def __init__(self, batch: Batch, *, name: str, rank: int = 0, world_size: int = 1) -> None:
        self.name = name
        size = ITEMS // world_size
        self._batch = {key: value[rank * size : (rank + 1) * size] for key, value in batch.items()}

    def batch(self, step: int) -> Batch:
        return self._batch


class Silent:
    """A reporter that keeps nothing."""

    def __init__(self, *, rank: int = 0, world_size: int = 1) -> None:
        self.rank, self.world_size = rank, world_size

    def restore(self) -> Path | None:
        return None

    def save(self, write: Callable[[Path], None], *, stage: str, step: int, loss: float) -> None:
        self.loss = loss


def of_variant(config: FitConfig, variant: str) -> FitConfig:
    return replace(config, model=replace(config.model, variant=variant))


def fresh(config: FitConfig) -> Built:
    """The model of the squares with every cell hidden and no dropout: a step has no randomness left."""
    calm = replace(config, model=replace(config.model, dropout=0.0))
    built = build(calm, texts=load_corpus(config.data).texts())
    built.model.config = replace(built.model.config, masking=MaskingConfig(ratio=1.0, visible_ratio=0.0))
    return built


def batch_of(stage: str, built: Built) -> Batch:
    """Eight pairs of which two show one picture, or eight dialogues whose replies differ in length."""
    generator = torch.Generator().manual_seed(3)
    texts = [f"this is a {word} box" for word in ["red", "green", "blue", "white", "black", "yellow", "pink", "grey"]]
    ids, mask = (
        torch.from_numpy(part) for part in built.dialogue_tokenizer.context_ids([*texts[:7], "box"], max_length=40)
    )
    if stage == "contrastive":
        return {
            "pixels_BCHW": torch.randint(0, 256, (ITEMS, 3, 16, 16), dtype=torch.uint8, generator=generator),
            "tower_ids_BL": torch.from_numpy(built.tower_tokenizer.tokenize(texts).ids),
            "caption_ids_BL": ids,
            "caption_mask_BL": mask,
            "pair_ids_B": torch.tensor([0, 1, 2, 3, 4, 0, 6, 7]),
        }
    replies = ["it is red", "yes", "a", *texts[3:]]
    model = built.model
    shape = (ITEMS, 2, model.num_image_tokens, model.image_token_width)
    tokens = torch.randn(shape, generator=generator)
    if model.tower.index_dtype == torch.uint8:
        tokens = torch.randint(0, 256, shape, generator=generator).float()
    return {
        "context_ids_BL": ids,
        "context_mask_BL": mask,
        "tokens_BKPW": tokens,
        "similarity_BK": torch.rand(ITEMS, 2, generator=generator),
        "image_mask_BK": torch.arange(ITEMS)[:, None] % 3 > torch.arange(2)[None, :],
        "image_ids_BK": torch.arange(2 * ITEMS).view(ITEMS, 2),
        "labels_BT": torch.from_numpy(built.dialogue_tokenizer.label_ids(replies, max_length=40)),
    }


def objective_of(stage: str, built: Built) -> Objective:
    if stage == "contrastive":
        return ContrastiveObjective(built, settings=ContrastiveSettings(tamim_share=1.0))
    return GenerativeObjective(built.model)


def settings_of(stage: str, **changes: Any) -> ContrastiveSettings | GenerativeSettings:
    kind = ContrastiveSettings if stage == "contrastive" else GenerativeSettings
    return kind(batch_size=ITEMS, clip_norm=1e9, **{"steps": 1, **changes})


def gradients_after_a_step(
    config: FitConfig, *, stage: str, reporter: Silent | None = None, speed: SpeedSettings | None = None, **changes: Any
) -> dict[str, Tensor]:
    """Every gradient of one step of the real loop, and the loss it reported under the name 'loss'."""
    reporter = reporter or Silent()
    built = fresh(config)
    if speed and speed.gradient_checkpointing:
        built.model.checkpoint_activations()
    batches = OneBatch(batch_of(stage, built), name=stage, rank=reporter.rank, world_size=reporter.world_size)
    run = StageRun(
        stage=Stage(batches=batches, objective=objective_of(stage, built)),
        model=built.model,
        settings=settings_of(stage, **changes),
        speed=speed or SpeedSettings(),
        device=torch.device("cpu"),
        pace=Pace(log_every=1, checkpoint_every=1),
        reporter=reporter,
        journal=None,
        seed=0,
        training={},
    )
    run_stage(run, start=0, resume_from=None)
    found = {name: p.grad for name, p in built.model.named_parameters() if p.grad is not None}
    return {**found, "loss": torch.tensor(reporter.loss)}


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor], *, tolerance: float = 2e-5) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        scale = max(float(value.abs().max()), 1e-3)
        assert float((found[name] - value).abs().max()) <= tolerance * scale, name


def _worker(rank: int, folder: str, variant: str, stage: str, accumulate: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    found = gradients_after_a_step(
        of_variant(write_squares(Path(folder) / str(rank)), variant),
        stage=stage,
        reporter=Silent(rank=rank, world_size=2),
        accumulate=accumulate,
    )
    save_file(found, f"{folder}/{rank}.safetensors")
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "stage", "accumulate"),
    [
        ("clip", "contrastive", 1),
        ("clip", "generative", 1),
        ("clip", "generative", 2),
        ("faithful", "contrastive", 1),
        ("faithful", "generative", 1),
    ],
)
def test_two_workers_take_the_step_of_one_with_twice_the_batch(
    variant: str, stage: str, accumulate: int, tmp_path: Path
) -> None:
    """Same loss and same gradients: negatives are gathered, replies count by their tokens and contexts alike."""
    alone = gradients_after_a_step(of_variant(write_squares(tmp_path / "alone"), variant), stage=stage)
    in_two_workers("tests.unit.trainer.test_trainer_speed", _worker.__name__, str(tmp_path), variant, stage, accumulate)
    for rank in (0, 1):
        assert_close(load_file(tmp_path / f"{rank}.safetensors"), alone)


@pytest.mark.parametrize("accumulate", [2, 4])
def test_parts_of_a_batch_give_the_gradient_of_the_whole_in_stage_two(tiny_fit: FitConfig, accumulate: int) -> None:
    whole = gradients_after_a_step(tiny_fit, stage="generative")
    assert_close(gradients_after_a_step(tiny_fit, stage="generative", accumulate=accumulate), whole)


def test_parts_of_a_contrastive_batch_are_contrastive_batches_of_their_own(tiny_fit: FitConfig) -> None:
    """What the setting says: the mean over the parts, each with its own negatives, and so not the whole batch's."""
    built = fresh(tiny_fit)
    batch, objective = batch_of("contrastive", built), objective_of("contrastive", built)
    parts = [objective(part)["loss"].detach() for part in split_batch(batch, parts=2)]
    found = gradients_after_a_step(tiny_fit, stage="contrastive", accumulate=2)["loss"]
    assert found.item() == pytest.approx(float(sum(parts)) / 2, abs=1e-5)
    assert abs(found.item() - float(objective(batch)["loss"].detach())) > 0.1


def test_a_faithful_models_contexts_count_alike_however_long_their_replies(tiny_fit: FitConfig) -> None:
    """Two workers, worked out by hand: each loss is what one worker with both halves finds."""
    objective = objective_of("generative", fresh(of_variant(tiny_fit, "faithful")))
    weight = 0.1
    halves = [
        {"lm": torch.tensor(reply), "preservation": torch.tensor(contexts)}
        for reply, contexts in ((3.0, 8.0), (1.0, 4.0))
    ]
    shares = [torch.tensor(1.5), torch.tensor(0.5)]  # three quarters of the tokens are the first half's
    found = [objective.scaled(half, share=share, even=1.0) for half, share in zip(halves, shares, strict=True)]
    mean = {name: float(sum(one[name] for one in found)) / 2 for name in ("loss", "lm", "preservation")}
    assert mean == pytest.approx({"loss": 2.5 + weight * 6.0, "lm": 2.5, "preservation": 6.0})


def test_shares_of_parts_add_up_to_one_worker() -> None:
    assert torch.stack(shares_of([torch.tensor(3), torch.tensor(1)])).tolist() == [0.75, 0.25]


def test_a_batch_that_parts_cannot_share_is_refused(tiny_fit: FitConfig) -> None:
    config = replace(tiny_fit, stage2=replace(tiny_fit.stage2, accumulate=3))
    with pytest.raises(SettingInvalid, match=r"stage2.batch_size: got 4, must be a multiple .* stage2.accumulate 3"):
        train(config, reporter=LocalReporter(run_folder(config), keep=2))


@pytest.mark.parametrize("stage", STAGES)
def test_the_rate_falls_to_zero_in_optimiser_steps_whatever_the_parts(tiny_fit: FitConfig, stage: str) -> None:
    rates: list[float] = []

    class Watched(torch.optim.AdamW):
        def step(self, closure: Any = None) -> Any:
            rates.append(self.param_groups[0]["lr"])
            return super().step(closure)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.optim.AdamW", Watched)
        gradients_after_a_step(tiny_fit, stage=stage, accumulate=4, steps=40, learning_rate=1.0)
    assert len(rates) == 40
    assert max(rates) > 0.95
    assert rates[-1] < 0.005


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("stage", STAGES)
def test_recomputed_activations_give_the_same_gradients(tiny_fit: FitConfig, stage: str, variant: str) -> None:
    config = of_variant(tiny_fit, variant)
    plain = gradients_after_a_step(config, stage=stage)
    found = gradients_after_a_step(config, stage=stage, speed=SpeedSettings(gradient_checkpointing=True))
    assert_close(found, plain)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("stage", STAGES)
def test_recomputing_runs_each_block_again(tiny_fit: FitConfig, stage: str, variant: str) -> None:
    def runs(*, is_recomputed: bool) -> dict[str, int]:
        built = fresh(of_variant(tiny_fit, variant))
        if is_recomputed:
            built.model.checkpoint_activations()
        objective, counts = objective_of(stage, built), dict.fromkeys(blocks_of(stage, built), 0)
        for name, block in blocks_of(stage, built).items():

            def count(*_: Any, name: str = name) -> None:
                counts[name] += 1

            block.register_forward_pre_hook(count)
        objective.train()
        objective(batch_of(stage, built))["loss"].backward()
        return counts

    once, twice = runs(is_recomputed=False), runs(is_recomputed=True)
    assert all(twice[name] > once[name] > 0 for name in once)


def blocks_of(stage: str, built: Built) -> dict[str, nn.Module]:
    """One part inside a block of each transformer that the stage trains."""
    model, generator = built.model, built.model.generator
    assert generator is not None
    if stage == "contrastive":
        if isinstance(model.tower, FaithfulTower):
            return {"picture": model.tower.vit.layers[0].mlp}
        assert isinstance(model.tower, DualEncoder)
        tower = model.tower.model
        return {"picture": tower.visual.transformer.resblocks[0].mlp, "text": tower.transformer.resblocks[0].mlp}
    bart = generator.bart.model
    read = {"picture": generator.reader.vit.layers[0].mlp} if isinstance(generator, FaithfulGenerator) else {}
    return {"encoder": bart.encoder.layers[0].fc1, "decoder": bart.decoder.layers[0].fc1} | read


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("stage", STAGES)
def test_bfloat16_keeps_master_weights_and_nearly_the_gradients(tiny_fit: FitConfig, stage: str, variant: str) -> None:
    config = of_variant(tiny_fit, variant)
    plain = gradients_after_a_step(config, stage=stage)
    mixed = gradients_after_a_step(config, stage=stage, speed=SpeedSettings(precision="bfloat16"))
    assert {value.dtype for value in mixed.values()} == {torch.float32}
    assert mixed["loss"].item() == pytest.approx(plain["loss"].item(), rel=0.02)
    assert mixed["loss"].item() != plain["loss"].item()
    names = [name for name in plain if name != "loss" and float(plain[name].norm()) > 1e-4]
    flat = [torch.cat([found[name].flatten() for name in names]) for found in (plain, mixed)]
    assert torch.nn.functional.cosine_similarity(*flat, dim=0) > 0.99


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(SettingInvalid, match="float16"):
        SpeedSettings(precision="float16")


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_compiled_objective_is_traced_and_gives_the_same_gradients(tiny_fit: FitConfig, stage: str) -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    plain = gradients_after_a_step(tiny_fit, stage=stage)
    assert not torch._dynamo.utils.counters["frames"]
    found = gradients_after_a_step(tiny_fit, stage=stage, speed=SpeedSettings(compile_backend="eager"))
    assert torch._dynamo.utils.counters["frames"]["ok"] > 0
    assert_close(found, plain)


def test_an_unknown_backend_is_refused(tiny_fit: FitConfig) -> None:
    with pytest.raises(SettingInvalid, match="turbo"):
        gradients_after_a_step(tiny_fit, stage="generative", speed=SpeedSettings(compile_backend="turbo"))


@pytest.mark.slow
def test_a_run_with_every_saving_trains_and_resumes(tiny_fit: FitConfig) -> None:
    config = replace(
        tiny_fit,
        stage1=replace(tiny_fit.stage1, accumulate=2),
        stage2=replace(tiny_fit.stage2, accumulate=2),
        speed=SpeedSettings(precision="bfloat16", gradient_checkpointing=True),
    )
    broken = replace(config, run=replace(config.run, name="broken"))
    train(config, reporter=LocalReporter(run_folder(config), keep=2))
    with pytest.raises(InterruptedError):
        train(broken, reporter=KilledAfter(run_folder(broken), checkpoints=5))  # inside stage 2
    train(broken, reporter=LocalReporter(run_folder(broken), keep=2))
    assert losses(run_folder(broken)) == losses(run_folder(config))
    assert len(losses(run_folder(config))) == 10
    newest = LocalReporter(run_folder(broken), keep=2).restore()
    assert newest is not None
    assert {value.dtype for value in load_file(newest / "model.safetensors").values()} == {torch.float32}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator")
def test_a_run_on_an_accelerator_in_bfloat16_ends_near_the_processors(tiny_fit: FitConfig, tmp_path: Path) -> None:
    ends = []
    for device, precision in (("cpu", "float32"), ("cuda", "bfloat16")):
        run: RunSettings = replace(tiny_fit.run, name=device, device=device)
        config = replace(tiny_fit, run=run, speed=SpeedSettings(precision=precision))
        train(config, reporter=LocalReporter(run_folder(config), keep=2))
        ends.append([row["loss"] for row in read_journal(run_folder(config)) if row["event"] == "step"])
    assert ends[1] == pytest.approx(ends[0], rel=0.05)
