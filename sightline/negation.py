"""What an edit says is not wanted, told apart from what is: "the car, no longer red but blue".

Rules, not a model. What is not wanted stands behind "without", "with no",
"minus", "no longer", "not" or "no", and ends at the next "and", "but" or comma;
"any more" behind it adds nothing. A lone word that is said of a thing named just
before, as in "the car should not be red", is meant with that thing: "red car".
"""

from __future__ import annotations

import re

from sightline.composition import Edit
from sightline.limits import MAX_EDIT_TEXTS

_NOT_WANTED = re.compile(
    r"(?:\b(?:(?:i|we|it|they|there)\s+)?(?:do|does|should|must|can)\s+)?"
    r"\b(?:without|with no|minus|no longer|but not|not|but no|no|don't|doesn't|shouldn't)\s+"
    r"(?:(?:be|have|want|need|see|show)\s+)?",
    re.IGNORECASE,
)
_END_OF_NOT_WANTED = re.compile(r"\s*(?:,|\band\b|\bbut\b)\s*(?:(?:and|but)\b\s*)?", re.IGNORECASE)
_ANY_MORE = re.compile(r"\s+any\s?(?:more|longer)\b.*$", re.IGNORECASE | re.DOTALL)
_LOOSE_ENDS = re.compile(r"^(?:[\s,.!?;]|(?:and|but|only|just)\b)+|(?:[\s,.!?;]|\b(?:and|but|please))+$", re.IGNORECASE)
_THING = re.compile(r"^the (?!same\b|last\b|first\b|picture\b)((?:[\w-]+ ){0,2}[\w-]+)$", re.IGNORECASE)


def part_negations(sentence: str) -> Edit:
    """The parts of a sentence that are wanted, and those that are not, in the order in which they were said.

    What says more parts than an edit holds has the last of them joined.
    """
    first, *refused = _NOT_WANTED.split(sentence)
    wanted, unwanted = [_tidy(first)], []
    for part in refused:
        thing, *more = _END_OF_NOT_WANTED.split(part, maxsplit=1)
        unwanted.append(_said_of(wanted[-1], _ANY_MORE.sub("", _tidy(thing))))
        wanted += [_tidy(text) for text in more]
    return Edit(texts=_at_most(wanted), negative_texts=_at_most(unwanted))


def _tidy(part: str) -> str:
    return _LOOSE_ENDS.sub("", part)


def _said_of(before: str, refused: str) -> str:
    """`refused` with the thing that it is said of, if it is a lone word behind one."""
    thing = _THING.match(before)
    return f"{refused} {thing[1]}" if thing and refused and " " not in refused else refused


def _at_most(parts: list[str]) -> tuple[str, ...]:
    said = [part for part in parts if part]
    kept, rest = said[: MAX_EDIT_TEXTS - 1], said[MAX_EDIT_TEXTS - 1 :]
    return tuple(kept) + ((" and ".join(rest),) if rest else ())
