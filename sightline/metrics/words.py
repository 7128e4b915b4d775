"""How texts are cut into words before they are scored: one rule for every score, and a barer one for grading answers.

Scores over words can be compared only if their words were cut alike. Ours are
those of WMT's mteval-v13a, as sacrebleu cuts them (`tok:13a`), in lower case
(`case:lc`): marks are words of their own, "don't" and "red-ish" are one word.
Lower case, because the corpus-trained tokenizer writes lower case and most
word vectors know nothing else. The scripts of the paper kept case and cut with
NLTK, and cut anew, dropping marks and articles, for Distinct.
"""

from __future__ import annotations

import re

from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

WORDS_RULE = "case:lc|tok:13a"
"""The rule in sacrebleu's own notation, for reports."""

_cut = Tokenizer13a()  # type: ignore[no-untyped-call]
_LETTERS_AND_DIGITS = re.compile(r"[^\W_]+")


def words(text: str) -> list[str]:
    """The words and marks of a text, in order; [] for a blank one. What every score over words counts."""
    return str(_cut(text.lower().rstrip())).split()


def bare_words(text: str) -> set[str]:
    """The runs of letters and digits of a text, without case: "Red-ish!" has "red". For grading answers only."""
    return {word.casefold() for word in _LETTERS_AND_DIGITS.findall(text)}
