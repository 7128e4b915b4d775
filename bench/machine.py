"""Where, when and with what a result was measured, and how it is written: what benchmarks have in common."""

from __future__ import annotations

import gc
import json
import os
import platform
import subprocess
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


class Measured:
    """Seconds of a block, by the clock and of the processor, and the peak of the process's resident memory in it."""

    def __enter__(self) -> Measured:
        gc.collect()
        # Linux forgets the earlier peak when asked.
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        self._before_kib = resident_peak_kib()
        self._began, self._cpu_began = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *error: object) -> None:
        self.seconds, self.cpu_seconds = time.perf_counter() - self._began, time.process_time() - self._cpu_began
        self.resident_mib = mib(1024 * resident_peak_kib())
        self.peak_mib = mib(1024 * (resident_peak_kib() - self._before_kib))
        """How far the block raised the peak."""

    def named(self, name: str) -> dict[str, Any]:
        """Seconds and what the block added to the peak, under names that start with `name`."""
        return {f"{name}_s": round(self.seconds, 2), f"{name}_peak_mib": self.peak_mib}


def resident_peak_kib() -> int:
    """Most resident memory of this process since the peak was last forgotten."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def mib(num_bytes: float) -> float:
    """Bytes in MiB, to a tenth."""
    return round(num_bytes / 2**20, 1)


def machine() -> dict[str, Any]:
    """The machine, the day and the commit."""
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "processor": platform.machine(),
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit.stdout.strip(),
    }


def write_result(path: Path, *, result: Mapping[str, Any]) -> None:
    """Write the JSON whole or not at all: an interrupted benchmark reads it again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    partial.replace(path)
