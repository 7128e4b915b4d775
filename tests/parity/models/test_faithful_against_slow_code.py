"""The faithful variant's layers against slow and obvious code, forward and backward, padded or not, k = 1, 3, 5."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from sightline.models.config import DecoderConfig, FaithfulTowerConfig, FusionConfig
from sightline.models.faithful.generator import FaithfulGenerator
from sightline.models.faithful.patches import cut_patches
from sightline.models.faithful.preservation import PreservationLoss
from sightline.models.faithful.tower import FaithfulTower
from sightline.models.tamim import PixelHead, TextAssistedMIM
from tests.parity.models.test_models_against_slow_code import (
    assert_same,
    slow_attention,
    slow_cross_block,
    slow_norm,
    slow_transfer,
)

SIDE, GRID, DIALOGUES, VOCABULARY = 2, 2, 2, 11
LENGTHS = (5, 3)
PADDINGS, IMAGES = [0, 20], [1, 3, 5]


@pytest.fixture
def generator() -> FaithfulGenerator:
    torch.manual_seed(0)
    decoder = DecoderConfig(
        vocab_size=VOCABULARY,
        pad_id=0,
        bos_id=1,
        eos_id=2,
        d_model=6,
        encoder_layers=1,
        decoder_layers=1,
        encoder_heads=3,
        decoder_heads=3,
        encoder_ffn=8,
        decoder_ffn=10,
        max_positions=40,
        context_length=38,
        init_std=0.3,
    )
    tower = FaithfulTowerConfig(
        text=decoder, image_size=SIDE * GRID, patch_size=SIDE, vision_width=4, vision_layers=1, vision_heads=2,
        vision_ffn=5, context_length=38,
    )  # fmt: skip
    built = FaithfulGenerator(decoder, FusionConfig(token_grid=GRID, heads=3, start="open"), tower=tower).eval()
    for parameter in built.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return built


def pictures(k: int) -> Tensor:
    return torch.randint(0, 256, (DIALOGUES, k, 3, SIDE * GRID, SIDE * GRID), dtype=torch.uint8)


def dialogues(padding: int) -> tuple[Tensor, Tensor]:
    """(ids, mask) of texts of different lengths, and as many columns of padding behind them as asked for."""
    ids = torch.zeros(DIALOGUES, max(LENGTHS) + padding, dtype=torch.long)
    for row, length in enumerate(LENGTHS):
        ids[row, :length] = torch.randint(3, VOCABULARY, (length,))
    return ids, ids != 0


def slow_vit(tower: FaithfulTower, picture: Tensor, *, hidden: list[bool], token: Tensor | None = None) -> list[Tensor]:
    """The states of one uint8 picture [3, H, W], class token first, patch by patch."""
    vit = tower.vit
    pixels = picture.float() / 255 * 2 - 1
    weight, bias = vit.embeddings.patch_embeddings.projection.weight, vit.embeddings.patch_embeddings.projection.bias
    states = [vit.embeddings.cls_token[0, 0]]
    for place in range(GRID * GRID):
        top, left = place // GRID * SIDE, place % GRID * SIDE
        patch = pixels[:, top : top + SIDE, left : left + SIDE]
        seen = torch.stack([(row * patch).sum() for row in weight]) + bias
        states.append(token if hidden[place] and token is not None else seen)
    states = [state + vit.embeddings.position_embeddings[0, place] for place, state in enumerate(states)]
    for layer in vit.layers:
        states = slow_vit_layer(layer, states)
    return [slow_norm(vit.layernorm, state) for state in states]


def slow_vit_layer(layer: nn.Module, states: list[Tensor]) -> list[Tensor]:
    names = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "out": "o_proj"}

    def project(name: str, value: Tensor) -> Tensor:
        part = getattr(layer.attention, names[name])
        return part.weight @ value + part.bias

    normed = [slow_norm(layer.layernorm_before, state) for state in states]
    heads = layer.attention.config.num_attention_heads
    attended = [slow_attention(query, normed, heads=heads, project=project) for query in normed]
    states = [state + change for state, change in zip(states, attended, strict=True)]
    return [state + slow_mlp(layer.mlp, slow_norm(layer.layernorm_after, state)) for state in states]


def slow_mlp(mlp: nn.Module, x: Tensor) -> Tensor:
    inner = mlp.fc1.weight @ x + mlp.fc1.bias
    inner = inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))
    return mlp.fc2.weight @ inner + mlp.fc2.bias


def slow_vector(pooled: Tensor) -> Tensor:
    return pooled / pooled.square().sum().sqrt()


def slow_image_vector(tower: FaithfulTower, states: list[Tensor]) -> Tensor:
    pooler = tower.vit.pooler.dense
    return slow_vector(tower.v2t.weight @ torch.tanh(pooler.weight @ states[0] + pooler.bias))


def slow_text_vector(tower: FaithfulTower, states: Tensor) -> Tensor:
    return slow_vector(torch.tanh(tower.text_pooler.weight @ states[0] + tower.text_pooler.bias))


def slow_memory(generator: FaithfulGenerator, ids: Tensor, shown: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """(picture states, text states) of one dialogue without padding and its pictures."""
    reader, fusion = generator.reader, generator.fusion
    text = generator.text_encoder(input_ids=ids[None]).last_hidden_state[0]
    states = [slow_vit(reader, picture, hidden=[False] * GRID**2) for picture in shown]
    query = slow_text_vector(reader, text)
    exponents = [(reader.log_scale.exp() * (query @ slow_image_vector(reader, each))).exp() for each in states]
    shares = [exponent / sum(exponents) for exponent in exponents]
    fused = [
        sum(share * (reader.v2t.weight @ each[place]) for share, each in zip(shares, states, strict=True))
        for place in range(1 + GRID**2)
    ]
    vision = [slow_cross_block(fusion.vision_block, each, list(text)) for each in fused]
    gate = torch.tanh(fusion.text_gate)
    looked = [slow_cross_block(fusion.text_block, each, fused) for each in text]
    return vision, [(1 - gate) * old + gate * new for old, new in zip(text, looked, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("k", IMAGES)
def test_the_memory_equals_reading_dialogue_by_dialogue(generator: FaithfulGenerator, padding: int, k: int) -> None:
    ids, mask = dialogues(padding)
    shown = pictures(k)
    memory = generator.remember(
        ids,
        context_mask_BL=mask,
        tokens_BKPW=cut_patches(shown.flatten(0, 1), side=SIDE).unflatten(0, (DIALOGUES, k)).float(),
        similarity_BK=torch.zeros(DIALOGUES, k),
        image_mask_BK=torch.ones(DIALOGUES, k),
    )
    fast, slow = [], []
    for row in range(DIALOGUES):
        vision, words = slow_memory(generator, ids[row][mask[row]], shown[row])
        slow += [*vision, *words]
        fast += list(memory.packed[row][memory.mask[row]])
    leaves = [*generator.reader.parameters(), *generator.fusion.parameters()]
    assert_same(torch.stack(fast), torch.stack(slow), leaves=leaves)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("k", IMAGES)
def test_information_transfer_over_padded_memory_equals_its_equations(
    generator: FaithfulGenerator, padding: int, k: int
) -> None:
    layer = generator.bart.model.decoder.layers[0]
    states = torch.randn(DIALOGUES, 5, 6, requires_grad=True)
    memory = torch.randn(DIALOGUES, 1 + GRID**2 + max(LENGTHS) + padding, 6, requires_grad=True)
    mask = torch.zeros(memory.shape[:2], dtype=torch.bool)
    for row, length in enumerate(LENGTHS):
        mask[row, : 1 + GRID**2 + length] = True
    if k == 1:
        mask[1, : 1 + GRID**2] = False  # a dialogue without a picture
    causal = torch.ones(5, 5, dtype=torch.bool).tril().expand(DIALOGUES, 1, 5, 5)
    fast = layer(states, causal, memory, mask[:, None, None, :].expand(DIALOGUES, 1, 5, -1))
    slow = []
    for row in range(DIALOGUES):
        seen, cut = mask[row], 1 + GRID**2
        vision, text = memory[row, :cut][seen[:cut]], memory[row, cut:][seen[cut:]]
        slow.append(torch.stack(slow_transfer(layer, list(states[row]), list(vision), list(text))))
    assert_same(fast, torch.stack(slow), leaves=[states, memory, *layer.parameters()])


@pytest.mark.parametrize("padding", PADDINGS)
def test_stage_one_vectors_equal_reading_item_by_item(generator: FaithfulGenerator, padding: int) -> None:
    tower = generator.reader
    ids, mask = dialogues(padding)
    shown = pictures(1)[:, 0]
    fast = torch.stack([tower.encode_text(ids), tower.encode_image(shown)[0]])
    texts = [tower.text(input_ids=row[keep][None]).last_hidden_state[0] for row, keep in zip(ids, mask, strict=True)]
    slow_texts = [slow_text_vector(tower, text) for text in texts]
    images = [slow_image_vector(tower, slow_vit(tower, picture, hidden=[False] * GRID**2)) for picture in shown]
    assert_same(fast, torch.stack([torch.stack(slow_texts), torch.stack(images)]), leaves=tower.parameters())


@pytest.mark.parametrize("padding", PADDINGS)
def test_painting_equals_painting_pixel_by_pixel(generator: FaithfulGenerator, padding: int) -> None:
    tower, block = generator.reader, generator.fusion.vision_block
    head = PixelHead(width=6, token_width=4, patch_pixels=SIDE, has_mask_token=True)
    assert head.mask_token_W is not None
    nn.init.normal_(head.mask_token_W)
    painter = TextAssistedMIM(v2t=tower.v2t, vision_block=block, head=head).eval()
    ids, mask = dialogues(padding)
    shown = pictures(1)[:, 0]
    target = torch.tensor([[1, 1, 0, 0], [0, 1, 0, 1]]).bool()
    hidden = torch.tensor([[1, 0, 0, 0], [0, 1, 0, 1]]).bool()
    text = tower.read_text(ids)[0]
    fast = painter(tower, shown, type("Masks", (), {"target": target, "hidden": hidden})(), text, mask)[0]
    errors = []
    for row in range(DIALOGUES):
        states = slow_vit(tower, shown[row], hidden=hidden[row].tolist(), token=head.mask_token_W)
        words = list(tower.text(input_ids=ids[row][mask[row]][None]).last_hidden_state[0])
        for place in range(GRID**2):
            if target[row, place]:
                fused = slow_cross_block(block, tower.v2t.weight @ states[1 + place], words)
                values = head.to_pixels.weight[:, :, 0, 0] @ (head.t2v.weight @ fused) + head.to_pixels.bias
                top, left = place // GRID * SIDE, place % GRID * SIDE
                truth = shown[row, :, top : top + SIDE, left : left + SIDE].float() / 255 * 2 - 1
                errors.append((truth.flatten() - values).abs())
    leaves = [*tower.parameters(), *block.parameters(), *head.parameters()]
    assert_same(fast, torch.cat(errors).mean(), leaves=leaves)


def slow_preservation(
    text: Tensor, image: Tensor, ids: list[list[int]], shown: list[list[bool]], scale: Tensor, bias: Tensor
) -> Tensor:
    """Context by context, picture by picture."""
    losses = []
    for context in range(len(text)):
        own = {ids[context][slot] for slot in range(len(ids[0])) if shown[context][slot]}
        for other in range(len(text)):
            for slot in range(len(ids[0])):
                if not shown[other][slot] or (other != context and ids[other][slot] in own):
                    continue
                chance = 1 / (1 + (-(scale * (text[context] @ image[other, slot]) + bias)).exp())
                losses.append(-(chance if other == context else 1 - chance).log())
    return torch.stack(losses).mean()


@pytest.mark.parametrize("k", IMAGES)
@pytest.mark.parametrize("kind", ["all different", "shared", "some missing"])
def test_preservation_equals_counting_pair_by_pair(k: int, kind: str) -> None:
    torch.manual_seed(k)
    contexts = 4
    loss = PreservationLoss().double()
    nn.init.constant_(loss.bias, -1.3)
    text, image = (
        torch.randn(*shape, 5, dtype=torch.float64, requires_grad=True) for shape in ((contexts,), (contexts, k))
    )
    scale = torch.tensor(2.5, dtype=torch.float64, requires_grad=True)
    ids = (
        torch.arange(contexts * k).view(contexts, k) if kind == "all different" else torch.randint(0, 5, (contexts, k))
    )
    shown = torch.ones(contexts, k, dtype=torch.bool)
    if kind == "some missing":
        shown[1], shown[2, 0] = False, False
    unit = [nn.functional.normalize(value, dim=-1) for value in (text, image)]
    fast = loss(*unit, image_ids_BK=ids, image_mask_BK=shown, logit_scale=scale)
    slow = slow_preservation(*unit, ids.tolist(), shown.tolist(), scale, loss.bias)
    assert_same(fast, slow, leaves=[text, image, scale, loss.bias])
