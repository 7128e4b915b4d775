"""Sentences to score: a few of our own that hold every difficulty, and real ones where they lie beside the checkout."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Pairs:
    """Replies and the responses that people gave."""

    replies: list[str]
    responses: list[str]


OWN = Pairs(
    replies=[
        "the red boat is in the harbour .",
        "I don't know, 3,000 of them?",
        "It's red-ish & costs $4.50!",
        "",
        "yes",
        "the the the the the",
        "Ça va? Übermorgen — vielleicht…",
        "a b c d e f g h i j",
        "no word is shared",
        "naïve café “quoted” don’t",
    ],
    responses=[
        "The red boat is in the old harbour.",
        "I really don't know; 3,000 or 4,000 of them?",
        "It's red-ish and costs $4.50, I think!",
        "something",
        "yes",
        "the cat",
        "Ça va bien? Übermorgen vielleicht…",
        "j i h g f e d c b a",
        "quite another thing",
        "a naïve “quoted” café I don’t know",
    ],
)


@pytest.fixture
def own_pairs() -> Pairs:
    """Ten pairs: marks, numbers, case, accents, repeats, a blank reply, and nothing shared."""
    return OWN


@pytest.fixture(scope="session")
def real_pairs(shared_data: Path) -> Pairs:
    """Turns of Topical-Chat as responses, and as their replies the turns two earlier, by the same person."""
    path = shared_data / "topical_chat" / "valid_freq.json"
    if not path.is_file():
        pytest.skip("topical_chat is not among the real data")
    conversations = json.loads(path.read_text(encoding="utf-8")).values()
    turns = [[turn["message"] for turn in conversation["content"]] for conversation in conversations]
    pairs = [pair for said in turns for pair in zip(said[:-2], said[2:], strict=True)]
    chosen = list(itertools.islice(pairs, 0, None, 9))
    return Pairs(replies=[reply for reply, _ in chosen], responses=[response for _, response in chosen])
