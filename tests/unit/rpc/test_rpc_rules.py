"""The small rules: tokens, retries, timings, field checks, logs, and the service config."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Gauge

from sightline import errors
from sightline.rpc import validate
from sightline.rpc.channels import ChannelSettings, channel_options, service_config
from sightline.rpc.retry import RetryBudget, pause_before
from sightline.rpc.services import APPLICATIONS, SERVICE_NAMES, service_descriptor, service_methods
from sightline.rpc.telemetry import (
    CallMetrics,
    FieldsFormatter,
    JsonFormatter,
    LogSettings,
    MetricsMirror,
    configure_logging,
)
from sightline.rpc.timings import StageClock
from sightline.rpc.tokens import Secret, TokenCheck, read_tokens
from sightline.v1 import generator_pb2

GOOD = "a-token-of-the-test-1"


def test_a_secret_is_masked_wherever_it_is_printed() -> None:
    secret = Secret(GOOD)
    assert GOOD not in f"{secret} {secret!r} {secret!s} {[secret]} {TokenCheck([secret])}" + "%s" % secret  # noqa: UP031
    assert secret.reveal() == GOOD


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", f"Basic {GOOD}", GOOD, f"Bearer {GOOD}x", f"Bearer {GOOD[:-1]}"]
)
def test_any_other_header_is_refused(header: str) -> None:
    with pytest.raises(errors.TokenInvalid) as caught:
        TokenCheck([Secret(GOOD)]).check(header)
    assert GOOD not in caught.value.message


@pytest.mark.parametrize("header", [f"Bearer {GOOD}", f"bearer {GOOD}", f"Bearer  {GOOD} "])
def test_a_known_token_passes(header: str) -> None:
    TokenCheck([Secret("another-token-of-ours"), Secret(GOOD)]).check(header)


def test_without_tokens_everyone_passes() -> None:
    TokenCheck().check("")


@pytest.mark.parametrize(
    "text", ["short\n", "# only a comment\n", "", "a token with blanks in it\n", "tökens-are-plain-ascii\n"]
)
def test_a_token_file_that_cannot_be_used_is_refused_without_telling_it(tmp_path: Path, text: str) -> None:
    path = tmp_path / "tokens"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(errors.SettingInvalid, match="tokens") as caught:
        read_tokens(path)
    assert not text.strip() or text.strip() not in str(caught.value)


def test_an_absent_token_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(errors.SettingInvalid, match="absent"):
        read_tokens(tmp_path / "absent")


@pytest.mark.parametrize(("attempt", "pause_s"), [(2, 0.1), (3, 0.2), (4, 0.4), (10, 2.0)])
def test_pauses_grow_and_end(attempt: int, pause_s: float) -> None:
    assert pause_before(attempt, error=errors.NotReady("x"), draw=lambda: 0.5) == pytest.approx(pause_s)


@pytest.mark.parametrize(("drawn", "share"), [(0.0, 0.8), (1.0, 1.2)])
def test_pauses_are_spread_by_a_fifth(drawn: float, share: float) -> None:
    assert pause_before(2, error=errors.NotReady("x"), draw=lambda: drawn) == pytest.approx(0.1 * share)


def test_a_full_queue_sets_the_pause() -> None:
    assert pause_before(2, error=errors.QueueFull("x", retry_after_s=7.5)) == 7.5


def test_the_budget_ends_where_half_the_tokens_are_gone_and_refills() -> None:
    budget = RetryBudget()
    assert [budget.fail() for _ in range(6)] == [True] * 4 + [False] * 2
    for _ in range(21):
        budget.succeed()
    assert budget.fail()


def test_stages_stand_in_order_and_total_last() -> None:
    ticks = iter([0.0, 1.0, 1.5, 2.0, 2.25, 3.0])
    clock = StageClock(now=lambda: next(ticks))
    with clock.stage("decode"):
        clock.add("queue", seconds=0.125)
    with clock.stage("decode"):
        pass
    told = [(timing.stage, timing.duration_us) for timing in clock.timings()]
    assert told == [("decode", 750_000), ("queue", 125_000), ("total", 3_000_000)]


def test_a_stage_that_fails_is_counted() -> None:
    ticks = iter([0.0, 1.0, 1.5])
    clock = StageClock(now=lambda: next(ticks))
    with pytest.raises(KeyError), clock.stage("decode"):
        raise KeyError
    assert clock.seconds("decode") == 0.5


@pytest.mark.parametrize(
    ("check", "kind"),
    [
        (lambda: validate.check_present(False, field="query"), errors.FieldMissing),
        (lambda: validate.check_text("", field="text"), errors.FieldMissing),
        (lambda: validate.check_text("x" * 4097, field="text"), errors.TextTooLong),
        (lambda: validate.check_count(0, field="texts", limit=2), errors.FieldMissing),
        (lambda: validate.check_count(3, field="texts", limit=2), errors.TooManyItems),
        (lambda: validate.check_range(float("nan"), field="min_score", low=-1, high=1), errors.FieldOutOfRange),
        (lambda: validate.check_range(1.5, field="min_score", low=-1, high=1), errors.FieldOutOfRange),
        (lambda: validate.check_enum(0, kind=generator_pb2.Speaker, field="speaker"), errors.FieldOutOfRange),
        (lambda: validate.check_enum(9, kind=generator_pb2.Speaker, field="speaker"), errors.FieldOutOfRange),
        (lambda: validate.check_image_id(""), errors.FieldMissing),
        (lambda: validate.check_image_id("x" * 257), errors.FieldOutOfRange),
        (lambda: validate.check_metadata({str(n): "" for n in range(33)}), errors.FieldOutOfRange),
        (lambda: validate.check_metadata({"": "x"}), errors.FieldMissing),
        (lambda: validate.check_metadata({"k": "x" * 257}), errors.FieldOutOfRange),
        (lambda: validate.check_space("a", serving="b"), errors.EmbeddingSpaceMismatch),
    ],
)
def test_a_bad_field_is_refused_by_name(check, kind: type[errors.SightlineError]) -> None:
    with pytest.raises(kind):
        check()


def test_good_fields_pass() -> None:
    validate.check_text("x" * 4096, field="text")
    validate.check_count(2, field="texts", limit=2)
    validate.check_range(-1.0, field="min_score", low=-1, high=1)
    validate.check_enum(2, kind=generator_pb2.Speaker, field="speaker")
    validate.check_image_id("x" * 256)
    validate.check_metadata({"k": "x" * 256})
    validate.check_space("", serving="b")
    validate.check_space("b", serving="b")


def test_retries_cover_every_unary_rpc_and_no_stream() -> None:
    named = {(entry["service"], entry["method"]) for entry in service_config()["methodConfig"][0]["name"]}
    expected = {
        (service_descriptor(service).full_name, method.name)
        for service in SERVICE_NAMES
        for method in service_methods(service)
        if not method.is_streamed
    }
    assert named == expected
    assert "StreamReply" not in {method for _, method in named}


def test_the_channel_carries_the_service_config() -> None:
    options = dict(channel_options(ChannelSettings(address="x:1")))
    assert json.loads(options["grpc.service_config"]) == service_config()


def test_the_file_for_other_clients_is_the_same_config() -> None:
    path = Path(__file__).resolve().parents[3] / "protos" / "service_config.json"
    assert json.loads(path.read_text(encoding="utf-8")) == service_config()


def test_pings_stay_rarer_than_grpcs_default_policy_allows() -> None:
    assert dict(channel_options(ChannelSettings(address="x:1")))["grpc.keepalive_time_ms"] > 300_000


def test_every_service_has_an_application() -> None:
    assert set(APPLICATIONS) == set(SERVICE_NAMES)


def test_an_unknown_service_is_refused_by_name() -> None:
    with pytest.raises(errors.UsageError, match="'PainterService'"):
        service_descriptor("PainterService")


@pytest.mark.parametrize(
    "settings", [{"address": ""}, {"address": "x:1", "timeout_s": 0.0}, {"address": "x:1", "tls_ca_file": Path("a")}]
)
def test_channel_settings_that_cannot_work_are_refused(settings: dict) -> None:
    with pytest.raises(errors.SettingInvalid):
        ChannelSettings(**settings)


def record(**fields: object) -> logging.LogRecord:
    made = logging.makeLogRecord({"name": "sightline.rpc", "levelname": "INFO", "msg": "call"} | fields)
    return made


def test_a_json_line_holds_the_fields() -> None:
    line = json.loads(JsonFormatter().format(record(request_id="r-1", ms=1.5, _ray_timestamp_ns=1)))
    assert line | {"time": ""} == {
        "time": "",
        "level": "INFO",
        "logger": "sightline.rpc",
        "message": "call",
        "request_id": "r-1",
        "ms": 1.5,
    }


def test_a_line_for_people_holds_the_fields() -> None:
    assert FieldsFormatter().format(record(code="OK", _ray_timestamp_ns=1)) == "call code=OK"


@pytest.mark.parametrize("settings", [LogSettings(format="xml"), LogSettings(level="LOUD")])
def test_an_unknown_log_setting_is_refused(settings: LogSettings) -> None:
    with pytest.raises(errors.SettingInvalid):
        configure_logging(settings)


def test_calls_are_counted_by_method_and_code() -> None:
    registry = CollectorRegistry()
    metrics = CallMetrics(registry)
    metrics.observe("/a/B", code="OK", seconds=0.25)
    metrics.observe("/a/B", code="INTERNAL", seconds=0.5)
    assert registry.get_sample_value("sightline_rpc_calls_total", {"method": "/a/B", "code": "OK"}) == 1.0
    assert registry.get_sample_value("sightline_rpc_seconds_sum", {"method": "/a/B"}) == 0.75


def test_a_mirror_tells_every_sample_of_ours_again_and_nothing_else() -> None:
    registry = CollectorRegistry()
    metrics, told = CallMetrics(registry), {}
    Gauge("other_gauge", "Not ours.", registry=registry).set(1)

    class Recorded:
        def __init__(self, name: str, description: str, keys: tuple[str, ...]) -> None:
            self.name, self.keys = name, keys

        def set(self, value: float, tags: dict[str, str]) -> None:
            assert tuple(tags) == self.keys
            told[self.name, *tags.values()] = value

    mirror = MetricsMirror(Recorded, registry=registry)
    for _ in range(2):  # the second copy brings what changed
        metrics.observe("/a/B", code="OK", seconds=0.25)
        mirror.copy()
    samples = [sample for family in registry.collect() for sample in family.samples]
    ours = [sample for sample in samples if "other" not in sample.name and not sample.name.endswith("_created")]
    assert told == {(sample.name, *sample.labels.values()): sample.value for sample in ours}
    assert told["sightline_rpc_calls_total", "/a/B", "OK"] == 2.0
    assert told["sightline_rpc_seconds_bucket", "/a/B", "+Inf"] == 2.0
