"""WebDataset tars: what they hold, in which order they are streamed, and where a stream goes on."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sightline.data.captions import CaptionRecord, write_captions
from sightline.data.lines import SkipReport
from sightline.data.pictures import decode_picture
from sightline.data.shards import ShardStream, StreamPosition, read_shard_pool, read_shards, shard_paths
from sightline.errors import DataLineInvalid, UsageError


def png(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (3, 2), (number % 256, number // 256, 7)).save(buffer, format="PNG")
    return buffer.getvalue()


def write_tar(path: Path, members: Sequence[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def write_shards(folder: Path, sizes: Sequence[int]) -> list[CaptionRecord]:
    """Tars of these numbers of pairs, each with a caption and a colour of its own."""
    folder.mkdir(exist_ok=True)
    number = 0
    for shard, size in enumerate(sizes):
        members = []
        for _ in range(size):
            members += [(f"{number:05d}.png", png(number)), (f"{number:05d}.txt", f"picture {number}".encode())]
            number += 1
        write_tar(folder / f"part-{shard}.tar", members)
    return read_shards(shard_paths(folder))


def rows(stream: ShardStream, num: int, start: StreamPosition | None = None) -> list[int]:
    return [pair.row for pair in islice(stream.pairs(start), num)]


def test_a_tar_is_listed_with_captions_and_places(tmp_path: Path) -> None:
    records = write_shards(tmp_path / "s", [2, 1])
    assert [(record.image_id, record.caption) for record in records] == [
        ("part-0/00000", "picture 0"),
        ("part-0/00001", "picture 1"),
        ("part-1/00002", "picture 2"),
    ]
    assert [record.image.read_bytes() for record in records] == [png(0), png(1), png(2)]


def test_a_caption_may_stand_in_the_json(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [("x/1.png", png(1)), ("x/1.json", b'{"caption": " red "}'), ("notes", b"")])
    (record,) = read_shards([path])
    assert (record.image_id, record.caption) == ("a/x/1", "red")


@pytest.mark.parametrize(
    ("member", "why"),
    [
        ([("2.png", b"p")], "txt/json: none of them among png"),
        ([("2.txt", b"t")], "jpg/jpeg/png/webp: none of them among txt"),
        ([("2.png", b"p"), ("2.txt", b" ")], "txt: got ' '"),
        ([("2.png", b"p"), ("2.txt", b"\xff")], "txt: not UTF-8"),
        ([("2.png", b"p"), ("2.json", b"{}")], "caption: got None"),
        ([("2.png", b"p"), ("2.json", b"[]")], "expected a JSON object"),
        ([("2.png", b"p"), ("2.json", b"{")], "json: not JSON"),
    ],
)
def test_a_bad_sample_is_named_by_tar_sample_and_field(
    tmp_path: Path, member: list[tuple[str, bytes]], why: str
) -> None:
    good = [("1.png", png(1)), ("1.txt", b"one")]
    path, report = write_tar(tmp_path / "a.tar", [*good, *member]), SkipReport()
    with pytest.raises(DataLineInvalid, match=rf"a\.tar: 2: .*{why}"):
        read_shards([path])
    assert len(read_shards([path], skip_bad=True, report=report)) == 1
    assert why in report.skipped[0]


def test_pictures_of_a_pool_need_no_captions(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [("1.png", png(1)), ("2.png", png(2)), ("2.txt", b"two"), ("3.txt", b"three")])
    report = SkipReport()
    pool = read_shard_pool([path], skip_bad=True, report=report)
    assert [(image.image_id, image.read_bytes()) for image in pool] == [("a/1", png(1)), ("a/2", png(2))]
    assert "a.tar: 3: jpg/jpeg/png/webp: none of them among txt" in report.skipped[0]


def test_a_key_that_occurs_twice_is_refused_or_taken_once(tmp_path: Path) -> None:
    pairs = [
        (f"{key}.{kind}", data)
        for key, n in (("1", 1), ("2", 2), ("1", 3))
        for kind, data in (("png", png(n)), ("txt", b"text"))
    ]
    path = write_tar(tmp_path / "a.tar", pairs)
    with pytest.raises(DataLineInvalid, match=r"a\.tar: 1: key: occurs twice in the tar"):
        read_shards([path])
    records = read_shards([path], skip_bad=True, report=SkipReport())
    streamed = {pair.row: pair.data for pair in islice(ShardStream(records, seed=0).pairs(), 4)}
    assert streamed == {0: png(1), 1: png(2)}


@pytest.mark.parametrize("length", [100, 700, 1100])
def test_a_tar_that_is_cut_short_is_named(tmp_path: Path, length: int) -> None:
    records = write_shards(tmp_path / "s", [2])
    path = records[0].path
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(DataLineInvalid, match=r"part-0\.tar: not a whole, uncompressed tar"):
        read_shards([path])
    with pytest.raises(DataLineInvalid, match=r"part-0\.tar: "):
        rows(ShardStream(records, seed=0), 2)


def test_tars_are_found_by_folder_pattern_and_name(tmp_path: Path) -> None:
    write_shards(tmp_path / "s", [1, 1, 1])
    names = [path.name for path in shard_paths(tmp_path / "s")]
    assert names == ["part-0.tar", "part-1.tar", "part-2.tar"]
    assert [path.name for path in shard_paths(tmp_path / "s" / "part-{1..2}.tar")] == names[1:]
    assert [path.name for path in shard_paths(tmp_path / "s" / "part-1.tar")] == ["part-1.tar"]


def test_tars_that_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no"):
        shard_paths(tmp_path)
    with pytest.raises(UsageError, match=r"part-7\.tar: no such tar"):
        shard_paths(tmp_path / "part-7.tar")


def test_a_picture_inside_a_tar_is_not_named_in_a_jsonl(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="lies inside"):
        write_captions(tmp_path / "c.jsonl", write_shards(tmp_path / "s", [1]))


@pytest.mark.parametrize("block", [1, 4, 100])  # 4 divides neither 11 nor a tar
def test_each_epoch_gives_each_pair_once_in_another_order(tmp_path: Path, block: int) -> None:
    records = write_shards(tmp_path / "s", [5, 0, 3, 2, 1])
    stream = ShardStream(records, seed=1, block_pairs=block)
    epochs = [rows(stream, 11, StreamPosition(epoch=epoch)) for epoch in range(3)]
    assert all(sorted(epoch) == list(range(11)) for epoch in epochs)
    assert rows(stream, 33) == [row for epoch in epochs for row in epoch]
    assert len({tuple(epoch) for epoch in epochs}) == 3


@pytest.mark.parametrize("world_size", [2, 3, 4])  # 4 workers over 3 tars share the tars pair by pair
def test_workers_share_the_pairs_between_them(tmp_path: Path, world_size: int) -> None:
    records = write_shards(tmp_path / "s", [5, 3, 4])
    streams = [ShardStream(records, seed=1, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert sorted(row for stream in streams for row in rows(stream, stream.pairs_an_epoch)) == list(range(12))


def test_more_workers_than_pairs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="too few for 3 workers"):
        ShardStream(write_shards(tmp_path / "s", [2]), seed=0, rank=2, world_size=3)


@pytest.mark.parametrize(("rank", "world_size"), [(0, 1), (1, 2), (1, 5)])
def test_a_stream_goes_on_from_any_saved_position(tmp_path: Path, rank: int, world_size: int) -> None:
    records = write_shards(tmp_path / "s", [5, 3, 4])
    stream = ShardStream(records, seed=2, rank=rank, world_size=world_size, block_pairs=3)
    pairs = list(islice(stream.pairs(), 30))
    for taken in range(1, 20):
        saved = StreamPosition(**json.loads(json.dumps(asdict(pairs[taken - 1].position))))
        assert saved == stream.position_after(taken)
        assert list(islice(stream.pairs(saved), 9)) == pairs[taken : taken + 9]


def test_a_stream_gives_the_pictures_of_its_rows(tmp_path: Path) -> None:
    stream = ShardStream(write_shards(tmp_path / "s", [4, 2]), seed=0)
    assert all(pair.data == png(pair.row) for pair in islice(stream.pairs(), 12))


def test_pairs_that_were_not_listed_are_not_streamed(tmp_path: Path) -> None:
    records = write_shards(tmp_path / "s", [4, 2])[1::2]
    stream = ShardStream(records, seed=0)
    pairs = list(islice(stream.pairs(), 3))
    assert sorted(pair.data for pair in pairs) == sorted(record.image.read_bytes() for record in records)


def test_a_tar_that_lost_pairs_since_it_was_listed_is_named(tmp_path: Path) -> None:
    records = write_shards(tmp_path / "s", [3])
    write_tar(records[0].path, [("00000.png", png(0)), ("00000.txt", b"picture 0")])
    with pytest.raises(DataLineInvalid, match="gave 1 pairs, was listed with 3"):
        rows(ShardStream(records, seed=0), 3)


@pytest.mark.data
def test_a_real_tar_is_read_and_streamed_without_conversion(shared_data: Path) -> None:
    records = read_shards(shard_paths(shared_data / "cc12m_sample"))
    assert len(records) == len({record.image_id for record in records}) == 32
    streamed: dict[int, Any] = {pair.row: pair.data for pair in islice(ShardStream(records, seed=0).pairs(), 32)}
    assert all(record.image.read_bytes() == streamed[row] for row, record in enumerate(records))
    assert all(min(decode_picture(data, min_side=64).size) > 0 for data in streamed.values())
