"""The calls that load is made of: real requests, without the SDK's retries, since a retry would hide what happened."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import grpc
import numpy as np
from PIL import Image

from bench.load.plan import LoadPlan
from bench.load.runner import Call, Outcome
from sightline.client import Endpoints
from sightline.data.dialogues import query_text
from sightline.errors import UsageError
from sightline.rpc.channels import ChannelSettings, Remote
from sightline.rpc.context import APPLICATION_KEY, REQUEST_ID_KEY, new_request_id
from sightline.rpc.services import APPLICATIONS
from sightline.rpc.status import error_from_rpc
from sightline.rpc.tokens import Secret
from sightline.v1 import common_pb2, encoder_pb2, generator_pb2, retriever_pb2
from sightline.v1.encoder_pb2_grpc import EncoderServiceStub
from sightline.v1.generator_pb2_grpc import GeneratorServiceStub
from sightline.v1.retriever_pb2_grpc import RetrieverServiceStub

SERVICES: Mapping[str, str] = {
    "chat": "GeneratorService",
    "search": "RetrieverService",
    "encode": "EncoderService",
    "picture": "EncoderService",
}
"""The service that each kind of call goes to."""

DEFAULT_TEXTS = (
    "what colour is the mill by the river ?",
    "do you see a boat on the lake at night ?",
    "tell me about the two dogs in the snow",
    "which of them is larger , the red one or the blue one ?",
    "how many birds sit on the roof ?",
)
_NUM_PICTURES = 8


class Traffic:
    """Calls of every kind over a pool of channels. One connection carries about a hundred streams, hence the pool."""

    def __init__(
        self,
        endpoints: Endpoints,
        *,
        texts: Sequence[str],
        num_channels: int = 4,
        max_new_tokens: int = 16,
        k: int = 3,
        token: str | None = None,
    ) -> None:
        self._endpoints = endpoints
        self._texts = texts
        self._num_channels = num_channels
        self._options = generator_pb2.GenerationOptions(max_new_tokens=max_new_tokens)
        self._k = k
        self._token = token
        self._pictures = _pictures(_NUM_PICTURES)
        self._pools: dict[str, list[Remote]] = {}

    def calls(self) -> dict[str, Call]:
        """One maker of calls for each kind."""
        return {"chat": self._chat, "search": self._search, "encode": self._encode, "picture": self._picture}

    async def warm_up(self, plan: LoadPlan) -> None:
        """Connect every channel by one unmeasured call of each kind. Raises what the service raises."""
        for kind in plan.mix:
            for number in range(self._num_channels):
                await self.calls()[kind](number, plan.timeout_s)

    async def close(self) -> None:
        """Close every channel."""
        for pool in self._pools.values():
            for remote in pool:
                await remote.close()

    async def _chat(self, number: int, timeout_s: float) -> Outcome:
        """A streamed reply; its first text is timed."""
        stub = GeneratorServiceStub(self._channel("GeneratorService", number))
        turn = generator_pb2.Turn(speaker=generator_pb2.SPEAKER_USER, text=self._text(number))
        request = generator_pb2.StreamReplyRequest(dialogue=[turn], k=self._k, options=self._options)
        began_s, first_text_s = time.perf_counter(), None
        call = stub.StreamReply(request, timeout=timeout_s, metadata=self._metadata("GeneratorService"))
        try:
            async for frame in call:
                if first_text_s is None and frame.HasField("chunk"):
                    first_text_s = time.perf_counter() - began_s
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error) from error
        return Outcome(first_text_s=first_text_s)

    async def _search(self, number: int, timeout_s: float) -> Outcome:
        stub = RetrieverServiceStub(self._channel("RetrieverService", number))
        request = retriever_pb2.SearchImagesRequest(text=self._text(number), k=10)
        return await self._unary("RetrieverService", stub.SearchImages, request, timeout_s=timeout_s)

    async def _encode(self, number: int, timeout_s: float) -> Outcome:
        stub = EncoderServiceStub(self._channel("EncoderService", number))
        request = encoder_pb2.EncodeTextsRequest(texts=[self._text(number)])
        return await self._unary("EncoderService", stub.EncodeTexts, request, timeout_s=timeout_s)

    async def _picture(self, number: int, timeout_s: float) -> Outcome:
        stub = EncoderServiceStub(self._channel("EncoderService", number))
        picture = common_pb2.Picture(data=self._pictures[number % _NUM_PICTURES])
        request = encoder_pb2.EncodeImagesRequest(pictures=[picture])
        return await self._unary("EncoderService", stub.EncodeImages, request, timeout_s=timeout_s)

    async def _unary(self, service: str, rpc: Callable[..., object], request: object, *, timeout_s: float) -> Outcome:
        try:
            await rpc(request, timeout=timeout_s, metadata=self._metadata(service))  # type: ignore[misc]
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error) from error
        return Outcome()

    def _text(self, number: int) -> str:
        return self._texts[number % len(self._texts)]

    def _metadata(self, service: str) -> tuple[tuple[str, str], ...]:
        pairs = ((APPLICATION_KEY, APPLICATIONS[service]), (REQUEST_ID_KEY, new_request_id()))
        return (*pairs, ("authorization", f"Bearer {self._token}")) if self._token else pairs

    def _channel(self, service: str, number: int) -> grpc.aio.Channel:
        if service not in self._pools:
            self._pools[service] = [Remote(self._settings(service)) for _ in range(self._num_channels)]
        return self._pools[service][number % self._num_channels].channel

    def _settings(self, service: str) -> ChannelSettings:
        application = APPLICATIONS[service]
        token = Secret(self._token) if self._token else None
        return ChannelSettings(address=getattr(self._endpoints, application), application=application, token=token)


def read_texts(path: Path | None) -> list[str]:
    """Texts to ask, from a JSONL whose lines hold a "context" (a dialogue) or a "text"; without a file, our own few."""
    if path is None:
        return list(DEFAULT_TEXTS)
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    texts = [query_text(row["context"]) if "context" in row else str(row.get("text", "")) for row in rows]
    if not any(texts):
        raise UsageError(f"{path}: holds no line with a context or a text")
    return [text for text in texts if text]


def _pictures(count: int) -> list[bytes]:
    """JPEGs of 320 x 240 smooth noise, each another one."""
    draw = np.random.default_rng(0)
    encoded = []
    for _ in range(count):
        coarse = Image.fromarray(draw.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        buffer = io.BytesIO()
        coarse.resize((320, 240), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=85)
        encoded.append(buffer.getvalue())
    return encoded
