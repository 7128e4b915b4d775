"""The SDK against toy services through real channels: what is split, what is kept together, what is raised."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import numpy as np
import pytest

from sightline import errors
from sightline.client import (
    AsyncClient,
    Client,
    ComposedQuery,
    ComposedSearch,
    Endpoints,
    NewImage,
    ReplyFinish,
    ReplyHeader,
    ReplyText,
    Turn,
)
from sightline.client.requests import batches
from sightline.rpc.context import CallContext
from sightline.rpc.status import item_status
from sightline.rpc.tensors import tensor_from_proto, tensor_to_proto
from sightline.v1 import common_pb2, encoder_pb2, generator_pb2, retriever_pb2

HELLO = [Turn(speaker="user", text="Hello there"), Turn(speaker="bot", text="Hi"), Turn(speaker="user", text="Bye")]


class Toy:
    """What every toy needs to be hosted."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.request_ids: set[str] = set()
        self.cancelled = threading.Event()

    async def start(self) -> None:
        return

    async def stop(self) -> None:
        return

    def is_ready(self) -> bool:
        return True

    def note(self, request: Any, call: CallContext) -> None:
        self.requests.append(request)
        self.request_ids.add(call.request_id)


class ToyEncoder(Toy):
    """A text's vector is its length twice; each call is answered by the next space unless one is asked for."""

    async def EncodeTexts(self, request: encoder_pb2.EncodeTextsRequest, call: CallContext) -> Any:
        self.note(request, call)
        if "refuse the call" in request.texts:
            raise errors.EmbeddingSpaceMismatch("no", expected="a", got="b")
        items = [self._item(text) for text in request.texts]
        space = request.embedding_space_id or f"space-{len(self.requests)}"
        served = common_pb2.Served(release_id="sha256-0", generation=3, embedding_space_id=space)
        served.timings.add(stage="forward", duration_us=5)
        return encoder_pb2.EncodeTextsResponse(items=items, served=served)

    def _item(self, text: str) -> encoder_pb2.EncodedText:
        if not text:
            error = errors.FieldMissing("texts: got nothing", field="texts")
            return encoder_pb2.EncodedText(status=item_status(error))
        vector = tensor_to_proto(np.full(2, len(text), np.float32))
        return encoder_pb2.EncodedText(vector=vector, num_tokens=len(text), is_truncated=len(text) > 3)

    async def EncodeImages(self, request: encoder_pb2.EncodeImagesRequest, call: CallContext) -> Any:
        self.note(request, call)
        tokens = tensor_to_proto(np.zeros((3, 4), np.float16)) if request.with_tokens else None
        vector = tensor_to_proto(np.ones(2, np.float32))
        items = [
            encoder_pb2.EncodedImage(vector=vector, tokens=tokens, sha256=str(len(picture.data)), width=4, height=5)
            for picture in request.pictures
        ]
        return encoder_pb2.EncodeImagesResponse(items=items, served=common_pb2.Served(embedding_space_id="space"))

    async def EncodeComposed(self, request: encoder_pb2.EncodeComposedRequest, call: CallContext) -> Any:
        self.note(request, call)
        items = [
            encoder_pb2.EncodedComposed(
                vector=tensor_to_proto(np.ones(2, np.float32)), sha256=query.WhichOneof("reference")
            )
            for query in request.queries
        ]
        return encoder_pb2.EncodeComposedResponse(items=items, served=common_pb2.Served(embedding_space_id="space"))

    async def DescribeEncoder(self, request: encoder_pb2.DescribeEncoderRequest, call: CallContext) -> Any:
        reload = common_pb2.ReloadStatus(phase="idle", serving_generation=2, quarantined_release_ids=["sha256-1"])
        return encoder_pb2.DescribeEncoderResponse(
            dimension=2, compute_dtype="float32", reload=reload, can_compose=True
        )


