"""The generator with real, tiny releases from a real registry, on both hosts: answers, pairs of space, hot reload."""

from __future__ import annotations

import asyncio
import functools
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from generator_svc.servicer import GeneratorServicer, build_servicer
from generator_svc.settings import GeneratorSettings
from sightline.errors import EmbeddingSpaceMismatch, NotReady
from sightline.models.config import DecoderConfig, TowerConfig, ZrigfConfig
from sightline.models.model import build_model
from sightline.models.release import save_release
from sightline.models.tokenizer import CorpusTowerTokenizer, DialogueTokenizer, train_tokenizer
from sightline.registry import Manifest, Registry
from sightline.rpc.context import CallContext
from sightline.rpc.tensors import tensor_to_proto
from sightline.v1 import common_pb2, retriever_pb2
from sightline.v1 import generator_pb2 as pb
from sightline.v1 import generator_pb2_grpc as pb_grpc

CORPUS = ["a red ball on the beach", "the blue bird sleeps at night", "what colour is it ?", "it is green ."]
NUM_TOKENS, TOKEN_WIDTH = 49, 16
ON_ONE_HOST = pytest.mark.parametrize("host", ["aio"], indirect=True)
"""For what no host can change: starting a replica with a model takes half a minute."""


@dataclass
class PairedRetriever:
    """Holds three pictures in one space."""

    space_id: str

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass

    def is_ready(self) -> bool:
        return True

    async def SearchImages(
        self, request: retriever_pb2.SearchImagesRequest, call: CallContext
    ) -> retriever_pb2.SearchImagesResponse:
        draw = np.random.default_rng(0)
        images = [
            common_pb2.ScoredImage(
                image_id=name,
                score=score,
                tokens=tensor_to_proto(draw.standard_normal((NUM_TOKENS, TOKEN_WIDTH)).astype(np.float16)),
            )
            for name, score in (("a", 0.31), ("b", 0.3), ("c", 0.1))
        ]
        served = common_pb2.Served(embedding_space_id=self.space_id)
        return retriever_pb2.SearchImagesResponse(images=images[: request.k], served=served)

    UpsertImages = DeleteImages = GetImage = ListImages = DescribeIndex = SearchImages


def publish(registry: Registry, folder: Path, *, seed: int) -> Manifest:
    """A release with random weights: another seed is another embedding space."""
    torch.manual_seed(seed)
    tokenizer = train_tokenizer(CORPUS, vocab_size=300)
    size = tokenizer.get_vocab_size()
    tower = TowerConfig(
        vocab_size=size,
        embed_dim=8,
        image_size=28,
        patch_size=4,
        vision_width=TOKEN_WIDTH,
        vision_layers=1,
        vision_head_width=8,
        text_width=16,
        text_heads=2,
    )
    decoder = DecoderConfig(vocab_size=size, pad_id=0, bos_id=1, eos_id=size - 1, d_model=16, init_std=0.3)
    architecture = save_release(
        folder,
        model=build_model(ZrigfConfig(tower=tower, decoder=decoder)).eval(),
        tower_tokenizer=CorpusTowerTokenizer(tokenizer, context_length=tower.context_length),
        dialogue_tokenizer=DialogueTokenizer.of_corpus(tokenizer),
    )
    return registry.publish(folder, architecture=architecture, metrics={}, lineage={})


@dataclass(frozen=True)
class Shelf:
    """A registry with two releases of different spaces, none of them named by a channel yet."""

    uri: str
    registry: Registry
    first: Manifest
    second: Manifest


@pytest.fixture(scope="session")
def full_shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    folder = tmp_path_factory.mktemp("shelf")
    registry = Registry(str(folder / "registry"))
    first = publish(registry, folder / "first", seed=1)
    second = publish(registry, folder / "second", seed=2)
    assert first.embedding_space_id != second.embedding_space_id
    return Shelf(str(folder / "registry"), registry, first, second)


@pytest.fixture
def shelf(full_shelf: Shelf, tmp_path: Path) -> Shelf:
    shutil.copytree(full_shelf.uri, tmp_path / "registry")
    return replace(full_shelf, uri=str(tmp_path / "registry"), registry=Registry(str(tmp_path / "registry")))


