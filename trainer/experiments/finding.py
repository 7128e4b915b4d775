"""Composed queries put to a system: what of the right pictures it finds, and which it finds instead."""

# Axes: Q queries, N pictures of the gallery, D embedding width.
from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sightline.composition import Edit
from sightline.data.captions import read_captions
from sightline.data.lines import read_lines
from sightline.data.triplets import COMPOSED_FOLDER
from sightline.errors import UsageError
from sightline.language.rewriting import RewriteAsk
from sightline.metrics import average_precision_at
from sightline.models.encoder_model import EncoderModel
from sightline.models.release import encoder_of, load_model
from trainer.benchmarks import triplets
from trainer.benchmarks.annotations import Files
from trainer.benchmarks.baselines import (
    PLAIN,
    TowerBaseline,
    chance,
    image_only,
    slerp,
    text_only,
    weighted_sum,
)
from trainer.benchmarks.composer import ComposerSystem
from trainer.benchmarks.features import encode_pictures
from trainer.benchmarks.protocol import ComposedEncoder, Floats, Task
from trainer.benchmarks.ranking import Ranked, rank_task
from trainer.benchmarks.run import query_vectors
from trainer.config import from_json
from trainer.data import digests_of
from trainer.evaluate import spread
from trainer.experiments.answering import embedded
from trainer.experiments.composers import ComposerModel, cost_of, release_of, trained_composer
from trainer.experiments.plan import Cell, Model, Outcome, Trainable, digest_of
from trainer.triplets.applying import RuleRewriter

MAIN = "map_at_10"
PROBES = "probes.jsonl"
"""Beside the test queries, if there are any."""
TEXT_REFERENCE, CAPTION_THAT, ORACLE, COMPOSED = "text-reference", "caption-that", "oracle", "composed"
TRAINING_FREE = "training-free"
_CAPTIONED = (TEXT_REFERENCE, CAPTION_THAT, TRAINING_FREE, ORACLE)
_TOWERS: Mapping[str, Callable[[float], Any]] = {
    "random": lambda seed: chance(int(seed)),
    "image": lambda _: image_only,
    "text": lambda _: text_only,
    "sum": weighted_sum,
    "slerp": slerp,
}
_NUM_EXAMPLES, _NUM_SHOWN = 8, 6
_CHUNK = 64


@dataclass(frozen=True, kw_only=True)
class Search:
    """How a cell searches."""

    system: str = COMPOSED
    """`composed`; one of the towers' own: `random`, `image`, `text`, `sum`, `slerp`; or one that is told a caption:
    `text-reference` (the composer, given the reference's caption for its picture), `caption-that` (towers alone, given
    "{the reference's caption} that {edit}"), `training-free` (towers alone, given the reference's caption after rules
    have edited it), `oracle` (towers alone, given the target's caption)."""
    weight: float = 0.0
    """Share of the text, of `sum` and `slerp`; the seed of `random`."""
    part: str = "test"
    """Which queries are asked of which gallery: those of `queries_PART.jsonl` of `gallery_PART.jsonl`."""
    data: str = ""
    """sha256 of what is asked, by `asked_digest`: with other files a cell is another one."""


@dataclass(frozen=True, kw_only=True)
class Hall:
    """A gallery, encoded, with what is asked of it."""

    encoder: EncoderModel
    root: Path
    task: Task
    pictures_ND: Floats
    rows: Sequence[Mapping[str, Any]]
    """Of each query what its file says beyond the triplet."""
    captions: Mapping[str, str]
    """A caption of each picture that tells every fact of it."""


