"""Emoji drawings with their names and keywords: splits that do not leak, and captions."""

from __future__ import annotations

import csv
import hashlib
import random
import re
from dataclasses import dataclass
from pathlib import Path

from sightline.data.lines import SkipReport
from sightline.data.triplets import TripletRecord
from sightline.errors import UsageError

SPLITS = ("train", "val", "test")
_VARIANTS = re.compile(r"1F3F[B-F]|2640|2642|200D|FE0F")
"""Skin tones, gender signs, joiner and presentation selector: what twins of one emoji differ in."""
_PEOPLE = {"1F468": "1F9D1", "1F469": "1F9D1"}
"""Man and woman stand for person: a woman astronaut is the twin of a man astronaut."""
_TEMPLATES = (
    "{name}",
    "this is {name}",
    "a picture of {name}",
    "look, {name}",
    "here you see {name}",
    "do you see {name}?",
    "{name}, think of {first}",
    "{first} and {second}: {name}",
    "{name}, something about {first} and {second}",
    "i like this {first} picture: {name}",
)


@dataclass(frozen=True, kw_only=True)
class Emoji:
    """One drawing and what it is called."""

    image_id: str
    path: Path
    name: str
    keywords: tuple[str, ...]
    base: str
    """Codepoints without skin tone and gender: the same for twins."""
    points: str
    """Codepoints without the presentation selector: the same emoji in every style."""

    @property
    def split(self) -> str:
        """'train' (8 of 10 bases), 'val' or 'test'; decided by the base, so that twins stay together."""
        bucket = int(hashlib.sha256(self.base.encode()).hexdigest(), 16) % 10
        return {8: "val", 9: "test"}.get(bucket, "train")


def read_emoji(folder: Path, *, report: SkipReport) -> list[Emoji]:
    """The emoji of `names.tsv` (file, codepoints, name, keywords) in a folder, in its order.

    A row without its picture is counted in `report`. Raises UsageError if there
    is no such table or none of its pictures.
    """
    emoji: list[Emoji] = []
    for number, row in enumerate(_rows(folder / "names.tsv"), start=2):
        path = folder / row["file"]
        if path.is_file():
            emoji.append(_emoji(row, path=path))
        else:
            report.skipped.append(f"names.tsv:{number}: picture {row['file']} does not exist")
    report.num_read += len(emoji)
    if not emoji:
        raise UsageError(f"{folder}: none of the pictures of names.tsv is there")
    return emoji


def base_of(codepoints: str) -> str:
    """The codepoints, in hex and parted by spaces, without what twins differ in."""
    points = [point for point in codepoints.upper().split() if not _VARIANTS.fullmatch(point)]
    return " ".join(_PEOPLE.get(point, point) for point in points)


def captions_for(emoji: Emoji, *, count: int, rng: random.Random) -> list[str]:
    """`count` different captions from name and keywords, the bare name first."""
    others = [word for word in emoji.keywords if word.casefold() != emoji.name.casefold()] or [emoji.name]
    captions = [emoji.name]
    for template in rng.sample(_TEMPLATES[1:], k=count - 1):
        first, second = rng.choice(others), rng.choice(others)
        captions.append(template.format(name=emoji.name, first=first, second=second))
    return captions


@dataclass(frozen=True, kw_only=True)
class ComposedRow:
    """One composed query of a table: this emoji, changed as the text says, is that one."""

    reference: Emoji
    target: Emoji
    text: str
    kind: str
    """'skin tone' or 'gender'; empty if the table does not say."""


def read_composed(folder: Path, *, emoji: list[Emoji]) -> dict[str, list[TripletRecord]]:
    """The composed queries of `triplets.tsv` by split, between emoji that are there; none without such a table."""
    triplets: dict[str, list[TripletRecord]] = {split: [] for split in SPLITS}
    for row in read_composed_rows(folder, emoji=emoji) if (folder / "triplets.tsv").is_file() else []:
        triplets[row.reference.split].append(
            TripletRecord(reference_id=row.reference.image_id, text=row.text, target_ids=(row.target.image_id,))
        )
    return triplets


def read_composed_rows(folder: Path, *, emoji: list[Emoji]) -> list[ComposedRow]:
    """The rows of `triplets.tsv` whose two emoji are there, in one split. Raises UsageError without such a table."""
    known = {one.path.name: one for one in emoji}
    rows: list[ComposedRow] = []
    for row in _rows(folder / "triplets.tsv"):
        reference, target = known.get(row["reference"]), known.get(row["target"])
        if reference and target and reference.split == target.split:
            text, kind = row["modification"], row.get("kind") or ""
            rows.append(ComposedRow(reference=reference, target=target, text=text, kind=kind))
    return rows


def _emoji(row: dict[str, str], *, path: Path) -> Emoji:
    keywords = tuple(word for word in row["keywords"].split("|") if word)
    points = " ".join(point for point in row["codepoints"].upper().split() if point != "FE0F")
    base = base_of(row["codepoints"])
    return Emoji(image_id=path.stem, path=path, name=row["name"], keywords=keywords, base=base, points=points)


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        raise UsageError(f"{path}: does not exist")
    with path.open(encoding="utf-8", newline="") as table:
        return list(csv.DictReader(table, delimiter="\t", quoting=csv.QUOTE_NONE))
