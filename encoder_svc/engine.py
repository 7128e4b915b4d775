"""The work of the encoder: texts and encoded pictures in, unit vectors out, on whichever release serves. No wire.

A call leases one release and keeps it to its end, so a reply never mixes two; batches are formed of calls that hold
the same one. Every public method belongs to the event loop; decoding and the model run in threads.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from encoder_svc.batching import Batcher, Finished, ForwardLane, Stages
from encoder_svc.cache import CacheKey, ResultCache
from encoder_svc.composing import ComposedAsk, ComposedVector, ToCompose, answer, needs_of, seen_reference, to_compose
from encoder_svc.pictures import Decoded, PictureVector, RefusedPicture, decode
from encoder_svc.settings import EncoderSettings
from sightline.errors import CapabilityMissing
from sightline.models.encoder_model import EncoderModel
from sightline.models.release import load_encoder
from sightline.registry import HotReloader, Loaded, Manifest, Registry, ReloadSettings, ReloadState

# Axes: D embedding width, P picture tokens, W token width.

ResultT = TypeVar("ResultT")
Release = Loaded[EncoderModel]
Float32 = npt.NDArray[np.float32]

_ENTRY_BYTES = 512
"""Memory of a cached result beside its arrays."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TextVector:
    """One encoded text."""

    vector: Float32
    """[D], of unit length."""
    num_tokens: int
    """Length before cutting, the end included."""
    is_truncated: bool
    """Whether the text was longer than the context."""


@dataclass(frozen=True, kw_only=True)
class Encoding(Generic[ResultT]):
    """The outcome of one call."""

    release: Release
    """What answered all of it."""
    items: list[ResultT]
    """One result per item, in order."""
    stages: Stages
    """Where the time of the item went that was answered last."""


