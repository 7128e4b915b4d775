"""Whether a score floor under retrieved pictures is worth having: what it does to small talk and to questions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from trainer.evaluate import relevance
from trainer.experiments.answering import Sight, dialogue_model, measure_answers, open_exam
from trainer.experiments.plan import Cell, Outcome
from trainer.experiments.training import running_config


def measure_gate(cell: Cell, out: Path) -> Outcome:
    """What `measure_answers` gives, and perplexity and share of dialogues shown pictures, of small talk and of facts.

    The floor is set by one half of the held-out dialogues, and measured on the other.
    """
    answered, sight = measure_answers(cell, out), Sight(**cell.options)
    model = dialogue_model(cell)
    exam, config = open_exam(model, out), running_config(model, out)
    scores = relevance(exam.built, corpus=exam.corpus, settings=config.evaluation, cache=config.run.root / "cache")
    return replace(answered, metrics=answered.metrics | _of(scores, sight=sight))


def _of(scores: dict[str, float], *, sight: Sight) -> dict[str, float]:
    shown = "unseen" if sight.k == 0 else "gated" if sight.is_gated else "ungated"
    metrics = {"score_floor": scores["score_floor"]}
    for group in ("visual", "small_talk"):
        if f"{group}_picture_rate" in scores:
            rate = {"unseen": 0.0, "gated": scores[f"{group}_picture_rate"], "ungated": 1.0}[shown]
            metrics |= {f"{group}_perplexity": scores[f"{group}_{shown}_perplexity"], f"{group}_picture_rate": rate}
    return metrics
