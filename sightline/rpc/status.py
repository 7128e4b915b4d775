"""Errors on the wire and back: google.rpc.Status with ErrorInfo, and RetryInfo where a caller should come back."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Protocol, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from sightline.errors import (
    ERROR_DOMAIN,
    Cancelled,
    DataCorrupt,
    DeadlinePassed,
    DependencyUnavailable,
    FailedPrecondition,
    InternalError,
    InvalidInput,
    QueueFull,
    SightlineError,
    TokenInvalid,
    TooManyItems,
)
from sightline.v1 import common_pb2

DETAILS_KEY = "grpc-status-details-bin"
RETRY_PUSHBACK_KEY = "grpc-retry-pushback-ms"

# All trailing metadata of a reply should stay under gRPC's soft limit of 8 KiB;
# a message travels there twice, percent-encoded and in base64.
MAX_MESSAGE_BYTES = 1024
MAX_VALUE_BYTES = 256
_DEFAULT_RETRY_S = 0.5

MessageT = TypeVar("MessageT", bound=Message)
Trailers = tuple[tuple[str, str | bytes], ...]


class FailedCall(Protocol):
    """What grpc and grpc.aio both tell of a call that failed."""

    def code(self) -> grpc.StatusCode:
        """The canonical code."""

    def details(self) -> str | None:
        """The message."""

    def trailing_metadata(self) -> object:
        """Pairs of key and value."""


def status_code(error: SightlineError) -> grpc.StatusCode:
    """The gRPC code of `error`."""
    return grpc.StatusCode[error.code]


def clip(text: str, *, limit: int = MAX_MESSAGE_BYTES) -> str:
    """`text`, or as much of it as fits in `limit` bytes of UTF-8."""
    data = text.encode("utf-8", errors="replace")
    return data.decode() if len(data) <= limit else data[: limit - 3].decode(errors="ignore") + "..."


def sendable(error: SightlineError, *, request_id: str) -> SightlineError:
    """`error` if it has a reason on the wire, else the InternalError that stands for it."""
    if error.reason:
        return error
    return internal_error(request_id)


def internal_error(request_id: str) -> InternalError:
    """What a caller may know of a defect of ours: the id under which our log tells the rest."""
    return InternalError(f"internal error; the log tells more under request id {request_id}", request_id=request_id)


def error_to_status(error: SightlineError) -> status_pb2.Status:
    """`error` as google.rpc.Status holding one ErrorInfo and, for QueueFull, one RetryInfo."""
    status = status_pb2.Status(code=code_pb2.Code.Value(error.code), message=clip(error.message))
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=ERROR_DOMAIN, metadata=_metadata(error))
    status.details.add().Pack(info)
    if isinstance(error, QueueFull):
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(_milliseconds(error.retry_after_s))
        status.details.add().Pack(retry)
    return status


def error_trailers(error: SightlineError) -> Trailers:
    """The trailing metadata that carries `error`: the rich status and, for QueueFull, gRPC's own push-back."""
    trailers: list[tuple[str, str | bytes]] = [(DETAILS_KEY, error_to_status(error).SerializeToString())]
    if isinstance(error, QueueFull):
        trailers.append((RETRY_PUSHBACK_KEY, str(_milliseconds(error.retry_after_s))))
    return tuple(trailers)


def item_status(error: SightlineError | None) -> common_pb2.ItemStatus:
    """The outcome of one item of a batch: OK for None, else the error's code, reason, message and metadata."""
    if error is None:
        return common_pb2.ItemStatus()
    code = code_pb2.Code.Value(error.code)
    return common_pb2.ItemStatus(code=code, reason=error.reason, message=clip(error.message), metadata=_metadata(error))


def error_from_item(status: common_pb2.ItemStatus) -> SightlineError | None:
    """The error that an item's status stands for, or None if the item is OK."""
    if status.code == code_pb2.OK:
        return None
    code = code_pb2.Code.Name(status.code)
    return _build(status.reason, code=code, message=status.message, metadata=dict(status.metadata))


def is_worth_a_retry(error: FailedCall) -> bool:
    """True if the same call may succeed soon: nobody answered, or the service is full, starting or draining.

    A service whose own dependency failed has tried that again itself, so it is not asked again.
    """
    if error.code() not in _PASSING_CODES:
        return False
    status = _rich_status(error)
    if status is None:
        return not _is_oversized(error.code().name, message=error.details() or "")
    info = next(_unpacked(status, error_details_pb2.ErrorInfo()), None)
    return info is None or info.reason not in {DependencyUnavailable.reason, Cancelled.reason}


