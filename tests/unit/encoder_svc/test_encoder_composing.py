"""Composed queries in the engine: what each is made of, batches across callers, places, both kinds of composer."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from encoder_svc.composing import ComposedAsk, ComposedVector, needs_of
from encoder_svc.engine import EncoderEngine, build_engine
from encoder_svc.pictures import RefusedPicture
from encoder_svc.settings import EncoderSettings
from sightline.composition import Edit, slerp, without
from sightline.errors import CapabilityMissing, DimensionMismatch, PictureUnreadable, QueueFull
from sightline.models.composer_config import ComposerConfig
from sightline.models.encoder_model import EncoderModel
from sightline.models.release import load_encoder
from sightline.registry import HotReloader, Manifest, Registry, ReloadSettings
from sightline.testing.tiny_releases import (
    CONTEXT_LENGTH,
    DIMENSION,
    SEES_PIXELS,
    SEES_VECTORS,
    publish_folder,
    save_tiny_encoder,
)

COMPOSERS = {"vectors": SEES_VECTORS, "pixels": SEES_PIXELS, "none": None}
BLUE = Edit(texts=("is blue",))


def png(seed: int = 0) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def publish(folder: Path, *, composer: ComposerConfig | None) -> Path:
    torch.manual_seed(0)
    architecture = save_tiny_encoder(folder / "made", composer=composer)
    publish_folder(folder / "made", registry_uri=str(folder / "registry"), architecture=architecture)
    return folder


@pytest.fixture(scope="module")
def shelves(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: publish(tmp_path_factory.mktemp(name), composer=composer) for name, composer in COMPOSERS.items()}


def settings_of(shelf: Path, **changes: Any) -> EncoderSettings:
    values = {"registry": str(shelf / "registry"), "cache_dir": shelf / "cache"}
    return EncoderSettings(**(values | changes))


@dataclass
class CountingModel:
    """A model that keeps the sizes of its composed passes, each of which waits for pictures that are still decoded."""

    model: EncoderModel
    batches: list[int] = field(default_factory=list)
    num_decoded: int = 0
    num_awaited: int = 0
    """How many pictures must be decoded before the next pass begins."""
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def preprocess(self, image: Image.Image) -> np.ndarray:
        pixels = self.model.preprocess(image)
        with self._changed:
            self.num_decoded += 1
            self._changed.notify_all()
        return pixels

    def encode_composed_ids(self, reference: np.ndarray, ids: np.ndarray) -> np.ndarray:
        with self._changed:
            assert self._changed.wait_for(lambda: self.num_decoded >= self.num_awaited, timeout=60)
        self.batches.append(len(ids))
        return self.model.encode_composed_ids(reference, ids)


@pytest.fixture(params=["vectors", "pixels"])
async def engine(request: pytest.FixtureRequest, shelves: dict[str, Path]) -> AsyncIterator[EncoderEngine]:
    engine = build_engine(settings_of(shelves[request.param]))
    await engine.start()
    yield engine
    await engine.stop()


@pytest.fixture
async def plain(shelves: dict[str, Path]) -> AsyncIterator[EncoderEngine]:
    engine = build_engine(settings_of(shelves["none"]))
    await engine.start()
    yield engine
    await engine.stop()


async def vector(engine: EncoderEngine, edit: Edit, *, reference: bytes | np.ndarray | None) -> np.ndarray:
    (item,) = (await engine.encode_composed([ComposedAsk(reference=reference, edit=edit)])).items
    assert isinstance(item, ComposedVector), item
    return item.vector


def in_process(engine: EncoderEngine, *, data: bytes, sentence: str) -> np.ndarray:
    """What the model says by itself."""
    model = engine.newest().value
    pixels = model.preprocess(Image.open(io.BytesIO(data)))[None]
    reference = model.encode_images(pixels)[0] if model.composes_vectors else pixels
    return model.encode_composed(reference, [sentence])[0]


async def test_a_query_is_what_the_model_makes_of_it(engine: EncoderEngine) -> None:
    data = png(1)
    for edit, sentence in (
        (BLUE, "is blue"),
        (Edit(), ""),
        (Edit(texts=("is blue.", "at night")), "is blue and at night"),
    ):
        found = await vector(engine, edit, reference=data)
        assert found @ in_process(engine, data=data, sentence=sentence) > 0.9999


async def test_weight_and_negatives_are_made_of_plain_vectors(engine: EncoderEngine) -> None:
    data, model = png(1), engine.newest().value
    composed = in_process(engine, data=data, sentence="is blue")
    blue, car, dog = model.encode_texts(["is blue", "a car", "a dog"])
    seen = (await engine.encode_pictures([data])).items[0].vector  # type: ignore[union-attr]
    for weight, expected in (
        (0.0, seen),
        (0.2, slerp(seen, composed, share=0.4)),
        (0.5, composed),
        (0.9, slerp(composed, blue, share=0.8)),
        (1.0, blue),
    ):
        edit = Edit(texts=("is blue",), text_weight=weight)
        np.testing.assert_allclose(await vector(engine, edit, reference=data), expected, atol=1e-3)
    edit = Edit(texts=("is blue",), negative_texts=("a car", "a dog"))
    expected = without(composed, negatives_ND=[car, dog])
    np.testing.assert_allclose(await vector(engine, edit, reference=data), expected, atol=1e-4)


async def test_without_reference_the_sentence_answers_and_no_composer_is_needed(plain: EncoderEngine) -> None:
    model = plain.newest().value
    found = await vector(plain, Edit(texts=("is blue", "at night"), text_weight=0.1), reference=None)
    np.testing.assert_allclose(found, model.encode_texts(["is blue and at night"])[0], atol=1e-5)
    with pytest.raises(CapabilityMissing) as caught:
        await vector(plain, BLUE, reference=png())
    assert caught.value.metadata == {"detail": "composer"}


async def test_a_vector_is_a_reference_unless_the_composer_has_to_see(engine: EncoderEngine) -> None:
    data = png(1)
    seen = (await engine.encode_pictures([data])).items[0].vector  # type: ignore[union-attr]
    if engine.newest().value.composes_vectors:
        by_vector = await vector(engine, BLUE, reference=seen)
        np.testing.assert_allclose(by_vector, await vector(engine, BLUE, reference=data), atol=1e-5)
    else:
        with pytest.raises(CapabilityMissing) as caught:
            await vector(engine, BLUE, reference=seen)
        assert caught.value.metadata == {"detail": "pixels"}


async def test_a_bad_reference_fails_alone_and_a_long_edit_says_so(engine: EncoderEngine) -> None:
    asks = [
        ComposedAsk(reference=png(1), edit=BLUE),
        ComposedAsk(reference=b"nothing", edit=Edit(texts=("is blue",), text_weight=0.1)),
        ComposedAsk(reference=None, edit=BLUE),
        ComposedAsk(reference=b"nothing", edit=BLUE),
        ComposedAsk(reference=png(2), edit=Edit(texts=("blue " * 40,))),
    ]
    items = (await engine.encode_composed(asks)).items
    assert [isinstance(item, RefusedPicture) for item in items] == [False, True, False, True, False]
    assert all(isinstance(items[n].error, PictureUnreadable) for n in (1, 3))  # type: ignore[union-attr]
    first, sentence, long = (items[n] for n in (0, 2, 4))
    assert isinstance(first, ComposedVector)
    assert isinstance(sentence, ComposedVector)
    assert isinstance(long, ComposedVector)
    assert (first.is_truncated, long.is_truncated, sentence.digest) == (False, True, b"")
    assert first.num_tokens < CONTEXT_LENGTH < long.num_tokens
    assert items[1].digest == items[3].digest != b""


async def test_a_vector_of_another_width_fails_alone(shelves: dict[str, Path]) -> None:
    engine = build_engine(settings_of(shelves["vectors"]))
    await engine.start()
    wide = np.eye(1, DIMENSION + 1, dtype=np.float32)[0]
    asks = [ComposedAsk(reference=wide, edit=BLUE), ComposedAsk(reference=png(), edit=BLUE)]
    refused, answered = (await engine.encode_composed(asks)).items
    assert isinstance(refused, RefusedPicture)
    assert isinstance(refused.error, DimensionMismatch)
    assert isinstance(answered, ComposedVector)
    await engine.stop()


@pytest.mark.parametrize("kind", ["vectors", "pixels"])
async def test_eight_callers_share_passes_and_get_what_each_gets_alone(shelves: dict[str, Path], kind: str) -> None:
    counting: list[CountingModel] = []

    def load(folder: Path, manifest: Manifest) -> Any:
        counting.append(CountingModel(load_encoder(folder)))
        return counting[-1]

    shelf = shelves[kind]
    settings = settings_of(shelf, max_composed_batch=8, max_wait_ms=1000.0)
    reloader: Any = HotReloader(
        registry=Registry(settings.registry),
        channel="stable",
        cache_dir=shelf / "cache",
        load=load,
        warm_up=lambda _: None,
        probe=lambda _: None,
        release=lambda _: None,
        settings=ReloadSettings(),
    )
    engine = EncoderEngine(reloader, settings=settings)
    await engine.start()
    edits = [Edit(texts=(f"has {n} birds",)) for n in range(8)]
    alone = [await vector(engine, edit, reference=png(n)) for n, edit in enumerate(edits)]
    assert counting[0].batches == [1] * 8
    counting[0].num_awaited = counting[0].num_decoded + (8 if kind == "pixels" else 0)
    together = await asyncio.gather(*(vector(engine, edit, reference=png(n)) for n, edit in enumerate(edits)))
    await engine.stop()
    assert sum(counting[0].batches[8:]) == 8
    assert len(counting[0].batches[8:]) <= 3
    assert min(a @ b for a, b in zip(alone, together, strict=True)) > 0.9999


async def test_what_does_not_fit_is_refused_before_any_work(shelves: dict[str, Path]) -> None:
    engine = build_engine(settings_of(shelves["vectors"], max_queued_composed=64))
    await engine.start()
    calls = [engine.encode_composed([ComposedAsk(reference=png(n), edit=BLUE)] * 64) for n in range(3)]
    first, *others = await asyncio.gather(*calls, return_exceptions=True)
    assert not isinstance(first, BaseException)
    assert all(isinstance(one, QueueFull) for one in others)
    assert isinstance(
        (await engine.encode_composed([ComposedAsk(reference=png(), edit=BLUE)])).items[0], ComposedVector
    )
    await engine.stop()


async def test_a_stop_answers_a_query_that_waits_between_two_passes(shelves: dict[str, Path]) -> None:
    engine = build_engine(settings_of(shelves["vectors"]))
    await engine.start()
    ask = ComposedAsk(reference=png(7), edit=Edit(texts=("is blue",), negative_texts=("a car",), text_weight=0.9))
    call = asyncio.create_task(engine.encode_composed([ask]))
    await asyncio.sleep(0)
    await engine.stop()
    assert isinstance((await call).items[0], ComposedVector)


def test_each_thing_is_needed_once() -> None:
    data, far = png(1), Edit(texts=("is blue",), negative_texts=("a car",), text_weight=0.9)
    asks = [ComposedAsk(reference=data, edit=far), ComposedAsk(reference=data, edit=far)]
    asks += [ComposedAsk(reference=None, edit=BLUE), ComposedAsk(reference=png(2), edit=Edit(text_weight=0.1))]
    needs = needs_of(asks, composes_vectors=True)
    assert (needs.pictures, needs.texts, needs.num_composed) == ([data, png(2)], ["is blue", "a car"], 3)
    assert needs_of(asks, composes_vectors=False).pictures == [png(2)]
