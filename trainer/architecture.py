"""From a recipe's sizes and a corpus to a fresh model with its tokenizers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer

from sightline.errors import CapabilityMissing
from sightline.models.bart import read_bart
from sightline.models.clip_tokenizer import tower_tokenizer_of_tag
from sightline.models.composer import Composer
from sightline.models.config import (
    FAITHFUL,
    DecoderConfig,
    FaithfulTowerConfig,
    FusionConfig,
    MaskingConfig,
    TowerConfig,
    ZrigfConfig,
)
from sightline.models.faithful.tokenizer import BartTowerTokenizer
from sightline.models.faithful.tower import faithful_tower_of
from sightline.models.model import ZrigfModel, build_model
from sightline.models.pretrained import bart_folder, split_tower_name
from sightline.models.release import load_model
from sightline.models.tokenizer import CorpusTowerTokenizer, DialogueTokenizer, TowerTokenizer, train_tokenizer
from sightline.models.towers import tower_config_of_tag
from sightline.registry import Registry
from trainer.config import FitConfig, ModelSettings
from trainer.runs import release_cache

_HEAD_WIDTH = 32


@dataclass(frozen=True, kw_only=True)
class Built:
    """A model and what reads texts for it."""

    model: ZrigfModel
    tower_tokenizer: TowerTokenizer
    dialogue_tokenizer: DialogueTokenizer
    composer: Composer | None = None
    """That of the release it was read from; training the tower takes its space from under it."""


def build(config: FitConfig, *, texts: Sequence[str]) -> Built:
    """The model that a run starts from, the same on every worker.

    With `init_from` it is that release's. Else towers and decoder are what the
    recipe names, pretrained, or of the recipe's sizes and randomly initialised
    from its seed; `texts` train the tokenizer that parts without their own share.
    """
    if config.init_from:
        return released(config.init_from, registry=Registry(config.registry), cache=release_cache(config))
    tokenizer = train_tokenizer(texts, vocab_size=config.model.vocab_size)
    decoder, dialogue_tokenizer = _decoder(config.model, tokenizer=tokenizer)
    tower: TowerConfig | FaithfulTowerConfig
    tower_tokenizer: TowerTokenizer
    if config.model.variant == FAITHFUL:
        tower, tower_weights = _faithful_tower(config.model, decoder=decoder), config.model.tower
        tower_tokenizer = BartTowerTokenizer(dialogue_tokenizer, context_length=tower.context_length)
    else:
        tower, tower_weights, tower_tokenizer = _tower(config.model, tokenizer=tokenizer)
    torch.manual_seed(config.seed)
    model = build_model(
        ZrigfConfig(
            tower=tower,
            decoder=decoder,
            fusion=FusionConfig(
                heads=config.model.decoder_heads,
                dropout=config.model.dropout,
                token_grid=config.model.token_grid,
                start="bart" if config.model.decoder else "open",
                wo_mf=config.model.wo_mf,
                wo_it=config.model.wo_it,
            ),
            masking=MaskingConfig(),
            tim_weight=config.stage1.tim_weight,
            tamim_weight=config.stage1.tamim_weight,
            label_smoothing=config.stage2.label_smoothing,
            preservation_weight=config.stage2.preservation_weight,
        ),
        tower_weights=tower_weights,
        bart=bart_folder(config.model.decoder) if config.model.decoder else None,
    )
    return Built(model=model, tower_tokenizer=tower_tokenizer, dialogue_tokenizer=dialogue_tokenizer)


def released(release_id: str, *, registry: Registry, cache: Path) -> Built:
    """The model of a published release, to train further or to measure. Raises CapabilityMissing if it only encodes."""
    loaded = load_model(registry.fetch(release_id, into=cache))
    if loaded.dialogue_tokenizer is None:
        raise CapabilityMissing(f"{release_id} has towers only; there is no generator to train or measure")
    return Built(
        model=loaded.model,
        tower_tokenizer=loaded.tower_tokenizer,
        dialogue_tokenizer=loaded.dialogue_tokenizer,
        composer=loaded.composer,
    )


def sized_decoder(sizes: ModelSettings, *, dialogue: DialogueTokenizer) -> DecoderConfig:
    """The BART of the recipe's sizes that reads with this tokenizer."""
    return DecoderConfig(
        vocab_size=dialogue.vocab_size,
        pad_id=dialogue.pad_id,
        bos_id=dialogue.bos_id,
        eos_id=dialogue.eos_id,
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


def device_of(model: ZrigfModel) -> torch.device:
    """Where the model lies."""
    return next(model.parameters()).device


def _tower(sizes: ModelSettings, *, tokenizer: Tokenizer) -> tuple[TowerConfig, str, TowerTokenizer]:
    """(configuration, open_clip weights, tokenizer): of the tag that `tower` names, else of the recipe's sizes."""
    if sizes.tower:
        tag, weights = split_tower_name(sizes.tower)
        named = tower_config_of_tag(tag)
        return named, weights, tower_tokenizer_of_tag(tag, context_length=named.context_length)
    sized = TowerConfig(
        vocab_size=tokenizer.get_vocab_size(),
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
    return sized, "", CorpusTowerTokenizer(tokenizer, context_length=sizes.context_length)


def _faithful_tower(sizes: ModelSettings, *, decoder: DecoderConfig) -> FaithfulTowerConfig:
    """Of the ViT folder that `tower` names, else of the recipe's sizes; its texts are read by the decoder's BART."""
    if sizes.tower:
        return faithful_tower_of(Path(sizes.tower), text=decoder, context_length=sizes.context_length)
    return FaithfulTowerConfig(
        text=decoder,
        image_size=sizes.image_size,
        patch_size=sizes.patch_size,
        vision_width=sizes.vision_width,
        vision_layers=sizes.vision_layers,
        vision_heads=sizes.vision_width // _HEAD_WIDTH,
        vision_ffn=4 * sizes.vision_width,
        context_length=sizes.context_length,
    )


def _decoder(sizes: ModelSettings, *, tokenizer: Tokenizer) -> tuple[DecoderConfig, DialogueTokenizer]:
    """(configuration, tokenizer): of the BART that `decoder` names, else of the recipe's sizes."""
    if sizes.decoder:
        folder = bart_folder(sizes.decoder)
        return read_bart(folder, context_length=sizes.dialogue_length)[0], DialogueTokenizer.of_bart(folder)
    dialogue = DialogueTokenizer.of_corpus(tokenizer)
    return sized_decoder(sizes, dialogue=dialogue), dialogue
