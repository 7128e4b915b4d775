"""GeneratorService keeps its contract on both hosts: groundings, limits, every reason, cancel, deadline, drain.

A toy retriever answers as the dialogue's last word tells it, and puts what it was
asked into its pictures' metadata, which the generator hands on to the caller.
"""

from __future__ import annotations

import asyncio
import functools
import io
import threading
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image

from generator_svc.encoder_client import EncoderClient
from generator_svc.engine import ReplyEngine
from generator_svc.evidence import EvidenceGatherer
from generator_svc.retriever_client import RetrieverClient
from generator_svc.servicer import GeneratorServicer
from generator_svc.settings import GeneratorSettings
from sightline.errors import (
    CapabilityMissing,
    DataCorrupt,
    DeadlinePassed,
    DependencyUnavailable,
    EmbeddingSpaceMismatch,
    FieldMissing,
    FieldOutOfRange,
    ImageNotFound,
    IndexEmpty,
    InternalError,
    NotReady,
    PictureTooLarge,
    PictureTooManyPixels,
    PictureUnreadable,
    QueueFull,
    SightlineError,
    TextTooLong,
    TooManyItems,
    TooManyTurns,
)
from sightline.limits import MAX_PICTURE_BYTES
from sightline.registry import Loaded, ReloadState
from sightline.rpc.context import CallContext
from sightline.rpc.status import error_from_rpc
from sightline.rpc.tensors import tensor_to_proto
from sightline.testing.encoder import FIRST_SPACE, NUM_TOKENS, SECOND_SPACE, TOKEN_WIDTH, FakeEncoder
from sightline.v1 import common_pb2, retriever_pb2
from sightline.v1 import generator_pb2 as pb
from sightline.v1 import generator_pb2_grpc as pb_grpc

OTHER_SPACE = "cccccccccccccccc"
LEAVES = 6
"""How often a caller leaves: a host that heeds only some cancels must fail here, not once in a while elsewhere."""
STEP_S = {"slowly": 0.01, "very slowly": 0.1}
"""What a step takes by wish; the longest reply at the slower pace outlasts a slow machine's notice of who left."""


class ScriptedModel:
    """Answers as the last turn tells: counts to max_new_tokens, or tells how many steps it ever took."""

    def __init__(self, space_id: str, *, floor: float) -> None:
        self.embedding_space_id = space_id
        self.context_length = 64
        self.num_image_tokens = NUM_TOKENS
        self.image_token_width = TOKEN_WIDTH
        self.min_score = floor
        self.steps = 0
        self._slowly = threading.Event()

    def prepare(self, turns: list[str], images: list[Any]) -> Any:
        weights = np.exp([10 * image.score for image in images])
        return SimpleNamespace(
            turns=turns,
            context_tokens=sum(len(turn.split()) for turn in turns),
            dropped_turns=0,
            image_weights=list(weights / weights.sum()),
        )

    def stream(
        self, prepared: Any, *, max_new_tokens: int, should_stop: Callable[[], bool]
    ) -> Generator[str, None, Any]:
        wish = prepared.turns[-1]
        if wish == "fail":
            raise ArithmeticError("secret")
        words = [f"{self.steps}"] if wish == "steps" else [f"{number} " for number in range(max_new_tokens)]
        for taken, word in enumerate(words):
            if should_stop():
                return SimpleNamespace(text="".join(words[:taken]), finish_reason="cancelled", num_tokens=taken)
            if wish in STEP_S:
                self._slowly.wait(STEP_S[wish])
            self.steps += wish != "steps"
            yield word
        reason = "stop" if wish == "steps" else "length"
        return SimpleNamespace(text="".join(words), finish_reason=reason, num_tokens=len(words))

    def generate(self, prepared: Any, *, max_new_tokens: int, num_beams: int, should_stop: Callable[[], bool]) -> Any:
        steps = self.stream(prepared, max_new_tokens=max_new_tokens, should_stop=should_stop)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                return end.value


