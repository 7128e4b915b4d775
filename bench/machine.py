"""Where and when a result was measured, and how it is written: what every benchmark's JSON has in common."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


def machine() -> dict[str, Any]:
    """The machine, the day and the commit."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
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
