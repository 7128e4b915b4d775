"""Information transfer (IT): a BART decoder layer that looks at text and pictures side by side."""

# Axes: B dialogues, T reply tokens, P picture tokens, L text tokens, S = P + L, M model width.
from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import BartConfig
from transformers.models.bart.modeling_bart import BartAttention, BartDecoderLayer

_NEW_PARTS = ("vision_attn", "vision_attn_layer_norm", "text_gate", "vision_gate", "mix")


class InfoTransferDecoderLayer(BartDecoderLayer):
    """Stands in for a BartDecoderLayer whose memory is packed as [P picture tokens | L text tokens].

    Self attention, then text and picture attention from the same state, each
    through a sigmoid gate of [attended ; state], mixed by one linear map of
    [state ; text ; picture], then BART's feed-forward (ZRIGF, 7.4).
    """

    def __init__(self, config: BartConfig, *, layer_idx: int, num_vision: int) -> None:
        super().__init__(config, layer_idx=layer_idx)
        width = config.d_model
        self.num_vision = num_vision
        # An index of its own past the text layers keeps the pictures' keys in the same cross-attention cache.
        self.vision_attn = BartAttention(
            width,
            config.decoder_attention_heads,
            dropout=config.attention_dropout,
            is_decoder=True,
            config=config,
            layer_idx=config.decoder_layers + layer_idx,
        )
        self.vision_attn_layer_norm = nn.LayerNorm(width)
        self.text_gate, self.vision_gate = nn.Linear(2 * width, width), nn.Linear(2 * width, width)
        self.mix = nn.Linear(3 * width, width)

    @torch.no_grad()
    def start_as_bart(self, layer: BartDecoderLayer, *, text_gate_bias: float, vision_gate_bias: float) -> None:
        """Take over `layer` so that the output equals its own: pictures are attended to, but not yet mixed in."""
        self.load_state_dict(layer.state_dict(), strict=False)
        self.vision_attn.load_state_dict(layer.encoder_attn.state_dict())
        self.vision_attn_layer_norm.load_state_dict(layer.encoder_attn_layer_norm.state_dict())
        for gate, bias in ((self.text_gate, text_gate_bias), (self.vision_gate, vision_gate_bias)):
            nn.init.zeros_(gate.weight)
            nn.init.constant_(gate.bias, bias)
        width = self.embed_dim
        nn.init.zeros_(self.mix.weight)
        nn.init.zeros_(self.mix.bias)
        # Dividing by the gate makes the start exact, so that the gate need not be saturated to be harmless.
        open_share = torch.sigmoid(torch.tensor(text_gate_bias, device="cpu")).item()
        self.mix.weight[:, width : 2 * width] = torch.eye(width) / open_share

    @torch.no_grad()
    def start_open(self) -> None:
        """Let half of the state, the text and the pictures through alike: for a layer that was never trained."""
        for gate in (self.text_gate, self.vision_gate):
            nn.init.zeros_(gate.weight)
            nn.init.zeros_(gate.bias)
        half = torch.eye(self.embed_dim) / 2
        # A closed-half gate lets 0.5 of what it guards through, so its share of the mix is doubled.
        self.mix.weight.copy_(torch.cat([half, 2 * half, 2 * half], dim=1))
        nn.init.zeros_(self.mix.bias)

    @torch.no_grad()
    def start_random(self) -> None:
        """Start pictures, gates and mix as the authors do: at torch's own random weights, BART's path lost."""
        fresh = InfoTransferDecoderLayer(self.self_attn.config, layer_idx=0, num_vision=self.num_vision)
        for name in _NEW_PARTS:
            getattr(self, name).load_state_dict(getattr(fresh, name).state_dict())

    def idle_parameters(self) -> list[nn.Parameter]:
        """The weights that no output depends on: none, as text and pictures are gated and mixed."""
        return []

    def forward(  # noqa: PLR0917
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool | None = True,
        **_: Any,
    ) -> Tensor:
        """[B, T, M]; the names are those that transformers' decoder calls a layer by."""
        assert encoder_hidden_states is not None, "information transfer needs a memory"
        attended, _weights = self.self_attn(
            hidden_states, past_key_values=past_key_values, attention_mask=attention_mask
        )
        state_BTM = self.self_attn_layer_norm(hidden_states + self._drop(attended))
        seen_BTM = self._transfer(state_BTM, encoder_hidden_states, encoder_attention_mask, past_key_values)
        return self._feed_forward(seen_BTM)

    def _transfer(self, state_BTM: Tensor, memory_BSM: Tensor, mask: Tensor | None, cache: Any) -> Tensor:
        text_BTM = self._gated(self.text_gate, self._look_at_text(state_BTM, memory_BSM, mask, cache), state_BTM)
        looked_BTM, has_picture_B11 = self._look_at_pictures(state_BTM, memory_BSM, mask, cache)
        vision_BTM = self._gated(self.vision_gate, looked_BTM, state_BTM)
        if has_picture_B11 is not None:
            vision_BTM = vision_BTM * has_picture_B11
        return self.mix(torch.cat([state_BTM, text_BTM, vision_BTM], dim=-1))

    def _look_at_text(self, state_BTM: Tensor, memory_BSM: Tensor, mask: Tensor | None, cache: Any) -> Tensor:
        attended_BTM, _weights = self.encoder_attn(
            state_BTM,
            key_value_states=memory_BSM[:, self.num_vision :],
            attention_mask=None if mask is None else mask[..., self.num_vision :],
            past_key_values=cache,
        )
        return self.encoder_attn_layer_norm(state_BTM + self._drop(attended_BTM))

    def _look_at_pictures(
        self, state_BTM: Tensor, memory_BSM: Tensor, mask: Tensor | None, cache: Any
    ) -> tuple[Tensor, Tensor | None]:
        """(state after the pictures [B, T, M], which rows have a picture or None if all have)."""
        vision_mask, has_picture_B11 = _vision_mask(mask, num_vision=self.num_vision)
        attended_BTM, _weights = self.vision_attn(
            state_BTM,
            key_value_states=memory_BSM[:, : self.num_vision],
            attention_mask=vision_mask,
            past_key_values=cache,
        )
        return self.vision_attn_layer_norm(state_BTM + self._drop(attended_BTM)), has_picture_B11

    def _gated(self, gate: nn.Linear, attended_BTM: Tensor, state_BTM: Tensor) -> Tensor:
        return attended_BTM * torch.sigmoid(gate(torch.cat([attended_BTM, state_BTM], dim=-1)))

    def _feed_forward(self, x_BTM: Tensor) -> Tensor:
        inner = nn.functional.dropout(self.activation_fn(self.fc1(x_BTM)), self.activation_dropout, self.training)
        return self.final_layer_norm(x_BTM + self._drop(self.fc2(inner)))

    def _drop(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x, p=self.dropout, training=self.training)