class TwoReleases:
    """Stands in for the reloader: the releases of two spaces are loaded, the newest first."""

    def __init__(self, *, is_ready: bool, floor: float) -> None:
        self.is_ready = is_ready
        spaces = ((FIRST_SPACE, 2), (SECOND_SPACE, 1))
        self._loaded = [_loaded(space_id, generation=generation, floor=floor) for space_id, generation in spaces]

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass

    @contextmanager
    def lease(self, space_id: str | None = None) -> Iterator[Any]:
        if not self.is_ready:
            raise NotReady("no release is loaded yet")
        for loaded in self._loaded:
            if space_id in {None, loaded.value.embedding_space_id}:
                yield loaded
                return
        raise EmbeddingSpaceMismatch("embedding space", expected=FIRST_SPACE, got=space_id)

    def status(self) -> ReloadState:
        return ReloadState(phase="idle", serving_generation=2, reloads=2, failures=0, quarantined=(), last_error="")


def _loaded(space_id: str, *, generation: int, floor: float) -> Any:
    manifest = SimpleNamespace(
        release_id="sha256-" + space_id[0] * 64, embedding_space_id=space_id, architecture={"context_length": 77}
    )
    return Loaded(value=ScriptedModel(space_id, floor=floor), manifest=manifest, generation=generation)


class ToyRetriever:
    """Holds pictures a to h; the last word of the query may name what is to go wrong."""

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass

    def is_ready(self) -> bool:
        return True

    async def SearchImages(
        self, request: retriever_pb2.SearchImagesRequest, call: CallContext
    ) -> retriever_pb2.SearchImagesResponse:
        word = request.text.split()[-1]
        failures: dict[str, SightlineError] = {
            "empty": IndexEmpty("the index holds no picture"),
            "down": NotReady("no collection"),
            "corrupt": DataCorrupt("checksum", detail="x"),
            "busy": QueueFull("searches", retry_after_s=0.25, limit=1),
        }
        if word in failures:
            raise failures[word]
        if word == "hang":
            await asyncio.Event().wait()
        space_id = {"second": SECOND_SPACE, "foreign": OTHER_SPACE}.get(word, FIRST_SPACE)
        wanted = [value for condition in request.filter.must for value in condition.any_of]
        stored = [image_id for image_id in "abcdefgh" if not wanted or image_id in wanted]
        asked = {
            "query": request.text,
            "k": str(request.k),
            "min_score": f"{request.min_score:.2f}",
            "request_id": call.request_id,
            "trace": call.traceparent,
            "has_deadline": str(call.time_remaining() is not None),
        }
        images = [
            common_pb2.ScoredImage(image_id=name, score=0.9 - 0.1 * rank, metadata=asked, tokens=_tokens(word))
            for rank, name in enumerate(stored[: request.k])
        ]
        return retriever_pb2.SearchImagesResponse(images=images, served=common_pb2.Served(embedding_space_id=space_id))

    UpsertImages = DeleteImages = GetImage = ListImages = DescribeIndex = SearchImages


def _tokens(word: str) -> common_pb2.Tensor | None:
    if word == "tokenless":
        return None
    width = TOKEN_WIDTH + (word == "wide")
    tensor = tensor_to_proto(np.ones((NUM_TOKENS, width), dtype=np.float16))
    if word == "malformed":
        tensor.data = b"x"
    return tensor


def make_generator(
    retriever: Any,
    encoder: Any,
    *,
    is_ready: bool = True,
    space_wait_s: float = 0.0,
    max_queued: int = 8,
    min_score: float | None = 0.1,
    release_floor: float = -1.0,
) -> GeneratorServicer:
    settings = GeneratorSettings(
        flush_ms=0.0,
        min_score=min_score,
        max_concurrent_replies=1,
        max_queued_replies=max_queued,
        space_wait_s=space_wait_s,
    )
    releases: Any = TwoReleases(is_ready=is_ready, floor=release_floor)
    gatherer = EvidenceGatherer(
        releases=releases,
        retriever=RetrieverClient(retriever),
        encoder=EncoderClient(encoder),
        space_wait_s=settings.space_wait_s,
    )
    return GeneratorServicer(settings=settings, reloader=releases, engine=ReplyEngine(settings), gatherer=gatherer)


