"""The drawing of composed retrieval says what the modules are: every parameter in a box, and who is trained."""

from __future__ import annotations

from itertools import chain

import pytest
import torch
from open_clip.model import CLIP
from torch import nn

from sightline.models.pretrained import model_config_of
from trainer.composing.recipes import FOLDER_COMPOSED
from trainer.experiments.composed_method import (
    TAG,
    ComposedMethod,
    composed_method,
    composed_svg,
    first_parts,
    picture_prompts,
    second_parts,
)
from trainer.experiments.method_parts import Part

TEMPERATURE = 1
"""The one number of the towers that stands in no box."""


@pytest.fixture(scope="module")
def method() -> ComposedMethod:
    return composed_method()


def size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def total(parts: dict[str, Part], *, is_trained: bool) -> int:
    return sum(part.num_parameters for part in parts.values() if part.is_trained is is_trained)


def test_the_towers_are_those_that_open_clip_builds_by_that_name(method: ComposedMethod) -> None:
    values = model_config_of(TAG)
    with torch.device("meta"):
        theirs = CLIP(values["embed_dim"], values["vision_cfg"], values["text_cfg"])
    shapes, expected = (
        {name: each.shape for name, each in model.named_parameters()} for model in (method.tower.model, theirs)
    )
    assert shapes == expected


def test_the_boxes_of_stage_one_add_up_to_phi_which_is_all_it_trains(method: ComposedMethod) -> None:
    parts = first_parts(method)
    assert [name for name, part in parts.items() if part.is_trained] == ["phi"]
    assert total(parts, is_trained=True) == size(method.first)


def test_the_boxes_of_stage_two_add_up_to_composer_and_towers(method: ComposedMethod) -> None:
    parts = second_parts(method)
    assert total(parts, is_trained=True) == size(method.second)
    assert total(parts, is_trained=False) + TEMPERATURE == size(method.tower)


def test_stage_two_trains_no_tower(method: ComposedMethod) -> None:
    assert [name for name, part in second_parts(method).items() if not part.is_trained] == ["picture", "text"]
    held = chain(method.first.parameters(), method.second.parameters(), method.deep.parameters())
    assert {id(each) for each in held}.isdisjoint({id(each) for each in method.tower.parameters()})


def test_prompts_of_the_picture_tower_stand_in_the_adapters_place(method: ComposedMethod) -> None:
    parts, prompts = second_parts(method), picture_prompts(method)
    assert prompts.is_trained
    kept = parts["phi"].num_parameters + parts["text_prompts"].num_parameters
    assert kept + prompts.num_parameters == size(method.deep)
    assert kept + parts["adapter"].num_parameters == size(method.second)


def test_the_drawing_says_what_is_trained_and_how(method: ComposedMethod) -> None:
    drawn, settings = composed_svg(), FOLDER_COMPOSED.alignment
    for words in (
        f"{size(method.tower):,} parameters; stage 2 trains {size(method.second):,}",
        "24 layers, 1024 wide",
        "768, 3072, 3072, 768",
        f"{settings.num_prompts} tokens in 9 blocks",
        f"temperature {settings.temperature:g}",
        f"rate x {settings.phi_rate:g}",
        method.second.stage.composer.config.template,
    ):
        assert words in drawn
