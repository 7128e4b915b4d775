"""A picture and an edit as one sentence to search by, where nothing was trained for that: caption, rewrite, search.

The idea is CIReVL's (Karthik et al., arXiv 2310.09291): whoever has a captioner and a language model at hand finds by
a picture and a sentence with the plain text tower. Prompt, checks and fallback are ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from PIL import Image

from sightline.composition import Edit
from sightline.data.pictures import decode_picture
from sightline.errors import TextTooLong, UsageError
from sightline.language.asking import Problem
from sightline.limits import MAX_TEXT_CHARS

NO_CAPTION = "no_caption"


class ReferencePicture(Protocol):
    """A picture that is asked with."""

    @property
    def image_id(self) -> str:
        """How records name it."""
        ...

    def read(self, *, min_side: int) -> Image.Image:
        """The decoded picture; one of a JPEG may be reduced down to `min_side` pixels."""
        ...


@dataclass(frozen=True, kw_only=True)
class EncodedPicture:
    """A `ReferencePicture` of encoded bytes."""

    data: bytes
    image_id: str = "picture"

    def read(self, *, min_side: int) -> Image.Image:
        """The decoded picture. Raises as `decode_picture` does."""
        return decode_picture(self.data, min_side=min_side)


class Captioner(Protocol):
    """Says what can be seen in pictures."""

    name: str
    """How results name it."""

    def captions(self, pictures: Sequence[ReferencePicture]) -> list[str]:
        """A caption of each picture, in order; empty where it has none."""
        ...


@dataclass(frozen=True, kw_only=True)
class RewriteAsk:
    """What the reference shows, and what is different in the wanted picture."""

    caption: str
    edit: Edit

    @property
    def removals(self) -> tuple[str, ...]:
        """A sentence for each negative text: "without ..."."""
        return tuple(f"without {text}" for text in self.edit.negatives)

    @property
    def wish(self) -> str:
        """All that the edit says, with commas between its sentences; empty if it says nothing."""
        return ", ".join([*filter(None, [self.edit.sentence]), *self.removals])


@dataclass(frozen=True, kw_only=True)
class Rewrite:
    """The sentence to search by."""

    text: str
    problem: Problem | None = None
    """Why it is not what the rewriter would have said, but its fallback; None if nothing went wrong."""


class Rewriter(Protocol):
    """Turns captions and edits into captions of the wanted pictures."""

    name: str
    """How results name it: its model too, if it has one."""

    def rewrite(self, asks: Sequence[RewriteAsk]) -> list[Rewrite]:
        """One sentence an ask, in order."""
        ...


class CaptionSearch:
    """Pictures with edits in, sentences for the plain text tower out."""

    def __init__(self, captioner: Captioner, rewriter: Rewriter) -> None:
        self.name = f"{rewriter.name}:{captioner.name}"
        self._captioner, self._rewriter = captioner, rewriter

    def sentences(self, pictures: Sequence[ReferencePicture], edits: Sequence[Edit]) -> list[Rewrite]:
        """The sentence to search by of each picture with its edit.

        A picture without a caption leaves the edit alone, and says so. Raises
        TextTooLong for captions and sentences over `MAX_TEXT_CHARS`, UsageError for
        an edit that says nothing about a picture of which nothing is known, and
        what captioner and rewriter raise.
        """
        captions = [caption.strip() for caption in self._captioner.captions(pictures)]
        asks = [RewriteAsk(caption=one, edit=edit) for one, edit in zip(captions, edits, strict=True)]
        for ask, picture in zip(asks, pictures, strict=True):
            _check(ask, image_id=picture.image_id)
        told = iter(self._rewriter.rewrite([ask for ask in asks if ask.caption]))
        return [next(told) if ask.caption else _uncaptioned(ask) for ask in asks]


class RecordCaptioner:
    """The captions that records carry; the first of each picture."""

    def __init__(self, captions: Mapping[str, str], *, name: str) -> None:
        self.name, self._captions = name, captions

    def captions(self, pictures: Sequence[ReferencePicture]) -> list[str]:
        """Those of the pictures' ids. Raises UsageError naming the first that has none."""
        for picture in pictures:
            if picture.image_id not in self._captions:
                raise UsageError(f"{self.name}: has no caption of the picture {picture.image_id!r}")
        return [self._captions[picture.image_id] for picture in pictures]


class JoiningRewriter:
    """No model: "{caption}, {what is asked for}, without {what is not wanted}". It understands nothing."""

    name = "joined"

    def rewrite(self, asks: Sequence[RewriteAsk]) -> list[Rewrite]:
        """Caption and edit with commas between them."""
        return [Rewrite(text=joined(ask)) for ask in asks]


def joined(ask: RewriteAsk) -> str:
    """Caption and wish of an ask, those that there are, with a comma between them."""
    return ", ".join(part for part in (ask.caption.strip().rstrip(". "), ask.wish) if part)


def _uncaptioned(ask: RewriteAsk) -> Rewrite:
    problem = Problem(reason=NO_CAPTION, detail="the captioner said nothing; the edit stands alone")
    return replace(JoiningRewriter().rewrite([ask])[0], problem=problem)


def _check(ask: RewriteAsk, *, image_id: str) -> None:
    if not joined(ask):
        raise UsageError(f"picture {image_id!r}: has neither caption nor edit")
    for text in (ask.caption, *ask.edit.texts, *ask.edit.negative_texts):
        if len(text) > MAX_TEXT_CHARS:
            message = f"picture {image_id!r}: got a text of {len(text)} characters, limit {MAX_TEXT_CHARS}"
            raise TextTooLong(message, value=len(text), limit=MAX_TEXT_CHARS)
