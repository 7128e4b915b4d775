"""`python -m bench.contrastive`: stage 1 against a plain CLIP loop, the same towers for the same time on one core.

Ours is stage 1 of the `emoji` recipe, whole: TIM, TAMIM, augmentation, small talk around captions; beside it stand
each of these left out, and wrong captions added, for the same time, which says what it costs or brings. The rival is
`bench.plain_clip` at several settings, of which the one that finds most validation captions' pictures goes on to all
seeds; ours is not chosen. All start from the same weights and read the same pictures, decoded before the clock starts.

The clock is the CPU time of the process, which has one thread: on a shared machine wall time measures the neighbours.
Every schedule must end with the clock, so the cost of a step is measured first, in rounds that alternate the loops, and
fixes the number of steps; what the runs then took is in the result beside it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from bench.machine import machine, write_result
from bench.plain_clip import SHIPPED_RATE, SHIPPED_WARMUP_STEPS, PlainPairs, PlainSettings, train_plain
from sightline.data.captions import CaptionRecord, read_captions
from sightline.models.transforms import Preprocess
from trainer.architecture import Built, build, device_of
from trainer.config import ContrastiveSettings, FitConfig, to_json
from trainer.data import Corpus, load_corpus, unique_pictures
from trainer.evaluate import caption_scores
from trainer.overrides import apply_overrides
from trainer.pictures import Pixels, load_pictures
from trainer.recipes import EMOJI
from trainer.stages.contrastive import ContrastiveBatches, ContrastiveObjective
from trainer.stages.sources import ShuffledPictures
from trainer.step import Pace, Stage, StageRun, run_stage

OUT = Path(__file__).parent / "results" / "contrastive.json"
OURS, PLAIN = "sightline stage 1", "plain CLIP"
CHOSEN_BY = "caption_recall_at_5"
_ROUNDS, _ROUND_STEPS = 3, 12
_PLACES = 4

Run = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Loop:
    """One way to train the towers."""

    name: str
    plain: PlainSettings | None = None
    """None is ours."""
    changes: tuple[tuple[str, Any], ...] = ()
    """Settings of stage 1 that differ from the recipe's, by name."""

    def with_steps(self, steps: int, *, warmup_share: float) -> Loop:
        """The same, its warm-up as long as ours unless it is open_clip's own."""
        if self.plain is None or self.plain.warmup_steps == SHIPPED_WARMUP_STEPS:
            return self
        return replace(self, plain=replace(self.plain, warmup_steps=round(warmup_share * steps)))

    @property
    def kind(self) -> str:
        """Loops of one kind have steps of one cost."""
        if self.plain is None:
            return self.name
        return f"{PLAIN}, cropped" if self.plain.is_cropped else f"{PLAIN}, not cropped"


OUR_LOOPS = (
    Loop(name=OURS),
    Loop(name=f"{OURS} without small talk", changes=(("small_talk_share", 0.0),)),
    Loop(name=f"{OURS}, TAMIM of one picture a step", changes=(("tamim_share", 0.0),)),
    Loop(name=f"{OURS} without mirroring and shifts", changes=(("flip_share", 0.0), ("shift_pixels", 0))),
    Loop(name=f"{OURS} with wrong captions", changes=(("has_wrong_captions", True),)),
)


@dataclass(frozen=True, kw_only=True)
class Beginning:
    """The model of one seed and the weights that every loop starts from."""

    built: Built
    weights: Mapping[str, Tensor]

    def again(self) -> Built:
        """The model as it was: one model serves all runs of its seed, one after the other."""
        self.built.model.load_state_dict(self.weights)
        return self.built

    def digest(self) -> str:
        """Of the towers' weights, in the result's every run."""
        total = hashlib.sha256()
        for parameter in self.again().model.tower.parameters():
            total.update(parameter.detach().numpy().tobytes())
        return total.hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class World:
    """What every run reads."""

    config: FitConfig
    corpus: Corpus
    pixels: Pixels
    captions_test: Sequence[CaptionRecord]
    beginnings: dict[int, Beginning] = field(default_factory=dict)

    def beginning(self, seed: int) -> Beginning:
        """Where the runs of a seed start; built once, since the corpus' tokenizer takes seconds to train."""
        if seed not in self.beginnings:
            built = build(replace(self.config, seed=seed), texts=self.corpus.texts())
            weights = {name: value.clone() for name, value in built.model.state_dict().items()}
            self.beginnings[seed] = Beginning(built=built, weights=weights)
        return self.beginnings[seed]


