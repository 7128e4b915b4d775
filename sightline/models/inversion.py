"""Textual inversion: a vector of the shared space becomes a word that the text tower can read.

One convention for training and serving, and it is ours: phi reads unit
vectors, multiplied by sqrt(D) so that each number is of about unit size. The
authors of LinCIR feed it features before normalisation; an index keeps unit
vectors, and with this convention a stored picture can be a reference without
its pixels. Noise and loss count in the same units.
"""

# Axes: B items, D embedding width, W width of a token, N items to measure.
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sightline.errors import SettingInvalid
from sightline.models.composer_config import InversionConfig


class TextualInversion(nn.Module):
    """phi: unit vectors [B, D] to pseudo-words [B, W] (LinCIR, SEARLE; Pic2Word with its narrower configuration)."""

    def __init__(self, config: InversionConfig, *, dimension: int, width: int) -> None:
        super().__init__()
        hidden = config.hidden_width or 4 * dimension
        self.layers = nn.Sequential(
            nn.Linear(dimension, hidden),
            _activation(config.activation),
            nn.Dropout(config.dropout),
            nn.Linear(hidden, hidden),
            _activation(config.activation),
            nn.Dropout(config.dropout),
            nn.Linear(hidden, width),
        )

    def forward(self, vectors_BD: Tensor) -> Tensor:
        """Pseudo-words [B, W] of vectors of unit length."""
        return self.layers(vectors_BD * vectors_BD.shape[1] ** 0.5)


class FeatureNoise(nn.Module):
    """What a caption's vector is blurred with, so that phi also knows what to do with a picture's (LinCIR).

    z + scale * std * u * n, with u uniform in [0, 1] once a vector and n normal
    in each dimension; std is the encoder's own spread, measured once and kept
    with the weights. The result is brought back to unit length: its length would
    tell phi how much noise there is, and a picture's is always one.
    """

    std_D: Tensor

    def __init__(self, dimension: int, *, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale
        self.register_buffer("std_D", torch.full((dimension,), dimension**-0.5))

    def forward(self, vectors_BD: Tensor) -> Tensor:
        """Unit vectors [B, D]: blurred in training, as they are in evaluation. Drawn from torch's global generator."""
        return self.blurred(vectors_BD, scale=self.scale) if self.training else vectors_BD

    def blurred(self, vectors_BD: Tensor, *, scale: float) -> Tensor:
        """Unit vectors [B, D] with this much noise, whatever the mode."""
        if scale == 0.0:
            return vectors_BD
        noise_BD = torch.randn_like(vectors_BD) * torch.rand_like(vectors_BD[:, :1])
        return F.normalize(vectors_BD + scale * self.std_D * noise_BD, dim=-1)

    @torch.no_grad()
    def measure(self, vectors_ND: Tensor) -> None:
        """Take the spread of each dimension from these unit vectors of captions; at least two."""
        if len(vectors_ND) < 2:
            raise SettingInvalid(f"captions to measure a spread: got {len(vectors_ND)}, must be at least 2")
        self.std_D.copy_(vectors_ND.std(dim=0))


def smp_loss(predicted_BD: Tensor, target_BD: Tensor) -> Tensor:
    """Mean squared error of vectors times sqrt(D), a scalar in 0 to 4 (self-masking projection of LinCIR).

    Both are unit vectors: predicted of the sentence with the pseudo-word, target
    of the whole caption, which gets no gradient. Times sqrt(D) is phi's unit;
    for unit vectors that makes it 2 - 2 cos.
    """
    return F.mse_loss(predicted_BD, target_BD.detach()) * predicted_BD.shape[1]


def _activation(name: str) -> nn.Module:
    return nn.GELU() if name == "gelu" else nn.ReLU()
