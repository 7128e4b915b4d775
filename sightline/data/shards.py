"""WebDataset tars of pictures with texts, as img2dataset writes them: N.jpg, N.txt and N.json side by side.

Tars are read in two ways. `read_shards` lists what they hold from headers and texts, without reading a picture.
`ShardStream` reads whole tars from front to end through the `webdataset` library, which groups members into samples;
its generic decoders, some of which unpickle, are not used.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from webdataset.shardlists import expand_urls
from webdataset.tariterators import base_plus_ext, group_by_keys, tar_file_expander

from sightline.data.captions import CaptionRecord
from sightline.data.lines import SkipReport, collect, object_in, text_field
from sightline.data.pools import PoolImage, Span
from sightline.errors import DataLineInvalid, UsageError

_PICTURES = ("jpg", "jpeg", "png", "webp")
_END_BYTES = 1024
_BROKEN_TAR = (tarfile.TarError, EOFError, OSError)


def shard_paths(where: Path) -> list[Path]:
    """The tars that a folder holds, that a pattern such as train-{0000..0041}.tar names, or one tar alone, in order.

    Raises UsageError for a folder without tars, a tar that does not exist, and
    two tars of one name, whose samples could not be told apart.
    """
    paths = sorted(where.glob("*.tar")) if where.is_dir() else [Path(url) for url in expand_urls(str(where))]
    if not paths:
        raise UsageError(f"{where}: holds no .tar", path=where)
    for path in paths:
        if not path.is_file():
            raise UsageError(f"{path}: no such tar", path=path)
    if len({path.stem for path in paths}) < len(paths):
        raise UsageError(f"{where}: two tars have one name; samples are told apart by it", path=where)
    return paths


def read_shards(
    paths: Sequence[Path], *, skip_bad: bool = False, report: SkipReport | None = None
) -> list[CaptionRecord]:
    """Every sample of the tars in their order: its picture by place, its caption from .txt, else from .json "caption".

    Ids are tar name / sample key. No picture is read. Raises DataLineInvalid
    naming the tar, the sample and the field, also for a tar that is cut short or
    compressed, and for a key that occurs twice in a tar; with `skip_bad` such
    samples, and those without picture or caption, are counted in `report`.
    """
    return collect(_listed(paths), parse=_record, skip_bad=skip_bad, report=report)


def read_shard_pool(
    paths: Sequence[Path], *, skip_bad: bool = False, report: SkipReport | None = None
) -> list[PoolImage]:
    """The picture of every sample, captioned or not, as `read_shards` lists them. Raises what it raises."""
    return collect(_listed(paths), parse=_image, skip_bad=skip_bad, report=report)


@dataclass(frozen=True, kw_only=True)
class StreamPosition:
    """Where one worker stands in its endless stream: the block it is in and what it took of it. Four whole numbers."""

    epoch: int = 0
    shard: int = 0
    """Tars of this epoch read to their end before the block begins."""
    pair: int = 0
    """Pairs of the next tar that came before the block."""
    taken: int = 0
    """Pairs of the block already given."""


class StreamedPair(NamedTuple):
    """One pair of a stream."""

    row: int
    """Position of its record in the list that the stream was made of."""
    data: bytes
    """The encoded picture."""
    position: StreamPosition
    """Where to go on after this pair."""


class ShardStream:
    """The pairs of some records of `read_shards`, streamed tar by tar in an order that is a function of the seed.

    Each worker reads tars of its own, every world_size-th, or every
    world_size-th pair of all of them where there are fewer tars than workers: in
    its epoch it gives each of its pairs once. The order of tars is drawn anew
    each epoch, and pairs are shuffled in blocks of `block_pairs`, which is the
    memory that a stream takes.
    """

    def __init__(
        self,
        records: Sequence[CaptionRecord],
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        block_pairs: int = 512,
    ) -> None:
        """Raises UsageError if there are fewer pairs than workers."""
        self._seed, self._rank, self._block = seed, rank, block_pairs
        by_path: dict[Path, dict[str, int]] = {}
        for row, record in enumerate(records):
            by_path.setdefault(record.path, {})[record.image_id] = row
        paths = list(by_path)
        self._is_by_tar = len(paths) >= world_size
        self._stride, self._first = (1, 0) if self._is_by_tar else (world_size, rank)
        own = paths[rank::world_size] if self._is_by_tar else paths
        self._shards = [(path, by_path[path]) for path in own]
        self._counts = np.array([len(range(self._first, len(by_path[path]), self._stride)) for path in own])
        if not self._counts.sum():
            raise UsageError(f"worker {rank}: {len(records)} pairs are too few for {world_size} workers")

    @property
    def pairs_an_epoch(self) -> int:
        """Pairs that this worker gives in an epoch."""
        return int(self._counts.sum())

    def position_after(self, num_pairs: int) -> StreamPosition:
        """Where the stream stands when `num_pairs` were taken from its start, found without reading."""
        epoch, within = divmod(num_pairs, self.pairs_an_epoch)
        block_start, taken = within - within % self._block, within % self._block
        ends = np.cumsum(self._counts[self._order(epoch)])
        shard = int(np.searchsorted(ends, block_start, side="right"))
        before = int(ends[shard - 1]) if shard else 0
        return StreamPosition(epoch=epoch, shard=shard, pair=block_start - before, taken=taken)

    def pairs(self, start: StreamPosition | None = None) -> Iterator[StreamedPair]:
        """The pairs from `start` on, epoch after epoch, without an end.

        Raises DataLineInvalid naming a tar that is cut short or no longer holds
        the pairs it was listed with.
        """
        position = start or StreamPosition()
        while True:
            block = list(self._block_at(position))
            order = np.random.default_rng([self._seed, 7, self._rank, *_numbers(position)]).permutation(len(block))
            following = self._after_block(position, length=len(block))
            for taken in range(position.taken, len(block)):
                row, data = block[order[taken]]
                is_last = taken + 1 == len(block)
                yield StreamedPair(row, data, following if is_last else _taken(position, taken + 1))
            position = following

    def _after_block(self, position: StreamPosition, *, length: int) -> StreamPosition:
        return self.position_after(position.epoch * self.pairs_an_epoch + self._pairs_before(position) + length)

    def _pairs_before(self, position: StreamPosition) -> int:
        return int(self._counts[self._order(position.epoch)][: position.shard].sum()) + position.pair

    def _block_at(self, position: StreamPosition) -> Iterator[tuple[int, bytes]]:
        left, skipped = self._block, position.pair
        for shard in self._order(position.epoch)[position.shard :].tolist():
            for pair in islice(self._shard_pairs(shard), skipped, skipped + left):
                left -= 1
                yield pair
            skipped = 0
            if not left:
                return

    def _shard_pairs(self, shard: int) -> Iterator[tuple[int, bytes]]:
        path, rows = self._shards[shard][0], dict(self._shards[shard][1])
        num_given = 0
        # Taken out, so that of a key that occurs twice the second is not streamed: nor was it listed.
        named = ((rows.pop(f"{path.stem}/{sample['__key__']}", None), sample) for sample in _samples(path))
        known = ((row, sample) for row, sample in named if row is not None)
        for row, sample in islice(known, self._first, None, self._stride):
            num_given += 1
            yield row, sample[_picture_name(sample)]
        if num_given != self._counts[shard]:
            raise DataLineInvalid(f"{path}: gave {num_given} pairs, was listed with {self._counts[shard]}")

    def _order(self, epoch: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        return np.random.default_rng([self._seed, 6, self._rank, epoch]).permutation(len(self._shards))


class _Headers(NamedTuple):
    """A sample by the places of its members."""

    path: Path
    key: str
    members: Mapping[str, tarfile.TarInfo]
    read: Callable[[str], bytes]
    is_repeated: bool = False
    """Whether the tar had a sample of this key before."""


def _headers(path: Path) -> Iterator[_Headers]:
    try:
        _check_end(path)
        with tarfile.open(path, "r:") as tar:
            for key, members in _grouped(tar):
                yield _Headers(path, key, members, partial(_content, tar, members))
    except _BROKEN_TAR as error:
        raise DataLineInvalid(f"{path}: not a whole, uncompressed tar: {error}") from error


def _check_end(path: Path) -> None:
    """Refuse a tar without its closing blocks: cut between two members, it would read as a shorter one."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _END_BYTES))
        if file.read().strip(b"\0"):
            raise tarfile.ReadError("its two empty closing blocks are missing")


