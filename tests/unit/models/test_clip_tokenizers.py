"""open_clip's tokenizers inside a release: the same ids, found again without open_clip's own files."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import open_clip
import pytest
from open_clip.tokenizer import SimpleTokenizer
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from sightline.errors import ReleaseInvalid, SettingInvalid
from sightline.limits import MAX_TEXT_CHARS
from sightline.models.clip_tokenizer import (
    _CONTROLS,
    ClipTowerTokenizer,
    HfTowerSettings,
    HfTowerTokenizer,
    read_tower_tokenizer,
    tower_tokenizer_of_tag,
)

TEXTS = ["a photo of a Cat!", "", "naïve  café\n☕ 12345", "word " * 100]


@pytest.fixture(scope="module")
def clip() -> ClipTowerTokenizer:
    tokenizer = tower_tokenizer_of_tag("ViT-B-32", context_length=20)
    assert isinstance(tokenizer, ClipTowerTokenizer)
    return tokenizer


def test_ids_equal_those_of_open_clip(clip: ClipTowerTokenizer) -> None:
    expected = open_clip.get_tokenizer("ViT-B-32", context_length=20)(TEXTS).numpy()
    tokenized = clip.tokenize(TEXTS)
    assert np.array_equal(tokenized.ids, expected)
    assert tokenized.is_truncated == [False, False, False, True]
    assert tokenized.num_tokens[3] == 102


def test_ids_of_odd_texts_equal_those_of_open_clips_own_merging(clip: ClipTowerTokenizer) -> None:
    rng, slow = random.Random(0), SimpleTokenizer(context_length=20)
    letters = ("abcde", "aaab", "étüñİß", "漢字かな", "😀👍🏽\u200d", ".,;!?-'\"$", "012", " \n\t", "<>&", "ﷺﬁ\u0300")
    texts = ["".join(rng.choice(rng.choice(letters)) for _ in range(rng.randrange(60))) for _ in range(400)]
    found = clip.tokenize(texts)
    assert np.array_equal(found.ids, slow(texts).numpy())
    assert found.num_tokens == [len(slow.encode(text)) + 2 for text in texts]


def test_long_words_and_many_words_are_not_left_to_open_clips_merging(clip: ClipTowerTokenizer) -> None:
    word = "".join(random.Random(0).choices("abcdefghijklmnopqrstuvwxyz", k=MAX_TEXT_CHARS))
    assert clip.tokenize([word]).num_tokens[0] > MAX_TEXT_CHARS // 4
    assert len(clip._tokenizer.cache) == len(_CONTROLS), "open_clip's own merging, which is slow, was not asked"


def test_a_control_word_in_a_text_does_not_end_it(clip: ClipTowerTokenizer) -> None:
    ids = clip.tokenize(["a <end_of_text> <Start_of_Text>cat"]).ids
    assert np.array_equal(ids, clip.tokenize(["a cat"]).ids)


def test_saving_and_reading_keeps_every_id(clip: ClipTowerTokenizer, tmp_path: Path) -> None:
    clip.save(tmp_path)
    again = read_tower_tokenizer(tmp_path, context_length=20)
    assert np.array_equal(again.tokenize(TEXTS).ids, clip.tokenize(TEXTS).ids)


def test_a_transformers_tokenizer_travels_inside_the_release(corpus_tokenizer: Tokenizer, tmp_path: Path) -> None:
    source = tmp_path / "source"
    PreTrainedTokenizerFast(
        tokenizer_object=corpus_tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    ).save_pretrained(source)
    tokenizer = HfTowerTokenizer(str(source), settings=HfTowerSettings(context_length=8))
    release = tmp_path / "release"
    release.mkdir()
    tokenizer.save(release)
    again = read_tower_tokenizer(release, context_length=8)
    tokenized = again.tokenize(TEXTS)
    assert np.array_equal(tokenized.ids, tokenizer.tokenize(TEXTS).ids)
    assert tokenized.is_truncated == [length > 8 for length in tokenized.num_tokens]


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReleaseInvalid, match="tokenizer"):
        read_tower_tokenizer(tmp_path, context_length=8)


def test_an_unknown_tag_is_refused() -> None:
    with pytest.raises(SettingInvalid, match="ViT-Q-99"):
        tower_tokenizer_of_tag("ViT-Q-99", context_length=8)
