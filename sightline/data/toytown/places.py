"""Backgrounds: sky, land and landmarks of each place, drawn in the light of the hour."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

from sightline.data.toytown.pen import Pen, mix
from sightline.data.toytown.world import RGB

HORIZON = 0.56
"""Where land meets sky, from the top."""

SKIES: dict[str, tuple[RGB, RGB]] = {
    "day": ((92, 176, 240), (206, 236, 252)),
    "dusk": ((92, 66, 134), (252, 170, 120)),
    "night": ((10, 14, 44), (40, 50, 100)),
}
"""Top and bottom of the sky at each hour."""


def draw_sky(pen: Pen, *, time: str, weather: str, rng: random.Random) -> None:
    """Sky with sun, moon or stars where the weather lets them be seen. The pen has no tint."""
    top, bottom = SKIES[time]
    if weather != "clear":
        veil = {"day": (176, 186, 198), "dusk": (136, 112, 130), "night": (34, 38, 58)}[time]
        top, bottom = mix(top, veil, share=0.75), mix(bottom, veil, share=0.6)
    bands = 24
    for band in range(bands):
        level = band / bands * HORIZON
        pen.box(0, level, 1, level + HORIZON / bands + 0.01, mix(top, bottom, share=band / (bands - 1)), line=0)
    if weather == "clear":
        _lights(pen, time=time, rng=rng)
    else:
        _clouds(pen, time=time, rng=rng)


def draw_land(pen: Pen, *, place: str, weather: str, rng: random.Random) -> None:
    """The land and landmarks of a place; snow whitens the ground. The pen has the land's tint."""
    _LANDS[place](pen, rng)
    if weather == "snow":
        for _ in range(9):
            x, y = rng.uniform(-0.1, 0.9), rng.uniform(0.66, 0.96)
            pen.oval(x, y, x + rng.uniform(0.2, 0.34), y + 0.05, (240, 244, 250), line=0)


def _lights(pen: Pen, *, time: str, rng: random.Random) -> None:
    x, y = rng.choice((0.14, 0.86)), rng.uniform(0.1, 0.16)
    if time == "day":
        pen.dot(x, y, 0.08, (255, 240, 150))
        cloud_x = 0.62 - x / 2
        for shift, radius in ((0, 0.035), (0.05, 0.05), (0.1, 0.035)):
            pen.dot(cloud_x + shift, 0.12, radius, (250, 252, 255))
    elif time == "dusk":
        pen.dot(x, 0.44, 0.11, (255, 206, 110))
    else:
        for _ in range(22):
            pen.dot(rng.random(), rng.uniform(0, HORIZON - 0.1), rng.choice((0.006, 0.009)), (240, 240, 220))
        pen.dot(x, y, 0.075, (244, 240, 214))
        pen.dot(x + 0.035, y - 0.02, 0.062, SKIES["night"][0])


def _clouds(pen: Pen, *, time: str, rng: random.Random) -> None:
    shade: RGB = {"day": (140, 150, 164), "dusk": (104, 84, 108), "night": (22, 26, 42)}[time]
    for _ in range(5):
        x, y = rng.uniform(-0.05, 0.95), rng.uniform(0.02, 0.12)
        for shift, radius in ((-0.06, 0.05), (0, 0.075), (0.07, 0.05)):
            pen.dot(x + shift, y, radius, shade)


def _beach(pen: Pen, rng: random.Random) -> None:
    pen.box(0, HORIZON - 0.1, 1, 0.7, (34, 150, 206), line=0)
    for y in (0.51, 0.57, 0.62):
        x = rng.uniform(0, 0.6)
        pen.stroke([(x, y), (x + 0.3, y)], (180, 226, 240), width=0.012)
    pen.box(0, 0.67, 1, 0.7, (236, 248, 250), line=0)
    pen.box(0, 0.69, 1, 1, (242, 216, 150), line=0)
    x = rng.choice((0.06, 0.94))
    pen.stroke([(x, 0.72), (x + (0.5 - x) * 0.08, 0.32)], (150, 104, 62), width=0.035)
    for end in ((-0.14, 0.36), (-0.1, 0.24), (0.1, 0.24), (0.14, 0.36)):
        pen.stroke([(x + (0.5 - x) * 0.08, 0.32), (x + end[0], end[1])], (48, 140, 70), width=0.035)


