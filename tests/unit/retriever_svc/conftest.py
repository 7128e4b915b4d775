"""What the retriever's tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sightline.testing.folders import quick_folder


@pytest.fixture
def folder() -> Iterator[Path]:
    """An empty folder in memory; `tmp_path` is one on the disk."""
    with quick_folder() as made:
        yield made
