"""Edits that say what is not wanted, put to a composer as they are said, and with that taken away from its queries."""

# Axes: Q queries, D embedding width.
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from sightline.composition import Edit, Vector, without
from sightline.models.encoder_model import EncoderModel
from sightline.negation import part_negations
from trainer.benchmarks.composer import ComposerSystem
from trainer.benchmarks.protocol import Floats, References
from trainer.benchmarks.ranking import Ranked
from trainer.config import from_json
from trainer.experiments.finding import MAIN, PROBES, Hall, average_precision, mean_of_each, open_hall, ranked_by
from trainer.experiments.plan import Cell, Outcome

ORDINARY, NUM_NEGATED = f"ordinary_{MAIN}", "ordinary_negated"
"""The main metric of the test queries, and how many of them have a negative at all."""


@dataclass(frozen=True, kw_only=True)
class Negation:
    """What is made of the parts of a sentence that say what is not wanted."""

    share: float = 0.0
    """How much of their mean is taken away from the query; 0 leaves them to the composer alone."""
    reads_whole: bool = True
    """Whether the composer reads them too; else, as for a chat's follow-ups, it reads what is wanted alone."""
    data: str = ""
    """sha256 of what is asked: with other files a cell is another one."""


class NegatingSystem(ComposerSystem):
    """A trained composer, and the arithmetic of negative texts behind it."""

    def __init__(self, encoder: EncoderModel, *, negation: Negation) -> None:
        """Raises CapabilityMissing if the release has no composer."""
        super().__init__(encoder)
        self._negation = negation

    def encode_composed(self, references: References, texts: Sequence[str]) -> Floats:
        """Unit vectors [Q, D] of references after their edits, without what these do not want."""
        edits = [part_negations(text) for text in texts]
        read = texts if self._negation.reads_whole else [edit.sentence for edit in edits]
        vectors_QD = super().encode_composed(references, read)
        return np.stack([self._without(vector_D, edit) for vector_D, edit in zip(vectors_QD, edits, strict=True)])

    def _without(self, vector_D: Vector, edit: Edit) -> Vector:
        if not (edit.negatives and self._negation.share):
            return vector_D
        return without(
            vector_D, negatives_ND=list(self._encoder.encode_texts(edit.negatives)), share=self._negation.share
        )


def measure_negation(cell: Cell, out: Path) -> Outcome:
    """mAP@10 of all probes of negation and of each kind, and of the ordinary queries, with how many of them negate."""
    torch.set_num_threads(1)
    negation = from_json(Negation, cell.options)
    ordinary = open_hall(cell.model, out)
    probes = _negated(open_hall(cell.model, out, asked=PROBES))
    family_of = {row["id"]: str(row["family"]) for row in ordinary.rows}
    asked = list(zip(_ranked(probes, negation=negation), probes.rows, strict=True))
    plain = {
        ORDINARY: _mean(_ranked(ordinary, negation=negation)),
        NUM_NEGATED: float(sum(bool(part_negations(query.texts[0]).negatives) for query in ordinary.task.queries)),
    }
    kinds = mean_of_each((f"{row['probe']}_{MAIN}", one) for one, row in asked)
    return Outcome(
        metrics={MAIN: _mean([one for one, _ in asked])} | plain | kinds,
        samples=mean_of_each((family_of[row["query_id"]], one) for one, row in asked),
    )


def _mean(ranked: Sequence[Ranked]) -> float:
    return float(np.mean([average_precision(one) for one in ranked]))


def _negated(hall: Hall) -> Hall:
    """The hall, asked only what negates something."""
    kept = [number for number, row in enumerate(hall.rows) if row["probe"].startswith("negation")]
    queries = tuple(hall.task.queries[number] for number in kept)
    return replace(hall, task=replace(hall.task, queries=queries), rows=[hall.rows[number] for number in kept])


def _ranked(hall: Hall, *, negation: Negation) -> list[Ranked]:
    return ranked_by(hall, system=NegatingSystem(hall.encoder, negation=negation))
