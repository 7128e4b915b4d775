from __future__ import annotations

import pytest

from generator_svc.orders import PictureSource, read_order
from sightline.errors import (
    FieldMissing,
    FieldOutOfRange,
    PictureTooLarge,
    SightlineError,
    TextTooLong,
    TooManyItems,
    TooManyTurns,
)
from sightline.limits import MAX_PICTURE_BYTES
from sightline.v1 import common_pb2
from sightline.v1 import generator_pb2 as pb

PICTURE = common_pb2.Picture(data=b"picture")


def turn(text: str = "what is on the hill?", speaker: int = pb.SPEAKER_USER) -> pb.Turn:
    return pb.Turn(speaker=speaker, text=text)  # type: ignore[arg-type]


def read(**fields: object):
    request = pb.ReplyRequest(**{"dialogue": [turn()], **fields})
    return read_order(request, default_min_score=0.2)


def test_an_order_without_wishes_searches_three_pictures_and_decodes_greedily() -> None:
    order = read()
    assert (order.source, order.k, order.min_score) == (PictureSource.SEARCHED, 3, 0.2)
    assert (order.max_new_tokens, order.num_beams) == (32, 1)


@pytest.mark.parametrize(
    ("fields", "source"),
    [
        ({"picture": PICTURE}, PictureSource.GIVEN),
        ({"picture": PICTURE, "grounding": pb.GROUNDING_GIVEN}, PictureSource.GIVEN),
        ({"grounding": pb.GROUNDING_RETRIEVED}, PictureSource.SEARCHED),
        ({"grounding": pb.GROUNDING_NONE}, PictureSource.NONE),
        ({"image_ids": ["a"]}, PictureSource.NAMED),
        ({"image_ids": ["a"], "grounding": pb.GROUNDING_RETRIEVED}, PictureSource.NAMED),
    ],
)
def test_grounding_names_where_pictures_come_from(fields: dict[str, object], source: PictureSource) -> None:
    assert read(**fields).source is source


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"picture": PICTURE, "grounding": pb.GROUNDING_NONE}, FieldOutOfRange),
        ({"picture": PICTURE, "grounding": pb.GROUNDING_RETRIEVED}, FieldOutOfRange),
        ({"picture": PICTURE, "image_ids": ["a"]}, FieldOutOfRange),
        ({"image_ids": ["a"], "grounding": pb.GROUNDING_NONE}, FieldOutOfRange),
        ({"image_ids": ["a"], "grounding": pb.GROUNDING_GIVEN}, FieldMissing),
        ({"grounding": pb.GROUNDING_GIVEN}, FieldMissing),
        ({"grounding": 9}, FieldOutOfRange),
    ],
)
def test_wishes_that_contradict_each_other_are_refused(fields: dict[str, object], error: type[SightlineError]) -> None:
    with pytest.raises(error):
        read(**fields)


AT_THE_LIMIT: list[dict[str, object]] = [
    {"dialogue": [turn()] * 64},
    {"dialogue": [turn("x" * 4096)]},
    {"dialogue": [turn(speaker=pb.SPEAKER_BOT), turn()]},
    {"k": 8},
    {"min_score": -1.0},
    {"min_score": 1.0},
    {"image_ids": [str(i) for i in range(8)]},
    {"image_ids": ["x" * 256]},
    {"picture": common_pb2.Picture(data=b"x" * MAX_PICTURE_BYTES)},
    {"options": pb.GenerationOptions(max_new_tokens=256, num_beams=8)},
]

ABOVE_THE_LIMIT: list[tuple[dict[str, object], type[SightlineError]]] = [
    ({"dialogue": []}, FieldMissing),
    ({"dialogue": [turn()] * 65}, TooManyTurns),
    ({"dialogue": [turn("x" * 4097)]}, TextTooLong),
    ({"dialogue": [turn("")]}, FieldMissing),
    ({"dialogue": [turn(" \n")]}, FieldMissing),
    ({"dialogue": [turn(speaker=pb.SPEAKER_UNSPECIFIED)]}, FieldOutOfRange),
    ({"dialogue": [turn(speaker=9)]}, FieldOutOfRange),
    ({"dialogue": [turn(), turn(speaker=pb.SPEAKER_BOT)]}, FieldOutOfRange),
    ({"k": 9}, FieldOutOfRange),
    ({"min_score": 1.001}, FieldOutOfRange),
    ({"min_score": float("nan")}, FieldOutOfRange),
    ({"image_ids": [str(i) for i in range(9)]}, TooManyItems),
    ({"image_ids": [""]}, FieldMissing),
    ({"image_ids": ["x" * 257]}, FieldOutOfRange),
    ({"picture": common_pb2.Picture()}, FieldMissing),
    ({"picture": common_pb2.Picture(data=b"x" * (MAX_PICTURE_BYTES + 1))}, PictureTooLarge),
    ({"options": pb.GenerationOptions(max_new_tokens=257)}, FieldOutOfRange),
    ({"options": pb.GenerationOptions(num_beams=9)}, FieldOutOfRange),
]


@pytest.mark.parametrize("fields", AT_THE_LIMIT, ids=lambda fields: next(iter(fields)))
def test_values_at_the_limit_are_taken(fields: dict[str, object]) -> None:
    assert read(**fields).turns


@pytest.mark.parametrize(("fields", "error"), ABOVE_THE_LIMIT, ids=lambda value: getattr(value, "__name__", None))
def test_values_above_the_limit_are_refused_by_name(fields: dict[str, object], error: type[SightlineError]) -> None:
    with pytest.raises(error) as refused:
        read(**fields)
    assert next(iter(fields)) in refused.value.message.replace("num_beams", "options").replace("max_new", "options")


def test_a_stream_takes_one_beam_only() -> None:
    options = pb.GenerationOptions(num_beams=2)
    with pytest.raises(FieldOutOfRange, match="num_beams: got 2"):
        read_order(pb.StreamReplyRequest(dialogue=[turn()], options=options), default_min_score=0.0)


def test_an_image_id_named_twice_is_looked_at_once() -> None:
    assert read(image_ids=["b", "a", "b"]).image_ids == ("b", "a")
