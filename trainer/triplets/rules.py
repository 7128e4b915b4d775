"""Triplets without a model: words exchanged, clauses added and removed, numbers, places and views changed."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from sightline.data.edits import EDIT_TYPES, EditGenerator
from sightline.language.asking import Problem
from trainer.triplets import lexicon
from trainer.triplets.asking import Answer, Ask, Pair
from trainer.triplets.mining import Vocabulary, mine
from trainer.triplets.phrases import (
    Phrase,
    mend_articles,
    noun_phrases,
    plural,
    sentences,
    singular,
    with_article,
    words_of,
)

RULES_VERSION = "rules-1"
KIND_OF_BACKGROUND = {phrase: kind for kind, phrases in lexicon.BACKGROUNDS.items() for phrase in phrases}
# The longest first: 'late at night' holds 'at night'.
BACKGROUND = re.compile(rf"\b(?:{'|'.join(sorted(KIND_OF_BACKGROUND, key=len, reverse=True))})\b", flags=re.IGNORECASE)
CONNECTORS = ("and", "with", "next to", "left of", "right of", "beside", "holding", "wearing", "near")
LISTED = {word: kind for kind, words in lexicon.ATTRIBUTES.items() for word in words}
_PEOPLE = set(lexicon.NOUNS["person"]) | {plural(name) for name in lexicon.NOUNS["person"]}


@dataclass(frozen=True, kw_only=True)
class Change:
    """A sentence after an edit, and the words that the edit is told in."""

    sentence: str
    template: str
    words: dict[str, str]


Rule = Callable[[str, Vocabulary, random.Random], list[Change]]


class RuleGenerator:
    """A `TripletGenerator` of closed lists, mined nouns and templates. Draws by the ask's seed alone."""

    def __init__(self, captions: Iterable[str], *, seed: int, is_held_out: bool = False) -> None:
        self._vocabulary = mine(captions)
        self._templates = lexicon.HELD_OUT_TEMPLATES if is_held_out else lexicon.TEMPLATES
        version = f"{RULES_VERSION}-held-out" if is_held_out else RULES_VERSION
        self.name = EditGenerator(kind="rule", model="sightline-rules", prompt_version=version, seed=seed)
        self.prompt_digest = _digest(self._vocabulary, self._templates)
        self.num_parallel, self.batch_items, self.max_asks = 1, 256, 1

    def edit_types(self, caption: str) -> Sequence[str]:
        """The types that a rule applies to this caption for."""
        return [name for name in EDIT_TYPES if self._change(caption, name, rng=random.Random(caption)) is not None]

    def propose(self, asks: Sequence[Ask]) -> list[Answer]:
        """One pair an ask, the same for the same ask and corpus."""
        return [Answer(result=self._pair(ask)) for ask in asks]

    def close(self) -> None:
        """Nothing is held."""

    def _pair(self, ask: Ask) -> Pair | Problem:
        rng = random.Random(ask.seed)
        found = self._change(ask.record.caption, ask.edit_type, rng=rng)
        if found is None:
            return Problem(reason="no_rule", detail=f"no rule of {ask.edit_type} applies")
        start, before, change = found
        caption = ask.record.caption
        target = caption[:start] + change.sentence + caption[start + len(before) :]
        text = rng.choice(self._templates[change.template]).format(**change.words)
        return Pair(modification=mend_articles(text), target_caption=mend_articles(target))

    def _change(self, caption: str, edit_type: str, *, rng: random.Random) -> tuple[int, str, Change] | None:
        """(start, sentence, change) of the sentence that says what is seen."""
        start, sentence = _scene_of(caption)
        changes = _RULES[edit_type](sentence, self._vocabulary, rng) if sentence else []
        return (start, sentence, rng.choice(changes)) if changes else None


def _scene_of(caption: str) -> tuple[int, str]:
    """(start, text) of the last sentence that names a thing or a background, else of the last one."""
    found = sentences(caption) or [(0, "")]
    return next((item for item in found if things_in(item[1]) or background_spans(item[1])), found[0])


def things_in(sentence: str) -> list[Phrase]:
    """The noun phrases that an edit can be about: not those that say where, when or how much."""
    spans = background_spans(sentence)
    return [
        phrase
        for phrase in noun_phrases(sentence)
        if phrase.head.text not in lexicon.NO_THINGS and not any(a < phrase.end and phrase.start < b for a, b in spans)
    ]


def background_spans(sentence: str) -> list[tuple[int, int]]:
    """(start, end) of each phrase that says where or when, in the order of the sentence."""
    return [match.span() for match in BACKGROUND.finditer(sentence)]


def _replace(sentence: str, vocabulary: Vocabulary, rng: random.Random) -> list[Change]:
    changes = []
    for phrase in things_in(sentence):
        if others := vocabulary.exchange(phrase.head.text):
            old, new = phrase.head.text, rng.choice(others)
            told = with_article(new) if singular(new) == new else new
            changes.append(_swapped(sentence, phrase.head.start, phrase.head.end, new, "replace", old=old, new=told))
    return changes


def _attribute(sentence: str, vocabulary: Vocabulary, rng: random.Random) -> list[Change]:
    listed = _listed_attributes(sentence, rng) + _properties(sentence, vocabulary, rng)
    return listed or [_given(sentence, phrase, rng) for phrase in things_in(sentence)]


def _listed_attributes(sentence: str, rng: random.Random) -> list[Change]:
    changes = []
    for phrase in things_in(sentence):
        for word in phrase.modifiers:
            known = lexicon.SAME_ATTRIBUTE.get(word.text, word.text)
            if known in LISTED:
                new = rng.choice([other for other in lexicon.ATTRIBUTES[LISTED[known]] if other != known])
                noun = phrase.head.text
                changes.append(_swapped(sentence, word.start, word.end, new, "attribute", noun=noun, new=new))
    return changes


