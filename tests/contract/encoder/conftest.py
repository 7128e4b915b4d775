"""Tiny releases in a registry, and a caller that sees errors as the service raised them."""

from __future__ import annotations

import functools
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
import torch

from encoder_svc.servicer import build_servicer
from encoder_svc.settings import EncoderSettings
from sightline.limits import MAX_MESSAGE_BYTES
from sightline.models.composer_config import ComposerConfig
from sightline.models.golden import GOLDEN_FILE
from sightline.registry import Manifest
from sightline.rpc.status import error_from_rpc
from sightline.testing.tiny_releases import publish_folder, save_tiny_encoder
from sightline.v1 import common_pb2, encoder_pb2
from sightline.v1.encoder_pb2_grpc import EncoderServiceStub


@dataclass(frozen=True, kw_only=True)
class Shelf:
    """A registry with untrained tiny releases, each of an embedding space of its own."""

    folder: Path

    @property
    def uri(self) -> str:
        return str(self.folder / "registry")

    def publish(self, *, seed: int, golden_of: Path | None = None, composer: ComposerConfig | None = None) -> Manifest:
        """A release of this seed, published and named by `stable`; its golden file may be that of another folder."""
        folder = self.made(seed=seed, composes=composer is not None)
        torch.manual_seed(seed)
        architecture = save_tiny_encoder(folder, composer=composer)
        if golden_of is not None:
            shutil.copyfile(golden_of / GOLDEN_FILE, folder / GOLDEN_FILE)
        return publish_folder(folder, registry_uri=self.uri, architecture=architecture)

    def made(self, *, seed: int, composes: bool = False) -> Path:
        """The folder in which the release of this seed was made."""
        return self.folder / f"made-{seed}{'-composer' if composes else ''}"

    def settings(self, **changes: Any) -> EncoderSettings:
        """Settings of an encoder that follows this registry, quick to notice a new release."""
        values = {"registry": self.uri, "cache_dir": self.folder / "cache", "poll_s": 0.05, "num_cpus": 0.1}
        return EncoderSettings(**(values | changes))


class EncoderCaller:
    """Calls without retries; a failed one raises the SightlineError that the service raised."""

    def __init__(self, address: str, application: str) -> None:
        options = [("grpc.enable_retries", 0), ("grpc.max_send_message_length", MAX_MESSAGE_BYTES)]
        self.channel = grpc.aio.insecure_channel(address, options=options)
        self._application = application
        self._stub = EncoderServiceStub(self.channel)

    async def texts(
        self, texts: list[str], *, space_id: str = "", timeout_s: float = 60.0
    ) -> encoder_pb2.EncodeTextsResponse:
        request = encoder_pb2.EncodeTextsRequest(texts=texts, embedding_space_id=space_id)
        return await self._call(self._stub.EncodeTexts, request, timeout_s=timeout_s)

    async def images(
        self, pictures: list[bytes], *, with_tokens: bool = False, space_id: str = "", timeout_s: float = 60.0
    ) -> encoder_pb2.EncodeImagesResponse:
        request = encoder_pb2.EncodeImagesRequest(
            pictures=[common_pb2.Picture(data=data) for data in pictures],
            with_tokens=with_tokens,
            embedding_space_id=space_id,
        )
        return await self._call(self._stub.EncodeImages, request, timeout_s=timeout_s)

    async def composed(
        self, queries: list[encoder_pb2.ComposedQuery], *, space_id: str = "", timeout_s: float = 60.0
    ) -> encoder_pb2.EncodeComposedResponse:
        request = encoder_pb2.EncodeComposedRequest(queries=queries, embedding_space_id=space_id)
        return await self._call(self._stub.EncodeComposed, request, timeout_s=timeout_s)

    async def describe(self) -> encoder_pb2.DescribeEncoderResponse:
        return await self._call(self._stub.DescribeEncoder, encoder_pb2.DescribeEncoderRequest(), timeout_s=60.0)

    async def _call(self, rpc: Callable[..., Awaitable[Any]], request: Any, *, timeout_s: float) -> Any:
        deadline = ("x-deadline-unix-ms", str(int((time.time() + timeout_s) * 1000)))
        metadata = (("application", self._application), ("x-request-id", "test-1"), deadline)
        try:
            return await rpc(request, timeout=timeout_s, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error) from error


StartEncoder = Callable[..., Awaitable[EncoderCaller]]


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    """A registry whose channel names one release and never moves."""
    shelf = Shelf(folder=tmp_path_factory.mktemp("shelf"))
    shelf.publish(seed=0)
    return shelf


@pytest.fixture
def moving_shelf(tmp_path: Path) -> Shelf:
    """An empty registry of this test's own."""
    return Shelf(folder=tmp_path)


@pytest.fixture
async def start(host: Any) -> AsyncIterator[StartEncoder]:
    """`await start(settings)`: a caller of an encoder on the host under test."""
    callers: list[EncoderCaller] = []

    async def start_one(encoder: EncoderSettings, **more: Any) -> EncoderCaller:
        endpoint = await host.start("EncoderService", functools.partial(build_servicer, encoder), **more)
        callers.append(EncoderCaller(endpoint.settings.address, endpoint.settings.application))
        return callers[-1]

    yield start_one
    for caller in callers:
        await caller.channel.close()


@pytest.fixture
async def encoder(start: StartEncoder, shelf: Shelf) -> EncoderCaller:
    """A caller of an encoder with the settings that most tests need; under Serve they share one application."""
    return await start(shelf.settings(), keep=True)
