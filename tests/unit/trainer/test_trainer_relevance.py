"""The score floor: the highest that costs nothing, found without labels and kept in the release."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sightline.metrics import invention_rate, states_any
from sightline.models.release import load_generator, load_model
from trainer.answers import ALWAYS, NEVER, is_shown
from trainer.architecture import build
from trainer.config import FitConfig
from trainer.data import load_corpus
from trainer.evaluate import evaluate, score_floor
from trainer.relevance import highest_floor


def forgone_by_hand(floor: float, best: np.ndarray, gain: np.ndarray) -> float:
    return float(gain[best < floor].sum())


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("slack", [0.0, 0.5, 100.0])
def test_the_floor_equals_a_search_over_all(seed: int, slack: float) -> None:
    rng = np.random.default_rng(seed)
    best = rng.choice(np.linspace(-0.5, 0.9, 9), size=25).astype(np.float32)
    gain = rng.normal(0.2, 1.0, size=25).astype(np.float32)
    floor = highest_floor(best, gain_B=gain, slack=slack)
    edges = [-1.0, *np.unique(best), 1.0]
    candidates = [(low + high) / 2 for low, high in itertools.pairwise(edges)]
    least = min(forgone_by_hand(one, best, gain) for one in candidates)
    allowed = [one for one in candidates if forgone_by_hand(one, best, gain) <= least + slack + 1e-4]
    assert floor == pytest.approx(max(allowed), abs=1e-5)


def test_pictures_that_help_every_dialogue_are_shown_to_every_dialogue() -> None:
    assert highest_floor(np.array([0.2, 0.5]), gain_B=np.array([1.0, 1.0]), slack=0.0) < 0.2


def test_a_floor_that_drops_no_dialogue_lies_above_chance() -> None:
    best, gain = np.array([0.6, 0.7]), np.array([1.0, 1.0])
    assert highest_floor(best, gain_B=gain, slack=0.0, chance=0.4) == pytest.approx(0.5)
    assert highest_floor(best, gain_B=gain, slack=0.0, chance=0.9) == pytest.approx(0.6)  # and yet drops none


def test_a_floor_that_drops_more_than_chance_does_not_heed_it() -> None:
    best, gain = np.array([0.5, 0.7]), np.array([-1.0, 1.0])
    assert highest_floor(best, gain_B=gain, slack=0.0, chance=0.4) == pytest.approx(0.6)


def test_pictures_that_help_nobody_are_never_shown() -> None:
    assert highest_floor(np.array([0.2, 0.5]), gain_B=np.array([-1.0, 0.0]), slack=0.0) > 0.5


def test_the_floor_lies_between_small_talk_and_dialogues_that_pictures_help() -> None:
    best = np.array([0.1, 0.2, 0.3, 0.6, 0.7, 0.8])
    gain = np.array([0.01, -0.01, 0.0, 2.0, 3.0, 1.0])
    assert 0.3 < highest_floor(best, gain_B=gain, slack=0.1) < 0.6


def test_a_value_counts_as_a_whole_word_only() -> None:
    values = frozenset({"red", "park"})
    assert states_any("It is RED.", values=values)
    assert not states_any("parking is tired", values=values)
    assert invention_rate(["it is red", "i do not know", "in the park", "?"], values=values) == 0.5


@pytest.mark.slow
def test_a_fit_measures_its_floor_and_its_release_carries_it(tiny_fit: FitConfig, tmp_path: Path) -> None:
    from rich.console import Console

    from sightline.registry import Registry
    from trainer.fit import fit

    outcome = fit(replace(tiny_fit, channel="stable"), console=Console(quiet=True))
    folder = Registry(tiny_fit.registry).fetch(outcome.manifest.release_id, into=tmp_path / "fetched")
    floor = outcome.scores["score_floor"]
    assert -1.0 <= floor <= 1.0
    assert load_generator(folder).min_score == load_model(folder).model.config.min_score == floor
    assert outcome.manifest.architecture["min_score"] == floor
    assert {"ungated_perplexity", "gated_perplexity", "unseen_perplexity", "picture_rate"} <= outcome.scores.keys()
    assert outcome.scores["perplexity"] > 1


def test_pictures_are_shown_where_the_best_is_over_the_floor_and_somebody_said_something() -> None:
    cosines = np.array([[0.2, 0.5]] * 2, dtype=np.float32)
    contexts = [("hi",), ()]
    assert is_shown(contexts, cosines_BK=cosines, min_score=0.3).tolist() == [[True, True], [False, False]]
    assert not is_shown(contexts, cosines_BK=cosines, min_score=0.6).any()
    assert is_shown(contexts, cosines_BK=cosines, min_score=ALWAYS).tolist() == [[True, True], [False, False]]
    assert not is_shown(contexts, cosines_BK=cosines, min_score=NEVER).any()
    assert is_shown(contexts, cosines_BK=cosines[:, :0], min_score=ALWAYS).shape == (2, 0)


def test_with_every_picture_the_relevance_is_the_perplexity_of_the_same_dialogues(
    tiny_fit: FitConfig, tmp_path: Path
) -> None:
    corpus = load_corpus(tiny_fit.data)
    built = build(tiny_fit, texts=corpus.texts())
    one = replace(corpus, dialogues_val=corpus.dialogues_val[:1])
    scores = evaluate(built, corpus=one, settings=tiny_fit.evaluation, cache=tmp_path, seed=0)
    assert scores["ungated_perplexity"] == pytest.approx(scores["perplexity"])


def test_a_tolerance_below_zero_keeps_every_picture(tiny_fit: FitConfig) -> None:
    off = replace(tiny_fit.evaluation, floor_tolerance=-1.0)
    assert score_floor(None, corpus=None, settings=off, cache=Path()) == ALWAYS  # type: ignore[arg-type]
