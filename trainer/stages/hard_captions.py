"""Captions that are wrong by one word: the negatives that a batch of random pictures hardly ever holds."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

import numpy as np

from sightline.data.keywords import FUNCTION_WORDS, NUMBER_WORDS

_WORD = re.compile(r"\w+|[^\w\s]")
_EDGE = ""

Place = tuple[str, str]
"""The words on either side of a word."""


class WordSwaps:
    """Exchanges one telling word of a caption for another that captions have between the same two neighbours.

    Hard negatives in the manner of NegCLIP (arXiv 2210.01936), whose tagger and
    masked language model are left out: the captions themselves say what may stand
    at a place. A synonym may be drawn, and the caption then still be right.
    """

    def __init__(self, captions: Iterable[str]) -> None:
        known: defaultdict[Place, set[str]] = defaultdict(set)
        for caption in set(captions):
            for place, word in _telling(caption):
                known[place].add(word.group().lower())
        self._words = {place: sorted(words) for place, words in known.items() if len(words) > 1}

    def swapped(self, caption: str, *, rng: np.random.Generator) -> str | None:
        """The caption with another word in it; None if no other caption says what else could stand there."""
        places = [(place, word) for place, word in _telling(caption) if place in self._words]
        if not places:
            return None
        place, word = places[rng.integers(len(places))]
        others = [other for other in self._words[place] if other != word.group().lower()]
        return f"{caption[: word.start()]}{others[rng.integers(len(others))]}{caption[word.end() :]}"


def _telling(caption: str) -> list[tuple[Place, re.Match[str]]]:
    """The words that carry what a picture shows, numbers among them, each with its place."""
    words = list(_WORD.finditer(caption))
    said = [_EDGE, *(word.group().lower() for word in words), _EDGE]
    return [
        ((said[number], said[number + 2]), word) for number, word in enumerate(words) if _is_telling(said[number + 1])
    ]


def _is_telling(word: str) -> bool:
    return word in NUMBER_WORDS or (word.isalnum() and word not in FUNCTION_WORDS)