class ToyRetriever(Toy):
    """Says what it was asked."""

    async def SearchImages(self, request: retriever_pb2.SearchImagesRequest, call: CallContext) -> Any:
        self.note(request, call)
        hit = common_pb2.ScoredImage(image_id="a", score=0.5, metadata={"place": "mill"})
        return retriever_pb2.SearchImagesResponse(images=[hit])

    async def UpsertImages(self, request: retriever_pb2.UpsertImagesRequest, call: CallContext) -> Any:
        self.note(request, call)
        bad = errors.PictureUnreadable("bad", detail="bad")
        items = [item_status(bad if image.image_id == "bad" else None) for image in request.images]
        return retriever_pb2.UpsertImagesResponse(items=items)

    async def DeleteImages(self, request: retriever_pb2.DeleteImagesRequest, call: CallContext) -> Any:
        self.note(request, call)
        return retriever_pb2.DeleteImagesResponse(num_deleted=len(request.image_ids))

    async def GetImage(self, request: retriever_pb2.GetImageRequest, call: CallContext) -> Any:
        self.note(request, call)
        if request.image_id == "absent":
            raise errors.ImageNotFound("image_id: 'absent' is not stored", image_id="absent")
        image = retriever_pb2.StoredImage(image_id="a", sha256="00", picture=common_pb2.Picture(data=b"jpeg"))
        return retriever_pb2.GetImageResponse(image=image)

    async def ListImages(self, request: retriever_pb2.ListImagesRequest, call: CallContext) -> Any:
        self.note(request, call)
        images = [retriever_pb2.StoredImage(image_id="a")]
        return retriever_pb2.ListImagesResponse(images=images, next_page_token="next")

    async def DescribeIndex(self, request: retriever_pb2.DescribeIndexRequest, call: CallContext) -> Any:
        rollout = retriever_pb2.SpaceRollout(target_space_id="new", num_done=1, num_total=2)
        return retriever_pb2.DescribeIndexResponse(num_images=2, driver="edge", rollout=rollout)


class ToyGenerator(Toy):
    """Streams two words, then waits if the dialogue says so."""

    async def Reply(self, request: generator_pb2.ReplyRequest, call: CallContext) -> Any:
        self.note(request, call)
        return generator_pb2.ReplyResponse(
            text="red",
            images=[generator_pb2.UsedImage(image_id="a", weight=1.0)],
            finish_reason=generator_pb2.FINISH_REASON_STOP,
            usage=generator_pb2.Usage(generated_tokens=1),
        )

    async def StreamReply(
        self, request: generator_pb2.StreamReplyRequest, call: CallContext
    ) -> AsyncIterator[generator_pb2.StreamReplyResponse]:
        self.note(request, call)
        try:
            async for frame in self._frames(request, call):
                yield frame
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled.set()
            raise

    async def _frames(
        self, request: generator_pb2.StreamReplyRequest, call: CallContext
    ) -> AsyncIterator[generator_pb2.StreamReplyResponse]:
        header = generator_pb2.ReplyHeader(served=common_pb2.Served(request_id=call.request_id))
        yield generator_pb2.StreamReplyResponse(header=header)
        for seq, text in enumerate(("it is ", "red")):
            yield generator_pb2.StreamReplyResponse(chunk=generator_pb2.TextChunk(seq=seq, text=text))
        if request.dialogue[-1].text == "wait":
            await asyncio.Event().wait()
        if request.dialogue[-1].text == "fail":
            raise errors.InternalError("no", request_id=call.request_id)
        finish = generator_pb2.ReplyFinish(finish_reason=generator_pb2.FINISH_REASON_LENGTH)
        yield generator_pb2.StreamReplyResponse(finish=finish)

    async def DescribeGenerator(self, request: generator_pb2.DescribeGeneratorRequest, call: CallContext) -> Any:
        return generator_pb2.DescribeGeneratorResponse(context_length=9)


class Suite:
    """The three toys behind real hosts, and a client of them."""

    def __init__(self) -> None:
        self.encoder, self.retriever, self.generator = ToyEncoder(), ToyRetriever(), ToyGenerator()

    async def start(self, start_host: Any) -> None:
        self.endpoints = Endpoints(
            encoder=(await start_host(self.encoder)).address,
            retriever=(await start_host(self.retriever, service="RetrieverService")).address,
            generator=(await start_host(self.generator, service="GeneratorService")).address,
        )
        self.client = AsyncClient(self.endpoints, timeout_s=5.0)


@pytest.fixture
async def suite(start_host: Any) -> AsyncIterator[Suite]:
    made = Suite()
    await made.start(start_host)
    yield made
    await made.client.close()


@pytest.mark.parametrize("count", [1, 256, 257, 600])
async def test_texts_over_the_limit_are_split_and_come_back_in_order(suite: Suite, count: int) -> None:
    texts = ["x" * (1 + n % 9) for n in range(count)]
    reply = await suite.client.encode_texts(texts)
    assert reply.vectors[:, 0].tolist() == [len(text) for text in texts]
    assert [len(request.texts) for request in suite.encoder.requests] == [256] * (count // 256) + [count % 256] * bool(
        count % 256
    )


