from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from sightline.cli import app
from sightline.cli.chat import Chat
from sightline.cli.chat_view import Screen, printable
from sightline.client import ReplyHeader, ReplyText, Served, UsedImage
from sightline.errors import CapabilityMissing, DependencyUnavailable, FieldOutOfRange, UsageError
from sightline.rpc.aio_host import AioHost, ServiceBinding
from sightline.rpc.context import CallContext
from sightline.rpc.host_settings import HostSettings
from sightline.v1 import common_pb2, retriever_pb2
from sightline.v1 import generator_pb2 as pb


class Parrot:
    """Says how many turns it heard, what it was to look at, and the last turn."""

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass

    def is_ready(self) -> bool:
        return True

    async def StreamReply(self, request: pb.StreamReplyRequest, call: CallContext) -> AsyncIterator[object]:
        if not 0 <= request.k <= 8:
            raise FieldOutOfRange("k: got 9, expected 1 to 8", field="k", value=9, limit="1 to 8")
        images = [] if request.grounding == pb.GROUNDING_NONE else [_image(request)]
        yield pb.StreamReplyResponse(header=pb.ReplyHeader(images=images))
        words = f"{len(request.dialogue)} turns, {request.k} wanted: {request.dialogue[-1].text}"
        for seq, word in enumerate(words.split(" ")):
            yield pb.StreamReplyResponse(chunk=pb.TextChunk(seq=seq, text=word + " "))
        yield pb.StreamReplyResponse(finish=pb.ReplyFinish(finish_reason=pb.FINISH_REASON_STOP))

    Reply = DescribeGenerator = StreamReply


class Shelf:
    """Finds two pictures for every edit, and keeps what it was asked; it has no composer for what is "impossible"."""

    def __init__(self) -> None:
        self.asked: list[retriever_pb2.ComposedSearch] = []

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass

    def is_ready(self) -> bool:
        return True

    async def SearchImages(self, request: retriever_pb2.SearchImagesRequest, call: CallContext) -> Any:
        if "impossible" in request.composed.edit.texts:
            raise CapabilityMissing("this encoder has no composer", detail="composer")
        self.asked.append(request.composed)
        hits = [common_pb2.ScoredImage(image_id=f"{name}-{len(self.asked)}", score=0.5) for name in ("best", "second")]
        return retriever_pb2.SearchImagesResponse(images=hits[: request.k])

    UpsertImages = DeleteImages = GetImage = ListImages = DescribeIndex = SearchImages


def _image(request: pb.StreamReplyRequest) -> pb.UsedImage:
    if request.image_ids:
        return pb.UsedImage(image_id=request.image_ids[-1], score=0.2, weight=1.0)
    if request.HasField("picture"):
        return pb.UsedImage(weight=1.0)
    metadata = {"caption": "a mill \x1b[31mby the river"}
    return pb.UsedImage(image_id="mill-7", score=0.31, weight=0.75, metadata=metadata)


@pytest.fixture
async def address() -> AsyncIterator[str]:
    host = AioHost([ServiceBinding(service="GeneratorService", servicer=Parrot())], HostSettings(grace_s=1.0))
    await host.start()
    yield host.address
    await host.drain_and_stop()


@pytest.fixture
async def shelf() -> AsyncIterator[tuple[Shelf, str]]:
    """A retriever's servicer and its address."""
    servicer = Shelf()
    host = AioHost([ServiceBinding(service="RetrieverService", servicer=servicer)], HostSettings(grace_s=1.0))
    await host.start()
    yield servicer, host.address
    await host.drain_and_stop()


@pytest.fixture
def red_picture(tmp_path: Path) -> Path:
    path = tmp_path / "red.png"
    Image.new("RGB", (4, 4), "red").save(path)
    return path


async def chat(address: str, *arguments: object, lines: str = "") -> Any:
    words = ["chat", "--generator", address, *map(str, arguments)]
    return await asyncio.to_thread(CliRunner().invoke, app, words, input=lines)


async def test_each_line_of_a_pipe_is_a_turn_and_the_bot_remembers(address: str) -> None:
    done = await chat(address, lines="what is it ?\n\nand now ?\n")
    assert done.exit_code == 0, done.output
    said = [line for line in done.output.splitlines() if line.startswith("bot>")]
    assert [line.strip() for line in said] == [
        "bot> 1 turns, 3 wanted: what is it ?",
        "bot> 3 turns, 3 wanted: and now ?",
    ]


async def test_the_pictures_behind_an_answer_are_shown_without_their_control_characters(address: str) -> None:
    done = await chat(address, "--once", "what is it ?")
    assert "  looked at mill-7 score 0.31 weight 0.75 caption: a mill [31mby the river" in done.output
    assert "\x1b" not in done.output


async def test_a_shown_picture_is_looked_at_until_it_is_put_away(address: str, red_picture: Path) -> None:
    done = await chat(address, lines=f"/look {red_picture}\none\ntwo\n/pictures retrieve\nthree\n")
    looked = [line.split(" score")[0] for line in done.output.splitlines() if "looked at" in line]
    assert looked == ["  looked at your picture", "  looked at your picture", "  looked at mill-7"]


