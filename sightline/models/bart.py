"""Checkpoints of the BART family as decoders: every weight found, or a refusal that says why."""

from __future__ import annotations

import json
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from transformers import BartConfig, BartForConditionalGeneration

from sightline.errors import SettingInvalid
from sightline.models.config import DecoderConfig

_BEFORE = "it normalises before each block, where information transfer, as BART, normalises after"
_POSITIONS = "its positions are fixed sinusoids, where information transfer reads BART's learned ones"
REFUSED = {
    "t5": f"{_BEFORE}, scores positions inside attention, and has neither biases nor means in its norms",
    "mt5": f"{_BEFORE}, scores positions inside attention, and has neither biases nor means in its norms",
    "umt5": f"{_BEFORE}, scores positions inside attention, and has neither biases nor means in its norms",
    "longt5": f"{_BEFORE}, and its encoder attends to blocks",
    "mbart": _BEFORE,
    "m2m_100": _BEFORE,
    "pegasus": _BEFORE,
    "blenderbot": _BEFORE,
    "blenderbot-small": "its tokenizer and start of reply are its own",
    "marian": _POSITIONS,
    "led": "its encoder attends to windows",
}
"""Families that look alike and cannot carry information transfer: a decoder would not start out as its own."""

_TIED = {"lm_head.weight", "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight"}
_ZERO_BY_DEFAULT = {"final_logits_bias"}


def read_bart(folder: Path, *, context_length: int = 128) -> tuple[DecoderConfig, BartForConditionalGeneration]:
    """The BART of a checkpoint folder, saved from the plain or from the language-model class.

    Reads safetensors, else a `pytorch_model.bin` of tensors alone. Raises
    SettingInvalid if the folder holds no BART, a file would have to run code to
    be read, or weights are missing: a decoder is never left random in silence.
    """
    _check_family(folder)
    try:
        model, info = BartForConditionalGeneration.from_pretrained(
            str(folder), local_files_only=True, weights_only=True, output_loading_info=True, dtype=torch.float32
        )
    except (UnpicklingError, EOFError) as error:
        message = f"{folder}: weights torn, or more than tensors; a file that runs code is never read"
        raise SettingInvalid(message) from error
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise SettingInvalid(f"{folder}: no BART checkpoint whose weights can be read: {error}") from error
    _check_whole(folder, config=model.config, missing=info["missing_keys"], mismatched=info["mismatched_keys"])
    model.config._attn_implementation = "sdpa"
    return _described(model.config, context_length=context_length), model


def _check_family(folder: Path) -> None:
    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise SettingInvalid(f"{folder}: no BART checkpoint: config.json: {error}") from error
    if kind != "bart":
        reason = REFUSED.get(kind, "only the BART family carries information transfer")
        raise SettingInvalid(f"{folder}: got a checkpoint of the {kind!r} family, expected 'bart': {reason}")


def _check_whole(folder: Path, *, config: BartConfig, missing: set[str], mismatched: set[object]) -> None:
    absent = sorted(set(missing) - _ZERO_BY_DEFAULT - _TIED)
    if absent or mismatched:
        raise SettingInvalid(
            f"{folder}: {len(absent)} weights of BART are missing, {absent[:3]} among them; "
            f"{len(mismatched)} have another shape"
        )
    if not config.tie_word_embeddings:
        raise SettingInvalid(f"{folder}: its output layer is not tied to its embedding, as BART's is")
    if config.decoder_start_token_id != config.eos_token_id:
        raise SettingInvalid(
            f"{folder}: replies start from id {config.decoder_start_token_id}, as BART's from end of text, "
            f"{config.eos_token_id}, is expected"
        )


def _described(config: BartConfig, *, context_length: int) -> DecoderConfig:
    return DecoderConfig(
        vocab_size=config.vocab_size,
        pad_id=config.pad_token_id,
        bos_id=config.bos_token_id,
        eos_id=config.eos_token_id,
        d_model=config.d_model,
        encoder_layers=config.encoder_layers,
        decoder_layers=config.decoder_layers,
        encoder_heads=config.encoder_attention_heads,
        decoder_heads=config.decoder_attention_heads,
        encoder_ffn=config.encoder_ffn_dim,
        decoder_ffn=config.decoder_ffn_dim,
        max_positions=config.max_position_embeddings,
        context_length=min(context_length, config.max_position_embeddings),
        dropout=float(config.dropout),
        attention_dropout=float(config.attention_dropout),
        activation_dropout=float(config.activation_dropout),
        activation=config.activation_function,
        init_std=config.init_std,
        scale_embedding=bool(config.scale_embedding),
    )
