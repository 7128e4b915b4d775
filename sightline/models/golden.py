"""Inputs with the outputs they must give: how a replica knows that a release works here before it serves."""

# Axes: N items, L tokens, D embedding width, P picture tokens, W token width, K pictures, T reply tokens, V vocabulary.
from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from sightline.errors import ReleaseInvalid

if TYPE_CHECKING:
    from sightline.models.encoder_model import EncoderModel
    from sightline.models.generator_model import GeneratorModel

Array = np.ndarray[Any, Any]

GOLDEN_FILE = "golden.safetensors"
TEXTS = ("a photo of a red ball on the beach", "Two blue birds at NIGHT, under a tree!", "x")
TURNS = ("hello there", "what colour is it ?")
REPLY = "it is red ."
EDITS = ("is blue", "shows two of them at NIGHT.", "")

MAX_RELATIVE_ERROR = 1e-3
"""Largest relative error of an output row in float32, whatever the machine's order of summation."""
MIN_BFLOAT16_COSINE = 0.99
"""Least cosine of an output row with its float32 golden in bfloat16."""


@dataclass(frozen=True, kw_only=True)
class Golden:
    """Arrays by name, and the texts that belong to them."""

    arrays: dict[str, Array]
    texts: list[str]
    edits: tuple[str, ...] = ()
    """What the composer was asked, if the release has one."""

    def save(self, folder: Path) -> None:
        """Write `golden.safetensors`."""
        metadata = {"texts": json.dumps(self.texts)} | ({"edits": json.dumps(self.edits)} if self.edits else {})
        save_file(self.arrays, folder / GOLDEN_FILE, metadata=metadata)

    @classmethod
    def read(cls, folder: Path) -> Golden:
        """The golden file of a release. Raises ReleaseInvalid if it is absent or damaged."""
        try:
            with safe_open(folder / GOLDEN_FILE, framework="numpy") as file:
                metadata = file.metadata() or {}
                return cls(
                    arrays={name: file.get_tensor(name) for name in file.keys()},  # noqa: SIM118
                    texts=json.loads(metadata.get("texts", "[]")),
                    edits=tuple(json.loads(metadata.get("edits", "[]"))),
                )
        except (OSError, SafetensorError, ValueError) as error:
            raise ReleaseInvalid(f"{GOLDEN_FILE}: cannot be read: {error}") from error

    def check_encoder(self, encoder: EncoderModel) -> None:
        """Raise ReleaseInvalid unless tokenizer, preprocessing, towers and composer give what they gave when saved."""
        ids = encoder.tokenize(self.texts).ids
        self._check_equal("text_ids", ids)
        self._check_equal("pixels", encoder.preprocess(Image.fromarray(self._need("picture")))[None])
        self._check_close("text_vectors", encoder.encode_ids(ids), dtype=encoder.compute_dtype)
        vectors_ND, tokens_NPW = encoder.encode_images(self._need("pixels"))
        self._check_close("image_vectors", vectors_ND, dtype=encoder.compute_dtype)
        self._check_close("image_tokens", tokens_NPW.astype(np.float32), dtype=encoder.compute_dtype)
        if encoder.can_compose != bool(self.edits):
            held, promised = encoder.can_compose, bool(self.edits)
            raise ReleaseInvalid(f"composer: present is {held}, golden outputs of one are present is {promised}")
        if self.edits:
            self._check_composer(encoder)

    def check_generator(self, generator: GeneratorModel) -> None:
        """Raise ReleaseInvalid unless the generator's logits are what they were when saved."""
        inputs = {name: self._need(f"generator.{name}") for name in GENERATOR_INPUTS}
        self._check_close("generator.logits", generator.logits(inputs), dtype=generator.compute_dtype)

    def _check_composer(self, encoder: EncoderModel) -> None:
        ids = encoder.tokenize_edits(self.edits).ids
        self._check_equal("composed_ids", ids)
        pixels = np.repeat(self._need("pixels"), len(ids), axis=0)
        self._check_close("composed_vectors", encoder.encode_composed_ids(pixels, ids), dtype=encoder.compute_dtype)

    def _need(self, name: str) -> Array:
        if name not in self.arrays:
            raise ReleaseInvalid(f"{GOLDEN_FILE}: {name} is missing")
        return self.arrays[name]

    def _check_equal(self, name: str, got: Array) -> None:
        if not np.array_equal(got, self._need(name)):
            raise ReleaseInvalid(f"golden {name}: differs from what the release promises")

    def _check_close(self, name: str, got: Array, *, dtype: str) -> None:
        expected = self._need(name)
        if got.shape != expected.shape or not np.isfinite(got).all():
            raise ReleaseInvalid(
                f"golden {name}: got {got.shape}, finite {np.isfinite(got).all()}, of {expected.shape}"
            )
        rows, wanted = got.reshape(len(got), -1), expected.reshape(len(expected), -1)
        if dtype == "float32":
            error = float((_norm(rows - wanted) / np.maximum(_norm(wanted), 1e-6)).max())
            is_close, said = error <= MAX_RELATIVE_ERROR, f"relative error {error:.2g}, limit {MAX_RELATIVE_ERROR}"
        else:
            cosine = float(((rows * wanted).sum(1) / np.maximum(_norm(rows) * _norm(wanted), 1e-6)).min())
            is_close, said = cosine >= MIN_BFLOAT16_COSINE, f"cosine {cosine:.4f}, limit {MIN_BFLOAT16_COSINE}"
        if not is_close:
            raise ReleaseInvalid(f"golden {name} in {dtype}: {said}")


GENERATOR_INPUTS = ("context_ids", "context_mask", "tokens", "similarity", "image_mask", "labels")


def golden_picture() -> Array:
    """A fixed picture uint8 [48, 80, 3] with gradients and edges."""
    y, x = np.mgrid[0:48, 0:80]
    channels = (x * 3 % 256, y * 5 % 256, ((x // 8 + y // 8) % 2) * 200)
    return np.stack(channels, axis=-1).astype(np.uint8)


def golden_tokens(shape: tuple[int, ...], *, is_pixels: bool) -> Array:
    """Fixed picture tokens [B, K, P, W]: states of about unit size, or whole pixel values."""
    rng = np.random.default_rng(0)
    if is_pixels:
        return rng.integers(0, 256, shape).astype(np.float32)
    return rng.standard_normal(shape, dtype=np.float32)


def _norm(rows: Array) -> Array:
    norms: Array = np.linalg.norm(rows, axis=1)
    return norms
