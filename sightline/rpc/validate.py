"""Checks of request fields that several servicers make. Each raises an error that says the bad value and the limit."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Protocol

from sightline.errors import EmbeddingSpaceMismatch, FieldMissing, FieldOutOfRange, TextTooLong, TooManyItems
from sightline.limits import MAX_IMAGE_ID_CHARS, MAX_METADATA_CHARS, MAX_METADATA_PAIRS, MAX_TEXT_CHARS


class EnumKind(Protocol):
    """An enum of the contract, as generated."""

    def items(self) -> Collection[tuple[str, int]]:
        """Its names with their numbers."""

    def values(self) -> Collection[int]:
        """Its numbers."""


def check_present(is_present: bool, *, field: str) -> None:
    """Raise FieldMissing for `field` unless `is_present`."""
    if not is_present:
        raise FieldMissing(f"{field}: got nothing, but it must be present", field=field)


def check_text(text: str, *, field: str, limit: int = MAX_TEXT_CHARS) -> None:
    """Raise FieldMissing if `text` is empty and TextTooLong if it has more than `limit` characters."""
    check_present(bool(text), field=field)
    if len(text) > limit:
        raise TextTooLong(f"{field}: got {len(text)} characters, limit {limit}", value=len(text), limit=limit)


def check_count(count: int, *, field: str, limit: int) -> None:
    """Raise FieldMissing if `count` is zero and TooManyItems if it is over `limit`."""
    check_present(count > 0, field=field)
    if count > limit:
        raise TooManyItems(f"{field}: got {count} items, limit {limit}", value=count, limit=limit)


def check_range(value: float, *, field: str, low: float, high: float) -> None:
    """Raise FieldOutOfRange unless `value` is a number of `low` to `high`, both included."""
    if math.isnan(value) or not low <= value <= high:
        limit = f"{low} to {high}"
        raise FieldOutOfRange(f"{field}: got {value}, expected {limit}", field=field, value=value, limit=limit)


def check_enum(value: int, *, kind: EnumKind, field: str) -> None:
    """Raise FieldOutOfRange if `value` is the unspecified zero or no value of the enum `kind`."""
    known = [name for name, number in kind.items() if number != 0]
    if value == 0 or value not in kind.values():
        limit = ", ".join(known)
        raise FieldOutOfRange(f"{field}: got {value}, expected one of {limit}", field=field, value=value, limit=limit)


def check_image_id(image_id: str, *, field: str = "image_id") -> None:
    """Raise FieldMissing if `image_id` is empty and FieldOutOfRange if it is longer than 256 characters."""
    check_present(bool(image_id), field=field)
    if len(image_id) > MAX_IMAGE_ID_CHARS:
        length, limit = len(image_id), MAX_IMAGE_ID_CHARS
        message = f"{field}: got {length} characters, limit {limit}"
        raise FieldOutOfRange(message, field=field, value=length, limit=limit)


def check_metadata(metadata: Mapping[str, str], *, field: str = "metadata") -> None:
    """Raise FieldOutOfRange if `metadata` has more than 32 pairs, an empty key, or a part over 256 characters."""
    if len(metadata) > MAX_METADATA_PAIRS:
        count, limit = len(metadata), MAX_METADATA_PAIRS
        raise FieldOutOfRange(f"{field}: got {count} pairs, limit {limit}", field=field, value=count, limit=limit)
    for key, value in metadata.items():
        check_present(bool(key), field=f"{field} key")
        longest, limit = max(len(key), len(value)), MAX_METADATA_CHARS
        if longest > limit:
            message = f"{field}[{key[:32]!r}]: got {longest} characters, limit {limit}"
            raise FieldOutOfRange(message, field=field, value=longest, limit=limit)


def check_space(wanted: str, *, serving: str) -> None:
    """Raise EmbeddingSpaceMismatch if `wanted` is not empty and not the space `serving` that answers."""
    if wanted and wanted != serving:
        message = f"embedding_space_id: got {wanted[:64]!r}, serving {serving!r}"
        raise EmbeddingSpaceMismatch(message, expected=serving, got=wanted)
