"""One suite that every index driver passes.

The server driver talks to a loopback server that speaks Qdrant's gRPC messages,
and to a real one where QDRANT_URL names it (QDRANT_GRPC_PORT, QDRANT_API_KEY).
"""

from __future__ import annotations

import dataclasses
import secrets
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from retriever_svc.edge_index import EdgeIndex
from retriever_svc.index import (
    Condition,
    Floats,
    Halves,
    ImagePoint,
    Layout,
    SpaceSpec,
    VectorIndex,
    Where,
    point_id,
)
from retriever_svc.server_index import ServerIndex
from retriever_svc.settings import QdrantSettings
from sightline.rpc.tokens import Secret
from sightline.settings import environment
from sightline.testing.folders import quick_folder
from sightline.testing.qdrant import FakeQdrant

OLD = SpaceSpec(space_id="0123456789abcdef", dimension=8, token_width=4)
NEW = SpaceSpec(space_id="fedcba9876543210", dimension=6, token_width=3)
BARE = SpaceSpec(space_id="00000000deadbeef", dimension=8, token_width=0)


@asynccontextmanager
async def edge(folder: Path) -> AsyncIterator[VectorIndex]:
    index = EdgeIndex(folder)
    await index.open()
    yield index
    await index.close()


@asynccontextmanager
async def loopback(folder: Path) -> AsyncIterator[VectorIndex]:
    fake = FakeQdrant(api_key="a key for the loopback")
    await fake.start()
    key = Secret("a key for the loopback")
    index = ServerIndex(QdrantSettings(url="http://127.0.0.1:1", grpc_port=fake.port, api_key=key))
    await index.open()
    yield index
    await index.close()
    await fake.stop()


@asynccontextmanager
async def real_server(folder: Path) -> AsyncIterator[VectorIndex]:
    key = environment("QDRANT_API_KEY")
    settings = QdrantSettings(
        url=environment("QDRANT_URL"),
        grpc_port=int(environment("QDRANT_GRPC_PORT", default="6334")),
        api_key=Secret(key) if key else None,
        collection=f"test_{secrets.token_hex(6)}",
    )
    index = ServerIndex(settings)
    await index.open()
    yield index
    for space_id in (await index.layout()).spaces:
        await index.drop(space_id)
    await index.close()


def drivers() -> Iterator[object]:
    yield pytest.param(edge, id="edge")
    yield pytest.param(loopback, id="loopback")
    absent = pytest.mark.skipif(not environment("QDRANT_URL"), reason="QDRANT_URL names no server")
    yield pytest.param(real_server, id="server", marks=absent)


@pytest.fixture(params=drivers())
async def index(request: pytest.FixtureRequest) -> AsyncIterator[VectorIndex]:
    with quick_folder() as folder:
        async with request.param(folder) as opened:
            await opened.create(OLD)
            await opened.switch(OLD.space_id)
            yield opened


def unit(seed: int, *, width: int = OLD.dimension) -> Floats:
    vector = np.random.default_rng(seed).normal(size=width)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def some_tokens(seed: int, *, width: int = OLD.token_width) -> Halves:
    return np.random.default_rng(1000 + seed).normal(size=(3, width)).astype(np.float16)


def point(name: str, *, seed: int = 0, vector: Floats | None = None, **metadata: str) -> ImagePoint:
    return ImagePoint(
        image_id=name,
        metadata=metadata,
        sha256=f"sha-{seed}",
        vector=unit(seed) if vector is None else vector,
        tokens=some_tokens(seed),
    )


async def store(index: VectorIndex, *points: ImagePoint) -> None:
    await index.upsert(points, space_id=OLD.space_id)


async def found(index: VectorIndex, query_D: Floats, **fields: object) -> list[str]:
    hits = await index.search(query_D, space_id=OLD.space_id, **({"k": 10} | fields))  # type: ignore[arg-type]
    return [hit.point.image_id for hit in hits]


async def test_a_point_comes_back_bit_for_bit(index: VectorIndex) -> None:
    stored = point("a", seed=1, colour="red", note="ünïcode ✓")
    await store(index, stored)
    got = (await index.get(["a", "absent"], space_id=OLD.space_id, with_vector=True, with_tokens=True))["a"]
    assert (got.image_id, dict(got.metadata), got.sha256) == ("a", dict(stored.metadata), "sha-1")
    assert got.vector is not None
    np.testing.assert_array_equal(got.vector, stored.vector)
    assert got.tokens is not None
    np.testing.assert_array_equal(got.tokens, stored.tokens)


async def test_vectors_and_tokens_come_only_when_asked_for(index: VectorIndex) -> None:
    await store(index, point("a"))
    plain = (await index.get(["a"], space_id=OLD.space_id))["a"]
    (hit,) = await index.search(unit(0), space_id=OLD.space_id, k=1)
    (paged,) = (await index.page(space_id=OLD.space_id, limit=5)).points
    assert all(p.vector is None and p.tokens is None for p in (plain, hit.point, paged))