async def test_a_split_batch_stays_in_the_space_of_its_first_part(suite: Suite) -> None:
    reply = await suite.client.encode_texts(["x"] * 600)
    asked = [request.embedding_space_id for request in suite.encoder.requests]
    assert asked == ["", "space-1", "space-1"]
    assert reply.served.embedding_space_id == "space-1"
    assert len(suite.encoder.request_ids) == 1


async def test_a_refused_text_carries_its_error_and_spares_the_others(suite: Suite) -> None:
    reply = await suite.client.encode_texts(["ab", "", "abcd"])
    assert [type(item.error) for item in reply.items] == [type(None), errors.FieldMissing, type(None)]
    assert [item.is_truncated for item in reply.items] == [False, False, True]
    assert reply.items[1].vector is None
    with pytest.raises(errors.FieldMissing):
        _ = reply.vectors


async def test_an_error_in_a_later_part_is_raised_by_itself(suite: Suite) -> None:
    with pytest.raises(errors.EmbeddingSpaceMismatch) as caught:
        await suite.client.encode_texts(["x"] * 256 + ["refuse the call"])
    assert caught.value.metadata == {"expected": "a", "got": "b"}


async def test_a_reply_tells_what_served_it(suite: Suite) -> None:
    served = (await suite.client.encode_texts(["x"])).served
    assert (served.release_id, served.generation, dict(served.timings_us)) == ("sha256-0", 3, {"forward": 5})


async def test_pictures_are_split_by_count_and_keep_their_tokens(suite: Suite) -> None:
    reply = await suite.client.encode_images([bytes(n + 1) for n in range(70)], with_tokens=True)
    assert [len(request.pictures) for request in suite.encoder.requests] == [64, 6]
    assert [item.sha256 for item in reply.items] == [str(n + 1) for n in range(70)]
    assert reply.items[0].tokens is not None
    assert (reply.items[0].tokens.shape, reply.items[0].tokens.dtype) == ((3, 4), np.float16)


@pytest.mark.parametrize(
    ("sizes", "runs"),
    [
        ([], [[]]),
        ([3, 3, 3], [[3, 3], [3]]),
        ([9, 1, 1], [[9], [1, 1]]),
        ([1, 9], [[1], [9]]),
        ([2] * 5, [[2, 2, 2], [2, 2]]),
    ],
)
def test_runs_keep_both_limits_and_lose_nothing(sizes: list[int], runs: list[list[int]]) -> None:
    assert list(batches(sizes, max_items=3, max_bytes=6, size=lambda size: size)) == runs


async def test_no_texts_are_the_services_to_refuse(suite: Suite) -> None:
    assert (await suite.client.encode_texts([])).items == ()
    assert len(suite.encoder.requests) == 1


async def test_a_search_says_all_that_was_asked(suite: Suite) -> None:
    options: Any = {"must": {"place": ["mill", "quay"]}, "must_not": {"image_id": ["b"]}, "min_score": 0.25}
    found = await suite.client.search_images("a mill", k=7, with_tokens=True, **options)
    request = suite.retriever.requests[0]
    assert (request.text, request.k, request.with_tokens, request.min_score) == ("a mill", 7, True, 0.25)
    assert [(c.key, list(c.any_of)) for c in request.filter.must] == [("place", ["mill", "quay"])]
    assert [(c.key, list(c.any_of)) for c in request.filter.must_not] == [("image_id", ["b"])]
    assert (found.images[0].image_id, found.images[0].score, found.images[0].metadata) == ("a", 0.5, {"place": "mill"})


async def test_a_search_without_options_sets_none(suite: Suite) -> None:
    await suite.client.search_images("a mill")
    request = suite.retriever.requests[0]
    assert not request.HasField("min_score")
    assert not request.HasField("filter")


async def test_a_search_takes_pictures_and_vectors(suite: Suite) -> None:
    await suite.client.search_images(b"jpeg")
    await suite.client.search_images(np.array([3.0, 4.0]), embedding_space_id="space")
    picture, vector = suite.retriever.requests
    assert picture.picture.data == b"jpeg"
    assert tensor_from_proto(vector.vector, name="vector").tolist() == [3.0, 4.0]
    assert vector.embedding_space_id == "space"


