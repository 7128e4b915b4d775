"""What a bot asks, as plain values, and the requests that carry it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict, TypeVar

import numpy as np
import numpy.typing as npt

from sightline.composition import Edit
from sightline.errors import UsageError
from sightline.limits import MAX_MESSAGE_BYTES
from sightline.rpc.edits import edit_to_proto
from sightline.rpc.tensors import tensor_to_proto
from sightline.v1 import common_pb2, encoder_pb2, generator_pb2, retriever_pb2

ItemT = TypeVar("ItemT")

MAX_CALL_BYTES = MAX_MESSAGE_BYTES * 3 // 4
"""How many bytes of pictures one call carries; the rest of the message is left to names and framing."""

_SPEAKERS = {"user": generator_pb2.SPEAKER_USER, "bot": generator_pb2.SPEAKER_BOT}
_GROUNDINGS = {
    "auto": generator_pb2.GROUNDING_UNSPECIFIED,
    "retrieved": generator_pb2.GROUNDING_RETRIEVED,
    "given": generator_pb2.GROUNDING_GIVEN,
    "none": generator_pb2.GROUNDING_NONE,
}


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One utterance of a dialogue."""

    speaker: Literal["user", "bot"]
    """Who said it."""
    text: str
    """What was said, 1 to 4096 characters."""


@dataclass(frozen=True, kw_only=True)
class NewImage:
    """One picture to store."""

    image_id: str
    """1 to 256 characters, unique in the index."""
    picture: bytes
    """The encoded picture: JPEG, PNG, WebP, GIF or BMP, at most 8 MiB."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Up to 32 pairs of up to 256 characters each."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ComposedQuery(Edit):
    """A reference with its edit, to be encoded; without a reference its texts are encoded by themselves."""

    picture: bytes | None = None
    """The reference as an encoded picture."""
    vector: npt.NDArray[Any] | None = None
    """The reference as a vector [dimension] of the space that the call names."""


@dataclass(frozen=True, kw_only=True)
class ComposedSearch(Edit):
    """A reference with its edit, to search by: `ComposedSearch(picture=data, texts=["at night"])`."""

    picture: bytes | None = None
    """The reference as an encoded picture."""
    image_id: str | None = None
    """The reference as the id of a stored picture."""
    keep_reference: bool = False
    """Whether the reference may be found; else a picture with its id, or with the bytes sent, is left out."""

    @classmethod
    def of(
        cls,
        edit: Edit,
        *,
        picture: bytes | None = None,
        image_id: str | None = None,
        keep_reference: bool = False,
    ) -> ComposedSearch:
        """The search for what `edit` makes of a reference."""
        return cls(
            texts=edit.texts,
            negative_texts=edit.negative_texts,
            text_weight=edit.text_weight,
            picture=picture,
            image_id=image_id,
            keep_reference=keep_reference,
        )


ImageQuery = str | bytes | npt.NDArray[Any] | ComposedSearch
"""What to search by: a text, the bytes of a picture, a vector, or what an edit makes of a picture."""


class SearchOptions(TypedDict, total=False):
    """Options of a search; each may be left out."""

    must: Mapping[str, Sequence[str]]
    """Metadata key -> values of which the picture's must be one; every key must hold. "image_id" is a key."""
    must_not: Mapping[str, Sequence[str]]
    """Metadata key -> values of which the picture's may be none."""
    min_score: float
    """Least cosine similarity, -1 to 1."""
    with_tokens: bool
    """Whether to return each picture's fusion tokens."""
    embedding_space_id: str
    """Space of a vector query, required with it."""


class ReplyOptions(TypedDict, total=False):
    """Options of a reply; each may be left out."""

    picture: bytes
    """An encoded picture that the user shows."""
    grounding: Literal["auto", "retrieved", "given", "none"]
    """Where pictures come from; "auto" means given if a picture is sent, else retrieved."""
    k: int
    """How many pictures to retrieve, 1 to 8; 3 if left out."""
    min_score: float
    """Least similarity of a retrieved picture, -1 to 1."""
    image_ids: Sequence[str]
    """Stored pictures to look at in place of searching."""
    max_new_tokens: int
    """Bound of the answer in tokens, 1 to 256; 32 if left out."""
    num_beams: int
    """1 (greedy) to 8; a streamed reply takes 1 only."""


