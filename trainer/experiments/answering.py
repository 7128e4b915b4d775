"""Held-out questions put to a trained model, under one way of choosing and spoiling the pictures that it sees."""

# Axes: Q questions, K pictures shown, N pictures of the pool.
from __future__ import annotations

import base64
import functools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sightline.data.pools import PoolImage
from sightline.data.questions import QuestionRecord
from sightline.errors import SettingInvalid, UsageError
from sightline.metrics import grade_answer, grounded_accuracy, ranks_of_first_relevant, recall_at_each
from trainer.answers import ALWAYS, Flags
from trainer.architecture import Built
from trainer.config import from_json
from trainer.data import Corpus, load_corpus
from trainer.evaluate import Examiner, score_floor, spread
from trainer.experiments.damage import damaged
from trainer.experiments.plan import Cell, Model, Outcome
from trainer.experiments.training import running_config, trained
from trainer.pictures import Pixels, load_pictures
from trainer.relevance import calibrated
from trainer.store import Floats, Rows, encode_pictures

MAIN = "grounded_accuracy"
_NUM_EXAMPLES = 6
_PNG = b"\x89PNG"
_KEPT_EXAMS = 3
"""Models that one process keeps open: cells of one model follow one another."""


@dataclass(frozen=True, kw_only=True)
class Sight:
    """What a model is shown with each question."""

    pictures: str = "retrieved"
    """`retrieved`, `oracle` (the nearest that show the subject), `random` (not showing it) or `shuffled` (found for
    another one)."""
    k: int = 3
    """Pictures shown at most; 0 shows none."""
    damage: str = ""
    """A kind of damage to every picture of the pool, before it is searched and seen; empty leaves them whole."""
    amount: float = 0.0
    """How much of that damage."""
    wrong_share: float = 0.0
    """Share of the pictures shown that are exchanged for random wrong ones."""
    is_gated: bool = True
    """Show the pictures of a question only if the best scores the model's calibrated floor or more, as services do."""


@dataclass(frozen=True, kw_only=True)
class Exam:
    """A trained model with the questions and the pool of its corpus."""

    built: Built
    corpus: Corpus
    questions: Sequence[QuestionRecord]
    pool_NCHW: Pixels
    model: Model

    def examiner(self, sight: Sight) -> Examiner:
        """One who asks over the pool as `sight` leaves it."""
        pixels = self.pool_NCHW
        if sight.damage:
            pixels = damaged(pixels, kind=sight.damage, amount=sight.amount, seed=self.model.config.seed)
        return Examiner(
            built=self.built,
            pool=encode_pictures(self.built.model, pixels),
            images=self.corpus.pool,
            settings=replace(self.model.config.evaluation, num_images=max(1, sight.k)),
            seed=self.model.config.seed,
        )


def measure_answers(cell: Cell, out: Path) -> Outcome:
    """Grounded accuracy of the cell's model, overall, by fact and by the number of turns, and retrieval recall."""
    torch.set_num_threads(1)
    exam, sight = open_exam(dialogue_model(cell), out), from_json(Sight, cell.options)
    examiner = exam.examiner(sight)
    queries_QD, relevant_QN = examiner.queries(exam.questions), examiner.relevant(exam.questions)
    rows_QK = shown_rows(examiner, exam=exam, sight=sight, queries_QD=queries_QD)
    floor = exam.built.model.config.min_score if sight.is_gated else ALWAYS
    texts = examiner.answers(exam.questions, rows_QK=rows_QK, min_score=floor)
    is_seen_QK = examiner.looked_at(exam.questions, rows_QK=rows_QK, min_score=floor)
    metrics = _scores(texts, questions=exam.questions)
    if is_seen_QK.any():
        metrics["right_picture_share"] = float(np.take_along_axis(relevant_QN, rows_QK, axis=1)[is_seen_QK].mean())
    ranks_Q = ranks_of_first_relevant(queries_QD @ examiner.pool.vectors_ND[:].T, relevant_QT=relevant_QN)
    metrics["retrieval_recall_at_1"] = recall_at_each((1,), rank_Q=ranks_Q)["recall_at_1"]
    return Outcome(
        metrics=metrics,
        samples=_by_subject(texts, questions=exam.questions),
        examples=_examples(texts, exam=exam, rows_QK=rows_QK, is_seen_QK=is_seen_QK),
    )


def dialogue_model(cell: Cell) -> Model:
    """The cell's model, which is one of dialogues."""
    assert isinstance(cell.model, Model), "only a model of dialogues answers questions"
    return cell.model


