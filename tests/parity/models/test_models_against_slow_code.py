"""The models' fast code against slow and obvious code, forward and backward, on sizes that do not divide."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import pytest
import torch
from torch import Tensor, nn
from transformers import BartConfig

from sightline.models.fusion import CrossBlock, MultimodalFusion
from sightline.models.tamim import masked_l1
from sightline.models.tim import matching_loss
from sightline.models.transfer import InfoTransferDecoderLayer

TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture(autouse=True)
def _torch_seeded() -> None:
    torch.manual_seed(0)


def gradients(loss: Tensor, leaves: Iterable[Tensor]) -> list[Tensor]:
    found = torch.autograd.grad(loss, list(leaves), allow_unused=True, retain_graph=True)
    return [torch.zeros(()) if gradient is None else gradient for gradient in found]


def assert_same(fast: Tensor, slow: Tensor, *, leaves: Iterable[Tensor]) -> None:
    """Equal values, and equal gradients of a random projection of them."""
    leaves = list(leaves)
    torch.testing.assert_close(fast, slow, **TOLERANCE)
    probe = torch.randn(fast.shape, dtype=fast.dtype)
    for one, other in zip(
        gradients((fast * probe).sum(), leaves), gradients((slow * probe).sum(), leaves), strict=True
    ):
        torch.testing.assert_close(one, other, **TOLERANCE)


def slow_attention(
    query_M: Tensor, keys: list[Tensor], *, heads: int, project: Callable[[str, Tensor], Tensor]
) -> Tensor:
    """One query over a list of keys, head by head."""
    if not keys:
        return torch.zeros_like(query_M)
    width = query_M.shape[0] // heads
    parts = []
    for head in range(heads):
        own = slice(head * width, (head + 1) * width)
        query = project("q", query_M)[own]
        scores = torch.stack([query @ project("k", key)[own] / math.sqrt(width) for key in keys])
        shares = scores.exp() / scores.exp().sum()
        parts.append(
            sum((share * project("v", key)[own] for share, key in zip(shares, keys, strict=True)), torch.zeros(width))
        )
    return project("out", torch.cat(parts))


def slow_norm(norm: nn.LayerNorm, x_M: Tensor) -> Tensor:
    centred = x_M - x_M.mean()
    return norm.weight * centred / torch.sqrt(centred.square().mean() + norm.eps) + norm.bias


def slow_cross_block(block: CrossBlock, query_M: Tensor, keys: list[Tensor]) -> Tensor:
    def project(name: str, value: Tensor) -> Tensor:
        layer = getattr(block, f"{name}_proj")
        return layer.weight @ value + layer.bias

    x = slow_norm(block.attention_norm, query_M + slow_attention(query_M, keys, heads=block.heads, project=project))
    inner = (block.fc1.weight @ x + block.fc1.bias).clamp(min=0)
    return slow_norm(block.output_norm, x + block.fc2.weight @ inner + block.fc2.bias)


def slow_fusion(
    fusion: MultimodalFusion, text_LM: list[Tensor], pictures: list[list[Tensor]], scores: list[Tensor], places: int
) -> tuple[list[Tensor], list[Tensor]]:
    """(picture states, text states) of one dialogue without any padding."""
    if not pictures:
        return [torch.zeros(text_LM[0].shape)] * places, text_LM
    exponents = [(fusion.similarity_scale * score).exp() for score in scores]
    shares = [exponent / sum(exponents) for exponent in exponents]
    fused = [
        fusion.v2t.weight @ sum(share * picture[place] for share, picture in zip(shares, pictures, strict=True))
        for place in range(places)
    ]
    vision = [slow_cross_block(fusion.vision_block, query, text_LM) for query in fused]
    gate = torch.tanh(fusion.text_gate)
    looked = [slow_cross_block(fusion.text_block, query, fused) for query in text_LM]
    return vision, [(1 - gate) * old + gate * new for old, new in zip(text_LM, looked, strict=True)]


def test_fusion_equals_fusing_dialogue_by_dialogue() -> None:
    fusion = MultimodalFusion(token_width=5, width=6, heads=3, dropout=0.1).eval()
    nn.init.constant_(fusion.text_gate, 0.6)
    fusion.similarity_scale.fill_(3.0)
    text, tokens = torch.randn(3, 7, 6, requires_grad=True), torch.randn(3, 4, 9, 5, requires_grad=True)
    similarity = torch.rand(3, 4, requires_grad=True)
    text_mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3, [1] * 5 + [0] * 2]).bool()
    image_mask = torch.tensor([[1, 1, 1, 1], [1, 0, 1, 0], [0, 0, 0, 0]]).bool()
    memory = fusion(
        text, text_mask_BL=text_mask, tokens_BKPW=tokens, similarity_BK=similarity, image_mask_BK=image_mask
    )
    slow, fast = [], []
    for row in range(3):
        chosen = image_mask[row].nonzero().flatten().tolist()
        vision, words = slow_fusion(
            fusion,
            list(text[row][text_mask[row]]),
            [list(tokens[row, k]) for k in chosen],
            [similarity[row, k] for k in chosen],
            places=9,
        )
        slow += [*vision, *words]
        fast += [*memory.packed[row, :9], *memory.packed[row, 9:][text_mask[row]]]
    assert_same(torch.stack(fast), torch.stack(slow), leaves=[text, tokens, similarity, *fusion.parameters()])


def slow_matching(text: Tensor, image: Tensor, ids: list[int], scale: Tensor) -> Tensor:
    total = torch.zeros((), dtype=text.dtype)
    for anchors, others in ((text, image), (image, text)):
        for row in range(len(ids)):
            rivals = [c for c in range(len(ids)) if c == row or ids[c] != ids[row]]
            exponents = {c: (scale * (anchors[row] @ others[c])).exp() for c in rivals}
            total = total - (exponents[row] / sum(exponents.values())).log()
    return total / (2 * len(ids))


@pytest.mark.parametrize("ids", [[0, 1, 2, 3, 4, 5, 6], [0, 1, 1, 2, 0, 3, 0]])
def test_matching_loss_equals_counting_pair_by_pair(ids: list[int]) -> None:
    text, image = (torch.randn(7, 5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    scale = torch.tensor(2.5, dtype=torch.float64, requires_grad=True)
    unit = [nn.functional.normalize(value, dim=-1) for value in (text, image)]
    fast = matching_loss(*unit, pair_ids_B=torch.tensor(ids), logit_scale=scale)
    assert_same(fast, slow_matching(*unit, ids, scale), leaves=[text, image, scale])


def test_masked_error_equals_counting_pixel_by_pixel() -> None:
    pixels, painted = torch.randn(2, 3, 9, 9), torch.randn(2, 3, 9, 9, requires_grad=True)
    mask = torch.rand(2, 9) < 0.4
    errors = [
        (pixels[b, c, y, x] - painted[b, c, y, x]).abs()
        for b in range(2)
        for c in range(3)
        for y in range(9)
        for x in range(9)
        if mask[b, (y // 3) * 3 + x // 3]
    ]
    fast = masked_l1(pixels, painted, mask_BN=mask)
    assert_same(fast, torch.stack(errors).mean(), leaves=[painted])


def slow_transfer(
    layer: InfoTransferDecoderLayer, states: list[Tensor], vision: list[Tensor], text: list[Tensor]
) -> list[Tensor]:
    """The equations of information transfer, reply token by reply token."""

    def attend(module: nn.Module, query: Tensor, keys: list[Tensor]) -> Tensor:
        def project(name: str, value: Tensor) -> Tensor:
            part = getattr(module, f"{name}_proj")
            return part.weight @ value + part.bias

        return slow_attention(query, keys, heads=module.num_heads, project=project)

    def gate(linear: nn.Linear, attended: Tensor, state: Tensor) -> Tensor:
        return attended / (1 + (-(linear.weight @ torch.cat([attended, state]) + linear.bias)).exp())

    results = []
    for step, before in enumerate(states):
        h = slow_norm(layer.self_attn_layer_norm, before + attend(layer.self_attn, before, states[: step + 1]))
        c = slow_norm(layer.encoder_attn_layer_norm, h + attend(layer.encoder_attn, h, text))
        c = gate(layer.text_gate, c, h)
        v = torch.zeros_like(h)
        if vision:
            v = slow_norm(layer.vision_attn_layer_norm, h + attend(layer.vision_attn, h, vision))
            v = gate(layer.vision_gate, v, h)
        z = layer.mix.weight @ torch.cat([h, c, v]) + layer.mix.bias
        inner = nn.functional.gelu(layer.fc1.weight @ z + layer.fc1.bias)
        results.append(slow_norm(layer.final_layer_norm, z + layer.fc2.weight @ inner + layer.fc2.bias))
    return results


def test_information_transfer_equals_its_equations() -> None:
    config = BartConfig(d_model=6, decoder_layers=1, decoder_attention_heads=3, decoder_ffn_dim=10, dropout=0.1)
    config._attn_implementation = "sdpa"
    layer = InfoTransferDecoderLayer(config, layer_idx=0, num_vision=4).eval()
    states, memory = torch.randn(2, 5, 6, requires_grad=True), torch.randn(2, 4 + 7, 6, requires_grad=True)
    mask = torch.ones(2, 11, dtype=torch.bool)
    mask[0, 9:] = False  # a shorter text
    mask[1, :4] = False  # no picture
    causal = torch.ones(5, 5, dtype=torch.bool).tril().expand(2, 1, 5, 5)
    fast = layer(states, causal, memory, mask[:, None, None, :].expand(2, 1, 5, 11))
    slow = [
        slow_transfer(
            layer, list(states[row]), list(memory[row, :4][mask[row, :4]]), list(memory[row, 4:][mask[row, 4:]])
        )
        for row in range(2)
    ]
    assert_same(fast, torch.stack([torch.stack(row) for row in slow]), leaves=[states, memory, *layer.parameters()])
