"""Buildings, plants and toys. Each function fills the pen's box, standing on its bottom edge."""

from __future__ import annotations

from sightline.data.toytown.pen import CREAM, GLASS, GREY, INK, LEAF, STEEL, WHITE, WOOD, Pen


def draw_robot(pen: Pen) -> None:
    """A square robot with an antenna."""
    pen.stroke([(0.5, 0.02), (0.5, 0.14)], INK, width=0.04)
    pen.dot(0.5, 0.05, 0.05, pen.pale, line=0.02)
    pen.box(0.02, 0.46, 0.18, 0.72, STEEL)
    pen.box(0.82, 0.46, 0.98, 0.72, STEEL)
    pen.box(0.28, 0.8, 0.44, 0.98, STEEL)
    pen.box(0.56, 0.8, 0.72, 0.98, STEEL)
    pen.box(0.18, 0.42, 0.82, 0.84, pen.paint, round_by=0.04)
    pen.box(0.24, 0.12, 0.76, 0.42, pen.paint, round_by=0.06)
    pen.box(0.32, 0.52, 0.68, 0.7, CREAM, line=0.02)
    for x in (0.38, 0.62):
        pen.dot(x, 0.25, 0.08, WHITE, line=0.02)
        pen.dot(x, 0.25, 0.035, INK)


def draw_house(pen: Pen) -> None:
    """A house: walls in the paint, a dark roof."""
    pen.box(0.7, 0.08, 0.82, 0.4, STEEL)
    pen.box(0.12, 0.42, 0.88, 0.98, pen.paint)
    pen.shape([(0.02, 0.45), (0.5, 0.06), (0.98, 0.45)], (110, 74, 66))
    pen.box(0.2, 0.54, 0.42, 0.74, GLASS)
    pen.box(0.56, 0.58, 0.76, 0.98, WOOD)


def draw_castle(pen: Pen) -> None:
    """A castle with two towers."""
    pen.box(0.2, 0.4, 0.8, 0.98, pen.paint)
    for left in (0.04, 0.68):
        pen.box(left, 0.26, left + 0.28, 0.98, pen.paint)
        pen.shape([(left - 0.04, 0.27), (left + 0.14, 0.01), (left + 0.32, 0.27)], pen.deep)
        pen.box(left + 0.09, 0.42, left + 0.19, 0.58, INK, line=0)
    for left in (0.36, 0.48, 0.6):
        pen.box(left - 0.02, 0.32, left + 0.06, 0.44, pen.paint, line=0.02)
    pen.box(0.4, 0.66, 0.6, 0.98, WOOD, round_by=0.08)


def draw_tent(pen: Pen) -> None:
    """A tent with an open door."""
    pen.shape([(0.5, 0.1), (0.98, 0.97), (0.02, 0.97)], pen.paint)
    pen.shape([(0.5, 0.1), (0.66, 0.97), (0.98, 0.97)], pen.deep, line=0)
    pen.shape([(0.42, 0.44), (0.56, 0.97), (0.28, 0.97)], INK, line=0)


def draw_windmill(pen: Pen) -> None:
    """A windmill with four sails."""
    pen.shape([(0.36, 0.34), (0.64, 0.34), (0.76, 0.98), (0.24, 0.98)], pen.paint)
    pen.shape([(0.32, 0.36), (0.5, 0.18), (0.68, 0.36)], pen.deep)
    pen.box(0.42, 0.74, 0.58, 0.98, WOOD, line=0.02)
    for end in ((0.1, 0.06), (0.9, 0.06), (0.1, 0.64), (0.9, 0.64)):
        pen.stroke([(0.5, 0.35), end], INK, width=0.1)
        pen.stroke([(0.5, 0.35), end], WHITE, width=0.06)
    pen.dot(0.5, 0.35, 0.05, STEEL)


def draw_kite(pen: Pen) -> None:
    """A diamond kite with a tail."""
    pen.stroke([(0.5, 0.7), (0.36, 0.8), (0.52, 0.88), (0.4, 0.98)], INK, width=0.03)
    pen.shape([(0.5, 0.02), (0.84, 0.32), (0.5, 0.74), (0.16, 0.32)], pen.paint)
    pen.shape([(0.5, 0.02), (0.84, 0.32), (0.5, 0.32)], pen.pale, line=0)
    pen.shape([(0.5, 0.32), (0.16, 0.32), (0.5, 0.74)], pen.deep, line=0)


def draw_ball(pen: Pen) -> None:
    """A beach ball with a white stripe."""
    pen.oval(0.04, 0.06, 0.96, 0.98, pen.paint)
    pen.oval(0.36, 0.09, 0.64, 0.95, WHITE, line=0)
    pen.oval(0.4, 0.1, 0.56, 0.24, pen.pale, line=0)


