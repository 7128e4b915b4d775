"""What every test may rely on: seeds, and the real data where it lies beside the checkout."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

_SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(autouse=True)
def _seeded() -> None:
    random.seed(0)
    np.random.seed(0)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real pictures, dialogues and schemas; skips where it is absent."""
    if not _SHARED_DATA.is_dir():
        pytest.skip(f"real data is not beside the checkout: {_SHARED_DATA.name} is absent")
    return _SHARED_DATA
