"""Image-to-text models in a folder, read by transformers: BLIP, GIT, a vision encoder with a decoder, and so on."""

# Axes: B pictures, L tokens.
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

from sightline.language.rewriting import ReferencePicture
from sightline.models.transformers_folder import LOCAL_ONLY, folder_name, reading

MAX_CAPTION_TOKENS = 60
MIN_SIDE = 384
"""Pixels that a reduced JPEG keeps at least; the model's own processor makes its size of them."""


class PictureCaptioner:
    """A `Captioner` over an image-to-text model that needs no prompt. Greedy, so that it says the same twice.

    For one caller at a time: it fills the device by itself.
    """

    def __init__(self, folder: Path, *, batch_items: int = 8, device: str = "cpu") -> None:
        """Raises UsageError for a folder that holds no such model."""
        self._processor, self._tokenizer, self._model = _loaded(folder, device=device)
        self.name = folder_name(folder)
        self._batch_items = batch_items

    def captions(self, pictures: Sequence[ReferencePicture]) -> list[str]:
        """What the model writes about each on one line; empty where it writes nothing."""
        starts = range(0, len(pictures), self._batch_items)
        return [one for start in starts for one in self._written(pictures[start : start + self._batch_items])]

    @torch.inference_mode()
    def _written(self, pictures: Sequence[ReferencePicture]) -> list[str]:
        images: list[Image.Image] = [picture.read(min_side=MIN_SIDE) for picture in pictures]
        device = next(self._model.parameters()).device
        pixels = self._processor(images=images, return_tensors="pt")["pixel_values"].to(device, self._model.dtype)
        ids_BL = self._model.generate(pixel_values=pixels, max_new_tokens=MAX_CAPTION_TOKENS, do_sample=False)
        return [_on_one_line(text) for text in self._tokenizer.batch_decode(ids_BL, skip_special_tokens=True)]


def _on_one_line(text: str) -> str:
    shown = "".join(letter if letter.isprintable() else " " for letter in text)
    return " ".join(shown.split())


def _loaded(folder: Path, *, device: str) -> tuple[Any, Any, Any]:
    """(image processor, tokenizer, model) of a folder."""
    with reading(folder, what="an image-to-text model"):
        processor = AutoImageProcessor.from_pretrained(str(folder), **LOCAL_ONLY)
        tokenizer = AutoTokenizer.from_pretrained(str(folder), **LOCAL_ONLY)
        model = AutoModelForImageTextToText.from_pretrained(
            str(folder), use_safetensors=True, dtype="auto", **LOCAL_ONLY
        )
    return processor, tokenizer, model.to(device).eval()