async def test_search_equals_exhaustive_search(index: VectorIndex) -> None:
    vectors = {f"p{n:02d}": unit(n) for n in range(37)}
    await store(index, *[point(name, vector=vector) for name, vector in vectors.items()])
    query = unit(999)
    scores = {name: float(vector @ query) for name, vector in vectors.items()}
    expected = sorted(scores, key=lambda name: -scores[name])[:7]
    hits = await index.search(query, space_id=OLD.space_id, k=7)
    assert [hit.point.image_id for hit in hits] == expected
    np.testing.assert_allclose([hit.score for hit in hits], [scores[name] for name in expected], atol=1e-6)


async def test_search_brings_tokens_when_asked(index: VectorIndex) -> None:
    await store(index, point("a", seed=1), point("b", seed=2))
    hits = await index.search(unit(2), space_id=OLD.space_id, k=2, with_tokens=True)
    assert [hit.point.image_id for hit in hits] == ["b", "a"]
    for hit, seed in zip(hits, (2, 1), strict=True):
        assert hit.point.tokens is not None
        np.testing.assert_array_equal(hit.point.tokens, some_tokens(seed))


async def test_ties_come_in_the_order_of_their_ids_even_at_the_last_place(index: VectorIndex) -> None:
    names = [f"twin{n}" for n in range(9)]
    await store(index, *[point(name, vector=unit(5)) for name in reversed(names)])
    await store(index, point("best", vector=unit(6)))
    for k in (1, 3, 9):
        assert await found(index, unit(6), k=k + 1) == ["best", *names[:k]]


async def test_score_floor_keeps_what_is_on_it(index: VectorIndex) -> None:
    exact = np.zeros(8, dtype=np.float32)
    exact[0] = 1.0
    half = np.zeros(8, dtype=np.float32)
    half[:4] = 0.5
    await store(index, point("exact", vector=exact), point("half", vector=half), point("opposite", vector=-exact))
    assert await found(index, exact) == ["exact", "half", "opposite"]
    assert await found(index, exact, min_score=0.5) == ["exact", "half"]
    assert await found(index, exact, min_score=0.5001) == ["exact"]


async def test_filters_hold_every_must_and_no_must_not(index: VectorIndex) -> None:
    same = unit(3)
    await store(
        index,
        point("a", vector=same, colour="red", size="big"),
        point("b", vector=same, colour="red", size="small"),
        point("c", vector=same, colour="blue", size="big"),
        point("d", vector=same),
    )

    def claim(key: str, *values: str) -> Condition:
        return Condition(key=key, any_of=values)

    async def kept(**claims: tuple[Condition, ...]) -> list[str]:
        return await found(index, same, where=Where(**claims))

    assert await kept(must=(claim("colour", "red"),)) == ["a", "b"]
    assert await kept(must=(claim("colour", "red", "blue"), claim("size", "big"))) == ["a", "c"]
    assert await kept(must_not=(claim("colour", "red"),)) == ["c", "d"]
    assert await kept(must=(claim("image_id", "a", "d", "absent"),)) == ["a", "d"]
    assert await kept(must=(claim("size", "big"),), must_not=(claim("image_id", "a"),)) == ["c"]
    assert await kept(must=(claim("colour", "green"),)) == []
    assert await kept() == ["a", "b", "c", "d"]


async def test_a_picture_is_left_out_by_its_digest_under_whatever_id(index: VectorIndex) -> None:
    await store(index, point("a", seed=3), point("copy of a", seed=3, colour="red"), point("b", seed=4, colour="red"))
    red = Condition(key="colour", any_of=("red",))
    assert await found(index, unit(3), where=Where(not_sha256="sha-3")) == ["b"]
    assert await found(index, unit(3), where=Where(must=(red,), not_sha256="sha-4")) == ["copy of a"]
    assert await found(index, unit(3), where=Where(must_not=(red,), not_sha256="sha-4")) == ["a"]


async def test_any_metadata_key_can_be_filtered(index: VectorIndex) -> None:
    keys = ["a.b", 'quo"ted', "with=equals", "[]", "with space", "ключ", "sha256", "labels"]
    await store(index, *[point(f"has {key}", vector=unit(3), **{key: "v=1"}) for key in keys])
    await store(index, point("other", vector=unit(3), **{"with": "equals=v=1"}))
    for key in keys:
        only = Where(must=(Condition(key=key, any_of=("v=1",)),))
        assert await found(index, unit(3), where=only) == [f"has {key}"]