class Caller:
    """The service as a caller sees it."""

    def __init__(self, endpoint: Any) -> None:
        self.remote = endpoint.remote
        self.application = endpoint.settings.application
        self.stub = pb_grpc.GeneratorServiceStub(endpoint.remote.channel)

    async def reply(self, text: str = "what is it", *, timeout_s: float = 20.0, **fields: Any) -> pb.ReplyResponse:
        request = pb.ReplyRequest(**{"dialogue": [turn(text)], **fields})
        return await self.remote.unary(self.stub.Reply, request, timeout_s=timeout_s)

    def stream(
        self, text: str = "what is it", *, timeout_s: float = 20.0, **fields: Any
    ) -> AsyncIterator[pb.StreamReplyResponse]:
        request = pb.StreamReplyRequest(**{"dialogue": [turn(text)], **fields})
        return self.remote.stream(self.stub.StreamReply, request, timeout_s=timeout_s)


def turn(text: str, speaker: Any = pb.SPEAKER_USER) -> pb.Turn:
    return pb.Turn(speaker=speaker, text=text)


def tokens(count: int) -> pb.GenerationOptions:
    return pb.GenerationOptions(max_new_tokens=count)


def picture(size: tuple[int, int] = (8, 8), *, num_bytes: int = 0) -> common_pb2.Picture:
    """A picture of this size, padded to so many bytes."""
    buffer = io.BytesIO()
    Image.new("1", size, "white").save(buffer, "PNG")
    return common_pb2.Picture(data=buffer.getvalue().ljust(num_bytes, b"\0"))


@pytest.fixture
async def start(host: Any) -> Callable[..., Any]:
    async def start(*, keep: bool = True, **wishes: Any) -> Caller:
        retriever = await host.start("RetrieverService", ToyRetriever, keep=True)
        encoder = await host.start("EncoderService", FakeEncoder, keep=True)
        factory = functools.partial(make_generator, retriever.settings, encoder.settings, **wishes)
        return Caller(await host.start("GeneratorService", factory, keep=keep))

    return start


@pytest.fixture
async def generator(start: Callable[..., Any]) -> Caller:
    return await start()


async def test_a_retrieved_answer_names_its_pictures_by_weight(generator: Caller) -> None:
    reply = await generator.reply("what is it", options=tokens(3))
    assert reply.text == "0 1 2 "
    assert [image.image_id for image in reply.images] == ["a", "b", "c"]
    assert sum(image.weight for image in reply.images) == pytest.approx(1.0)
    assert [image.score for image in reply.images] == pytest.approx([0.9, 0.8, 0.7])
    assert (reply.finish_reason, reply.usage.generated_tokens) == (pb.FINISH_REASON_LENGTH, 3)
    assert (reply.usage.num_images, reply.usage.context_tokens) == (3, 3)


async def test_k_and_score_floor_reach_the_retriever(generator: Caller) -> None:
    asked = (await generator.reply(k=8, min_score=0.25)).images[0].metadata
    assert (asked["k"], asked["min_score"]) == ("8", "0.25")


async def test_the_settings_score_floor_holds_where_the_caller_names_none(generator: Caller) -> None:
    assert (await generator.reply()).images[0].metadata["min_score"] == "0.10"


@pytest.mark.parametrize(("floor", "expected"), [(0.85, ["a", "b", "c"]), (0.95, [])])
async def test_without_setting_or_wish_the_floor_of_the_release_decides_by_the_best_picture(
    start: Callable[..., Any], floor: float, expected: list[str]
) -> None:
    """Scores are 0.9, 0.8 and 0.7."""
    generator = await start(min_score=None, release_floor=floor)
    assert [image.image_id for image in (await generator.reply()).images] == expected
    assert (await generator.reply(image_ids=["a", "h"])).usage.num_images == 2
    assert (await generator.reply(picture=picture())).usage.num_images == 1


async def test_a_request_overrides_the_floor_of_the_release(start: Callable[..., Any]) -> None:
    generator = await start(min_score=None, release_floor=0.95)
    assert (await generator.reply(min_score=-1.0)).usage.num_images == 3
    assert (await generator.reply(min_score=0.25)).images[0].metadata["min_score"] == "0.25"


async def test_request_id_trace_and_deadline_go_down_the_chain(generator: Caller) -> None:
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    call = generator.stub.Reply(
        pb.ReplyRequest(dialogue=[turn("what is it")]),
        metadata=(
            ("application", generator.application),
            ("x-request-id", "request-7"),
            ("traceparent", f"00-{trace_id}-b7ad6b7169203331-01"),
            ("x-deadline-unix-ms", "99999999999999"),
        ),
        timeout=20.0,
    )
    reply = await call
    asked = reply.images[0].metadata
    assert (reply.served.request_id, asked["request_id"]) == ("request-7", "request-7")
    assert trace_id in asked["trace"]
    assert asked["has_deadline"] == "True"


