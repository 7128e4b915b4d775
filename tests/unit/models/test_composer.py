"""The composer whole: what it ignores, what it refuses, what learns, and that the towers stay as they are."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from sightline.errors import CapabilityMissing, SettingInvalid
from sightline.models.composer import Composer, grown
from sightline.models.composer_config import INVERSIONS, ComposerConfig, InversionConfig, PromptConfig
from sightline.models.inversion import FeatureNoise, TextualInversion
from sightline.models.prompted import causal_reader
from sightline.models.weights import unique_state
from tests.unit.models.composing import CONFIGS, COUPLED_EXPERTS, DEEP, OWN_TOWER, STAGE_ONE, STAGE_TWO, Room


@pytest.fixture(autouse=True)
def _towers_as_they_were(rooms: dict[str, Room]) -> Iterator[None]:
    yield
    for room in rooms.values():
        room.tower.requires_grad_(True).eval()


@pytest.fixture(params=list(CONFIGS))
def config(request: pytest.FixtureRequest) -> ComposerConfig:
    return CONFIGS[request.param]


def lively(composer: Composer) -> Composer:
    """The composer with its adapter and prompts as if they had learned something."""
    for parameter in composer.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.2)
    return composer


def digest(module: nn.Module) -> str:
    found = hashlib.sha256()
    for name, tensor in sorted(unique_state(module).items()):
        found.update(name.encode() + tensor.numpy().tobytes())
    return found.hexdigest()


@torch.no_grad()
def test_a_batch_in_another_order_gives_the_same_vectors(room: Room, config: ComposerConfig) -> None:
    composer, order = lively(room.composer(config)), [2, 0, 1]
    vectors = composer(room.pixels, room.ids())
    torch.testing.assert_close(composer(room.pixels[order], room.ids()[order]), vectors[order], atol=1e-6, rtol=0)
    torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(3))


@torch.no_grad()
def test_what_stands_behind_the_end_of_text_changes_nothing(room: Room, config: ComposerConfig) -> None:
    composer, ids = lively(room.composer(config)), room.ids()
    end = int(ids[0].argmax())
    other = ids.clone()
    other[0, end + 1 :] = room.tokenizer.placeholder_id
    torch.testing.assert_close(composer(room.pixels, other), composer(room.pixels, ids), atol=1e-6, rtol=0)


@torch.no_grad()
def test_an_empty_edit_asks_for_a_photo_of_the_reference(room: Room, config: ComposerConfig) -> None:
    composer = lively(room.composer(config))
    written = torch.from_numpy(room.tokenizer.tokenize_around([["a photo of", ""]]).ids)
    found = composer(room.pixels[:1], room.ids([" . "]))
    assert torch.equal(found, composer(room.pixels[:1], written))


@torch.no_grad()
def test_a_stored_vector_is_as_good_a_reference_as_its_pixels(room: Room) -> None:
    composer = lively(room.composer(STAGE_TWO))
    assert torch.equal(composer(room.vectors(), room.ids()), composer(room.pixels, room.ids()))


def test_a_stored_vector_is_no_reference_for_deep_prompts(rooms: dict[str, Room]) -> None:
    room = rooms["corpus"]
    composer = room.composer(DEEP)
    assert composer.needs_pixels
    with pytest.raises(CapabilityMissing, match="it needs the picture"):
        composer(room.vectors(), room.ids())


@torch.no_grad()
def test_mixed_precision_changes_hardly_anything(rooms: dict[str, Room], config: ComposerConfig) -> None:
    room = rooms["clip"]
    composer = lively(room.composer(config))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = composer(room.pixels, room.ids())
    assert (mixed * composer(room.pixels, room.ids())).sum(dim=-1).min() > 0.999


@torch.no_grad()
def test_stage_two_begins_exactly_where_stage_one_ended(room: Room) -> None:
    """A fresh adapter, a text tower of its own, no prompts; prompts of any number start elsewhere, by their nature."""
    stage_one = lively(room.composer(STAGE_ONE))
    without_dropout = dataclasses.replace(STAGE_ONE.inversion, dropout=0.0)
    for config in (
        dataclasses.replace(STAGE_TWO, prompts=PromptConfig(num_prompts=0)),
        dataclasses.replace(STAGE_ONE, inversion=without_dropout),
        ComposerConfig(text_side="prompts", picture_side="deep", prompts=PromptConfig(num_prompts=0)),
        OWN_TOWER,
    ):
        stage_two = grown(stage_one, config=config, tokenizer=room.tokenizer).eval()
        assert torch.equal(stage_two(room.pixels, room.ids()), stage_one(room.pixels, room.ids()))


def test_growing_keeps_what_stage_one_measured_and_refuses_another_phi(rooms: dict[str, Room]) -> None:
    room = rooms["corpus"]
    stage_one = room.composer(STAGE_ONE)
    stage_one.noise.measure(room.vectors())
    assert torch.equal(grown(stage_one, config=STAGE_TWO, tokenizer=room.tokenizer).noise.std_D, stage_one.noise.std_D)
    other = ComposerConfig(inversion=INVERSIONS["pic2word"])
    with pytest.raises(SettingInvalid, match="stage 1 trained"):
        grown(stage_one, config=other, tokenizer=room.tokenizer)


@pytest.mark.parametrize(
    ("config", "had", "parts"),
    [
        (STAGE_TWO, ("phi", "adapter", "prompts"), ("phi",)),
        (STAGE_TWO, ("phi", "adapter", "prompts"), ("adapter", "prompts")),
        (STAGE_TWO, ("phi", "adapter", "prompts"), ("phi", "adapter", "prompts")),
        (OWN_TOWER, ("phi", "text_tower"), ("text_tower",)),
    ],
)
def test_only_the_listed_parts_learn_and_the_towers_never(
    rooms: dict[str, Room], config: ComposerConfig, had: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    room = rooms["corpus"]
    composer = room.composer(config)
    composer.train_only(*parts)
    composer.train()
    towers, before = digest(room.tower), {part: digest(getattr(composer, part)) for part in had}
    optimizer = torch.optim.AdamW([p for p in composer.parameters() if p.requires_grad], lr=0.1)
    composer(room.vectors(), room.ids()).sum().backward()
    graded = {name.split(".")[0] for name, p in composer.named_parameters() if p.grad is not None}
    optimizer.step()
    assert graded == set(parts)
    assert all(parameter.grad is None for parameter in room.tower.parameters())
    assert digest(room.tower) == towers
    assert {part for part in had if digest(getattr(composer, part)) != before[part]} == set(parts)
    assert {name for name in had if getattr(composer, name).training} == set(parts)
    assert not room.tower.training


@pytest.mark.parametrize("config", [DEEP, COUPLED_EXPERTS], ids=["deep", "coupled"])
def test_gradients_reach_the_prompts_through_both_towers(rooms: dict[str, Room], config: ComposerConfig) -> None:
    room = rooms["clip"]
    composer = room.composer(config)
    composer.train_only("prompts")
    composer(room.pixels, room.ids()).pow(3).sum().backward()
    assert composer.prompts is not None
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in composer.prompts.parameters())


def test_a_part_that_is_not_there_cannot_be_trained(rooms: dict[str, Room]) -> None:
    with pytest.raises(SettingInvalid, match="got 'adapter', this composer has phi"):
        rooms["corpus"].composer(STAGE_ONE).train_only("adapter")


def test_the_towers_are_no_part_of_the_composer(rooms: dict[str, Room]) -> None:
    composer = rooms["corpus"].composer(STAGE_TWO)
    assert {name.split(".")[0] for name in composer.state_dict()} == {"noise", "phi", "adapter", "prompts"}


@torch.no_grad()
def test_a_text_tower_of_its_own_is_the_towers_copy_of_the_text_side_alone(room: Room) -> None:
    composer = room.composer(OWN_TOWER)
    assert composer.text_tower is not None
    plain, ids = room.tower.encode_text(room.ids()), room.ids()
    assert torch.equal(composer.read_plain(ids), plain)
    lively(composer)
    assert (composer.read_plain(ids) - plain).abs().max() > 0.01
    assert torch.equal(room.tower.encode_text(ids), plain)
    own, all_of_it = (sum(p.numel() for p in module.parameters()) for module in (composer.text_tower, room.tower))
    assert own == all_of_it - sum(p.numel() for p in room.tower.model.visual.parameters()) - 1, "but the temperature"


@torch.no_grad()
def test_a_text_without_pseudo_word_is_read_with_the_prompts_of_queries(room: Room) -> None:
    composer, ids = lively(room.composer(STAGE_TWO)), room.ids()
    words = causal_reader(room.tower)[1].tower.token_embedding.weight[room.tokenizer.placeholder_id]
    assert torch.equal(composer.read_plain(ids), composer.read(ids, words.expand(len(ids), -1)))


@pytest.mark.parametrize(("method", "millions"), [("lincir", 14.16), ("searle", 14.16), ("pic2word", 1.05)])
def test_phi_of_every_method_has_the_published_size_on_vit_l_14(method: str, millions: float) -> None:
    with torch.device("meta"):
        phi = TextualInversion(INVERSIONS[method], dimension=768, width=768)
    assert round(sum(parameter.numel() for parameter in phi.parameters()) / 1e6, 2) == millions


def test_noise_has_the_encoders_spread_and_keeps_unit_length() -> None:
    vectors = torch.nn.functional.normalize(torch.randn(4000, 6) * torch.tensor([1.0, 2.0, 0.1, 1.0, 1.0, 1.0]), dim=-1)
    noise = FeatureNoise(6, scale=0.01).train()
    noise.measure(vectors)
    moved = noise(vectors) - vectors
    torch.testing.assert_close(noise(vectors).norm(dim=-1), torch.ones(4000))
    # u is uniform, so that the mean of u² is a third; what normalising takes away lies along the vector.
    across = moved - (moved * vectors).sum(dim=-1, keepdim=True) * vectors
    expected = 0.01 * (vectors.std(dim=0) ** 2).sum().sqrt() / 3**0.5
    assert 0.7 * expected < across.pow(2).sum(dim=-1).mean().sqrt() < expected
    assert torch.equal(noise.eval()(vectors), vectors)


def test_a_configuration_comes_back_from_its_json(config: ComposerConfig) -> None:
    assert ComposerConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"template": "a photo that {edit}"}, "expected one \\$"),
        ({"template": "{edit} of $"}, "behind it one"),
        ({"picture_side": "both"}, "got 'both'"),
        ({"prompts": PromptConfig(coupling="linear")}, "coupling linear: needs"),
        ({"prompts": PromptConfig(num_experts=2)}, "no prompts to mix"),
    ],
)
def test_a_configuration_without_sense_is_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(SettingInvalid, match=message):
        ComposerConfig(**values)  # type: ignore[arg-type]


def test_an_unknown_key_and_an_impossible_phi_are_refused() -> None:
    with pytest.raises(SettingInvalid, match="unknown key 'tune_phi'"):
        ComposerConfig.from_json(STAGE_ONE.to_json().replace('"text_side"', '"tune_phi"'))
    with pytest.raises(SettingInvalid, match=r"dropout: got 1\.0"):
        InversionConfig(dropout=1.0)