def search_request(query: ImageQuery, *, k: int, options: SearchOptions) -> retriever_pb2.SearchImagesRequest:
    """The request for the `k` pictures nearest to `query`. Raises UsageError for two references in one."""
    request = retriever_pb2.SearchImagesRequest(
        k=_unsigned(k, name="k"),
        with_tokens=options.get("with_tokens", False),
        embedding_space_id=options.get("embedding_space_id", ""),
        min_score=options.get("min_score"),
        filter=filter_message(must=options.get("must"), must_not=options.get("must_not")),
    )
    if isinstance(query, str):
        request.text = query
    elif isinstance(query, bytes):
        request.picture.data = query
    elif isinstance(query, ComposedSearch):
        request.composed.CopyFrom(_composed_search(query))
    else:
        request.vector.CopyFrom(tensor_to_proto(np.asarray(query, dtype=np.float32)))
    return request


def composed_query(query: ComposedQuery) -> encoder_pb2.ComposedQuery:
    """The message of a composed query. Raises UsageError for two references in one."""
    _check_one_reference(picture=query.picture, vector=query.vector)
    message = encoder_pb2.ComposedQuery(edit=edit_to_proto(query))
    if query.picture is not None:
        message.picture.CopyFrom(common_pb2.Picture(data=query.picture))
    if query.vector is not None:
        message.vector.CopyFrom(tensor_to_proto(np.asarray(query.vector, dtype=np.float32)))
    return message


def filter_message(
    *, must: Mapping[str, Sequence[str]] | None, must_not: Mapping[str, Sequence[str]] | None
) -> retriever_pb2.Filter | None:
    """The filter that holds these conditions, or None without any."""
    if not must and not must_not:
        return None
    return retriever_pb2.Filter(must=_conditions(must or {}), must_not=_conditions(must_not or {}))


def reply_fields(dialogue: Sequence[Turn], *, options: ReplyOptions) -> dict[str, Any]:
    """The fields that ReplyRequest and StreamReplyRequest share. Raises UsageError for an unknown name."""
    picture = options.get("picture")
    return {
        "dialogue": [
            generator_pb2.Turn(speaker=_chosen(_SPEAKERS, turn.speaker, name="speaker"), text=turn.text)  # type: ignore[arg-type]
            for turn in dialogue
        ],
        "picture": common_pb2.Picture(data=picture) if picture is not None else None,
        "grounding": _chosen(_GROUNDINGS, options.get("grounding", "auto"), name="grounding"),
        "k": _unsigned(options.get("k", 0), name="k"),
        "min_score": options.get("min_score"),
        "image_ids": options.get("image_ids", ()),
        "options": generator_pb2.GenerationOptions(
            max_new_tokens=_unsigned(options.get("max_new_tokens", 0), name="max_new_tokens"),
            num_beams=_unsigned(options.get("num_beams", 0), name="num_beams"),
        ),
    }


def batches(
    items: Iterable[ItemT], *, max_items: int, size: Callable[[ItemT], int], max_bytes: int = MAX_CALL_BYTES
) -> Iterator[list[ItemT]]:
    """Runs of `items`, in order, each of at most `max_items` items and `max_bytes` bytes; a larger item goes alone.

    `size` is an item's bytes. No items give one empty run, so that the service
    says what it thinks of that.
    """
    run: list[ItemT] = []
    num_bytes, num_runs = 0, 0
    for item in items:
        if run and (len(run) == max_items or num_bytes + size(item) > max_bytes):
            yield run
            run, num_bytes, num_runs = [], 0, num_runs + 1
        run.append(item)
        num_bytes += size(item)
    if run or num_runs == 0:
        yield run


def _composed_search(query: ComposedSearch) -> retriever_pb2.ComposedSearch:
    _check_one_reference(picture=query.picture, image_id=query.image_id)
    message = retriever_pb2.ComposedSearch(edit=edit_to_proto(query), keep_reference=query.keep_reference)
    if query.picture is not None:
        message.picture.CopyFrom(common_pb2.Picture(data=query.picture))
    if query.image_id is not None:
        message.image_id = query.image_id
    return message


def _check_one_reference(**references: object) -> None:
    given = [name for name, value in references.items() if value is not None]
    if len(given) > 1:
        raise UsageError(f"reference: got {' and '.join(given)}, expected one of them")


def _conditions(wanted: Mapping[str, Sequence[str]]) -> list[retriever_pb2.Condition]:
    return [retriever_pb2.Condition(key=key, any_of=values) for key, values in wanted.items()]


def _chosen(known: Mapping[str, int], name_given: str, *, name: str) -> int:
    if name_given not in known:
        raise UsageError(f"{name}: got {name_given!r}, expected one of {', '.join(known)}")
    return known[name_given]


def _unsigned(value: int, *, name: str) -> int:
    if not 0 <= value < 2**32:
        raise UsageError(f"{name}: got {value}, expected 0 or more")
    return value
