"""`python -m trainer triplets CAPTIONS --out FILE.jsonl`: captioned pictures in, triplets to learn edits from out."""

from __future__ import annotations

import argparse
import hashlib
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from sightline.data.captions import CaptionRecord
from sightline.data.edits import EDIT_TYPES
from sightline.data.formats import read_any_captions
from sightline.data.lines import SkipReport
from sightline.errors import UsageError
from sightline.language.endpoint import EndpointSettings
from sightline.settings import read_settings
from trainer.triplets.asking import Ask, TripletGenerator
from trainer.triplets.ledger import Ledger
from trainer.triplets.model_generator import by_endpoint, by_local_model
from trainer.triplets.planning import plan
from trainer.triplets.run import run
from trainer.triplets.similarity import MAX_SIMILARITY, MIN_SIMILARITY, SimilarityBand, band_of, clip_token_count

GENERATORS = ("rules", "local", "endpoint")


def add_arguments(command: argparse.ArgumentParser) -> None:
    """The options of the command."""
    command.add_argument("captions", type=Path, help="captioned pictures, in any format that the trainer reads")
    command.add_argument("--out", type=Path, required=True, help="FILE.jsonl; a file that was begun is gone on with")
    command.add_argument("--generator", choices=GENERATORS, default="rules", help="who writes them (default: rules)")
    command.add_argument("--model", type=Path, help="folder of an instruct model, for local")
    command.add_argument("--batch", type=int, default=8, help="captions at a time, for local")
    command.add_argument("--device", default="cpu", help="where the model of local lies")
    command.add_argument("--held-out-templates", action="store_true", help="for rules: wording kept for validation")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--edits-per-caption", type=int, default=1, help="1 to 8 different types for each caption")
    command.add_argument("--edit-types", nargs="+", default=list(EDIT_TYPES), choices=EDIT_TYPES, metavar="TYPE")
    command.add_argument("--limit", type=int, default=0, help="use the first so many captions; 0 uses all")
    command.add_argument("--images", type=Path, help="folder of the pictures that COCO and Image-Chat files name")
    command.add_argument("--skip-bad", action="store_true", help="count bad captions instead of stopping")
    command.add_argument("--licence", default="unstated", help="of captions and pictures, for the card")
    band = command.add_argument_group("to refuse targets that a text tower finds too far or too near")
    band.add_argument("--release", help="a release id or a channel")
    band.add_argument("--registry", default="var/registry", help="where that release is")
    limits = [MIN_SIMILARITY, MAX_SIMILARITY]
    band.add_argument("--similarity", type=float, nargs=2, default=limits, metavar=("LOW", "HIGH"))


def make_triplets(known: argparse.Namespace, *, console: Console) -> None:
    """Write the triplets that the command asks for, with progress and a table of what became of every caption.

    Raises SettingInvalid, UsageError and what `run` raises; what was written stays valid.
    """
    report = SkipReport()
    records = read_any_captions(known.captions, images=known.images, skip_bad=known.skip_bad, report=report)
    records = records[: known.limit or None]
    if not records:
        raise UsageError(f"{known.captions}: holds no caption")
    if report.skipped:
        console.print(report.summary(), soft_wrap=True)
    band = _band(known)
    generator = _generator(known, records=records)
    asks, left_out = plan(records, generator, edits_per_caption=known.edits_per_caption, edit_types=known.edit_types)
    about = {"prompt_digest": generator.prompt_digest, "similarity": _told(band)}
    notes = _notes(known, records=records, num_asks=len(asks), left_out=left_out)
    with closing(Ledger(known.out, name=generator.name, about=about, notes=notes)) as ledger:
        began, num_before = time.monotonic(), ledger.accepted.total()
        try:
            _run_shown(asks, generator, ledger=ledger, band=band, console=console)
        finally:
            speed = (ledger.accepted.total() - num_before) / max(time.monotonic() - began, 1e-9)
            console.print(_table(ledger))
            console.print(f"wrote {ledger.path}; {_cost(ledger)}; {_pace(generator, speed=speed)}", soft_wrap=True)


def _generator(known: argparse.Namespace, *, records: Sequence[CaptionRecord]) -> TripletGenerator:
    if known.generator == "endpoint":
        return by_endpoint(read_settings(EndpointSettings, section="triplets"), seed=known.seed)
    if known.generator == "local":
        if known.model is None:
            raise UsageError("triplets: --generator local needs --model, the folder of an instruct model")
        return by_local_model(known.model, seed=known.seed, batch_items=known.batch, device=known.device)
    from trainer.triplets.rules import RuleGenerator

    captions = (record.caption for record in records)
    return RuleGenerator(captions, seed=known.seed, is_held_out=known.held_out_templates)


def _band(known: argparse.Namespace) -> SimilarityBand | None:
    if known.release is None:
        return None
    low, high = known.similarity
    cache = known.out.parent / "releases"
    return band_of(known.release, registry_uri=known.registry, cache_folder=cache, low=low, high=high)


def _told(band: SimilarityBand | None) -> dict[str, Any] | str:
    return "off" if band is None else {"release": band.release_id, "low": band.low, "high": band.high}


def _notes(
    known: argparse.Namespace, *, records: Sequence[CaptionRecord], num_asks: int, left_out: Counter[str]
) -> dict[str, Any]:
    digest = hashlib.sha256("".join(f"{r.image_id}\t{r.caption}\n" for r in records).encode()).hexdigest()
    source = {"file": known.captions.name, "captions": len(records), "sha256": digest, "licence": known.licence}
    wanted = {"edits_per_caption": known.edits_per_caption, "edit_types": known.edit_types}
    return {"source": source, **wanted, "asks": num_asks, "left_out": dict(left_out)}


def _run_shown(
    asks: Sequence[Ask],
    generator: TripletGenerator,
    *,
    ledger: Ledger,
    band: SimilarityBand | None,
    console: Console,
) -> None:
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[accepted]}"), TimeRemainingColumn())
    with Progress(TextColumn("triplets"), *columns, console=console) as progress:
        task = progress.add_task("triplets", total=len(asks), accepted="")
        progress.update(task, completed=sum(ledger.is_done(ask) for ask in asks))

        def on_settled() -> None:
            progress.update(task, advance=1, accepted=f"accepted {ledger.acceptance():.0%}")

        run(asks, generator, ledger=ledger, count_tokens=clip_token_count, band=band, on_settled=on_settled)


def _table(ledger: Ledger) -> Table:
    table = Table("edit type", "accepted", "rejected", "acceptance", show_edge=False)
    for name in EDIT_TYPES:
        if counted := ledger.accepted[name] + ledger.rejected[name]:
            accepted = ledger.accepted[name]
            table.add_row(name, str(accepted), str(counted - accepted), f"{ledger.acceptance(name):.0%}")
    for reason, count in ledger.reasons.most_common():
        table.add_row(f"  {reason}", "", str(count), "")
    return table


def _cost(ledger: Ledger) -> str:
    cost = asdict(ledger.cost)
    return ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in cost.items())


def _pace(generator: TripletGenerator, *, speed: float) -> str:
    """Of this run alone; the cost is that of all runs of the file."""
    num_asks = generator.num_parallel * generator.batch_items
    return f"up to {num_asks} asks at a time, {speed:.1f} records a second in this run"
