"""The arithmetic around the composed vector, held to slow code that turns a vector step by step."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sightline.composition import NEGATIVE_SHARE, Edit, leaning, slerp, without
from sightline.errors import FieldMissing, FieldOutOfRange, SightlineError, TextTooLong, TooManyItems
from sightline.limits import MAX_EDIT_TEXTS, MAX_TEXT_CHARS
from sightline.rpc.edits import edit_from_proto, edit_to_proto
from sightline.v1 import common_pb2


def units(count: int, *, dimension: int = 7, seed: int = 0) -> list[np.ndarray]:
    rows = np.random.default_rng(seed).normal(size=(count, dimension))
    return [(row / np.linalg.norm(row)).astype(np.float32) for row in rows]


def turned(start: np.ndarray, end: np.ndarray, *, share: float) -> list[float]:
    """`start` turned towards `end` in their plane by `share` of the angle between them, one number after the other."""
    dot = sum(float(a) * float(b) for a, b in zip(start, end, strict=True))
    across = [float(b) - dot * float(a) for a, b in zip(start, end, strict=True)]
    length = math.sqrt(sum(value * value for value in across))
    angle = share * math.acos(dot)
    return [math.cos(angle) * float(a) + math.sin(angle) * w / length for a, w in zip(start, across, strict=True)]


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.93, 1.0])
def test_slerp_is_a_turn_in_the_plane_of_its_ends(share: float) -> None:
    start, end = units(2)
    np.testing.assert_allclose(slerp(start, end, share=share), turned(start, end, share=share), atol=1e-6)


@pytest.mark.parametrize("sign", [1, -1])
def test_between_a_vector_and_itself_or_its_opposite_is_the_nearer_end(sign: int) -> None:
    (start,) = units(1)
    assert slerp(start, sign * start, share=0.3).tolist() == start.tolist()
    assert slerp(start, sign * start, share=0.7).tolist() == (sign * start).tolist()


@pytest.mark.parametrize("weight", [None, 0.0, 0.1, 0.5, 0.75, 1.0])
def test_a_weight_leads_from_the_picture_over_the_composed_vector_to_the_text(weight: float | None) -> None:
    picture, composed, sentence = units(3, seed=1)
    edit = Edit(texts=("at night",), text_weight=weight)
    found = leaning(composed, edit=edit, picture_D=picture, sentence_D=sentence)
    place = 0.5 if weight is None else weight
    slow = (
        turned(picture, composed, share=2 * place) if place <= 0.5 else turned(composed, sentence, share=2 * place - 1)
    )
    np.testing.assert_allclose(found, slow, atol=1e-6)
    if weight in {None, 0.5}:
        assert found is composed


def test_without_a_text_a_weight_over_a_half_counts_as_a_half() -> None:
    (composed,) = units(1)
    edit = Edit(texts=(" . ",), text_weight=0.9)
    assert leaning(composed, edit=edit, picture_D=None, sentence_D=None) is composed


@pytest.mark.parametrize("count", [0, 1, 4])
def test_negatives_take_a_share_of_their_mean_away(count: int) -> None:
    query, *negatives = units(1 + count, seed=2)
    slow = [float(value) for value in query]
    for negative in negatives:
        slow = [value - NEGATIVE_SHARE * float(taken) / count for value, taken in zip(slow, negative, strict=True)]
    length = math.sqrt(sum(value * value for value in slow))
    np.testing.assert_allclose(without(query, negatives_ND=negatives), [v / length for v in slow], atol=1e-6)


def test_texts_are_read_as_one_and_blank_ones_as_none() -> None:
    edit = Edit(texts=("is Blue. ", "", "  ", "at night"), negative_texts=("a car.", "."))
    assert (edit.sentence, edit.negatives) == ("is Blue and at night", ("a car",))


def test_an_edit_survives_the_wire() -> None:
    edit = Edit(texts=("red",), negative_texts=("a car", "a dog"), text_weight=0.25)
    assert edit_from_proto(edit_to_proto(edit), field="edit", has_reference=False) == edit
    assert edit_from_proto(common_pb2.Edit(), field="edit", has_reference=True).text_weight is None


@pytest.mark.parametrize(
    ("edit", "kind", "told"),
    [
        (Edit(texts=["x"] * (MAX_EDIT_TEXTS + 1)), TooManyItems, "edit.texts: got 5 items, limit 4"),
        (Edit(negative_texts=["x"] * (MAX_EDIT_TEXTS + 1)), TooManyItems, "edit.negative_texts: got 5"),
        (Edit(texts=["x" * (MAX_TEXT_CHARS + 1)]), TextTooLong, r"edit.texts\[0\]: got 4097 characters"),
        (Edit(texts=["x"], text_weight=1.01), FieldOutOfRange, "edit.text_weight: got 1.0"),
        (Edit(texts=["x"], text_weight=math.nan), FieldOutOfRange, "edit.text_weight: got nan"),
        (Edit(texts=[" "]), FieldMissing, "edit.texts: got nothing"),
        (Edit(negative_texts=["a car"]), FieldMissing, "edit.texts: got nothing"),
    ],
)
def test_a_bad_edit_is_refused_by_name(edit: Edit, kind: type[SightlineError], told: str) -> None:
    with pytest.raises(kind, match=told):
        edit_from_proto(edit_to_proto(edit), field="edit", has_reference=False)


def test_an_edit_at_its_limits_passes() -> None:
    full = ["x" * MAX_TEXT_CHARS] * MAX_EDIT_TEXTS
    for weight in (0.0, 1.0):
        edit = Edit(texts=full, negative_texts=full, text_weight=weight)
        assert len(edit_from_proto(edit_to_proto(edit), field="edit", has_reference=False).negatives) == MAX_EDIT_TEXTS
