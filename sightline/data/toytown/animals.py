"""Things that live. Each function fills the pen's box, feet at the bottom, looking to the right."""

from __future__ import annotations

from sightline.data.toytown.pen import BEAK, CREAM, INK, WHITE, Pen


def draw_duck(pen: Pen) -> None:
    """A swimming-toy duck."""
    pen.shape([(0.02, 0.46), (0.24, 0.6), (0.16, 0.78)], pen.deep)
    pen.oval(0.06, 0.46, 0.84, 0.97, pen.paint)
    pen.shape([(0.82, 0.24), (1.0, 0.32), (0.82, 0.4)], BEAK)
    pen.oval(0.48, 0.06, 0.88, 0.54, pen.paint)
    pen.oval(0.2, 0.58, 0.56, 0.84, pen.deep, line=0)
    _eye(pen, 0.74, 0.24)


def draw_cat(pen: Pen) -> None:
    """A sitting cat with a raised tail."""
    pen.stroke([(0.24, 0.88), (0.06, 0.7), (0.1, 0.42)], INK, width=0.13)
    pen.stroke([(0.24, 0.88), (0.06, 0.7), (0.1, 0.42)], pen.paint, width=0.08)
    pen.oval(0.18, 0.44, 0.78, 0.98, pen.paint)
    pen.shape([(0.34, 0.26), (0.36, 0.01), (0.56, 0.14)], pen.deep)
    pen.shape([(0.7, 0.14), (0.9, 0.01), (0.92, 0.26)], pen.deep)
    pen.oval(0.32, 0.1, 0.94, 0.58, pen.paint)
    _eye(pen, 0.52, 0.32)
    _eye(pen, 0.74, 0.32)
    pen.shape([(0.59, 0.41), (0.67, 0.41), (0.63, 0.46)], INK, line=0)
    pen.oval(0.36, 0.62, 0.62, 0.92, pen.pale, line=0)


def draw_dog(pen: Pen) -> None:
    """A standing dog with a hanging ear."""
    pen.stroke([(0.12, 0.56), (0.02, 0.3)], INK, width=0.12)
    pen.stroke([(0.12, 0.56), (0.02, 0.3)], pen.paint, width=0.07)
    for x in (0.14, 0.3, 0.52, 0.66):
        pen.box(x, 0.66, x + 0.11, 0.98, pen.deep)
    pen.box(0.08, 0.42, 0.78, 0.78, pen.paint, round_by=0.16)
    pen.oval(0.78, 0.26, 1.0, 0.48, pen.pale)
    pen.oval(0.5, 0.08, 0.9, 0.52, pen.paint)
    pen.oval(0.48, 0.1, 0.62, 0.5, pen.deep)
    _eye(pen, 0.74, 0.25)
    pen.dot(0.95, 0.33, 0.045, INK)


def draw_rabbit(pen: Pen) -> None:
    """A sitting rabbit with long ears."""
    pen.oval(0.4, 0.0, 0.54, 0.42, pen.paint)
    pen.oval(0.6, 0.0, 0.74, 0.42, pen.paint)
    pen.oval(0.44, 0.06, 0.5, 0.34, CREAM, line=0)
    pen.oval(0.64, 0.06, 0.7, 0.34, CREAM, line=0)
    pen.dot(0.14, 0.82, 0.1, WHITE, line=0.03)
    pen.oval(0.14, 0.5, 0.78, 0.98, pen.paint)
    pen.oval(0.36, 0.28, 0.84, 0.68, pen.paint)
    pen.oval(0.2, 0.66, 0.48, 0.94, pen.deep, line=0)
    _eye(pen, 0.7, 0.44)
    pen.dot(0.82, 0.5, 0.035, INK)


def draw_owl(pen: Pen) -> None:
    """An owl seen from the front, with round eyes."""
    pen.shape([(0.2, 0.22), (0.18, 0.0), (0.42, 0.12)], pen.paint)
    pen.shape([(0.8, 0.22), (0.82, 0.0), (0.58, 0.12)], pen.paint)
    pen.oval(0.14, 0.06, 0.86, 0.94, pen.paint)
    pen.oval(0.32, 0.5, 0.68, 0.9, pen.pale, line=0)
    pen.oval(0.1, 0.42, 0.28, 0.86, pen.deep)
    pen.oval(0.72, 0.42, 0.9, 0.86, pen.deep)
    for x in (0.36, 0.64):
        pen.dot(x, 0.3, 0.14, WHITE, line=0.03)
        pen.dot(x, 0.3, 0.06, INK)
    pen.shape([(0.44, 0.4), (0.56, 0.4), (0.5, 0.53)], BEAK)
    pen.box(0.34, 0.91, 0.46, 0.98, BEAK, line=0.02)
    pen.box(0.54, 0.91, 0.66, 0.98, BEAK, line=0.02)


