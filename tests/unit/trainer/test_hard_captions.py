"""Captions that are wrong by one word: what may be exchanged for what."""

from __future__ import annotations

import numpy as np

from trainer.stages.hard_captions import WordSwaps


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_a_word_is_exchanged_for_one_that_stood_between_the_same_neighbours() -> None:
    swaps = WordSwaps(["a red boat at night", "a blue boat at dusk", "the green hill"])
    made = {swaps.swapped("a red boat at night", rng=np.random.default_rng(seed)) for seed in range(20)}
    assert made == {"a blue boat at night", "a red boat at dusk"}


def test_numbers_are_exchanged_and_function_words_are_not() -> None:
    swaps = WordSwaps(["see two owls", "see three owls", "an owl in snow", "an owl on snow"])
    assert swaps.swapped("see two owls", rng=rng()) == "see three owls"
    assert swaps.swapped("an owl in snow", rng=rng()) is None


def test_the_rest_of_a_caption_stays_as_it_was_written() -> None:
    swaps = WordSwaps(["Look, a red boat!", "Look, a blue boat!"])
    assert swaps.swapped("Look, a Red boat!", rng=rng()) == "Look, a blue boat!"


def test_a_caption_like_no_other_has_no_wrong_one() -> None:
    assert WordSwaps(["a red boat"]).swapped("a red boat", rng=rng()) is None
