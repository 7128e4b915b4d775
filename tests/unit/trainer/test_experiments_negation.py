"""A composer whose queries lose what their sentences refuse, against the arithmetic written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sightline.models.encoder_model import EncoderModel
from sightline.models.release import load_encoder
from sightline.testing.tiny_releases import DIMENSION, SEES_VECTORS, save_tiny_encoder
from trainer.benchmarks.protocol import References
from trainer.experiments.negation import NegatingSystem, Negation

TEXTS = ("the ball not red any more but blue", "a blue ball", "without the tree")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> EncoderModel:
    folder = tmp_path_factory.mktemp("composing")
    torch.manual_seed(3)
    save_tiny_encoder(folder, composer=SEES_VECTORS)
    return load_encoder(folder)


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def asked(model: EncoderModel, negation: Negation) -> tuple[np.ndarray, np.ndarray]:
    """(references, what the system makes of `TEXTS`), each [Q, D]."""
    seen = unit(np.random.default_rng(0).normal(size=(len(TEXTS), DIMENSION)).astype(np.float32))
    references = References(pictures=[], vectors_QD=seen)
    return seen, NegatingSystem(model, negation=negation).encode_composed(references, TEXTS)


@pytest.mark.parametrize("share", [0.3, 0.8])
def test_a_share_of_what_is_refused_is_taken_away(model: EncoderModel, share: float) -> None:
    seen, made = asked(model, Negation(share=share))
    composed = model.encode_composed(seen, TEXTS)
    refused = model.encode_texts(["red ball", "the tree"])
    expected = [composed[0] - share * refused[0], composed[1], composed[2] - share * refused[1]]
    np.testing.assert_allclose(made, unit(np.stack(expected)), atol=1e-5)


def test_no_share_leaves_the_sentence_to_the_composer(model: EncoderModel) -> None:
    seen, made = asked(model, Negation())
    np.testing.assert_array_equal(made, model.encode_composed(seen, TEXTS))


def test_refused_words_can_be_kept_from_the_composer(model: EncoderModel) -> None:
    seen, made = asked(model, Negation(share=0.3, reads_whole=False))
    composed = model.encode_composed(seen, ["the ball and blue", "a blue ball", ""])
    refused = model.encode_texts(["red ball", "the tree"])
    expected = [composed[0] - 0.3 * refused[0], composed[1], composed[2] - 0.3 * refused[1]]
    np.testing.assert_allclose(made, unit(np.stack(expected)), atol=1e-5)
