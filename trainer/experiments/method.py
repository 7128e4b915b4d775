"""The method in one drawing: `python -m trainer.experiments.method --out docs/zrigf.svg`.

Names, sizes and parameter counts are read off a faithful model of the published size, built without memory for its
weights, and what is frozen off the modules that the two stages train.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from sightline.models.config import published_config
from sightline.models.faithful.generator import FaithfulGenerator
from sightline.models.faithful.stage import FaithfulContrastiveStage
from sightline.models.faithful.tower import FaithfulTower
from sightline.models.model import ZrigfModel, build_model
from trainer.config import GenerativeSettings
from trainer.experiments.drawing import Box, Drawing, Line
from trainer.experiments.method_parts import (
    COMPUTED,
    FROZEN,
    GIVEN,
    LOSS,
    ROW,
    Columns,
    Part,
    count_of,
    draw_label,
    draw_legend,
    draw_panel,
    draw_part,
    draw_plain,
    is_trained,
    part_of,
    share_of,
    shown_count,
    times,
)
from trainer.stages.generative import GenerativeObjective

WIDTH, HEIGHT = 1120.0, 784.0
_NEW_IN_A_LAYER = ("vision_attn", "vision_attn_layer_norm", "text_gate", "vision_gate", "mix")


@dataclass(frozen=True, kw_only=True)
class Method:
    """The model as its two stages train it."""

    model: ZrigfModel
    tower: FaithfulTower
    generator: FaithfulGenerator
    first: FaithfulContrastiveStage
    second: GenerativeObjective


def published_method() -> Method:
    """Both stages over a model of the published size, on the meta device: shapes and counts, no weights."""
    with torch.device("meta"):
        model = build_model(published_config())
    assert isinstance(model.tower, FaithfulTower), "the published model is faithful"
    assert isinstance(model.generator, FaithfulGenerator), "the published model is faithful"
    return Method(
        model=model,
        tower=model.tower,
        generator=model.generator,
        first=FaithfulContrastiveStage(model),
        second=GenerativeObjective(model),
    )


def first_parts(method: Method) -> dict[str, Part]:
    """The boxes of stage 1: all that it trains or reads, but for the temperature."""
    tower, painter, within = method.tower, method.first.painter, method.first
    width = f"{tower.dimension} wide"
    return {
        **_reader_parts(tower, within=within),
        "look": part_of("vision block", width, painter.vision_block.parameters(), within=within),
        "head": part_of(
            "pixel head", f"t2v, {tower.patch_pixels}x{tower.patch_pixels} px", painter.head.parameters(), within=within
        ),
    }


def second_parts(method: Method) -> dict[str, Part]:
    """The boxes of stage 2: the whole generator, but for three numbers (temperature, text gate, preservation bias)."""
    generator, within = method.generator, method.second
    fusion, decoder = generator.fusion, generator.bart.model.decoder
    new = sum(count_of(getattr(layer, name).parameters()) for layer in decoder.layers for name in _NEW_IN_A_LAYER)
    width = f"{generator.reader.dimension} wide"
    return {
        **_reader_parts(generator.reader, within=within),
        "vision": part_of("vision block", width, fusion.vision_block.parameters(), within=within),
        "text": part_of("text block", width, fusion.text_block.parameters(), within=within),
        "decoder": Part(
            name="decoder",
            size=f"{len(decoder.layers)} layers of BART",
            num_parameters=count_of(generator.bart.parameters()) - count_of(generator.text_encoder.parameters()) - new,
            is_trained=is_trained(decoder.layers.parameters(), within=within),
        ),
        "transfer": Part(
            name="IT",
            size="attention, gates, mix",
            num_parameters=new,
            is_trained=is_trained(decoder.layers.parameters(), within=within),
        ),
    }


def method_svg() -> str:
    """The drawing, byte for byte the same for the same model."""
    method = published_method()
    drawing = Drawing(
        width=WIDTH,
        height=HEIGHT,
        title="ZRIGF in two stages",
        description=(
            "Stage 1 matches pictures with captions and paints hidden patches with a caption's help. Its towers,"
            " frozen, find the pictures of stage 2, whose fusion and decoder answer a dialogue."
        ),
    )
    total = count_of(method.generator.parameters())
    draw_legend(
        drawing,
        "ZRIGF in two stages",
        note=f"the faithful variant at the published size: {total:,} parameters in stage 2",
        note_x=262,
        units="M: million parameters, embeddings included",
    )
    _draw_first(drawing, method=method)
    _draw_second(drawing, method=method)
    _draw_between(drawing, method=method)
    return drawing.svg()


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the drawing."""
    parser = argparse.ArgumentParser(prog="python -m trainer.experiments.method", description="draw ZRIGF as SVG")
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    parser.parse_args(arguments).out.write_text(method_svg(), encoding="utf-8")


