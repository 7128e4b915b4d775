"""Things that drive, sail and fly. Each function fills the pen's box, feet at the bottom, looking to the right."""

from __future__ import annotations

from sightline.data.toytown.pen import CREAM, GLASS, GREY, INK, STEEL, WHITE, WOOD, Pen


def draw_car(pen: Pen) -> None:
    """A car with a rounded roof and two windows."""
    pen.shape([(0.2, 0.48), (0.32, 0.2), (0.68, 0.2), (0.82, 0.48)], pen.paint)
    pen.box(0.02, 0.44, 0.98, 0.82, pen.paint, round_by=0.14)
    pen.shape([(0.28, 0.46), (0.36, 0.27), (0.48, 0.27), (0.48, 0.46)], GLASS, line=0)
    pen.shape([(0.53, 0.46), (0.53, 0.27), (0.65, 0.27), (0.73, 0.46)], GLASS, line=0)
    pen.dot(0.92, 0.58, 0.05, CREAM)
    _wheels(pen, 0.25, 0.76, radius=0.16)


def draw_bus(pen: Pen) -> None:
    """A long bus with a row of windows."""
    pen.box(0.02, 0.14, 0.98, 0.86, pen.paint, round_by=0.1)
    for left in (0.08, 0.26, 0.44, 0.62):
        pen.box(left, 0.24, left + 0.14, 0.48, GLASS, line=0.02)
    pen.box(0.8, 0.24, 0.93, 0.72, GLASS, line=0.02)
    pen.box(0.05, 0.56, 0.76, 0.62, pen.pale, line=0)
    _wheels(pen, 0.24, 0.72, radius=0.13)


def draw_boat(pen: Pen) -> None:
    """A sailing boat: hull and one big sail in the paint, the other sail white."""
    pen.stroke([(0.48, 0.02), (0.48, 0.72)], WOOD, width=0.05)
    pen.shape([(0.52, 0.05), (0.52, 0.62), (0.96, 0.62)], pen.paint)
    pen.shape([(0.43, 0.16), (0.43, 0.62), (0.12, 0.62)], WHITE)
    pen.shape([(0.02, 0.68), (0.98, 0.68), (0.8, 0.97), (0.2, 0.97)], pen.paint)
    pen.stroke([(0.09, 0.77), (0.91, 0.77)], pen.pale, width=0.05)


def draw_train(pen: Pen) -> None:
    """A steam engine with a cab, a boiler and a chimney."""
    pen.box(0.68, 0.1, 0.8, 0.4, STEEL)
    pen.box(0.64, 0.04, 0.84, 0.14, STEEL)
    pen.box(0.04, 0.12, 0.44, 0.78, pen.paint, round_by=0.03)
    pen.box(0.0, 0.06, 0.48, 0.15, pen.deep)
    pen.box(0.4, 0.36, 0.94, 0.78, pen.paint, round_by=0.12)
    pen.box(0.12, 0.24, 0.36, 0.46, GLASS)
    pen.shape([(0.88, 0.78), (1.0, 0.94), (0.84, 0.94)], STEEL, line=0)
    for x in (0.16, 0.46, 0.74):
        pen.dot(x, 0.83, 0.14, INK)
        pen.dot(x, 0.83, 0.07, GREY)


def draw_rocket(pen: Pen) -> None:
    """A rocket standing on its fins."""
    pen.shape([(0.36, 0.56), (0.1, 0.94), (0.36, 0.86)], pen.deep)
    pen.shape([(0.64, 0.56), (0.9, 0.94), (0.64, 0.86)], pen.deep)
    body = [(0.5, 0.01), (0.66, 0.2), (0.71, 0.48), (0.66, 0.88), (0.34, 0.88), (0.29, 0.48), (0.34, 0.2)]
    pen.shape(body, pen.paint)
    pen.box(0.4, 0.88, 0.6, 0.97, STEEL)
    pen.dot(0.5, 0.38, 0.12, WHITE)
    pen.dot(0.5, 0.38, 0.08, GLASS)


def draw_tractor(pen: Pen) -> None:
    """A tractor with one large and one small wheel."""
    pen.stroke([(0.86, 0.16), (0.86, 0.5)], STEEL, width=0.06)
    pen.box(0.16, 0.04, 0.56, 0.5, GLASS)
    pen.box(0.1, 0.0, 0.6, 0.1, pen.paint)
    pen.box(0.12, 0.4, 0.98, 0.74, pen.paint, round_by=0.06)
    pen.dot(0.3, 0.7, 0.28, INK)
    pen.dot(0.3, 0.7, 0.13, pen.pale)
    pen.dot(0.82, 0.82, 0.17, INK)
    pen.dot(0.82, 0.82, 0.07, pen.pale)


def draw_plane(pen: Pen) -> None:
    """A small aeroplane with a propeller."""
    pen.shape([(0.04, 0.2), (0.16, 0.2), (0.26, 0.46), (0.08, 0.46)], pen.deep)
    pen.oval(0.04, 0.36, 0.94, 0.72, pen.paint)
    pen.shape([(0.38, 0.54), (0.6, 0.54), (0.44, 0.92), (0.28, 0.92)], pen.deep)
    for x in (0.4, 0.54, 0.68):
        pen.dot(x, 0.47, 0.05, GLASS)
    pen.oval(0.93, 0.26, 0.99, 0.82, GREY, line=0.02)


def draw_balloon(pen: Pen) -> None:
    """A hot-air balloon with stripes and a basket."""
    pen.stroke([(0.3, 0.6), (0.42, 0.86)], INK, width=0.02)
    pen.stroke([(0.7, 0.6), (0.58, 0.86)], INK, width=0.02)
    pen.oval(0.12, 0.0, 0.88, 0.72, pen.paint)
    pen.oval(0.34, 0.03, 0.66, 0.69, pen.pale, line=0)
    pen.box(0.4, 0.84, 0.6, 0.99, WOOD)


def _wheels(pen: Pen, *middles: float, radius: float) -> None:
    for x in middles:
        pen.dot(x, 0.98 - radius, radius, INK)
        pen.dot(x, 0.98 - radius, radius * 0.48, GREY)
