"""EncoderModel and GeneratorModel: NumPy in and out, many threads, and what does not fit is cut honestly."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sightline.errors import TensorMalformed
from sightline.models.encoder_model import EncoderModel
from sightline.models.generator_model import GenerationResult, GeneratorModel, ImageEvidence
from sightline.models.release import load_encoder, load_generator

TEXTS = ["red", "the blue bird sleeps at night", "", "BEACH"]


@pytest.fixture(scope="module")
def encoder(small_release: tuple[Path, dict[str, Any]]) -> EncoderModel:
    return load_encoder(small_release[0], dtype="float32")


@pytest.fixture(scope="module")
def generator(small_release: tuple[Path, dict[str, Any]]) -> GeneratorModel:
    return load_generator(small_release[0], dtype="float32")


def evidence(count: int, *, seed: int = 0) -> list[ImageEvidence]:
    rng = np.random.default_rng(seed)
    return [
        ImageEvidence(tokens=rng.standard_normal((49, 16)).astype(np.float16), score=float(rng.random()))
        for _ in range(count)
    ]


def pixels(count: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 256, (count, 3, 28, 28), dtype=np.uint8)


def whole(stream: Any) -> tuple[list[str], GenerationResult]:
    pieces = []
    while True:
        try:
            pieces.append(next(stream))
        except StopIteration as end:
            return pieces, end.value


def test_turns_of_which_nothing_is_read_are_dropped_and_no_others(generator: GeneratorModel) -> None:
    turns = ["the blue bird sleeps at night"] * 6 + ["what colour is it ?"]
    prepared = generator.prepare(turns)
    assert 0 < prepared.dropped_turns < 6
    kept = turns[prepared.dropped_turns :]
    assert torch.equal(generator.prepare(kept).memory.packed, prepared.memory.packed)
    assert not torch.equal(generator.prepare(["", *kept[1:]]).memory.packed, prepared.memory.packed)
    assert generator.prepare(kept).dropped_turns == 0


def test_of_one_turn_that_is_too_long_the_end_is_kept(generator: GeneratorModel) -> None:
    start = ("night " * 60).strip()
    first, second = (generator.prepare([f"{start} what colour {end}"]) for end in ("is it ?", "red"))
    assert first.context_tokens == second.context_tokens == generator.context_length
    assert not torch.equal(first.memory.packed, second.memory.packed)


def test_text_vectors_have_unit_length_in_float32(encoder: EncoderModel) -> None:
    vectors = encoder.encode_texts(TEXTS)
    assert (vectors.dtype, vectors.shape) == (np.float32, (4, encoder.dimension))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)


def test_picture_vectors_and_tokens_have_the_promised_shapes(encoder: EncoderModel) -> None:
    vectors, tokens = encoder.encode_images(pixels(3))
    assert (vectors.dtype, vectors.shape) == (np.float32, (3, encoder.dimension))
    assert (tokens.dtype, tokens.shape) == (np.float16, (3, encoder.num_tokens, encoder.token_width))


def test_a_batch_gives_what_single_items_give(encoder: EncoderModel) -> None:
    together = encoder.encode_texts(TEXTS)
    alone = np.concatenate([encoder.encode_texts([text]) for text in TEXTS])
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_a_preprocessed_picture_is_small_enough_to_queue(encoder: EncoderModel) -> None:
    pixels = encoder.preprocess(Image.new("RGB", (64, 48), "red"))
    assert (pixels.dtype, pixels.shape) == (np.uint8, (3, encoder.image_size, encoder.image_size))


def test_concurrent_encoding_equals_serial(encoder: EncoderModel) -> None:
    batches = [pixels(n) for n in (1, 2, 3, 4)] * 3
    serial = [encoder.encode_images(batch)[0] for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        parallel = list(pool.map(lambda batch: encoder.encode_images(batch)[0], batches))
    for got, expected in zip(parallel, serial, strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-6)


def test_loading_keeps_no_gradients(encoder: EncoderModel) -> None:
    assert not any(parameter.requires_grad for parameter in encoder._model.parameters())


def test_shares_come_in_the_order_given_and_add_up(generator: GeneratorModel) -> None:
    given = evidence(3)
    prepared = generator.prepare(["hi"], given)
    assert sum(prepared.image_weights) == pytest.approx(1.0)
    order = sorted(range(3), key=lambda row: given[row].score)
    assert sorted(range(3), key=lambda row: prepared.image_weights[row]) == order


def test_no_picture_gives_no_shares(generator: GeneratorModel) -> None:
    assert generator.prepare(["hi"]).image_weights == []


def test_oldest_turns_are_dropped_first(generator: GeneratorModel) -> None:
    turns = ["the blue bird sleeps"] * 9 + ["it is green ."]
    prepared = generator.prepare(turns)
    shorter = generator.prepare(turns[prepared.dropped_turns :])
    assert prepared.dropped_turns > 0
    assert shorter.dropped_turns == 0
    assert shorter.context_tokens == prepared.context_tokens == generator.context_length
    assert torch.equal(shorter.memory.packed, prepared.memory.packed)


def test_one_turn_that_is_too_long_loses_its_start(generator: GeneratorModel) -> None:
    prepared = generator.prepare(["zebra " * 40 + "it is green ."])
    assert (prepared.context_tokens, prepared.dropped_turns) == (generator.context_length, 0)


@pytest.mark.parametrize("shape", [(48, 16), (49, 15), (49,), (1, 49, 16)])
def test_tokens_of_another_shape_are_refused(generator: GeneratorModel, shape: tuple[int, ...]) -> None:
    with pytest.raises(TensorMalformed, match="expected"):
        generator.prepare(["hi"], [ImageEvidence(tokens=np.zeros(shape, dtype=np.float16))])


@pytest.mark.parametrize("seed", range(5))
def test_streamed_pieces_join_to_the_whole_text(generator: GeneratorModel, seed: int) -> None:
    prepared = generator.prepare(["what colour is it ?"], evidence(2, seed=seed))
    pieces, result = whole(generator.stream(prepared, max_new_tokens=14, should_stop=lambda: False))
    assert "".join(pieces) == result.text
    assert result == generator.generate(prepared, max_new_tokens=14)
    assert len(pieces) >= result.num_tokens - 1


def test_one_prepared_context_serves_many_replies(generator: GeneratorModel) -> None:
    prepared = generator.prepare(["what is it ?"], evidence(2))
    first = generator.generate(prepared, max_new_tokens=8, num_beams=3)
    assert generator.generate(prepared, max_new_tokens=8, num_beams=3) == first
    assert generator.generate(prepared, max_new_tokens=3).num_tokens <= 3


def test_a_stream_ends_within_one_step_of_the_wish(generator: GeneratorModel) -> None:
    prepared = generator.prepare(["what is it ?"], evidence(1))
    answers = iter([False, False, True])
    pieces, result = whole(generator.stream(prepared, max_new_tokens=14, should_stop=lambda: next(answers)))
    assert result.finish_reason == "cancelled"
    assert len(pieces) <= 3


def test_an_abandoned_stream_leaves_grad_mode_alone(generator: GeneratorModel) -> None:
    stream = generator.stream(generator.prepare(["hi"]), max_new_tokens=8, should_stop=lambda: False)
    next(stream)
    stream.close()
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


def test_concurrent_replies_equal_serial_ones(generator: GeneratorModel) -> None:
    prepared = [generator.prepare(["what is it ?"], evidence(n % 3, seed=n)) for n in range(8)]
    serial = [generator.generate(one, max_new_tokens=6) for one in prepared]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda one: generator.generate(one, max_new_tokens=6), prepared)) == serial
