"""Arrays survive the wire bit by bit, and what is no array is refused with a reason."""

from __future__ import annotations

import numpy as np
import pytest

from sightline.errors import TensorMalformed
from sightline.rpc.tensors import tensor_from_proto, tensor_to_proto
from sightline.rpc.vectors import unit_vector
from sightline.v1 import common_pb2

FLOAT32, FLOAT16 = common_pb2.DTYPE_FLOAT32, common_pb2.DTYPE_FLOAT16


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("shape", [(1,), (512,), (49, 96), (2, 3, 5), (2, 1, 3, 4)])
def test_an_array_comes_back_equal(dtype: type, shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    message = common_pb2.Tensor.FromString(tensor_to_proto(array).SerializeToString())
    back = tensor_from_proto(message, name="vector")
    assert back.dtype == dtype
    np.testing.assert_array_equal(back, array)


def test_the_largest_and_smallest_halves_are_finite() -> None:
    array = np.array([65504.0, -65504.0, 6e-8, 0.0, -0.0], np.float16)
    np.testing.assert_array_equal(tensor_from_proto(tensor_to_proto(array), name="vector"), array)


def test_a_view_and_foreign_byte_order_come_back_equal() -> None:
    array = np.arange(24, dtype=">f4").reshape(4, 6).T[::2]
    np.testing.assert_array_equal(tensor_from_proto(tensor_to_proto(array), name="vector"), array)


def test_what_comes_back_cannot_be_written() -> None:
    back = tensor_from_proto(tensor_to_proto(np.ones(3, np.float32)), name="vector")
    with pytest.raises(ValueError, match="read-only"):
        back[0] = 2.0


@pytest.mark.parametrize("array", [np.ones(3), np.ones(3, np.int8), np.float32(1.0).reshape(()), np.ones((0, 2), "f4")])
def test_other_arrays_are_not_sent(array: np.ndarray) -> None:
    with pytest.raises(TensorMalformed):
        tensor_to_proto(array)


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (common_pb2.Tensor(data=bytes(8), shape=[2]), "vector.dtype: got 0"),
        (common_pb2.Tensor(data=bytes(8), dtype=9, shape=[2]), "vector.dtype: got 9"),  # type: ignore[arg-type]
        (common_pb2.Tensor(data=bytes(8), dtype=FLOAT32, shape=[]), r"vector.shape: got \[\]"),
        (common_pb2.Tensor(data=bytes(8), dtype=FLOAT32, shape=[2, 0]), r"vector.shape: got \[2, 0\]"),
        (common_pb2.Tensor(data=bytes(8), dtype=FLOAT32, shape=[1] * 5), "vector.shape"),
        (common_pb2.Tensor(data=bytes(7), dtype=FLOAT32, shape=[2]), "got 7 bytes, expected 8"),
        (common_pb2.Tensor(data=b"", dtype=FLOAT32, shape=[2**32 - 1] * 4), "got 0 bytes"),
        (common_pb2.Tensor(data=np.float32(np.nan).tobytes(), dtype=FLOAT32, shape=[1]), "not finite"),
        (common_pb2.Tensor(data=np.float16(-np.inf).tobytes(), dtype=FLOAT16, shape=[1]), "not finite"),
        (common_pb2.Tensor(data=np.float16(np.nan).tobytes(), dtype=FLOAT16, shape=[1]), "not finite"),
        (common_pb2.Tensor(data=np.float32(np.inf).tobytes(), dtype=FLOAT32, shape=[1]), "not finite"),
    ],
)
def test_a_malformed_tensor_is_refused_with_the_reason(message: common_pb2.Tensor, told: str) -> None:
    with pytest.raises(TensorMalformed, match=told) as caught:
        tensor_from_proto(message, name="vector")
    assert caught.value.metadata["detail"]


def test_unit_vectors_stay_bit_for_bit_and_others_are_brought_to_length_one() -> None:
    unit = np.random.default_rng(0).normal(size=512)
    unit = (unit / np.linalg.norm(unit)).astype(np.float32)
    assert unit_vector(unit, name="vector").tobytes() == unit.tobytes()
    np.testing.assert_allclose(unit_vector(np.float32([3, 4]), name="vector"), [0.6, 0.8], rtol=1e-6)
    np.testing.assert_allclose(unit_vector(np.float16([3e4, 4e4]), name="vector"), [0.6, 0.8], rtol=1e-3)
    tiny = np.float32([1e-38, 0])
    np.testing.assert_allclose(unit_vector(tiny, name="vector"), [1, 0])


@pytest.mark.parametrize("wrong", [np.zeros(4), np.full(4, np.inf), np.ones((2, 2)), np.array(1.0)])
def test_what_is_no_direction_is_refused(wrong: np.ndarray) -> None:
    with pytest.raises(TensorMalformed):
        unit_vector(wrong.astype(np.float32), name="vector")
