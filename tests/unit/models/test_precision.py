"""Which dtype is served: what was asked for, and for auto only what pays."""

from __future__ import annotations

import pytest
import torch

from sightline.models.precision import MIN_BFLOAT16_WIDTH, choose_dtype, has_fast_bfloat16


def test_a_named_dtype_is_taken_at_its_word() -> None:
    assert choose_dtype("float32", device="cpu", width=4096) == torch.float32
    assert choose_dtype("bfloat16", device="cpu", width=8) == torch.bfloat16


def test_auto_keeps_narrow_models_in_float32() -> None:
    assert choose_dtype("auto", device="cpu", width=MIN_BFLOAT16_WIDTH - 1) == torch.float32


def test_auto_takes_bfloat16_only_where_it_is_native() -> None:
    expected = torch.bfloat16 if has_fast_bfloat16("cpu") else torch.float32
    assert choose_dtype("auto", device="cpu", width=MIN_BFLOAT16_WIDTH) == expected


@pytest.mark.gpu
def test_a_current_accelerator_multiplies_bfloat16() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no accelerator")
    assert has_fast_bfloat16("cuda")
