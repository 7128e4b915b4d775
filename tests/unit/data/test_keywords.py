"""Keyword masking: whole spans by their place in the text, never by searching for the word."""

from __future__ import annotations

import importlib.util

import pytest

from sightline.data.keywords import FunctionWordMasker, MaskedCaption, keyword_masker
from sightline.errors import SettingInvalid


@pytest.mark.parametrize(
    ("caption", "masked"),
    [
        ("A red ball on the beach", "a $ on the $"),
        ("two black-and-white cats, sleeping", "two $ , $"),
        ("an art lover with a cart full of art", "an $ with a $ of $"),  # never the "art" inside "cart"
        ("the cat’s tail costs $5 at 10", "the $ 5 at 10"),
        ("a  red\n ball", "a $"),
        ("what is it", "$ is it"),
        ("...!", "...!"),
    ],
)
def test_runs_of_keywords_become_one_placeholder_each(caption: str, masked: str) -> None:
    assert FunctionWordMasker().mask(caption).masked == masked


def test_spans_count_characters_of_the_normalised_caption() -> None:
    found = FunctionWordMasker().mask("A RED Ball by a tree")
    assert found == MaskedCaption(text="a red ball by a tree", spans=((2, 10), (16, 20)))
    assert found.pieces == ("a", "by a", "")


def test_an_unknown_masker_is_refused() -> None:
    with pytest.raises(SettingInvalid, match="'nltk', expected rules or spacy"):
        keyword_masker("nltk")


@pytest.mark.skipif(importlib.util.find_spec("spacy") is not None, reason="spaCy is installed here")
def test_the_spacy_masker_says_what_to_install() -> None:
    with pytest.raises(SettingInvalid, match="spacy download en_core_web_sm"):
        keyword_masker("spacy")


def test_the_spacy_masker_masks_nouns_and_adjectives() -> None:
    pytest.importorskip("spacy")
    assert keyword_masker("spacy").mask("a red ball rolls on the beach").masked == "a $ rolls on the $"
