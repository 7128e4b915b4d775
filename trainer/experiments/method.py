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
from trainer.experiments.drawing import Box, Drawing, Line, Style
from trainer.stages.generative import GenerativeObjective

WIDTH, HEIGHT = 1120.0, 784.0
_NEW_IN_A_LAYER = ("vision_attn", "vision_attn_layer_norm", "text_gate", "vision_gate", "mix")
_TRAINED = Style(fill="#fdf1dc", border="#c77f0a")
_FROZEN = Style(fill="#e6eff8", border="#4a7dab", is_dashed=True)
_GIVEN = Style(fill="#f1f3f5", border="#a3adb8")
_COMPUTED = Style(fill="#ffffff", border="#a3adb8")
_LOSS = Style(fill="#3d4853", border="#3d4853", ink="#ffffff")
_PANEL = Style(fill="#fafbfc", border="#d0d7de")
_ROW = 56.0


@dataclass(frozen=True, kw_only=True)
class Part:
    """Modules that the drawing shows as one box."""

    name: str
    size: str
    num_parameters: int
    is_trained: bool

    def lines(self) -> list[Line]:
        """What stands in the box."""
        count = f"{self.num_parameters / 1e6:.1f} M"
        return [Line(text=self.name, size=13, is_bold=True), Line(text=self.size, size=11), Line(text=count, size=11)]

    def style(self) -> Style:
        """Whether the box says trained or frozen."""
        return _TRAINED if self.is_trained else _FROZEN


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
        "look": _part("vision block", width, painter.vision_block, within=within),
        "head": _part("pixel head", f"t2v, {tower.patch_pixels}x{tower.patch_pixels} px", painter.head, within=within),
    }