def draw_bear(pen: Pen) -> None:
    """A sitting teddy bear."""
    pen.oval(0.2, 0.02, 0.42, 0.26, pen.deep)
    pen.oval(0.58, 0.02, 0.8, 0.26, pen.deep)
    pen.oval(0.06, 0.52, 0.3, 0.78, pen.paint)
    pen.oval(0.7, 0.52, 0.94, 0.78, pen.paint)
    pen.oval(0.2, 0.44, 0.8, 0.94, pen.paint)
    pen.oval(0.33, 0.56, 0.67, 0.88, pen.pale, line=0)
    pen.oval(0.1, 0.78, 0.4, 0.99, pen.deep)
    pen.oval(0.6, 0.78, 0.9, 0.99, pen.deep)
    pen.oval(0.22, 0.06, 0.78, 0.54, pen.paint)
    pen.oval(0.37, 0.28, 0.63, 0.5, CREAM, line=0.02)
    pen.dot(0.5, 0.34, 0.05, INK)
    _eye(pen, 0.37, 0.24)
    _eye(pen, 0.63, 0.24)


def draw_turtle(pen: Pen) -> None:
    """A turtle: the shell in the paint."""
    for x in (0.2, 0.58):
        pen.oval(x, 0.72, x + 0.18, 0.98, pen.pale)
    pen.oval(0.74, 0.42, 1.0, 0.76, pen.pale)
    pen.slice(0.04, 0.14, 0.84, 1.5, pen.paint, start=180, end=360)
    pen.box(0.02, 0.74, 0.86, 0.86, pen.deep, round_by=0.05)
    for x, y in ((0.24, 0.54), (0.44, 0.4), (0.64, 0.54)):
        pen.dot(x, y, 0.09, pen.deep)
    _eye(pen, 0.9, 0.55)


def draw_dinosaur(pen: Pen) -> None:
    """A long-necked dinosaur."""
    for x in (0.26, 0.4, 0.56, 0.66):
        pen.box(x, 0.66, x + 0.11, 0.98, pen.deep)
    pen.shape([(0.0, 0.62), (0.34, 0.5), (0.34, 0.78)], pen.paint)
    pen.oval(0.2, 0.4, 0.82, 0.84, pen.paint)
    pen.shape([(0.62, 0.6), (0.7, 0.12), (0.84, 0.12), (0.8, 0.62)], pen.paint)
    pen.oval(0.66, 0.0, 1.0, 0.24, pen.paint)
    pen.oval(0.36, 0.42, 0.68, 0.74, pen.paint, line=0)
    pen.shape([(0.66, 0.5), (0.72, 0.14), (0.82, 0.14), (0.78, 0.6)], pen.paint, line=0)
    for x, y in ((0.36, 0.54), (0.48, 0.5), (0.58, 0.6)):
        pen.dot(x, y, 0.045, pen.deep)
    _eye(pen, 0.86, 0.1)


def draw_snail(pen: Pen) -> None:
    """A snail: the house on its back in the paint."""
    pen.stroke([(0.84, 0.6), (0.8, 0.3)], INK, width=0.03)
    pen.stroke([(0.92, 0.6), (0.98, 0.3)], INK, width=0.03)
    pen.dot(0.8, 0.3, 0.04, INK)
    pen.dot(0.98, 0.3, 0.04, INK)
    pen.box(0.04, 0.8, 0.9, 0.98, CREAM, round_by=0.08)
    pen.oval(0.74, 0.52, 1.0, 0.96, CREAM)
    pen.oval(0.1, 0.14, 0.8, 0.9, pen.paint)
    pen.oval(0.26, 0.32, 0.66, 0.76, pen.deep)
    pen.oval(0.36, 0.42, 0.56, 0.64, pen.paint)
    _eye(pen, 0.9, 0.66)


def draw_fish(pen: Pen) -> None:
    """A fish with a large tail."""
    pen.shape([(0.3, 0.5), (0.0, 0.2), (0.06, 0.5), (0.0, 0.82)], pen.deep)
    pen.shape([(0.42, 0.28), (0.66, 0.06), (0.74, 0.32)], pen.deep)
    pen.oval(0.2, 0.2, 0.98, 0.82, pen.paint)
    pen.oval(0.4, 0.42, 0.6, 0.66, pen.pale, line=0)
    _eye(pen, 0.82, 0.42)


def draw_butterfly(pen: Pen) -> None:
    """A butterfly with open wings."""
    for x0, x1 in ((0.02, 0.5), (0.5, 0.98)):
        pen.oval(x0, 0.08, x1, 0.58, pen.paint)
        pen.oval(x0 + 0.08, 0.5, x1 - 0.04, 0.9, pen.deep)
        pen.oval(x0 + 0.14, 0.22, x1 - 0.14, 0.44, pen.pale, line=0)
    pen.oval(0.44, 0.16, 0.56, 0.88, INK, line=0)


def _eye(pen: Pen, x: float, y: float) -> None:
    pen.dot(x, y, 0.065, WHITE)
    pen.dot(x, y, 0.045, INK)
