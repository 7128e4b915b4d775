"""The served face of the dual encoder: Python and NumPy in and out, safe from many threads."""

# Axes: N items, L tokens, D embedding width, P picture tokens, W token width, C channels; after C, H and W are pixels.
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from sightline.models.golden import Golden
from sightline.models.model import ZrigfModel
from sightline.models.tokenizer import TokenizedTexts, TowerTokenizer

Array = np.ndarray[Any, Any]


class EncoderModel:
    """A release's towers, ready to encode. Every method may be called concurrently."""

    def __init__(
        self,
        model: ZrigfModel,
        *,
        tokenizer: TowerTokenizer,
        embedding_space_id: str,
        golden: Golden,
        device: str,
        dtype: torch.dtype,
    ) -> None:
        self.embedding_space_id = embedding_space_id
        self.dimension: int = model.tower.dimension
        self.context_length: int = model.tower.context_length
        self.image_size: int = model.tower.preprocess.image_size
        self.num_tokens: int = model.num_image_tokens
        self.token_width: int = model.image_token_width
        self.compute_dtype = str(dtype).removeprefix("torch.")
        self.device = device
        self._model, self._tokenizer, self._golden, self._dtype = model, tokenizer, golden, dtype

    def tokenize(self, texts: Sequence[str]) -> TokenizedTexts:
        """The texts as ids [N, context_length], each cut at its end if it is too long."""
        return self._tokenizer.tokenize(texts)

    def encode_texts(self, texts: Sequence[str]) -> Array:
        """Unit vectors [N, D] in float32."""
        return self.encode_ids(self.tokenize(texts).ids)

    @torch.inference_mode()
    def encode_ids(self, ids_NL: Array) -> Array:
        """Unit vectors [N, D] in float32 of tokenized texts; the batch is cut to its longest end-of-text."""
        tower = self._model.tower
        ids = tower.longest_text(torch.from_numpy(ids_NL))
        return _float32(tower.encode_text(ids.to(self.device)))

    def preprocess(self, image: Image.Image) -> Array:
        """The picture as uint8 [3, H, W]; cheap to queue and to stack."""
        return self._model.tower.preprocess.pixels(image)

    @torch.inference_mode()
    def encode_images(self, pixels_NCHW: Array) -> tuple[Array, Array]:
        """(unit vectors [N, D] in float32, fusion tokens [N, P, W] in float16) of stacked `preprocess` results."""
        pixels = torch.from_numpy(pixels_NCHW).to(self.device)
        vectors_ND, tokens_NPW = self._model.fusion_tokens(pixels)
        return _float32(vectors_ND), tokens_NPW.to(torch.float16).cpu().numpy()

    def check_golden(self) -> None:
        """Recompute what the release promises. Raises ReleaseInvalid naming what came out differently."""
        self._golden.check_encoder(self)


def _float32(values: torch.Tensor) -> Array:
    return values.float().cpu().numpy()
