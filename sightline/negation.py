"""What a sentence does not want, told apart from what it does: "the car, no longer red but blue".

Rules, not a model; what they do not know stays wanted. A negative stands behind
"without", "with no", "minus" or "no", or behind "not", "no longer", "never" and
their contractions with whatever verb they belong to ("I don't want", "it should
not be"). It ends at a stop, a comma, "and", "but", "just", "instead" or "any
more". "not only", "no more than", "need not have to" and the like negate nothing
that could be searched for. A lone word that is denied of a thing named just
before, as in "the car should not be red", is meant with that thing: "red car".

What the experiment `negation` makes of it: docs/composed-retrieval.md.
"""

from __future__ import annotations

import re

from sightline.composition import Edit
from sightline.limits import MAX_EDIT_TEXTS

_WHO = r"(?:\b(?:i|we|it|they|there)\s+)?"
_VERB = r"do|does|did|should|must|could|would|will|may|need|is|are|was|were"
_LACKING = (
    r"(?:\b(?:has|have)\s+)?\b(?:without|with no|minus|"
    r"(?:but\s+)?no(?!\s+(?:longer|one|more than|less than|need|doubt|matter)\b))\s+"
)
_DENYING = (
    rf"(?:{_WHO}\b(?:(?:{_VERB}|can)\s+(?:not|no longer|never)|(?:{_VERB})n'?t|can(?:not|'?t)|won'?t)"
    r"|(?:\b(?:it|that|they)'(?:s|re)\s+)?\b(?:but\s+)?(?:not|no longer|never))\b"
    r"(?!\s+(?:only|just|have to|need to|mind|matter)\b)"
    r"\s+(?:be\s+|(?P<verb>(?:have|want|need|see|show|like)\s+))?"
)
_NEGATIVE = re.compile(rf"(?P<lacking>{_LACKING})|{_DENYING}", re.IGNORECASE)
_END = re.compile(r"\s*[,.;!?]|\s+(?:and|but|just|instead|any\s?(?:more|longer)|or(?=\s+with\b))\b", re.IGNORECASE)
_LOOSE = r"(?:[\s,.!?;]|\b(?:and|but|or|only|just|instead|please|any\s?(?:more|longer))\b)"
_LOOSE_ENDS = re.compile(rf"^{_LOOSE}+|{_LOOSE}+$", re.IGNORECASE)
_THING = re.compile(r"^the (?!same\b|last\b|first\b|picture\b)((?:[\w-]+ ){0,2}[\w-]+)$", re.IGNORECASE)


def part_negations(sentence: str) -> Edit:
    """The parts of a sentence that are wanted, and its negatives, in the order in which they were said.

    What says more parts than an edit holds has the last of them joined.
    """
    rest, wanted, negatives = sentence.replace("\u2019", "'"), [], []
    while found := _NEGATIVE.search(rest):
        wanted.append(_tidy(rest[: found.start()]))
        negative, rest = _ended(rest[found.end() :])
        is_denied = not (found["lacking"] or found["verb"])
        negatives.append(_said_of(wanted[-1], negative) if is_denied else negative)
    return Edit(texts=_at_most([*wanted, _tidy(rest)]), negative_texts=_at_most(negatives))


def _ended(text: str) -> tuple[str, str]:
    """(what stands before the end of a negative, all that follows it)."""
    end = _END.search(text)
    return (_tidy(text[: end.start()]), text[end.start() :]) if end else (_tidy(text), "")


def _said_of(before: str, denied: str) -> str:
    """`denied` with the thing that it is said of, if it is a lone word behind one."""
    thing = _THING.match(before)
    return f"{denied} {thing[1]}" if thing and denied and " " not in denied else denied


def _tidy(part: str) -> str:
    return _LOOSE_ENDS.sub("", part)


def _at_most(parts: list[str]) -> tuple[str, ...]:
    said = [part for part in parts if part]
    kept, rest = said[: MAX_EDIT_TEXTS - 1], said[MAX_EDIT_TEXTS - 1 :]
    return tuple(kept) + ((" and ".join(rest),) if rest else ())
