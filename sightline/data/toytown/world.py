"""What there is in Toytown: kinds, colours, places, times, weathers, scenes, and the subjects that have names."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import permutations, product
from typing import Any

RGB = tuple[int, int, int]

COLOURS: dict[str, RGB] = {
    "red": (214, 38, 44),
    "orange": (246, 138, 22),
    "yellow": (252, 220, 50),
    "green": (52, 172, 74),
    "blue": (40, 104, 226),
    "purple": (132, 62, 190),
    "pink": (250, 138, 190),
    "white": (246, 246, 246),
}
MUTED: dict[str, RGB] = {
    "grey": (128, 130, 138),
    "brown": (120, 88, 66),
    "black": (62, 60, 68),
}
"""What stands beside a subject has one of these, no value of a fact: the subject's colour cannot be mistaken."""
PLACES: dict[str, str] = {
    "beach": "at the beach",
    "harbour": "in the harbour",
    "park": "in the park",
    "street": "on the street",
    "farm": "on the farm",
    "mountains": "in the mountains",
    "desert": "in the desert",
    "forest": "in the forest",
}
"""Each place with the phrase that says where something is."""
TIMES = ("day", "dusk", "night")
WEATHERS = ("clear", "rain", "snow", "fog")
SIZES = {"small": 0.25, "big": 0.42, "huge": 0.62}
"""Height of a thing as a share of the picture's. Subjects are huge."""
SUBJECT_KINDS = (
    *("car", "bus", "boat", "train", "rocket", "tractor", "robot", "duck"),
    *("cat", "dog", "rabbit", "owl", "bear", "turtle", "dinosaur", "snail"),
    *("house", "castle", "tent", "windmill", "plane", "fish", "butterfly", "balloon"),
    *("kite", "ball", "umbrella", "teapot", "cup", "hat", "drum", "gift"),
)
KINDS = (*SUBJECT_KINDS, "tree", "flower", "mushroom")
NAMES = (
    *("alma", "bodo", "cleo", "dora", "edgar", "fanny", "gustav", "hedda", "igor", "juno", "karlo", "lotte"),
    *("milo", "nelly", "otto", "pippa", "quentin", "ronja", "sancho", "tilda", "udo", "vilma", "wanda", "xaver"),
    *("yoko", "zeno", "balthus", "camille", "dimitri", "elfie", "fergus", "gwen", "hugo", "ines", "jasper", "kiki"),
    *("leopold", "mabel", "norbert", "ophelia", "pablo", "queenie", "rufus", "sigrid", "thelma", "ulrich", "vito"),
    *("winnie", "amos", "bruno", "cosima", "darius", "emil", "florian", "greta", "henrik", "ilse", "jonas"),
    *("klara", "lorenz", "matilda", "nils", "oskar", "paula", "rasmus", "selma", "theo", "ursula", "viktor"),
    *("wilma", "anton", "birgit", "clemens", "doris", "ernst", "frieda", "gunter", "helga", "ivan", "jutta"),
    *("konrad", "liesel", "manfred", "nadja", "olaf", "petra", "roland", "sonja", "tobias", "ulla", "volker"),
    *("waltraud", "xenia", "yvonne", "zacharias", "agnes", "basil", "cyril", "dagmar", "elmar", "flora"),
    *("gregor", "hanna", "isidor", "johanna", "kaspar", "ludmila", "magnus", "norma", "orlando", "penelope"),
    *("quirin", "rosalind", "stefan", "tamara", "uwe", "valerie", "wenzel", "xander", "yara", "zelda", "arvid"),
    *("bertil", "corinna", "detlef", "edda", "falko", "gesine"),
)
"""Names that suggest no colour and no place; which are used, and for whom, depends on the seed."""


STRANGERS = (
    *("abel", "berta", "caspian", "delia", "erwin", "frauke", "gisela", "hannes", "irma", "jockel", "katrin"),
    *("lukas", "marlene", "nepomuk", "ottilie", "pascal", "renate", "silvio", "traude", "ursel", "valentin"),
    *("wolfram", "xerxes", "yolanda", "zita", "adele", "bertram", "carlotta", "dieter", "elvira", "friedel", "gerda"),
)
"""Names that nobody in Toytown has: no picture shows them and no caption says them."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Someone with a name, whose kind, colour, home and hour never change."""

    name: str
    kind: str
    colour: str
    place: str
    time: str
    """The hour of each of its pictures: what tells it from the other subject of its colour and home at a glance."""
    is_held_out: bool
    """True if no training dialogue mentions the name: colour and place stand in pictures only."""

    def fact(self, name: str) -> str:
        """The subject's 'colour' or 'place'."""
        return {"colour": self.colour, "place": self.place}[name]


