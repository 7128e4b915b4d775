"""The command line of `python -m trainer benchmark`."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from sightline.errors import UsageError

CACHE = Path("var/benchmarks")
_TEXT = """circo, cirr, fashioniq or genecis, the benchmarks of composed retrieval as they are published; or triplets,
composed queries of your own: a triplets.jsonl as annotations over a pool as images"""


def add_benchmark(command: argparse.ArgumentParser) -> None:
    """Give the sub-command its arguments."""
    command.add_argument("benchmark", help=_TEXT)
    command.add_argument("--annotations", type=Path, required=True, help="the annotation file, or the folder of them")
    command.add_argument("--images", type=Path, required=True, help="the folder of pictures; of triplets, the pool")
    command.add_argument("--release", required=True, help="a folder, a release id or a channel")
    command.add_argument("--registry", default="var/registry", help="where release ids and channels are looked up")
    command.add_argument("--split", default="val", help="val, or test, whose answers are hidden")
    text = """image, text, sum:WEIGHT, slerp:WEIGHT, random:SEED, composed, or rewrite:REWRITER:CAPTIONS (rules, joined,
    endpoint or the folder of an instruct model; a captions file, endpoint or the folder of an image-to-text model);
    composed by default where the release has a composer, else sum"""
    command.add_argument("--system", default="", help=text)
    command.add_argument("--wording", default="{text}", help="what each text is said as, such as 'the same {text}'")
    command.add_argument("--caption-mode", default="", help="fashioniq: both_orders_mean (default) or given_order")
    command.add_argument("--submission", type=Path, metavar="FOLDER", help="write what circo's or cirr's server takes")
    command.add_argument("--allow-missing", action="store_true", help="measure without missing pictures, and stamp it")
    command.add_argument("--out", type=Path, help=f"folder of the result; {CACHE}/BENCHMARK by default")
    command.add_argument("--cache", type=Path, default=CACHE, help="folder of picture vectors and answers")
    command.add_argument("--device", default="cpu", help="where the towers run")
    command.set_defaults(run=_benchmark)


def _benchmark(known: argparse.Namespace, settings: list[str], console: Console) -> None:
    # Imported here: no other command needs the benchmarks.
    from trainer.benchmarks.annotations import Files
    from trainer.benchmarks.report import print_result
    from trainer.benchmarks.run import Order, run_benchmark

    if settings:
        raise UsageError(f"benchmark: unknown arguments {' '.join(settings)}")
    files = Files(
        annotations=known.annotations, images=known.images, split=known.split, caption_mode=known.caption_mode
    )
    order = Order(
        benchmark=known.benchmark,
        files=files,
        release=known.release,
        registry=known.registry,
        system=known.system,
        wording=known.wording,
        out=known.out or CACHE / known.benchmark,
        submission=known.submission,
        allows_missing=known.allow_missing,
        cache=known.cache,
        device=known.device,
    )
    print_result(console, run_benchmark(order, console=console))
