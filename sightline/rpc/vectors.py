"""Vectors that a caller sent: brought to length 1, and of the width of the space."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from sightline.errors import DimensionMismatch, TensorMalformed

Floats = npt.NDArray[np.float32]

_UNIT_TOLERANCE = 1e-4


def unit_vector(array: npt.NDArray[Any], *, name: str) -> Floats:
    """`array` [D] in float32 at length 1; one that has it already comes back bit for bit.

    Raises TensorMalformed if it has another number of axes, a value that is not
    finite, or no length.
    """
    if array.ndim != 1:
        raise TensorMalformed(f"{name}.shape: got {list(array.shape)}, expected one axis", detail=f"axes {array.ndim}")
    length = float(np.linalg.norm(array.astype(np.float64)))
    if not np.isfinite(length) or length == 0.0:
        raise TensorMalformed(f"{name}: its length is {length}, expected a finite one above 0", detail="zero length")
    if abs(length - 1.0) <= _UNIT_TOLERANCE:
        return np.ascontiguousarray(array, dtype=np.float32)
    return (array.astype(np.float64) / length).astype(np.float32)


def check_dimension(array: npt.NDArray[Any], *, name: str, dimension: int) -> None:
    """Raise DimensionMismatch if `array` [D] is not as wide as the space."""
    if array.shape[-1] != dimension:
        got = array.shape[-1]
        raise DimensionMismatch(f"{name}: got {got} values, limit {dimension}", value=got, limit=dimension)
