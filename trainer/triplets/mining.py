"""Nouns that stand where other nouns stand: co-hyponyms, mined from the captions themselves."""

# Axes: H heads, F contexts.
from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from trainer.triplets.lexicon import NOUNS
from trainer.triplets.phrases import Phrase, noun_phrases, plural, sentences, singular, words_of

MAX_CAPTIONS, MAX_HEADS, MIN_COUNT = 50_000, 800, 3
MIN_COSINE, MAX_SIBLINGS = 0.45, 6


@dataclass(frozen=True)
class Vocabulary:
    """What a corpus offers for exchange."""

    siblings: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """A head and the heads that occur in its contexts, nearest first."""
    properties: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """What stands before a colon ('woman'), and all that stands after it ('dark skin tone')."""
    things: tuple[str, ...] = ()
    """Singular nouns that can be added to a scene."""

    def exchange(self, head: str) -> tuple[str, ...]:
        """What `head` can be replaced with: the closed list that holds it, in its number, else mined siblings."""
        for members in NOUNS.values():
            if head in members:
                return tuple(name for name in members if name != head)
            if singular(head) in members:
                return tuple(plural(name) for name in members if name != singular(head))
        return self.siblings.get(head, ())

    @property
    def digest(self) -> str:
        """sha256 of everything mined."""
        parts = [self.siblings, self.properties, self.things]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def mine(captions: Iterable[str]) -> Vocabulary:
    """The vocabulary of the first `MAX_CAPTIONS` captions. The same captions give the same vocabulary."""
    contexts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    properties: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for caption in islice(captions, MAX_CAPTIONS):
        name, colon, value = caption.partition(": ")
        if colon and "," not in value and "?" not in name:
            properties[name.strip().lower()][value.strip()] += 1
        for _, sentence in sentences(caption):
            for phrase in noun_phrases(sentence):
                contexts[phrase.head.text].update(_contexts(sentence, phrase))
    counts = Counter({head: seen["any"] for head, seen in contexts.items() if seen["any"] >= MIN_COUNT})
    heads = sorted(counts, key=lambda head: (-counts[head], head))[:MAX_HEADS]
    # A name that always comes with the same value, or a sentence that happens to hold a colon, offers no exchange.
    several = {
        name: tuple(sorted(seen))
        for name, seen in sorted(properties.items())
        if len(seen) > 1 and len(name.split()) <= 3
    }
    return Vocabulary(siblings=_siblings(heads, contexts), properties=several, things=_things(heads))


def _contexts(sentence: str, phrase: Phrase) -> list[str]:
    after = [word.text for word in words_of(sentence) if word.start >= phrase.end][:1]
    before = phrase.modifiers[-1].text if phrase.modifiers else ""
    determiner = phrase.determiner.text if phrase.determiner else ""
    is_many = determiner not in {"a", "an", "one", "the", ""}
    return ["any", f"before {before}", f"after {after}", f"many {is_many}", f"opened {determiner}"]


def _siblings(heads: Sequence[str], contexts: dict[str, Counter[str]]) -> dict[str, tuple[str, ...]]:
    """Heads by the cosine of their contexts, each weighed by how few heads know it."""
    if not heads:
        return {}
    names = sorted({name for head in heads for name in contexts[head] if name != "any"})
    column = {name: number for number, name in enumerate(names)}
    counts_HF = np.zeros((len(heads), len(names)), dtype=np.float32)
    for row, head in enumerate(heads):
        for name, count in contexts[head].items():
            if name != "any":
                counts_HF[row, column[name]] = count
    weights_F = np.log((1 + len(heads)) / (1 + (counts_HF > 0).sum(axis=0)))
    unit_HF = np.log1p(counts_HF) * weights_F
    unit_HF /= np.maximum(np.linalg.norm(unit_HF, axis=1, keepdims=True), 1e-9)
    cosine_HH = unit_HF @ unit_HF.T
    return {head: near for row, head in enumerate(heads) if (near := _near(row, heads, cosine_HH[row]))}


def _near(row: int, heads: Sequence[str], cosine_H: np.ndarray[tuple[int], np.dtype[np.float32]]) -> tuple[str, ...]:
    order = [int(other) for other in np.argsort(-cosine_H, kind="stable") if cosine_H[other] >= MIN_COSINE]
    near = [heads[other] for other in order if singular(heads[other]) != singular(heads[row])]
    return tuple(near[:MAX_SIBLINGS])


def _things(heads: Sequence[str]) -> tuple[str, ...]:
    """Mined nouns that a closed list knows too: only of these is it sure that they are things, and one of them."""
    listed = {name for members in NOUNS.values() for name in members}
    mined = tuple(head for head in heads if head in listed)
    return mined if len(mined) >= 5 else tuple(sorted(listed))
