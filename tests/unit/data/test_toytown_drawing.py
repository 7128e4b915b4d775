"""Drawings: recognisable by their colours at 64 pixels, the same every time, at any size."""

from __future__ import annotations

import numpy as np
import pytest

from sightline.data.toytown.draw import draw_scene
from sightline.data.toytown.pen import LIGHTS
from sightline.data.toytown.world import COLOURS, KINDS, PLACES, TIMES, WEATHERS, Group, Scene


def scene(
    kind: str = "car", *, place: str = "park", time: str = "day", weather: str = "clear", **more: object
) -> Scene:
    group = Group(**{"kind": kind, "colour": "red", "size": "huge", **more})  # type: ignore[arg-type]
    return Scene(place=place, time=time, weather=weather, groups=(group,), layout_seed=1)


def pixels(of: Scene, *, size: int = 64) -> np.ndarray:
    return np.asarray(draw_scene(of, size=size)).astype(int)


def test_the_same_scene_gives_the_same_pixels() -> None:
    assert np.array_equal(pixels(scene()), pixels(scene()))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_shows_its_colour(kind: str) -> None:
    """Change of paint changes a good part of the picture; a drawing whose paint is hidden would not."""
    red, blue = pixels(scene(kind)), pixels(scene(kind, colour="blue"))
    changed = (np.abs(red - blue).sum(axis=2) > 60).mean()
    assert 0.05 < changed < 0.5


def test_kinds_have_different_shapes() -> None:
    pictures = [pixels(scene(kind)) for kind in KINDS]
    for at, first in enumerate(pictures):
        for second in pictures[at + 1 :]:
            assert (np.abs(first - second).sum(axis=2) > 60).mean() > 0.05


@pytest.mark.parametrize("time", TIMES)
def test_colours_stay_apart_at_every_hour(time: str) -> None:
    lit = np.array([LIGHTS[time].on_thing(colour) for colour in COLOURS.values()], dtype=float)
    distances = np.linalg.norm(lit[:, None] - lit[None], axis=2) + 1000 * np.eye(len(lit))
    assert distances.min() > 55


@pytest.mark.parametrize("time", TIMES)
@pytest.mark.parametrize("weather", WEATHERS)
def test_paint_is_what_most_of_a_thing_shows(time: str, weather: str) -> None:
    """In any weather the paint's own lit colour is nearest to the middle of the thing."""
    for name in COLOURS:
        middle = np.median(
            pixels(scene("ball", time=time, weather=weather, colour=name))[36:56, 18:24].reshape(-1, 3), axis=0
        )
        lit = {other: np.array(LIGHTS[time].on_thing(colour)) for other, colour in COLOURS.items()}
        assert min(lit, key=lambda other: float(np.linalg.norm(lit[other] - middle))) == name


@pytest.mark.parametrize("time", TIMES)
def test_places_look_different(time: str) -> None:
    pictures = [pixels(scene(place=place, time=time, size="small")) for place in PLACES]
    for at, first in enumerate(pictures):
        for second in pictures[at + 1 :]:
            assert np.abs(first - second).sum(axis=2).mean() > 15


def test_hours_darken_and_weathers_differ() -> None:
    day, dusk, night = (pixels(scene(time=time)).mean() for time in TIMES)
    assert day > dusk > night
    pictures = [pixels(scene(weather=weather)) for weather in WEATHERS]
    assert min(np.abs(a - b).mean() for at, a in enumerate(pictures) for b in pictures[at + 1 :]) > 3


@pytest.mark.parametrize("size", [16, 65, 300])
def test_any_size_shows_the_same_scene(size: int) -> None:
    small = np.asarray(draw_scene(scene(), size=size).resize((16, 16))).astype(int)
    large = np.asarray(draw_scene(scene(), size=512).resize((16, 16))).astype(int)
    assert np.abs(small - large).mean() < 12


def test_counts_are_drawn() -> None:
    changed = [
        (
            np.abs(
                pixels(scene("ball", size="small", count=count))
                - pixels(scene("ball", size="small", count=count, colour="blue"))
            ).sum(axis=2)
            > 60
        ).mean()
        for count in (1, 2, 3)
    ]
    assert changed[0] * 1.7 < changed[1]
    assert changed[1] * 1.3 < changed[2]


def test_groups_stand_from_left_to_right() -> None:
    groups = (Group(kind="ball", colour="red"), Group(kind="ball", colour="blue"))
    picture = pixels(Scene(place="street", time="day", weather="clear", groups=groups, layout_seed=1))
    red_x = np.nonzero((picture[..., 0] > 180) & (picture[..., 1] < 80))[1].mean()
    blue_x = np.nonzero((picture[..., 2] > 190) & (picture[..., 0] < 80))[1].mean()
    assert red_x < blue_x


@pytest.mark.parametrize("kind", KINDS)
def test_even_the_smallest_crowd_can_be_drawn(kind: str) -> None:
    assert draw_scene(scene(kind, size="small", count=4), size=16).size == (16, 16)


@pytest.mark.parametrize("change", [{"place": "street"}, {"weather": "rain"}, {"time": "dusk"}])
def test_things_stay_where_they_are_when_the_rest_changes(change: dict[str, str]) -> None:
    def where(**changed: str) -> np.ndarray:
        """Where the paint of a lop-sided thing shows."""
        red, blue = (pixels(scene("duck", colour=colour, **changed)) for colour in ("red", "blue"))
        return np.abs(red - blue).sum(axis=2) > 60

    assert (where() == where(**change)).mean() > 0.97