def _harbour(pen: Pen, rng: random.Random) -> None:
    pen.box(0, HORIZON - 0.06, 1, 0.84, (24, 84, 140), line=0)
    for y in (0.55, 0.61, 0.67, 0.73, 0.79):
        for _ in range(3):
            x = rng.uniform(-0.1, 0.9)
            pen.stroke([(x, y), (x + 0.05, y - 0.015), (x + 0.1, y)], (150, 200, 226), width=0.012)
    side = rng.choice((0.0, 0.8))
    pen.shape(
        [(side + 0.05, 0.54), (side + 0.07, 0.14), (side + 0.15, 0.14), (side + 0.17, 0.54)], (226, 222, 214), line=0
    )
    for y in (0.22, 0.36):
        pen.box(side + 0.065, y, side + 0.155, y + 0.06, (120, 120, 130), line=0)
    pen.box(side + 0.06, 0.07, side + 0.16, 0.14, (90, 84, 88), line=0)
    replace(pen, tint=(1.0, 1.0, 1.0)).dot(side + 0.11, 0.105, 0.022, (255, 240, 170))
    pen.box(0, 0.82, 1, 1, (132, 104, 80), line=0)
    for y in (0.82, 0.88, 0.94):
        pen.stroke([(0, y), (1, y)], (92, 70, 54), width=0.014)
    for x in (0.12, 0.5, 0.88):
        pen.box(x - 0.03, 0.75, x + 0.03, 0.86, (80, 60, 48), line=0)


def _park(pen: Pen, rng: random.Random) -> None:
    for x in (0.04, 0.22, 0.44, 0.66, 0.88):
        pen.dot(x + rng.uniform(-0.03, 0.03), HORIZON - 0.03, 0.12, (70, 150, 76))
    pen.box(0, HORIZON, 1, 1, (124, 200, 92), line=0)
    pen.shape([(0.4, HORIZON), (0.52, HORIZON), (0.9, 1.0), (0.3, 1.0)], (226, 206, 160), line=0)
    x = rng.choice((0.02, 0.76))
    pen.box(x, 0.62, x + 0.22, 0.65, (150, 100, 60), line=0)
    pen.box(x, 0.56, x + 0.22, 0.59, (150, 100, 60), line=0)
    for leg in (0.02, 0.18):
        pen.box(x + leg, 0.56, x + leg + 0.02, 0.72, (90, 70, 60), line=0)
    for _ in range(7):
        pen.dot(rng.random(), rng.uniform(0.64, 0.98), 0.012, (250, 246, 190))


def _street(pen: Pen, rng: random.Random) -> None:
    walls: tuple[RGB, ...] = ((176, 164, 160), (150, 138, 136), (194, 182, 170), (164, 150, 146))
    lamps = replace(pen, tint=(1.0, 1.0, 1.0))
    left = 0.0
    for number in range(4):
        width, top = 0.25, rng.uniform(0.12, 0.3)
        pen.box(left, top, left + width, 0.7, walls[number], line=0)
        for row in range(3):
            for column in range(2):
                x, y = left + 0.05 + column * 0.1, top + 0.06 + row * 0.13
                lamps.box(x, y, x + 0.055, y + 0.07, (252, 232, 160), line=0)
        left += width
    pen.box(0, 0.64, 1, 0.7, (190, 188, 184), line=0)
    pen.box(0, 0.69, 1, 1, (92, 94, 102), line=0)
    for x in (0.02, 0.36, 0.7):
        pen.box(x, 0.84, x + 0.2, 0.87, (236, 236, 220), line=0)


