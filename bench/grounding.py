"""`python -m bench.grounding`: what pictures add, over several seeds, with controls that must fail."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.machine import machine, write_result
from trainer.architecture import build
from trainer.checkpoint import read_weights
from trainer.config import FitConfig, to_json, training_digest
from trainer.data import load_corpus
from trainer.evaluate import evaluate
from trainer.loop import train
from trainer.overrides import apply_overrides
from trainer.progress import stage_steps, watching
from trainer.recipes import recipe
from trainer.reporting import LocalReporter
from trainer.runs import run_folder

OUT = Path(__file__).parent / "results" / "grounding.json"
MAIN, CONTROLS = "toytown-tiny", ("toytown-text-only", "toytown-leaky")
PLACES = 4


def main() -> None:
    """Train what is not in the results yet, and write them after every run: an interrupted call is continued."""
    args = _arguments()
    console = Console()
    wanted = [(MAIN, seed) for seed in args.seeds] + [(name, seed) for seed in args.control_seeds for name in CONTROLS]
    runs = _finished(args.out)
    for name, seed in wanted:
        config = _config(name, seed=seed, root=args.runs, settings=args.settings)
        if any(run["training_digest"] == training_digest(config) and run["recipe"] == name for run in runs):
            console.print(f"{name} seed {seed}: measured already")
            continue
        runs = [run for run in runs if (run["recipe"], run["seed"]) != (name, seed)] + [
            _measure(config, console=console)
        ]
        _write(args.out, runs=runs, settings=args.settings)
    console.print_json(json.dumps(summarise(runs)))


def summarise(runs: Sequence[dict[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """Mean and standard deviation of every score, by recipe; the deviation of a single run is 0."""
    summary: dict[str, dict[str, dict[str, float]]] = {}
    for name in dict.fromkeys(run["recipe"] for run in runs):
        scores = [run["scores"] for run in runs if run["recipe"] == name]
        shared = set.intersection(*(set(score) for score in scores))
        summary[name] = {
            key: {
                "mean": round(statistics.mean(score[key] for score in scores), PLACES),
                "std": round(statistics.pstdev([score[key] for score in scores]), PLACES),
            }
            for key in sorted(shared)
        }
    return summary


def _measure(config: FitConfig, *, console: Console) -> dict[str, Any]:
    console.print(f"{config.recipe} seed {config.seed}")
    began, cpu_began = time.monotonic(), time.process_time()
    reporter = LocalReporter(run_folder(config), keep=1)
    with watching(run_folder(config), steps=stage_steps(config), console=console):
        train(config, reporter=reporter)
    corpus, checkpoint = load_corpus(config.data), reporter.restore()
    assert checkpoint is not None, "a finished run has a checkpoint"
    built = build(config, texts=corpus.texts())
    read_weights(checkpoint, model=built.model)
    built.model.eval()
    cache = config.run.root / "cache"
    scores = evaluate(built, corpus=corpus, settings=config.evaluation, cache=cache, seed=config.seed)
    return {
        "recipe": config.recipe,
        "seed": config.seed,
        "training_digest": training_digest(config),
        "data_sha256": corpus.digest,
        "scores": {name: round(value, PLACES) for name, value in scores.items()},
        "wall_s": round(time.monotonic() - began, 1),
        "cpu_s": round(time.process_time() - cpu_began, 1),
    }


def _config(name: str, *, seed: int, root: Path, settings: Sequence[str]) -> FitConfig:
    config = apply_overrides(recipe(name), arguments=settings)
    # The digest in the name keeps a run of changed settings from resuming an old one.
    seeded = replace(config, seed=seed)
    run = replace(config.run, root=root, name=f"{name}-{seed}-{training_digest(seeded)[:8]}", num_workers=0)
    return replace(seeded, run=run)


def _finished(path: Path) -> list[dict[str, Any]]:
    return list(json.loads(path.read_text(encoding="utf-8"))["runs"]) if path.exists() else []


def _write(path: Path, *, runs: Sequence[dict[str, Any]], settings: Sequence[str]) -> None:
    result = {
        "command": " ".join(["python -m bench.grounding", *settings]),
        "machine": machine(),
        "recipe": to_json(apply_overrides(recipe(MAIN), arguments=settings)),
        "summary": summarise(runs),
        "runs": list(runs),
    }
    write_result(path, result=result)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.grounding", description=__doc__, allow_abbrev=False)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of the recipe")
    parser.add_argument("--control-seeds", type=int, nargs="*", default=[0], help="seeds of the controls")
    parser.add_argument("--out", type=Path, default=OUT, help="JSON to write, and to continue")
    parser.add_argument("--runs", type=Path, default=Path("var/bench/grounding"), help="folder of the runs")
    known, settings = parser.parse_known_args()
    known.settings = settings
    return known


if __name__ == "__main__":
    main()
