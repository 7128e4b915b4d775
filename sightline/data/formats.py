"""Which format a file has, told from its name and its first object, and the reader for it.

| format | told by | captions | dialogues | pool |
| --- | --- | --- | --- | --- |
| our JSON Lines | .jsonl | yes | yes | yes |
| COCO captions | .json, an object | yes | | yes |
| Image-Chat | .json, an array whose first object has "image_hash" | yes | yes | |
| Reddit conversations | .json, an array whose first object has "response" | | yes | |
| WebDataset | .tar, a pattern with braces, or a folder of .tar | yes | | yes |
| pictures | any other folder | | | yes |
"""

from __future__ import annotations

from pathlib import Path

from sightline.data.arrays import iter_array
from sightline.data.captions import CaptionRecord, read_captions
from sightline.data.coco import read_coco_captions, read_coco_pool
from sightline.data.dialogues import DialogueRecord, read_dialogues, read_reddit
from sightline.data.image_chat import read_image_chat, read_image_chat_captions
from sightline.data.lines import SkipReport
from sightline.data.pools import PoolImage, read_pool
from sightline.data.shards import read_shard_pool, read_shards, shard_paths
from sightline.errors import DataLineInvalid, UsageError


def format_of(path: Path) -> str:
    """jsonl, coco, image_chat, reddit, webdataset or folder. Raises UsageError for anything else."""
    if path.suffix == ".tar" or (path.is_dir() and any(path.glob("*.tar"))):
        return "webdataset"
    if path.is_dir():
        return "folder"
    if path.suffix == ".jsonl":
        return "jsonl"
    if path.suffix == ".json":
        return _json_format(path)
    raise UsageError(f"{path}: no known format: expected .jsonl, .json, .tar or a folder", path=path)


def files_of(path: Path) -> list[Path]:
    """The files whose bytes decide what is read: the tars of a pattern or folder, the file itself, none of a folder."""
    kind = format_of(path)
    return shard_paths(path) if kind == "webdataset" else [] if kind == "folder" else [path]


def read_any_captions(
    path: Path, *, images: Path | None = None, skip_bad: bool = False, report: SkipReport | None = None
) -> list[CaptionRecord]:
    """The captions of a file of any of the formats that hold some, in file order.

    `images` is the folder of the pictures that COCO and Image-Chat files name;
    None is where COCO's own download has them (`train2017` beside `annotations`
    for `captions_train2017.json`), or `images` beside the file. Raises what the
    format's reader raises, UsageError for a format without captions.
    """
    kind = format_of(path)
    if kind == "jsonl":
        return read_captions(path, skip_bad=skip_bad, report=report)
    if kind == "webdataset":
        return read_shards(shard_paths(path), skip_bad=skip_bad, report=report)
    if kind == "coco":
        return read_coco_captions(path, images=images or _pictures_of(path), skip_bad=skip_bad, report=report)
    if kind == "image_chat":
        return read_image_chat_captions(path, images=images or _pictures_of(path), skip_bad=skip_bad, report=report)
    raise UsageError(f"{path}: {kind} holds no captions", path=path)


def read_any_dialogues(path: Path, *, skip_bad: bool = False, report: SkipReport | None = None) -> list[DialogueRecord]:
    """The dialogues of a JSONL, Reddit or Image-Chat file. Raises UsageError for a format without dialogues."""
    kind = format_of(path)
    readers = {"jsonl": read_dialogues, "reddit": read_reddit, "image_chat": read_image_chat}
    if kind not in readers:
        raise UsageError(f"{path}: {kind} holds no dialogues", path=path)
    return readers[kind](path, skip_bad=skip_bad, report=report)


def read_any_pool(
    path: Path, *, images: Path | None = None, skip_bad: bool = False, report: SkipReport | None = None
) -> list[PoolImage]:
    """The pictures, each once, of a folder, a JSONL, a COCO file or tars. Raises UsageError for another format."""
    kind = format_of(path)
    if kind in {"jsonl", "folder"}:
        return read_pool(path, skip_bad=skip_bad, report=report)
    if kind == "coco":
        return read_coco_pool(path, images=images or _pictures_of(path), skip_bad=skip_bad, report=report)
    if kind == "webdataset":
        return read_shard_pool(shard_paths(path), skip_bad=skip_bad, report=report)
    raise UsageError(f"{path}: {kind} is no pool of pictures", path=path)


def _json_format(path: Path) -> str:
    try:
        with path.open("rb") as file:
            start = file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}", path=path) from error
    if start != b"[":
        return "coco"
    where, first = next(iter_array(path), (f"{path}: item 1", None))
    fields = first if isinstance(first, dict) else {}
    for name, kind in (("image_hash", "image_chat"), ("response", "reddit")):
        if name in fields:
            return kind
    raise DataLineInvalid(f"{where}: neither Image-Chat ('image_hash') nor a Reddit conversation ('response')")


def _pictures_of(path: Path) -> Path:
    beside = path.parent.parent / path.stem.removeprefix("captions_")
    return beside if path.stem.startswith("captions_") and beside.is_dir() else path.parent / "images"