def second_parts(method: Method) -> dict[str, Part]:
    """The boxes of stage 2: the whole generator, but for three numbers (temperature, text gate, preservation bias)."""
    generator, within = method.generator, method.second
    fusion, decoder = generator.fusion, generator.bart.model.decoder
    new = sum(_count(getattr(layer, name)) for layer in decoder.layers for name in _NEW_IN_A_LAYER)
    width = f"{generator.reader.dimension} wide"
    return {
        **_reader_parts(generator.reader, within=within),
        "vision": _part("vision block", width, fusion.vision_block, within=within),
        "text": _part("text block", width, fusion.text_block, within=within),
        "decoder": Part(
            name="decoder",
            size=f"{len(decoder.layers)} layers of BART",
            num_parameters=_count(generator.bart) - _count(generator.text_encoder) - new,
            is_trained=_is_trained(decoder.layers, within=within),
        ),
        "transfer": Part(
            name="IT",
            size="attention, gates, mix",
            num_parameters=new,
            is_trained=_is_trained(decoder.layers, within=within),
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
    _draw_legend(drawing, method=method)
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
        "vit": _part(
            f"ViT/{vit.patch_size}",
            f"{vit.num_hidden_layers} layers, {vit.hidden_size} wide",
            reader.vit,
            within=within,
        ),
        "v2t": _part("v2t", f"{reader.v2t.in_features} to {reader.v2t.out_features}", reader.v2t, within=within),
        "bart": _part("BART encoder", text_size, reader.text, within=within),
        "pooler": _part("text pooler", "linear, tanh", reader.text_pooler, within=within),
    }


def _part(name: str, size: str, module: nn.Module, *, within: nn.Module) -> Part:
    return Part(name=name, size=size, num_parameters=_count(module), is_trained=_is_trained(module, within=within))


def _is_trained(module: nn.Module, *, within: nn.Module) -> bool:
    """Whether a stage's optimiser moves the module: all of it or nothing."""
    held = {id(parameter) for parameter in within.parameters() if parameter.requires_grad}
    moved = {id(parameter) in held for parameter in module.parameters()}
    assert len(moved) == 1, "a box is trained as a whole or not at all"
    return moved.pop()


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _draw_legend(drawing: Drawing, *, method: Method) -> None:
    total = _count(method.generator)
    drawing.text(Line(text="ZRIGF in two stages", size=18, is_bold=True), (36, 40))
    sizes = f"the faithful variant at the published size: {total:,} parameters in stage 2"
    drawing.text(Line(text=sizes, size=12, is_faint=True), (262, 40))
    x = 36.0
    for words, style in (("trained", _TRAINED), ("frozen", _FROZEN), ("given", _GIVEN), ("computed", _COMPUTED)):
        drawing.box(Box(x=x, y=56, width=22, height=14), (), style=style, radius=3)
        drawing.text(Line(text=words, size=12), (x + 29, 67))
        x += 106
    drawing.box(Box(x=x, y=56, width=22, height=14), (), style=_LOSS, radius=7)
    drawing.text(Line(text="loss", size=12), (x + 29, 67))
    drawing.text(Line(text="M: million parameters, embeddings included", size=12, is_faint=True), (x + 85, 67))


def _draw_first(drawing: Drawing, *, method: Method) -> None:
    stage, parts = method.first, first_parts(method)
    _panel(
        drawing,
        Box(x=20, y=86, width=1080, height=282),
        title="Stage 1: captioned pictures",
        loss=f"L = {_times(stage.tim_weight)}TIM + {_times(stage.tamim_weight)}TAMIM",
    )
    shown, hidden, said = 126.0, 204.0, 296.0
    side = method.tower.preprocess.image_size
    _plain(drawing, _at("given", shown), f"picture|{side} x {side} px", style=_GIVEN)
    _plain(drawing, _at("given", hidden), f"masked|{stage.masks.num_masked} of {stage.masks.side**2} cells")
    _plain(drawing, _at("given", said), "its caption")
    vit, v2t = (_at(column, shown, height=hidden + _ROW - shown) for column in ("read", "map"))
    look, head, bart = _at("fuse", hidden), _at("look", hidden), _at("read", said)
    pooler = _at("look", said)
    for name, box in (("vit", vit), ("v2t", v2t), ("look", look), ("head", head), ("bart", bart), ("pooler", pooler)):
        _draw_part(drawing, box, parts[name])
    matching = _at("end", shown, height=said + _ROW - shown)
    painting = _at("decode", hidden)
    _plain(drawing, matching, "TIM|who belongs|to whom", style=_LOSS)
    _plain(drawing, painting, "TAMIM|L1 on the pixels|of hidden cells", style=_LOSS)
    for row, (y, share) in enumerate(((shown, _share(vit, shown)), (hidden, _share(vit, hidden)))):
        drawing.arrow(_at("given", y).right(), vit.left(share))
        drawing.arrow(vit.right(share), v2t.left(share))
        drawing.arrow(v2t.right(share), matching.left(_share(matching, shown)) if row == 0 else look.left())
    drawing.arrow(look.right(), head.left())
    drawing.arrow(head.right(), painting.left())
    drawing.arrow(_at("given", said).right(), bart.left())
    drawing.arrow(bart.right(), pooler.left())
    drawing.arrow((look.x + look.width / 2, said + _ROW / 2), look.bottom())
    drawing.arrow(pooler.right(), matching.left(_share(matching, said)))
    _label(drawing, "e_v", (matching.x - 34, shown + _ROW / 2))
    _label(drawing, "e_t", (matching.x - 34, said + _ROW / 2))
    _label(drawing, "states of the caption", (look.x + look.width / 2 + 8, said + _ROW / 2 - 6))


def _draw_between(drawing: Drawing, *, method: Method) -> None:
    """What passes from stage 1 to stage 2."""
    index = Box(x=36, y=388, width=396, height=46)
    count = f"{_count(method.tower) / 1e6:.1f} M, never changed again: they make the index and search it"
    lines = [Line(text="the towers of stage 1", size=13, is_bold=True), Line(text=count, size=11)]
    drawing.box(index, lines, style=_FROZEN)
    drawing.arrow((index.x + 52, 368), index.top(52 / index.width))
    drawing.arrow(index.bottom(52 / index.width), (index.x + 52, 454))
    drawing.arrow((620, 368), (620, 454))
    drawing.text(Line(text="copied once: ViT, BART encoder, poolers, v2t, temperature", size=12), (632, 406))
    drawing.text(Line(text="handed on as it is: vision block", size=12), (632, 424))


def _draw_second(drawing: Drawing, *, method: Method) -> None:
    parts = second_parts(method)
    weight = _times(method.generator.preservation_weight)
    _panel(
        drawing,
        Box(x=20, y=454, width=1080, height=312),
        title="Stage 2: dialogues without pictures",
        loss=f"L = L_LM + {weight}L_pres",
    )
    seen, shared, said = 496.0, 592.0, 692.0
    pictures, context = _at("given", seen), _at("given", said)
    _plain(drawing, pictures, "k pictures|nearest to it")
    _plain(drawing, context, "dialogue|so far")
    vit, v2t, fused, vision = (_at(column, seen) for column in ("read", "map", "fuse", "look"))
    bart, text, pooler = _at("read", said), _at("look", said), _at("map", shared)
    for name, box in (("vit", vit), ("v2t", v2t), ("vision", vision), ("bart", bart), ("text", text)):
        _draw_part(drawing, box, parts[name])
    _draw_part(drawing, pooler, parts["pooler"])
    decoder = _at("decode", shared - 42, height=2 * _ROW + 28)
    drawing.box(
        decoder,
        [*parts["decoder"].lines(), Line(text="", size=8), *parts["transfer"].lines()],
        style=parts["decoder"].style(),
    )
    _plain(drawing, fused, "F = sum of a_j U_j|a = softmax(s e_t e_v)", style=_COMPUTED)
    preservation = Box(x=fused.x + 40, y=shared, width=fused.width - 28, height=_ROW)
    _plain(drawing, preservation, "L_pres|e_t still finds e_v", style=_LOSS)
    reply = _at("end", shared)
    _plain(drawing, reply, "L_LM|the reply", style=_LOSS)
    for before, after in ((pictures, vit), (vit, v2t), (v2t, fused), (context, bart), (decoder, reply)):
        drawing.arrow(before.right(), after.left())
    _draw_crossing(drawing, fused=fused, vision=vision, bart=bart, text=text)
    drawing.arrow((pooler.x + pooler.width / 2, said + _ROW * 0.7), pooler.bottom())
    drawing.arrow(pooler.right(), (fused.x + 16, shared + _ROW / 2), (fused.x + 16, seen + _ROW))
    drawing.arrow((preservation.x + 52, seen + _ROW), (preservation.x + 52, shared))
    drawing.arrow(vision.right(), (decoder.x + decoder.width / 2, seen + _ROW / 2), decoder.top())
    drawing.arrow(text.right(), (decoder.x + decoder.width / 2, said + _ROW / 2), decoder.bottom())
    drawing.arrow(context.top(), pictures.bottom(), is_dashed=True)
    given = GenerativeSettings()
    _label(drawing, "searches; training shows", (context.x + context.width / 2 + 8, shared + 26))
    _label(drawing, f"1 to {given.num_images} of the {given.num_candidates} nearest", (96, shared + 42))
    _label(drawing, "U_j, e_v", (v2t.x + v2t.width + 4, seen + _ROW / 2))
    _label(drawing, "e_t", (pooler.x + pooler.width + 14, shared + _ROW / 2))
    _label(drawing, "H", (bart.x + bart.width + 10, said + _ROW * 0.7))
    _label(drawing, "V", (vision.x + vision.width + 14, seen + _ROW / 2))
    _label(drawing, "T", (text.x + text.width + 14, said + _ROW / 2))


def _draw_crossing(drawing: Drawing, *, fused: Box, vision: Box, bart: Box, text: Box) -> None:
    """Pictures look at the text, and the text at the pictures."""
    down, up = fused.x + fused.width + 28, fused.x + fused.width + 50
    drawing.arrow(fused.right(0.3), vision.left(0.3))
    drawing.arrow((down, fused.right(0.3)[1]), (down, text.left(0.3)[1]), text.left(0.3))
    drawing.arrow(bart.right(0.7), text.left(0.7))
    drawing.arrow((up, text.left(0.7)[1]), (up, vision.left(0.7)[1]), vision.left(0.7))
    _label(drawing, "F", (fused.x + fused.width + 10, fused.right(0.3)[1]))


_COLUMNS = {
    "given": (36.0, 104.0),
    "read": (172.0, 136.0),
    "map": (342.0, 98.0),
    "fuse": (492.0, 138.0),
    "look": (706.0, 112.0),
    "decode": (846.0, 136.0),
    "end": (1004.0, 84.0),
}
"""Where a column begins, and how wide its boxes are."""


def _at(column: str, y: float, *, height: float = _ROW) -> Box:
    x, width = _COLUMNS[column]
    return Box(x=x, y=y, width=width, height=height)


def _share(box: Box, row: float) -> float:
    """Which share of a box's height the middle of a row is at."""
    return (row + _ROW / 2 - box.y) / box.height


def _draw_part(drawing: Drawing, box: Box, part: Part) -> None:
    drawing.box(box, part.lines(), style=part.style())


def _plain(drawing: Drawing, box: Box, text: str, *, style: Style = _GIVEN) -> None:
    first, *rest = text.split("|")
    lines = [Line(text=first, size=12, is_bold=style is not _GIVEN), *(Line(text=each, size=11) for each in rest)]
    drawing.box(box, lines, style=style, radius=16 if style is _LOSS else 6)


def _panel(drawing: Drawing, box: Box, *, title: str, loss: str) -> None:
    drawing.box(box, (), style=_PANEL, radius=10)
    drawing.text(Line(text=title, size=14, is_bold=True), (box.x + 16, box.y + 26))
    drawing.text(Line(text=loss, size=13), (box.x + box.width - 16, box.y + 26), anchor="end")


def _label(drawing: Drawing, text: str, at: tuple[float, float]) -> None:
    drawing.text(Line(text=text, size=12), (at[0], at[1] - 6))


def _times(weight: float) -> str:
    return "" if weight == 1 else f"{weight:g} "


if __name__ == "__main__":
    main()
