"""What is the server driver's own: one call for the switch, its key, its failures, and what it asks Qdrant to build."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pytest

from retriever_svc.index import ImagePoint, SpaceSpec
from retriever_svc.server_index import ServerIndex
from retriever_svc.settings import QdrantSettings
from sightline.errors import DeadlinePassed, DependencyUnavailable, Reindexing
from sightline.rpc.tokens import Secret
from sightline.testing.qdrant import FakeQdrant

OLD = SpaceSpec(space_id="0123456789abcdef", dimension=4, token_width=2)
NEW = SpaceSpec(space_id="fedcba9876543210", dimension=4, token_width=2)
QUERY = np.array([1, 0, 0, 0], dtype=np.float32)


@pytest.fixture
async def qdrant() -> AsyncIterator[FakeQdrant]:
    fake = FakeQdrant(api_key="the right key")
    await fake.start()
    yield fake
    await fake.stop()


def driver(qdrant: FakeQdrant, *, key: str = "the right key", timeout_s: float = 10.0, **more: object) -> ServerIndex:
    settings = QdrantSettings(
        url="http://127.0.0.1:1",
        grpc_port=qdrant.port,
        api_key=Secret(key),
        timeout_s=timeout_s,
        **more,  # type: ignore[arg-type]
    )
    return ServerIndex(settings)


@pytest.fixture
async def index(qdrant: FakeQdrant) -> AsyncIterator[ServerIndex]:
    opened = driver(qdrant)
    await opened.open()
    await opened.create(OLD)
    await opened.switch(OLD.space_id)
    yield opened
    await opened.close()


async def test_the_switch_is_one_call(index: ServerIndex, qdrant: FakeQdrant) -> None:
    await index.create(NEW)
    await index.set_next(NEW.space_id)
    qdrant.calls.clear()
    qdrant.requests.clear()
    await index.switch(NEW.space_id)
    assert qdrant.calls.count("UpdateAliases") == 1
    (request,) = [r for r in qdrant.requests if type(r).__name__ == "ChangeAliases"]
    assert [action.WhichOneof("action") for action in request.actions] == [
        "delete_alias",
        "delete_alias",
        "create_alias",
    ]


async def test_tokens_are_stored_and_never_indexed(index: ServerIndex, qdrant: FakeQdrant) -> None:
    (request,) = [r for r in qdrant.requests if type(r).__name__ == "CreateCollection"]
    params = request.vectors_config.params_map.map
    assert params["tokens"].hnsw_config.m == 0
    assert params["tokens"].HasField("multivector_config")
    assert not params["image"].HasField("hnsw_config")
    indexed = {r.field_name for r in qdrant.requests if type(r).__name__ == "CreateFieldIndexCollection"}
    assert indexed == {"labels", "sha256"}


async def test_cluster_settings_reach_the_collection(qdrant: FakeQdrant) -> None:
    index = driver(qdrant, replication=3, shards=6, quantization="scalar", collection="pets")
    await index.create(OLD)
    (request,) = [r for r in qdrant.requests if type(r).__name__ == "CreateCollection"]
    assert (request.collection_name, request.replication_factor, request.shard_number) == (
        f"pets__{OLD.space_id}",
        3,
        6,
    )
    assert request.vectors_config.params_map.map["image"].quantization_config.HasField("scalar")
    assert not request.vectors_config.params_map.map["tokens"].HasField("quantization_config")
    await index.search(QUERY, space_id=OLD.space_id, k=1)
    (query,) = [r for r in qdrant.requests if type(r).__name__ == "QueryPoints"]
    assert query.params.quantization.rescore
    await index.close()


async def test_a_search_without_tokens_is_one_call(index: ServerIndex, qdrant: FakeQdrant) -> None:
    point = ImagePoint(image_id="a", metadata={}, sha256="s", vector=QUERY, tokens=np.ones((3, 2), dtype=np.float16))
    await index.upsert([point], space_id=OLD.space_id)
    qdrant.calls.clear()
    await index.search(QUERY, space_id=OLD.space_id, k=1)
    assert qdrant.calls == ["Query"]


async def test_other_collections_of_the_server_are_left_alone(index: ServerIndex) -> None:
    other = driver_like(index, collection="images__more")
    await other.create(NEW)
    await other.switch(NEW.space_id)
    assert set((await index.layout()).spaces) == {OLD.space_id}
    assert set((await other.layout()).spaces) == {NEW.space_id}
    await other.close()


async def test_two_drivers_see_each_others_changes(index: ServerIndex) -> None:
    other = driver_like(index)
    await other.create(NEW)
    await other.set_next(NEW.space_id)
    assert (await index.layout()).next == NEW.space_id
    await index.switch(NEW.space_id)
    assert (await other.layout()).current == NEW.space_id
    await index.drop(OLD.space_id)
    with pytest.raises(Reindexing):
        await other.search(QUERY, space_id=OLD.space_id, k=1)
    await other.close()


async def test_a_wrong_key_is_named_as_the_dependency(qdrant: FakeQdrant) -> None:
    index = driver(qdrant, key="the wrong key")
    with pytest.raises(DependencyUnavailable, match="UNAUTHENTICATED") as caught:
        await index.open()
    assert caught.value.metadata["service"] == "qdrant"
    assert "wrong key" not in str(caught.value)
    await index.close()


async def test_a_server_that_is_gone_is_named_as_the_dependency(qdrant: FakeQdrant) -> None:
    index = driver(qdrant)
    await qdrant.stop()
    with pytest.raises(DependencyUnavailable, match="qdrant"):
        await index.open()
    await index.close()


async def test_a_server_that_hangs_is_given_up_at_the_callers_deadline(index: ServerIndex, qdrant: FakeQdrant) -> None:
    qdrant.gate.clear()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await index.search(QUERY, space_id=OLD.space_id, k=1)


@pytest.mark.slow
async def test_a_server_that_hangs_is_given_up_at_the_drivers_own_limit(qdrant: FakeQdrant) -> None:
    index = driver(qdrant, timeout_s=1.0)
    qdrant.gate.clear()
    with pytest.raises(DeadlinePassed):
        await index.layout()
    await index.close()


def driver_like(index: ServerIndex, **changes: object) -> ServerIndex:
    settings = index._settings
    return ServerIndex(
        QdrantSettings(
            url=settings.url,
            grpc_port=settings.grpc_port,
            api_key=settings.api_key,
            **changes,  # type: ignore[arg-type]
        )
    )
