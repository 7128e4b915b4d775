from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench.load.__main__ import app
from bench.load.traffic import DEFAULT_TEXTS, read_texts
from sightline.errors import DependencyUnavailable, QueueFull, UsageError
from sightline.rpc.aio_host import AioHost, ServiceBinding
from sightline.rpc.context import CallContext
from sightline.rpc.host_settings import HostSettings
from sightline.testing.encoder import FakeEncoder
from sightline.v1 import generator_pb2 as pb
from sightline.v1 import retriever_pb2


class ToyGenerator:
    """Streams two chunks, and refuses every fourth call."""

    calls = 0

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass

    def is_ready(self) -> bool:
        return True

    async def StreamReply(self, request: pb.StreamReplyRequest, call: CallContext) -> AsyncIterator[object]:
        self.calls += 1
        if self.calls > 4 and self.calls % 4 == 0:
            raise QueueFull("full", retry_after_s=0.1, limit=1)
        yield pb.StreamReplyResponse(header=pb.ReplyHeader())
        for seq in range(2):
            yield pb.StreamReplyResponse(chunk=pb.TextChunk(seq=seq, text="a"))
        yield pb.StreamReplyResponse(finish=pb.ReplyFinish(finish_reason=pb.FINISH_REASON_STOP))

    async def Reply(self, request: pb.ReplyRequest, call: CallContext) -> pb.ReplyResponse:
        return pb.ReplyResponse()

    DescribeGenerator = Reply


class ToyRetriever(ToyGenerator):
    async def SearchImages(
        self, request: retriever_pb2.SearchImagesRequest, call: CallContext
    ) -> retriever_pb2.SearchImagesResponse:
        return retriever_pb2.SearchImagesResponse()

    UpsertImages = DeleteImages = GetImage = ListImages = DescribeIndex = SearchImages


@pytest.fixture
async def address() -> AsyncIterator[str]:
    bindings = [
        ServiceBinding(service="EncoderService", servicer=FakeEncoder()),
        ServiceBinding(service="RetrieverService", servicer=ToyRetriever()),
        ServiceBinding(service="GeneratorService", servicer=ToyGenerator()),
    ]
    host = AioHost(bindings, HostSettings(grace_s=1.0))
    await host.start()
    yield host.address
    await host.drain_and_stop()


async def run(*arguments: str) -> object:
    """The outcome of the command, run beside the services that it loads."""
    return await asyncio.to_thread(CliRunner().invoke, app, [str(argument) for argument in arguments])


async def test_the_report_says_what_each_kind_of_call_met(address: str, tmp_path: Path) -> None:
    mix = "chat=1,search=1,encode=1,picture=1"
    done = await run("--address", address, "--mix", mix, "--rate", 100, "--duration-s", 0.5, "--out", tmp_path)
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "load.json").read_text())
    [measured] = report["runs"]
    assert measured["total"]["calls"] == 50
    assert measured["kinds"].keys() == {"chat", "search", "encode", "picture"}
    assert measured["kinds"]["chat"]["codes"].keys() == {"OK", "RESOURCE_EXHAUSTED QUEUE_FULL"}
    assert measured["kinds"]["chat"]["first_text"]["p50_ms"] > 0
    assert all(measured["kinds"][kind]["codes"].keys() == {"OK"} for kind in ("search", "encode", "picture"))
    assert report["facts"]["retries"] == "none"


async def test_a_sweep_shows_the_knee_in_a_page_of_its_own(address: str, tmp_path: Path) -> None:
    sweep = ("--sweep", "--sweep-steps", 2, "--sweep-factor", 2, "--pause-s", 0)
    wish = ("--address", address, "--mix", "encode=1", "--rate", 20, "--duration-s", 0.3, "--out", tmp_path)
    done = await run(*wish, *sweep)
    assert done.exit_code == 0, done.output
    # Which of the two rates it is depends on how busy the machine is.
    assert json.loads((tmp_path / "load.json").read_text())["knee_rate"] in {20.0, 40.0}
    page = (tmp_path / "load.html").read_text()
    assert page.count("data:image/svg+xml;base64,") == 3
    assert "http" not in page  # opens without a network


async def test_a_service_that_is_not_there_is_said_so_at_once(tmp_path: Path) -> None:
    done = await run("--address", "127.0.0.1:1", "--mix", "encode=1", "--out", tmp_path)
    assert isinstance(done.exception, DependencyUnavailable)


async def test_strangers_are_not_loaded_without_a_word(tmp_path: Path) -> None:
    done = await run("--address", "192.0.2.1:9000", "--out", tmp_path)
    assert isinstance(done.exception, UsageError)


def test_texts_come_from_dialogues_or_plain_lines(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text('{"context": ["hello", "what is it ?"]}\n\n{"text": "a red ball"}\n')
    assert read_texts(path) == ["hello what is it ?", "a red ball"]
    assert read_texts(None) == list(DEFAULT_TEXTS)