def error_from_rpc(error: FailedCall, *, service: str = "") -> SightlineError:
    """The SightlineError that a failed call stands for: by its reason, or by its code where nothing names a reason.

    `service` is what a DependencyUnavailable names if nobody answered.
    """
    status = _rich_status(error)
    name, message = error.code().name, error.details() or error.code().name
    if status is None:
        return _unnamed(name, message=message, service=service)
    info = next(_unpacked(status, error_details_pb2.ErrorInfo()), None)
    retry = next(_unpacked(status, error_details_pb2.RetryInfo()), None)
    if info is None or info.domain != ERROR_DOMAIN:
        return _unnamed(name, message=message, service=service)
    delay_s = retry.retry_delay.ToMilliseconds() / 1000 if retry is not None else _DEFAULT_RETRY_S
    return _build(info.reason, code=name, message=message, metadata=dict(info.metadata), retry_after_s=delay_s)


def error_classes() -> dict[str, type[SightlineError]]:
    """The one class that each reason on the wire becomes on arrival."""
    found: dict[str, type[SightlineError]] = {}
    for kind in _descendants(SightlineError):
        if vars(kind).get("reason"):
            found[kind.reason] = kind
    return found


_PASSING_CODES = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.CANCELLED})

# What a code without a reason means: written by gRPC itself, a proxy, or a server of another make.
_BY_CODE: dict[str, type[SightlineError]] = {
    "INVALID_ARGUMENT": InvalidInput,
    "OUT_OF_RANGE": InvalidInput,
    "FAILED_PRECONDITION": FailedPrecondition,
    "NOT_FOUND": DependencyUnavailable,
    "UNIMPLEMENTED": DependencyUnavailable,
    "UNAVAILABLE": DependencyUnavailable,
    "RESOURCE_EXHAUSTED": QueueFull,
    "DEADLINE_EXCEEDED": DeadlinePassed,
    # A caller's own cancel ends in CancelledError. This one was made by a server that closed its port.
    "CANCELLED": DependencyUnavailable,
    "UNAUTHENTICATED": TokenInvalid,
    "PERMISSION_DENIED": TokenInvalid,
    "DATA_LOSS": DataCorrupt,
}


def _unnamed(code: str, *, message: str, service: str) -> SightlineError:
    if _is_oversized(code, message=message):
        value, limit = [*re.findall(r"\d+", message), "", ""][:2]
        return TooManyItems(message, value=value, limit=limit)
    if _BY_CODE.get(code) is DependencyUnavailable:
        # The text is gRPC's or a proxy's and may tell addresses; the cause holds it.
        return DependencyUnavailable(f"{service or 'the service'} did not answer: {code}", service=service)
    return _build("", code=code, message=message, metadata={})


def _is_oversized(code: str, *, message: str) -> bool:
    # gRPC refuses an oversized message with the code of a full queue, yet to come
    # back later would not help.
    return code == "RESOURCE_EXHAUSTED" and "larger than max" in message


def _build(
    reason: str,
    *,
    code: str,
    message: str,
    metadata: dict[str, str],
    retry_after_s: float = _DEFAULT_RETRY_S,
) -> SightlineError:
    kind = error_classes().get(reason) or _BY_CODE.get(code, InternalError)
    if issubclass(kind, QueueFull):
        return kind(message, retry_after_s=retry_after_s, **metadata)
    return kind(message, **metadata)


def _rich_status(error: FailedCall) -> status_pb2.Status | None:
    for key, value in error.trailing_metadata() or ():  # type: ignore[attr-defined]
        if key == DETAILS_KEY:
            try:
                return status_pb2.Status.FromString(value)
            except DecodeError:
                return None
    return None


def _unpacked(status: status_pb2.Status, kind: MessageT) -> Iterator[MessageT]:
    for detail in status.details:
        if detail.Unpack(kind):
            yield kind


def _descendants(kind: type[SightlineError]) -> Iterator[type[SightlineError]]:
    for child in kind.__subclasses__():
        yield child
        yield from _descendants(child)


def _metadata(error: SightlineError) -> dict[str, str]:
    return {key: clip(value, limit=MAX_VALUE_BYTES) for key, value in error.metadata.items()}


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))
