"""What a turn asks of the picture just shown, sentence by sentence, and which turns ask nothing of it."""

from __future__ import annotations

import pytest

from sightline.client import follow_up
from sightline.composition import Edit
from sightline.limits import MAX_EDIT_TEXTS


@pytest.mark.parametrize(
    ("said", "wanted", "unwanted"),
    [
        ("like that one, but red", ["red"], []),
        ("Like that one but RED.", ["RED"], []),
        ("the same but at night", ["at night"], []),
        ("the same at night, please", ["at night"], []),
        ("something like this without the car", [], ["the car"]),
        ("something like this with a dog and without the car", ["with a dog"], ["the car"]),
        ("show me the same picture, but with two boats", ["with two boats"], []),
        ("can you find me one like that, only bigger?", ["bigger"], []),
        ("and another one like it, but not red", [], ["red"]),
        ("I want that one but in winter and with snow", ["in winter and with snow"], []),
        ("what about this picture, but no people, and at the beach", ["at the beach"], ["people"]),
        ("do you have something similar to that in blue?", ["in blue"], []),
        ("the last one", None, None),
        ("more like that", [], []),
        ("something like this", [], []),
        ("another picture like the last one", [], []),
        ("the same minus the tree but with a lamp", ["with a lamp"], ["the tree"]),
    ],
)
def test_a_follow_up_is_read_as_an_edit(said: str, wanted: list[str] | None, unwanted: list[str] | None) -> None:
    found = follow_up(said)
    if wanted is None:
        assert found is None
    else:
        assert found is not None
        assert (list(found.texts), list(found.negative_texts)) == (wanted, unwanted)


@pytest.mark.parametrize(
    "said",
    [
        "what colour is the mill ?",
        "I like that one",
        "I like that one, but it is late",
        "is it the same ?",
        "the same",
        "that one",
        "that one is red",
        "like that",
        "it looks like that one but older",
        "a red house without windows",
        "what is this ?",
        "same here, but I like tea",
        "",
        "but at night",
        "the same goes for me",
    ],
)
def test_an_ordinary_turn_is_none(said: str) -> None:
    assert follow_up(said) is None


def test_more_parts_than_an_edit_holds_are_joined() -> None:
    found = follow_up("the same " + " and ".join(f"without thing {n}" for n in range(6)))
    assert isinstance(found, Edit)
    assert list(found.negative_texts) == ["thing 0", "thing 1", "thing 2", "thing 3 and thing 4 and thing 5"]
    assert len(found.negative_texts) == MAX_EDIT_TEXTS
