"""Settings, page tokens, stored pictures and ties."""

from __future__ import annotations

import pickle
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from retriever_svc.index import Condition, Hit, ImagePoint, Where, best_hits, label
from retriever_svc.paging import page_start, page_token
from retriever_svc.pictures import PictureStore, digest, open_pictures
from retriever_svc.settings import RetrieverSettings
from sightline.errors import DataCorrupt, PageTokenInvalid, SettingInvalid
from sightline.rpc.tokens import Secret
from sightline.settings import read_settings


def test_several_replicas_of_the_edge_driver_are_refused_with_the_reason() -> None:
    with pytest.raises(SettingInvalid, match=r"num_replicas: got 2, limit 1 with driver 'edge'.*driver 'server'"):
        RetrieverSettings(num_replicas=2)
    assert RetrieverSettings(num_replicas=2, driver="server").num_replicas == 2


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("DRIVER", "local", "edge, server"),
        ("QDRANT_QUANTIZATION", "int4", "none, scalar"),
        ("POLL_S", "0", "more than 0"),
        ("NUM_REPLICAS", "2", "driver 'server'"),
        ("NUM_REPLICA", "2", "num_replicas"),
    ],
)
def test_wrong_settings_are_refused_with_the_valid_ones(variable: str, value: str, expected: str) -> None:
    with pytest.raises(SettingInvalid, match=expected):
        read_settings(RetrieverSettings, section="retriever", environ={f"SIGHTLINE_RETRIEVER_{variable}": value})


def test_settings_travel_to_a_replica_with_their_secrets_and_never_print_them() -> None:
    settings = RetrieverSettings(qdrant_api_key=Secret("do not print me"))
    again = pickle.loads(pickle.dumps(settings))
    assert again == settings
    assert again.qdrant().api_key.reveal() == "do not print me"
    assert "do not print me" not in repr(settings)


@pytest.mark.slow
def test_the_retriever_loads_no_torch_no_ray_and_no_qdrant_client_at_start() -> None:
    code = (
        "import sys, retriever_svc.__main__\n"
        "bad = {'torch', 'ray', 'transformers', 'qdrant_client'} & set(sys.modules)\n"
        "assert not bad, bad\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_page_tokens_come_back_and_hold_for_one_filter() -> None:
    start = uuid.uuid4()
    red = Where(must=(Condition(key="colour", any_of=("red",)),))
    assert page_start(page_token(start, where=red), where=red) == start
    assert page_start("", where=red) is None
    assert page_token(None, where=red) == ""
    assert page_start(page_token(start, where=None), where=Where()) == start
    with pytest.raises(PageTokenInvalid):
        page_start(page_token(start, where=red), where=None)


@pytest.mark.parametrize("token", ["x", "====", "é", "A" * 32, "A" * 5000])
def test_foreign_page_tokens_are_refused(token: str) -> None:
    with pytest.raises(PageTokenInvalid):
        page_start(token, where=None)


def test_labels_of_different_pairs_differ() -> None:
    pairs = [("a", "b=c"), ("a=b", "c"), ("", "a=b=c"), ("a", "b"), ("1:a", "b")]
    assert len({label(key, value=value) for key, value in pairs}) == len(pairs)


@pytest.fixture(params=["folder", "bucket"])
def pictures(request: pytest.FixtureRequest, folder: Path) -> PictureStore:
    return open_pictures(str(folder / "pictures") if request.param == "folder" else f"memory://{uuid.uuid4().hex}")


async def test_pictures_come_back_by_digest_until_they_are_removed(pictures: PictureStore) -> None:
    red, blue = b"red bytes", b"blue bytes"
    await pictures.put([red, blue])
    await pictures.put([red])
    assert await pictures.get(digest(red)) == red
    assert await pictures.missing([digest(red), digest(b"other")]) == [digest(b"other")]
    await pictures.remove([digest(red), digest(b"other")])
    with pytest.raises(DataCorrupt, match=digest(red)):
        await pictures.get(digest(red))
    assert await pictures.get(digest(blue)) == blue


async def test_an_altered_picture_is_not_returned(folder: Path) -> None:
    pictures = open_pictures(str(folder))
    await pictures.put([b"bytes"])
    sha256 = digest(b"bytes")
    (folder / sha256[:2] / sha256).write_bytes(b"other")
    with pytest.raises(DataCorrupt, match="another digest"):
        await pictures.get(sha256)


async def test_a_stopped_write_leaves_no_picture_under_its_digest(folder: Path) -> None:
    pictures = open_pictures(str(folder))
    await pictures.put([b"bytes"])
    names = [path.name for path in folder.rglob("*") if path.is_file()]
    assert names == [digest(b"bytes")]


def hits_of(scores: dict[str, float]) -> Callable[[int], list[Hit]]:
    best_first = sorted(scores, key=lambda name: (-scores[name], hash(name)))
    points = {name: ImagePoint(image_id=name, metadata={}, sha256="") for name in scores}
    return lambda limit: [Hit(score=scores[name], point=points[name]) for name in best_first[:limit]]


@pytest.mark.parametrize("k", [1, 4, 10, 31])
async def test_ties_are_settled_as_by_sorting_everything(k: int) -> None:
    rng = np.random.default_rng(0)
    scores = {f"p{n:02d}": float(rng.integers(0, 3)) / 2 for n in range(30)}
    fetch = hits_of(scores)

    async def fetch_async(limit: int) -> list[Hit]:
        return fetch(limit)

    found = await best_hits(k, min_score=0.5, fetch=fetch_async)
    expected = [name for name in sorted(scores, key=lambda name: (-scores[name], name)) if scores[name] >= 0.5][:k]
    assert [hit.point.image_id for hit in found] == expected
