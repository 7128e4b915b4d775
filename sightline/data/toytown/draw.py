"""A picture of a scene, at any size."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace

from PIL import Image, ImageDraw

from sightline.data.toytown import animals, objects, vehicles
from sightline.data.toytown.pen import LIGHTS, Pen
from sightline.data.toytown.places import draw_land, draw_sky
from sightline.data.toytown.world import COLOURS, MUTED, SIZES, Group, Scene

_DRAWN: dict[str, Callable[[Pen], None]] = {
    function.__name__.removeprefix("draw_"): function
    for module in (animals, objects, vehicles)
    for name, function in vars(module).items()
    if name.startswith("draw_")
}
_PAINTS = {**COLOURS, **MUTED}
_FLYING = frozenset({"balloon", "kite", "plane", "butterfly"})
_LONG = frozenset({"car", "bus", "train", "plane", "turtle", "snail", "fish", "tractor"})
"""Kinds drawn a quarter wider than high."""
_LAND_WASH = 0.25
"""Land is paler than things, which have their colours to show."""
_FOG_SHARES = {"day": 0.4, "dusk": 0.35, "night": 0.25}
_SMALL = 128
"""Pictures up to this size are drawn four times as large and reduced, larger ones twice, so that edges are smooth."""


def draw_scene(scene: Scene, *, size: int = 64) -> Image.Image:
    """An RGB picture of `size` by `size` pixels. The same scene and size give the same pixels."""
    scale = 4 if size <= _SMALL else 2
    large = Image.new("RGB", (size * scale, size * scale))
    light = LIGHTS[scene.time]
    pen = Pen(draw=ImageDraw.Draw(large), left=0, top=0, width=large.width, height=large.height)
    draw_sky(pen, time=scene.time, weather=scene.weather, rng=_dice(scene, "sky"))
    land_pen = replace(pen, tint=light.land, wash=_LAND_WASH)
    draw_land(land_pen, place=scene.place, weather=scene.weather, rng=_dice(scene, "land"))
    if scene.weather == "fog":
        large.paste(Image.blend(large, _fog_of(large, time=scene.time), _FOG_SHARES[scene.time]))
    for thing in _placed(scene, pen=replace(pen, tint=light.thing), rng=_dice(scene, "things")):
        thing()
    _draw_weather(large, scene=scene, pen=pen, rng=_dice(scene, "weather"))
    return large.resize((size, size), Image.Resampling.BOX if scale > 2 else Image.Resampling.LANCZOS)


def _dice(scene: Scene, layer: str) -> random.Random:
    """Chance for one layer alone: another place or weather leaves the things where they are."""
    return random.Random(f"{layer} {scene.layout_seed}")


def _placed(scene: Scene, *, pen: Pen, rng: random.Random) -> Iterator[Callable[[], None]]:
    """What draws each thing, those farther away first; groups keep their order from left to right."""
    things = [group for group in scene.groups for _ in range(group.count)]
    widths = [_width(group) for group in things]
    gap = 0.02
    total = sum(widths) + gap * (len(things) - 1)
    shrink = min(1.0, 0.98 / total)
    slack = max(0.0, 1 - total * shrink)
    left = slack * rng.uniform(0.35, 0.65)
    looks_left = rng.random() < 0.5
    for group, width in zip(things, widths, strict=True):
        height = SIZES[group.size] * shrink
        bottom = _bottom(group, rng=rng)
        box = pen.within(left, bottom - height, left + width * shrink, bottom)
        left += (width + gap) * shrink
        yield _thing(replace(box, paint=_PAINTS[group.colour], is_mirrored=looks_left), kind=group.kind)


def _thing(pen: Pen, *, kind: str) -> Callable[[], None]:
    return lambda: _DRAWN[kind](pen)


def _width(group: Group) -> float:
    return SIZES[group.size] * (1.25 if group.kind in _LONG else 1.0)


def _bottom(group: Group, *, rng: random.Random) -> float:
    if group.kind in _FLYING and group.size != "huge":
        return 0.56 + rng.uniform(-0.06, 0.06)
    return (0.95 if group.size == "huge" else 0.9) + rng.uniform(-0.03, 0.03)


def _fog_of(picture: Image.Image, *, time: str) -> Image.Image:
    tone = {"day": (226, 230, 234), "dusk": (196, 172, 176), "night": (84, 90, 112)}[time]
    return Image.new("RGB", picture.size, tone)


def _draw_weather(picture: Image.Image, *, scene: Scene, pen: Pen, rng: random.Random) -> None:
    """What falls in front of everything. It covers little, so that colours stay to be seen."""
    if scene.weather == "rain":
        tone = {"day": (120, 150, 190), "dusk": (150, 140, 176), "night": (120, 140, 190)}[scene.time]
        for _ in range(34):
            x, y = rng.random(), rng.uniform(-0.05, 0.95)
            pen.stroke([(x, y), (x - 0.025, y + 0.08)], tone, width=0.009)
    elif scene.weather == "snow":
        for _ in range(46):
            pen.dot(rng.random(), rng.random(), rng.choice((0.009, 0.013, 0.017)), (252, 252, 255))
    elif scene.weather == "fog":
        veil = Image.blend(picture, _fog_of(picture, time=scene.time), 0.55)
        mask = Image.new("L", picture.size)
        mask_pen = replace(pen, draw=ImageDraw.Draw(mask))
        for y in (0.3, 0.62, 0.86):
            x = rng.uniform(-0.3, 0.3)
            mask_pen.draw.rounded_rectangle(
                (x * pen.width, y * pen.height, (x + 0.8) * pen.width, (y + 0.05) * pen.height),
                radius=0.025 * pen.height,
                fill=120,
            )
        picture.paste(veil, mask=mask)
