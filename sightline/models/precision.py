"""Which floating-point type a model is served in."""

from __future__ import annotations

import torch
from torch import nn

from sightline.errors import SettingInvalid

MIN_BFLOAT16_WIDTH = 192
"""Narrower models are faster in float32: their matrices are too small to pay for bfloat16's packing."""

_NAMES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def choose_dtype(name: str, *, device: str, width: int) -> torch.dtype:
    """The dtype that "float32", "bfloat16" or "auto" means for a model of this width on this device.

    auto is bfloat16 where the device multiplies it natively (CUDA; CPUs with
    AVX-512 BF16 or AMX) and the model is wide enough to gain. Raises
    SettingInvalid for another name.
    """
    if name in _NAMES:
        return _NAMES[name]
    if name != "auto":
        raise SettingInvalid(f"dtype: got {name!r}, expected auto, float32 or bfloat16")
    is_worth_it = width >= MIN_BFLOAT16_WIDTH and has_fast_bfloat16(device)
    return torch.bfloat16 if is_worth_it else torch.float32


def has_fast_bfloat16(device: str) -> bool:
    """Whether the device has instructions that multiply bfloat16."""
    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def ready_to_serve(module: nn.Module, *, device: str, dtype: torch.dtype) -> nn.Module:
    """The module in evaluation, without gradients, on the device, its floating-point weights in dtype."""
    return module.eval().requires_grad_(False).to(device=device, dtype=dtype)
