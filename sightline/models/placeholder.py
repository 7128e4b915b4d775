"""Sentences around a pseudo-word, as token ids: composed queries and masked captions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from sightline.data.keywords import PLACEHOLDER, MaskedCaption
from sightline.errors import SettingInvalid
from sightline.models.composer_config import EDIT
from sightline.models.tokenizer import TokenizedTexts, TowerTokenizer


@runtime_checkable
class PlaceholderTokenizer(TowerTokenizer, Protocol):
    """A tower's tokenizer that keeps one id free for the pseudo-word."""

    @property
    def placeholder_id(self) -> int:
        """The id that stands for the pseudo-word and for nothing else."""

    def tokenize_around(self, rows: Sequence[Sequence[str]]) -> TokenizedTexts:
        """Ids of texts given in pieces: between each two pieces stands the placeholder, once.

        A placeholder inside a piece is dropped, however it is written. Cut at
        the end as by `tokenize`.
        """


def placeholder_tokenizer(tokenizer: TowerTokenizer) -> PlaceholderTokenizer:
    """The tokenizer, if it has a placeholder. Raises SettingInvalid for those of transformers and of BART."""
    if not isinstance(tokenizer, PlaceholderTokenizer):
        expected = "CLIP's or the corpus-trained one"
        raise SettingInvalid(f"composer: got a {type(tokenizer).__name__} without placeholder, expected {expected}")
    return tokenizer


def composed_ids(edits: Sequence[str], *, tokenizer: PlaceholderTokenizer, template: str) -> TokenizedTexts:
    """Ids [B, L] of the template's sentence for each edit; an empty edit leaves "a photo of $".

    An edit that is too long loses its end, which `is_truncated` reports.
    """
    return tokenizer.tokenize_around([_sentence(plain_edit(edit), template=template) for edit in edits])


def masked_ids(captions: Sequence[MaskedCaption], *, tokenizer: PlaceholderTokenizer, template: str) -> TokenizedTexts:
    """Ids [B, L] of captions, the placeholder once for each keyword run.

    A caption that has no run, or none within the context, becomes the template's
    sentence of an empty edit, as in LinCIR's code.
    """
    plain = _sentence("", template=template)
    rows = [caption.pieces if caption.spans else plain for caption in captions]
    found = (tokenizer.tokenize_around(rows).ids == tokenizer.placeholder_id).any(axis=1)
    return tokenizer.tokenize_around([row if kept else plain for row, kept in zip(rows, found, strict=True)])


def plain_edit(edit: str) -> str:
    """The edit in lower case, without placeholders, surrounding space and the full stop at its end."""
    return " ".join(edit.replace(PLACEHOLDER, " ").lower().split()).rstrip(". ")


def _sentence(edit: str, *, template: str) -> tuple[str, str]:
    before, _, after = template.partition(PLACEHOLDER)
    return before, after.replace(EDIT, edit) if edit else ""