def _farm(pen: Pen, rng: random.Random) -> None:
    pen.shape([(0, HORIZON + 0.02), (0.3, 0.48), (0.7, 0.5), (1, HORIZON)], (178, 196, 90), line=0)
    pen.box(0, HORIZON, 1, 1, (134, 92, 58), line=0)
    for start in (-1.0, -0.6, -0.2, 0.2, 0.6, 1.0, 1.4, 1.8):
        end = 0.5 + (start - 0.5) * 0.34
        pen.shape([(start, 1.0), (start + 0.2, 1.0), (end + 0.07, HORIZON), (end, HORIZON)], (204, 190, 70), line=0)
    x = rng.choice((0.0, 0.7))
    pen.box(x + 0.02, 0.34, x + 0.24, 0.6, (120, 66, 52), line=0)
    pen.shape([(x, 0.36), (x + 0.05, 0.24), (x + 0.21, 0.24), (x + 0.26, 0.36)], (84, 62, 60), line=0)
    pen.box(x + 0.09, 0.44, x + 0.17, 0.6, (236, 222, 200), line=0)
    for post in range(8):
        pen.box(post / 7 - 0.012, 0.58, post / 7 + 0.012, 0.68, (240, 236, 226), line=0)
    pen.stroke([(0, 0.62), (1, 0.62)], (240, 236, 226), width=0.016)


def _mountains(pen: Pen, rng: random.Random) -> None:
    for middle, y, reach in ((0.2, 0.12, 0.42), (0.8, 0.08, 0.46), (0.5, 0.24, 0.36)):
        x = middle + rng.uniform(-0.05, 0.05)
        pen.shape([(x - reach, 0.66), (x, y), (x + reach, 0.66)], (112, 118, 140), line=0)
        cap = reach * 0.32
        pen.shape(
            [(x - cap, y + 0.18), (x, y), (x + cap, y + 0.18), (x + cap / 3, y + 0.13), (x - cap / 3, y + 0.15)],
            (244, 248, 252),
            line=0,
        )
    pen.box(0, 0.62, 1, 1, (158, 154, 170), line=0)
    for _ in range(6):
        x, y = rng.random(), rng.uniform(0.7, 0.96)
        pen.shape([(x, y + 0.05), (x + 0.05, y), (x + 0.12, y + 0.05)], (104, 102, 120), line=0)


def _desert(pen: Pen, rng: random.Random) -> None:
    pen.shape([(0.02, 0.6), (0.26, 0.3), (0.5, 0.6)], (214, 160, 92), line=0)
    pen.shape([(0.26, 0.3), (0.5, 0.6), (0.34, 0.6)], (178, 126, 70), line=0)
    pen.box(0, HORIZON, 1, 1, (236, 176, 96), line=0)
    pen.oval(-0.3, 0.54, 0.7, 0.9, (226, 160, 80), line=0)
    pen.oval(0.4, 0.62, 1.4, 1.1, (244, 190, 112), line=0)
    for x in (0.9, 0.66 + rng.uniform(-0.04, 0.04)):
        pen.stroke([(x, 0.66), (x, 0.36)], (56, 128, 76), width=0.045)
        pen.stroke([(x - 0.07, 0.44), (x - 0.07, 0.52), (x, 0.54)], (56, 128, 76), width=0.03)
        pen.stroke([(x + 0.07, 0.4), (x + 0.07, 0.48), (x, 0.5)], (56, 128, 76), width=0.03)


def _forest(pen: Pen, rng: random.Random) -> None:
    pen.box(0, 0.3, 1, 1, (38, 84, 60), line=0)
    pen.box(0, 0.64, 1, 1, (74, 96, 58), line=0)
    for number in range(7):
        x, top = number / 6 + rng.uniform(-0.03, 0.03), rng.uniform(0.02, 0.14)
        pen.box(x - 0.018, 0.5, x + 0.018, 0.7, (84, 60, 46), line=0)
        for level in range(3):
            y, reach = top + level * 0.15, 0.06 + level * 0.025
            tone = (22, 72 + 12 * (number % 2), 50)
            pen.shape([(x, y), (x + reach, y + 0.22), (x - reach, y + 0.22)], tone, line=0)
    for _ in range(6):
        x, y = rng.random(), rng.uniform(0.68, 0.96)
        pen.oval(x, y, x + 0.1, y + 0.03, (96, 118, 66), line=0)


_LANDS: dict[str, Callable[[Pen, random.Random], None]] = {
    "beach": _beach,
    "harbour": _harbour,
    "park": _park,
    "street": _street,
    "farm": _farm,
    "mountains": _mountains,
    "desert": _desert,
    "forest": _forest,
}