class NoCheckpoints:
    """A reporter that keeps nothing: writing to the disk is no part of what is compared."""

    rank, world_size = 0, 1

    def restore(self) -> Path | None:
        """Nothing is kept."""
        return None

    def save(self, write: Callable[[Path], None], *, stage: str, step: int, loss: float) -> None:
        """Keep nothing."""


def main() -> None:
    """Measure what is not in the result yet and write it after every run: an interrupted call is continued."""
    args = _arguments()
    torch.set_num_threads(1)
    console = Console()
    world = read_world(args.data, settings=args.settings)
    result = _continued(args, world=world)
    candidates = plain_loops(args.rates, batch_size=world.config.stage1.batch_size)
    cost = result["cpu_s_a_step"] = result["cpu_s_a_step"] or step_costs([*OUR_LOOPS, *candidates], world=world)
    write_result(args.out, result=result)
    for loop in candidates:
        _measured(loop, seed=args.seeds[0], world=world, cost=cost, args=args, result=result, console=console)
    for place, seed in enumerate(args.seeds):
        loops = [*OUR_LOOPS, *rivals(result["runs"], candidates, seed=args.seeds[0], ours=world.config)]
        for loop in loops if place % 2 == 0 else loops[::-1]:
            _measured(loop, seed=seed, world=world, cost=cost, args=args, result=result, console=console)
    result["summary"] = summarise(result["runs"], seeds=args.seeds)
    write_result(args.out, result=result)
    console.print(summary_table(result["summary"]))


def read_world(root: Path, *, settings: Sequence[str] = ()) -> World:
    """The `emoji` recipe over the folder that `examples.emoji.prepare` wrote, `settings` laid over it; all decoded."""
    config = apply_overrides(EMOJI, arguments=settings)
    config = replace(config, data=replace(config.data, root=root))
    corpus = load_corpus(config.data)
    preprocess = Preprocess(image_size=config.model.image_size)
    mapped = load_pictures(unique_pictures(corpus.captions_train), preprocess=preprocess, cache=root / "cache")
    test = read_captions(root / "captions_test.jsonl")
    return World(config=config, corpus=corpus, pixels=np.array(mapped), captions_test=test)


def plain_loops(rates: Sequence[float], *, batch_size: int) -> list[Loop]:
    """The plain loop at each rate with and without crops, and as open_clip ships it."""
    plain = PlainSettings(learning_rate=SHIPPED_RATE, warmup_steps=0, is_cropped=True, batch_size=batch_size)
    loops = [
        Loop(name=plain_name(rate, is_cropped), plain=replace(plain, learning_rate=rate, is_cropped=is_cropped))
        for rate in rates
        for is_cropped in (True, False)
    ]
    shipped = replace(plain, warmup_steps=SHIPPED_WARMUP_STEPS)
    return [*loops, Loop(name=f"{PLAIN} as shipped: rate {SHIPPED_RATE:g}, 10,000 steps of warm-up", plain=shipped)]


def plain_name(rate: float, is_cropped: bool) -> str:
    """What the result calls a plain loop."""
    return f"{PLAIN} rate {rate:g}, {'cropped' if is_cropped else 'not cropped'}"


def rivals(runs: Sequence[Run], candidates: Sequence[Loop], *, seed: int, ours: FitConfig) -> list[Loop]:
    """The plain loop at our rate as open_clip crops, and the best of all on the validation captions of that seed."""
    found = {run["loop"]: run["val"][CHOSEN_BY] for run in runs if run["seed"] == seed}
    best = max(candidates, key=lambda loop: found[loop.name])
    same = [loop for loop in candidates if loop.name == plain_name(ours.stage1.learning_rate, True)]
    return list(dict.fromkeys([*same, best]))


