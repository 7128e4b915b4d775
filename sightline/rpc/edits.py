"""Edits on the wire and back, with the limits that encoder and retriever share."""

from __future__ import annotations

from collections.abc import Sequence

from sightline.composition import Edit
from sightline.errors import TextTooLong, TooManyItems
from sightline.limits import MAX_EDIT_TEXTS, MAX_TEXT_CHARS
from sightline.rpc.validate import check_present, check_range
from sightline.v1 import common_pb2


def edit_to_proto(edit: Edit) -> common_pb2.Edit:
    """The message that carries `edit`."""
    return common_pb2.Edit(texts=edit.texts, negative_texts=edit.negative_texts, text_weight=edit.text_weight)


def edit_from_proto(message: common_pb2.Edit, *, field: str, has_reference: bool) -> Edit:
    """The edit that `message`, the field `field` of a composed query, carries.

    Raises TooManyItems, TextTooLong or FieldOutOfRange naming the part that
    breaks its limit, and FieldMissing where there is neither a text nor a
    reference.
    """
    for name in ("texts", "negative_texts"):
        _check_texts(getattr(message, name), field=f"{field}.{name}")
    weight = message.text_weight if message.HasField("text_weight") else None
    if weight is not None:
        check_range(weight, field=f"{field}.text_weight", low=0.0, high=1.0)
    edit = Edit(texts=tuple(message.texts), negative_texts=tuple(message.negative_texts), text_weight=weight)
    check_present(has_reference or bool(edit.sentence), field=f"{field}.texts")
    return edit


def _check_texts(texts: Sequence[str], *, field: str) -> None:
    if len(texts) > MAX_EDIT_TEXTS:
        count, limit = len(texts), MAX_EDIT_TEXTS
        raise TooManyItems(f"{field}: got {count} items, limit {limit}", value=count, limit=limit)
    for index, text in enumerate(texts):
        if len(text) > MAX_TEXT_CHARS:
            length, limit = len(text), MAX_TEXT_CHARS
            raise TextTooLong(f"{field}[{index}]: got {length} characters, limit {limit}", value=length, limit=limit)
