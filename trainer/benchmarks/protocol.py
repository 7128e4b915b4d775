"""The seam between a benchmark and a model: queries over pictures in, unit vectors out. Nothing here knows either."""

# Axes: N pictures, Q queries, D embedding width, C channels; after C, H and W are pixels.
from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from PIL import Image

from sightline.data.pictures import decode_picture
from sightline.data.pools import PoolImage
from sightline.errors import DataLineInvalid, SightlineError
from trainer.digests import DIGEST_BYTES
from trainer.store import source_digest

Floats = np.ndarray[Any, np.dtype[np.float32]]
Pixels = np.ndarray[Any, np.dtype[np.uint8]]


class Box(NamedTuple):
    """Part of a picture as GeneCIS's attribute tasks look at it: grown, cut out, and padded to a black square."""

    left: float
    top: float
    width: float
    height: float

    def cut(self, picture: Image.Image) -> Image.Image:
        """The square [S, S] around this part. Reproduces the published loader, whose box grows to one side.

        Left and top move out by 0.7 of the size; right and bottom are counted from
        there, so away from the borders they stay where they were (GeneCIS,
        arXiv 2306.07969: its code, not its text). Raises ValueError for a part that
        holds no pixel of the picture.
        """
        left, top = max(0.0, self.left - _DILATION * self.width), max(0.0, self.top - _DILATION * self.height)
        right = min(picture.width, left + (1 + _DILATION) * self.width)
        bottom = min(picture.height, top + (1 + _DILATION) * self.height)
        part = (round(left), round(top), round(right), round(bottom))
        if part[0] >= part[2] or part[1] >= part[3]:
            raise ValueError(f"box: got {tuple(self)}, which holds no pixel of a picture of {picture.size}")
        return _padded(picture.crop(part))


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture of a benchmark, or a part of one. Its id is unique in its task."""

    image: PoolImage
    box: Box | None = None

    @property
    def image_id(self) -> str:
        """How queries name it."""
        return self.image.image_id

    def read(self, *, min_side: int) -> Image.Image:
        """The decoded picture. Raises DataLineInvalid naming file and id if it cannot be read."""
        try:
            data = self.image.read_bytes()
            if self.box is None:
                return decode_picture(data, min_side=min_side)
            return self.box.cut(decode_picture(data))  # whole: the box counts in pixels of the original
        except (OSError, ValueError, SightlineError) as error:
            raise DataLineInvalid(f"{self.image.path} (image_id {self.image_id}): {error}") from error

    def digest(self) -> bytes:
        """What tells it from others without reading it: path, size, time of writing, and the box."""
        return hashlib.sha256(source_digest(self.image) + repr(self.box).encode()).digest()[:DIGEST_BYTES]


@dataclass(frozen=True, kw_only=True)
class Query:
    """A picture and what should be different, with the right answers where they are public."""

    query_id: str
    """As the annotation file and the submission name it."""
    reference: str
    """The picture asked with."""
    texts: tuple[str, ...]
    """The wordings asked: the unit vectors of all are averaged and made unit again."""
    targets: tuple[str, ...]
    """Every right answer, the annotated one first; empty where they are hidden."""
    gallery: tuple[str, ...] = ()
    """What is ranked for this query; empty for the gallery of the task."""
    subset: tuple[str, ...] = ()
    """A few pictures that are ranked once more on their own, the reference not among them."""
    aspects: tuple[str, ...] = ()
    """Groups that its score also counts for."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """Queries that are scored together: a benchmark, a category of FashionIQ, a task of GeneCIS."""

    name: str
    pictures: tuple[Picture, ...]
    """Every picture that a query of this task names."""
    gallery: tuple[str, ...]
    """What is ranked unless a query has its own gallery."""
    queries: tuple[Query, ...]
    excludes_reference: bool
    """Whether the picture asked with is taken out of the ranking."""

    def gallery_sizes(self) -> tuple[int, int]:
        """(smallest, largest) number of pictures that are ranked for a query, the reference counted."""
        sizes = [len(query.gallery or self.gallery) for query in self.queries]
        return min(sizes, default=0), max(sizes, default=0)


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One split of a benchmark as its files give it, checked."""

    name: str
    split: str
    tasks: tuple[Task, ...]
    annotations: tuple[Path, ...]
    """Every file that was read; its digest stands in the result."""
    ks: dict[str, tuple[int, ...]]
    """How deep each metric looks."""
    caption_mode: str
    """How one or several captions become the texts of a query."""
    is_published: bool
    """Whether queries and galleries are as many as in the published files."""
    how_to_get_pictures: str
    notes: tuple[str, ...] = ()
    """What a reader of the scores should know."""

    @property
    def has_targets(self) -> bool:
        """Whether every query can be scored here rather than by the benchmark's server."""
        return all(query.targets for task in self.tasks for query in task.queries)


@dataclass(frozen=True, kw_only=True)
class References:
    """The pictures that some queries ask with, as whoever composes wants them."""

    pictures: Sequence[Picture]
    vectors_QD: Floats
    """As `encode_images` gave them."""


class ComposedEncoder(Protocol):
    """A model that finds pictures by a picture and a text. Every vector it gives has length 1."""

    system: str
    """How results name it, settings included, such as 'sum:0.5'."""
    embedding_space_id: str
    """The space of `encode_images`: pictures that were encoded in it once are not encoded again."""
    dimension: int
    image_size: int
    """Side in pixels of what `preprocess` gives."""
    template: str
    """The sentence that a text is put into before the text tower reads it, with {text} in its place."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of its scores should know, as far as it has been asked."""
        ...

    def preprocess(self, image: Image.Image) -> Pixels:
        """The picture as uint8 [3, H, W]. Called from many threads."""
        ...

    def encode_images(self, pixels_NCHW: Pixels) -> Floats:
        """Unit vectors [N, D] of pictures of a gallery."""
        ...

    def encode_composed(self, references: References, texts: Sequence[str]) -> Floats:
        """Unit vectors [Q, D] to search by: what each reference becomes by its text. Called with a batch."""
        ...


_DILATION = 0.7


def _padded(picture: Image.Image) -> Image.Image:
    side = max(picture.size)
    square = Image.new("RGB", (side, side))
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return square
