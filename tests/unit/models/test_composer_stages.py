"""The two training modules against slow, obvious code."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sightline.data.keywords import FunctionWordMasker
from sightline.errors import SettingInvalid
from sightline.models.composed_loss import composed_infonce, entropy_weights, same_targets
from sightline.models.composer_config import ComposerConfig, InversionConfig
from sightline.models.composer_stages import CompositionStage, InversionStage
from sightline.models.inversion import smp_loss
from sightline.models.placeholder import masked_ids
from sightline.models.prompted import causal_reader
from tests.unit.models.composing import OWN_TOWER, STAGE_TWO, Room

CAPTION = "a red ball on the sunny beach"


@pytest.fixture(autouse=True)
def _towers_as_they_were(rooms: dict[str, Room]) -> Iterator[None]:
    yield
    for room in rooms.values():
        room.tower.requires_grad_(True).eval()


def unit(*shape: int) -> Tensor:
    return F.normalize(torch.randn(*shape), dim=-1)


@torch.no_grad()
def slow_stage_one(room: Room, stage: InversionStage, *, seed: int) -> float:
    """One caption, written out: mask, blur, invert, read with open_clip's own blocks, compare."""
    text = causal_reader(room.tower)[1].tower
    target = F.normalize(room.tower.model.encode_text(torch.from_numpy(room.tokenizer.tokenize([CAPTION]).ids)), dim=-1)
    torch.manual_seed(seed)
    drawn, share = torch.randn(1, room.tower.dimension), torch.rand(1, 1)
    blurred = target + share * drawn * stage.composer.noise.std_D
    phi = stage.composer.phi.layers
    hidden = F.gelu(phi[0](blurred / blurred.norm() * math.sqrt(room.tower.dimension)))
    pseudo = phi[6](F.gelu(phi[3](hidden)))[0]
    ids = room.tokenizer.tokenize_around([["a", "on the", ""]]).ids[0].tolist()
    words = [pseudo if token == room.tokenizer.placeholder_id else text.token_embedding.weight[token] for token in ids]
    x = torch.stack([word + text.positional_embedding[at] for at, word in enumerate(words)])[None]
    x = text.ln_final(text.transformer(x, attn_mask=text.attn_mask))
    read = F.normalize(x[0, ids.index(max(ids))] @ text.text_projection, dim=-1)
    return sum((a - b) ** 2 for a, b in zip(read.tolist(), target[0].tolist(), strict=True))


def test_stage_one_equals_slow_code_from_caption_to_loss(room: Room) -> None:
    stage = InversionStage(room.composer(ComposerConfig(inversion=InversionConfig(dropout=0.0)))).train()
    stage.composer.noise.measure(unit(50, room.tower.dimension))
    expected = slow_stage_one(room, stage, seed=3)
    caption = FunctionWordMasker().mask(CAPTION)
    ids = torch.from_numpy(masked_ids([caption], tokenizer=room.tokenizer, template=STAGE_TWO.template).ids)
    with torch.no_grad():
        target = room.tower.encode_text(torch.from_numpy(room.tokenizer.tokenize([CAPTION]).ids))
    torch.manual_seed(3)
    assert stage(target, ids).item() == pytest.approx(expected, abs=1e-5)


def test_stage_one_learns_to_bring_captions_back(rooms: dict[str, Room]) -> None:
    room = rooms["corpus"]
    stage = InversionStage(room.composer(ComposerConfig(inversion=InversionConfig(dropout=0.0)))).train()
    captions = [CAPTION, "two blue cats at night", "a photo of a dog"]
    masked = [FunctionWordMasker().mask(text) for text in captions]
    ids = torch.from_numpy(masked_ids(masked, tokenizer=room.tokenizer, template=STAGE_TWO.template).ids)
    target = room.tower.encode_text(torch.from_numpy(room.tokenizer.tokenize(captions).ids)).detach()
    optimizer = torch.optim.AdamW(stage.composer.phi.parameters(), lr=3e-3)
    losses = []
    for _ in range(40):
        losses.append(loss := stage(target, ids))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])


def test_stage_one_takes_no_composer_of_stage_two(rooms: dict[str, Room]) -> None:
    with pytest.raises(SettingInvalid, match="which stage 2 adds"):
        InversionStage(rooms["corpus"].composer(STAGE_TWO))


def test_the_inversion_loss_is_two_minus_two_cosines_and_leaves_the_target_alone() -> None:
    predicted, target = unit(4, 6).requires_grad_(), unit(4, 6).requires_grad_()
    loss = smp_loss(predicted, target)
    loss.backward()
    torch.testing.assert_close(loss, (2 - 2 * (predicted * target).sum(dim=-1)).mean())
    assert target.grad is None


def slow_infonce(query: Tensor, target: Tensor, *, temperature: float, is_same: Tensor, weight: list[float]) -> float:
    count, total = len(query), 0.0
    logit = [[float(query[i] @ target[j]) / temperature for j in range(count)] for i in range(count)]
    for i in range(count):
        row = sum(math.exp(logit[i][j]) for j in range(count) if not is_same[i, j])
        column = sum(math.exp(logit[j][i]) for j in range(count) if not is_same[j, i])
        total += weight[i] * ((math.log(row) - logit[i][i]) + (math.log(column) - logit[i][i])) / 2
    return total / count


def test_the_composed_loss_equals_a_slow_loop() -> None:
    query, target, weight = unit(5, 6), unit(5, 6), torch.tensor([0.5, 1.0, 2.0, 1.0, 0.7])
    is_same = same_targets(torch.tensor([0, 1, 0, 2, 3]), target)
    found = composed_infonce(query, target, temperature=0.2, is_same_MG=is_same, weight_M=weight)
    expected = slow_infonce(query, target, temperature=0.2, is_same=is_same, weight=weight.tolist())
    assert float(found.total) == pytest.approx(expected, abs=1e-5)
    assert found.positive_cosine == pytest.approx(float((query * target).sum(dim=-1).mean()), abs=1e-5)


