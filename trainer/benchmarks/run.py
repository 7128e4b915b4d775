"""`python -m trainer benchmark NAME`: from files and a release to scores, a table and a submission."""

# Axes: N pictures, Q queries, B queries of a block, D embedding width.
from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sightline.errors import UsageError
from sightline.models.release import CONFIG_FILE
from sightline.registry import Registry
from trainer.benchmarks import circo, cirr, fashioniq, genecis, triplets
from trainer.benchmarks.annotations import Files, sha256_of
from trainer.benchmarks.baselines import PLAIN, unit
from trainer.benchmarks.features import FeatureStore
from trainer.benchmarks.missing import Missing, without_missing
from trainer.benchmarks.protocol import Benchmark, ComposedEncoder, Floats, References, Task
from trainer.benchmarks.ranking import TIE_RULE, Ranked, Scores, rank_task
from trainer.benchmarks.submission import NUM_SUBMITTED, check_submittable, write_submission
from trainer.benchmarks.systems import default_system, open_system
from trainer.runs import resolve
from trainer.store import StoredArray

_QUERY_BATCH = 64


@dataclass(frozen=True, kw_only=True)
class Order:
    """What to measure, on what, and where to write it."""

    benchmark: str
    files: Files
    release: str
    """A folder, a release id, or a channel of `registry`."""
    registry: str
    system: str = ""
    """Empty takes the composer where the release has one, else the plain sum."""
    wording: str = PLAIN
    """What is said of each text before the model's own template, such as 'the same {text}' for GeneCIS."""
    out: Path
    submission: Path | None = None
    """Folder of what the benchmark's server takes; None writes nothing."""
    allows_missing: bool = False
    cache: Path
    """Folder of picture vectors, fetched releases and answers of language models, shared by all benchmarks."""
    device: str = "cpu"


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A benchmark as the runner sees it."""

    read: Callable[[Files], Benchmark]
    scores: Callable[[Mapping[str, Sequence[Ranked]]], Scores]


KINDS = {
    "circo": Kind(read=circo.read, scores=circo.scores),
    "cirr": Kind(read=cirr.read, scores=cirr.scores),
    "fashioniq": Kind(read=fashioniq.read, scores=fashioniq.scores),
    "genecis": Kind(read=genecis.read, scores=genecis.scores),
    "triplets": Kind(read=triplets.read, scores=triplets.scores),
}


@dataclass(frozen=True, kw_only=True)
class Result:
    """Scores and what they were made of."""

    made_of: dict[str, Any]
    scores: Scores
    """Group -> metric -> percent; empty where answers are hidden."""
    submissions: tuple[Path, ...]

    def to_json(self) -> str:
        """All of it, to read and to compare."""
        value = {**self.made_of, "unit": "percent", "metrics": self.scores}
        return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def run_benchmark(order: Order, *, console: Console) -> Result:
    """The result of one system on one benchmark, written into `order.out`.

    Picture vectors are kept below `order.cache` as they are made: a killed run
    goes on. Raises UsageError or DataLineInvalid for files, names and pictures
    that are wrong or missing, before anything is encoded.
    """
    kind = _kind(order)
    benchmark, missing = without_missing(kind.read(order.files), allows_missing=order.allows_missing, out=order.out)
    _check_purpose(order, benchmark, missing=missing)
    folder, release = release_folder(order.release, registry=order.registry, cache=order.cache)
    system = order.system or _default_system(folder, console=console)
    encoder = open_system(system, folder=folder, device=order.device, cache=order.cache)
    num_best = NUM_SUBMITTED[benchmark.name] if order.submission else 0
    with _progress(console) as progress:
        measure = partial(_ranked, encoder=encoder, order=order, num_best=num_best, progress=progress)
        ranked = {task.name: measure(task) for task in benchmark.tasks}
    result = Result(
        made_of=_made_of(order, benchmark, encoder=encoder, release=release, missing=missing),
        scores=_percent(kind.scores(ranked)) if benchmark.has_targets else {},
        submissions=_submitted(order, benchmark, ranked=ranked),
    )
    _write(order, result, benchmark=benchmark, encoder=encoder)
    return result


def release_folder(name: str, *, registry: str, cache: Path) -> tuple[Path, str]:
    """(folder, what a result calls it) of a release that lies in a folder, or that a registry holds."""
    if (Path(name) / CONFIG_FILE).is_file():
        return Path(name), Path(name).as_posix()
    store = Registry(registry)
    release_id = resolve(name, registry=store)
    return store.fetch(release_id, into=cache / "releases"), release_id


def query_vectors(encoder: ComposedEncoder, task: Task, *, pictures: StoredArray | Floats, wording: str) -> Floats:
    """Unit vectors [Q, D] of a task's queries: the mean over the wordings of each, made unit again."""
    row_of = {picture.image_id: row for row, picture in enumerate(task.pictures)}
    vectors = []
    for start in range(0, len(task.queries), _QUERY_BATCH):
        queries = task.queries[start : start + _QUERY_BATCH]
        rows = np.array([row_of[query.reference] for query in queries])
        references = References(pictures=[task.pictures[row] for row in rows], vectors_QD=pictures[rows])
        texts = zip(*([_worded(text, wording=wording) for text in query.texts] for query in queries), strict=True)
        vectors.append(unit(np.stack([encoder.encode_composed(references, said) for said in texts]).mean(axis=0)))
    return np.concatenate(vectors)