def _grouped(tar: tarfile.TarFile) -> Iterator[tuple[str, dict[str, tarfile.TarInfo]]]:
    """Members that follow each other under one key, as `webdataset` groups them."""
    key, members = "", dict[str, tarfile.TarInfo]()
    for member in tar:
        found, name = base_plus_ext(member.name) if member.isreg() else (None, None)
        if found is None or name is None or found.startswith("__"):
            continue
        if members and found != key:
            yield key, members
            members = {}
        key = found
        members[name.lower()] = member
    if members:
        yield key, members


def _content(tar: tarfile.TarFile, members: Mapping[str, tarfile.TarInfo], name: str) -> bytes:
    file = tar.extractfile(members[name])
    assert file is not None, "only regular members are grouped"
    return file.read()


def _listed(paths: Sequence[Path]) -> Iterator[tuple[str, _Headers]]:
    for path in paths:
        seen = set[str]()
        for sample in _headers(path):
            yield f"{path}: {sample.key}", sample._replace(is_repeated=sample.key in seen)
            seen.add(sample.key)


def _image(sample: _Headers) -> PoolImage:
    if sample.is_repeated:
        raise ValueError("key: occurs twice in the tar")
    picture = sample.members[_picture_name(sample.members)]
    image_id, span = f"{sample.path.stem}/{sample.key}", Span(picture.offset_data, picture.size)
    return PoolImage(image_id=image_id, path=sample.path, span=span)


