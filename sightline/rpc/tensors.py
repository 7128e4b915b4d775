"""NumPy arrays on the wire and back. Why bytes and not repeated floats: docs/decisions/0002-vectors-as-bytes.md."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from sightline.errors import TensorMalformed
from sightline.v1 import common_pb2

MAX_AXES = 4

_DTYPES: dict[int, np.dtype[Any]] = {
    common_pb2.DTYPE_FLOAT32: np.dtype("<f4"),
    common_pb2.DTYPE_FLOAT16: np.dtype("<f2"),
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}


def tensor_to_proto(array: npt.NDArray[Any]) -> common_pb2.Tensor:
    """A Tensor holding a copy of `array` (float32 or float16, 1 to 4 axes) in row-major order.

    Raises TensorMalformed for another dtype or number of axes.
    """
    code = _CODES.get(array.dtype.newbyteorder("<"))
    if code is None:
        raise TensorMalformed(f"dtype: got {array.dtype}, expected float32 or float16", detail=f"dtype {array.dtype}")
    _check_shape(array.shape, name="array")
    data = np.ascontiguousarray(array, dtype=_DTYPES[code]).tobytes()
    return common_pb2.Tensor(data=data, dtype=code, shape=array.shape)  # type: ignore[arg-type]


def tensor_from_proto(tensor: common_pb2.Tensor, *, name: str) -> npt.NDArray[Any]:
    """The array that `tensor` holds, read-only, without a copy.

    Raises TensorMalformed, naming the field `name`, if dtype, shape and byte
    count disagree or a value is not finite.
    """
    dtype = _DTYPES.get(tensor.dtype)
    if dtype is None:
        raise TensorMalformed(f"{name}.dtype: got {tensor.dtype}, expected 1 or 2", detail=f"dtype {tensor.dtype}")
    shape = tuple(tensor.shape)
    _check_shape(shape, name=name)
    expected = math.prod(shape) * dtype.itemsize
    if len(tensor.data) != expected:
        message = f"{name}.data: got {len(tensor.data)} bytes, expected {expected} for shape {list(shape)}"
        raise TensorMalformed(message, detail=f"bytes {len(tensor.data)} expected {expected}")
    array = np.frombuffer(tensor.data, dtype=dtype).reshape(shape)
    if not _is_finite(array):
        raise TensorMalformed(f"{name}.data: holds a value that is not finite", detail="not finite")
    return array


def _is_finite(array: npt.NDArray[Any]) -> bool:
    # NumPy widens every float16 to test it: 117 us for a picture's tokens [49, 768]
    # against 4 us for a look at the exponents, which are all ones where not finite.
    if array.dtype.itemsize == 2:
        return bool((array.view("<u2") & 0x7C00).max() < 0x7C00)
    return bool(np.isfinite(array).all())


def _check_shape(shape: tuple[int, ...], *, name: str) -> None:
    if not 1 <= len(shape) <= MAX_AXES or min(shape) < 1:
        message = f"{name}.shape: got {list(shape)[:8]}, expected 1 to {MAX_AXES} axes of at least 1"
        raise TensorMalformed(message, detail=f"shape {list(shape)[:8]}")