def _kind(order: Order) -> Kind:
    if order.benchmark not in KINDS:
        raise UsageError(f"benchmark: got {order.benchmark!r}, expected one of {', '.join(KINDS)}")
    if PLAIN not in order.wording:
        raise UsageError(f"wording: got {order.wording!r}, expected {PLAIN} in it")
    if order.submission:
        check_submittable(order.benchmark)
    return KINDS[order.benchmark]


def _default_system(folder: Path, *, console: Console) -> str:
    name = default_system(folder)
    console.print(f"system: {name}, as none was named; --system takes another")
    return name


def _check_purpose(order: Order, benchmark: Benchmark, *, missing: Missing | None) -> None:
    if not benchmark.has_targets and not order.submission:
        raise UsageError(f"{benchmark.name} {benchmark.split}: the answers are hidden; give --submission FOLDER")
    if order.submission and missing:
        raise UsageError(f"submission: {missing.num_pictures} pictures are missing; a server wants every query")


def _ranked(task: Task, *, encoder: ComposedEncoder, order: Order, num_best: int, progress: Progress) -> list[Ranked]:
    store, bar = FeatureStore(order.cache, encoder=encoder), progress.add_task(task.name, total=len(task.pictures))
    for num_known in store.vectors(task.pictures):
        progress.update(bar, completed=num_known)
    pictures_ND = store.stored(task.pictures)[:]
    queries_QD = query_vectors(encoder, task, pictures=pictures_ND, wording=order.wording)
    return rank_task(task, score=lambda part: queries_QD[part] @ pictures_ND.T, num_best=num_best)


def _worded(text: str, *, wording: str) -> str:
    return wording.replace(PLAIN, text)


def _percent(scores: Scores) -> Scores:
    return {group: {name: 100 * value for name, value in row.items()} for group, row in scores.items()}


def _submitted(order: Order, benchmark: Benchmark, *, ranked: Mapping[str, Sequence[Ranked]]) -> tuple[Path, ...]:
    return tuple(write_submission(order.submission, benchmark, ranked=ranked)) if order.submission else ()


def _made_of(
    order: Order, benchmark: Benchmark, *, encoder: ComposedEncoder, release: str, missing: Missing | None
) -> dict[str, Any]:
    return {
        "benchmark": benchmark.name,
        "split": benchmark.split,
        "is_published_size": benchmark.is_published,
        "missing": asdict(missing) if missing else None,
        "system": encoder.system,
        "release": release,
        "embedding_space_id": encoder.embedding_space_id,
        "num_queries": sum(len(task.queries) for task in benchmark.tasks),
        "tasks": {task.name: _sizes(task) for task in benchmark.tasks},
        "ks": benchmark.ks,
        "annotations_sha256": {path.name: sha256_of(path) for path in benchmark.annotations},
        "template": encoder.template,
        "wording": order.wording,
        "caption_mode": benchmark.caption_mode,
        "tie_rule": TIE_RULE,
        "notes": (*benchmark.notes, *encoder.notes),
    }


def _sizes(task: Task) -> dict[str, Any]:
    smallest, largest = task.gallery_sizes()
    sizes = {"num_queries": len(task.queries), "gallery_size": largest, "excludes_reference": task.excludes_reference}
    return sizes if smallest == largest else {**sizes, "smallest_gallery": smallest}


def _write(order: Order, result: Result, *, benchmark: Benchmark, encoder: ComposedEncoder) -> None:
    order.out.mkdir(parents=True, exist_ok=True)
    name = f"{benchmark.name}-{benchmark.split}-{encoder.system.replace(':', '-')}.json"
    (order.out / name).write_text(result.to_json(), encoding="utf-8")


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:>16}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console
    )
