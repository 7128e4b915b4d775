"""Noun phrases of captions, found without a parser: a determiner, some modifiers, a head; or a bare name."""

from __future__ import annotations

import re
from dataclasses import dataclass

from trainer.triplets.lexicon import DETERMINERS, ENDINGS_THAT_ARE_NO_VERB, IRREGULAR, STOPS

MAX_PHRASE_WORDS = 4
_WORD = re.compile(r"[^\W_][\w'’-]*")
_SENTENCE = re.compile(r"[^.?!]+")
_SINGULAR = {plural: singular for singular, plural in IRREGULAR.items() if singular != plural}


@dataclass(frozen=True)
class Word:
    """A word and where it stands in its sentence."""

    text: str
    start: int
    end: int


@dataclass(frozen=True, kw_only=True)
class Phrase:
    """'a small red car': determiner, modifiers and head; a bare name has no determiner."""

    determiner: Word | None
    modifiers: tuple[Word, ...]
    head: Word

    @property
    def start(self) -> int:
        """Where the phrase begins in its sentence."""
        return (self.determiner or self.body_start).start

    @property
    def end(self) -> int:
        """Where the phrase ends in its sentence."""
        return self.head.end

    @property
    def body_start(self) -> Word:
        """The first word after the determiner."""
        return (*self.modifiers, self.head)[0]


def sentences(caption: str) -> list[tuple[int, str]]:
    """(start, text) of each sentence, the last one first: small talk comes before what it is about."""
    found = [(match.start(), match.group()) for match in _SENTENCE.finditer(caption) if match.group().strip()]
    return [(start + len(text) - len(text.lstrip()), text.strip()) for start, text in reversed(found)]


def words_of(sentence: str) -> list[Word]:
    """The words of a sentence with their places, in lower case."""
    return [Word(match.group().lower(), match.start(), match.end()) for match in _WORD.finditer(sentence)]


def noun_phrases(sentence: str) -> list[Phrase]:
    """Every phrase that a determiner opens; of a sentence without any, the name that it is, up to a colon."""
    words = words_of(sentence)
    opened = [number for number, word in enumerate(words) if word.text in DETERMINERS]
    found = [_phrase(sentence, words, number) for number in opened]
    if not opened:
        found = [_bare(sentence.partition(":")[0])]
    return [phrase for phrase in found if phrase is not None]


def plural(noun: str) -> str:
    """The plural of an English noun of one or more words: its last word's, or its first's before 'of'."""
    if " of " in noun:
        first, rest = noun.split(" of ", 1)
        return f"{plural(first)} of {rest}"
    if noun in IRREGULAR:
        return IRREGULAR[noun]
    if re.search(r"(?:s|x|z|ch|sh)$", noun):
        return f"{noun}es"
    return f"{noun[:-1]}ies" if re.search(r"[^aeiou]y$", noun) else f"{noun}s"


def singular(noun: str) -> str:
    """The singular of a regular or listed plural; any other word as it is."""
    if noun in _SINGULAR:
        return _SINGULAR[noun]
    for ending, instead in (
        ("ies", "y"),
        ("ches", "ch"),
        ("shes", "sh"),
        ("xes", "x"),
        ("sses", "ss"),
        ("buses", "bus"),
        ("s", ""),
    ):
        if noun.endswith(ending) and not noun.endswith(("ss", "us")) and len(noun) > len(ending) + 1:
            return noun.removesuffix(ending) + instead
    return noun


def with_article(phrase: str) -> str:
    """'a red car', 'an owl'."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def mend_articles(text: str) -> str:
    """The text with each a or an as the next word wants it."""

    def mended(match: re.Match[str]) -> str:
        article = "an" if match.group(2)[0].lower() in "aeiou" else "a"
        return f"{article.capitalize() if match.group(1)[0].isupper() else article} {match.group(2)}"

    return re.sub(r"\b([Aa]n?) (\w+)", mended, text)


def _phrase(sentence: str, words: list[Word], opened: int) -> Phrase | None:
    """The phrase after the determiner at `opened`; None if no head follows or it goes on for too long."""
    body: list[Word] = []
    for number in range(opened + 1, len(words)):
        if _ends_before(sentence, words, number, length=len(body)):
            break
        body.append(words[number])
    if not 1 <= len(body) <= MAX_PHRASE_WORDS:
        return None
    return Phrase(determiner=words[opened], modifiers=tuple(body[:-1]), head=body[-1])


def _bare(name: str) -> Phrase | None:
    body = words_of(name)
    is_name = 1 <= len(body) <= MAX_PHRASE_WORDS and not set(name) & set(",;!")
    # "man running" is a sentence: its last word names nothing.
    is_name = is_name and not any(_is_doing(word.text) for word in body)
    if not is_name or any(word.text in STOPS for word in body):
        return None
    return Phrase(determiner=None, modifiers=tuple(body[:-1]), head=body[-1])


def _ends_before(sentence: str, words: list[Word], number: int, *, length: int) -> bool:
    word = words[number]
    if word.text in STOPS or word.text in DETERMINERS or sentence[words[number - 1].end : word.start].strip():
        return True
    if word.text in ENDINGS_THAT_ARE_NO_VERB or length == 0:
        return False
    following = words[number + 1].text if number + 1 < len(words) else "of"
    return _is_doing(word.text) or (word.text.endswith("ed") and following in STOPS | DETERMINERS)


def _is_doing(word: str) -> bool:
    return word.endswith("ing") and word not in ENDINGS_THAT_ARE_NO_VERB
