"""What there is in Toytown: kinds, colours, places, times, weathers, scenes, and the subjects that have names."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence
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
_NUM_SUBJECT_KINDS = 16
"""Kinds that subjects are of, so few that a kind has most colours and places: facts are read, not known by the kind."""
_GUESSABLE = 1 / 8
"""Share of held-out facts that the commonest value of a kind may tell: no more than chance."""
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
    """128 subjects of 16 kinds, ordered by name; 96 are seen in training dialogues and 32 held out.

    Each colour and each place belongs to 12 seen and 4 held-out subjects, each
    kind to 6 seen and 2 held-out ones. Nothing that can be read tells a held-out
    fact better than chance, and neither does what is commonest among the seen
    ones of its kind. Two subjects share each pair of colour and place, of different kinds and at
    different hours; never are both held out.
    """
    rng = random.Random(f"subjects {seed}")
    names = rng.sample(NAMES, k=len(NAMES))
    homes = list(_homes(rng))
    kinds = _kinds(rng, homes=homes)
    hours = _hours(rng)
    subjects = [
        Subject(name=name, kind=kind, colour=colour, place=place, time=hours[colour, place].pop(), is_held_out=held_out)
        for name, kind, (colour, place, held_out) in zip(names, kinds, homes, strict=False)
    ]
    return tuple(sorted(subjects, key=lambda subject: subject.name))


def subject_kinds(subjects: Sequence[Subject]) -> set[str]:
    """The kinds that only subjects show huge: nothing else looks like one of them."""
    return {subject.kind for subject in subjects}


def subject_group(subject: Subject) -> Group:
    """The subject as it stands in each of its pictures."""
    return Group(kind=subject.kind, colour=subject.colour, size="huge", name=subject.name)


def with_group(scene: Scene, position: int, group: Group) -> Scene:
    """The scene with one group exchanged."""
    groups = list(scene.groups)
    groups[position] = group
    return replace(scene, groups=tuple(groups))


_Home = tuple[str, str, bool]
"""Colour, place, held out."""


def _homes(rng: random.Random) -> Iterator[_Home]:
    """Diagonals of a Latin square of colours and places, each twice; of four of them the first time is held out."""
    colours, places = (rng.sample(list(values), k=len(values)) for values in (COLOURS, PLACES))
    held_out = rng.sample(range(len(colours)), k=len(colours) // 2)
    for diagonal, again in product(range(len(colours)), (False, True)):
        for row, place in enumerate(places):
            yield colours[(row + diagonal) % len(colours)], place, diagonal in held_out and not again


def _kinds(rng: random.Random, *, homes: Sequence[_Home]) -> list[str]:
    """A kind for each home, drawn again until kinds tell no fact and the two of a pair differ in it."""
    chosen = rng.sample(SUBJECT_KINDS, k=_NUM_SUBJECT_KINDS)
    num_held_out = sum(held_out for *_, held_out in homes)
    while True:
        of_held_out, of_seen = (
            rng.sample(chosen * (count // len(chosen)), k=count) for count in (num_held_out, len(homes) - num_held_out)
        )
        kinds = [(of_held_out if held_out else of_seen).pop() for *_, held_out in homes]
        if _is_fair(kinds, homes):
            return kinds


def _is_fair(kinds: Sequence[str], homes: Sequence[_Home]) -> bool:
    if len({(kind, colour, place) for kind, (colour, place, _) in zip(kinds, homes, strict=True)}) < len(homes):
        return False
    return all(_guessed(kinds, homes, fact=fact) <= _GUESSABLE for fact in (0, 1))


def _guessed(kinds: Sequence[str], homes: Sequence[_Home], *, fact: int) -> float:
    """The share of held-out homes whose colour (0) or place (1) the commonest one of the kind's seen homes tells."""
    seen = {kind: Counter[str]() for kind in kinds}
    for kind, home in zip(kinds, homes, strict=True):
        seen[kind][str(home[fact])] += not home[2]
    held_out = [(kind, str(home[fact])) for kind, home in zip(kinds, homes, strict=True) if home[2]]
    return sum(_odds(value, counts=seen[kind]) for kind, value in held_out) / len(held_out)


def _odds(value: str, *, counts: Counter[str]) -> float:
    """The chance that one of the commonest values, drawn at random, is `value`."""
    commonest = [other for other, count in counts.items() if count == max(counts.values())]
    return (value in commonest) / len(commonest)


def _hours(rng: random.Random) -> dict[tuple[str, str], list[str]]:
    """Two different hours for each pair of colour and place, each hour as often as the others, give or take one."""
    pairs = list(product(COLOURS, PLACES))
    rng.shuffle(pairs)
    choices = list(permutations(TIMES, 2))
    return {pair: list(choices[number % len(choices)]) for number, pair in enumerate(pairs)}
