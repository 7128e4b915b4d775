"""One question to a service that a reply depends on: deadline and ids go down, failures come back named."""

from __future__ import annotations

from typing import Any, TypeVar

import grpc
import numpy as np
import numpy.typing as npt

from sightline.errors import (
    DeadlinePassed,
    DependencyUnavailable,
    EmbeddingSpaceMismatch,
    IndexEmpty,
    QueueFull,
    SightlineError,
    TensorMalformed,
)
from sightline.rpc.channels import Remote
from sightline.rpc.context import CallContext
from sightline.rpc.tensors import tensor_from_proto
from sightline.v1 import common_pb2

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")

# What the caller of the generator, or the generator itself, can act on as it stands.
_PASSED_ON = (EmbeddingSpaceMismatch, IndexEmpty, QueueFull)


async def ask(
    remote: Remote,
    rpc: grpc.aio.UnaryUnaryMultiCallable[RequestT, ResponseT],
    request: RequestT,
    *,
    call: CallContext,
    service: str,
) -> ResponseT:
    """The answer of `service` to a question asked on behalf of `call`, within its deadline.

    Raises DeadlinePassed if the caller's own deadline passed, what the caller
    can act on as it is, and DependencyUnavailable for everything else.
    """
    try:
        return await remote.unary(rpc, request, parent=call)
    except _PASSED_ON:
        raise
    except SightlineError as failure:
        if call.time_remaining() == 0.0:
            raise DeadlinePassed(f"the deadline passed while the {service} was asked") from failure
        message = f"{service}: {failure.reason}: {failure.message}"
        raise DependencyUnavailable(message, service=service) from failure


def read_tokens(tensor: common_pb2.Tensor, *, service: str) -> npt.NDArray[np.floating[Any]]:
    """The fusion tokens that `service` sent; malformed ones are no fault of the caller, so DependencyUnavailable."""
    try:
        return tensor_from_proto(tensor, name="tokens")
    except TensorMalformed as failure:
        raise DependencyUnavailable(f"{service}: {failure.message}", service=service) from failure