def make_generator(registry: str, cache_dir: Path, retriever: Any) -> GeneratorServicer:
    return build_servicer(
        GeneratorSettings(
            registry=registry,
            cache_dir=cache_dir,
            poll_s=0.05,
            space_wait_s=0.0,
            compute_dtype="float32",
            retriever_address=retriever.address,
            retriever_application=retriever.application,
        )
    )


@dataclass
class Caller:
    """The generator as a caller sees it."""

    remote: Any
    stub: Any

    async def reply(self, **fields: Any) -> pb.ReplyResponse:
        return await self.remote.unary(self.stub.Reply, pb.ReplyRequest(dialogue=dialogue(), **fields))


def dialogue() -> list[pb.Turn]:
    return [pb.Turn(speaker=pb.SPEAKER_USER, text="what colour is the ball ?")]


Start = Callable[..., Any]


@pytest.fixture
async def start(host: Any, shelf: Shelf, tmp_path: Path) -> Start:
    async def start(*, space_id: str) -> Caller:
        retriever = await host.start("RetrieverService", functools.partial(PairedRetriever, space_id))
        factory = functools.partial(make_generator, shelf.uri, tmp_path / "cache", retriever.settings)
        endpoint = await host.start("GeneratorService", factory)
        return Caller(endpoint.remote, pb_grpc.GeneratorServiceStub(endpoint.remote.channel))

    return start


@ON_ONE_HOST
async def test_a_real_release_answers_and_streams_the_same_words(start: Start, shelf: Shelf) -> None:
    shelf.registry.promote("stable", shelf.first.release_id, expected_generation=None)
    caller = await start(space_id=shelf.first.embedding_space_id)
    options = pb.GenerationOptions(max_new_tokens=24)
    reply = await caller.reply(options=options)
    request = pb.StreamReplyRequest(dialogue=dialogue(), options=options)
    frames = [frame async for frame in caller.remote.stream(caller.stub.StreamReply, request)]
    assert reply.text
    assert "".join(frame.chunk.text for frame in frames) == reply.text
    assert reply.served.release_id == shelf.first.release_id
    assert [image.image_id for image in reply.images] == ["a", "b", "c"]
    assert sum(image.weight for image in reply.images) == pytest.approx(1.0)


@ON_ONE_HOST
async def test_one_beam_and_several_keep_the_token_limit(start: Start, shelf: Shelf) -> None:
    shelf.registry.promote("stable", shelf.first.release_id, expected_generation=None)
    caller = await start(space_id=shelf.first.embedding_space_id)
    for beams in (1, 3):
        options = pb.GenerationOptions(max_new_tokens=8, num_beams=beams)
        reply = await caller.reply(options=options)
        assert 0 < reply.usage.generated_tokens <= 8


async def test_a_release_published_while_serving_takes_over_without_a_failed_call(start: Start, shelf: Shelf) -> None:
    shelf.registry.promote("stable", shelf.first.release_id, expected_generation=None)
    caller = await start(space_id=shelf.first.embedding_space_id)
    shelf.registry.promote("stable", shelf.second.release_id, expected_generation=1)
    async with asyncio.timeout(30):
        while (reply := await caller.reply(grounding=pb.GROUNDING_NONE)).served.generation == 1:
            assert (await caller.reply()).served.release_id == shelf.first.release_id
    assert reply.served.release_id == shelf.second.release_id
    # The retriever still answers in the first space, so the first release still reads its pictures.
    assert (await caller.reply()).served.release_id == shelf.first.release_id


@ON_ONE_HOST
async def test_a_space_that_no_loaded_release_has_is_refused(start: Start, shelf: Shelf) -> None:
    shelf.registry.promote("stable", shelf.first.release_id, expected_generation=None)
    caller = await start(space_id=shelf.second.embedding_space_id)
    with pytest.raises(EmbeddingSpaceMismatch):
        await caller.reply()


@ON_ONE_HOST
async def test_the_first_release_is_taken_up_when_it_comes(start: Start, shelf: Shelf) -> None:
    caller = await start(space_id=shelf.first.embedding_space_id)
    with pytest.raises(NotReady):
        await caller.reply(grounding=pb.GROUNDING_NONE)
    shelf.registry.promote("stable", shelf.first.release_id, expected_generation=None)
    async with asyncio.timeout(30):
        while True:
            try:
                reply = await caller.reply()
            except NotReady:
                continue
            break
    assert reply.served.release_id == shelf.first.release_id
