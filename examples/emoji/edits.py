"""`python -m examples.emoji.edits`: composed queries between emoji, edits to train on, and queries in another style."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from examples.command import run
from examples.emoji.pictures import ComposedRow, Emoji, read_composed_rows, read_emoji
from examples.emoji.prepare import copied, pool_image
from sightline.data.captions import CaptionRecord, write_captions
from sightline.data.lines import SkipReport, write_lines
from sightline.data.pools import write_pool
from sightline.data.triplets import COMPOSED_FOLDER

HELD_OUT = ("val", "test")
_WORDINGS = {
    "skin tone": ("the same with {value}", "change it to {value}", "{value} instead", "i want {value}"),
    "gender": ("the same as {value}", "turn it into {value}", "{value} instead", "i want {value}"),
}
"""How training says what the table says otherwise: queries are asked in words of their own."""
_PREFIXES = {"skin tone": "give it ", "gender": "make it "}


def write_emoji_edits(*, noto: Path, out: Path, shifted: Path | None = None, seed: int = 0) -> dict[str, int]:
    """The number of lines of each file written to `out/composed`, from `names.tsv` and `triplets.tsv` of `noto`.

    `queries_{val,test}.jsonl` over `gallery_{val,test}.jsonl` are split by base emoji: no
    base of theirs is in `edits_train.jsonl`, and `edits_val.jsonl` is about those of
    `queries_val.jsonl`. Each query has one right answer. `captions_{val,test}.jsonl` name the galleries' pictures, for
    ceilings alone. With `shifted`, a folder of the same emoji drawn in another style,
    `queries_shifted_*` and the like ask the same there. Raises UsageError for a folder
    without its table.
    """
    emoji = read_emoji(noto, report=SkipReport())
    rows = read_composed_rows(noto, emoji=emoji)
    lines = _write_queries(emoji, rows, folder=out / COMPOSED_FOLDER, images=out / "images", name="")
    for split in ("train", "val"):
        edits = _edit_rows([row for row in rows if row.reference.split == split], split=split, seed=seed)
        lines[f"edits_{split}.jsonl"] = write_lines(out / COMPOSED_FOLDER / f"edits_{split}.jsonl", edits)
    if shifted is not None:
        others = read_emoji(shifted, report=SkipReport())
        same = list(_in_style(rows, others=others))
        lines |= _write_queries(
            others, same, folder=out / COMPOSED_FOLDER, images=out / "images_shifted", name="shifted_"
        )
    return lines


def main(
    noto: Annotated[Path, typer.Option(help="Folder with names.tsv, triplets.tsv and the pictures that they name.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("var/emoji"),
    shifted: Annotated[Path | None, typer.Option(help="Folder of the same emoji in another style.")] = None,
    seed: Annotated[int, typer.Option(help="Decides the wording of training edits.")] = 0,
) -> None:
    """Turn a table of composed queries between emoji into queries, galleries and edits."""
    for name, count in write_emoji_edits(noto=noto, out=out, shifted=shifted, seed=seed).items():
        typer.echo(f"{count:7d}  {out / COMPOSED_FOLDER / name}")


def _write_queries(
    emoji: Sequence[Emoji], rows: Sequence[ComposedRow], *, folder: Path, images: Path, name: str
) -> dict[str, int]:
    lines: dict[str, int] = {}
    for split in HELD_OUT:
        gallery, captions, queries = (f"{kind}_{name}{split}.jsonl" for kind in ("gallery", "captions", "queries"))
        pictures = [copied(one, images=images) for one in emoji if one.split == split]
        lines[gallery] = write_pool(folder / gallery, map(pool_image, pictures))
        lines[captions] = write_captions(folder / captions, map(_named, pictures))
        chosen = [row for row in rows if row.reference.split == split]
        lines[queries] = write_lines(folder / queries, (_query_row(row, at) for at, row in enumerate(chosen)))
    return lines


def _query_row(row: ComposedRow, number: int) -> dict[str, Any]:
    return {
        "id": f"{row.reference.split}-{number:05d}",
        "reference_id": row.reference.image_id,
        "text": row.text,
        "target_ids": [row.target.image_id],
        "edit_type": row.kind,
        "is_held_out": True,
        "family": row.reference.base,
    }


def _named(emoji: Emoji) -> CaptionRecord:
    return CaptionRecord(image_id=emoji.image_id, path=emoji.path, caption=emoji.name)


def _edit_rows(rows: Sequence[ComposedRow], *, split: str, seed: int) -> Iterator[Mapping[str, Any]]:
    rng = random.Random(f"emoji edits {split} {seed}")
    for row in rows:
        value = row.text.removeprefix(_PREFIXES[row.kind])
        modification = rng.choice(_WORDINGS[row.kind]).format(value=value)
        parts = (row.reference.image_id, modification, row.target.image_id)
        yield {
            "id": hashlib.sha256("\n".join(parts).encode()).hexdigest(),
            "image": row.reference.image_id,
            "reference_caption": row.reference.name,
            "modification": modification,
            "target_caption": row.target.name,
            "edit_type": "attribute",
            "generator": {"kind": "rule", "model": "emoji-table", "prompt_version": f"1 {split}", "seed": seed},
        }


def _in_style(rows: Sequence[ComposedRow], *, others: Sequence[Emoji]) -> Iterator[ComposedRow]:
    """The rows whose two emoji are both drawn in the other style, between the drawings there."""
    by_points = {one.points: one for one in others}
    for row in rows:
        reference, target = by_points.get(row.reference.points), by_points.get(row.target.points)
        if reference and target:
            yield ComposedRow(reference=reference, target=target, text=row.text, kind=row.kind)


if __name__ == "__main__":
    run(main)