async def test_composed_queries_are_split_and_carry_their_edits(suite: Suite) -> None:
    edit: Any = {"texts": ["at night"], "negative_texts": ["a car"], "text_weight": 0.25}
    queries = [ComposedQuery(picture=b"jpeg", **edit), ComposedQuery(vector=np.ones(2), texts=["red"])]
    reply = await suite.client.encode_composed([*queries, *[ComposedQuery(texts=["red"])] * 63])
    assert [item.sha256 for item in reply.items] == ["picture", "vector", *[""] * 63]
    assert reply.vectors.shape == (65, 2)
    first, second = suite.encoder.requests
    assert (len(first.queries), len(second.queries), second.embedding_space_id) == (64, 1, "space")
    sent = first.queries[0].edit
    assert (sent.texts, sent.negative_texts, sent.text_weight) == (["at night"], ["a car"], 0.25)
    assert not first.queries[1].edit.HasField("text_weight")


async def test_a_composed_search_carries_its_reference_and_edit(suite: Suite) -> None:
    await suite.client.search_images(ComposedSearch(picture=b"jpeg", texts=["at night"], text_weight=0.0), k=3)
    await suite.client.search_images(ComposedSearch(image_id="a", negative_texts=["a car"], keep_reference=True))
    await suite.client.search_images(ComposedSearch(texts=["at night"]), must={"place": ["mill"]})
    sent, stored, plain = (request.composed for request in suite.retriever.requests)
    assert (sent.picture.data, sent.edit.texts, sent.edit.HasField("text_weight")) == (b"jpeg", ["at night"], True)
    assert (stored.image_id, stored.edit.negative_texts, stored.keep_reference) == ("a", ["a car"], True)
    assert (plain.WhichOneof("reference"), suite.retriever.requests[2].filter.must[0].key) == (None, "place")


async def test_two_references_in_one_are_refused_before_the_call(suite: Suite) -> None:
    with pytest.raises(errors.UsageError, match="got picture and image_id"):
        await suite.client.search_images(ComposedSearch(picture=b"jpeg", image_id="a"))
    with pytest.raises(errors.UsageError, match="got picture and vector"):
        await suite.client.encode_composed([ComposedQuery(picture=b"jpeg", vector=np.ones(2))])
    assert suite.encoder.requests == suite.retriever.requests == []


async def test_storing_many_pictures_tells_each_outcome(suite: Suite) -> None:
    images = [NewImage(image_id="bad" if n == 66 else str(n), picture=b"x", metadata={"n": str(n)}) for n in range(70)]
    stored = await suite.client.upsert_images(iter(images))
    assert [n for n, error in enumerate(stored.errors) if error is not None] == [66]
    assert type(stored.errors[66]) is errors.PictureUnreadable
    assert [len(request.images) for request in suite.retriever.requests] == [64, 6]
    assert dict(suite.retriever.requests[1].images[0].metadata) == {"n": "64"}


async def test_removing_many_pictures_adds_up(suite: Suite) -> None:
    assert (await suite.client.delete_images([str(n) for n in range(300)])).num_deleted == 300
    assert [len(request.image_ids) for request in suite.retriever.requests] == [256, 44]


async def test_a_stored_picture_comes_with_what_was_asked_for(suite: Suite) -> None:
    image = await suite.client.get_image("a", read=["picture"])
    assert list(suite.retriever.requests[0].read_mask.paths) == ["picture"]
    assert (image.picture, image.vector) == (b"jpeg", None)


async def test_an_absent_picture_raises_its_error(suite: Suite) -> None:
    with pytest.raises(errors.ImageNotFound) as caught:
        await suite.client.get_image("absent")
    assert caught.value.metadata == {"image_id": "absent"}


async def test_a_page_leads_to_the_next(suite: Suite) -> None:
    page = await suite.client.list_images(page_size=1, page_token="first", must={"a": ["b"]})
    assert page.next_page_token == "next"
    assert suite.retriever.requests[0].page_token == "first"


async def test_descriptions_are_plain_values(suite: Suite) -> None:
    encoder = await suite.client.describe_encoder()
    index = await suite.client.describe_index()
    generator = await suite.client.describe_generator()
    assert (encoder.can_compose, encoder.composes_vectors) == (True, False)
    assert (encoder.dimension, encoder.reload.quarantined_release_ids) == (2, ("sha256-1",))
    assert (index.num_images, index.rollout.target_space_id) == (2, "new")
    assert generator.context_length == 9


