"""Multimodal fusion (MF): k pictures and a dialogue become one memory for the decoder."""

# Axes: B dialogues, K pictures, P picture tokens, W token width, L text tokens, M model width, Q queries, S keys.
from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclasses.dataclass(frozen=True, kw_only=True)
class FusedMemory:
    """What the decoder attends to: picture tokens first, text tokens after them."""

    packed: Tensor
    """[B, P + L, M]."""
    mask: Tensor
    """[B, P + L], True where there is something to attend to."""
    num_vision: int
    """P."""
    image_weights: Tensor
    """[B, K] shares of the pictures; they add up to 1, or are all 0 without a picture."""

    def repeat(self, times: int) -> FusedMemory:
        """The memory with each dialogue repeated in place, one row per beam."""
        return dataclasses.replace(
            self,
            packed=self.packed.repeat_interleave(times, dim=0),
            mask=self.mask.repeat_interleave(times, dim=0),
        )


class CrossBlock(nn.Module):
    """A post-norm transformer block of cross attention (ZRIGF's vision_tb and text_tb)."""

    def __init__(self, width: int, *, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))
        self.attention_norm, self.output_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, query_BQM: Tensor, memory_BSM: Tensor, memory_mask_BS: Tensor) -> Tensor:
        """[B, Q, M]: each query after looking at the memory where memory_mask_BS is True.

        A row whose mask is all False attends to nothing: zero is added.
        """
        attended_BQM = self._attend(query_BQM, memory_BSM, memory_mask_BS)
        x_BQM = self.attention_norm(query_BQM + self.dropout(attended_BQM))
        return self.output_norm(x_BQM + self.dropout(self.fc2(F.relu(self.fc1(x_BQM)))))

    def _attend(self, query_BQM: Tensor, memory_BSM: Tensor, memory_mask_BS: Tensor) -> Tensor:
        query, key, value = (
            project(states).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project, states in (
                (self.q_proj, query_BQM),
                (self.k_proj, memory_BSM),
                (self.v_proj, memory_BSM),
            )
        )
        mask_B11S, has_any_B11 = safe_key_mask(memory_mask_BS)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask_B11S)
        return self.out_proj(attended.transpose(1, 2).flatten(2)) * has_any_B11.to(query_BQM.dtype)


def safe_key_mask(mask_BS: Tensor) -> tuple[Tensor, Tensor]:
    """(mask [B, 1, 1, S], has_any [B, 1, 1]): a mask without an all-False row, and which rows had a key.

    A softmax over no key is NaN, forward and backward; so such a row looks at
    everything and the caller multiplies its result by has_any.
    """
    has_any_B1 = mask_BS.any(dim=-1, keepdim=True)
    return (mask_BS | ~has_any_B1)[:, None, None, :], has_any_B1.unsqueeze(-1)


