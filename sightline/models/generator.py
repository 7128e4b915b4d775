"""The dialogue half of ZRIGF: BART with multimodal fusion before, and information transfer inside, its decoder."""

# Axes: B dialogues, L context tokens, T reply tokens, K pictures, P picture tokens, W token width, V vocabulary.
from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BartConfig, BartForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

from sightline.models.config import DecoderConfig, FusionConfig
from sightline.models.fusion import FusedMemory, MultimodalFusion, SummedPictures
from sightline.models.transfer import InfoTransferDecoderLayer, SequentialDecoderLayer

_OPEN_TEXT_GATE = 0.5
"""Where the gate of MF's text block starts if pictures count from the first step: tanh(0.5) is 0.46."""
_SHUT_TEXT_GATE = 10.0
"""Where it stays if MF and IT start as the authors' do: in float32 tanh(10) is 1, and its slope 0."""


class ZrigfGenerator(nn.Module):
    """Dialogue and picture tokens in, a reply out. Fresh and not open, it answers as its BART for any picture."""

    reads_pixels = False
    """Whether the picture tokens it is given are patches of pixels, 0 to 255, rather than a tower's states."""

    def __init__(
        self,
        decoder: DecoderConfig,
        fusion: FusionConfig,
        *,
        token_width: int,
        has_class_token: bool = False,
        label_smoothing: float = 0.0,
        bart: BartForConditionalGeneration | None = None,
    ) -> None:
        super().__init__()
        self.config = decoder
        self.label_smoothing = label_smoothing
        self.num_image_tokens = fusion.token_grid**2
        self.num_vision = self.num_image_tokens + has_class_token
        self.token_width = token_width
        self.fusion = (SummedPictures if fusion.wo_mf else MultimodalFusion)(
            token_width=token_width, width=decoder.d_model, heads=fusion.heads, dropout=fusion.dropout
        )
        self.bart = bart if bart is not None else BartForConditionalGeneration(bart_config(decoder))
        self._insert_transfer_layers(fusion)
        if fusion.start == "open":
            self._open()
        if fusion.start == "random":
            self._scatter()

    @property
    def text_encoder(self) -> nn.Module:
        """BART's encoder; frozen in stage 1, lest TAMIM teach it what pictures look like."""
        return self.bart.model.encoder

    def forward(
        self,
        context_ids_BL: Tensor,
        *,
        context_mask_BL: Tensor,
        tokens_BKPW: Tensor,
        similarity_BK: Tensor,
        image_mask_BK: Tensor,
        labels_BT: Tensor,
    ) -> Tensor:
        """The mean label-smoothed cross-entropy of the replies; label -100 counts nothing."""
        memory = self.remember(
            context_ids_BL,
            context_mask_BL=context_mask_BL,
            tokens_BKPW=tokens_BKPW,
            similarity_BK=similarity_BK,
            image_mask_BK=image_mask_BK,
        )
        return self.reply_loss(memory, labels_BT)

    def reply_loss(self, memory: FusedMemory, labels_BT: Tensor) -> Tensor:
        """The mean label-smoothed cross-entropy of the replies to these memories, a scalar."""
        logits_BTV = self.logits(memory, labels_BT)
        logits_NV = logits_BTV.flatten(0, 1).float()
        return F.cross_entropy(logits_NV, labels_BT.flatten(), label_smoothing=self.label_smoothing)

    def remember(
        self,
        context_ids_BL: Tensor,
        *,
        context_mask_BL: Tensor,
        tokens_BKPW: Tensor,
        similarity_BK: Tensor,
        image_mask_BK: Tensor,
    ) -> FusedMemory:
        """The memory of each dialogue; computed once per reply, whatever its length and number of beams.

        Masks are 1 or True where there is a token or a picture. `similarity_BK`
        holds cosines of dialogue and picture.
        """
        mask_BL = context_mask_BL.bool()
        text_BLM = self.text_encoder(input_ids=context_ids_BL, attention_mask=mask_BL).last_hidden_state
        return self.fusion(
            text_BLM,
            text_mask_BL=mask_BL,
            tokens_BKPW=tokens_BKPW.to(text_BLM.dtype),
            similarity_BK=similarity_BK,
            image_mask_BK=image_mask_BK.bool(),
        )

    def logits(self, memory: FusedMemory, labels_BT: Tensor) -> Tensor:
        """Teacher-forced logits [B, T, V] of the labels; -100 reads as padding."""
        return self.decode(memory, self.shift_right(labels_BT))

    def decode(self, memory: FusedMemory, ids_BT: Tensor, *, cache: Any = None) -> Tensor:
        """Logits [B, T, V] after each decoder id; with a cache, ids_BT are only the new ones."""
        states = self.bart.model.decoder(
            input_ids=ids_BT,
            encoder_hidden_states=memory.packed,
            encoder_attention_mask=memory.mask,
            past_key_values=cache,
            use_cache=cache is not None,
        ).last_hidden_state
        return self.bart.lm_head(states) + self.bart.final_logits_bias

    def shift_right(self, labels_BT: Tensor) -> Tensor:
        """Decoder ids [B, T]: the end-of-text id first, as BART starts, then the labels without their last."""
        start_B1 = torch.full_like(labels_BT[:, :1], self.config.eos_id)
        return torch.cat([start_B1, labels_BT[:, :-1].masked_fill(labels_BT[:, :-1] == -100, self.config.pad_id)], 1)

    def encoder_outputs(self, memory: FusedMemory) -> BaseModelOutput:
        """The memory as transformers' own `generate` takes it; its attention mask is `memory.mask`."""
        return BaseModelOutput(last_hidden_state=memory.packed)

    def checkpoint_activations(self) -> None:
        """Keep the inputs of BART's layers alone for the backward pass and compute the rest again there."""
        self.bart.activation_checkpointing_enable({"use_reentrant": False})

    @torch.no_grad()
    def set_similarity_scale(self, scale: Tensor) -> None:
        """Weigh pictures with the tower's own inverse temperature from now on."""
        self.fusion.similarity_scale.copy_(scale.reshape(()))

    def idle_parameters(self) -> list[nn.Parameter]:
        """The weights that no reply depends on: those of MF or IT where an ablation leaves either out."""
        layers = self.bart.model.decoder.layers
        return [*self.fusion.idle_parameters(), *(p for layer in layers for p in layer.idle_parameters())]

    def _insert_transfer_layers(self, fusion: FusionConfig) -> None:
        kind = SequentialDecoderLayer if fusion.wo_it else InfoTransferDecoderLayer
        layers = self.bart.model.decoder.layers
        for index, layer in enumerate(layers):
            transfer = kind(self.bart.config, layer_idx=index, num_vision=self.num_vision)
            transfer.start_as_bart(
                layer, text_gate_bias=fusion.text_gate_bias, vision_gate_bias=fusion.vision_gate_bias
            )
            layers[index] = transfer

    @torch.no_grad()
    def _open(self) -> None:
        self.fusion.text_gate.fill_(_OPEN_TEXT_GATE)
        for layer in self.bart.model.decoder.layers:
            layer.start_open()

    @torch.no_grad()
    def _scatter(self) -> None:
        self.fusion.text_gate.fill_(_SHUT_TEXT_GATE)
        for layer in self.bart.model.decoder.layers:
            layer.start_random()


def bart_config(config: DecoderConfig) -> BartConfig:
    """The transformers configuration of a decoder."""
    built = BartConfig(
        vocab_size=config.vocab_size,
        d_model=config.d_model,
        encoder_layers=config.encoder_layers,
        decoder_layers=config.decoder_layers,
        encoder_attention_heads=config.encoder_heads,
        decoder_attention_heads=config.decoder_heads,
        encoder_ffn_dim=config.encoder_ffn,
        decoder_ffn_dim=config.decoder_ffn,
        max_position_embeddings=config.max_positions,
        dropout=config.dropout,
        attention_dropout=config.attention_dropout,
        activation_dropout=config.activation_dropout,
        activation_function=config.activation,
        init_std=config.init_std,
        scale_embedding=config.scale_embedding,
        pad_token_id=config.pad_id,
        bos_token_id=config.bos_id,
        eos_token_id=config.eos_id,
        decoder_start_token_id=config.eos_id,
        forced_eos_token_id=None,
    )
    built._attn_implementation = "sdpa"
    return built