@functools.lru_cache(maxsize=_KEPT_EXAMS)
def open_exam(model: Model, out: Path) -> Exam:
    """The exam of a trained model, its score floor calibrated. Raises UsageError if its corpus has no questions."""
    config = running_config(model, out)
    corpus, built = load_corpus(config.data), trained(model, out)
    if not corpus.questions:
        raise UsageError("experiments: data.questions names no question; grounding needs some with known answers")
    cache = config.run.root / "cache"
    floor = score_floor(built, corpus=corpus, settings=config.evaluation, cache=cache)
    return Exam(
        built=calibrated(built, floor=floor),
        corpus=corpus,
        questions=spread(corpus.questions, limit=config.evaluation.max_questions),
        pool_NCHW=load_pictures(corpus.pool, preprocess=built.model.tower.preprocess, cache=cache),
        model=model,
    )


def shown_rows(examiner: Examiner, *, exam: Exam, sight: Sight, queries_QD: Floats) -> Rows:
    """The rows [Q, K] of the pool that each question is asked with. Raises SettingInvalid for another kind."""
    relevant_QN = examiner.relevant(exam.questions)
    if sight.pictures == "oracle":
        rows_QK = examiner.nearest(queries_QD, allowed_QN=relevant_QN)
    elif sight.pictures == "random":
        rows_QK = examiner.drawn(~relevant_QN)
    elif sight.pictures in {"retrieved", "shuffled"}:
        rows_QK = examiner.retrieved(queries_QD)
    else:
        raise SettingInvalid(f"pictures: got {sight.pictures!r}, expected retrieved, oracle, random or shuffled")
    if sight.pictures == "shuffled":
        rows_QK = rows_QK[other_subjects([q.subject for q in exam.questions], seed=examiner.seed)]
    if sight.wrong_share:
        rows_QK = _with_wrong(
            rows_QK, wrong_QK=examiner.drawn(~relevant_QN), share=sight.wrong_share, seed=examiner.seed
        )
    return rows_QK[:, : sight.k]


def other_subjects(subjects: Sequence[str], *, seed: int) -> Rows:
    """For each question the position of one about another subject, drawn at random."""
    rng, names = np.random.default_rng([seed, 8]), np.array(subjects)
    return np.array([rng.choice(np.flatnonzero(names != subject)) for subject in subjects], dtype=np.int64)


def _with_wrong(rows_QK: Rows, *, wrong_QK: Rows, share: float, seed: int) -> Rows:
    # One draw for every share: what is wrong at a quarter is wrong at a half too.
    is_wrong_QK = np.random.default_rng([seed, 9]).random(rows_QK.shape) < share
    return np.where(is_wrong_QK, wrong_QK[:, : rows_QK.shape[1]], rows_QK)


def _scores(texts: Sequence[str], *, questions: Sequence[QuestionRecord]) -> dict[str, float]:
    found = grounded_accuracy(texts, questions=questions)
    scores = {MAIN: found.overall} | {f"{fact}_accuracy": value for fact, value in found.by_fact.items()}
    for num_turns in sorted({len(question.context) for question in questions}):
        rows = [row for row, question in enumerate(questions) if len(question.context) == num_turns]
        part = grounded_accuracy([texts[row] for row in rows], questions=[questions[row] for row in rows])
        scores[f"accuracy_after_{num_turns}_turns"] = part.overall
    return scores


def _by_subject(texts: Sequence[str], *, questions: Sequence[QuestionRecord]) -> dict[str, float]:
    rights: dict[str, list[bool]] = defaultdict(list)
    for text, question in zip(texts, questions, strict=True):
        rights[question.subject].append(grade_answer(text, question))
    return {subject: sum(right) / len(right) for subject, right in rights.items()}


def _examples(texts: Sequence[str], *, exam: Exam, rows_QK: Rows, is_seen_QK: Flags) -> list[dict[str, Any]]:
    return [
        {
            "id": exam.questions[row].id,
            "turns": list(exam.questions[row].context),
            "answer": texts[row],
            "expected": exam.questions[row].answer,
            "is_right": grade_answer(texts[row], exam.questions[row]),
            "pictures": [embedded(exam.corpus.pool[picture]) for picture in rows_QK[row][is_seen_QK[row]]],
        }
        for row in spread(range(len(texts)), limit=_NUM_EXAMPLES)
    ]


def embedded(image: PoolImage) -> str:
    """The picture as a data URI, for pages that need no other file; of a tar its own part alone."""
    data = image.read_bytes()
    kind = "png" if data.startswith(_PNG) else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
