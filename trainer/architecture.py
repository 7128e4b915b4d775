"""From a recipe's sizes and a corpus to a fresh model with its tokenizers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from sightline.models.config import DecoderConfig, FusionConfig, MaskingConfig, TowerConfig, ZrigfConfig
from sightline.models.model import ZrigfModel, build_model
from sightline.models.tokenizer import CorpusTowerTokenizer, DialogueTokenizer, TowerTokenizer, train_tokenizer
from trainer.config import FitConfig

_HEAD_WIDTH = 32


@dataclass(frozen=True, kw_only=True)
class Built:
    """A model and what reads texts for it."""

    model: ZrigfModel
    tower_tokenizer: TowerTokenizer
    dialogue_tokenizer: DialogueTokenizer


def build(config: FitConfig, *, texts: Sequence[str]) -> Built:
    """The recipe's model, randomly initialised from its seed; the same on every worker.

    `texts` train the tokenizer that towers and decoder share.
    """
    tokenizer = train_tokenizer(texts, vocab_size=config.model.vocab_size)
    dialogue = DialogueTokenizer.of_corpus(tokenizer)
    torch.manual_seed(config.seed)
    model = build_model(_zrigf_config(config, tokenizer=dialogue))
    tower = CorpusTowerTokenizer(tokenizer, context_length=config.model.context_length)
    return Built(model=model, tower_tokenizer=tower, dialogue_tokenizer=dialogue)


def _zrigf_config(config: FitConfig, *, tokenizer: DialogueTokenizer) -> ZrigfConfig:
    sizes = config.model
    tower = TowerConfig(
        vocab_size=tokenizer.vocab_size,
        embed_dim=sizes.embed_dim,
        image_size=sizes.image_size,
        patch_size=sizes.patch_size,
        vision_width=sizes.vision_width,
        vision_layers=sizes.vision_layers,
        vision_head_width=_HEAD_WIDTH,
        text_width=sizes.text_width,
        text_layers=sizes.text_layers,
        text_heads=sizes.text_width // _HEAD_WIDTH,
        context_length=sizes.context_length,
    )
    decoder = DecoderConfig(
        vocab_size=tokenizer.vocab_size,
        pad_id=tokenizer.pad_id,
        bos_id=tokenizer.bos_id,
        eos_id=tokenizer.eos_id,
        d_model=sizes.decoder_width,
        encoder_layers=sizes.decoder_layers,
        decoder_layers=sizes.decoder_layers,
        encoder_heads=sizes.decoder_heads,
        decoder_heads=sizes.decoder_heads,
        encoder_ffn=2 * sizes.decoder_width,
        decoder_ffn=2 * sizes.decoder_width,
        context_length=sizes.dialogue_length,
        dropout=sizes.dropout,
    )
    return ZrigfConfig(
        tower=tower,
        decoder=decoder,
        fusion=FusionConfig(heads=sizes.decoder_heads, dropout=sizes.dropout, token_grid=sizes.token_grid),
        masking=MaskingConfig(),
        tamim_weight=config.stage1.tamim_weight,
        label_smoothing=config.stage2.label_smoothing,
    )
