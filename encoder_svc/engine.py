"""The work of the encoder: texts and encoded pictures in, unit vectors out, on whichever release serves. No wire.

A call leases one release and keeps it to its end, so a reply never mixes two; batches are formed of calls that hold
the same one. Every public method belongs to the event loop; decoding and the model run in threads.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from encoder_svc.batching import Batcher, Finished, ForwardLane, Stages
from encoder_svc.cache import CacheKey, ResultCache
from encoder_svc.settings import EncoderSettings
from sightline.data.pictures import decode_with_size
from sightline.errors import SightlineError
from sightline.models.encoder_model import EncoderModel
from sightline.models.release import load_encoder
from sightline.registry import HotReloader, Loaded, Manifest, Registry, ReloadSettings, ReloadState

# Axes: D embedding width, P picture tokens, W token width.

ResultT = TypeVar("ResultT")
Release = Loaded[EncoderModel]
Float32 = npt.NDArray[np.float32]
UInt8 = npt.NDArray[np.uint8]
Float16 = npt.NDArray[np.float16]

_REDUCED_SIDE = 2
"""A large JPEG is decoded at no less than this many times the model's picture size: a shrink by two or more averages
away what the coarser decoding lost."""
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


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureVector:
    """One encoded picture."""

    vector: Float32
    """[D], of unit length."""
    tokens: Float16
    """[P, W], what a generator fuses."""
    digest: bytes
    """SHA-256 of the encoded bytes."""
    width: int
    """Upright width in pixels, as sent."""
    height: int
    """Upright height in pixels, as sent."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RefusedPicture:
    """A picture that could not be decoded."""

    error: SightlineError
    """Why."""
    digest: bytes
    """SHA-256 of the encoded bytes."""


@dataclass(frozen=True, kw_only=True)
class Encoding(Generic[ResultT]):
    """The outcome of one call."""

    release: Release
    """What answered all of it."""
    items: list[ResultT]
    """One result per item, in order."""
    stages: Stages
    """Where the time of the item went that was answered last."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Decoded:
    """A picture ready for the model."""

    pixels: UInt8
    digest: bytes
    width: int
    height: int


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
        self._pictures: Batcher[Release, bytes, _Decoded, PictureVector | RefusedPicture] = Batcher(
            self._forward_pictures,
            lane=self._lane,
            settings=settings.image_batches,
            prepare=self._decode,
            pool=self._decoders,
        )

    @property
    def is_ready(self) -> bool:
        """True while a release is loaded."""
        return self._reloader.is_ready

    async def start(self) -> None:
        """Load the channel's release, if it names one, and begin to answer."""
        self._texts.start()
        self._pictures.start()
        await self._reloader.start()

    async def stop(self) -> None:
        """Answer what was accepted, then end every thread and free the model."""
        await asyncio.gather(self._texts.stop(), self._pictures.stop())
        await self._reloader.stop()
        await asyncio.to_thread(self._close_threads)

    async def encode_texts(self, texts: Sequence[str], *, space_id: str = "") -> Encoding[TextVector]:
        """One unit vector per text, of the newest release or of the newest of `space_id`.

        Raises NotReady, EmbeddingSpaceMismatch, QueueFull or Draining.
        """
        with self._reloader.lease(space_id or None) as release:
            keys = [_key(release, hashlib.sha256(text.encode()).digest()) for text in texts]
            found = [self._text_cache.get(key) for key in keys]
            missing = [index for index, result in enumerate(found) if result is None]
            made, stages = await self._texts.submit([texts[index] for index in missing], group=release)
            for index, result in zip(missing, made, strict=True):
                found[index] = result
                num_bytes = result.vector.nbytes + _ENTRY_BYTES
                self._text_cache.put(keys[index], result, num_bytes=num_bytes)
            return Encoding(release=release, items=[item for item in found if item is not None], stages=stages)

    async def encode_pictures(
        self, pictures: Sequence[bytes], *, space_id: str = ""
    ) -> Encoding[PictureVector | RefusedPicture]:
        """One unit vector per encoded picture, or why it could not be decoded.

        Raises NotReady, EmbeddingSpaceMismatch, QueueFull or Draining.
        """
        with self._reloader.lease(space_id or None) as release:
            items, stages = await self._pictures.submit(pictures, group=release)
            return Encoding(release=release, items=items, stages=stages)

    def newest(self) -> Release:
        """The release that answers a caller who names no space. Raises NotReady."""
        with self._reloader.lease() as release:
            return release

    def reload_state(self) -> ReloadState:
        """Where the hot reload stands."""
        return self._reloader.status()

    def _forward_texts(self, release: Release, texts: list[str]) -> list[TextVector]:
        tokenized = release.value.tokenize(texts)
        vectors_ND = release.value.encode_ids(tokenized.ids)
        return [
            TextVector(vector=vector_D.copy(), num_tokens=num_tokens, is_truncated=is_truncated)
            for vector_D, num_tokens, is_truncated in zip(
                vectors_ND, tokenized.num_tokens, tokenized.is_truncated, strict=True
            )
        ]

    def _decode(self, release: Release, data: bytes) -> _Decoded | Finished[PictureVector | RefusedPicture]:
        digest = hashlib.sha256(data).digest()
        cached = self._picture_cache.get(_key(release, digest))
        if cached is not None:
            return Finished(cached)
        model = release.value
        try:
            image, (width, height) = decode_with_size(data, min_side=_REDUCED_SIDE * model.image_size)
        except SightlineError as error:
            return Finished(RefusedPicture(error=error, digest=digest))
        return _Decoded(pixels=model.preprocess(image), digest=digest, width=width, height=height)

    def _forward_pictures(self, release: Release, batch: list[_Decoded]) -> list[PictureVector | RefusedPicture]:
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


def build_engine(settings: EncoderSettings) -> EncoderEngine:
    """An engine that follows the channel of `settings`; it loads nothing before `start`."""
    reloader = HotReloader(
        registry=Registry(settings.registry),
        channel=settings.channel,
        cache_dir=settings.cache_dir,
        load=partial(_load, device=settings.device, dtype=settings.compute_dtype),
        warm_up=partial(_warm_up, text_batch=settings.max_text_batch, image_batch=settings.max_image_batch),
        probe=EncoderModel.check_golden,
        release=_release,
        settings=ReloadSettings(poll_interval_s=settings.poll_s),
    )
    return EncoderEngine(reloader, settings=settings)


def _load(folder: Path, manifest: Manifest, *, device: str, dtype: str) -> EncoderModel:
    return load_encoder(folder, device=device, dtype=dtype)


def _warm_up(model: EncoderModel, *, text_batch: int, image_batch: int) -> None:
    """Run the smallest and the largest batch once, so that no caller pays for first-time set-up."""
    blank = model.preprocess(Image.new("RGB", (model.image_size, model.image_size)))
    for count in (1, text_batch):
        model.encode_texts(["warm-up"] * count)
    for count in (1, image_batch):
        model.encode_images(np.stack([blank] * count))


def _release(model: EncoderModel) -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _key(release: Release, digest: bytes) -> CacheKey:
    return CacheKey(release.manifest.release_id, digest)
