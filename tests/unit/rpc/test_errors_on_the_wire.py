"""Errors as bytes: bounded, whole, and named on arrival even where nothing names them."""

from __future__ import annotations

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from sightline import errors
from sightline.rpc.status import (
    clip,
    error_classes,
    error_from_item,
    error_from_rpc,
    error_to_status,
    error_trailers,
    is_worth_a_retry,
    item_status,
    sendable,
)


class Failed:
    """A failed call as grpc tells of it."""

    def __init__(self, code: str, details: str = "", trailers: tuple[tuple[str, str | bytes], ...] = ()) -> None:
        self._told = grpc.StatusCode[code], details, trailers

    def code(self) -> grpc.StatusCode:
        return self._told[0]

    def details(self) -> str:
        return self._told[1]

    def trailing_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        return self._told[2]


def failed_with(error: errors.SightlineError) -> Failed:
    return Failed(error.code, error.message, error_trailers(error))


@pytest.mark.parametrize("reason", sorted(error_classes()))
def test_an_item_carries_any_error(reason: str) -> None:
    kind = error_classes()[reason]
    error = kind("why", retry_after_s=1, limit=8) if kind is errors.QueueFull else kind("why", value=9, limit=8)
    back = error_from_item(item_status(error))
    assert type(back) is kind
    assert (back.message, back.metadata) == ("why", error.metadata)


def test_an_items_metadata_is_bounded_as_a_calls() -> None:
    status = item_status(errors.PictureUnreadable("why", detail="x" * 5000))
    assert len(status.metadata["detail"]) == 256


def test_metadata_may_be_called_as_anything() -> None:
    sent = errors.PictureUnreadable("why", detail="x")
    sent.metadata["message"] = sent.metadata["self"] = "a server of another make may say this"
    back = error_from_item(item_status(sent))
    assert back is not None
    assert (back.message, back.metadata) == ("why", sent.metadata)


def test_an_item_without_error_is_ok() -> None:
    assert item_status(None).code == 0
    assert error_from_item(item_status(None)) is None


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("INVALID_ARGUMENT", errors.InvalidInput),
        ("UNAVAILABLE", errors.DependencyUnavailable),
        ("UNIMPLEMENTED", errors.DependencyUnavailable),
        ("NOT_FOUND", errors.DependencyUnavailable),
        ("DEADLINE_EXCEEDED", errors.DeadlinePassed),
        ("CANCELLED", errors.DependencyUnavailable),
        ("UNAUTHENTICATED", errors.TokenInvalid),
        ("RESOURCE_EXHAUSTED", errors.QueueFull),
        ("UNKNOWN", errors.InternalError),
        ("INTERNAL", errors.InternalError),
    ],
)
def test_a_code_without_a_reason_still_has_a_name(code: str, kind: type[errors.SightlineError]) -> None:
    assert type(error_from_rpc(Failed(code, "text"))) is kind


def test_who_did_not_answer_is_named_and_its_address_is_not() -> None:
    error = error_from_rpc(Failed("UNAVAILABLE", "connect to 10.0.0.7:50051 failed"), service="encoder")
    assert error.metadata == {"service": "encoder"}
    assert "10.0.0.7" not in error.message


def test_an_oversized_message_is_not_a_full_queue() -> None:
    failed = Failed("RESOURCE_EXHAUSTED", "CLIENT: Sent message larger than max (9 vs. 8)")
    error = error_from_rpc(failed)
    assert type(error) is errors.TooManyItems
    assert error.metadata == {"value": "9", "limit": "8"}
    assert not is_worth_a_retry(failed)


def test_a_reason_of_another_domain_is_not_ours() -> None:
    status = status_pb2.Status(code=5, message="no")
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason="IMAGE_NOT_FOUND", domain="elsewhere"))
    failed = Failed("INVALID_ARGUMENT", "no", (("grpc-status-details-bin", status.SerializeToString()),))
    assert type(error_from_rpc(failed)) is errors.InvalidInput


@pytest.mark.parametrize("junk", [b"\xff\xff\xff", b""])
def test_junk_in_place_of_details_is_survived(junk: bytes) -> None:
    assert type(error_from_rpc(Failed("DATA_LOSS", "no", (("grpc-status-details-bin", junk),)))) is errors.DataCorrupt


def test_a_reason_of_a_newer_server_falls_back_to_its_code() -> None:
    status = error_to_status(errors.IndexEmpty("no"))
    info = error_details_pb2.ErrorInfo(reason="NOT_YET_INVENTED", domain="sightline.v1")
    status.details[0].Pack(info)
    failed = Failed("FAILED_PRECONDITION", "no", (("grpc-status-details-bin", status.SerializeToString()),))
    assert type(error_from_rpc(failed)) is errors.FailedPrecondition


def test_trailers_stay_under_grpcs_soft_limit() -> None:
    error = errors.EmbeddingSpaceMismatch("ü" * 100_000, expected="e" * 9999, got="☃" * 9999, more="m" * 9999)
    sent = sum(len(key) + len(value) for key, value in error_trailers(error))
    details_in_base64, percent_encoded_message = sent * 4 // 3, 3 * len(clip(error.message).encode())
    assert details_in_base64 + percent_encoded_message < 8192


@pytest.mark.parametrize("limit", [5, 6, 7, 8])
def test_clipping_never_splits_a_character(limit: int) -> None:
    assert clip("☃☃☃☃", limit=limit).encode() == ("☃" * ((limit - 3) // 3) + "...").encode()


def test_a_release_that_is_bad_travels_as_corrupt_data() -> None:
    error = errors.ReleaseInvalid("manifest.json: absent")
    assert sendable(error, request_id="r") is error
    assert type(error_from_rpc(failed_with(error))) is errors.DataCorrupt


@pytest.mark.parametrize(
    ("error", "is_worth"),
    [
        (errors.NotReady("no"), True),
        (errors.Draining("no"), True),
        (errors.Reindexing("no"), True),
        (errors.QueueFull("no", retry_after_s=1), True),
        (errors.DependencyUnavailable("no", service="encoder"), False),
        (errors.TooManyItems("no"), False),
        (errors.DeadlinePassed("no"), False),
        (errors.InternalError("no"), False),
        (errors.Cancelled("no"), False),
    ],
)
def test_only_what_may_pass_soon_is_tried_again(error: errors.SightlineError, is_worth: bool) -> None:
    assert is_worth_a_retry(failed_with(error)) is is_worth


def test_a_dead_address_is_tried_again() -> None:
    assert is_worth_a_retry(Failed("UNAVAILABLE", "connection refused"))


def test_a_call_that_a_closing_server_cancelled_is_tried_again() -> None:
    assert is_worth_a_retry(Failed("CANCELLED", "CANCELLED"))