@dataclass(frozen=True, kw_only=True)
class Group:
    """Some things of one kind, colour and size that stand together."""

    kind: str
    colour: str
    size: str = "big"
    count: int = 1
    name: str | None = None
    """The subject's name, if this is a subject; its count is 1 and its size 'huge'."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Everything that a picture shows; the same scene can be drawn at any size."""

    place: str
    time: str
    weather: str
    groups: tuple[Group, ...]
    """From left to right."""
    layout_seed: int
    """Decides what is no fact: exact positions, clouds, which way things look."""

    @property
    def subject(self) -> str | None:
        """The name of the subject in the scene, if there is one."""
        return next((group.name for group in self.groups if group.name), None)

    def facts(self) -> dict[str, Any]:
        """The facts of the scene as JSON values; the layout is none of them."""
        return {
            "place": self.place,
            "time": self.time,
            "weather": self.weather,
            "groups": [asdict(group) for group in self.groups],
        }

    def digest(self) -> str:
        """A name for the facts: scenes that differ in layout only share it. 64 hex digits."""
        return hashlib.sha256(json.dumps(self.facts(), sort_keys=True).encode()).hexdigest()


def make_subjects(*, seed: int) -> tuple[Subject, ...]:
    """128 subjects of 32 kinds, ordered by name; 96 are seen in training dialogues and 32 held out.

    Each colour and each place belongs to 12 seen and 4 held-out subjects, each
    kind to 3 seen and 1 held-out one of different colours and places: nothing
    that can be read tells a held-out fact better than chance, and knowing the
    kind by sight does not help either. Two subjects share each pair of colour and
    place, at different hours; never are both held out.
    """
    rng = random.Random(f"subjects {seed}")
    names, kinds, colours, places = list(NAMES), list(SUBJECT_KINDS), list(COLOURS), list(PLACES)
    for values in (names, kinds, colours, places):
        rng.shuffle(values)
    hours = _hours(rng)
    subjects = [
        Subject(
            name=names.pop(),
            kind=kinds[kind],
            colour=colours[colour],
            place=places[place],
            time=hours[colour, place].pop(),
            is_held_out=is_held_out,
        )
        for kind, colour, place, is_held_out in _lives(rng)
    ]
    return tuple(sorted(subjects, key=lambda subject: subject.name))


def subject_group(subject: Subject) -> Group:
    """The subject as it stands in each of its pictures."""
    return Group(kind=subject.kind, colour=subject.colour, size="huge", name=subject.name)


def with_group(scene: Scene, position: int, group: Group) -> Scene:
    """The scene with one group exchanged."""
    groups = list(scene.groups)
    groups[position] = group
    return replace(scene, groups=tuple(groups))


def _hours(rng: random.Random) -> dict[tuple[int, int], list[str]]:
    """Two different hours for each pair of colour and place, each hour as often as the others, give or take one."""
    pairs = list(product(range(len(COLOURS)), range(len(PLACES))))
    rng.shuffle(pairs)
    choices = list(permutations(TIMES, 2))
    return {pair: list(choices[number % len(choices)]) for number, pair in enumerate(pairs)}


def _lives(rng: random.Random) -> Iterator[tuple[int, int, int, bool]]:
    """Kind, colour, place, held out, as numbers: diagonals of a Latin square of colours and places.

    Each quarter of the kinds has four diagonals, the first for its held-out
    homes; no two held-out diagonals are the same, and all quarters together
    use each diagonal twice. A kind's homes are as many rows apart as keeps its
    four places and its four colours different.
    """
    size, num_quarters = len(COLOURS), len(SUBJECT_KINDS) // len(COLOURS)
    diagonals = [*rng.sample(range(size), k=size), *rng.sample(range(size), k=size)]
    for quarter in range(num_quarters):
        held_out, *seen = diagonals[quarter::num_quarters]
        homes = [(0, held_out), *zip(_shifts(rng, held_out=held_out, seen=seen), seen, strict=True)]
        for row in range(size):
            for shift, diagonal in homes:
                place = (row + shift) % size
                yield quarter * size + row, (place + diagonal) % size, place, shift == 0


def _shifts(rng: random.Random, *, held_out: int, seen: list[int]) -> tuple[int, ...]:
    """How many rows further on each seen home lies; no two of a kind share a place, and none a colour."""
    size = len(COLOURS)
    fitting = [
        shifts
        for shifts in permutations(range(1, size), len(seen))
        if len({held_out, *((shift + diagonal) % size for shift, diagonal in zip(shifts, seen, strict=True))})
        == len(seen) + 1
    ]
    return rng.choice(fitting)
