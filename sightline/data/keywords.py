"""Which words of a caption carry what a picture shows: the spans that textual inversion hides behind one pseudo-word.

LinCIR (arXiv 2312.01998) hides runs of nouns and adjectives. The
default here needs no tagger: a closed list of function words, and everything
else is a keyword.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from sightline.errors import SettingInvalid

PLACEHOLDER = "$"
"""Stands for the pseudo-word in templates; removed from every caption and every edit."""

MASKERS = ("rules", "spacy")
SPACY_MODEL = "en_core_web_sm"
SPACY_KEYWORDS = frozenset({"NOUN", "PROPN", "ADJ"})

Span = tuple[int, int]

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_NUMBER = re.compile(r"\d+")
_NAMING = """a an the this that these those some any no every each all both either neither another other such many much
few little more most several own same i you he she it we they me him her us them my your his its our their mine yours
hers ours theirs myself yourself himself herself itself ourselves themselves who whom whose which what whatever someone
somebody something anyone anybody anything everyone everybody everything nobody nothing none"""
_NUMBERS = "one two three four five six seven eight nine ten eleven twelve dozen hundred thousand"
_LINKING = """about above across after against along among amid around as at atop before behind below beneath beside
besides between beyond by down during except for from in inside into like near next of off on onto opposite out outside
over past per since through throughout till to toward towards under underneath until up upon via while with within
without and but or nor so yet if because although though unless than whether when where why how"""
_HELPING = """am is are was were be been being has have had having do does did doing done can could may might must shall
should will would not isn't aren't wasn't weren't doesn't don't didn't can't it's there's that's there here then now
just only also too very quite rather really even still again ever never always often away together almost"""
NUMBER_WORDS = frozenset(_NUMBERS.split())
FUNCTION_WORDS = NUMBER_WORDS.union(f"{_NAMING} {_LINKING} {_HELPING}".split())


@dataclass(frozen=True, kw_only=True)
class MaskedCaption:
    """A caption and where its keywords stand."""

    text: str
    """The caption in lower case and without placeholders; spans count its characters."""
    spans: tuple[Span, ...]
    """(start, end) of each keyword run, in order; empty only where the caption has no word at all."""

    @property
    def pieces(self) -> tuple[str, ...]:
        """What is left between the runs, stripped: one piece more than there are runs."""
        ends = [0, *(end for _, end in self.spans)]
        starts = [*(start for start, _ in self.spans), len(self.text)]
        return tuple(self.text[end:start].strip() for end, start in zip(ends, starts, strict=True))

    @property
    def masked(self) -> str:
        """The caption with one placeholder for each run, to be read by people."""
        return " ".join(f" {PLACEHOLDER} ".join(self.pieces).split())


class KeywordMasker(Protocol):
    """Finds the keywords of a caption."""

    def mask(self, caption: str) -> MaskedCaption:
        """The caption with its keyword runs. A caption of function words alone has its longest word masked."""


class FunctionWordMasker:
    """Whatever is no function word and no number is a keyword, verbs included. Safe from many threads."""

    def mask(self, caption: str) -> MaskedCaption:
        """The caption with its keyword runs: neighbours with nothing but space between them are one run."""
        text = plain_caption(caption)
        words = [match.span() for match in _WORD.finditer(text)]
        keywords = [span for span in words if not _is_function_word(text[slice(*span)])]
        return MaskedCaption(text=text, spans=_runs(keywords or _longest(words), text=text))


class SpacyMasker:
    """spaCy's tagger: runs of nouns, proper nouns and adjectives, as the authors of LinCIR mask.

    Raises SettingInvalid where spaCy or its model is not installed.
    """

    def __init__(self, model: str = SPACY_MODEL) -> None:
        self._tagger = _load_spacy(model)

    def mask(self, caption: str) -> MaskedCaption:
        """The caption with its keyword runs."""
        text = plain_caption(caption)
        tokens = [token for token in self._tagger(text) if not token.is_space]
        keywords = [(t.idx, t.idx + len(t.text)) for t in tokens if t.pos_ in SPACY_KEYWORDS]
        words = [match.span() for match in _WORD.finditer(text)]
        return MaskedCaption(text=text, spans=_runs(keywords or _longest(words), text=text))


def keyword_masker(name: str = "rules") -> KeywordMasker:
    """The masker called `rules` or `spacy`. Raises SettingInvalid for another name, or where spaCy is missing."""
    if name not in MASKERS:
        raise SettingInvalid(f"keyword masker: got {name!r}, expected {' or '.join(MASKERS)}")
    return FunctionWordMasker() if name == "rules" else SpacyMasker()


def plain_caption(caption: str) -> str:
    """The caption in lower case, without placeholders, each run of white space as one space."""
    return " ".join(caption.replace(PLACEHOLDER, " ").lower().split())


def _is_function_word(word: str) -> bool:
    return word.replace("’", "'") in FUNCTION_WORDS or _NUMBER.fullmatch(word) is not None


def _longest(words: Sequence[Span]) -> list[Span]:
    """The longest word, the first of equals: a caption of function words alone still teaches something."""
    return [max(words, key=lambda span: span[1] - span[0])] if words else []


def _runs(spans: Iterable[Span], *, text: str) -> tuple[Span, ...]:
    runs: list[Span] = []
    for start, end in spans:
        if runs and not text[runs[-1][1] : start].strip():
            runs[-1] = (runs[-1][0], end)
        else:
            runs.append((start, end))
    return tuple(runs)


def _load_spacy(model: str) -> Any:
    try:
        import spacy

        return spacy.load(model, disable=["parser", "ner", "lemmatizer"])
    except (ImportError, OSError) as error:
        message = (
            f"keyword masker spacy: needs spaCy and its model {model} (`python -m spacy download {model}`): {error}"
        )
        raise SettingInvalid(message) from error
