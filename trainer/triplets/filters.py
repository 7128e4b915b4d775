"""Which pairs are worth training on. Every refusal has a reason; nothing is repaired."""

from __future__ import annotations

import re
from collections.abc import Callable

from trainer.triplets.asking import Pair, Problem
from trainer.triplets.prompt import INSTRUCTIONS

MAX_MODIFICATION_WORDS = 30
MAX_TARGET_TOKENS = 77
"""As CLIP's text tower reads it, start and end included."""
MAX_OVERLAP = 0.8
"""Of the words of modification and target together: more, and the edit restates the target."""
_PROMPT_RUN = 6
"""So many words in a row, the same as in our instructions, are a leak of them."""
_META = frozenset({"image", "images", "caption", "captions", "instruction", "instructions", "prompt", "json"})
_URL = re.compile(r"(?i)\b(?:[a-z][a-z0-9+.-]*://|www\.)|\b[a-z0-9-]+\.(?:com|org|net|io|ru|cn)\b")
_ROLE = re.compile(
    r"(?i)^\s*(?:system|assistant|user|human|developer)\s*:|<\|.*?\|>|<<?/?sys>>?|\[/?inst\]|</?s(?:cene)?>|#{3}"
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f\u200b-\u200f\u202a-\u202e\u2066-\u2069]")
_WORD = re.compile(r"[\w']+")

CountTokens = Callable[[str], int]
"""How many tokens the text tower sees, start and end included."""


def check_pair(pair: Pair, *, caption: str, count_tokens: CountTokens) -> Problem | None:
    """Why a pair for `caption` is refused, or None."""
    texts = (pair.modification, pair.target_caption)
    if not all(text.strip() for text in texts):
        return Problem(reason="empty", detail="a text is empty")
    for text in texts:
        if problem := _foreign(text, caption=caption):
            return problem
    return _too_long(pair, count_tokens=count_tokens) or _not_an_edit(pair, caption=caption)


def folded(text: str) -> str:
    """A text as far as it matters for being the same: letter case, spaces and the last full stop do not."""
    return " ".join(text.casefold().split()).rstrip(".")


def _foreign(text: str, *, caption: str) -> Problem | None:
    """What belongs to the conversation rather than to a scene, or would lead somewhere else."""
    if _URL.search(text):
        return Problem(reason="url", detail="a text holds an address")
    if _ROLE.search(text):
        return Problem(reason="role_marker", detail="a text holds a role or template marker")
    if _CONTROL.search(text):
        return Problem(reason="control_character", detail="a text holds a line break or control character")
    if _runs(text) & (_PROMPT_RUNS - _runs(caption)):
        return Problem(reason="prompt_phrase", detail="a text repeats the instructions")
    if meta := (set(_words(text)) & _META) - set(_words(caption)):
        return Problem(reason="meta_word", detail=f"a text says {min(meta)!r}, which is not part of the scene")
    return None


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
    a, b = set(_words(first)), set(_words(second))
    return len(a & b) / max(1, len(a | b))


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def _runs(text: str) -> set[tuple[str, ...]]:
    words = _words(text)
    return {tuple(words[start : start + _PROMPT_RUN]) for start in range(len(words) - _PROMPT_RUN + 1)}


_PROMPT_RUNS = frozenset(_runs(INSTRUCTIONS))