async def test_the_whole_dialogue_is_the_query_and_its_end_survives(generator: Caller) -> None:
    dialogue = [turn("old " * 1000), turn("hello there", pb.SPEAKER_BOT), turn("what colour is the mill")]
    query = (await generator.reply(dialogue=dialogue)).images[0].metadata["query"]
    assert query.startswith("old")
    assert query.endswith("hello there what colour is the mill")
    assert len(query.split()) <= 75


async def test_named_pictures_are_looked_at_with_their_real_scores(generator: Caller) -> None:
    reply = await generator.reply(image_ids=["c", "a"])
    assert [image.image_id for image in reply.images] == ["a", "c"]
    assert reply.images[0].weight > reply.images[1].weight


async def test_a_given_picture_is_the_only_one_looked_at(generator: Caller) -> None:
    reply = await generator.reply(picture=picture())
    assert [(image.image_id, image.score, image.weight) for image in reply.images] == [("", 0.0, 1.0)]
    assert [timing.stage for timing in reply.served.timings] == ["encode", "queue", "fuse", "generate", "total"]


async def test_an_answer_from_text_alone_looks_at_nothing(generator: Caller) -> None:
    reply = await generator.reply(grounding=pb.GROUNDING_NONE, options=tokens(2))
    assert (reply.text, list(reply.images)) == ("0 1 ", [])


async def test_an_empty_index_is_answered_from_text_alone(generator: Caller) -> None:
    reply = await generator.reply("empty", options=tokens(2))
    assert (reply.text, list(reply.images)) == ("0 1 ", [])


async def test_the_release_of_the_retrievers_space_answers(generator: Caller) -> None:
    first, second = await generator.reply("first"), await generator.reply("second")
    assert (first.served.embedding_space_id, first.served.generation) == (FIRST_SPACE, 2)
    assert (second.served.embedding_space_id, second.served.generation) == (SECOND_SPACE, 1)
    assert second.served.release_id == "sha256-" + "b" * 64


async def test_a_stream_is_a_header_then_numbered_chunks_then_a_finish(generator: Caller) -> None:
    frames = [frame async for frame in generator.stream(options=tokens(5))]
    kinds = [frame.WhichOneof("frame") for frame in frames]
    assert kinds == ["header", *["chunk"] * (len(frames) - 2), "finish"]
    header, *chunks, finish = frames
    assert [image.image_id for image in header.header.images] == ["a", "b", "c"]
    assert [timing.stage for timing in header.header.served.timings] == ["retrieve", "queue", "fuse", "total"]
    assert [chunk.chunk.seq for chunk in chunks] == list(range(len(chunks)))
    assert "".join(chunk.chunk.text for chunk in chunks) == "0 1 2 3 4 "
    assert finish.finish.usage.generated_tokens == 5
    stages = [timing.stage for timing in finish.finish.served.timings]
    assert stages == ["retrieve", "queue", "fuse", "generate", "total"]


async def test_describe_names_release_and_shapes(generator: Caller) -> None:
    told = await generator.remote.unary(generator.stub.DescribeGenerator, pb.DescribeGeneratorRequest())
    assert (told.context_length, told.num_image_tokens, told.image_token_width) == (64, NUM_TOKENS, TOKEN_WIDTH)
    assert (told.served.generation, told.reload.phase) == (2, "idle")


AT_THE_LIMIT: list[dict[str, Any]] = [
    {"dialogue": [turn("x y")] * 64},
    {"dialogue": [turn("x" * 4096)]},
    {"k": 8},
    {"min_score": 1.0},
    {"min_score": -1.0},
    {"image_ids": list("abcdefgh")},
    {"options": pb.GenerationOptions(max_new_tokens=256, num_beams=8)},
    {"picture": picture(num_bytes=MAX_PICTURE_BYTES)},
]


async def test_every_limit_is_open_at_the_limit(generator: Caller) -> None:
    for fields in AT_THE_LIMIT:
        assert (await generator.reply(**fields)).text
    with pytest.raises(ImageNotFound):  # read, looked for, and not there
        await generator.reply(image_ids=["i" * 256])