class EncoderEngine:
    """Encodes for many callers at once, in batches that they share."""

    def __init__(self, reloader: HotReloader[EncoderModel], *, settings: EncoderSettings) -> None:
        cores = torch.get_num_threads()
        self._reloader = reloader
        self._text_cache: ResultCache[TextVector] = ResultCache(max_bytes=settings.text_cache_bytes)
        self._picture_cache: ResultCache[PictureVector] = ResultCache(max_bytes=settings.image_cache_bytes)
        self._decoders = ThreadPoolExecutor(settings.decode_threads or cores, thread_name_prefix="decode")
        threads = settings.threads_per_forward or cores
        self._lane = ForwardLane(on_thread=partial(torch.set_num_threads, threads))
        self._texts: Batcher[Release, str, str, TextVector] = Batcher(
            self._forward_texts, lane=self._lane, settings=settings.text_batches, size_of=len
        )
        self._pictures: Batcher[Release, bytes, Decoded, PictureVector | RefusedPicture] = Batcher(
            self._forward_pictures,
            lane=self._lane,
            settings=settings.image_batches,
            prepare=self._decode_unless_cached,
            pool=self._decoders,
        )
        self._composed: Batcher[Release, ToCompose, ToCompose, ComposedVector | RefusedPicture] = Batcher(
            _forward_composed,
            lane=self._lane,
            settings=settings.composed_batches,
            prepare=_ready_to_compose,
            pool=self._decoders,
            size_of=lambda item: len(item.sentence),
        )

    @property
    def is_ready(self) -> bool:
        """True while a release is loaded."""
        return self._reloader.is_ready

    async def start(self) -> None:
        """Load the channel's release, if it names one, and begin to answer."""
        self._texts.start()
        self._pictures.start()
        self._composed.start()
        await self._reloader.start()

    async def stop(self) -> None:
        """Answer what was accepted, then end every thread and free the model."""
        # Composed queries hold places in the other queues too, so all of them drain together.
        await asyncio.gather(self._texts.stop(), self._pictures.stop(), self._composed.stop())
        await self._reloader.stop()
        await asyncio.to_thread(self._close_threads)

    async def encode_texts(self, texts: Sequence[str], *, space_id: str = "") -> Encoding[TextVector]:
        """One unit vector per text, of the newest release or of the newest of `space_id`.

        Raises NotReady, EmbeddingSpaceMismatch, QueueFull or Draining.
        """
        with self._reloader.lease(space_id or None) as release:
            known = self._known_texts(texts, release=release)
            missing = [text for text in texts if text not in known]
            with self._texts.places(len(missing)):
                made, stages = await self._encode_missing(missing, release=release)
            known |= made
            return Encoding(release=release, items=[known[text] for text in texts], stages=stages)

    async def encode_pictures(
        self, pictures: Sequence[bytes], *, space_id: str = ""
    ) -> Encoding[PictureVector | RefusedPicture]:
        """One unit vector per encoded picture, or why it could not be decoded.

        Raises NotReady, EmbeddingSpaceMismatch, QueueFull or Draining.
        """
        with self._reloader.lease(space_id or None) as release:
            items, stages = await self._pictures.submit(pictures, group=release)
            return Encoding(release=release, items=items, stages=stages)

    async def encode_composed(
        self, asks: Sequence[ComposedAsk], *, space_id: str = ""
    ) -> Encoding[ComposedVector | RefusedPicture]:
        """One unit vector per composed query, or why its reference was refused.

        Pictures and plain sentences go through the batches and caches of the
        other calls. Raises NotReady, EmbeddingSpaceMismatch, QueueFull or
        Draining, and CapabilityMissing if the release cannot compose what is asked.
        """
        with self._reloader.lease(space_id or None) as release, ExitStack() as places:
            model = release.value
            _check_composer(asks, model=model)
            needs = needs_of(asks, composes_vectors=model.composes_vectors)
            texts = self._known_texts(needs.texts, release=release)
            missing = [text for text in needs.texts if text not in texts]
            places.enter_context(self._composed.places(needs.num_composed))
            places.enter_context(self._pictures.places(len(needs.pictures)))
            places.enter_context(self._texts.places(len(missing)))
            found, seeing = await self._pictures.submit_placed(needs.pictures, group=release)
            pictures = dict(zip(needs.pictures, found, strict=True))
            made, reading = await self._encode_missing(missing, release=release)
            items, composing = await self._compose(asks, pictures=pictures, texts=texts | made, release=release)
            return Encoding(release=release, items=items, stages=seeing + reading + composing)

    def newest(self) -> Release:
        """The release that answers a caller who names no space. Raises NotReady."""
        with self._reloader.lease() as release:
            return release

    def reload_state(self) -> ReloadState:
        """Where the hot reload stands."""
        return self._reloader.status()

    def _known_texts(self, texts: Sequence[str], *, release: Release) -> dict[str, TextVector]:
        found = {text: self._text_cache.get(_text_key(release, text)) for text in texts}
        return {text: result for text, result in found.items() if result is not None}

    async def _encode_missing(self, texts: Sequence[str], *, release: Release) -> tuple[dict[str, TextVector], Stages]:
        """Texts that are not cached, in places that are held."""
        made, stages = await self._texts.submit_placed(texts, group=release)
        for text, result in zip(texts, made, strict=True):
            self._text_cache.put(_text_key(release, text), result, num_bytes=result.vector.nbytes + _ENTRY_BYTES)
        return dict(zip(texts, made, strict=True)), stages

    async def _compose(
        self,
        asks: Sequence[ComposedAsk],
        *,
        pictures: Mapping[bytes, PictureVector | RefusedPicture],
        texts: Mapping[str, TextVector],
        release: Release,
    ) -> tuple[list[ComposedVector | RefusedPicture], Stages]:
        """The outcome of each query, once what it needs beside the composer is encoded."""
        model = release.value
        seen = [seen_reference(ask, pictures=pictures, dimension=model.dimension) for ask in asks]
        inputs = [
            to_compose(ask, seen=one, composes_vectors=model.composes_vectors)
            for ask, one in zip(asks, seen, strict=True)
            if ask.reference is not None and not isinstance(one, RefusedPicture)
        ]
        composed, stages = await self._composed.submit_placed(inputs, group=release)
        rest = iter(composed)
        plain = {text: result.vector for text, result in texts.items()}
        outcomes: list[ComposedVector | RefusedPicture] = []
        for ask, one in zip(asks, seen, strict=True):
            if isinstance(one, RefusedPicture):
                outcomes.append(one)
                continue
            made = next(rest) if ask.reference is not None else _plain_query(texts[ask.edit.sentence])
            outcomes.append(made if isinstance(made, RefusedPicture) else answer(ask, made, seen=one, texts=plain))
        return outcomes, stages

    def _forward_texts(self, release: Release, texts: list[str]) -> list[TextVector]:
        tokenized = release.value.tokenize(texts)
        vectors_ND = release.value.encode_ids(tokenized.ids)
        return [
            TextVector(vector=vector_D.copy(), num_tokens=num_tokens, is_truncated=is_truncated)
            for vector_D, num_tokens, is_truncated in zip(
                vectors_ND, tokenized.num_tokens, tokenized.is_truncated, strict=True
            )
        ]

    def _decode_unless_cached(
        self, release: Release, data: bytes
    ) -> Decoded | Finished[PictureVector | RefusedPicture]:
        digest = hashlib.sha256(data).digest()
        cached = self._picture_cache.get(_key(release, digest))
        if cached is not None:
            return Finished(cached)
        decoded = decode(data, model=release.value, digest=digest)
        return Finished(decoded) if isinstance(decoded, RefusedPicture) else decoded

    def _forward_pictures(self, release: Release, batch: list[Decoded]) -> list[PictureVector | RefusedPicture]:
        vectors_ND, tokens_NPW = release.value.encode_images(np.stack([item.pixels for item in batch]))
        results = [
            PictureVector(
                vector=vector_D.copy(),
                tokens=tokens_PW.copy(),
                digest=item.digest,
                width=item.width,
                height=item.height,
            )
            for item, vector_D, tokens_PW in zip(batch, vectors_ND, tokens_NPW, strict=True)
        ]
        for result in results:
            num_bytes = result.vector.nbytes + result.tokens.nbytes + _ENTRY_BYTES
            self._picture_cache.put(_key(release, result.digest), result, num_bytes=num_bytes)
        return list(results)

    def _close_threads(self) -> None:
        self._decoders.shutdown()
        self._lane.close()


