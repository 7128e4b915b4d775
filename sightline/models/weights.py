"""Weights in safetensors, each once, loaded strictly, nothing unpickled; and the digest of an embedding space."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from sightline.errors import ReleaseInvalid

WEIGHTS_FILE = "model.safetensors"
PICKLE_SUFFIXES = frozenset({".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz"})
"""Formats that may run code when they are read; a release must not hold any."""

_WITHOUT_EFFECT = ("logit_scale", "logit_bias")
"""Weights of a tower that change no vector."""


def unique_state(module: nn.Module) -> dict[str, Tensor]:
    """The module's weights on the CPU, a tied weight once, under its first name."""
    found: dict[int, str] = {}
    state = module.state_dict(keep_vars=True)
    names = [name for name, tensor in state.items() if found.setdefault(id(tensor), name) == name]
    return {name: state[name].detach().cpu().contiguous() for name in names}


def write_weights(
    folder: Path, *, state: Mapping[str, Tensor], metadata: Mapping[str, str], name: str = WEIGHTS_FILE
) -> None:
    """Write `model.safetensors`, or the file of that name."""
    save_file(dict(state), folder / name, metadata=dict(metadata))


@contextmanager
def open_weights(folder: Path, *, name: str = WEIGHTS_FILE) -> Iterator[Any]:
    """The open safetensors file of a release. Raises ReleaseInvalid if it is absent, damaged or no safetensors."""
    refuse_pickles(folder)
    try:
        with safe_open(folder / name, framework="pt") as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise ReleaseInvalid(f"{name}: no safetensors file that can be read: {error}") from error


def refuse_pickles(folder: Path) -> None:
    """Raise ReleaseInvalid if the folder holds a file of a format that may run code."""
    found = sorted(path.name for path in folder.rglob("*") if path.suffix in PICKLE_SUFFIXES)
    if found:
        raise ReleaseInvalid(f"{found[0]}: a release holds safetensors only, nothing that has to be unpickled")


def load_part(module: nn.Module, *, file: Any, prefix: str) -> None:
    """Fill the module from the weights named `prefix` + name.

    Raises ReleaseInvalid if a weight is missing, left over, or of another shape.
    """
    stored = {name.removeprefix(prefix) for name in file.keys() if name.startswith(prefix)}  # noqa: SIM118
    expected = {name: tensor.shape for name, tensor in unique_state(module).items()}
    if stored != expected.keys():
        odd = sorted(stored ^ expected.keys())
        raise ReleaseInvalid(f"weights: {len(odd)} missing or left over, {prefix}{odd[0]} among them")
    state = {name: file.get_tensor(prefix + name) for name in expected}
    for name, shape in expected.items():
        if state[name].shape != shape:
            raise ReleaseInvalid(f"{prefix}{name}: got shape {tuple(state[name].shape)}, expected {tuple(shape)}")
    module.load_state_dict(state, strict=False)


def space_digest(*, tower_state: Mapping[str, Tensor], settings: Mapping[str, str], tokenizer_files: list[Path]) -> str:
    """16 hex digits of everything that changes a vector or a picture token.

    That is the tower's weights (not its temperature), `settings` (preprocessing,
    pooling, normalisation) and the tower's tokenizer; never the decoder's.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(tower_state.items()):
        if not name.endswith(_WITHOUT_EFFECT):
            digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
            digest.update(memoryview(tensor.contiguous().reshape(-1).view(torch.uint8).numpy()))
    for key, value in sorted(settings.items()):
        digest.update(f"{key}\0{value}\0".encode())
    for path in sorted(tokenizer_files):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]