def _reader_parts(reader: FaithfulTower, *, within: nn.Module) -> dict[str, Part]:
    vit, text = reader.vit.config, reader.text.config
    text_size = f"{text.encoder_layers} layers, {text.d_model} wide"
    return {
        "vit": part_of(
            f"ViT/{vit.patch_size}",
            f"{vit.num_hidden_layers} layers, {vit.hidden_size} wide",
            reader.vit.parameters(),
            within=within,
        ),
        "v2t": part_of(
            "v2t", f"{reader.v2t.in_features} to {reader.v2t.out_features}", reader.v2t.parameters(), within=within
        ),
        "bart": part_of("BART encoder", text_size, reader.text.parameters(), within=within),
        "pooler": part_of("text pooler", "linear, tanh", reader.text_pooler.parameters(), within=within),
    }


def _draw_first(drawing: Drawing, *, method: Method) -> None:
    stage, parts = method.first, first_parts(method)
    draw_panel(
        drawing,
        Box(x=20, y=86, width=1080, height=282),
        title="Stage 1: captioned pictures",
        loss=f"L = {times(stage.tim_weight)}TIM + {times(stage.tamim_weight)}TAMIM",
    )
    shown, hidden, said = 126.0, 204.0, 296.0
    side = method.tower.preprocess.image_size
    draw_plain(drawing, _at("given", shown), f"picture|{side} x {side} px", style=GIVEN)
    draw_plain(drawing, _at("given", hidden), f"masked|{stage.masks.num_masked} of {stage.masks.side**2} cells")
    draw_plain(drawing, _at("given", said), "its caption")
    vit, v2t = (_at(column, shown, height=hidden + ROW - shown) for column in ("read", "map"))
    look, head, bart = _at("fuse", hidden), _at("look", hidden), _at("read", said)
    pooler = _at("look", said)
    for name, box in (("vit", vit), ("v2t", v2t), ("look", look), ("head", head), ("bart", bart), ("pooler", pooler)):
        draw_part(drawing, box, parts[name])
    matching = _at("end", shown, height=said + ROW - shown)
    painting = _at("decode", hidden)
    draw_plain(drawing, matching, "TIM|who belongs|to whom", style=LOSS)
    draw_plain(drawing, painting, "TAMIM|L1 on the pixels|of hidden cells", style=LOSS)
    for row, (y, share) in enumerate(((shown, share_of(vit, shown)), (hidden, share_of(vit, hidden)))):
        drawing.arrow(_at("given", y).right(), vit.left(share))
        drawing.arrow(vit.right(share), v2t.left(share))
        drawing.arrow(v2t.right(share), matching.left(share_of(matching, shown)) if row == 0 else look.left())
    drawing.arrow(look.right(), head.left())
    drawing.arrow(head.right(), painting.left())
    drawing.arrow(_at("given", said).right(), bart.left())
    drawing.arrow(bart.right(), pooler.left())
    drawing.arrow((look.x + look.width / 2, said + ROW / 2), look.bottom())
    drawing.arrow(pooler.right(), matching.left(share_of(matching, said)))
    draw_label(drawing, "e_v", (matching.x - 34, shown + ROW / 2))
    draw_label(drawing, "e_t", (matching.x - 34, said + ROW / 2))
    draw_label(drawing, "states of the caption", (look.x + look.width / 2 + 8, said + ROW / 2 - 6))


def _draw_between(drawing: Drawing, *, method: Method) -> None:
    """What passes from stage 1 to stage 2."""
    index = Box(x=36, y=388, width=396, height=46)
    count = (
        f"{shown_count(count_of(method.tower.parameters()))}, never changed again: they make the index and search it"
    )
    lines = [Line(text="the towers of stage 1", size=13, is_bold=True), Line(text=count, size=11)]
    drawing.box(index, lines, style=FROZEN)
    drawing.arrow((index.x + 52, 368), index.top(52 / index.width))
    drawing.arrow(index.bottom(52 / index.width), (index.x + 52, 454))
    drawing.arrow((620, 368), (620, 454))
    drawing.text(Line(text="copied once: ViT, BART encoder, poolers, v2t, temperature", size=12), (632, 406))
    drawing.text(Line(text="handed on as it is: vision block", size=12), (632, 424))


