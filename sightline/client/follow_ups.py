"""A person's next turn as an edit of the picture just shown: "like that one, but red", "the same without the car".

Rules, not a model: what they know is written here, and what they do not know is
an ordinary turn. A follow-up is, in this order,

* perhaps an opening: any number of "and", "ok", "show me", "can you find me", "do you have", "I want", ...
* words that point at what was shown: "that one", "the same", "something like this", "another one like it", ...
* perhaps a joint: "but", "only", "just", "except", "though", a comma
* what is wanted and what is not, in parts, as `sightline.negation` tells them apart.

"that one", "the same" and "like that" alone ask for nothing new, so they need a
joint or one of "with", "without", "minus", "in", "at", "on", "as", "from",
"under". "something like this", "more like that" and "another one like it" need
nothing: by themselves they ask for what looks alike.
"""

from __future__ import annotations

import re

from sightline.composition import Edit
from sightline.negation import part_negations

_ASKING = (
    r"and|ok(?:ay)?|yes|please|now|then|hmm+|well|so|or|what about|how about|is there|are there|do you have"
    r"|have you got|(?:(?:can|could|would) you )?(?:please )?(?:show|find|give|get)(?: (?:me|us))?"
    r"|(?:search|look) for|(?:can|could|may) i (?:see|have)|i (?:want|need)(?: to see)?"
    r"|i(?:'d| would) like(?: to see)?"
)
_OPENING = rf"(?:(?:{_ASKING})\b[\s,]*)*"
_THING = r"(?:one|ones|picture|pictures|photo|photos|image|images|thing|scene)"
_THAT = rf"(?:that|this|it|these|those|the (?:last|first|previous)(?: {_THING})?)(?: {_THING})?"
_SOME = rf"(?:something|anything|some|one|another(?: {_THING})?|more|others?|an? {_THING}|{_THING})"
_ALIKE = rf"(?:{_SOME} (?:like|similar to) {_THAT})"
_SAME = rf"the (?:very )?same(?: {_THING})?"
_POINTED = rf"(?:{_SAME}|(?:just |exactly )?like {_THAT}|similar to {_THAT}|(?:that|this) {_THING})"
_JOINT = r"(?:\s*,\s*|\s+)(?:but|only|just|except(?: that| for)?|though)\b|\s*,"
_LEAD = r"\s+(?=(?:with|without|minus|in|at|on|as|from|under)\b)"

_FOLLOW_UP = re.compile(
    rf"^{_OPENING}(?:(?P<alike>{_ALIKE})|(?P<pointed>{_POINTED}))"
    rf"(?:(?P<joint>{_JOINT}|{_LEAD})\s*(?P<rest>.*))?\s*$",
    re.IGNORECASE | re.DOTALL,
)


def follow_up(text: str) -> Edit | None:
    """The edit that a turn asks of the picture just shown, or None if it does not speak of it."""
    found = _FOLLOW_UP.match(text.strip().rstrip("?!. "))
    if found is None:
        return None
    edit = part_negations(found["rest"] or "")
    return None if found["pointed"] and not (edit.texts or edit.negative_texts) else edit
