"""One picture that shows people what a Toytown is like."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from sightline.data.toytown.draw import draw_scene
from sightline.data.toytown.language import caption_of, edit_text
from sightline.data.toytown.scenes import edits_of, named_scene, ordinary_scene
from sightline.data.toytown.world import KINDS, PLACES, TIMES, WEATHERS, Group, Scene, Subject, make_subjects

Tile = tuple[Scene, str]
"""A scene and what stands below it."""

_COLUMNS = 8
_GAP = 10
_PAPER = (252, 250, 246)
_TEXT = (52, 48, 60)


def write_contact_sheet(path: Path, *, seed: int = 0, tile: int = 160) -> None:
    """A PNG of pictures `tile` pixels wide: every kind, subjects at home, ordinary scenes and composed queries."""
    rng = random.Random(f"contact sheet {seed}")
    subjects = make_subjects(seed=seed)
    sections = [
        ("Kinds", _kind_tiles()),
        ("Places, hours and weathers", _place_tiles()),
        ("Named subjects: no caption tells a colour or a place", _subject_tiles(subjects, rng=rng)),
        ("Ordinary scenes", _ordinary_tiles(subjects, rng=rng)),
        ("Composed queries: each picture follows from the first of its row half", _edit_tiles(subjects, rng=rng)),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    _sheet(sections, tile=tile).save(path)


def _kind_tiles() -> list[Tile]:
    colours = ("red", "blue", "yellow", "green", "pink", "orange", "purple", "white")
    return [
        (_plain(kind, colour=colours[number % 8], place=list(PLACES)[(number + number // 8) % 8]), kind)
        for number, kind in enumerate(KINDS)
    ]


def _plain(kind: str, *, colour: str, place: str) -> Scene:
    group = Group(kind=kind, colour=colour, size="huge")
    return Scene(place=place, time="day", weather="clear", groups=(group,), layout_seed=3)


def _place_tiles() -> list[Tile]:
    cat = Group(kind="cat", colour="orange")
    return [
        (
            Scene(place=place, time=time, weather=WEATHERS[(row + shift) % 4], groups=(cat,), layout_seed=row),
            f"{place}, {time}, {WEATHERS[(row + shift) % 4]}",
        )
        for shift, time in enumerate(TIMES)
        for row, place in enumerate(PLACES)
    ]


def _subject_tiles(subjects: Sequence[Subject], *, rng: random.Random) -> list[Tile]:
    scenes = [named_scene(rng, subject=subject) for subject in subjects[:24]]
    return [(scene, caption_of(scene, rng=rng)) for scene in scenes]


def _ordinary_tiles(subjects: Sequence[Subject], *, rng: random.Random) -> list[Tile]:
    scenes = [ordinary_scene(rng, subjects=subjects) for _ in range(24)]
    return [(scene, caption_of(scene, rng=rng)) for scene in scenes]


def _edit_tiles(subjects: Sequence[Subject], *, rng: random.Random) -> list[Tile]:
    tiles: list[Tile] = []
    for _ in range(6):
        scene = ordinary_scene(rng, subjects=subjects)
        edits = islice(edits_of(scene, rng=rng), 3)
        tiles += [(scene, "reference"), *((edit.scene, edit_text(edit, rng=rng)) for edit in edits)]
    return tiles


def _sheet(sections: Sequence[tuple[str, list[Tile]]], *, tile: int) -> Image.Image:
    head, foot = tile // 3, tile // 3
    rows = sum(-(-len(tiles) // _COLUMNS) for _, tiles in sections)
    width = _COLUMNS * (tile + _GAP) + _GAP
    sheet = Image.new("RGB", (width, rows * (tile + foot) + len(sections) * head + _GAP), _PAPER)
    draw = ImageDraw.Draw(sheet)
    title_font, font = ImageFont.load_default(size=tile // 7), ImageFont.load_default(size=tile // 13)
    top = 0
    for title, tiles in sections:
        draw.text((_GAP, top + head // 4), title, fill=_TEXT, font=title_font)
        top += head
        for number, (scene, text) in enumerate(tiles):
            row, column = divmod(number, _COLUMNS)
            x, y = _GAP + column * (tile + _GAP), top + row * (tile + foot)
            sheet.paste(draw_scene(scene, size=tile), (x, y))
            lines = "\n".join(islice(_wrapped(text, draw=draw, font=font, width=tile), 3))
            draw.text((x, y + tile + 3), lines, fill=_TEXT, font=font)
        top += -(-len(tiles) // _COLUMNS) * (tile + foot)
    return sheet


def _wrapped(
    text: str, *, draw: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int
) -> Iterator[str]:
    line = ""
    for word in text.split():
        longer = f"{line} {word}".strip()
        if line and draw.textlength(longer, font=font) > width:
            yield line
            line = word
        else:
            line = longer
    yield line