def measure_search(cell: Cell, out: Path) -> Outcome:
    """mAP@10 and recall of the cell's system, by edit, of held-out combinations, and on the probes."""
    torch.set_num_threads(1)
    search = from_json(Search, cell.options)
    hall = open_hall(cell.model, out, part=search.part)
    ranked = _ranked(hall, search=search)
    metrics = _scores(ranked) | _by_group(ranked, rows=hall.rows)
    if isinstance(cell.model, ComposerModel):
        metrics |= cost_of(cell.model, out)
    if _probes(hall.root, part=search.part):
        probes = open_hall(cell.model, out, asked=PROBES)
        metrics |= _of_probes(_ranked(probes, search=search), rows=probes.rows)
    return Outcome(metrics=metrics, samples=_by_family(ranked, rows=hall.rows), examples=_examples(ranked, hall=hall))


def asked_digest(folder: Path, *, part: str = "test") -> str:
    """sha256 of the queries, gallery and captions of a part, and of probes about it, 64 hex digits.

    Raises UsageError for a file that is not there.
    """
    names = [Path(f"{kind}_{part}.jsonl") for kind in ("queries", "gallery", "captions")]
    for name in names:
        if not (folder / name).is_file():
            raise UsageError(f"experiments composed: {folder / name} does not exist")
    return digest_of(sorted(digests_of(folder, names=[*names, *_probes(folder, part=part)]).items()))


def has_negations(folder: Path) -> bool:
    """Whether probes of the folder negate anything."""
    return any(
        row["probe"].startswith("negation")
        for name in _probes(folder, part="test")
        for row in read_lines(folder / name, parse=lambda row: row)
    )


def _probes(folder: Path, *, part: str) -> list[Path]:
    return [Path(PROBES)] if part == "test" and (folder / PROBES).is_file() else []


@functools.lru_cache(maxsize=4)
def open_hall(model: Trainable, out: Path, *, part: str = "test", asked: str = "") -> Hall:
    """The gallery of a part, as the model's towers see it, with its queries or those of the file `asked`."""
    encoder, root = _opened(model, out)
    queries, gallery = root / (asked or f"queries_{part}.jsonl"), root / f"gallery_{part}.jsonl"
    (task,) = triplets.read(Files(annotations=queries, images=gallery, split=part)).tasks
    parts = [task.pictures[start : start + _CHUNK] for start in range(0, len(task.pictures), _CHUNK)]
    towers = _towers(encoder, search=Search(system="image"))
    return Hall(
        encoder=encoder,
        root=root,
        task=task,
        pictures_ND=np.concatenate([encode_pictures(towers, part) for part in parts]),
        rows=read_lines(queries, parse=lambda row: row),
        captions={record.image_id: record.caption for record in read_captions(root / f"captions_{part}.jsonl")},
    )


def _opened(model: Trainable, out: Path) -> tuple[EncoderModel, Path]:
    """(the towers of a trained model, with its composer if it is one; the folder of composed queries)."""
    if isinstance(model, ComposerModel):
        loaded, composer = trained_composer(model, out)
        return encoder_of(loaded, composer=composer), _folder(model.towers)
    assert isinstance(model, Model), "only towers and composers search"
    return encoder_of(load_model(release_of(model, out))), _folder(model)


def _folder(towers: Model) -> Path:
    return towers.config.data.root / COMPOSED_FOLDER


def ranked_by(hall: Hall, *, system: ComposedEncoder) -> list[Ranked]:
    """What the system makes of every query of the hall."""
    return _ranked_near(hall, query_vectors(system, hall.task, pictures=hall.pictures_ND, wording=PLAIN))


def average_precision(one: Ranked) -> float:
    """Average precision at 10 of a query's ranking."""
    return average_precision_at(10, rank_R=one.relevant_rank_R)


def mean_of_each(named: Iterable[tuple[str, Ranked]]) -> dict[str, float]:
    """mAP@10 of the rankings of each name, names in alphabetical order."""
    groups: dict[str, list[float]] = defaultdict(list)
    for name, one in named:
        groups[name].append(average_precision(one))
    return {name: float(np.mean(values)) for name, values in sorted(groups.items())}


