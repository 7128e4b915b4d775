"""Edits carried out on captions by rules, and what rules leave alone."""

from __future__ import annotations

import pytest

from sightline.composition import Edit
from sightline.language.rewriting import RewriteAsk
from trainer.triplets.applying import RuleRewriter, applied

SCENE = "Two red cars and a small blue house at the beach at night in the rain"


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        ("make the house green", SCENE.replace("blue", "green")),
        ("change red to yellow", SCENE.replace("red", "yellow")),
        ("a dog instead of the house", SCENE.replace("a small blue house", "a dog")),
        ("replace the cars with three ducks", SCENE.replace("Two red cars", "three ducks")),
        ("show three cars", SCENE.replace("Two", "three")),
        ("without the cars", "a small blue house at the beach at night in the rain"),
        ("Remove the house.", "Two red cars at the beach at night in the rain"),
        ("with an owl as well", SCENE.replace("house", "house and an owl")),
        ("the same but in the forest", SCENE.replace("at the beach", "in the forest")),
        ("now late at night", SCENE.replace("at night", "late at night")),
        ("seen from above", f"{SCENE}, seen from above"),
    ],
)
def test_rules_carry_out_edits_that_their_templates_know(edit: str, told: str) -> None:
    assert applied(edit, caption=SCENE) == told


@pytest.mark.parametrize(
    "edit", ["make the boat green", "paint it nicely", "make the house nicer", "with love", "a b c"]
)
def test_what_no_rule_understands_is_joined_and_said_to_be(edit: str) -> None:
    (found,) = RuleRewriter().rewrite([RewriteAsk(caption=SCENE, edit=Edit(texts=[edit]))])
    assert found.text == f"{SCENE}, {edit}"
    assert found.problem is not None
    assert found.problem.reason == "no_rule"


def test_several_edits_and_what_is_not_wanted_are_carried_out_in_turn() -> None:
    edit = Edit(texts=["make the house green", "at dusk"], negative_texts=["the cars"])
    (found,) = RuleRewriter().rewrite([RewriteAsk(caption=SCENE, edit=edit)])
    assert found.text == "a small green house at the beach at dusk in the rain"
