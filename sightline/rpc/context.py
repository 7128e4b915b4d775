"""What a servicer knows of the call that it answers, the same under both hosts."""

from __future__ import annotations

import re
import secrets
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Protocol

REQUEST_ID_KEY = "x-request-id"
DEADLINE_KEY = "x-deadline-unix-ms"
TRACEPARENT_KEY = "traceparent"
AUTHORIZATION_KEY = "authorization"
APPLICATION_KEY = "application"

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/-]{1,128}")
_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")

Metadata = tuple[tuple[str, str], ...]


class CallContext(Protocol):
    """One call, seen from inside. May be read from any thread."""

    @property
    def request_id(self) -> str:
        """The caller's `x-request-id`, or one made here."""

    @property
    def metadata(self) -> Mapping[str, str]:
        """The caller's text metadata, keys in lower case, credentials left out."""

    @property
    def peer(self) -> str:
        """Where the call came from, as gRPC writes it."""

    @property
    def traceparent(self) -> str:
        """This hop's W3C trace context: the caller's trace id with a span id of this hop."""

    def time_remaining(self) -> float | None:
        """Seconds until the caller's deadline, at least 0, or None without one."""

    def is_cancelled(self) -> bool:
        """True once nobody waits for the answer: the caller is gone or its deadline has passed."""

    def outgoing_metadata(self) -> Metadata:
        """What a call made on behalf of this one carries: request id, deadline, trace. Never credentials."""


class IncomingCall:
    """The one CallContext; both hosts fill it from what their gRPC server tells them."""

    def __init__(
        self,
        metadata: Mapping[str, str] | None = None,
        *,
        peer: str = "local",
        timeout_s: float | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        sent = {key.lower(): value for key, value in (metadata or {}).items()}
        self._authorization = sent.pop(AUTHORIZATION_KEY, "")
        self._metadata = sent
        self._peer = peer
        self._now = now
        self._request_id = _valid_request_id(sent.get(REQUEST_ID_KEY, ""))
        self._traceparent = child_traceparent(sent.get(TRACEPARENT_KEY, ""))
        self._deadline_unix_s = self._deadline(timeout_s)
        self._is_cancelled = False

    @property
    def request_id(self) -> str:
        """The caller's `x-request-id`, or one made here."""
        return self._request_id

    @property
    def metadata(self) -> Mapping[str, str]:
        """The caller's text metadata, keys in lower case, credentials left out."""
        return self._metadata

    @property
    def peer(self) -> str:
        """Where the call came from, as gRPC writes it."""
        return self._peer

    @property
    def traceparent(self) -> str:
        """This hop's W3C trace context: the caller's trace id with a span id of this hop."""
        return self._traceparent

    @property
    def authorization(self) -> str:
        """The `authorization` metadata. For the host alone; servicers see no credentials."""
        return self._authorization

    def time_remaining(self) -> float | None:
        """Seconds until the caller's deadline, at least 0, or None without one."""
        if self._deadline_unix_s is None:
            return None
        return max(0.0, self._deadline_unix_s - self._now())

    def is_cancelled(self) -> bool:
        """True once nobody waits for the answer: the caller is gone or its deadline has passed."""
        return self._is_cancelled or self.time_remaining() == 0.0

    def mark_cancelled(self) -> None:
        """Let `is_cancelled` be true from now on, so that work in threads stops."""
        self._is_cancelled = True

    def outgoing_metadata(self) -> Metadata:
        """What a call made on behalf of this one carries: request id, deadline, trace. Never credentials."""
        pairs = [(REQUEST_ID_KEY, self._request_id), (TRACEPARENT_KEY, self._traceparent)]
        if self._deadline_unix_s is not None:
            pairs.append((DEADLINE_KEY, str(int(self._deadline_unix_s * 1000))))
        return tuple(pairs)

    def _deadline(self, timeout_s: float | None) -> float | None:
        # gRPC's own deadline is relative and free of clock skew, so it wins over
        # the absolute one, which stands in where the host hides gRPC's (Ray Serve).
        if timeout_s is not None:
            return self._now() + timeout_s
        text = self._metadata.get(DEADLINE_KEY, "")
        return int(text) / 1000 if text.isascii() and text.isdigit() and len(text) <= 15 else None


def new_request_id() -> str:
    """A fresh random request id."""
    return str(uuid.uuid4())


def child_traceparent(parent: str) -> str:
    """A W3C traceparent with a fresh span id, in the trace of `parent`, or in a new one if `parent` is not valid."""
    if _TRACEPARENT.fullmatch(parent):
        _, trace_id, _, flags = parent.split("-")
        return f"00-{trace_id}-{secrets.token_hex(8)}-{flags}"
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"


def _valid_request_id(sent: str) -> str:
    # It is echoed and logged, so nothing but plain short text may pass.
    return sent if _REQUEST_ID.fullmatch(sent) else new_request_id()
