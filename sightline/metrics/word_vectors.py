"""Word vectors from a text file: GloVe's form, or word2vec's and fastText's with a first line "<words> <width>".

The file is read line by line and only the vectors asked for are kept: memory does not grow with the file.
"""

# Axes: T words of a text, D width of a vector.
from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from sightline.errors import DataLineInvalid, UsageError

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class WordVectors:
    """The vectors of some words, and one for every other word."""

    known: Mapping[str, FloatArray]
    """Word to vector [D]."""
    unknown_D: FloatArray
    """What stands for a word that has no vector: the mean of every vector of the file, kept or not."""
    num_vectors: int
    """Vectors in the file."""

    @property
    def width(self) -> int:
        """D."""
        return len(self.unknown_D)

    def rows(self, words: Sequence[str]) -> FloatArray:
        """The vectors [T, D] of the words, in their order."""
        found = [self.known.get(word, self.unknown_D) for word in words]
        return np.stack(found) if found else np.zeros((0, self.width))

    def known_share(self, words: Sequence[str]) -> float:
        """The share of the words that have a vector of their own; 0 for no word."""
        return sum(word in self.known for word in words) / len(words) if words else 0.0


def read_word_vectors(path: Path, *, words: Collection[str]) -> WordVectors:
    """The vectors that the file has for `words`; of a word that stands there twice, the first.

    The width is the first line's: the number of values, or the second number of
    a line of two whole numbers. Words may hold spaces, as some of GloVe's do.
    Raises DataLineInvalid naming file and line for a line that is not UTF-8, has
    another width, or a value that is no finite number, and naming the file if it
    holds no vector or fewer or more than its first line says; UsageError if it
    cannot be read.
    """
    try:
        with path.open("rb") as file:
            return _collect(file, path=path, words=frozenset(words))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}", path=path) from error


def _collect(file: BinaryIO, *, path: Path, words: frozenset[str]) -> WordVectors:
    promised, width = _shape(file.readline(), path=path)
    file.seek(0)
    known: dict[str, FloatArray] = {}
    total_D, num_vectors = np.zeros(width), 0
    for word, vector_D in _vectors(file, path=path, width=width, skip=promised is not None):
        total_D += vector_D
        num_vectors += 1
        if word in words:
            known.setdefault(word, vector_D)
    if num_vectors == 0 or (promised is not None and promised != num_vectors):
        raise DataLineInvalid(f"{path}: got {num_vectors} vectors, expected {promised or 'at least one'}")
    return WordVectors(known=known, unknown_D=total_D / num_vectors, num_vectors=num_vectors)


def _shape(first_line: bytes, *, path: Path) -> tuple[int | None, int]:
    """(number of vectors that a header promises, None without one; width)."""
    fields = first_line.split()
    if len(fields) == 2 and all(field.isdigit() for field in fields):
        promised, width = map(int, fields)
    else:
        promised, width = None, len(fields) - 1
    if width < 1:
        raise DataLineInvalid(f"{path}:1: got {len(fields)} fields, expected a word and at least one value")
    return promised, width


def _vectors(file: BinaryIO, *, path: Path, width: int, skip: bool) -> Iterator[tuple[str, FloatArray]]:
    for number, line in enumerate(file, start=1):
        if (number == 1 and skip) or not line.strip():
            continue
        try:
            yield _parsed(line, width=width)
        except ValueError as error:
            raise DataLineInvalid(f"{path}:{number}: {error}") from error


def _parsed(line: bytes, *, width: int) -> tuple[str, FloatArray]:
    try:
        fields = line.decode().rstrip().rsplit(" ", width)
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: {error.reason} at byte {error.start} of the line") from error
    if len(fields) != width + 1:
        raise ValueError(f"got {len(fields) - 1} values, expected {width}")
    vector_D = np.array([float(field) for field in fields[1:]])
    if not np.isfinite(vector_D).all():
        raise ValueError(f"value {int((~np.isfinite(vector_D)).argmax()) + 1} of {width} is not finite")
    return fields[0], vector_D
