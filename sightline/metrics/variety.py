"""How varied a set of replies is."""

from __future__ import annotations

from collections.abc import Sequence

from sightline.errors import UsageError
from sightline.metrics.words import words


def distinct_n(texts: Sequence[str], *, n: int) -> float:
    """Different n-grams over all n-grams of the texts, a share; 0 if there is no n-gram.

    Li et al. 2016 (arXiv 1510.03055), over the words of `sightline.metrics.words`.
    n-grams do not cross texts. It falls with the number of texts, so compare
    equally many. Raises UsageError for n below 1.
    """
    if n < 1:
        raise UsageError(f"n: got {n}, limit 1")
    grams = [gram for text in texts for gram in _grams(words(text), n=n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def _grams(tokens: list[str], *, n: int) -> list[tuple[str, ...]]:
    return [tuple(tokens[start : start + n]) for start in range(len(tokens) - n + 1)]