class MultimodalFusion(nn.Module):
    """Fuses pictures by similarity, then lets pictures look at the text and the text at the pictures."""

    def __init__(self, *, token_width: int, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.v2t = nn.Linear(token_width, width, bias=False)
        self.vision_block = CrossBlock(width, heads=heads, dropout=dropout)
        self.text_block = CrossBlock(width, heads=heads, dropout=dropout)
        # The text block is new between two pretrained halves of BART. Closed at
        # the start, its gate leaves BART's own path as it was and opens by training.
        self.text_gate = nn.Parameter(torch.zeros(()))
        self.register_buffer("similarity_scale", torch.tensor(1.0 / 0.07))

    def forward(
        self,
        text_BLM: Tensor,
        *,
        text_mask_BL: Tensor,
        tokens_BKPW: Tensor,
        similarity_BK: Tensor,
        image_mask_BK: Tensor,
    ) -> FusedMemory:
        """The memory of each dialogue; masks are True where there is a token or a picture.

        A dialogue without any picture has zero vision memory, masked out, and
        its text states unchanged.
        """
        weights_BK = self.image_weights(similarity_BK, image_mask_BK)
        fused_BPM = self.v2t(torch.einsum("bk,bkpw->bpw", weights_BK.to(tokens_BKPW.dtype), tokens_BKPW))
        has_image_B1 = image_mask_BK.any(dim=1, keepdim=True)
        vision_mask_BP = has_image_B1.expand(-1, fused_BPM.shape[1])
        vision_BPM = self.vision_block(fused_BPM, text_BLM, text_mask_BL) * has_image_B1.unsqueeze(-1)
        looked_BLM = self.text_block(text_BLM, fused_BPM, vision_mask_BP)
        gate_B11 = torch.tanh(self.text_gate) * has_image_B1.unsqueeze(-1)
        text_BLM = torch.lerp(text_BLM, looked_BLM.to(text_BLM.dtype), gate_B11.to(text_BLM.dtype))
        return FusedMemory(
            packed=torch.cat([vision_BPM, text_BLM], dim=1),
            mask=torch.cat([vision_mask_BP, text_mask_BL], dim=1),
            num_vision=fused_BPM.shape[1],
            image_weights=weights_BK,
        )

    def idle_parameters(self) -> list[nn.Parameter]:
        """The weights that no memory depends on: none, as both blocks look."""
        return []

    def image_weights(self, similarity_BK: Tensor, image_mask_BK: Tensor) -> Tensor:
        """Shares [B, K] in float32: softmax of scale x similarity over the pictures there are, else zeros."""
        has_any_B1 = image_mask_BK.any(dim=1, keepdim=True)
        logits_BK = self.similarity_scale.float() * similarity_BK.float()
        allowed_BK = image_mask_BK | ~has_any_B1
        return F.softmax(logits_BK.masked_fill(~allowed_BK, float("-inf")), dim=1) * has_any_B1


class SummedPictures(MultimodalFusion):
    """MF left out, as the authors' wo_mf does it: V = F, the plain sum over the pictures, and T = H.

    It holds MF's weights all the same: stage 1 paints with v2t and the vision
    block, whatever stage 2 makes of them.
    """

    def forward(
        self,
        text_BLM: Tensor,
        *,
        text_mask_BL: Tensor,
        tokens_BKPW: Tensor,
        similarity_BK: Tensor,
        image_mask_BK: Tensor,
    ) -> FusedMemory:
        """The memory of each dialogue; similarities do not matter, every picture counts the same."""
        shown_BK = image_mask_BK.to(tokens_BKPW.dtype)
        vision_BPM = self.v2t(torch.einsum("bk,bkpw->bpw", shown_BK, tokens_BKPW))
        vision_mask_BP = image_mask_BK.any(dim=1, keepdim=True).expand(-1, vision_BPM.shape[1])
        return FusedMemory(
            packed=torch.cat([vision_BPM, text_BLM], dim=1),
            mask=torch.cat([vision_mask_BP, text_mask_BL], dim=1),
            num_vision=vision_BPM.shape[1],
            image_weights=self.image_weights(similarity_BK, image_mask_BK),
        )

    def idle_parameters(self) -> list[nn.Parameter]:
        """The weights of both blocks and of the text gate."""
        return [*self.vision_block.parameters(), *self.text_block.parameters(), self.text_gate]

    def image_weights(self, similarity_BK: Tensor, image_mask_BK: Tensor) -> Tensor:
        """Equal shares [B, K] of the pictures there are, else zeros."""
        return super().image_weights(torch.zeros_like(similarity_BK), image_mask_BK)


def pool_tokens(tokens_BNW: Tensor, *, grid: int) -> Tensor:
    """Picture tokens average-pooled to grid x grid: [B, grid * grid, W]; unchanged if there are that many already."""
    side = round(tokens_BNW.shape[1] ** 0.5)
    if side == grid:
        return tokens_BNW
    map_BWSS = tokens_BNW.transpose(1, 2).unflatten(2, (side, side))
    return F.adaptive_avg_pool2d(map_BWSS, grid).flatten(2).transpose(1, 2)