def _draw_second(drawing: Drawing, *, method: Method) -> None:
    parts = second_parts(method)
    weight = times(method.generator.preservation_weight)
    draw_panel(
        drawing,
        Box(x=20, y=454, width=1080, height=312),
        title="Stage 2: dialogues without pictures",
        loss=f"L = L_LM + {weight}L_pres",
    )
    seen, shared, said = 496.0, 592.0, 692.0
    pictures, context = _at("given", seen), _at("given", said)
    draw_plain(drawing, pictures, "k pictures|nearest to it")
    draw_plain(drawing, context, "dialogue|so far")
    vit, v2t, fused, vision = (_at(column, seen) for column in ("read", "map", "fuse", "look"))
    bart, text, pooler = _at("read", said), _at("look", said), _at("map", shared)
    for name, box in (("vit", vit), ("v2t", v2t), ("vision", vision), ("bart", bart), ("text", text)):
        draw_part(drawing, box, parts[name])
    draw_part(drawing, pooler, parts["pooler"])
    decoder = _at("decode", shared - 42, height=2 * ROW + 28)
    drawing.box(
        decoder,
        [*parts["decoder"].lines(), Line(text="", size=8), *parts["transfer"].lines()],
        style=parts["decoder"].style(),
    )
    draw_plain(drawing, fused, "F = sum of a_j U_j|a = softmax(s e_t e_v)", style=COMPUTED)
    preservation = Box(x=fused.x + 40, y=shared, width=fused.width - 28, height=ROW)
    draw_plain(drawing, preservation, "L_pres|e_t still finds e_v", style=LOSS)
    reply = _at("end", shared)
    draw_plain(drawing, reply, "L_LM|the reply", style=LOSS)
    for before, after in ((pictures, vit), (vit, v2t), (v2t, fused), (context, bart), (decoder, reply)):
        drawing.arrow(before.right(), after.left())
    _draw_crossing(drawing, fused=fused, vision=vision, bart=bart, text=text)
    drawing.arrow((pooler.x + pooler.width / 2, said + ROW * 0.7), pooler.bottom())
    drawing.arrow(pooler.right(), (fused.x + 16, shared + ROW / 2), (fused.x + 16, seen + ROW))
    drawing.arrow((preservation.x + 52, seen + ROW), (preservation.x + 52, shared))
    drawing.arrow(vision.right(), (decoder.x + decoder.width / 2, seen + ROW / 2), decoder.top())
    drawing.arrow(text.right(), (decoder.x + decoder.width / 2, said + ROW / 2), decoder.bottom())
    drawing.arrow(context.top(), pictures.bottom(), is_dashed=True)
    given = GenerativeSettings()
    draw_label(drawing, "searches; training shows", (context.x + context.width / 2 + 8, shared + 26))
    draw_label(drawing, f"1 to {given.num_images} of the {given.num_candidates} nearest", (96, shared + 42))
    draw_label(drawing, "U_j, e_v", (v2t.x + v2t.width + 4, seen + ROW / 2))
    draw_label(drawing, "e_t", (pooler.x + pooler.width + 14, shared + ROW / 2))
    draw_label(drawing, "H", (bart.x + bart.width + 10, said + ROW * 0.7))
    draw_label(drawing, "V", (vision.x + vision.width + 14, seen + ROW / 2))
    draw_label(drawing, "T", (text.x + text.width + 14, said + ROW / 2))


def _draw_crossing(drawing: Drawing, *, fused: Box, vision: Box, bart: Box, text: Box) -> None:
    """Pictures look at the text, and the text at the pictures."""
    down, up = fused.x + fused.width + 28, fused.x + fused.width + 50
    drawing.arrow(fused.right(0.3), vision.left(0.3))
    drawing.arrow((down, fused.right(0.3)[1]), (down, text.left(0.3)[1]), text.left(0.3))
    drawing.arrow(bart.right(0.7), text.left(0.7))
    drawing.arrow((up, text.left(0.7)[1]), (up, vision.left(0.7)[1]), vision.left(0.7))
    draw_label(drawing, "F", (fused.x + fused.width + 10, fused.right(0.3)[1]))


_COLUMNS = Columns(
    {
        "given": (36.0, 104.0),
        "read": (172.0, 136.0),
        "map": (342.0, 98.0),
        "fuse": (492.0, 138.0),
        "look": (706.0, 112.0),
        "decode": (846.0, 136.0),
        "end": (1004.0, 84.0),
    }
)
_at = _COLUMNS.at


if __name__ == "__main__":
    main()
