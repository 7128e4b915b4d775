"""The corpus-trained tokenizer, as the tower and as the decoder read it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from sightline.errors import ReleaseInvalid
from sightline.models.tokenizer import (
    CorpusTowerTokenizer,
    DialogueTokenizer,
    read_tokenizer,
    train_tokenizer,
)

ODD_TEXTS = ["", "  ", "Naïve ÜBER-café", "雪だるま ⛄", "a\n\tb", "x" * 50, "<pad> </s> <s>"]


def test_training_twice_gives_the_same_tokenizer() -> None:
    texts = [f"thing {n % 7} is near place {n % 5}" for n in range(100)]
    assert train_tokenizer(texts, vocab_size=320).to_str() == train_tokenizer(texts, vocab_size=320).to_str()


def test_the_vocabulary_stays_within_its_limit(corpus_tokenizer: Tokenizer) -> None:
    assert corpus_tokenizer.get_vocab_size() <= 300


def test_end_of_text_has_the_highest_id_of_every_row(corpus_tokenizer: Tokenizer) -> None:
    tokenizer = CorpusTowerTokenizer(corpus_tokenizer, context_length=16)
    tokenized = tokenizer.tokenize(ODD_TEXTS)
    ends = tokenized.ids.argmax(axis=1)
    assert (tokenized.ids.max(axis=1) == corpus_tokenizer.get_vocab_size() - 1).all()
    assert ends.tolist() == [min(length, 16) - 1 for length in tokenized.num_tokens]


def test_case_and_outer_spaces_do_not_matter(corpus_tokenizer: Tokenizer) -> None:
    tokenizer = DialogueTokenizer.of_corpus(corpus_tokenizer)
    assert tokenizer.encode("A RED Ball") == tokenizer.encode("a red ball")


@pytest.mark.parametrize("text", ["naïve über-café", "雪だるま ⛄", "it's 3.5 % <b>", "</s> <pad> <s>"])
def test_any_text_decodes_to_itself(corpus_tokenizer: Tokenizer, text: str) -> None:
    tokenizer = DialogueTokenizer.of_corpus(corpus_tokenizer)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_the_tower_cuts_the_end_and_says_so(corpus_tokenizer: Tokenizer) -> None:
    tokenizer = CorpusTowerTokenizer(corpus_tokenizer, context_length=4)
    tokenized = tokenizer.tokenize(["red ball beach night", "red"])
    eos_id = corpus_tokenizer.get_vocab_size() - 1
    assert tokenized.is_truncated == [True, False]
    assert tokenized.ids[0, -1] == eos_id
    assert tokenized.num_tokens[1] == int((tokenized.ids[1] != 0).sum())


def test_a_dialogue_loses_its_start_and_keeps_the_newest(corpus_tokenizer: Tokenizer) -> None:
    tokenizer = DialogueTokenizer.of_corpus(corpus_tokenizer)
    ids, mask = tokenizer.context_ids(["the blue bird sleeps at night"], max_length=5)
    assert tokenizer.decode(ids[0].tolist()) in "the blue bird sleeps at night"
    assert tokenizer.decode(ids[0].tolist()).endswith("night")
    assert ids.shape == mask.shape == (1, 5)


def test_labels_are_padded_with_what_the_loss_ignores(corpus_tokenizer: Tokenizer) -> None:
    tokenizer = DialogueTokenizer.of_corpus(corpus_tokenizer)
    labels = tokenizer.label_ids(["red", "it is green ."], max_length=20)
    ends = (labels == tokenizer.eos_id).argmax(axis=1)
    assert (labels[0, ends[0] + 1 :] == -100).all()
    assert (labels[:, 0] == tokenizer.bos_id).all()


def test_saving_and_reading_keeps_every_id(corpus_tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer = CorpusTowerTokenizer(corpus_tokenizer, context_length=9)
    tokenizer.save(tmp_path)
    again = CorpusTowerTokenizer(read_tokenizer(tmp_path / "tower.json"), context_length=9)
    assert np.array_equal(again.tokenize(ODD_TEXTS).ids, tokenizer.tokenize(ODD_TEXTS).ids)


@pytest.mark.parametrize("content", [b"", b"\x80\x04.", b"[]", b"{}", b'{"model": {"type": "WordPiece"}}'])
def test_a_file_that_is_no_tokenizer_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tower.json"
    path.write_bytes(content)
    with pytest.raises(ReleaseInvalid, match=r"tower\.json"):
        read_tokenizer(path)
