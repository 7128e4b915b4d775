"""What a sentence does not want, told apart from what it does."""

from __future__ import annotations

import pytest

from sightline.limits import MAX_EDIT_TEXTS
from sightline.negation import part_negations


@pytest.mark.parametrize(
    ("said", "wanted", "unwanted"),
    [
        ("without the car", [], ["the car"]),
        ("i do not want the car any more", [], ["the car"]),
        ("i want it without the car", ["i want it"], ["the car"]),
        ("no longer at the beach", [], ["at the beach"]),
        ("not at the beach any more but in the city", ["in the city"], ["at the beach"]),
        ("it should not be at the beach any more, show it in the city", ["show it in the city"], ["at the beach"]),
        ("the same but not in the rain any longer", ["the same"], ["in the rain"]),
        ("red, no cars and with a dog", ["red", "with a dog"], ["cars"]),
        ("the car without doors", ["the car"], ["doors"]),
        ("the street, i don't want cars", ["the street"], ["cars"]),
        ("i don\u2019t want the car", [], ["the car"]),
        ("it shouldn't have a car", [], ["a car"]),
        ("it's not red", [], ["red"]),
        ("cannot be red", [], ["red"]),
        ("not at night any more. show it at noon", ["show it at noon"], ["at night"]),
        ("no cars any more just people", ["people"], ["cars"]),
        ("without a dog or with a cat", ["with a cat"], ["a dog"]),
        ("not red; blue", ["blue"], ["red"]),
        ("make the car red", ["make the car red"], []),
        ("nothing and nobody", ["nothing and nobody"], []),
        ("", [], []),
    ],
)
def test_a_negative_ends_where_the_sentence_goes_on(said: str, wanted: list[str], unwanted: list[str]) -> None:
    edit = part_negations(said)
    assert (list(edit.texts), list(edit.negative_texts)) == (wanted, unwanted)


@pytest.mark.parametrize(
    ("said", "unwanted"),
    [
        ("the car should no longer be red", "red car"),
        ("the car is not red", "red car"),
        ("the car isn't red", "red car"),
        ("the hot air balloon, but not red any more", "red hot air balloon"),
        ("the cars not red any more but blue", "red cars"),
        ("the same but not red", "red"),
        ("the car, but not at night", "at night"),
        ("in the dark wood near the lake, not red", "red"),
    ],
)
def test_a_lone_word_is_denied_with_the_thing_that_it_is_said_of(said: str, unwanted: str) -> None:
    assert list(part_negations(said).negative_texts) == [unwanted]


@pytest.mark.parametrize(
    "said",
    [
        "not only red but also blue",
        "it doesn't have to be red",
        "i don't mind red",
        "no more than two dogs",
        "no need for the dog",
        "a knot, a note and nothing",
    ],
)
def test_what_denies_nothing_stays_as_it_was_said(said: str) -> None:
    edit = part_negations(said)
    assert (list(edit.texts), list(edit.negative_texts)) == ([said], [])


def test_more_than_an_edit_holds_is_joined() -> None:
    negatives = part_negations(" and ".join(f"no thing {n}" for n in range(MAX_EDIT_TEXTS + 2))).negative_texts
    assert list(negatives) == ["thing 0", "thing 1", "thing 2", "thing 3 and thing 4 and thing 5"]
