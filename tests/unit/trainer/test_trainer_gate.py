"""What the gate refuses: missed thresholds, unmeasured scores, and a fall behind the channel's release."""

from __future__ import annotations

from trainer.config import GateSettings
from trainer.gate import refusals

GATE = GateSettings(min_grounded_accuracy=0.75, max_text_only_accuracy=0.45, tolerance=0.05)


def test_scores_at_the_thresholds_pass() -> None:
    assert refusals({"grounded_accuracy": 0.75, "text_only_accuracy": 0.45}, settings=GATE) == []


def test_a_score_below_its_least_is_refused_by_name_and_limit() -> None:
    (reason,) = refusals({"grounded_accuracy": 0.7, "text_only_accuracy": 0.1}, settings=GATE)
    assert "grounded_accuracy" in reason
    assert "0.700" in reason
    assert "0.750" in reason


def test_a_text_only_score_above_its_largest_is_refused() -> None:
    (reason,) = refusals({"grounded_accuracy": 0.9, "text_only_accuracy": 0.46}, settings=GATE)
    assert "text_only_accuracy" in reason


def test_a_score_that_was_not_measured_is_refused() -> None:
    reasons = refusals({}, settings=GATE)
    assert len(reasons) == 2
    assert all("not measured" in reason for reason in reasons)


def test_a_fall_behind_the_champion_beyond_the_tolerance_is_refused() -> None:
    scores = {"grounded_accuracy": 0.84, "text_only_accuracy": 0.1}
    assert refusals(scores, settings=GATE, champion={"grounded_accuracy": 0.88}) == []
    (reason,) = refusals(scores, settings=GATE, champion={"grounded_accuracy": 0.95})
    assert "0.950" in reason


def test_a_gate_without_thresholds_lets_everything_pass() -> None:
    assert refusals({"grounded_accuracy": 0.0}, settings=GateSettings()) == []