class SequentialDecoderLayer(InfoTransferDecoderLayer):
    """IT left out, as the authors' wo_it does it: text attention, then picture attention, each with its residual.

    The gates and the mixing layer are held but not used, so that every other
    weight starts as it does with IT. A dialogue without a picture skips the
    picture attention.
    """

    def idle_parameters(self) -> list[nn.Parameter]:
        """The weights of the gates and of the mixing layer."""
        return [p for part in (self.text_gate, self.vision_gate, self.mix) for p in part.parameters()]

    def _transfer(self, state_BTM: Tensor, memory_BSM: Tensor, mask: Tensor | None, cache: Any) -> Tensor:
        text_BTM = self._look_at_text(state_BTM, memory_BSM, mask, cache)
        looked_BTM, has_picture_B11 = self._look_at_pictures(text_BTM, memory_BSM, mask, cache)
        return looked_BTM if has_picture_B11 is None else torch.where(has_picture_B11, looked_BTM, text_BTM)


def _vision_mask(mask: Tensor | None, *, num_vision: int) -> tuple[Tensor | None, Tensor | None]:
    """(mask of the pictures without an all-hidden row, which rows have a picture), from a boolean [B, 1, T, S]."""
    if mask is None:
        return None, None
    assert mask.dtype == torch.bool, "information transfer runs on scaled dot product attention"
    vision = mask[..., :num_vision]
    has_any = vision.any(dim=-1, keepdim=True)
    return vision | ~has_any, has_any[:, 0]
