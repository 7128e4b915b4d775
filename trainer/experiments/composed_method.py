"""Composed retrieval in one drawing: `python -m trainer.experiments.composed_method --out docs/composed-retrieval.svg`.

Names, sizes and parameter counts are read off composers for towers of ViT-L/14's size, built without memory for their
weights, and what is frozen off the objectives that the trainer minimises with its default settings.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from sightline.models.clip_tokenizer import CLIP_PLACEHOLDER_ID
from sightline.models.composer import Composer
from sightline.models.composer_config import ComposerConfig
from sightline.models.prompted import PromptedText, causal_reader, prompted_picture
from sightline.models.towers import DualEncoder, build_tower, tower_config_of_tag
from trainer.composing.recipes import FOLDER_COMPOSED
from trainer.experiments.composed_drawing import ComposedParts, composed_drawing
from trainer.experiments.method_parts import Part, count_of, part_of
from trainer.stages.alignment import AlignmentObjective
from trainer.stages.inversion import LincirObjective

TAG = "ViT-L-14"
"""The architecture that papers on composed retrieval report."""


@dataclass(frozen=True, kw_only=True)
class ComposedMethod:
    """Towers and the stages that train a composer on them."""

    tower: DualEncoder
    first: LincirObjective
    second: AlignmentObjective
    """As the settings are: an adapter, which needs no pixels."""
    deep: AlignmentObjective
    """With prompts in the picture tower in the adapter's place."""


def composed_method() -> ComposedMethod:
    """The stages of `compose folder-composed` over fresh towers, on the meta device: shapes and counts, no weights."""
    inversion, alignment = FOLDER_COMPOSED.inversion, FOLDER_COMPOSED.alignment
    deep = replace(alignment, picture_side="deep")
    first = ComposerConfig(inversion=inversion.network())
    with torch.device("meta"):
        # Without its tag the tower is built here and now from what open_clip says of it: nothing is loaded.
        tower = build_tower(replace(tower_config_of_tag(TAG), tag=""))
        return ComposedMethod(
            tower=tower,
            first=LincirObjective(_composer(first, tower=tower)),
            second=AlignmentObjective(_composer(alignment.composer(first), tower=tower), settings=alignment),
            deep=AlignmentObjective(_composer(deep.composer(first), tower=tower), settings=deep),
        )


def first_parts(method: ComposedMethod) -> dict[str, Part]:
    """The boxes of stage 1: all that it trains or reads."""
    return {
        "text": _text_part(method.tower, within=method.first),
        "phi": _phi_part(method.first.stage.composer, within=method.first),
    }


def second_parts(method: ComposedMethod) -> dict[str, Part]:
    """The boxes of stage 2 as its settings are: all of the composer, and of the towers all but the temperature."""
    composer, within = method.second.stage.composer, method.second
    adapter, prompts = composer.adapter, composer.prompts
    assert adapter is not None, "the settings have an adapter"
    assert prompts is not None, "the settings have prompts"
    assert prompts.text is not None, "the settings have prompts in the text tower"
    size = f"{adapter.down.in_features}, {adapter.down.out_features}, {adapter.up.out_features}"
    return {
        "picture": _picture_part(method.tower, within=within),
        "adapter": part_of("adapter", size, adapter.parameters(), within=within),
        "phi": _phi_part(composer, within=within),
        "text_prompts": part_of("text prompts", _prompt_size(prompts.text), [prompts.text], within=within),
        "text": _text_part(method.tower, within=within),
    }


def picture_prompts(method: ComposedMethod) -> Part:
    """What stands in the adapter's place where the picture tower has prompts."""
    prompts = method.deep.stage.composer.prompts
    assert prompts is not None, "the settings have prompts"
    assert prompts.picture is not None, "the settings have prompts in the picture tower"
    return part_of("picture prompts", _prompt_size(prompts.picture), [prompts.picture], within=method.deep)


def composed_svg() -> str:
    """The drawing, byte for byte the same for the same model."""
    method = composed_method()
    composer = method.second.stage.composer
    (share,) = set(method.second.rates().values())
    return composed_drawing(
        ComposedParts(
            tag=TAG,
            image_size=method.tower.preprocess.image_size,
            dimension=method.tower.dimension,
            num_tower_parameters=count_of(method.tower.parameters()),
            num_trained=count_of(each for each in composer.parameters() if each.requires_grad),
            template=composer.config.template,
            noise_scale=method.first.stage.composer.noise.scale,
            temperature=method.second.stage.temperature,
            phi_rate=share,
            first=first_parts(method),
            second=second_parts(method),
            picture_prompts=picture_prompts(method),
        )
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the drawing."""
    parser = argparse.ArgumentParser(
        prog="python -m trainer.experiments.composed_method", description="draw composed retrieval as SVG"
    )
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    parser.parse_args(arguments).out.write_text(composed_svg(), encoding="utf-8")


def _composer(config: ComposerConfig, *, tower: DualEncoder) -> Composer:
    return Composer(config, tower=tower, placeholder_id=CLIP_PLACEHOLDER_ID, embedding_space_id="drawn")


def _phi_part(composer: Composer, *, within: nn.Module) -> Part:
    linears = [layer for layer in composer.phi.layers if isinstance(layer, nn.Linear)]
    size = ", ".join(str(width) for width in (linears[0].in_features, *(each.out_features for each in linears)))
    return part_of("phi", size, composer.phi.parameters(), within=within)


def _text_part(tower: DualEncoder, *, within: nn.Module) -> Part:
    side = PromptedText(causal_reader(tower)[1], placeholder_id=CLIP_PLACEHOLDER_ID)
    size = f"{side.num_blocks} layers, {side.width} wide"
    return part_of("text tower", size, _tower_parameters(tower, is_visual=False), within=within)


def _picture_part(tower: DualEncoder, *, within: nn.Module) -> Part:
    side = prompted_picture(tower)
    size = f"{side.num_blocks} layers, {side.width} wide"
    return part_of("picture tower", size, _tower_parameters(tower, is_visual=True), within=within)


def _tower_parameters(tower: DualEncoder, *, is_visual: bool) -> list[nn.Parameter]:
    """Those of one side; the temperature is of neither."""
    named = [(name, value) for name, value in tower.model.named_parameters() if name != "logit_scale"]
    return [value for name, value in named if name.startswith("visual.") == is_visual]


def _prompt_size(prompts: torch.Tensor) -> str:
    depth, number = prompts.shape[-3:-1]
    return f"{number} tokens in {depth} blocks"


if __name__ == "__main__":
    main()
