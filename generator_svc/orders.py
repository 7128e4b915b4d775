"""What a caller asks for, checked against every limit of the contract before any work is done."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from sightline import limits
from sightline.errors import FieldOutOfRange, PictureTooLarge, TooManyTurns
from sightline.rpc.validate import check_count, check_enum, check_image_id, check_present, check_range, check_text
from sightline.v1 import generator_pb2 as pb

AnyReplyRequest = pb.ReplyRequest | pb.StreamReplyRequest


class PictureSource(enum.Enum):
    """Where the pictures of a reply come from."""

    SEARCHED = "searched"
    """Found in the index with the dialogue."""
    NAMED = "named"
    """Stored pictures that the caller names by id."""
    GIVEN = "given"
    """The picture in the request."""
    NONE = "none"
    """No picture: the text alone."""


@dataclass(frozen=True, kw_only=True)
class ReplyOrder:
    """A valid request. `k` and `min_score` count for SEARCHED only, `image_ids` for NAMED, `picture` for GIVEN."""

    turns: list[str]
    source: PictureSource
    k: int
    min_score: float | None
    """None leaves it to the release."""
    image_ids: tuple[str, ...]
    picture: bytes
    max_new_tokens: int
    num_beams: int


def read_order(request: AnyReplyRequest, *, default_min_score: float | None) -> ReplyOrder:
    """The order that `request` states, every default filled in.

    Raises an InvalidInput that names the field, the bad value and the limit.
    """
    return ReplyOrder(
        turns=_read_turns(request.dialogue),
        source=_read_source(request),
        k=_read_number("k", request.k, default=limits.DEFAULT_REPLY_IMAGES, limit=limits.MAX_REPLY_IMAGES),
        min_score=_read_min_score(request, default=default_min_score),
        image_ids=_read_image_ids(request.image_ids),
        picture=_read_picture(request),
        max_new_tokens=_read_number(
            "options.max_new_tokens",
            request.options.max_new_tokens,
            default=limits.DEFAULT_NEW_TOKENS,
            limit=limits.MAX_NEW_TOKENS,
        ),
        num_beams=_read_number(
            "options.num_beams",
            request.options.num_beams,
            default=1,
            limit=1 if isinstance(request, pb.StreamReplyRequest) else limits.MAX_BEAMS,
        ),
    )


def _read_turns(dialogue: Sequence[pb.Turn]) -> list[str]:
    check_present(len(dialogue) > 0, field="dialogue")
    if len(dialogue) > limits.MAX_DIALOGUE_TURNS:
        message = f"dialogue: got {len(dialogue)} turns, limit {limits.MAX_DIALOGUE_TURNS}"
        raise TooManyTurns(message, value=len(dialogue), limit=limits.MAX_DIALOGUE_TURNS)
    turns = [_read_turn(turn, field=f"dialogue[{index}]") for index, turn in enumerate(dialogue)]
    if dialogue[-1].speaker != pb.SPEAKER_USER:
        raise _out_of_range(f"dialogue[{len(turns) - 1}].speaker", "SPEAKER_BOT", "SPEAKER_USER in the last turn")
    return turns


def _read_turn(turn: pb.Turn, *, field: str) -> str:
    check_enum(turn.speaker, kind=pb.Speaker, field=f"{field}.speaker")
    check_present(bool(turn.text.strip()), field=f"{field}.text")
    check_text(turn.text, field=f"{field}.text")
    return turn.text


def _read_source(request: AnyReplyRequest) -> PictureSource:
    grounding = request.grounding
    if grounding != pb.GROUNDING_UNSPECIFIED:
        check_enum(grounding, kind=pb.Grounding, field="grounding")
    if request.HasField("picture"):
        return _source_of_picture(request)
    check_present(grounding != pb.GROUNDING_GIVEN, field="picture")
    if grounding == pb.GROUNDING_NONE and request.image_ids:
        raise _out_of_range("grounding", "GROUNDING_NONE", "unspecified or RETRIEVED beside image_ids")
    if request.image_ids:
        return PictureSource.NAMED
    return PictureSource.NONE if grounding == pb.GROUNDING_NONE else PictureSource.SEARCHED


def _source_of_picture(request: AnyReplyRequest) -> PictureSource:
    """GIVEN, or a refusal: a picture that nobody would look at is a mistake of the caller."""
    if request.grounding not in (pb.GROUNDING_UNSPECIFIED, pb.GROUNDING_GIVEN):
        name = pb.Grounding.Name(request.grounding)
        raise _out_of_range("grounding", name, "unspecified or GIVEN beside a picture")
    if request.image_ids:
        raise _out_of_range("image_ids", f"{len(request.image_ids)} ids", "none beside a picture")
    return PictureSource.GIVEN


def _read_picture(request: AnyReplyRequest) -> bytes:
    data = request.picture.data
    check_present(bool(data) or not request.HasField("picture"), field="picture.data")
    if len(data) > limits.MAX_PICTURE_BYTES:
        message = f"picture.data: got {len(data)} bytes, limit {limits.MAX_PICTURE_BYTES}"
        raise PictureTooLarge(message, value=len(data), limit=limits.MAX_PICTURE_BYTES)
    return data


def _read_image_ids(image_ids: Sequence[str]) -> tuple[str, ...]:
    if image_ids:
        check_count(len(image_ids), field="image_ids", limit=limits.MAX_REPLY_IMAGES)
    for index, image_id in enumerate(image_ids):
        check_image_id(image_id, field=f"image_ids[{index}]")
    return tuple(dict.fromkeys(image_ids))


def _read_min_score(request: AnyReplyRequest, *, default: float | None) -> float | None:
    if not request.HasField("min_score"):
        return default
    check_range(request.min_score, field="min_score", low=-1.0, high=1.0)
    return request.min_score


def _read_number(field: str, value: int, *, default: int, limit: int) -> int:
    number = value or default
    check_range(number, field=field, low=1, high=limit)
    return number


def _out_of_range(field: str, value: object, limit: str) -> FieldOutOfRange:
    return FieldOutOfRange(f"{field}: got {value}, expected {limit}", field=field, value=value, limit=limit)
