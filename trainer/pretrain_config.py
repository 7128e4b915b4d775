"""What one pretraining of a small BART is: frozen settings, and nothing that acts."""

from __future__ import annotations

from dataclasses import dataclass, field

from trainer.config import DataSettings, ModelSettings, RunSettings, SpeedSettings


@dataclass(frozen=True, kw_only=True)
class DenoisingSettings:
    """What comes before both stages where no BART is at hand: damaged texts are written back."""

    steps: int = 3000
    """Optimiser steps."""
    batch_size: int = 32
    """Texts a step."""
    accumulate: int = 1
    """Parts that a batch is read in, one after the other: memory of one part, for the same gradient."""
    learning_rate: float = 2e-3
    """Peak of the cosine schedule that ends at zero."""
    weight_decay: float = 0.01
    """Decay of matrices."""
    warmup_share: float = 0.1
    """Share of the steps that the rate rises over."""
    clip_norm: float = 1.0
    """Largest norm of the gradient."""
    mask_share: float = 0.3
    """Share of a damaged text's tokens that is hidden, in spans of three on average, each behind one mask."""
    sentence_share: float = 0.75
    """Share of texts left whole and written back from the state of the first token alone, which is what a tower pools;
    the rest is damaged and written back from all states."""
    swap_share: float = 0.0
    """Share of a text's names exchanged for others, as in `stage2.swap_share`, whose value a recipe hands on: a name
    that its neighbours give away need not be kept in the first state."""


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """One small BART, whole: what `python -m trainer pretrain <recipe>` does. `model.decoder` is where it goes."""

    seed: int = 0
    """Seed of weights, order, damage and dropout."""
    data: DataSettings = field(default_factory=DataSettings)
    """Corpus; its texts are read alone."""
    model: ModelSettings = field(default_factory=ModelSettings)
    """Architecture; of it the decoder and the tokenizer."""
    denoising: DenoisingSettings = field(default_factory=DenoisingSettings)
    """What is learned."""
    speed: SpeedSettings = field(default_factory=SpeedSettings)
    """How steps are computed."""
    run: RunSettings = field(default_factory=RunSettings)
    """Process: threads, device and lines of the journal."""