def _check_composer(asks: Sequence[ComposedAsk], *, model: EncoderModel) -> None:
    references = [ask.reference for ask in asks if ask.reference is not None]
    if references and not model.can_compose:
        raise CapabilityMissing("this release has no composer; it answers pictures or texts alone", detail="composer")
    if not model.composes_vectors and any(isinstance(reference, np.ndarray) for reference in references):
        raise CapabilityMissing("this composer has to see the reference; send its picture", detail="pixels")


def _ready_to_compose(release: Release, item: ToCompose) -> ToCompose | Finished[ComposedVector | RefusedPicture]:
    if not isinstance(item.reference, bytes):
        return item
    decoded = decode(item.reference, model=release.value)
    if isinstance(decoded, RefusedPicture):
        return Finished(decoded)
    return replace(item, reference=decoded.pixels, digest=decoded.digest)


def _forward_composed(release: Release, batch: list[ToCompose]) -> list[ComposedVector | RefusedPicture]:
    tokenized = release.value.tokenize_edits([item.sentence for item in batch])
    vectors_ND = release.value.encode_composed_ids(np.stack([item.reference for item in batch]), tokenized.ids)
    return [
        ComposedVector(vector=vector_D.copy(), num_tokens=num_tokens, is_truncated=is_truncated, digest=item.digest)
        for item, vector_D, num_tokens, is_truncated in zip(
            batch, vectors_ND, tokenized.num_tokens, tokenized.is_truncated, strict=True
        )
    ]


def _plain_query(sentence: TextVector) -> ComposedVector:
    return ComposedVector(vector=sentence.vector, num_tokens=sentence.num_tokens, is_truncated=sentence.is_truncated)


def build_engine(settings: EncoderSettings) -> EncoderEngine:
    """An engine that follows the channel of `settings`; it loads nothing before `start`."""
    reloader = HotReloader(
        registry=Registry(settings.registry),
        channel=settings.channel,
        cache_dir=settings.cache_dir,
        load=partial(_load, device=settings.device, dtype=settings.compute_dtype),
        warm_up=partial(
            _warm_up,
            text_batch=settings.max_text_batch,
            image_batch=settings.max_image_batch,
            composed_batch=settings.max_composed_batch,
        ),
        probe=EncoderModel.check_golden,
        release=_release,
        settings=ReloadSettings(poll_interval_s=settings.poll_s),
    )
    return EncoderEngine(reloader, settings=settings)


def _load(folder: Path, manifest: Manifest, *, device: str, dtype: str) -> EncoderModel:
    return load_encoder(folder, device=device, dtype=dtype)


def _warm_up(model: EncoderModel, *, text_batch: int, image_batch: int, composed_batch: int) -> None:
    """Run the smallest and the largest batch once, so that no caller pays for first-time set-up."""
    blank = model.preprocess(Image.new("RGB", (model.image_size, model.image_size)))
    for count in (1, text_batch):
        model.encode_texts(["warm-up"] * count)
    for count in (1, image_batch):
        vectors_ND, _ = model.encode_images(np.stack([blank] * count))
    if model.can_compose:
        reference = vectors_ND[0] if model.composes_vectors else blank
        for count in (1, composed_batch):
            model.encode_composed(np.stack([reference] * count), ["warm-up"] * count)


def _release(model: EncoderModel) -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _text_key(release: Release, text: str) -> CacheKey:
    return _key(release, hashlib.sha256(text.encode()).digest())


def _key(release: Release, digest: bytes) -> CacheKey:
    return CacheKey(release.manifest.release_id, digest)