ABOVE_THE_LIMIT: list[tuple[dict[str, Any], type[SightlineError]]] = [
    ({"dialogue": []}, FieldMissing),
    ({"dialogue": [turn("x")] * 65}, TooManyTurns),
    ({"dialogue": [turn("x" * 4097)]}, TextTooLong),
    ({"dialogue": [turn("")]}, FieldMissing),
    ({"dialogue": [turn("x", pb.SPEAKER_UNSPECIFIED)]}, FieldOutOfRange),
    ({"dialogue": [turn("x", pb.SPEAKER_BOT)]}, FieldOutOfRange),
    ({"k": 9}, FieldOutOfRange),
    ({"min_score": 1.5}, FieldOutOfRange),
    ({"min_score": -1.5}, FieldOutOfRange),
    ({"min_score": float("nan")}, FieldOutOfRange),
    ({"image_ids": ["i" * 257]}, FieldOutOfRange),
    ({"image_ids": [""]}, FieldMissing),
    ({"image_ids": [str(number) for number in range(9)]}, TooManyItems),
    ({"grounding": pb.GROUNDING_GIVEN}, FieldMissing),
    ({"grounding": 99}, FieldOutOfRange),
    ({"grounding": pb.GROUNDING_NONE, "picture": picture()}, FieldOutOfRange),
    ({"grounding": pb.GROUNDING_NONE, "image_ids": ["a"]}, FieldOutOfRange),
    ({"image_ids": ["a"], "picture": picture()}, FieldOutOfRange),
    ({"picture": common_pb2.Picture()}, FieldMissing),
    ({"picture": common_pb2.Picture(data=bytes(MAX_PICTURE_BYTES + 1))}, PictureTooLarge),
    ({"options": tokens(257)}, FieldOutOfRange),
    ({"options": pb.GenerationOptions(num_beams=9)}, FieldOutOfRange),
]


async def test_every_limit_is_closed_above_the_limit(generator: Caller) -> None:
    for fields, error in ABOVE_THE_LIMIT:
        with pytest.raises(error):
            await generator.reply(**fields)
        with pytest.raises(error):
            [frame async for frame in generator.stream(**fields)]


async def test_a_stream_by_beams_is_refused(generator: Caller) -> None:
    with pytest.raises(FieldOutOfRange, match="num_beams"):
        [frame async for frame in generator.stream(options=pb.GenerationOptions(num_beams=2))]


REASONS: list[tuple[str, dict[str, Any], type[SightlineError]]] = [
    ("unknown id", {"image_ids": ["a", "z"]}, ImageNotFound),
    ("no such picture", {"picture": common_pb2.Picture(data=b"no picture")}, PictureUnreadable),
    ("too many pixels", {"picture": picture((20_001, 2_000))}, PictureTooManyPixels),
    ("foreign", {}, EmbeddingSpaceMismatch),
    ("tokenless", {}, CapabilityMissing),
    ("wide", {}, CapabilityMissing),
    ("malformed", {}, DependencyUnavailable),
    ("corrupt", {}, DependencyUnavailable),
    ("down", {}, DependencyUnavailable),
    ("busy", {}, QueueFull),
    ("fail", {}, InternalError),
]


@pytest.mark.parametrize(("text", "fields", "error"), REASONS, ids=[text for text, *_ in REASONS])
async def test_every_reason_arrives_by_name(
    generator: Caller, text: str, fields: dict[str, Any], error: type[SightlineError]
) -> None:
    with pytest.raises(error) as unary:
        await generator.reply(text, **fields)
    with pytest.raises(error) as streamed:
        [frame async for frame in generator.stream(text, **fields)]
    assert unary.value.metadata.keys() == streamed.value.metadata.keys() == PROMISED[error]
    assert "secret" not in unary.value.message


async def test_a_refused_picture_says_what_it_has_and_what_it_may_have(generator: Caller) -> None:
    with pytest.raises(PictureTooManyPixels, match="20001x2000") as refused:
        await generator.reply(picture=picture((20_001, 2_000)))
    assert refused.value.metadata == {"value": "40002000", "limit": "40000000"}


