"""Sentences around a pseudo-word: one id for it, which nothing that a user writes can forge."""

from __future__ import annotations

import numpy as np
import pytest

from sightline.data.keywords import FunctionWordMasker
from sightline.errors import SettingInvalid
from sightline.models.clip_tokenizer import ClipTowerTokenizer
from sightline.models.composer_config import ComposerConfig
from sightline.models.faithful.tokenizer import BartTowerTokenizer
from sightline.models.placeholder import composed_ids, masked_ids, placeholder_tokenizer
from sightline.models.tokenizer import TokenizedTexts
from tests.unit.models.composing import Room
from tests.unit.models.conftest import FaithfulParts

TEMPLATE = ComposerConfig().template


def composed(room: Room, *edits: str) -> TokenizedTexts:
    return composed_ids(edits, tokenizer=room.tokenizer, template=TEMPLATE)


def num_placeholders(room: Room, ids: np.ndarray) -> list[int]:
    return (ids == room.tokenizer.placeholder_id).sum(axis=1).tolist()


def test_clips_placeholder_is_the_dollar_of_its_vocabulary(rooms: dict[str, Room]) -> None:
    assert rooms["clip"].tokenizer.placeholder_id == 259


def test_a_composed_sentence_is_what_clips_tokenizer_makes_of_the_written_one(rooms: dict[str, Room]) -> None:
    tokenizer = rooms["clip"].tokenizer
    written = tokenizer.tokenize(["a photo of $ that is blue", "a photo of $"]).ids
    assert np.array_equal(composed(rooms["clip"], "is blue", "").ids, written)


@pytest.mark.parametrize("edit", ["is $ blue$", "is &#36; ＄ blue", "$"])
def test_no_edit_can_bring_a_placeholder_of_its_own(room: Room, edit: str) -> None:
    assert num_placeholders(room, composed(room, edit).ids) == [1]


def test_an_edit_is_normalised(room: Room) -> None:
    ids = composed(room, "  Is\tBLUE $. ", "is blue").ids
    assert np.array_equal(ids[0], ids[1])


def test_a_long_edit_is_cut_and_reported_and_still_ends(room: Room) -> None:
    found = composed(room, "is red and " * 30, "is red")
    assert found.is_truncated == [True, False]
    end = int(found.ids[1].max())
    assert found.ids[0, -1] == end
    assert num_placeholders(room, found.ids) == [1, 1]


def test_every_run_of_keywords_is_one_placeholder(room: Room) -> None:
    captions = [FunctionWordMasker().mask(text) for text in ("a red ball on the sunny beach", "cats", "!")]
    ids = masked_ids(captions, tokenizer=room.tokenizer, template=TEMPLATE).ids
    assert num_placeholders(room, ids) == [2, 1, 1]
    assert np.array_equal(ids[2], composed(room, "").ids[0])


def test_a_caption_whose_keywords_are_all_cut_off_becomes_the_plain_sentence(room: Room) -> None:
    caption = FunctionWordMasker().mask("and then " * 20 + "a ball")
    ids = masked_ids([caption], tokenizer=room.tokenizer, template=TEMPLATE).ids
    assert np.array_equal(ids, composed(room, "").ids)


def test_a_tokenizer_without_placeholder_is_refused(faithful: FaithfulParts) -> None:
    assert isinstance(faithful.tower_tokenizer, BartTowerTokenizer)
    with pytest.raises(SettingInvalid, match="BartTowerTokenizer without placeholder"):
        placeholder_tokenizer(faithful.tower_tokenizer)


def test_another_byte_pair_encoding_than_clips_is_refused(
    rooms: dict[str, Room], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = ClipTowerTokenizer(context_length=20)
    monkeypatch.setitem(tokenizer._tokenizer.byte_encoder, ord("$"), "a")
    with pytest.raises(SettingInvalid, match="expected \\[259\\]"):
        _ = tokenizer.placeholder_id