def draw_umbrella(pen: Pen) -> None:
    """An open umbrella with a bent handle."""
    pen.stroke([(0.5, 0.3), (0.5, 0.9), (0.56, 0.96), (0.64, 0.92)], WOOD, width=0.06)
    pen.slice(0.02, 0.06, 0.98, 1.02, pen.paint, start=180, end=360)
    pen.slice(0.32, 0.08, 0.68, 1.0, pen.pale, start=180, end=360, line=0.02)


def draw_teapot(pen: Pen) -> None:
    """A round teapot."""
    pen.oval(0.0, 0.4, 0.34, 0.84, pen.deep)
    pen.oval(0.08, 0.5, 0.28, 0.74, GREY)
    pen.shape([(0.7, 0.7), (0.88, 0.36), (1.0, 0.32), (0.84, 0.84)], pen.deep)
    pen.oval(0.16, 0.3, 0.84, 0.97, pen.paint)
    pen.box(0.34, 0.24, 0.66, 0.36, pen.deep, round_by=0.05)
    pen.dot(0.5, 0.18, 0.07, pen.pale, line=0.03)


def draw_cup(pen: Pen) -> None:
    """A cup with a handle."""
    pen.oval(0.58, 0.36, 0.98, 0.78, pen.deep)
    pen.oval(0.68, 0.46, 0.88, 0.68, GREY)
    pen.shape([(0.08, 0.22), (0.76, 0.22), (0.68, 0.97), (0.16, 0.97)], pen.paint)
    pen.oval(0.08, 0.12, 0.76, 0.32, CREAM)
    pen.stroke([(0.14, 0.62), (0.7, 0.62)], pen.pale, width=0.1)


def draw_hat(pen: Pen) -> None:
    """A top hat with a band."""
    pen.box(0.24, 0.14, 0.76, 0.86, pen.paint, round_by=0.04)
    pen.box(0.24, 0.64, 0.76, 0.78, INK, line=0)
    pen.oval(0.02, 0.76, 0.98, 0.98, pen.paint)


def draw_drum(pen: Pen) -> None:
    """A drum with zigzag strings."""
    pen.stroke([(0.2, 0.02), (0.5, 0.24)], WOOD, width=0.06)
    pen.stroke([(0.86, 0.04), (0.56, 0.24)], WOOD, width=0.06)
    pen.box(0.08, 0.3, 0.92, 0.92, pen.paint, round_by=0.08)
    zigzag = [(0.1, 0.42), (0.26, 0.84), (0.42, 0.42), (0.58, 0.84), (0.74, 0.42), (0.9, 0.84)]
    pen.stroke(zigzag, WHITE, width=0.04)
    pen.oval(0.08, 0.2, 0.92, 0.44, CREAM)


def draw_gift(pen: Pen) -> None:
    """A wrapped box with a ribbon."""
    pen.oval(0.24, 0.06, 0.5, 0.32, CREAM)
    pen.oval(0.5, 0.06, 0.76, 0.32, CREAM)
    pen.box(0.1, 0.42, 0.9, 0.98, pen.paint)
    pen.box(0.04, 0.28, 0.96, 0.48, pen.deep)
    pen.box(0.42, 0.28, 0.58, 0.98, CREAM, line=0.02)


def draw_tree(pen: Pen) -> None:
    """A tree: the crown in the paint."""
    pen.box(0.42, 0.6, 0.58, 0.98, WOOD)
    pen.oval(0.06, 0.24, 0.54, 0.72, pen.deep)
    pen.oval(0.46, 0.24, 0.94, 0.72, pen.deep)
    pen.oval(0.2, 0.02, 0.8, 0.66, pen.paint)


def draw_flower(pen: Pen) -> None:
    """A flower with five petals."""
    pen.stroke([(0.5, 0.4), (0.5, 0.98)], LEAF, width=0.07)
    pen.oval(0.5, 0.68, 0.82, 0.84, LEAF, line=0.02)
    for x, y in ((0.5, 0.14), (0.74, 0.3), (0.65, 0.56), (0.35, 0.56), (0.26, 0.3)):
        pen.dot(x, y, 0.16, pen.paint, line=0.03)
    pen.dot(0.5, 0.36, 0.13, (120, 76, 40), line=0.02)


def draw_mushroom(pen: Pen) -> None:
    """A mushroom: the cap in the paint, with light spots."""
    pen.box(0.36, 0.5, 0.64, 0.98, CREAM, round_by=0.06)
    pen.slice(0.04, 0.06, 0.96, 1.1, pen.paint, start=180, end=360)
    for x, y in ((0.28, 0.4), (0.52, 0.24), (0.72, 0.44)):
        pen.dot(x, y, 0.07, CREAM)