PROMISED: dict[type[SightlineError], set[str]] = {
    ImageNotFound: {"image_id"},
    PictureUnreadable: {"detail"},
    PictureTooManyPixels: {"value", "limit"},
    EmbeddingSpaceMismatch: {"expected", "got"},
    CapabilityMissing: {"detail"},
    DependencyUnavailable: {"service"},
    QueueFull: {"limit"},
    InternalError: {"request_id"},
}


async def test_a_service_without_a_release_says_so(start: Callable[..., Any]) -> None:
    generator = await start(is_ready=False)
    for asked in (generator.reply(), generator.reply(picture=picture()), generator.reply(grounding=pb.GROUNDING_NONE)):
        with pytest.raises(NotReady):
            await asked


async def test_a_passed_deadline_ends_the_reply(generator: Caller) -> None:
    with pytest.raises(DeadlinePassed):
        await generator.reply("hang", timeout_s=0.2)
    with pytest.raises(DeadlinePassed):
        [frame async for frame in generator.stream("slowly", timeout_s=0.3, options=tokens(256))]


async def steps_taken(generator: Caller) -> int:
    return int((await generator.reply("steps")).text)


async def steps_at_rest(generator: Caller) -> int:
    """How many steps the model ever took, once two answers in a row say the same."""
    before, now = -1, await steps_taken(generator)
    while before != now:
        before, now = now, await steps_taken(generator)
    return now


async def test_a_caller_that_leaves_stops_the_decoding(generator: Caller) -> None:
    before = await steps_at_rest(generator)
    for _ in range(LEAVES):
        frames = generator.stream("very slowly", options=tokens(256))
        while (await anext(frames)).WhichOneof("frame") != "chunk":  # type: ignore[arg-type]
            pass
        await frames.aclose()  # type: ignore[attr-defined]
    # One thread decodes here, so the answer comes once the abandoned replies have let go of it. One that nobody
    # stopped would go on until its deadline, for 200 steps.
    assert await steps_at_rest(generator) - before < 160


async def is_full(generator: Caller) -> bool:
    """Whether every place for a reply is taken, which a caller without our channel's retries is told."""
    request, metadata = pb.ReplyRequest(dialogue=[turn("steps")]), (("application", generator.application),)
    try:
        await generator.stub.Reply(request, timeout=5.0, metadata=metadata)
    except grpc.aio.AioRpcError as error:
        return isinstance(error_from_rpc(error), QueueFull)
    return False


async def test_a_cancelled_reply_stops_the_decoding(start: Callable[..., Any]) -> None:
    generator = await start(max_queued=0)
    before = await steps_at_rest(generator)
    replying = asyncio.create_task(generator.reply("very slowly", options=tokens(256)))
    while not await is_full(generator):
        assert not replying.done()
        await asyncio.sleep(0.1)  # leaves the place to the reply that is to take it
    replying.cancel()
    assert await steps_at_rest(generator) - before < 100


async def test_a_full_queue_says_when_to_come_back(start: Callable[..., Any]) -> None:
    generator = await start(max_queued=0)
    frames = generator.stream("slowly", options=tokens(256))
    await anext(frames)  # type: ignore[arg-type]
    with pytest.raises(QueueFull) as refused:
        await generator.reply(timeout_s=0.5)
    assert refused.value.retry_after_s > 0
    assert "limit" in refused.value.metadata
    await frames.aclose()  # type: ignore[attr-defined]


async def first_refusal(generator: Caller) -> tuple[str, str]:
    """Code and reason of the first call that is refused, made without our channel's retries."""
    while True:
        try:
            await generator.stub.DescribeGenerator(pb.DescribeGeneratorRequest(), timeout=5.0)
        except grpc.aio.AioRpcError as error:
            refused = error_from_rpc(error)
            return refused.code, refused.reason


async def test_an_open_stream_finishes_while_the_service_drains(host: Any, start: Callable[..., Any]) -> None:
    generator = await start(keep=False)
    frames = generator.stream("slowly", options=tokens(60))
    received = [await anext(frames)]  # type: ignore[arg-type]
    stopping = asyncio.create_task(host.stop_all())
    if host.kind == "aio":
        assert await first_refusal(generator) == ("UNAVAILABLE", "DRAINING")
    received += [frame async for frame in frames]
    assert received[-1].finish.usage.generated_tokens == 60
    await stopping