def _ranked(hall: Hall, *, search: Search) -> list[Ranked]:
    if search.system in _CAPTIONED:
        return _ranked_near(hall, _told(hall, system=search.system))
    is_composed = search.system == COMPOSED
    return ranked_by(hall, system=ComposerSystem(hall.encoder) if is_composed else _towers(hall.encoder, search=search))


def _ranked_near(hall: Hall, queries_QD: Floats) -> list[Ranked]:
    return rank_task(hall.task, score=lambda part: queries_QD[part] @ hall.pictures_ND.T, num_best=_NUM_SHOWN)


def _towers(encoder: EncoderModel, *, search: Search) -> ComposedEncoder:
    return TowerBaseline(encoder, system=search.system, combine=_TOWERS[search.system](search.weight))


def _told(hall: Hall, *, system: str) -> Floats:
    """Query vectors [Q, D] of systems that are told captions."""
    queries, encoder = hall.task.queries, hall.encoder
    if system == ORACLE:
        return encoder.encode_texts([hall.captions[query.targets[0]] for query in queries])
    references = [hall.captions[query.reference] for query in queries]
    edits = [query.texts[0] for query in queries]
    if system == CAPTION_THAT:
        return encoder.encode_texts([f"{told} that {edit}" for told, edit in zip(references, edits, strict=True)])
    if system == TRAINING_FREE:
        asks = [
            RewriteAsk(caption=told, edit=Edit(texts=(edit,))) for told, edit in zip(references, edits, strict=True)
        ]
        return encoder.encode_texts([one.text for one in RuleRewriter().rewrite(asks)])
    return encoder.encode_composed(encoder.encode_texts(references), edits)


def _scores(ranked: Sequence[Ranked]) -> dict[str, float]:
    return triplets.scores({"triplets": ranked})["all"]


def _by_group(ranked: Sequence[Ranked], *, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """mAP@10 of each kind of edit, and of targets with combinations of facts that no training edit showed.

    Of queries whose file tells that.
    """
    return mean_of_each((name, one) for one, row in zip(ranked, rows, strict=True) for name in _groups_of(row))


def _groups_of(row: Mapping[str, Any]) -> list[str]:
    names = [row["edit_type"]] if "edit_type" in row else []
    names += ["held_out" if row["is_held_out"] else "seen"] if "is_held_out" in row else []
    return [f"{name}_{MAIN}" for name in names]


def _of_probes(ranked: Sequence[Ranked], *, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """mAP@10 of each probe, and how often wordings of one edit have their right answer first, all or none of them."""
    asked = list(zip(ranked, rows, strict=True))
    wordings: dict[str, list[bool]] = defaultdict(list)
    for one, row in asked:
        if row["probe"] == "paraphrase":
            wordings[row["group"]].append(one.target_rank == 0)
    agreeing = [len(set(firsts)) == 1 for firsts in wordings.values()]
    agreement = {"paraphrase_agreement": float(np.mean(agreeing))} if agreeing else {}
    return mean_of_each((f"{row['probe']}_{MAIN}", one) for one, row in asked) | agreement


def _by_family(ranked: Sequence[Ranked], *, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """mAP@10 of each family of queries; one whose file names no family is one of its own."""
    asked = zip(ranked, rows, strict=True)
    return mean_of_each((str(row.get("family", one.query.query_id)), one) for one, row in asked)


def _examples(ranked: Sequence[Ranked], *, hall: Hall) -> list[dict[str, Any]]:
    image_of = {picture.image_id: picture.image for picture in hall.task.pictures}
    return [
        {
            "id": one.query.query_id,
            "turns": [one.query.texts[0]],
            "asked_with": embedded(image_of[one.query.reference]),
            "answer": f"found in place {one.target_rank + 1}",
            "expected": one.query.targets[0],
            "looked_for": embedded(image_of[one.query.targets[0]]),
            "is_right": one.target_rank == 0,
            "pictures": [embedded(image_of[image_id]) for image_id in one.best],
        }
        for one in spread(ranked, limit=_NUM_EXAMPLES)
    ]
