"""Edits carried out on captions by rules: the templates that rules write edits with, read backwards. No model.

What no rule understands, or understands of something that the caption does not name, is joined to the caption.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from sightline.language.asking import Problem
from sightline.language.rewriting import Rewrite, RewriteAsk, joined
from trainer.triplets import lexicon
from trainer.triplets.phrases import Phrase, mend_articles, noun_phrases, plural, singular, words_of
from trainer.triplets.rules import BACKGROUND, CONNECTORS, KIND_OF_BACKGROUND, LISTED, things_in

RULES_VERSION = "rules-1"
_JOINT_BEFORE = re.compile(rf"(?:,|\b(?:{'|'.join(CONNECTORS)}))$", flags=re.IGNORECASE)
_JOINT_AFTER = re.compile(r"\s*(?:,|and\b)\s*", flags=re.IGNORECASE)
Words = Mapping[str, str]
Applied = Callable[[str, Words], str | None]
_NO_RULE = Problem(reason="no_rule", detail="no rule knows how; caption and edit are joined")
_OPENING = r"(?:(?:now|please|i want it|i want|but)\s+)*"
_ENDING = r"(?:\s+(?:now|please|too|as well|this time|instead))*"


class RuleRewriter:
    """A `Rewriter` of templates and closed lists: cheap, the same everywhere, and deaf to all other wordings."""

    name = RULES_VERSION

    def rewrite(self, asks: Sequence[RewriteAsk]) -> list[Rewrite]:
        """One sentence an ask: the caption after the edit, or caption and edit joined."""
        return [self._rewritten(ask) for ask in asks]

    def _rewritten(self, ask: RewriteAsk) -> Rewrite:
        sentences = [text.strip() for text in ask.edit.texts if text.strip()]
        target: str | None = ask.caption
        for sentence in [*sentences, *ask.removals]:
            target = applied(sentence, caption=target) if target is not None else None
        return Rewrite(text=joined(ask), problem=_NO_RULE) if target is None else Rewrite(text=target)


def applied(sentence: str, *, caption: str) -> str | None:
    """The caption after the edit that a sentence asks for; None if no rule knows how."""
    said = " ".join(sentence.lower().rstrip(".! ").split())
    for pattern, apply in _PATTERNS:
        found = pattern.fullmatch(said)
        target = apply(caption, found.groupdict()) if found else None
        if target is not None:
            return mend_articles(" ".join(target.split()))
    return None


def _replaced(caption: str, words: Words) -> str | None:
    phrase = _named(caption, words["old"])
    if phrase is None or not words_of(words["new"]):
        return None
    has_determiner = words["new"].split()[0] in lexicon.DETERMINERS
    start = phrase.start if has_determiner else phrase.head.start
    return caption[:start] + words["new"] + caption[phrase.end :]


def _with_attribute(caption: str, words: Words) -> str | None:
    phrase = _named(caption, words["noun"])
    kind = _kind_of(words["new"])
    if phrase is None or kind is None:
        return None
    old = next((word for word in phrase.modifiers if _kind_of(word.text) == kind), None)
    start, end = (old.start, old.end) if old else (phrase.body_start.start, phrase.body_start.start)
    return caption[:start] + (words["new"] if old else f"{words['new']} ") + caption[end:]


def _with_property(caption: str, words: Words) -> str | None:
    """The word itself where the edit names it, else the first of its kind."""
    for word in words_of(caption):
        is_meant = word.text == words["old"] if "old" in words else _kind_of(word.text) == _kind_of(words["new"])
        if is_meant and _kind_of(words["new"]) is not None and _kind_of(word.text) == _kind_of(words["new"]):
            return caption[: word.start] + words["new"] + caption[word.end :]
    return None


def _counted(caption: str, words: Words) -> str | None:
    wanted = next(iter(noun_phrases(words["new"])), None)
    phrase = _named(caption, words["new"])
    if wanted is None or phrase is None or wanted.determiner is None or phrase.determiner is None:
        return None
    number, noun = wanted.determiner.text, singular(phrase.head.text)
    if number not in lexicon.NUMBERS:
        return None
    body = caption[phrase.body_start.start : phrase.head.start]
    return (
        caption[: phrase.start] + f"{number} {body}{noun if number == 'one' else plural(noun)}" + caption[phrase.end :]
    )


def _without(caption: str, words: Words) -> str | None:
    phrase = _named(caption, words["old"])
    if phrase is None:
        return None
    before, after = caption[: phrase.start].rstrip(), caption[phrase.end :]
    if joint := _JOINT_BEFORE.search(before):
        return before[: joint.start()].rstrip() + after
    following = _JOINT_AFTER.match(after)
    return f"{before} {after[following.end() :]}" if following else None


def _with_another(caption: str, words: Words) -> str | None:
    new, things = words["new"], things_in(caption)
    if not things or new.split()[0] not in lexicon.DETERMINERS or KIND_OF_BACKGROUND.get(new):
        return None
    return caption[: things[-1].end] + f" and {new}" + caption[things[-1].end :]


def _elsewhere(caption: str, words: Words) -> str | None:
    """The place, hour or weather in the place of the caption's own, or behind it."""
    new = words["new"]
    if new in lexicon.VIEWPOINTS:
        return lexicon.VIEWPOINTS[new].format(scene=caption.rstrip(". "))
    kind = KIND_OF_BACKGROUND.get(new)
    if kind is None:
        return None
    for found in BACKGROUND.finditer(caption):
        if KIND_OF_BACKGROUND[found.group().lower()] == kind:
            return caption[: found.start()] + new + caption[found.end() :]
    return f"{caption.rstrip('. ')} {new}"


def _named(caption: str, name: str) -> Phrase | None:
    """The phrase of the caption whose head is the last word of a name."""
    words = words_of(name)
    head = singular(words[-1].text) if words else ""
    return next((phrase for phrase in noun_phrases(caption) if singular(phrase.head.text) == head), None)


def _kind_of(word: str) -> str | None:
    return LISTED.get(lexicon.SAME_ATTRIBUTE.get(word, word))


_APPLIED: dict[str, Applied] = {
    "replace": _replaced,
    "property": _with_property,
    "attribute": _with_attribute,
    "count": _counted,
    "remove": _without,
    "background": _elsewhere,
    "viewpoint": _elsewhere,
    "add": _with_another,
}
"""In the order in which they are tried: each refuses what it does not know."""


def _pattern(template: str) -> re.Pattern[str]:
    inner = re.sub(r"\\{(\w+)\\}", r"(?P<\1>.+?)", re.escape(template)).replace(r"the\ (?P", r"(?:the\ )?(?P")
    return re.compile(f"{_OPENING}{inner}{_ENDING}")


def _any_of(phrases: Sequence[str]) -> str:
    """The longest first: 'late at night' holds 'at night'."""
    return "|".join(map(re.escape, sorted(phrases, key=len, reverse=True)))


_LISTED_PLACES = _any_of([*KIND_OF_BACKGROUND, *lexicon.VIEWPOINTS])
_PATTERNS = [
    *(
        (_pattern(template), apply)
        for kind, apply in _APPLIED.items()
        for templates in (lexicon.TEMPLATES, lexicon.HELD_OUT_TEMPLATES)
        for template in templates[kind]
    ),
    # A listed place, hour, weather or view behind anything else is what is asked for.
    (re.compile(rf"(?:.*\s)?(?P<new>{_LISTED_PLACES}){_ENDING}"), _elsewhere),
]