async def test_a_reply_is_a_plain_value(suite: Suite) -> None:
    reply = await suite.client.reply(HELLO, picture=b"jpeg", grounding="given", max_new_tokens=9, num_beams=2)
    request = suite.generator.requests[0]
    assert [turn.speaker for turn in request.dialogue] == [1, 2, 1]
    assert (request.picture.data, request.grounding) == (b"jpeg", generator_pb2.GROUNDING_GIVEN)
    assert (request.options.max_new_tokens, request.options.num_beams) == (9, 2)
    assert (reply.text, reply.finish_reason, reply.images[0].weight) == ("red", "stop", 1.0)


async def test_a_stream_is_header_text_finish(suite: Suite) -> None:
    events = [event async for event in suite.client.stream_reply(HELLO, k=2, image_ids=["a"])]
    assert [type(event) for event in events] == [ReplyHeader, ReplyText, ReplyText, ReplyFinish]
    assert "".join(event.text for event in events if isinstance(event, ReplyText)) == "it is red"
    assert isinstance(events[-1], ReplyFinish)
    assert events[-1].finish_reason == "length"


async def test_leaving_a_stream_stops_the_work(suite: Suite) -> None:
    async with aclosing(suite.client.stream_reply([Turn(speaker="user", text="wait")])) as events:
        assert isinstance(await anext(events), ReplyHeader)
    assert await asyncio.to_thread(suite.generator.cancelled.wait, 5)


async def test_a_stream_that_fails_is_not_tried_again(suite: Suite) -> None:
    events = suite.client.stream_reply([Turn(speaker="user", text="fail")])
    assert isinstance(await anext(events), ReplyHeader)
    await anext(events)
    await anext(events)
    with pytest.raises(errors.InternalError):
        await anext(events)
    assert len(suite.generator.requests) == 1


async def test_an_unknown_word_is_refused_before_the_call(suite: Suite) -> None:
    with pytest.raises(errors.UsageError, match="grounding: got 'magic'"):
        await suite.client.reply(HELLO, grounding="magic")  # type: ignore[typeddict-item]
    with pytest.raises(errors.UsageError, match="k: got -1"):
        await suite.client.search_images("x", k=-1)
    assert suite.generator.requests == suite.retriever.requests == []


async def test_a_service_without_address_is_named() -> None:
    async with AsyncClient(Endpoints(encoder="127.0.0.1:1")) as client:
        with pytest.raises(errors.UsageError, match=r"endpoints\.generator"):
            await client.reply(HELLO)


async def test_a_dead_address_names_the_service(free_port: int) -> None:
    async with AsyncClient(f"127.0.0.1:{free_port}", timeout_s=0.2) as client:
        with pytest.raises(errors.DependencyUnavailable) as caught:
            await client.describe_encoder()
    assert caught.value.metadata == {"service": "encoder"}


async def test_a_deadline_ends_a_call(suite: Suite) -> None:
    events = suite.client.stream_reply([Turn(speaker="user", text="wait")], timeout_s=0.1)
    with pytest.raises(errors.DeadlinePassed):
        _ = [event async for event in events]


async def test_the_synchronous_twin_answers_alike(suite: Suite) -> None:
    def use() -> tuple[Any, ...]:
        with Client(suite.endpoints, timeout_s=5.0) as client:
            encoded = client.encode_texts(["ab"]).vectors.tolist()
            assert client.encode_composed([ComposedQuery(texts=["ab"])]).vectors.tolist() == [[1.0, 1.0]]
            found = client.search_images("a mill", k=3).images[0].image_id
            events = [type(event) for event in client.stream_reply(HELLO)]
            return encoded, found, events, client.reply(HELLO).text, client.describe_index().driver

    encoded, found, events, text, driver = await asyncio.to_thread(use)
    assert (encoded, found, text, driver) == ([[2.0, 2.0]], "a", "red", "edge")
    assert events == [ReplyHeader, ReplyText, ReplyText, ReplyFinish]


async def test_the_synchronous_twin_raises_and_cancels_alike(suite: Suite) -> None:
    def use() -> None:
        with Client(suite.endpoints, timeout_s=5.0) as client:
            with pytest.raises(errors.ImageNotFound):
                client.get_image("absent")
            stream = client.stream_reply([Turn(speaker="user", text="wait")])
            assert isinstance(next(stream), ReplyHeader)
            stream.close()  # type: ignore[attr-defined]
        client.close()

    await asyncio.to_thread(use)
    assert await asyncio.to_thread(suite.generator.cancelled.wait, 5)


def test_both_clients_offer_the_same_calls() -> None:
    def public(kind: type) -> set[str]:
        return {name for name in vars(kind) if not name.startswith("_")}

    assert public(Client) == public(AsyncClient)
