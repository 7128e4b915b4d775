"""Which pairs are worth training on. Every refusal has a reason; nothing is repaired."""

from __future__ import annotations

from collections.abc import Callable

from sightline.language.answers import folded, foreign, runs, words
from sightline.language.asking import Problem
from trainer.triplets.asking import Pair
from trainer.triplets.prompt import INSTRUCTIONS

MAX_MODIFICATION_WORDS = 30
MAX_TARGET_TOKENS = 77
"""As CLIP's text tower reads it, start and end included."""
MAX_OVERLAP = 0.8
"""Of the words of modification and target together: more, and the edit restates the target."""
CountTokens = Callable[[str], int]
"""How many tokens the text tower sees, start and end included."""


def check_pair(pair: Pair, *, caption: str, count_tokens: CountTokens) -> Problem | None:
    """Why a pair for `caption` is refused, or None."""
    texts = (pair.modification, pair.target_caption)
    if not all(text.strip() for text in texts):
        return Problem(reason="empty", detail="a text is empty")
    for text in texts:
        if problem := foreign(text, about=caption, instructions=_PROMPT_RUNS):
            return problem
    return _too_long(pair, count_tokens=count_tokens) or _not_an_edit(pair, caption=caption)


def _too_long(pair: Pair, *, count_tokens: CountTokens) -> Problem | None:
    num_words = len(pair.modification.split())
    if num_words > MAX_MODIFICATION_WORDS:
        detail = f"the modification has {num_words} words, limit {MAX_MODIFICATION_WORDS}"
        return Problem(reason="modification_too_long", detail=detail)
    num_tokens = count_tokens(pair.target_caption)
    if num_tokens > MAX_TARGET_TOKENS:
        detail = f"the target caption has {num_tokens} tokens, limit {MAX_TARGET_TOKENS}"
        return Problem(reason="target_too_long", detail=detail)
    return None


def _not_an_edit(pair: Pair, *, caption: str) -> Problem | None:
    modification, target, reference = folded(pair.modification), folded(pair.target_caption), folded(caption)
    if target == reference:
        return Problem(reason="unchanged", detail="the target caption is the reference caption")
    if modification in {target, reference}:
        return Problem(reason="copy", detail="the modification is a copy of a caption")
    overlap = _jaccard(modification, target)
    if overlap >= MAX_OVERLAP:
        detail = f"modification and target caption share {overlap:.2f} of their words, limit below {MAX_OVERLAP}"
        return Problem(reason="restates_target", detail=detail)
    return None


def _jaccard(first: str, second: str) -> float:
    a, b = set(words(first)), set(words(second))
    return len(a & b) / max(1, len(a | b))


_PROMPT_RUNS = runs(INSTRUCTIONS)
