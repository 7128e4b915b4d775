"""The served face of the dual encoder: Python and NumPy in and out, safe from many threads."""

# Axes: N items, L tokens, D embedding width, P picture tokens, W token width, C channels; after C, H and W are pixels.
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from sightline.errors import CapabilityMissing, DimensionMismatch, FieldOutOfRange
from sightline.models.composer import Composer
from sightline.models.composer_config import ComposerConfig
from sightline.models.golden import Golden
from sightline.models.model import ZrigfModel
from sightline.models.placeholder import composed_ids, placeholder_tokenizer
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
        composer: Composer | None = None,
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
        self._composer = composer

    @property
    def can_compose(self) -> bool:
        """Whether the release holds a composer: else `encode_composed` raises CapabilityMissing."""
        return self._composer is not None

    @property
    def composes_vectors(self) -> bool:
        """Whether a stored vector can be a reference; else the composer needs pixels, or there is none."""
        return self._composer is not None and not self._composer.needs_pixels

    def composer_config(self) -> ComposerConfig:
        """What the composer is. Raises CapabilityMissing if the release has none."""
        return self._need_composer().config

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

    def tokenize_edits(self, edits: Sequence[str]) -> TokenizedTexts:
        """Composed sentences as ids [N, context_length]; `is_truncated` says which edit lost its end.

        Raises CapabilityMissing if the release has no composer.
        """
        tokenizer = placeholder_tokenizer(self._tokenizer)
        return composed_ids(edits, tokenizer=tokenizer, template=self.composer_config().template)

    def encode_composed(self, reference: Array, edits: Sequence[str]) -> Array:
        """Unit vectors [N, D] in float32 of what the edits make of the references; `encode_composed_ids` says more."""
        return self.encode_composed_ids(reference, self.tokenize_edits(edits).ids)

    @torch.inference_mode()
    def encode_composed_ids(self, reference: Array, ids_NL: Array) -> Array:
        """Unit vectors [N, D] in float32 of references with edits that `tokenize_edits` has read.

        A reference is a picture's vector [N, D] of this embedding space, of any
        length above zero, or its pixels [N, C, H, W] as `preprocess` gives them.
        Raises CapabilityMissing if the release has no composer, or one that needs
        pixels; DimensionMismatch and FieldOutOfRange for shapes that do not fit.
        """
        composer = self._need_composer()
        self._check_reference(reference, count=len(ids_NL))
        given = torch.from_numpy(reference).to(self.device)
        if given.ndim == 2:
            given = F.normalize(given.float(), dim=-1)
        return _float32(composer(given, torch.from_numpy(ids_NL).to(self.device)))

    def check_golden(self) -> None:
        """Recompute what the release promises. Raises ReleaseInvalid naming what came out differently."""
        self._golden.check_encoder(self)

    def _need_composer(self) -> Composer:
        if self._composer is None:
            raise CapabilityMissing(
                "this release has no composer; it answers pictures or texts alone", detail="composer"
            )
        return self._composer

    def _check_reference(self, reference: Array, *, count: int) -> None:
        if len(reference) != count:
            message = f"references: got {len(reference)}, need one for each of {count} edits"
            raise FieldOutOfRange(message, field="references", value=len(reference), limit=count)
        if reference.ndim == 2 and reference.shape[1] != self.dimension:
            message = f"reference: got {reference.shape[1]} dimensions, this space has {self.dimension}"
            raise DimensionMismatch(message, value=reference.shape[1], limit=self.dimension)


def _float32(values: torch.Tensor) -> Array:
    return values.float().cpu().numpy()
