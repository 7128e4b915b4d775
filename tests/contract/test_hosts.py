"""Both hosts keep the same promises, shown with a toy servicer through real channels."""

from __future__ import annotations

import asyncio

import pytest

from sightline.errors import SightlineError
from sightline.rpc.context import CallContext
from sightline.v1 import encoder_pb2 as pb
from sightline.v1 import encoder_pb2_grpc as pb_grpc


class ToyEncoder:
    """Answers EncodeTexts as its first text tells."""

    async def start(self) -> None:
        self.is_started = True

    async def stop(self) -> None:
        self.is_started = False

    def is_ready(self) -> bool:
        return self.is_started

    async def EncodeTexts(self, request: pb.EncodeTextsRequest, call: CallContext) -> pb.EncodeTextsResponse:
        return pb.EncodeTextsResponse(items=[pb.EncodedText(num_tokens=len(t)) for t in request.texts])

    async def EncodeImages(self, request: pb.EncodeImagesRequest, call: CallContext) -> pb.EncodeImagesResponse:
        raise ValueError("secret")

    async def DescribeEncoder(self, request, call: CallContext) -> pb.DescribeEncoderResponse:
        return pb.DescribeEncoderResponse(dimension=8)


async def test_a_reply_comes_back(host) -> None:
    endpoint = await host.start("EncoderService", ToyEncoder, keep=True)
    stub = pb_grpc.EncoderServiceStub(endpoint.remote.channel)
    reply = await endpoint.remote.unary(stub.EncodeTexts, pb.EncodeTextsRequest(texts=["a", "bcd"]))
    assert [item.num_tokens for item in reply.items] == [1, 3]
