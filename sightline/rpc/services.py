"""The services of the contract, and what both hosts need to know of each RPC."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from sightline.errors import UsageError
from sightline.v1 import encoder_pb2, generator_pb2, retriever_pb2

_FILES = {
    "EncoderService": encoder_pb2.DESCRIPTOR,
    "RetrieverService": retriever_pb2.DESCRIPTOR,
    "GeneratorService": generator_pb2.DESCRIPTOR,
}
SERVICE_NAMES = tuple(_FILES)

APPLICATIONS: Mapping[str, str] = {
    "EncoderService": "encoder",
    "RetrieverService": "retriever",
    "GeneratorService": "generator",
}
"""The Ray Serve application that hosts each service."""


class Servicer(Protocol):
    """What a host needs beside one method per RPC, named by it.

    A unary RPC is `async def EncodeTexts(self, request, call) -> EncodeTextsResponse`,
    a streamed one an async generator of responses; `call` is a CallContext. A
    servicer raises SightlineErrors; the host puts them on the wire.
    """

    async def start(self) -> None:
        """Make ready to serve; calls are refused with NOT_READY until it returns."""

    async def stop(self) -> None:
        """Let go of everything; no call runs any more."""

    def is_ready(self) -> bool:
        """True while calls can succeed; what the health service tells."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """One RPC."""

    name: str
    """Its bare name, unique across services."""
    path: str
    """Its full path, `/sightline.v1.EncoderService/EncodeTexts`."""
    is_streamed: bool
    """True if it answers with a stream."""
    request: type[Message]
    """Class of its request."""
    response: type[Message]
    """Class of its response, or of one frame of it."""


def service_descriptor(service: str) -> ServiceDescriptor:
    """The descriptor of the service with this bare name. Raises UsageError for an unknown one."""
    if service not in _FILES:
        raise UsageError(f"service: got {service!r}, expected one of {', '.join(SERVICE_NAMES)}")
    return _FILES[service].services_by_name[service]


def service_methods(service: str) -> tuple[Method, ...]:
    """The RPCs of the service with this bare name, in the order of the contract."""
    return tuple(_method(descriptor) for descriptor in service_descriptor(service).methods)


def _method(descriptor: MethodDescriptor) -> Method:
    return Method(
        name=descriptor.name,
        path=f"/{descriptor.containing_service.full_name}/{descriptor.name}",
        is_streamed=descriptor.server_streaming,
        request=GetMessageClass(descriptor.input_type),
        response=GetMessageClass(descriptor.output_type),
    )
