"""A stage's state on disk: safetensors for weights and optimiser, JSON for the rest. Nothing is pickled.

Order, masks, augmentation and dropout are functions of (seed, stage, step, worker), so the step is all of their state.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sightline.errors import DataCorrupt, SettingInvalid

_WEIGHTS, _OPTIMISER, _STATE = "model.safetensors", "optimizer.safetensors", "state.json"
_ABSENT = "absent"
_MOST_SHOWN = 8


@dataclass(frozen=True, kw_only=True)
class Position:
    """Where a run stands."""

    stage: str
    """Stage that the step counts in."""
    step: int
    """Steps done in that stage."""
    training: Mapping[str, Any]
    """All that decides the weights, by name: settings, and the digests of the data files."""


def write_checkpoint(folder: Path, *, model: nn.Module, optimizer: torch.optim.Optimizer, position: Position) -> None:
    """Fill `folder` with everything that continuing needs."""
    save_file(_weights(model), folder / _WEIGHTS)
    save_file(_moments(model, optimizer=optimizer), folder / _OPTIMISER)
    (folder / _STATE).write_text(json.dumps(asdict(position)), encoding="utf-8")


def adopt_weights(source: Path, *, into: Path, position: Position) -> None:
    """Fill `into` with the weights of the checkpoint `source`, standing at `position`: the optimiser starts anew."""
    shutil.copyfile(source / _WEIGHTS, into / _WEIGHTS)
    (into / _STATE).write_text(json.dumps(asdict(position)), encoding="utf-8")


def read_position(folder: Path, *, training: Mapping[str, Any]) -> Position:
    """Where the checkpoint stands. Raises DataCorrupt if unreadable, SettingInvalid naming what differs."""
    try:
        position = Position(**json.loads((folder / _STATE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise DataCorrupt(f"checkpoint {folder}: {_STATE} is unreadable: {error}", detail=error) from error
    if found := differences(position.training, training):
        more = f" and {len(found) - _MOST_SHOWN} more" if len(found) > _MOST_SHOWN else ""
        raise SettingInvalid(
            f"checkpoint {folder} was made with other settings: {'; '.join(found[:_MOST_SHOWN])}{more}; "
            "keep the settings and the data, or choose another --run.name"
        )
    return position


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """'name: was a, is b' for every name whose value differs; digests of files are not spelled out."""
    return [
        f"{name}: {_change(before.get(name, _ABSENT), now.get(name, _ABSENT))}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name, _ABSENT) != now.get(name, _ABSENT)
    ]


def _change(before: Any, now: Any) -> str:
    shown = [value if value == _ABSENT else repr(value) for value in (before, now)]
    is_digest = all(isinstance(value, str) and (value == _ABSENT or len(value) == 64) for value in (before, now))
    return "the file's content changed" if is_digest and _ABSENT not in shown else f"was {shown[0]}, is {shown[1]}"


def read_weights(folder: Path, *, model: nn.Module) -> None:
    """Load the checkpoint's weights into `model`, strictly."""
    weights = load_file(folder / _WEIGHTS)
    expected = set(_weights(model))
    if weights.keys() != expected:
        raise DataCorrupt(
            f"checkpoint {folder}: weights differ from the model's in {sorted(weights.keys() ^ expected)[:4]}"
        )
    model.load_state_dict(weights, strict=False)


def read_optimizer(folder: Path, *, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Load the optimiser's moments, matched to parameters by name."""
    stored = load_file(folder / _OPTIMISER)
    for name, parameter in model.named_parameters():
        named = {key.rpartition("|")[2]: value for key, value in stored.items() if key.rpartition("|")[0] == name}
        values = {key: value if key == "step" else value.to(parameter.device) for key, value in named.items()}
        if values:
            optimizer.state[parameter] = values


def _weights(model: nn.Module) -> dict[str, Tensor]:
    """Each tensor once: tied weights share storage, which safetensors refuses."""
    seen: set[int] = set()
    kept: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        if value.data_ptr() not in seen or value.numel() == 0:
            seen.add(value.data_ptr())
            kept[name] = value.detach().contiguous()
    return kept


def _moments(model: nn.Module, *, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{name}|{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }
