"""`python -m bench.encoder`: pictures and texts per second, served to 32 callers over the same work in process.

The machine's speed drifts, so the two sides are measured in turn, several rounds in one run, and medians are compared.
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
        best = max(rounds[0]["in_process"], key=lambda name: _median(r["in_process"][name] for r in rounds))
        ours = _median(r["served"]["per_s"] for r in rounds)
        theirs = _median(r["in_process"][best] for r in rounds)
        return {
            "ratio": round(ours / theirs, 4),
            "served_per_s": ours,
            "served_p50_ms": _median(r["served"]["p50_ms"] for r in rounds),
            "served_p95_ms": _median(r["served"]["p95_ms"] for r in rounds),
            "in_process_per_s": theirs,
            "in_process_way": best,
            "rounds": rounds,
        }

    def _run_in_process(self, kind: str) -> dict[str, float]:
        """Items per second of each way to do the work; the fastest one is what the service is held against."""
        seconds, batch, ours = self._args.seconds / 2, self._args.callers, self._in_process
        if kind == "texts":
            return {
                f"batches of {size}": round(ours.texts_per_s(self._captions, seconds=seconds, batch=size), 2)
                for size in (batch, 2 * batch)
            }
        return {
            name: round(
                ours.pictures_per_s(self._pictures, seconds=seconds, batch=batch, is_overlapped=is_overlapped), 2
            )
            for name, is_overlapped in (("in turn", False), ("overlapped", True))
        }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", choices=("aio", "serve", "both"), default="both")
    parser.add_argument("--out", type=Path, default=Path("bench/results/encoder.json"))
    parser.add_argument("--tag", default="ViT-B-32", help="open_clip architecture, randomly initialised")
    parser.add_argument("--callers", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0, help="of one served measurement")
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


if __name__ == "__main__":
    main()
