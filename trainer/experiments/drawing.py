"""Diagrams of labelled boxes and arrows as SVG with a paper of its own, readable on light and dark pages."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

FONT = "Helvetica, Arial, 'Liberation Sans', 'DejaVu Sans', sans-serif"
PAPER, INK, FAINT, LINE = "#ffffff", "#1f2933", "#5b6673", "#52606d"
LINE_HEIGHT = 1.35
"""Of the font size, from one line of a text to the next."""
SUBSCRIPT_SIZE = 0.75
_RADIUS = 10.0
_SUBSCRIPT = re.compile(r"_(\w+)")
Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Style:
    """How a kind of box looks."""

    fill: str
    border: str
    ink: str = INK
    is_dashed: bool = False


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of text; `_x` in it lowers the word x."""

    text: str
    size: float = 12.0
    is_bold: bool = False
    is_faint: bool = False


@dataclass(frozen=True, kw_only=True)
class Box:
    """A rectangle by its corner nearest to the origin; lengths in user units, y downwards."""

    x: float
    y: float
    width: float
    height: float

    def left(self, share: float = 0.5) -> Point:
        """The point of the left side at this share of the height."""
        return self.x, self.y + share * self.height

    def right(self, share: float = 0.5) -> Point:
        """The point of the right side at this share of the height."""
        return self.x + self.width, self.y + share * self.height

    def top(self, share: float = 0.5) -> Point:
        """The point of the upper side at this share of the width."""
        return self.x + share * self.width, self.y

    def bottom(self, share: float = 0.5) -> Point:
        """The point of the lower side at this share of the width."""
        return self.x + share * self.width, self.y + self.height


class Drawing:
    """An SVG in the making. Equal calls give equal bytes."""

    def __init__(self, *, width: float, height: float, title: str, description: str) -> None:
        size = {
            "width": _number(width),
            "height": _number(height),
            "viewBox": f"0 0 {_number(width)} {_number(height)}",
        }
        self._svg = ElementTree.Element(
            "svg", {"xmlns": "http://www.w3.org/2000/svg", **size, "role": "img", "font-family": FONT}
        )
        ElementTree.SubElement(self._svg, "title").text = title
        ElementTree.SubElement(self._svg, "desc").text = description
        self._define_arrowhead()
        self.box(
            Box(x=0.5, y=0.5, width=width - 1, height=height - 1),
            (),
            style=Style(fill=PAPER, border="#d0d7de"),
            radius=12,
        )

    def box(self, box: Box, lines: Sequence[Line], *, style: Style, radius: float = 6.0) -> None:
        """A rounded rectangle with its lines of text centred in it."""
        values = {"x": box.x, "y": box.y, "width": box.width, "height": box.height, "rx": radius}
        self._add("rect", values, {"fill": style.fill, "stroke": style.border, **_dashes(style.is_dashed)})
        height = sum(line.size * LINE_HEIGHT for line in lines)
        baseline = box.y + (box.height - height) / 2
        for line in lines:
            baseline += line.size * LINE_HEIGHT
            self.text(line, (box.x + box.width / 2, baseline - 0.35 * line.size), anchor="middle", ink=style.ink)

    def text(self, line: Line, at: Point, *, anchor: str = "start", ink: str = INK) -> None:
        """A line of text whose baseline starts, has its middle or ends at a point."""
        style = {"text-anchor": anchor, "fill": FAINT if line.is_faint else ink}
        if line.is_bold:
            style["font-weight"] = "bold"
        element = self._add("text", {"x": at[0], "y": at[1], "font-size": line.size}, style)
        plain, *rest = _SUBSCRIPT.split(line.text)
        element.text = plain
        drop = 0.25 * line.size
        for lowered, raised in zip(rest[::2], rest[1::2], strict=True):
            size = {"font-size": _number(SUBSCRIPT_SIZE * line.size)}
            ElementTree.SubElement(element, "tspan", {"dy": _number(drop), **size}).text = lowered
            if raised:
                ElementTree.SubElement(element, "tspan", {"dy": _number(-drop)}).text = raised

    def arrow(self, *points: Point, is_dashed: bool = False, has_head: bool = True) -> None:
        """A line through the points, its corners rounded, with a head at the last one."""
        style = {"fill": "none", "stroke": LINE, "stroke-width": "1.4", **_dashes(is_dashed)}
        if has_head:
            style["marker-end"] = "url(#head)"
        self._add("path", {}, {"d": " ".join(_path(points)), **style})

    def svg(self) -> str:
        """The whole file, an element a line; blanks inside a text would be drawn."""
        whole = ElementTree.tostring(self._svg, encoding="unicode")
        parts = (ElementTree.tostring(part, encoding="unicode") for part in self._svg)
        opening = whole[: whole.index(">") + 1]
        return "\n".join((opening, *parts, "</svg>\n"))

    def _add(self, tag: str, numbers: Mapping[str, float], style: Mapping[str, str]) -> ElementTree.Element:
        attributes = {name: _number(value) for name, value in numbers.items()}
        return ElementTree.SubElement(self._svg, tag, {**attributes, **style})

    def _define_arrowhead(self) -> None:
        definitions = ElementTree.SubElement(self._svg, "defs")
        head = {"id": "head", "viewBox": "0 0 8 8", "refX": "7", "refY": "4", "orient": "auto"}
        sizes = {"markerWidth": "7", "markerHeight": "7"}
        marker = ElementTree.SubElement(definitions, "marker", {**head, **sizes})
        ElementTree.SubElement(marker, "path", {"d": "M 0 0.5 L 8 4 L 0 7.5 z", "fill": LINE})


def _path(points: Sequence[Point]) -> Iterator[str]:
    yield f"M {_pair(points[0])}"
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        yield f"L {_pair(_towards(corner, before))} Q {_pair(corner)} {_pair(_towards(corner, after))}"
    yield f"L {_pair(points[-1])}"


def _towards(start: Point, end: Point) -> Point:
    """The point on the way from start to end where a rounded corner begins: half-way at most."""
    length = math.dist(start, end)
    share = min(_RADIUS, length / 2) / length
    return start[0] + share * (end[0] - start[0]), start[1] + share * (end[1] - start[1])


def _dashes(is_dashed: bool) -> dict[str, str]:
    return {"stroke-dasharray": "5 4"} if is_dashed else {}


def _pair(point: Point) -> str:
    return f"{_number(point[0])} {_number(point[1])}"


def _number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