def summarise(runs: Sequence[Run], *, seeds: Sequence[int]) -> dict[str, dict[str, Any]]:
    """Mean and deviation over the seeds of every loop that all of them have, by loop, split and score."""
    summary: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(run["loop"] for run in runs):
        own = [run for run in runs if run["loop"] == name and run["seed"] in seeds]
        if {run["seed"] for run in own} != set(seeds):
            continue
        scores = {
            f"{split} {key}": [run[split][key] for run in own] for split in ("val", "test") for key in own[0][split]
        }
        scores |= {key: [run[key] for run in own] for key in ("steps", "cpu_s")}
        summary[name] = {key: _mean_and_deviation(values) for key, values in scores.items()}
    return summary


def summary_table(summary: Mapping[str, Mapping[str, Any]]) -> Table:
    """Recall of the test captions and what was spent, mean and deviation."""
    names = ("test caption_recall_at_1", "test caption_recall_at_5", "test caption_recall_at_10", "steps", "cpu_s")
    table = Table("loop", *(name.replace("caption_recall_at_", "R@") for name in names), show_edge=False)
    for loop, scores in summary.items():
        table.add_row(loop, *(f"{scores[name]['mean']:.3g} ± {scores[name]['std']:.2g}" for name in names))
    return table


def step_costs(loops: Sequence[Loop], *, world: World) -> dict[str, float]:
    """CPU seconds of a step of each kind of loop: the median of rounds that alternate the kinds."""
    of_kind = {loop.kind: loop for loop in loops}
    rounds = [{kind: _cpu_s_a_step(loop, world=world) for kind, loop in of_kind.items()} for _ in range(_ROUNDS)]
    return {kind: round(statistics.median(costs[kind] for costs in rounds), 5) for kind in of_kind}


def train_loop(loop: Loop, *, world: World, steps: int, seed: int) -> tuple[Built, float]:
    """(trained model, CPU seconds of its steps). The model is the world's, until the seed's next run."""
    built = world.beginning(seed).again()
    train = _prepared(loop.with_steps(steps, warmup_share=world.config.stage1.warmup_share), built, world, steps, seed)
    began = time.process_time()
    train()
    return built, time.process_time() - began


def measure(loop: Loop, *, world: World, steps: int, seed: int) -> Run:
    """One run: what it took, and how well held-out captions find their pictures."""
    first = world.beginning(seed).digest()
    began = time.monotonic()
    built, cpu_s = train_loop(loop, world=world, steps=steps, seed=seed)
    wall_s = time.monotonic() - began
    built.model.eval()
    with tempfile.TemporaryDirectory(prefix="sightline-contrastive-") as cache:
        splits = {"val": world.corpus.captions_val, "test": world.captions_test}
        scores = {name: caption_scores(built, captions=split, cache=Path(cache)) for name, split in splits.items()}
    trained = loop.with_steps(steps, warmup_share=world.config.stage1.warmup_share)
    return {
        "loop": loop.name,
        "seed": seed,
        "settings": to_json(_stage1(loop, world=world, steps=steps))
        if trained.plain is None
        else asdict(trained.plain),
        "steps": steps,
        "cpu_s": round(cpu_s, 1),
        "wall_s": round(wall_s, 1),
        "first_weights_sha256": first,
        **{name: {key: round(value, _PLACES) for key, value in score.items()} for name, score in scores.items()},
    }


def _prepared(loop: Loop, built: Built, world: World, steps: int, seed: int) -> Callable[[], None]:
    """Everything but the steps: what is left to do when the clock starts."""
    if loop.plain is None:
        run = _stage_run(built, world=world, settings=_stage1(loop, world=world, steps=steps), seed=seed)
        return lambda: run_stage(run, start=0, resume_from=None)
    settings = loop.plain
    pairs = PlainPairs(
        built, captions=world.corpus.captions_train, pixels_NCHW=world.pixels, settings=settings, seed=seed
    )
    return lambda: train_plain(built, pairs=pairs, settings=settings, steps=steps, seed=seed)


