"""Both sides on the same material, in turn, and what came out.

The machine's speed drifts, so the two sides are measured one after the other, several rounds in one run. In process the
work is done in batches of as many items as there are callers; the faster of two ways counts.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from bench.encoder.in_process import InProcess
from bench.encoder.material import HEIGHT, WIDTH, publish_release, write_captions, write_pictures
from bench.encoder.served import load, running_service
from sightline.models.encoder_model import EncoderModel
from sightline.models.release import load_encoder
from sightline.registry import Manifest, Registry
from sightline.settings import environment

_KINDS = ("pictures", "texts")


def main() -> None:
    """Measure, print and write the results."""
    args = _arguments()
    with tempfile.TemporaryDirectory(prefix="bench-encoder-") as name:
        folder = Path(name)
        manifest = publish_release(folder, tag=args.tag)
        model = _load(folder, manifest)
        side = _Sides(model, folder=folder, args=args)
        hosts = {host: side.measure(host) for host in (("aio", "serve") if args.host == "both" else (args.host,))}
    result = {"machine": _machine(), "work": _work(args, model), "hosts": hosts}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=2) + "\n")
    for host, kinds in hosts.items():
        for kind, found in kinds.items():
            rates = f"{found['served_per_s']:8.1f} served / {found['in_process_per_s']:8.1f} in process"
            print(f"{host:5} {kind:8} {rates} per s = {found['ratio']:.3f}   p50 {found['served_p50_ms']:.0f} ms")
    print(f"written to {args.out}")


class _Sides:
    """The two sides of the comparison on the same material."""

    def __init__(self, model: EncoderModel, *, folder: Path, args: argparse.Namespace) -> None:
        self._folder, self._args = folder, args
        self._pictures = write_pictures(folder / "pictures", count=args.distinct)
        self._captions = write_captions(folder / "captions.txt", count=4 * args.distinct)
        self._in_process = InProcess(model, threads=args.cores)

    def measure(self, host: str) -> dict[str, Any]:
        """Every kind on `host`, each round in process and served."""
        with running_service(host, folder=self._folder, cores=self._args.cores) as address:
            return {kind: self._rounds(address, kind=kind) for kind in _KINDS}

    def _rounds(self, address: str, *, kind: str) -> dict[str, Any]:
        rounds = []
        for number in range(self._args.rounds):
            in_process = self._run_in_process(kind)
            served = load(
                address, folder=self._folder, kind=kind, callers=self._args.callers, seconds=self._args.seconds
            )
            rounds.append({"in_process": in_process, "served": served})
            print(f"  {kind} round {number + 1}: in process {in_process}, served {served}", flush=True)
        return _summary(rounds)

    def _run_in_process(self, kind: str) -> dict[str, float]:
        """Items per second of each way to do the work; the fastest one is what the service is held against."""
        seconds, batch, ours = self._args.seconds / 2, self._args.callers, self._in_process
        if kind == "texts":
            sizes = (batch // 2, batch)
            rates = {f"batches of {n}": ours.texts_per_s(self._captions, seconds=seconds, batch=n) for n in sizes}
        else:
            ways = {"decoded in turn": False, "decoded ahead": True}
            rates = {
                name: ours.pictures_per_s(self._pictures, seconds=seconds, batch=batch, is_overlapped=is_overlapped)
                for name, is_overlapped in ways.items()
            }
        return {name: round(rate, 2) for name, rate in rates.items()}


def _summary(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Best round against best round: other work on the machine can only slow a round down. Medians stand beside."""
    in_process = [max(one["in_process"].values()) for one in rounds]
    served = [one["served"] for one in rounds]
    best = max(served, key=lambda one: one["per_s"])
    median_served, median_in_process = _median(one["per_s"] for one in served), _median(in_process)
    return {
        "ratio": round(best["per_s"] / max(in_process), 4),
        "served_per_s": best["per_s"],
        "served_p50_ms": best["p50_ms"],
        "served_p95_ms": best["p95_ms"],
        "in_process_per_s": max(in_process),
        "median": {
            "ratio": round(median_served / median_in_process, 4),
            "served_per_s": median_served,
            "in_process_per_s": median_in_process,
        },
        "rounds": rounds,
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.encoder", description=__doc__)
    parser.add_argument("--host", choices=("aio", "serve", "both"), default="both")
    parser.add_argument("--out", type=Path, default=Path("bench/results/encoder.json"))
    parser.add_argument("--tag", default="ViT-B-32", help="open_clip architecture, randomly initialised")
    parser.add_argument("--callers", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8.0, help="of one served measurement")
    parser.add_argument("--distinct", type=int, default=256, help="pictures; four times as many captions")
    parser.add_argument("--cores", type=int, default=torch.get_num_threads())
    return parser.parse_args()


def _load(folder: Path, manifest: Manifest) -> EncoderModel:
    path = Registry(str(folder / "registry")).fetch(manifest.release_id, into=folder / "fetched")
    return load_encoder(path)


def _median(values: Any) -> float:
    return round(statistics.median(values), 2)


def _work(args: argparse.Namespace, model: EncoderModel) -> dict[str, Any]:
    return {
        "model": f"open_clip {args.tag}, randomly initialised",
        "compute_dtype": model.compute_dtype,
        "picture": f"{WIDTH}x{HEIGHT} JPEG",
        "callers": args.callers,
        "items_per_call": 1,
        "caches": "off",
        "omp_wait_policy": environment("OMP_WAIT_POLICY"),
        "rounds": args.rounds,
        "seconds_per_round": args.seconds,
        "cores": args.cores,
    }


def _machine() -> dict[str, Any]:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "processor": _processor(),
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit.stdout.strip(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} x {names[0]}" if names else platform.processor()