async def test_pages_cover_everything_once_in_one_order(index: VectorIndex) -> None:
    names = [f"p{n}" for n in range(11)]
    await store(index, *[point(name, parity=str(n % 2)) for n, name in enumerate(names)])
    seen: list[str] = []
    start: uuid.UUID | None = None
    while True:
        page = await index.page(space_id=OLD.space_id, limit=4, start=start)
        seen += [p.image_id for p in page.points]
        if page.next_id is None:
            break
        start = page.next_id
    assert seen == sorted(names, key=point_id)
    even = await index.page(
        space_id=OLD.space_id, limit=100, where=Where(must=(Condition(key="parity", any_of=("0",)),))
    )
    assert {p.image_id for p in even.points} == {f"p{n}" for n in range(0, 11, 2)}


async def test_upsert_replaces_and_delete_forgets_and_both_may_repeat(index: VectorIndex) -> None:
    await store(index, point("a", seed=1, v="1"), point("b", seed=2))
    await store(index, point("a", seed=3, v="2"))
    await store(index, point("a", seed=3, v="2"))
    got = (await index.get(["a"], space_id=OLD.space_id))["a"]
    assert (got.sha256, dict(got.metadata)) == ("sha-3", {"v": "2"})
    assert await index.count(space_id=OLD.space_id) == 2
    for _ in range(2):
        await index.delete(["a", "never stored"], space_id=OLD.space_id)
    assert await index.count(space_id=OLD.space_id) == 1
    assert await found(index, unit(3)) == ["b"]


async def test_writes_that_need_not_be_durable_are_found_at_once(index: VectorIndex) -> None:
    await index.upsert([point("a", seed=1)], space_id=OLD.space_id, is_durable=False)
    assert await found(index, unit(1)) == ["a"]
    await index.sync(OLD.space_id)
    assert await found(index, unit(1)) == ["a"]


async def test_count_by_digest(index: VectorIndex) -> None:
    await store(index, point("a", seed=1), point("b", seed=1), point("c", seed=2))
    assert [await index.count(space_id=OLD.space_id, sha256=f"sha-{seed}") for seed in (1, 2, 3)] == [2, 1, 0]


async def test_describe_counts_points(index: VectorIndex) -> None:
    await store(index, point("a"), point("b"))
    info = await index.describe(space_id=OLD.space_id)
    assert info.num_points == 2
    assert 0 <= info.num_indexed <= 2


async def test_layout_follows_create_next_switch_and_drop(index: VectorIndex) -> None:
    assert await index.layout() == Layout(current=OLD.space_id, spaces={OLD.space_id: OLD})
    await index.create(NEW)
    await index.create(NEW)
    await index.set_next(NEW.space_id)
    both = {OLD.space_id: OLD, NEW.space_id: NEW}
    assert await index.layout() == Layout(current=OLD.space_id, next=NEW.space_id, spaces=both)
    await index.switch(NEW.space_id)
    switched = await index.layout()
    assert switched == Layout(current=NEW.space_id, spaces=both)
    assert switched.retired == (OLD.space_id,)
    await index.drop(OLD.space_id)
    assert await index.layout() == Layout(current=NEW.space_id, spaces={NEW.space_id: NEW})


async def test_next_can_be_given_up_and_its_collection_is_then_retired(index: VectorIndex) -> None:
    await index.create(NEW)
    await index.set_next(NEW.space_id)
    await index.set_next(None)
    await index.set_next(None)
    layout = await index.layout()
    assert (layout.current, layout.next, layout.retired) == (OLD.space_id, None, (NEW.space_id,))


async def test_spaces_are_kept_apart(index: VectorIndex) -> None:
    await store(index, point("old", seed=1))
    await index.create(NEW)
    new = dataclasses.replace(point("new"), vector=unit(1, width=6), tokens=some_tokens(1, width=3))
    await index.upsert([new], space_id=NEW.space_id)
    assert await found(index, unit(1)) == ["old"]
    hits = await index.search(unit(1, width=6), space_id=NEW.space_id, k=5)
    assert [hit.point.image_id for hit in hits] == ["new"]
    assert index.collection(OLD.space_id) != index.collection(NEW.space_id)


async def test_a_space_without_tokens_stores_none(index: VectorIndex) -> None:
    await index.create(BARE)
    await index.upsert([point("a", seed=1)], space_id=BARE.space_id)
    got = await index.get(["a"], space_id=BARE.space_id, with_vector=True, with_tokens=True)
    assert got["a"].tokens is None
    assert got["a"].vector is not None


async def test_nothing_asked_is_nothing_done(index: VectorIndex) -> None:
    await index.upsert([], space_id=OLD.space_id)
    await index.delete([], space_id=OLD.space_id)
    assert await index.get([], space_id=OLD.space_id) == {}
    assert await index.search(unit(1), space_id=OLD.space_id, k=3) == []
    assert (await index.page(space_id=OLD.space_id, limit=3)).points == ()
