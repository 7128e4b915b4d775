"""Names: which tokens they are, and that exchanging them leaves all else alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sightline.data.captions import CaptionRecord
from sightline.data.dialogues import DialogueRecord
from sightline.models.tokenizer import DialogueTokenizer, train_tokenizer
from trainer.stages.names import Names, name_tokens


@pytest.fixture
def names() -> Names:
    """The tokens 5 to 9."""
    return Names(np.array([False] * 5 + [True] * 5))


def test_a_name_becomes_the_same_other_name_in_every_text_alike(names: Names) -> None:
    ids, labels = np.array([1, 6, 2, 7, 6]), np.array([6, 3, -100, 8])
    names.exchange(ids, labels, share=1.0, rng=np.random.default_rng(1))
    assert ids[1] == ids[4] == labels[0]
    assert ids[[0, 2]].tolist() == [1, 2]
    assert labels[1:].tolist() == [3, -100, 8]  # 8 is a name too, but the first text has none: an answer stays


def test_a_name_drawn_in_place_of_another_is_not_exchanged_again(names: Names) -> None:
    for seed in range(50):
        ids = np.array([5, 6, 7, 8, 9])
        rng, again = (np.random.default_rng(seed) for _ in range(2))
        names.exchange(ids, share=1.0, rng=rng)
        again.random(5)
        assert ids.tolist() == again.choice(np.arange(5, 10), size=5).tolist()


def test_a_share_of_nothing_changes_nothing(names: Names) -> None:
    ids = np.array([5, 1, 9])
    names.exchange(ids, share=0.0, rng=np.random.default_rng(0))
    assert ids.tolist() == [5, 1, 9]


def test_names_are_the_rare_words_that_captions_share() -> None:
    words = [f"{first}{second}" for first in "bdgk" for second in ("alu", "emo", "iro", "oka", "upi", "ylo")]
    texts = [f"what is {word}" for word in words]
    tokenizer = DialogueTokenizer.of_corpus(train_tokenizer([*texts * 3, "shown red"] * 2, vocab_size=600))
    dialogues = [DialogueRecord(id=text, context=(text,), response="it is red") for text in texts]
    captions = [CaptionRecord(image_id=word, path=Path(word), caption=f"shown {word}") for word in words[:-1]]
    (names,) = np.nonzero(name_tokens(tokenizer, dialogues=dialogues, captions=captions))
    assert {tokenizer.decode([token]).strip() for token in names.tolist()} == set(words[:-1])
