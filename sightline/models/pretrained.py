"""Where pretrained parts come from: a tag, a hub id, a folder or a file. Loaded whole and without running code, or not.

Only a pretrained tag, an `hf-hub:` tower or a BART named by its hub id may reach the network, through open_clip and
huggingface_hub alone; both look into the hub's cache folder first, which `HF_HOME` names.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import open_clip
from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from torch import nn

from sightline.errors import SettingInvalid

SCHEMES = ("hf-hub:", "local-dir:")
HF_TEXT_FOLDER = "hf_text"
"""Inside a `local-dir:` folder: the configuration of a transformers text tower, so that nothing is looked up."""

_BART_FILES = ("*.json", "*.txt", "*.model")
_LOAD_ERRORS = (RuntimeError, ValueError, KeyError, OSError, SafetensorError)


def split_tower_name(name: str) -> tuple[str, str]:
    """(open_clip architecture, weights): `ViT-B-32:openai`, `ViT-B-32:/a/file.pt`, `hf-hub:org/repo`, `ViT-B-32`.

    An architecture of the hub or of a local folder brings its own weights along.
    """
    if name.startswith(SCHEMES):
        return name, "own"
    tag, _, weights = name.partition(":")
    return tag, weights


def model_config_of(tag: str) -> dict[str, Any]:
    """open_clip's own description of an architecture. Raises SettingInvalid if there is none."""
    try:
        values = open_clip.get_model_config(tag)
    except (OSError, ValueError) as error:
        raise SettingInvalid(f"tag {tag!r}: no open_clip configuration: {error}") from error
    if values is None:
        raise SettingInvalid(f"tag: open_clip knows no architecture {tag!r}")
    return _with_local_text(values, tag=tag)


def create_open_clip(tag: str, *, weights: str) -> tuple[nn.Module, dict[str, Any]]:
    """(the model, its description), random if `weights` is empty, else whole.

    Weights are safetensors, or a `.pt`, `.pth` or `.bin` that holds tensors
    alone. Raises SettingInvalid if weights are absent, incomplete, of another
    architecture, or would have to run code to be read.
    """
    described = model_config_of(tag)
    _check_weights(tag, weights=weights)
    if weights and (open_clip.get_pretrained_cfg(tag, weights) or {}).get("quick_gelu"):
        described["quick_gelu"] = True
    text = deepcopy(described["text_cfg"])
    if "hf_model_name" in text:
        text["hf_model_pretrained"] = False
    with _explained(tag, weights=weights), _without_open_clips_warnings():
        model = open_clip.create_model(
            tag,
            pretrained=None if not weights or tag.startswith(SCHEMES) else weights,
            load_weights=bool(weights),
            require_pretrained=bool(weights),
            pretrained_text=False,
            force_quick_gelu=bool(described.get("quick_gelu")),
            text_cfg=text,
        )
    return model, described


def bart_folder(name: str) -> Path:
    """The folder of a BART checkpoint: a local one, or the cached download of a hub id such as `facebook/bart-base`.

    Raises SettingInvalid if it is neither.
    """
    if Path(name).is_dir():
        return Path(name)
    try:
        folder = Path(snapshot_download(name, allow_patterns=[*_BART_FILES, "*.safetensors"]))
        if any(folder.glob("*.safetensors")):
            return folder
        return Path(snapshot_download(name, allow_patterns=[*_BART_FILES, "pytorch_model*.bin"]))
    except (OSError, ValueError) as error:
        raise SettingInvalid(f"decoder {name!r}: no folder here and no checkpoint of the hub: {error}") from error


def _check_weights(tag: str, *, weights: str) -> None:
    if not weights or tag.startswith(SCHEMES) or Path(weights).is_file():
        return
    known = open_clip.list_pretrained_tags_by_model(tag)
    if weights not in known:
        raise SettingInvalid(
            f"weights: got {weights!r}, no file here and no tag of {tag}: {', '.join(known) or 'none'}"
        )


def _with_local_text(values: dict[str, Any], *, tag: str) -> dict[str, Any]:
    """The description with a transformers text tower named by its folder, where the folder of the tag has one."""
    folder = Path(tag.removeprefix("local-dir:")) / HF_TEXT_FOLDER
    if tag.startswith("local-dir:") and "hf_model_name" in values["text_cfg"] and folder.is_dir():
        return {**values, "text_cfg": {**values["text_cfg"], "hf_model_name": str(folder)}}
    return values


@contextmanager
def _explained(tag: str, *, weights: str) -> Iterator[None]:
    try:
        yield
    except (UnpicklingError, EOFError) as error:
        message = f"tag {tag!r}, weights {weights!r}: torn, or more than tensors; a file that runs code is never read"
        raise SettingInvalid(message) from error
    except _LOAD_ERRORS as error:
        raise SettingInvalid(f"tag {tag!r}, weights {weights!r}: {error}") from error


@contextmanager
def _without_open_clips_warnings() -> Iterator[None]:
    """Drop what open_clip tells the root logger: that weights are random, which a release then replaces."""

    def is_not_open_clips(record: logging.LogRecord) -> bool:
        return record.module != "factory" or record.levelno > logging.WARNING

    root = logging.getLogger()
    root.addFilter(is_not_open_clips)
    try:
        yield
    finally:
        root.removeFilter(is_not_open_clips)
