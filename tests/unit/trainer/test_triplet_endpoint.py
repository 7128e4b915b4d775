"""Triplets from an endpoint that fails in every way: complete in the end, each once, and the key nowhere."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sightline.data.captions import CaptionRecord
from sightline.data.edits import EDIT_TYPES, read_edits
from sightline.errors import SettingInvalid, UsageError
from sightline.language.asking import Problem
from sightline.language.endpoint import EndpointSettings, retry_after_s
from sightline.settings import read_settings
from tests.unit.trainer.completions import Reply, StandIn, completion, edit_of, served, wait_until
from trainer.triplets.asking import Pair
from trainer.triplets.ledger import Ledger
from trainer.triplets.model_generator import by_endpoint
from trainer.triplets.planning import plan
from trainer.triplets.run import CircuitBreaker, RunStopped, run

KEY = "sk-very-secret-0123456789"
ROOT = Path(__file__).resolve().parents[3]


def captions(count: int) -> list[CaptionRecord]:
    return [
        CaptionRecord(image_id=f"p{n}", path=Path("x.png"), caption=f"a dog beside {n} tall trees")
        for n in range(count)
    ]


def caption_number(body: dict[str, Any]) -> int:
    """Which of `captions` a request is about."""
    said = " ".join(message["content"] for message in body["messages"])
    return int(re.findall(r"a dog beside (\d+) tall trees", said)[-1])


def settings(server: StandIn, **changes: Any) -> EndpointSettings:
    base = EndpointSettings(
        base_url=server.base_url, model="stand-in", api_key=KEY, num_parallel=4, read_timeout_s=20.0, backoff_s=8.0
    )
    return replace(base, **changes)


def make(server: StandIn, out: Path, *, count: int = 8, **changes: Any) -> tuple[Ledger, list[float]]:
    """One whole run; (its ledger, every wait that it asked for)."""
    waits: list[float] = []
    generator = by_endpoint(settings(server, **changes), seed=0, sleep=waits.append)
    ledger = Ledger(out, name=generator.name, about={"prompt_digest": generator.prompt_digest})
    try:
        run(plan(captions(count), generator)[0], generator, ledger=ledger, count_tokens=lambda text: len(text.split()))
    finally:
        ledger.close()
    return ledger, waits


def test_a_run_over_every_kind_of_failure_ends_complete_with_each_record_once(tmp_path: Path) -> None:
    faults: list[Reply] = [
        (0, {}, b""),
        (429, {"retry-after": "17"}, b"slow down"),
        (500, {}, b"oops"),
        (200, {}, b"<html>no completion</html>"),
        completion("Sure! Here is the edit: make it red"),
        completion('{"modification": "make it red"}'),
        (429, {"retry-after": f"Mon, 01 Jan {'9' * 20} 00:00:00 GMT"}, b"much later"),
        (200, {"content-length": "5000"}, completion("cut off on the way")[2]),
        completion('{"modification": "make it', finish_reason="length"),
        completion(f'{{"modification": {"1" * 5000}, "target_caption": "a red dog"}}'),
    ]

    met: set[int] = set()

    def behaviour(number: int, body: dict[str, Any]) -> Reply:
        asked = caption_number(body)
        is_new = asked not in met
        met.add(asked)
        return faults[asked] if is_new and asked < len(faults) else edit_of(body)

    with served(behaviour) as server:
        ledger, waits = make(server, tmp_path / "edits.jsonl", count=16, read_timeout_s=0.8)
    records = read_edits(tmp_path / "edits.jsonl")
    assert sorted(record.image_id for record in records) == sorted(f"p{n}" for n in range(16))
    # On a busy machine a good answer may be late too, and is asked for again.
    assert len(waits) == len(server.requests) - 20 >= 6
    assert max(waits) == 17.0
    assert ledger.cost.requests == len(server.requests)
    assert ledger.cost.prompt_tokens == 20 * 100, "sixteen answers and four that were asked for again"


def test_a_finished_run_called_again_asks_nothing_and_changes_no_byte(tmp_path: Path) -> None:
    out = tmp_path / "edits.jsonl"
    with served(lambda number, body: edit_of(body)) as server:
        make(server, out)
        asked, before = len(server.requests), [path.read_bytes() for path in sorted(tmp_path.iterdir())]
        make(server, out)
        assert len(server.requests) == asked == 8
    assert [path.read_bytes() for path in sorted(tmp_path.iterdir())] == before


def test_types_are_asked_for_alike_and_the_schema_and_key_are_sent(tmp_path: Path) -> None:
    with served(lambda number, body: edit_of(body)) as server:
        ledger, _ = make(server, tmp_path / "edits.jsonl", count=24)
        body = server.requests[0]
    assert ledger.accepted == dict.fromkeys(EDIT_TYPES, 3)
    assert body["response_format"]["json_schema"]["schema"]["required"] == ["modification", "target_caption"]
    assert set(server.authorizations) == {f"Bearer {KEY}"}


@pytest.mark.parametrize(("name", "sent"), [("json_object", {"type": "json_object"}), ("none", None)])
def test_an_endpoint_that_knows_no_schemas_can_be_asked_without(tmp_path: Path, name: str, sent: Any) -> None:
    environ = {"SIGHTLINE_TRIPLETS_MODEL": "m", "SIGHTLINE_TRIPLETS_RESPONSE_FORMAT": name}
    with served(lambda number, body: edit_of(body)) as server:
        environ["SIGHTLINE_TRIPLETS_BASE_URL"] = server.base_url
        generator = by_endpoint(read_settings(EndpointSettings, section="triplets", environ=environ), seed=0)
        answer = generator.propose(plan(captions(1), generator)[0])[0]
    assert isinstance(answer.result, Pair)
    assert server.requests[0].get("response_format") == sent


def test_a_response_format_that_nobody_knows_is_refused() -> None:
    with pytest.raises(SettingInvalid, match="got 'yaml', expected one of json_schema, json_object, none"):
        EndpointSettings(base_url="http://h:1", model="m", response_format="yaml")


def test_a_refused_answer_is_asked_for_once_more_with_the_reason_and_then_dropped(tmp_path: Path) -> None:
    def behaviour(number: int, body: dict[str, Any]) -> Reply:
        is_bad = "p" in body["model"] and "beside 3 tall" in json.dumps(body["messages"])
        return completion("not json") if is_bad else edit_of(body)

    with served(behaviour) as server:
        ledger, _ = make(server, tmp_path / "edits.jsonl", model="p")
        again = [body for body in server.requests if "That cannot be used" in body["messages"][-1]["content"]]
    assert len(server.requests) == 9
    assert "not one JSON object" in again[0]["messages"][-1]["content"]
    assert ledger.reasons == {"not_json": 1}
    row = json.loads(ledger.rejected_path.read_text())
    assert (row["image"], row["reason"]) == ("p3", "not_json")


@pytest.mark.parametrize("escapes", [1, 2])  # in the completion's text, and in the JSON object that this text holds
def test_half_a_letter_is_refused_and_asked_for_again_in_letters_that_can_be_sent(tmp_path: Path, escapes: int) -> None:
    half = "\ud83d" if escapes == 1 else "\\ud83d"
    bad = completion(f'{{"modification": "add {half}", "target_caption": "a dog with a red kite"}}')
    with served(lambda number, body: bad if number == 0 else edit_of(body)) as server:
        make(server, tmp_path / "edits.jsonl", count=1)
        again = server.requests[1]["messages"][-2:]
    assert "half a letter" in again[1]["content"]
    assert again[0]["content"].isprintable()
    assert len(read_edits(tmp_path / "edits.jsonl")) == 1


@pytest.mark.parametrize(
    "nonsense",
    [
        (200, {"content-encoding": "gzip"}, b"this was never packed"),
        (200, {}, completion("{}")[2].replace(b"100", b"1e999")),
    ],
)
def test_a_response_that_makes_no_sense_is_asked_for_again(tmp_path: Path, nonsense: Reply) -> None:
    with served(lambda number, body: nonsense if number == 0 else edit_of(body)) as server:
        ledger, waits = make(server, tmp_path / "edits.jsonl", count=1)
    assert (len(waits), ledger.cost.requests) == (1, 2)
    assert len(read_edits(tmp_path / "edits.jsonl")) == 1


def test_an_ask_that_nobody_answers_stays_open_for_the_next_run(tmp_path: Path) -> None:
    out, is_up = tmp_path / "edits.jsonl", False

    def behaviour(number: int, body: dict[str, Any]) -> Reply:
        return edit_of(body) if is_up or "beside 5 tall" not in json.dumps(body["messages"]) else (503, {}, b"")

    with served(behaviour) as server:
        with pytest.raises(UsageError, match="1 asks got no answer"):
            make(server, out)
        asked, is_up = len(server.requests), True
        make(server, out)
        assert len(server.requests) == asked + 1
    assert len(read_edits(out)) == 8


def test_the_breaker_stops_a_run_of_failures_and_leaves_what_was_written_valid(tmp_path: Path) -> None:
    def behaviour(number: int, body: dict[str, Any]) -> Reply:
        return edit_of(body) if number < 20 else (500, {}, b"down")

    with served(behaviour) as server, pytest.raises(RunStopped, match="status 500"):
        make(server, tmp_path / "edits.jsonl", count=400, max_attempts=1)
    assert len(server.requests) < 160
    assert len(read_edits(tmp_path / "edits.jsonl")) == 20
    assert json.loads((tmp_path / "edits.card.json").read_text())["is_complete"] is False


def test_the_breaker_opens_at_more_than_half_of_its_window() -> None:
    breaker, bad = CircuitBreaker(window=4), Problem(reason="x", is_failure=True)
    for result in (bad, Pair(modification="a", target_caption="b"), bad, Problem(reason="url"), bad):
        breaker.note(result)
    with pytest.raises(RunStopped):
        breaker.note(bad)


@pytest.mark.parametrize("status", [401, 403, 404, 302])
def test_a_wrong_key_or_path_ends_the_run_at_once_without_the_key(tmp_path: Path, status: int) -> None:
    echo = f"bad key {KEY}".encode()
    with served(lambda number, body: (status, {"location": "http://elsewhere.invalid/"}, echo)) as server:
        with pytest.raises(UsageError) as caught:
            make(server, tmp_path / "edits.jsonl", num_parallel=1)
        assert len(server.requests) == 1
    assert str(status) in caught.value.message
    assert KEY not in "".join(traceback.format_exception(caught.value))


def test_the_key_never_appears_in_files_logs_or_settings(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    def behaviour(number: int, body: dict[str, Any]) -> Reply:
        return (500, {}, KEY.encode()) if number == 0 else completion(KEY) if number < 4 else edit_of(body)

    with served(behaviour) as server:
        make(server, tmp_path / "edits.jsonl")
        shown = repr(settings(server))
    written = "".join(path.read_text() for path in tmp_path.iterdir())
    assert KEY not in written + caplog.text + shown


def test_settings_come_from_the_environment_and_a_bad_one_never_shows_the_key() -> None:
    environ = {"SIGHTLINE_TRIPLETS_BASE_URL": "http://h:1/v1", "SIGHTLINE_TRIPLETS_MODEL": "m"}
    environ["SIGHTLINE_TRIPLETS_API_KEY"] = KEY
    assert read_settings(EndpointSettings, section="triplets", environ=environ).api_key == KEY
    bad = {"API_KEY": f"{KEY}\n", "BASE_URL": f"http://user:{KEY}@h", "MODEL": " ", "NUM_PARALLEL": "65"}
    for name, value in bad.items():
        with pytest.raises(SettingInvalid) as caught:
            read_settings(EndpointSettings, section="triplets", environ=environ | {f"SIGHTLINE_TRIPLETS_{name}": value})
        assert KEY not in "".join(traceback.format_exception(caught.value))


def test_retry_after_is_read_as_seconds_or_a_date_within_limits() -> None:
    assert retry_after_s("12", now=0) == 12.0
    assert retry_after_s("Thu, 01 Jan 1970 00:01:40 GMT", now=40) == 60.0
    assert [retry_after_s(value, now=0) for value in ("", "soon", "-3", "nan", "1e9")] == [0, 0, 0, 0, 300]


# Only what the run itself needs: the command imports torch, which takes seconds.
ONE_RUN = """
import sys
from pathlib import Path
from sightline.settings import read_settings
from tests.unit.trainer.test_triplet_endpoint import captions
from sightline.language.endpoint import EndpointSettings
from trainer.triplets.model_generator import by_endpoint
from trainer.triplets.ledger import Ledger
from trainer.triplets.planning import plan
from trainer.triplets.run import run
generator = by_endpoint(read_settings(EndpointSettings, section="triplets"), seed=0)
ledger = Ledger(Path(sys.argv[1]), name=generator.name, about={})
run(plan(captions(30), generator)[0], generator, ledger=ledger, count_tokens=len)
"""


@pytest.mark.slow  # two processes
def test_a_run_killed_half_way_goes_on_and_writes_each_record_once(tmp_path: Path) -> None:
    out = tmp_path / "edits.jsonl"
    words = [sys.executable, "-c", ONE_RUN, str(out)]

    def behaviour(number: int, body: dict[str, Any]) -> Reply:
        return edit_of(body) if number != 12 else (0, {}, b"")

    with served(behaviour) as server:
        named = {"BASE_URL": server.base_url, "MODEL": "stand-in", "API_KEY": KEY, "NUM_PARALLEL": "1"}
        environ = os.environ | {f"SIGHTLINE_TRIPLETS_{name}": value for name, value in named.items()}
        child = subprocess.Popen(words, cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        wait_until(lambda: len(server.requests) >= 13)
        child.send_signal(signal.SIGKILL)
        first_output = child.communicate()[0].decode()
        assert len(read_edits(out)) == 12
        with out.open("ab") as file:
            file.write(b'{"id": "torn')
        done = subprocess.run(words, cwd=ROOT, env=environ, capture_output=True, text=True, check=True)
        assert len(server.requests) == 31
    assert sorted(record.image_id for record in read_edits(out)) == sorted(f"p{n}" for n in range(30))
    card = json.loads((tmp_path / "edits.card.json").read_text())
    assert (card["accepted"], card["is_complete"], card["generator"]["model"]) == (30, True, "stand-in")
    assert KEY not in first_output + done.stdout + done.stderr + (tmp_path / "edits.card.json").read_text()


def test_a_server_that_trickles_is_given_up(tmp_path: Path) -> None:
    ticks = iter(range(1000))
    with served(lambda number, body: edit_of(body)) as server:
        slow = by_endpoint(settings(server), seed=0, sleep=lambda s: None, clock=lambda: 60.0 * next(ticks))
        answer = slow.propose(plan(captions(1), slow)[0])[0]
    assert "took longer than 20.0 s" in getattr(answer.result, "detail", "")


def test_two_runs_of_one_file_are_refused(tmp_path: Path) -> None:
    with served(lambda number, body: edit_of(body)) as server:
        generator = by_endpoint(settings(server), seed=0)
    first = Ledger(tmp_path / "edits.jsonl", name=generator.name, about={})
    with pytest.raises(UsageError, match="another run"):
        Ledger(tmp_path / "edits.jsonl", name=generator.name, about={})
    first.close()


def test_a_file_of_another_generator_is_refused(tmp_path: Path) -> None:
    with served(lambda number, body: edit_of(body)) as server:
        make(server, tmp_path / "edits.jsonl")
        with pytest.raises(UsageError, match="was begun with generator"):
            make(server, tmp_path / "edits.jsonl", model="other")