async def test_a_follow_up_starts_from_the_best_picture_shown_last(
    address: str, shelf: tuple[Shelf, str], red_picture: Path
) -> None:
    servicer, retriever = shelf
    lines = "what is it ?\nlike that one, but red\nthe same without the car\n"
    done = await chat(address, "--retriever", retriever, lines=f"{lines}/look {red_picture}\nmore like this\n")
    assert done.exit_code == 0, done.output
    assert [one.image_id for one in servicer.asked] == ["mill-7", "best-1", ""]
    assert servicer.asked[2].picture.data == red_picture.read_bytes()
    assert [list(one.edit.texts) for one in servicer.asked] == [["red"], [], []]
    assert [list(one.edit.negative_texts) for one in servicer.asked] == [[], ["the car"], []]
    # What was found is shown, and the reply looks at it.
    assert "[found; best-1 0.50; second-1 0.50]" in done.output
    looked = [line.split(" score")[0] for line in done.output.splitlines() if "looked at" in line]
    assert looked == [f"  looked at {name}" for name in ("mill-7", "second-1", "second-2", "second-3")]


async def test_a_follow_up_that_cannot_be_one_is_a_question(address: str, shelf: tuple[Shelf, str]) -> None:
    servicer, retriever = shelf
    lines = "like that one, but red\nthe same but impossible\n/pictures none\nthe same but blue\n"
    done = await chat(address, "--retriever", retriever, lines=lines)
    assert done.exit_code == 0, done.output
    assert servicer.asked == []
    assert "[no picture was shown yet: taking this as a question]" in done.output
    assert "[this encoder has no composer: taking this as a question]" in done.output
    assert len([line for line in done.output.splitlines() if line.startswith("bot>")]) == 3


async def test_no_picture_is_looked_at_where_none_is_wanted(address: str) -> None:
    done = await chat(address, "--pictures", "none", "--once", "hello")
    assert "looked at" not in done.output


async def test_reset_forgets_and_quit_leaves(address: str) -> None:
    done = await chat(address, lines="one\n/reset\ntwo\n/quit\nnever\n")
    assert "1 turns, 3 wanted: two" in done.output
    assert "never" not in done.output


async def test_save_writes_the_conversation_with_its_pictures(address: str, tmp_path: Path) -> None:
    await chat(address, lines=f"what is it ?\n/save {tmp_path / 'talk.json'}\n")
    turns = json.loads((tmp_path / "talk.json").read_text())["turns"]
    assert [turn["speaker"] for turn in turns] == ["user", "bot"]
    assert turns[1]["images"][0]["image_id"] == "mill-7"


async def test_json_lines_are_one_object_a_reply(address: str) -> None:
    done = await chat(address, "--json", lines="one\n/reset\ntwo\n")
    replies = [json.loads(line) for line in done.output.splitlines()]
    assert [reply["text"].strip() for reply in replies] == ["1 turns, 3 wanted: one", "1 turns, 3 wanted: two"]
    assert replies[0]["finish_reason"] == "stop"


async def test_refusals_end_a_script_with_the_services_reason(address: str) -> None:
    done = await chat(address, "--k", 9, "--once", "hello")
    assert isinstance(done.exception, FieldOutOfRange)


async def test_a_service_that_is_not_there_is_named(tmp_path: Path) -> None:
    done = await chat("127.0.0.1:1", "--once", "hello")
    assert isinstance(done.exception, DependencyUnavailable)


@pytest.mark.parametrize(
    "line", ["/dance", "/look", "/look nowhere.png", "/pictures some", "/save", "/save /no/such/x"]
)
def test_a_bad_command_says_what_was_expected(line: str) -> None:
    with pytest.raises(UsageError):
        bot(io.StringIO()).handle(line)


class ScriptedClient:
    """Answers by a script; everything that was asked is kept."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def stream_reply(self, dialogue: list[object], **options: object) -> Iterator[object]:
        self.asked.append(len(dialogue))
        served = Served(release_id="", generation=1, embedding_space_id="", request_id="")
        image = UsedImage(image_id="mill-7", score=0.3, weight=1.0, metadata={"caption": "a mill"})
        yield ReplyHeader(images=(image,), served=served)
        yield ReplyText(text="it is [bold]red[/bold] .")


def bot(out: io.StringIO, client: Any = None) -> Chat:
    console = Console(file=out, force_terminal=True, width=100, color_system=None)
    return Chat(client or ScriptedClient(), Screen(console), options={})


def test_a_terminal_shows_the_text_as_it_was_said_and_the_pictures_below() -> None:
    out = io.StringIO()
    bot(out).handle("what colour is the mill ?")
    assert "bot> it is [bold]red[/bold] ." in out.getvalue()
    assert "mill-7" in out.getvalue()
    assert "██████████ 1.00" in out.getvalue()


def test_a_long_conversation_is_sent_as_far_as_a_call_may_carry_it() -> None:
    client = ScriptedClient()
    talk = bot(io.StringIO(), client)
    for _ in range(40):
        talk.handle("and now ?")
    assert client.asked[:3] == [1, 3, 5]
    assert max(client.asked) == 64


def test_control_characters_are_not_printable() -> None:
    assert printable("a\x1b[2Jb\x07c\u202e") == "a[2Jbc"
