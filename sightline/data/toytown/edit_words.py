"""How edits are worded. Training, validation and test share words, never a sentence: templates are disjoint."""

from __future__ import annotations

import random

from sightline.data.toytown.changes import Change
from sightline.data.toytown.language import TIME_PHRASES, WEATHER_PHRASES, noun_of, things_of
from sightline.data.toytown.world import PLACES

PARTS = ("train", "val", "test")

_MOMENT = {
    "train": (
        "the same but {when}",
        "this one, {when}",
        "show it {when}",
        "take the picture {when}",
        "i want to see it {when}",
        "no longer {old_when} but {when}",
    ),
    "val": ("let us see it {when}", "show the same {when}"),
    "test": ("now {when}", "the same picture {when}", "everything should be {when}", "i want this one {when}"),
}
TEMPLATES: dict[str, dict[str, tuple[str, ...]]] = {
    "colour": {
        "train": (
            "make {the} {colour}",
            "the same with {the} in {colour}",
            "paint {the} {colour}",
            "{the} should be {colour} now",
            "change the colour of {the} to {colour}",
            "i want {the} to be {colour}",
            "{the} should not be {old_colour} any more, make it {colour}",
        ),
        "val": ("let {the} be {colour}", "change {the} to {colour}"),
        "test": (
            "{the} should now be in {colour}",
            "{colour} is the colour of {the} now",
            "i want to see {the} in {colour}",
            "let us paint {the} {colour}",
        ),
    },
    "place": {
        "train": (
            "the same but {where}",
            "this one, {where}",
            "move it to the {place}",
            "bring everything to the {place}",
            "i want to see it {where}",
            "it should not be {old_where} any more, show it {where}",
        ),
        "val": ("show everything {where}", "let it be {where}"),
        "test": (
            "now {where}",
            "bring it to the {place} now",
            "let us move to the {place}",
            "the same picture {where}",
        ),
    },
    "time": _MOMENT,
    "weather": _MOMENT,
    "add": {
        "train": (
            "add {things}",
            "the same with {things} too",
            "the same plus {things}",
            "put {things} next to it",
            "there should be {things} too",
            "i want to see {things} as well",
        ),
        "val": ("show {things} as well", "now with {things} too"),
        "test": ("{things} should be there too", "plus {things}", "put {things} there as well", "let us add {things}"),
    },
    "remove": {
        "train": (
            "take away {the}",
            "remove {the}",
            "the same but {the} should be gone",
            "leave out {the}",
            "i do not want {the} any more",
            "the same without {the}",
        ),
        "val": ("remove {the} now", "now {the} should be gone"),
        "test": ("take {the} away now", "i want {the} gone", "let us take {the} out", "{the} should go, take it out"),
    },
    "replace": {
        "train": (
            "replace {the} with {others} of the same colour",
            "swap {the} for {others} of the same colour",
            "{others} instead of {the}, the same colour",
            "turn {the} into {others} of the same colour",
            "{the} should go, i want {others} in the same colour",
            "put {others} where you see {the}, colour as before",
        ),
        "val": ("swap {the} and show {others} in the same colour", "instead of {the} put {others} of the same colour"),
        "test": (
            "now {others} where you see {the}, the same colour",
            "let us swap {the} for {others}, colour as before",
            "i want {others} of the same colour instead of {the}",
            "take out {the}, put {others} of the same colour there",
        ),
    },
    "count": {
        "train": (
            "the same with {number} {noun}",
            "show {number} {noun}",
            "make it {number} {noun}",
            "there should be {number} {noun}",
            "i want to see {number} {noun}",
            "change the number of things to {number} {noun}",
        ),
        "val": ("let there be {number} {noun}", "now show {number} {noun}"),
        "test": (
            "now with {number} {noun}",
            "it should be {number} {noun}",
            "let us see {number} {noun}",
            "the same picture with {number} {noun}",
        ),
    },
}
"""By edit type and part."""
WITHOUT = ("without {the}", "i want it without {the}")
NO_LONGER = {
    "colour": ("{the} should no longer be {old_colour}", "{the}, but not {old_colour} any more"),
    "place": ("no longer {old_where}", "the same but not {old_where} any more"),
    "time": ("no longer {old_when}", "the same but not {old_when} any more"),
    "weather": ("no longer {old_when}", "the same but not {old_when} any more"),
}
"""What is wanted away, and nothing in its place: several pictures answer."""
NOT_BUT = {
    "colour": ("{the} not {old_colour} any more but {colour}",),
    "place": ("not {old_where} any more but {where}",),
    "time": ("not {old_when} any more but {when}",),
    "weather": ("not {old_when} any more but {when}",),
}
"""Both values are named, and one is negated."""
SOMETHING_ELSE = {
    "colour": "{the} in another colour",
    "place": "the same in another place",
    "time": "at another time of the day",
    "weather": "the same in other weather",
    "count": "another number of {nouns}",
}
"""Loose edits, which several pictures answer."""
_NUMBERS = {1: "one", 2: "two", 3: "three"}


def say_edit(change: Change, *, part: str, rng: random.Random) -> str:
    """A sentence that asks for the change, from the templates of one of `PARTS`."""
    return worded(rng.choice(TEMPLATES[change.edit_type][part]), change=change, rng=rng)


def worded(template: str, *, change: Change, rng: random.Random) -> str:
    """The template filled in; hours and weathers in any of their phrases."""
    fields = _settings(change, rng=rng)
    if change.before:
        fields |= {"the": f"the {noun_of(change.before)}", "old_colour": change.before.colour}
        fields["nouns"] = noun_of(change.before)
    if change.after:
        fields |= {
            "things": things_of(change.after, rng=rng),
            "others": things_of(change.after, rng=rng, with_colour=False),
            "colour": change.after.colour,
            "number": _NUMBERS[change.after.count],
            "noun": noun_of(change.after),
        }
    return template.format(**fields)


def _settings(change: Change, *, rng: random.Random) -> dict[str, str]:
    old, new = change.reference, change.target
    fields = {"place": new.place, "where": PLACES[new.place], "old_where": PLACES[old.place]}
    if change.edit_type in {"time", "weather"}:
        phrases = {"time": TIME_PHRASES, "weather": WEATHER_PHRASES}[change.edit_type]
        fields["when"] = rng.choice(phrases[getattr(new, change.edit_type)])
        fields["old_when"] = rng.choice(phrases[getattr(old, change.edit_type)])
    return fields