def _properties(sentence: str, vocabulary: Vocabulary, rng: random.Random) -> list[Change]:
    """'woman: medium skin tone' with another of the things that are said of women."""
    name, colon, old = sentence.partition(": ")
    others = [value for value in vocabulary.properties.get(name.lower(), ()) if value != old]
    if not colon or not others:
        return []
    new = rng.choice(others)
    return [Change(sentence=f"{name}: {new}", template="property", words={"old": old, "new": new})]


def _given(sentence: str, phrase: Phrase, rng: random.Random) -> Change:
    """The sentence with an attribute that it did not give."""
    values = lexicon.FIGURE_ATTRIBUTES if phrase.head.text in _PEOPLE else lexicon.ATTRIBUTES["colour"]
    new, start = rng.choice(values), phrase.body_start.start
    return _swapped(sentence, start, start, f"{new} ", "attribute", noun=phrase.head.text, new=new)


def _count(sentence: str, vocabulary: Vocabulary, rng: random.Random) -> list[Change]:
    changes = []
    for phrase in things_in(sentence):
        opened = phrase.determiner.text if phrase.determiner else "a"
        number = "one" if opened in {"a", "an"} else opened
        if number not in lexicon.NUMBERS:
            continue
        new = rng.choice([other for other in lexicon.NUMBERS if other != number])
        noun = singular(phrase.head.text)
        body = sentence[phrase.body_start.start : phrase.head.start]
        heads = noun if new == "one" else plural(noun)
        words = {"old": f"{number} {phrase.head.text}", "new": f"{new} {heads}"}
        changes.append(_swapped(sentence, phrase.start, phrase.end, f"{new} {body}{heads}", "count", **words))
    return changes


def _background(sentence: str, vocabulary: Vocabulary, rng: random.Random) -> list[Change]:
    changes = []
    for start, end in background_spans(sentence):
        old = sentence[start:end].lower()
        phrases = lexicon.BACKGROUNDS[KIND_OF_BACKGROUND[old]]
        new = rng.choice([other for other in phrases if not _says_the_same(other, old)])
        changes.append(_swapped(sentence, start, end, new, "background", old=old, new=new))
    if changes:
        return changes
    new = rng.choice(list(KIND_OF_BACKGROUND))
    return [Change(sentence=f"{sentence} {new}", template="background", words={"new": new})]


def _viewpoint(sentence: str, vocabulary: Vocabulary, rng: random.Random) -> list[Change]:
    words = {word.text for word in words_of(sentence)}
    if words & lexicon.VIEW_WORDS:
        return []
    new = rng.choice(list(lexicon.VIEWPOINTS))
    changed = lexicon.VIEWPOINTS[new].format_map({"scene": sentence})
    return [Change(sentence=changed, template="viewpoint", words={"new": new})]


def _relation(sentence: str, vocabulary: Vocabulary, rng: random.Random) -> list[Change]:
    phrases, changes = things_in(sentence), []
    for first, second in pairwise(phrases):
        between = sentence[first.end : second.start]
        others = lexicon.RELATIONS.get(between.strip().lower(), ())
        is_apart = first.head.text != second.head.text
        if others and is_apart and "between" not in sentence:
            new = rng.choice(others)
            words = {"first": first.head.text, "second": second.head.text, "new": new}
            changes.append(_swapped(sentence, first.end, second.start, f" {new} ", "relation", **words))
    return changes


def _add(sentence: str, vocabulary: Vocabulary, rng: random.Random) -> list[Change]:
    present = {singular(word.text) for word in words_of(sentence)}
    new = with_article(rng.choice([thing for thing in vocabulary.things if thing not in present]))
    opened = [phrase for phrase in things_in(sentence) if phrase.determiner and sentence[phrase.end :][:4] != " of "]
    if not opened:
        return [Change(sentence=f"{sentence} with {new}", template="add", words={"new": new})]
    return [_swapped(sentence, opened[0].end, opened[0].end, f" with {new}", "add", new=new)]


def _remove(sentence: str, vocabulary: Vocabulary, rng: random.Random) -> list[Change]:
    if "between" in sentence:
        return []
    changes = []
    for phrase in things_in(sentence):
        before = sentence[: phrase.start].rstrip()
        connector = next((name for name in CONNECTORS if re.search(rf"\s{name}$", before, flags=re.IGNORECASE)), None)
        if connector is not None:
            start = len(before) - len(connector)
            kept = sentence[:start].rstrip() + sentence[phrase.end :]
            changes.append(Change(sentence=kept, template="remove", words={"old": phrase.head.text}))
    return changes


_RULES: dict[str, Rule] = {
    "add": _add,
    "remove": _remove,
    "replace": _replace,
    "attribute": _attribute,
    "count": _count,
    "background": _background,
    "viewpoint": _viewpoint,
    "relation": _relation,
}


def _swapped(sentence: str, start: int, end: int, new: str, template: str, /, **words: str) -> Change:
    return Change(sentence=sentence[:start] + new + sentence[end:], template=template, words=words)


def _says_the_same(first: str, second: str) -> bool:
    return first == second or any({first, second} <= group for group in lexicon.ALIKE)


def _digest(vocabulary: Vocabulary, templates: dict[str, tuple[str, ...]]) -> str:
    lists = [lexicon.ATTRIBUTES, lexicon.NOUNS, lexicon.BACKGROUNDS, lexicon.VIEWPOINTS, lexicon.RELATIONS]
    parts = [RULES_VERSION, vocabulary.digest, templates, lists]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
