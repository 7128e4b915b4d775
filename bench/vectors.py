"""`python -m bench.vectors`: what vectors cost on the wire, as repeated floats and as bytes.

Both forms are encoded from NumPy to wire bytes and decoded back to NumPy. The
rival message is built at run time, so that the contract need not carry it.
"""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import google.protobuf
import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.internal import api_implementation
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from sightline.rpc.tensors import tensor_from_proto, tensor_to_proto
from sightline.v1 import common_pb2

OUT = Path(__file__).parent / "results" / "vectors.json"
ROUNDS, SECONDS_A_ROUND = 9, 0.1


@dataclass(frozen=True, kw_only=True)
class Case:
    """One array to send."""

    name: str
    """What it is in the services."""
    shape: tuple[int, ...]
    """Extent of each axis."""
    dtype: str
    """Element type as the services send it; repeated floats are always binary32."""


CASES = (
    Case(name="one vector", shape=(512,), dtype="float32"),
    Case(name="256 vectors", shape=(256, 512), dtype="float32"),
    Case(name="fusion tokens of one picture", shape=(49, 96), dtype="float16"),
    Case(name="fusion tokens of one picture of ViT-B-32", shape=(49, 768), dtype="float16"),
)


def main() -> None:
    """Measure every case, print a line for each and write bench/results/vectors.json."""
    floats = repeated_floats()
    rows = [measure(case, floats=floats) for case in CASES]
    for row in rows:
        print(f"{row['name']}: {row['repeated']} -> {row['bytes']}; {row['times_faster']} times faster")
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(machine() | {"cases": rows}, indent=2) + "\n", encoding="utf-8")


def repeated_floats() -> type[Message]:
    """The rival: a message with one `repeated float` and a shape."""
    file = descriptor_pb2.FileDescriptorProto(name="bench/floats.proto", package="bench", syntax="proto3")
    message = file.message_type.add(name="Floats")
    repeated, field = descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED, descriptor_pb2.FieldDescriptorProto
    message.field.add(name="values", number=1, type=field.TYPE_FLOAT, label=repeated)
    message.field.add(name="shape", number=2, type=field.TYPE_UINT32, label=repeated)
    pool = descriptor_pool.DescriptorPool()
    return GetMessageClass(pool.AddSerializedFile(file.SerializeToString()).message_types_by_name["Floats"])


def measure(case: Case, *, floats: type[Any]) -> dict[str, Any]:
    """Microseconds and bytes of both forms of one case; both must give the array back."""
    array = np.random.default_rng(0).standard_normal(case.shape).astype(case.dtype)

    def encode_floats() -> bytes:
        # A list is four times as fast here as the array itself.
        values = array.astype(np.float32).ravel().tolist()
        return bytes(floats(values=values, shape=array.shape).SerializeToString())

    def decode_floats(data: bytes) -> Any:
        message = floats.FromString(data)
        return np.array(message.values, dtype=np.float32).reshape(message.shape)

    def encode_bytes() -> bytes:
        return tensor_to_proto(array).SerializeToString()

    def decode_bytes(data: bytes) -> Any:
        return tensor_from_proto(common_pb2.Tensor.FromString(data), name="vector")

    repeated = _round_trip(encode_floats, decode_floats, array=array)
    compact = _round_trip(encode_bytes, decode_bytes, array=array)
    faster = (repeated["encode_us"] + repeated["decode_us"]) / (compact["encode_us"] + compact["decode_us"])
    smaller = repeated["size_bytes"] / compact["size_bytes"]
    return {
        "name": case.name,
        "shape": list(case.shape),
        "dtype": case.dtype,
        "repeated": repeated,
        "bytes": compact,
        "times_faster": round(faster, 1),
        "times_smaller": round(smaller, 2),
    }


def machine() -> dict[str, Any]:
    """Where and when this ran."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit.stdout.strip(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "protobuf": google.protobuf.__version__,
        "protobuf_backend": api_implementation.Type(),
        "numpy": np.__version__,
        "rounds": ROUNDS,
    }


def _round_trip(encode: Callable[[], bytes], decode: Callable[[bytes], Any], *, array: Any) -> dict[str, float]:
    data = encode()
    np.testing.assert_array_equal(decode(data), array)
    return {
        "encode_us": _microseconds(encode),
        "decode_us": _microseconds(lambda: decode(data)),
        "size_bytes": len(data),
    }


def _microseconds(work: Callable[[], object]) -> float:
    # The median over rounds: other processes of the machine disturb single rounds.
    times = []
    for _ in range(ROUNDS):
        count, began = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - began) < SECONDS_A_ROUND:
            work()
            count += 1
        times.append(elapsed / count * 1e6)
    return round(statistics.median(times), 2)


if __name__ == "__main__":
    main()
