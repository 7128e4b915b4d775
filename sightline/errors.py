"""The one error tree. A class fixes the gRPC code and the reason; a message says the bad value and the limit.

Codes are the canonical names of google.rpc.Code and reasons the values of
`ErrorReason` in `protos/sightline/v1/errors.proto`, without their prefix: each
reason is declared by one class. A class without a reason is a family, caught
but not raised by services, or an error of commands and start-up; a host that
meets one sends INTERNAL. No gRPC is imported here: `sightline.rpc` puts errors
on the wire.
"""

from __future__ import annotations

from typing import ClassVar

ERROR_DOMAIN = "sightline.v1"


class SightlineError(Exception):
    """A failure that has a name. `metadata` repeats the message's dynamic values as strings."""

    code: ClassVar[str] = "INTERNAL"
    reason: ClassVar[str] = ""

    def __init__(self, message: str, /, **metadata: object) -> None:
        super().__init__(message)
        self.message = message
        self.metadata = {key: str(value) for key, value in metadata.items()}


class InternalError(SightlineError):
    """A defect of ours. The message names no internals. metadata: request_id."""

    reason = "INTERNAL"


class InvalidInput(SightlineError):
    """The caller's input breaks the contract."""

    code = "INVALID_ARGUMENT"


class FieldMissing(InvalidInput):
    """A field that must be present is absent or empty. metadata: field."""

    reason = "FIELD_MISSING"


class FieldOutOfRange(InvalidInput):
    """A field has a value outside its range. metadata: field, value, limit."""

    reason = "FIELD_OUT_OF_RANGE"


class TooManyItems(InvalidInput):
    """A batch holds more items than allowed. metadata: value, limit."""

    reason = "TOO_MANY_ITEMS"


class TextTooLong(InvalidInput):
    """A text holds more characters than allowed. metadata: value, limit."""

    reason = "TEXT_TOO_LONG"


class TooManyTurns(InvalidInput):
    """A dialogue holds more turns than allowed. metadata: value, limit."""

    reason = "TOO_MANY_TURNS"


class PictureTooLarge(InvalidInput):
    """A picture has more encoded bytes than allowed. metadata: value, limit."""

    reason = "PICTURE_TOO_LARGE"


class PictureTooManyPixels(InvalidInput):
    """A picture's header promises more pixels than allowed. metadata: value, limit."""

    reason = "PICTURE_TOO_MANY_PIXELS"


class PictureUnreadable(InvalidInput):
    """Bytes are not a whole picture of a supported format. metadata: detail."""

    reason = "PICTURE_UNREADABLE"


class DimensionMismatch(InvalidInput):
    """A vector has another dimension than the index. metadata: value, limit."""

    reason = "DIMENSION_MISMATCH"


class TensorMalformed(InvalidInput):
    """A tensor's bytes, dtype and shape disagree, or a value is not finite. metadata: detail."""

    reason = "TENSOR_MALFORMED"


class PageTokenInvalid(InvalidInput):
    """A page token was not issued by this service. metadata: value."""

    reason = "PAGE_TOKEN_INVALID"


class FilterInvalid(InvalidInput):
    """A filter is ill-formed. metadata: detail."""

    reason = "FILTER_INVALID"


class ImageNotFound(SightlineError):
    """No picture has this id. metadata: image_id."""

    code = "NOT_FOUND"
    reason = "IMAGE_NOT_FOUND"


class FailedPrecondition(SightlineError):
    """The call is fine but the state of the service does not allow it."""

    code = "FAILED_PRECONDITION"


class EmbeddingSpaceMismatch(FailedPrecondition):
    """A vector belongs to another embedding space. metadata: expected, got."""

    reason = "EMBEDDING_SPACE_MISMATCH"


class IndexEmpty(FailedPrecondition):
    """The index holds no picture."""

    reason = "INDEX_EMPTY"


class CapabilityMissing(SightlineError):
    """The release lacks the part that this call needs. metadata: detail."""

    code = "UNIMPLEMENTED"
    reason = "CAPABILITY_MISSING"


class QueueFull(SightlineError):
    """A bounded queue is full. `retry_after_s` travels as google.rpc.RetryInfo. metadata: limit."""

    code = "RESOURCE_EXHAUSTED"
    reason = "QUEUE_FULL"

    def __init__(self, message: str, /, *, retry_after_s: float, **metadata: object) -> None:
        super().__init__(message, **metadata)
        self.retry_after_s = retry_after_s


class Unavailable(SightlineError):
    """The service cannot answer now; the same call may succeed later."""

    code = "UNAVAILABLE"


class Draining(Unavailable):
    """The service is finishing accepted work before it stops."""

    reason = "DRAINING"


class NotReady(Unavailable):
    """No release is loaded yet."""

    reason = "NOT_READY"


class DependencyUnavailable(Unavailable):
    """A service that this call depends on did not answer. metadata: service."""

    reason = "DEPENDENCY_UNAVAILABLE"


class Reindexing(Unavailable):
    """Pictures are being moved into a new embedding space and writes wait."""

    reason = "REINDEXING"


class DeadlinePassed(SightlineError):
    """The caller's deadline passed before the work was done."""

    code = "DEADLINE_EXCEEDED"
    reason = "DEADLINE_PASSED"


class Cancelled(SightlineError):
    """The caller cancelled."""

    code = "CANCELLED"
    reason = "CANCELLED"


class TokenInvalid(SightlineError):
    """The bearer token is missing or unknown."""

    code = "UNAUTHENTICATED"
    reason = "TOKEN_INVALID"


class DataCorrupt(SightlineError):
    """Stored data failed its checksum or cannot be read. metadata: detail."""

    code = "DATA_LOSS"
    reason = "DATA_CORRUPT"


class UsageError(SightlineError):
    """A command, setting, recipe or data file is wrong. Raised off the wire, by commands and at start."""

    code = "INVALID_ARGUMENT"


class SettingInvalid(UsageError):
    """A setting is unknown, missing or ill-typed; the message names the nearest valid ones."""


class DataLineInvalid(UsageError):
    """A line of a data file is bad; the message names file and line number."""


class ReleaseInvalid(DataCorrupt):
    """A release is half-written, tampered with, foreign, or unsafe to load; it was not loaded."""


class ChannelConflict(SightlineError):
    """Another publisher moved the channel first; nothing was changed."""

    code = "ABORTED"
