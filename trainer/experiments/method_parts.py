"""What every drawing of a method is made of: modules as boxes that say trained or frozen, the legend, panels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import nn

from trainer.experiments.drawing import Box, Drawing, Line, Style

TRAINED = Style(fill="#fdf1dc", border="#c77f0a")
FROZEN = Style(fill="#e6eff8", border="#4a7dab", is_dashed=True)
GIVEN = Style(fill="#f1f3f5", border="#a3adb8")
COMPUTED = Style(fill="#ffffff", border="#a3adb8")
LOSS = Style(fill="#3d4853", border="#3d4853", ink="#ffffff")
ROW = 56.0
"""Height of a box."""
_PANEL = Style(fill="#fafbfc", border="#d0d7de")
_LEAST_MILLIONS = 50_000
"""Counts from here on are given in millions, which then are not 0.0."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """Modules that the drawing shows as one box."""

    name: str
    size: str
    num_parameters: int
    is_trained: bool

    def lines(self) -> list[Line]:
        """What stands in the box."""
        count = shown_count(self.num_parameters)
        return [Line(text=self.name, size=13, is_bold=True), Line(text=self.size, size=11), Line(text=count, size=11)]

    def style(self) -> Style:
        """Whether the box says trained or frozen."""
        return TRAINED if self.is_trained else FROZEN


@dataclass(frozen=True)
class Columns:
    """The columns of a drawing."""

    places: Mapping[str, tuple[float, float]]
    """Where each begins, and how wide its boxes are."""

    def at(self, column: str, y: float, *, height: float = ROW) -> Box:
        """A box of this column."""
        x, width = self.places[column]
        return Box(x=x, y=y, width=width, height=height)


def part_of(name: str, size: str, parameters: Iterable[nn.Parameter], *, within: nn.Module) -> Part:
    """A part of these parameters, as the stage `within` trains them."""
    held = list(parameters)
    return Part(name=name, size=size, num_parameters=count_of(held), is_trained=is_trained(held, within=within))


def is_trained(parameters: Iterable[nn.Parameter], *, within: nn.Module) -> bool:
    """Whether a stage's optimiser moves these parameters: all of them or none."""
    held = {id(parameter) for parameter in within.parameters() if parameter.requires_grad}
    moved = {id(parameter) in held for parameter in parameters}
    assert len(moved) == 1, "a box is trained as a whole or not at all"
    return moved.pop()


def count_of(parameters: Iterable[nn.Parameter]) -> int:
    """How many numbers the parameters hold."""
    return sum(parameter.numel() for parameter in parameters)


def shown_count(num_parameters: int) -> str:
    """A count in millions, or in thousands where it is small."""
    if num_parameters < _LEAST_MILLIONS:
        return f"{num_parameters / 1e3:.1f} k"
    return f"{num_parameters / 1e6:.1f} M"


def times(weight: float) -> str:
    """A weight as the factor before a term; one is not written."""
    return "" if weight == 1 else f"{weight:g} "


def draw_legend(drawing: Drawing, title: str, *, note: str, note_x: float, units: str) -> None:
    """Title, a note beside it that begins at `note_x`, and below them what the styles of boxes mean."""
    drawing.text(Line(text=title, size=18, is_bold=True), (36, 40))
    drawing.text(Line(text=note, size=12, is_faint=True), (note_x, 40))
    x = 36.0
    for words, style in (("trained", TRAINED), ("frozen", FROZEN), ("given", GIVEN), ("computed", COMPUTED)):
        drawing.box(Box(x=x, y=56, width=22, height=14), (), style=style, radius=3)
        drawing.text(Line(text=words, size=12), (x + 29, 67))
        x += 106
    drawing.box(Box(x=x, y=56, width=22, height=14), (), style=LOSS, radius=7)
    drawing.text(Line(text="loss", size=12), (x + 29, 67))
    drawing.text(Line(text=units, size=12, is_faint=True), (x + 85, 67))


def draw_panel(drawing: Drawing, box: Box, *, title: str, loss: str) -> None:
    """The ground that a stage's boxes stand on, with what it minimises."""
    drawing.box(box, (), style=_PANEL, radius=10)
    drawing.text(Line(text=title, size=14, is_bold=True), (box.x + 16, box.y + 26))
    drawing.text(Line(text=loss, size=13), (box.x + box.width - 16, box.y + 26), anchor="end")


def draw_part(drawing: Drawing, box: Box, part: Part) -> None:
    """The box of a part."""
    drawing.box(box, part.lines(), style=part.style())


def draw_plain(drawing: Drawing, box: Box, text: str, *, style: Style = GIVEN) -> None:
    """A box without parameters; `|` parts its lines."""
    first, *rest = text.split("|")
    lines = [Line(text=first, size=12, is_bold=style is not GIVEN), *(Line(text=each, size=11) for each in rest)]
    drawing.box(box, lines, style=style, radius=16 if style is LOSS else 6)


def draw_label(drawing: Drawing, text: str, at: tuple[float, float]) -> None:
    """What flows along an arrow, a little above it."""
    drawing.text(Line(text=text, size=12), (at[0], at[1] - 6))


def share_of(box: Box, row: float) -> float:
    """Which share of a box's height the middle of a row is at."""
    return (row + ROW / 2 - box.y) / box.height
