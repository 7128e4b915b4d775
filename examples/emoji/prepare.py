"""`python -m examples.emoji.prepare`: emoji and chats in, a folder that the trainer and the index read out."""

from __future__ import annotations

import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from examples.command import run
from examples.emoji.chats import read_chats
from examples.emoji.pictures import SPLITS, Emoji, captions_for, read_composed, read_emoji
from sightline.data.captions import CaptionRecord, write_captions
from sightline.data.dialogues import write_dialogues
from sightline.data.lines import SkipReport
from sightline.data.pools import PoolImage, write_pool
from sightline.data.triplets import write_triplets

CAPTIONS_EACH = {"train": 4, "val": 1, "test": 1}
"""Captions of a picture. Pictures that are searched for have their name alone, which no other has."""


def prepare_emoji(*, noto: Path, dialogues: Path, out: Path, seed: int = 0) -> tuple[dict[str, int], list[SkipReport]]:
    """The number of lines of each file written to `out`, and what was left out of pictures and of chats.

    Pictures are copied to `out/images`; `captions_{train,val,test}.jsonl`,
    `pool_{val,test}.jsonl` and `triplets_{train,val,test}.jsonl` are split by
    base emoji, `pool.jsonl` holds all, `dialogues_{train,val}.jsonl` are split
    by conversation, as the corpus itself is split if it is. The same arguments
    write the same bytes.
    """
    reports = [SkipReport(), SkipReport()]
    emoji = [copied(one, images=out / "images") for one in read_emoji(noto, report=reports[0])]
    lines = _write_pictures(emoji, out=out, rng=random.Random(seed))
    for split, triplets in read_composed(noto, emoji=emoji).items():
        lines[f"triplets_{split}.jsonl"] = write_triplets(out / f"triplets_{split}.jsonl", triplets)
    for split, chats in read_chats(dialogues, report=reports[1]).items():
        lines[f"dialogues_{split}.jsonl"] = write_dialogues(out / f"dialogues_{split}.jsonl", chats)
    return lines, reports


def main(
    noto: Annotated[Path, typer.Option(help="Folder with names.tsv and the pictures that it names.")],
    dialogues: Annotated[Path, typer.Option(help="Folder of ChatterBot *.yml or Topical-Chat *.json.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("var/emoji"),
    seed: Annotated[int, typer.Option(help="Decides the wording of captions.")] = 0,
) -> None:
    """Turn emoji and chats into captions, pools, composed queries and dialogues."""
    console = Console()
    with console.status("reading and copying"):
        lines, reports = prepare_emoji(noto=noto, dialogues=dialogues, out=out, seed=seed)
    for name, count in lines.items():
        console.print(f"{count:7d}  {out / name}", highlight=False)
    for what, report in zip(("pictures", "replies"), reports, strict=True):
        console.print(f"{what}: {report.summary()}", highlight=False)


def copied(emoji: Emoji, *, images: Path) -> Emoji:
    """The emoji with its picture copied to the folder `images`."""
    images.mkdir(parents=True, exist_ok=True)
    target = images / emoji.path.name
    shutil.copyfile(emoji.path, target)
    return replace(emoji, path=target)


def _write_pictures(emoji: list[Emoji], *, out: Path, rng: random.Random) -> dict[str, int]:
    lines = {"pool.jsonl": write_pool(out / "pool.jsonl", map(pool_image, emoji))}
    for split in SPLITS:
        chosen = [one for one in emoji if one.split == split]
        captions = [record for one in chosen for record in _captions(one, rng=rng)]
        lines[f"captions_{split}.jsonl"] = write_captions(out / f"captions_{split}.jsonl", captions)
        if split != "train":
            lines[f"pool_{split}.jsonl"] = write_pool(out / f"pool_{split}.jsonl", map(pool_image, chosen))
    return lines


def _captions(emoji: Emoji, *, rng: random.Random) -> list[CaptionRecord]:
    texts = captions_for(emoji, count=CAPTIONS_EACH[emoji.split], rng=rng)
    return [CaptionRecord(image_id=emoji.image_id, path=emoji.path, caption=text) for text in texts]


def pool_image(emoji: Emoji) -> PoolImage:
    """The emoji as a picture of a pool."""
    return PoolImage(image_id=emoji.image_id, path=emoji.path)


if __name__ == "__main__":
    run(main)
