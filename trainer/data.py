"""What a run learns from and is measured on: records in memory, pictures in one memory-mapped array."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from sightline.data.captions import CaptionRecord
from sightline.data.dialogues import DialogueRecord
from sightline.data.formats import files_of, read_any_captions, read_any_dialogues, read_any_pool
from sightline.data.lines import collect
from sightline.data.pools import PoolImage
from sightline.data.questions import QuestionRecord, read_questions
from sightline.data.toytown import write_toytown
from sightline.errors import SettingInvalid, UsageError
from trainer.config import DataSettings, FitConfig, training_settings

NamedT = TypeVar("NamedT", DialogueRecord, QuestionRecord)


class Rooted(Protocol):
    """Settings of data that lie below one folder."""

    @property
    def root(self) -> Path:
        """The folder."""


class WorldSettings(Protocol):
    """Settings that decide Toytown's scenes."""

    @property
    def scenes(self) -> int:
        """How many."""

    @property
    def named_share(self) -> float:
        """Share of the captioned ones that show a subject."""

    @property
    def seed(self) -> int:
        """Seed of the world."""


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Every record of a run. Pictures of `captions_train` are the only ones that training sees."""

    captions_train: Sequence[CaptionRecord]
    captions_val: Sequence[CaptionRecord]
    dialogues_train: Sequence[DialogueRecord]
    dialogues_val: Sequence[DialogueRecord]
    dialogues_annotated: Sequence[DialogueRecord]
    """Each names a picture of `captions_train`."""
    pool: Sequence[PoolImage]
    pool_train: Sequence[PoolImage]
    """What training dialogues retrieve from besides the captioned pictures."""
    questions: Sequence[QuestionRecord]
    questions_seen: Sequence[QuestionRecord]
    strangers: Sequence[DialogueRecord]
    """Questions that nothing answers."""
    file_digests: Mapping[str, str]
    """sha256 of each file that the records were read from, by its path below the root; of the pictures that they
    name, which may be huge, of ids and sizes."""
    skip_bad: bool = False
    """Whether pictures that cannot be decoded are left out rather than refused."""

    @property
    def digest(self) -> str:
        """sha256 of all that the records were read from."""
        return hashlib.sha256(json.dumps(dict(self.file_digests), sort_keys=True).encode()).hexdigest()

    def fact_values(self) -> frozenset[str]:
        """Every value of every fact that questions ask for."""
        return frozenset(value for question in self.questions for value in question.choices)

    def texts(self) -> list[str]:
        """Every training text: what the tokenizer is trained on."""
        turns = [turn for record in self.dialogues_train for turn in (*record.context, record.response)]
        return [record.caption for record in self.captions_train] + turns


def load_corpus(settings: DataSettings) -> Corpus:
    """The corpus that `settings` names; toytown is generated first where it is absent.

    Raises DataLineInvalid for a bad line, UsageError for a missing or empty
    file, SettingInvalid for an unknown kind.
    """
    if settings.kind not in {"toytown", "folder"}:
        raise SettingInvalid(f"data.kind: got {settings.kind!r}, expected toytown or folder")
    if settings.kind == "toytown" and not (settings.root / settings.captions_train).exists():
        draw_world(settings.root, settings=settings, strangers=settings.num_strangers)
    captions = _read_captions(settings, name=settings.captions_train)
    dialogues = read_any_dialogues(existing(settings, settings.dialogues_train), skip_bad=settings.skip_bad)
    captions_train, captions_val = _held_out_captions(settings, captions=captions)
    dialogues_train, dialogues_val = _held_out_dialogues(settings, dialogues=dialogues)
    pool = _pool(settings, name=settings.pool) if settings.pool else unique_pictures(captions_val)
    pool_train = _pool(settings, name=settings.pool_train) if settings.pool_train else []
    corpus = Corpus(
        captions_train=captions_train,
        captions_val=captions_val,
        dialogues_train=dialogues_train,
        dialogues_val=dialogues_val,
        dialogues_annotated=_annotated(settings, captions=captions_train),
        pool=pool,
        pool_train=pool_train,
        questions=_questions_about(pool, settings=settings),
        questions_seen=_questions(settings, name=settings.questions_seen),
        strangers=_strangers(settings),
        file_digests=_file_digests(settings) | _picture_digests(captions=captions, pool=pool, pool_train=pool_train),
        skip_bad=settings.skip_bad,
    )
    _check_not_empty(corpus)
    return corpus


def training_record(config: FitConfig, *, corpus: Corpus) -> dict[str, Any]:
    """All that decides a run's weights, by name: its settings, and the digest of every file it reads.

    Workers draw augmentations and pictures of their own, so their number is part
    of it. Pretrained parts that lie here count by their bytes, those of a hub by
    their names.
    """
    workers = {"run.num_workers": max(1, config.run.num_workers)}
    digests = {**corpus.file_digests, **_part_digests(config)}
    return training_settings(config) | workers | {f"file {name}": digest for name, digest in digests.items()}


def unique_pictures(captions: Sequence[CaptionRecord]) -> list[PoolImage]:
    """The pictures of `captions`, each once, in order of first mention."""
    first: dict[str, PoolImage] = {}
    for record in captions:
        first.setdefault(record.image_id, record.image)
    return list(first.values())


def paired_part(captions: Sequence[CaptionRecord], *, share: float) -> list[CaptionRecord]:
    """The captions of a share of their pictures, chosen by id: those of a smaller share are among those of a larger.

    Raises SettingInvalid for a share outside 0 to 1, UsageError if no picture is left.
    """
    if not 0.0 < share <= 1.0:
        raise SettingInvalid(f"stage1.pair_share: got {share}, limits above 0 to 1")
    part = [record for record in captions if _is_among(f"pair {record.image_id}", share=share)]
    if not part:
        raise UsageError(f"stage1.pair_share: {share} of {len(captions)} captions leaves no picture")
    return part


@dataclass(frozen=True)
class EpochOrder:
    """An endless shuffled order over items: a function of seed and step alone, so a resumed run continues it."""

    num_items: int
    seed: int
    salt: int
    """Tells orders of one seed apart."""

    def batch(self, step: int, *, size: int) -> npt.NDArray[np.int64]:
        """The `size` items of `step`; an epoch ends inside a batch where it must."""
        positions = np.arange(step * size, (step + 1) * size)
        epochs = np.unique(positions // self.num_items)
        orders = {int(epoch): self._order(int(epoch)) for epoch in epochs}
        return np.array([orders[p // self.num_items][p % self.num_items] for p in positions.tolist()], dtype=np.int64)

    def _order(self, epoch: int) -> npt.NDArray[np.int64]:
        return _permutation(self.num_items, self.seed, self.salt, epoch)


@lru_cache(maxsize=8)
def _permutation(num_items: int, seed: int, salt: int, epoch: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng([seed, salt, epoch]).permutation(num_items)


def draw_world(out: Path, *, settings: WorldSettings, strangers: int = 0) -> None:
    """The Toytown of the settings, written to the folder `out`. Raises UsageError as `write_toytown` does."""
    write_toytown(
        out, scenes=settings.scenes, named_share=settings.named_share, seed=settings.seed, strangers=strangers
    )


def pictures_folder(settings: DataSettings) -> Path | None:
    """Where the pictures lie that COCO and Image-Chat files name; None where their own download has them."""
    return None if settings.images is None else settings.root / settings.images


def existing(settings: Rooted, name: Path) -> Path:
    """The file of that name below the root. Raises UsageError if there is none."""
    path = settings.root / name
    # A pattern of tars names files, but is none; its reader says which of them is missing.
    if not path.exists() and path.suffix != ".tar":
        raise UsageError(f"data: {path} does not exist; data.root is {settings.root}")
    return path


def _read_captions(settings: DataSettings, *, name: Path) -> list[CaptionRecord]:
    return read_any_captions(existing(settings, name), images=pictures_folder(settings), skip_bad=settings.skip_bad)


def _held_out_captions(
    settings: DataSettings, *, captions: list[CaptionRecord]
) -> tuple[list[CaptionRecord], list[CaptionRecord]]:
    if settings.captions_val:
        return captions, _read_captions(settings, name=settings.captions_val)
    train = [record for record in captions if not _is_among(record.image_id, share=settings.val_share)]
    return train, [record for record in captions if _is_among(record.image_id, share=settings.val_share)]


def _held_out_dialogues(
    settings: DataSettings, *, dialogues: list[DialogueRecord]
) -> tuple[list[DialogueRecord], list[DialogueRecord]]:
    if settings.dialogues_val:
        path = existing(settings, settings.dialogues_val)
        return dialogues, read_any_dialogues(path, skip_bad=settings.skip_bad)
    # Split by what was said, not by id: the same context twice must not stand on both sides.
    said = ["\n".join(record.context or (record.response,)) for record in dialogues]
    held_out = [_is_among(text, share=settings.val_share) for text in said]
    train = [record for record, is_held_out in zip(dialogues, held_out, strict=True) if not is_held_out]
    return train, [record for record, is_held_out in zip(dialogues, held_out, strict=True) if is_held_out]


def _is_among(key: str, *, share: float) -> bool:
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") < share * 2**32


def _pool(settings: DataSettings, *, name: Path) -> list[PoolImage]:
    return read_any_pool(existing(settings, name), images=pictures_folder(settings), skip_bad=settings.skip_bad)


def _annotated(settings: DataSettings, *, captions: Sequence[CaptionRecord]) -> list[DialogueRecord]:
    if settings.dialogues_annotated is None:
        return []
    path, known = existing(settings, settings.dialogues_annotated), {record.image_id for record in captions}

    def checked(record: DialogueRecord) -> DialogueRecord:
        if record.image_id not in known:
            raise ValueError(f"image_id: no caption has the picture {record.image_id!r}")
        return record

    dialogues = read_any_dialogues(path, skip_bad=settings.skip_bad)
    return _checked(dialogues, path=path, kind="dialogue", check=checked, skip_bad=settings.skip_bad)


def _questions(settings: DataSettings, *, name: Path | None) -> list[QuestionRecord]:
    return read_questions(existing(settings, name), skip_bad=settings.skip_bad) if name else []


def _questions_about(pool: Sequence[PoolImage], *, settings: DataSettings) -> list[QuestionRecord]:
    if settings.questions is None:
        return []
    questions, known = _questions(settings, name=settings.questions), {image.image_id for image in pool}

    def checked(question: QuestionRecord) -> QuestionRecord:
        if unknown := set(question.relevant_image_ids) - known:
            raise ValueError(f"relevant_image_ids: {min(unknown)!r} is not in the pool")
        return question

    path = settings.root / settings.questions
    return _checked(questions, path=path, kind="question", check=checked, skip_bad=settings.skip_bad)


def _checked(
    records: Sequence[NamedT], *, path: Path, kind: str, check: Callable[[NamedT], NamedT], skip_bad: bool
) -> list[NamedT]:
    """The records that `check` raises no ValueError for; others are named by place among the whole ones, and by id."""
    placed = ((f"{path}: {kind} {number} (id {record.id})", record) for number, record in enumerate(records, start=1))
    return collect(placed, parse=check, skip_bad=skip_bad, report=None)


def _strangers(settings: DataSettings) -> list[DialogueRecord]:
    if settings.strangers is None:
        return []
    return read_any_dialogues(existing(settings, settings.strangers), skip_bad=settings.skip_bad)


def _file_digests(settings: DataSettings) -> dict[str, str]:
    names = (
        settings.captions_train,
        settings.captions_val,
        settings.dialogues_train,
        settings.dialogues_val,
        settings.dialogues_annotated,
        settings.pool,
        settings.pool_train,
        settings.questions,
        settings.questions_seen,
        settings.strangers,
    )
    return digests_of(settings.root, names=[name for name in names if name is not None])


def digests_of(root: Path, *, names: Sequence[Path]) -> dict[str, str]:
    """sha256 of each file of those names below `root`, by its path below it; of a tar, of its size and time."""
    return {_below(root, path): _sha256(path) for name in names for path in files_of(root / name)}


def _picture_digests(
    *, captions: Sequence[CaptionRecord], pool: Sequence[PoolImage], pool_train: Sequence[PoolImage]
) -> dict[str, str]:
    """A digest of what pictures there are and of their sizes; a picture inside a tar is told by the tar."""
    named = {"captions": unique_pictures(captions), "pool": pool, "pool_train": pool_train}
    return {f"pictures of {name}": _listing(images) for name, images in named.items() if images}


def _listing(images: Sequence[PoolImage]) -> str:
    total = hashlib.sha256()
    for image in images:
        size = image.path.stat().st_size if image.span is None else image.span.length
        total.update(f"{image.image_id} {size}\n".encode())
    return total.hexdigest()


def _below(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


def _part_digests(config: FitConfig) -> dict[str, str]:
    """A digest of each pretrained part that is a file or a folder here; a run from a release reads neither."""
    if config.init_from:
        return {}
    named = {"model.decoder": config.model.decoder, "model.tower": config.model.tower}
    return {name: _tree_digest(path) for name, value in named.items() if (path := _local_part(value))}


def _local_part(name: str) -> Path | None:
    """What the name of a part says lies here: `FOLDER`, `local-dir:FOLDER` or `ARCHITECTURE:FILE`."""
    texts = (name, name.removeprefix("local-dir:"), name.partition(":")[2])
    return next((Path(text) for text in texts if text and Path(text).exists()), None)


def _tree_digest(path: Path) -> str:
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    total = hashlib.sha256()
    for file in files:
        total.update(f"{file.relative_to(path).as_posix()} {_sha256(file)}\n".encode())
    return total.hexdigest()


def _sha256(path: Path) -> str:
    """Of a tar, which may be huge, by size and time of writing instead of by its bytes."""
    if path.suffix == ".tar":
        state = path.stat()
        return hashlib.sha256(f"{state.st_size} {state.st_mtime_ns}".encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_not_empty(corpus: Corpus) -> None:
    for name in ("captions_train", "captions_val", "dialogues_train", "dialogues_val", "pool"):
        if not getattr(corpus, name):
            raise UsageError(f"data: no record in {name}; a run needs at least one")