def test_the_same_target_is_known_by_its_words_or_by_its_vector() -> None:
    target = unit(4, 6)
    target[3] = target[1]
    is_same = same_targets(torch.tensor([0, 1, 0, 3]), target)
    assert is_same.nonzero().tolist() == [[0, 2], [1, 3], [2, 0], [3, 1]]


def test_what_is_asked_of_one_picture_is_told_apart_however_near_the_captions_lie() -> None:
    target = unit(1, 6).repeat(4, 1)
    of_two, words = torch.tensor([0, 1, 0, 1]), torch.tensor([0, 1, 2, 3])
    near = same_targets(words, target, picture_M=of_two)
    assert near.nonzero().tolist() == [[0, 1], [0, 3], [1, 0], [1, 2], [2, 1], [2, 3], [3, 0], [3, 2]]
    equal = same_targets(torch.tensor([0, 1, 0, 3]), unit(4, 6), picture_M=of_two)
    assert equal.nonzero().tolist() == [[0, 2], [2, 0]]


def test_what_one_query_finds_is_no_negative_of_it_however_different_the_captions() -> None:
    query = torch.tensor([0, 1, 2, 2])
    same = same_targets(torch.arange(4), torch.eye(4), picture_M=torch.zeros(4, dtype=torch.long), query_M=query)
    assert same.nonzero().tolist() == [[2, 3], [3, 2]]


def test_two_captions_of_one_picture_cost_a_perfect_composer_nothing() -> None:
    target = F.normalize(torch.tensor([[1.0, 0.008, 0.0], [1.0, -0.008, 0.0], [0.0, 0.0, 1.0]]), dim=-1)
    query = F.normalize(torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]), dim=-1)
    same = same_targets(torch.arange(3), target, picture_M=torch.tensor([0, 0, 1]), query_M=torch.tensor([0, 0, 1]))
    assert composed_infonce(query, target, temperature=0.05, is_same_MG=same).total < 1e-4
    blind = same_targets(torch.arange(3), target, picture_M=torch.tensor([0, 0, 1]))
    assert composed_infonce(query, target, temperature=0.05, is_same_MG=blind).total > 0.4


def test_entropy_weights_stay_within_their_limits_and_favour_the_undecided() -> None:
    target = torch.eye(4)
    query = F.normalize(torch.stack([target[0], target.sum(dim=0), target[2], target[3]]), dim=-1)
    assert entropy_weights(query, target).tolist() == pytest.approx([0.5, 2.0, 0.5, 0.5])


@pytest.mark.parametrize("has_pairs", [True, False])
def test_stage_two_is_the_loss_of_the_doubled_batch(rooms: dict[str, Room], has_pairs: bool) -> None:
    room = rooms["clip"]
    composer = room.composer(STAGE_TWO)
    stage = CompositionStage(composer, parts=("adapter", "prompts"), has_reference_pairs=has_pairs).eval()
    target, source = unit(3, room.tower.dimension), unit(3, room.tower.dimension)
    plain = room.ids(["", "", ""])
    found = stage(room.vectors(), room.ids(), plain, target_BD=target, source_BD=source)
    query = composer(room.vectors(), room.ids())
    if has_pairs:
        query, target = torch.cat([query, composer(room.vectors(), plain)]), torch.cat([target, source])
    torch.testing.assert_close(found.total, composed_infonce(query, target).total)


@pytest.mark.parametrize("config", [STAGE_TWO, OWN_TOWER], ids=["prompts", "own-tower"])
def test_without_anchor_the_branch_that_learns_reads_the_captions_and_is_taught_by_both(
    rooms: dict[str, Room], config: ComposerConfig
) -> None:
    room = rooms["clip"]
    composer = room.composer(config)
    part = "prompts" if composer.prompts is not None else "text_tower"
    stage = CompositionStage(composer, parts=(part,), has_reference_pairs=False)
    captions = torch.from_numpy(room.tokenizer.tokenize([CAPTION, "two blue cats", "a dog at night"]).ids)
    frozen = room.tower.encode_text(captions)
    found = stage(
        room.vectors(), room.ids(), room.ids(["", "", ""]), target_BD=frozen, source_BD=frozen, caption_ids_ML=captions
    )
    query, target = composer(room.vectors(), room.ids()), composer.read_plain(captions)
    torch.testing.assert_close(found.total, composed_infonce(query, target).total)
    learned = tuple(getattr(composer, part).parameters())
    both = torch.autograd.grad(found.total, learned)
    of_queries = torch.autograd.grad(composed_infonce(query, target.detach()).total, learned)
    assert max(float((a - b).abs().max()) for a, b in zip(both, of_queries, strict=True)) > 1e-4


def test_stage_two_weighs_harder_pairs_more_only_if_asked(rooms: dict[str, Room]) -> None:
    room = rooms["clip"]
    composer = room.composer(STAGE_TWO)
    target, source = unit(3, room.tower.dimension), unit(3, room.tower.dimension)
    batch = (room.vectors(), room.ids(), room.ids(["", "", ""]))
    stage = CompositionStage(composer, parts=("prompts",), weighs_by_entropy=True).eval()
    found = stage(*batch, target_BD=target, source_BD=source)
    query, wanted = torch.cat([composer(*batch[:2]), composer(batch[0], batch[2])]), torch.cat([target, source])
    expected = composed_infonce(query, wanted, weight_M=entropy_weights(query, wanted))
    torch.testing.assert_close(found.total, expected.total)
