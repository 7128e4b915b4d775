"""Drawing in units of a box instead of pixels, under the light of the hour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from PIL import ImageDraw

from sightline.data.toytown.world import RGB

Point = tuple[float, float]

INK: RGB = (46, 40, 54)
WHITE: RGB = (250, 250, 250)
GREY: RGB = (150, 154, 164)
STEEL: RGB = (92, 96, 110)
GLASS: RGB = (196, 230, 244)
WOOD: RGB = (146, 98, 60)
BEAK: RGB = (244, 150, 40)
LEAF: RGB = (60, 140, 66)
CREAM: RGB = (250, 232, 200)
_PAPER: RGB = (236, 236, 232)


def mix(first: RGB, second: RGB, *, share: float) -> RGB:
    """The colour `share` of the way from `first` to `second`; 0 gives `first`."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


@dataclass(frozen=True, kw_only=True)
class Light:
    """How the hour changes colours: channels are multiplied. Things keep more of theirs than the land does."""

    thing: tuple[float, float, float]
    land: tuple[float, float, float]

    def on_thing(self, colour: RGB) -> RGB:
        """The colour of a thing in this light."""
        return _multiply(colour, self.thing)

    def on_land(self, colour: RGB) -> RGB:
        """The colour of the land in this light."""
        return _multiply(colour, self.land)


LIGHTS = {
    "day": Light(thing=(1.0, 1.0, 1.0), land=(1.0, 1.0, 1.0)),
    "dusk": Light(thing=(1.0, 0.94, 0.93), land=(0.88, 0.70, 0.70)),
    "night": Light(thing=(0.80, 0.81, 0.88), land=(0.46, 0.50, 0.66)),
}


@dataclass(frozen=True, kw_only=True)
class Pen:
    """Draws in a box whose corners are (0, 0) and (1, 1), y downwards; colours are given as by day."""

    draw: ImageDraw.ImageDraw
    left: float
    top: float
    width: float
    height: float
    """The box in pixels."""
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0)
    paint: RGB = WHITE
    """The colour that the thing is said to have."""
    is_mirrored: bool = False
    wash: float = 0.0
    """Share of white paper that shines through every colour."""

    @property
    def deep(self) -> RGB:
        """The paint in shadow."""
        return mix(self.paint, (0, 0, 0), share=0.28)

    @property
    def pale(self) -> RGB:
        """The paint in full light."""
        return mix(self.paint, (255, 255, 255), share=0.4)

    def within(self, x0: float, y0: float, x1: float, y1: float) -> Pen:
        """A pen for a part of this box. Mirrored pens mirror their parts."""
        left, right = sorted((self._x(x0), self._x(x1)))
        height = (y1 - y0) * self.height
        return replace(self, left=left, top=self.top + y0 * self.height, width=right - left, height=height)

    def oval(self, x0: float, y0: float, x1: float, y1: float, fill: RGB, *, line: float = 0.03) -> None:
        """An ellipse between two corners, with a dark outline unless `line` is 0."""
        self.draw.ellipse(
            self._span(x0, y0, x1, y1), fill=self._lit(fill), outline=self._ink(line), width=self._ink_width(line)
        )

    def box(
        self, x0: float, y0: float, x1: float, y1: float, fill: RGB, *, line: float = 0.03, round_by: float = 0.0
    ) -> None:
        """A rectangle between two corners, its corners rounded, where there is room, by a share of the box."""
        span = self._span(x0, y0, x1, y1)
        ink, width, radius = self._ink(line), self._ink_width(line), round_by * self.height
        room = min(span[2] - span[0], span[3] - span[1]) / 2 - width
        if radius and room > 2:
            self.draw.rounded_rectangle(span, radius=min(radius, room), fill=self._lit(fill), outline=ink, width=width)
        else:
            self.draw.rectangle(span, fill=self._lit(fill), outline=ink, width=width)

    def shape(self, points: Sequence[Point], fill: RGB, *, line: float = 0.03) -> None:
        """A polygon."""
        placed = [(self._x(x), self._y(y)) for x, y in points]
        if line:
            width = max(1, round(line * self.height))
            self.draw.line([*placed, *placed[:2]], fill=self._lit(INK), width=2 * width, joint="curve")
        self.draw.polygon(placed, fill=self._lit(fill))

    def stroke(self, points: Sequence[Point], fill: RGB, *, width: float = 0.03) -> None:
        """A line through points; its width is a share of the box's height."""
        placed = [(self._x(x), self._y(y)) for x, y in points]
        self.draw.line(placed, fill=self._lit(fill), width=max(1, round(width * self.height)), joint="curve")

    def slice(
        self, x0: float, y0: float, x1: float, y1: float, fill: RGB, *, start: float, end: float, line: float = 0.03
    ) -> None:
        """A pie slice of the ellipse between two corners; degrees clockwise from the right-hand side."""
        if self.is_mirrored:
            start, end = 180 - end, 180 - start
        self.draw.pieslice(
            self._span(x0, y0, x1, y1),
            start,
            end,
            fill=self._lit(fill),
            outline=self._ink(line),
            width=self._ink_width(line),
        )

    def dot(self, x: float, y: float, radius: float, fill: RGB, *, line: float = 0.0) -> None:
        """A circle; the radius is a share of the box's height."""
        middle_x, middle_y, reach = self._x(x), self._y(y), radius * self.height
        span = (middle_x - reach, middle_y - reach, middle_x + reach, middle_y + reach)
        self.draw.ellipse(span, fill=self._lit(fill), outline=self._ink(line), width=self._ink_width(line))

    def _x(self, x: float) -> float:
        return self.left + (1 - x if self.is_mirrored else x) * self.width

    def _y(self, y: float) -> float:
        return self.top + y * self.height

    def _span(self, x0: float, y0: float, x1: float, y1: float) -> tuple[float, float, float, float]:
        left, right = sorted((self._x(x0), self._x(x1)))
        return left, self._y(y0), right, self._y(y1)

    def _ink(self, line: float) -> RGB | None:
        return self._lit(INK) if line else None

    def _ink_width(self, line: float) -> int:
        return max(1, round(line * self.height))

    def _lit(self, colour: RGB) -> RGB:
        return _multiply(mix(colour, _PAPER, share=self.wash), self.tint)


def _multiply(colour: RGB, by: tuple[float, float, float]) -> RGB:
    red, green, blue = (round(a * b) for a, b in zip(colour, by, strict=True))
    return red, green, blue
