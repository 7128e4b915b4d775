"""The trained composer of a release as the benchmarks ask it."""

# Axes: N pictures, Q queries, D embedding width, C channels; after C, H and W are pixels.
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from sightline.models.encoder_model import EncoderModel
from trainer.benchmarks.protocol import Floats, Pixels, References


class ComposerSystem:
    """A ComposedEncoder by phi, adapter and prompts; a gallery's pictures are seen by the plain towers."""

    system = "composed"
    notes = ()

    def __init__(self, encoder: EncoderModel) -> None:
        """Raises CapabilityMissing if the release has no composer."""
        self._encoder, self.template = encoder, encoder.composer_config().template
        self.embedding_space_id, self.dimension = encoder.embedding_space_id, encoder.dimension
        self.image_size = encoder.image_size

    def preprocess(self, image: Image.Image) -> Pixels:
        """The picture as uint8 [3, H, W]."""
        return self._encoder.preprocess(image)

    def encode_images(self, pixels_NCHW: Pixels) -> Floats:
        """Unit vectors [N, D] of pictures."""
        return self._encoder.encode_images(pixels_NCHW)[0]

    def encode_composed(self, references: References, texts: Sequence[str]) -> Floats:
        """Unit vectors [Q, D] of references after their edits; pixels are read where prompts change their look."""
        if self._encoder.composes_vectors:
            return self._encoder.encode_composed(references.vectors_QD, texts)
        pictures = [self.preprocess(picture.read(min_side=self.image_size)) for picture in references.pictures]
        return self._encoder.encode_composed(np.stack(pictures), texts)