def _stage1(loop: Loop, *, world: World, steps: int) -> ContrastiveSettings:
    return replace(world.config.stage1, **dict(loop.changes), steps=steps)


def _stage_run(built: Built, *, world: World, settings: ContrastiveSettings, seed: int) -> StageRun:
    """Stage 1 as `trainer.loop` runs it, without journal and checkpoints."""
    batches = ContrastiveBatches(
        built,
        captions=world.corpus.captions_train,
        dialogues=world.corpus.dialogues_train,
        source=ShuffledPictures(world.pixels, seed=seed, rank=0, world_size=1),
        settings=settings,
        seed=seed,
        rank=0,
    )
    built.model.start_stage_one()
    return StageRun(
        stage=Stage(batches=batches, objective=ContrastiveObjective(built, settings=settings)),
        model=built.model,
        settings=settings,
        speed=world.config.speed,
        device=device_of(built.model),
        pace=Pace(log_every=settings.steps, checkpoint_every=settings.steps),
        reporter=NoCheckpoints(),
        journal=None,
        seed=seed,
        training={},
    )


def _cpu_s_a_step(loop: Loop, *, world: World) -> float:
    _, cpu_s = train_loop(loop, world=world, steps=_ROUND_STEPS, seed=world.config.seed)
    return cpu_s / _ROUND_STEPS


def _measured(
    loop: Loop,
    *,
    seed: int,
    world: World,
    cost: Mapping[str, float],
    args: argparse.Namespace,
    result: dict[str, Any],
    console: Console,
) -> None:
    """Add the run to the result unless it is there."""
    if any((run["loop"], run["seed"]) == (loop.name, seed) for run in result["runs"]):
        return
    run = measure(loop, world=world, steps=round(args.cpu_s / cost[loop.kind]), seed=seed)
    result["runs"].append(run)
    write_result(args.out, result=result)
    console.print(f"{loop.name}, seed {seed}: {run['cpu_s']} s, test {CHOSEN_BY} {run['test'][CHOSEN_BY]}")


def _continued(args: argparse.Namespace, *, world: World) -> dict[str, Any]:
    """The result that `--out` holds if it is of the same clock, settings and data, else an empty one."""
    seeds, rates = (" ".join(f"{value:g}" for value in values) for values in (args.seeds, args.rates))
    options = (f"--cpu-s {args.cpu_s:g}", f"--seeds {seeds}", f"--rates {rates}")
    wanted = {
        "command": " ".join(["python -m bench.contrastive", *options, *args.settings]),
        "machine": machine(),
        "clock": "CPU seconds of the process, one thread",
        "cpu_s": args.cpu_s,
        "model": to_json(world.config.model),
        "stage1": to_json(world.config.stage1),
        "data_sha256": world.corpus.digest,
        "cpu_s_a_step": None,
        "runs": [],
    }
    found = json.loads(args.out.read_text(encoding="utf-8")) if args.out.exists() else {}
    same = all(found.get(key) == wanted[key] for key in ("cpu_s", "model", "stage1", "data_sha256"))
    return {**wanted, "cpu_s_a_step": found["cpu_s_a_step"], "runs": found["runs"]} if same else wanted


def _mean_and_deviation(values: Sequence[float]) -> dict[str, float]:
    return {"mean": round(statistics.mean(values), _PLACES), "std": round(statistics.pstdev(values), _PLACES)}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.contrastive", description=__doc__, allow_abbrev=False)
    parser.add_argument("--data", type=Path, default=EMOJI.data.root, help="folder that examples.emoji.prepare wrote")
    parser.add_argument("--cpu-s", type=float, default=120.0, help="CPU seconds that a run trains")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds; the first chooses the rival")
    parser.add_argument("--rates", type=float, nargs="+", default=[5e-4, 1e-3, 2e-3], help="peak rates of the rival")
    parser.add_argument("--out", type=Path, default=OUT, help="JSON to write, and to continue")
    known, settings = parser.parse_known_args()
    known.settings = settings
    return known


if __name__ == "__main__":
    main()
