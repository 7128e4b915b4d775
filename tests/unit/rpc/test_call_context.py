"""A call's context: ids that can be trusted in logs, deadlines that only shrink, traces that join."""

from __future__ import annotations

import pytest

from sightline.rpc.context import IncomingCall, child_traceparent

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"


class Clock:
    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def test_a_good_request_id_is_kept() -> None:
    assert IncomingCall({"X-Request-Id": "bot-7:turn/3"}).request_id == "bot-7:turn/3"


@pytest.mark.parametrize("sent", ["", "two words", "line\nbreak", "x" * 129, "ümlaut"])
def test_a_bad_request_id_is_replaced(sent: str) -> None:
    assert IncomingCall({"x-request-id": sent}).request_id != sent


def test_the_deadline_of_the_wire_wins_over_the_metadata() -> None:
    call = IncomingCall({"x-deadline-unix-ms": "1000000"}, timeout_s=5.0, now=Clock(100.0))
    assert call.time_remaining() == 5.0


def test_the_metadata_gives_the_deadline_where_the_wire_has_none() -> None:
    clock = Clock(100.0)
    call = IncomingCall({"x-deadline-unix-ms": "102500"}, now=clock)
    assert call.time_remaining() == 2.5
    clock.now = 103.0
    assert call.time_remaining() == 0.0
    assert call.is_cancelled()


@pytest.mark.parametrize("sent", ["", "soon", "-5", "1e9", "٣", "9" * 16])
def test_a_deadline_that_is_no_number_is_none(sent: str) -> None:
    call = IncomingCall({"x-deadline-unix-ms": sent})
    assert call.time_remaining() is None
    assert not call.is_cancelled()


def test_a_child_keeps_the_trace_and_has_a_span_of_its_own() -> None:
    version, trace, span, flags = child_traceparent(PARENT).split("-")
    assert (version, trace, flags) == ("00", TRACE, "01")
    assert span != "b7ad6b7169203331"


@pytest.mark.parametrize("sent", ["", "junk", PARENT.upper(), f"00-{'0' * 32}-b7ad6b7169203331-01", PARENT + "\n"])
def test_a_bad_trace_begins_a_new_one(sent: str) -> None:
    assert child_traceparent(sent).split("-")[1] not in {TRACE, "0" * 32}


def test_a_call_hands_down_its_deadline_but_no_credentials() -> None:
    sent = {"authorization": "Bearer secret", "traceparent": PARENT, "x-request-id": "r-1", "other": "kept here"}
    call = IncomingCall(sent, timeout_s=2.0, now=Clock(100.0))
    handed = dict(call.outgoing_metadata())
    assert handed == {"x-request-id": "r-1", "traceparent": call.traceparent, "x-deadline-unix-ms": "102000"}
    assert "authorization" not in call.metadata
    assert call.authorization == "Bearer secret"


def test_a_cancelled_call_says_so() -> None:
    call = IncomingCall(timeout_s=60.0)
    assert not call.is_cancelled()
    call.mark_cancelled()
    assert call.is_cancelled()