def _record(sample: _Headers) -> CaptionRecord:
    image = _image(sample)
    caption = _caption(sample).strip()
    return CaptionRecord(image_id=image.image_id, path=image.path, caption=caption, span=image.span)


def _picture_name(members: Mapping[str, Any]) -> str:
    name = next((name for name in _PICTURES if name in members), None)
    if name is None:
        raise ValueError(f"{'/'.join(_PICTURES)}: none of them among {', '.join(sorted(members))}")
    return name


def _caption(sample: _Headers) -> str:
    if "txt" in sample.members:
        return text_field({"txt": _text(sample, "txt")}, "txt")
    if "json" not in sample.members:
        raise ValueError(f"txt/json: none of them among {', '.join(sorted(sample.members))}")
    try:
        return text_field(object_in(sample.read("json")), "caption")
    except ValueError as error:
        raise ValueError(f"json: {error}") from error


def _text(sample: _Headers, name: str) -> str:
    try:
        return sample.read(name).decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{name}: not UTF-8: {error.reason} at byte {error.start}") from error


def _samples(path: Path) -> Iterator[dict[str, Any]]:
    # Opened here: the library's own opener would run a command where a name starts with "pipe:".
    try:
        with path.open("rb") as file:
            yield from group_by_keys(tar_file_expander([{"url": str(path), "stream": file}]))
    except (*_BROKEN_TAR, ValueError) as error:
        raise DataLineInvalid(f"{path}: cannot be streamed: {error.args[0] if error.args else error}") from error


def _numbers(position: StreamPosition) -> tuple[int, int, int]:
    """What a block is told by."""
    return position.epoch, position.shard, position.pair


def _taken(position: StreamPosition, taken: int) -> StreamPosition:
    return StreamPosition(epoch=position.epoch, shard=position.shard, pair=position.pair, taken=taken)
