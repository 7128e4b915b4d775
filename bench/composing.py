"""`python -m bench.composing`: what training a composer costs, part by part, against one plain pass of the text tower.

Captions and edits are generated, the towers are open_clip's ViT-B-32 with random weights: neither changes a time. Every
part runs the trainer's own code on `--sample` items; what all `--captions` and `--triplets` would take is extrapolated
from that, and named so. Ratios are of processor seconds an item, against the baseline of the same run.
"""

from __future__ import annotations

import argparse
import io
import os
import shlex
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from bench.contrastive import NoCheckpoints
from bench.machine import Measured, machine, write_result
from sightline.data.captions import CaptionRecord
from sightline.data.edits import EditGenerator, EditRecord
from sightline.data.keywords import keyword_masker
from sightline.models.clip_tokenizer import ClipTowerTokenizer, tower_tokenizer_of_tag
from sightline.models.config import TowerConfig, ZrigfConfig
from sightline.models.model import build_model
from sightline.models.release import LoadedModel, embedding_space_of
from sightline.models.tokenizer import TowerTokenizer
from sightline.models.towers import tower_config_of_tag
from trainer.composing.candidate import Candidate
from trainer.composing.config import ComposeConfig
from trainer.composing.encoding import caption_rows, encoded_edits
from trainer.composing.loop import fresh_composers
from trainer.composing.recipes import FOLDER_COMPOSED
from trainer.composing.watch import HeldOut
from trainer.retrieval import encode_texts
from trainer.stages.alignment import AlignmentBatches, AlignmentObjective
from trainer.stages.inversion import LincirObjective, RowBatches, RowObjective
from trainer.step import Batches, Pace, Stage, StageRun, StepSettings, run_stage

OUT = Path(__file__).parent / "results" / "composing.json"
BASELINE = "text tower, one plain pass over captions"
PARTS: Mapping[str, Mapping[str, Any]] = {
    "prompts, adapter and phi, the default": {},
    "deep prompts in both towers, and phi": {"picture_side": "deep"},
    "a text tower of its own": {"text_side": "tower", "picture_side": "none", "phi_rate": 0.0},
}
"""What stage 2 trains, as changes of the recipe."""
NARROW = "narrow: these figures mean nothing"
_NARROW = TowerConfig(vocab_size=49408, embed_dim=16, vision_layers=2, text_layers=2, text_width=16, text_heads=2)
_SIZES = ("small", "large", "tiny", "huge")
_COLOURS = ("red", "blue", "green", "yellow", "black", "white", "brown", "striped")
_NOUNS = ("dog", "cat", "bus", "boat", "kite", "horse", "chair", "clock", "pizza", "train", "bird", "bench")
_PLACES = ("in the snow", "by the sea", "on a busy street", "in a kitchen", "under a bridge", "on a wooden table")
_WORDS = (_SIZES, _COLOURS, _NOUNS, _COLOURS, _NOUNS, _PLACES)
NUM_CAPTIONS = int(np.prod([len(words) for words in _WORDS]))
"""How many captions there are, no two of them alike."""
_NEVER = 10**9

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Work:
    """How much there is to train on, and how much of it is measured."""

    captions: int
    triplets: int
    sample: int
    """Items that each part is measured on; of steps, as many batches as that makes, at least one."""
    config: ComposeConfig
    """Both stages as the recipe has them; `steps` count in what is extrapolated."""


def main() -> None:
    """Measure, print and write the result."""
    args = _arguments()
    torch.set_num_threads(args.threads)
    work = Work(captions=args.captions, triplets=args.triplets, sample=args.sample, config=FOLDER_COMPOSED)
    work, tag = (quick(work), NARROW) if args.quick else (work, args.tag)
    with tempfile.TemporaryDirectory(prefix="bench-composing-") as folder:
        rows = measured(work, loaded=random_towers(tag), folder=Path(folder))
    result = {
        "command": shlex.join(["python", "-m", "bench.composing", *sys.argv[1:]]),
        "machine": machine() | {"threads": args.threads},
        "towers": tag,
        "work": {name: getattr(work, name) for name in ("captions", "triplets", "sample")},
        "baseline": BASELINE,
        "parts": rows,
    }
    write_result(args.out, result=result)
    for row in rows:
        print(f"{row['part']}: {row['cpu_s_per_1000']} CPU s per 1,000, {row['over_baseline']} times the baseline")
    print(f"written to {args.out}")


def random_towers(tag: str) -> LoadedModel:
    """Untrained towers of open_clip's `tag`, built from its configuration alone, or of `NARROW`."""
    torch.manual_seed(0)
    config = _NARROW if tag == NARROW else tower_config_of_tag(tag)
    tokenizer: TowerTokenizer = ClipTowerTokenizer(context_length=config.context_length)
    if tag != NARROW:
        tokenizer = tower_tokenizer_of_tag(tag, context_length=config.context_length)
    model = build_model(ZrigfConfig(tower=config)).eval()
    space_id = embedding_space_of(model, tower_tokenizer=tokenizer)
    return LoadedModel(
        model=model, tower_tokenizer=tokenizer, dialogue_tokenizer=None, embedding_space_id=space_id, composer=None
    )


def measured(work: Work, *, loaded: LoadedModel, folder: Path) -> list[Row]:
    """A row for each part of the training, the baseline first."""
    records = write_records(folder / "pictures", count=work.sample)
    texts = [record.caption for record in records]
    encode_texts(loaded, texts[:8])  # The first pass of a process pays for more than itself.
    rows = [_row(BASELINE, lambda: encode_texts(loaded, texts), items=len(texts), whole={"once": work.captions})]
    rows += _inversion(work, loaded=loaded, records=records)
    for number, (name, changes) in enumerate(PARTS.items()):
        part = f"stage 2, steps: {name}"
        found = _alignment(work, part, loaded=loaded, records=records, cache=folder / "cache", **changes)
        # Pictures are encoded for the first of them; the others find their vectors in the cache.
        rows += found if number == 0 else found[1:]
    return [row | {"over_baseline": round(row["cpu_s_per_1000"] / rows[0]["cpu_s_per_1000"], 3)} for row in rows]


def _inversion(work: Work, *, loaded: LoadedModel, records: Sequence[CaptionRecord]) -> list[Row]:
    """Captions encoded and masked once, then steps of stage 1 over as many rows as there are captions."""
    settings = work.config.inversion
    candidate = fresh_composers(work.config, loaded=loaded).inversion
    encoded: dict[str, torch.Tensor] = {}
    masker, template = keyword_masker(settings.masker), candidate.composer.config.template

    def encode() -> None:
        encoded.update(caption_rows(loaded, records, masker=masker, template=template))

    first = _row("captions, masked and encoded once", encode, items=len(records), whole={"once": work.captions})
    candidate.composer.noise.measure(encoded["caption_BD"])
    # The sample over and over: as much memory and as many rows to draw from as all captions take.
    repeated = torch.arange(work.captions) % len(records)
    rows = {name: values[repeated] for name, values in encoded.items()}
    batches = RowBatches(
        rows, name="inversion", batch_size=settings.batch_size, seed=work.config.seed, rank=0, world_size=1
    )
    objective = LincirObjective(candidate.composer)
    steps = _steps(
        "stage 1, steps", work, candidate, objective, batches=batches, settings=settings, items=work.captions
    )
    return [first, steps]


def _alignment(
    work: Work, part: str, *, loaded: LoadedModel, records: Sequence[CaptionRecord], cache: Path, **changes: Any
) -> list[Row]:
    """References and targets encoded, then steps of stage 2 with these changes of its settings."""
    settings = replace(work.config.alignment, **changes)
    candidate = fresh_composers(replace(work.config, alignment=settings), loaded=loaded).alignment
    assert candidate is not None, "stage 2 has steps"
    edits = [an_edit(record, number=number) for number, record in enumerate(records)]
    with Measured() as cost:
        encoded = encoded_edits(
            loaded, edits, captions=records, composer=candidate.composer, settings=settings, cache=cache
        )
    batches = AlignmentBatches(encoded, settings=settings, seed=work.config.seed, rank=0, world_size=1)
    objective = AlignmentObjective(candidate.composer, settings=settings)
    steps = _steps(part, work, candidate, objective, batches=batches, settings=settings, items=work.triplets)
    encoding = _costs("references and targets, encoded once", cost, items=len(edits), whole={"once": work.triplets})
    return [encoding, steps]


def _steps(
    part: str,
    work: Work,
    candidate: Candidate,
    objective: RowObjective,
    *,
    batches: Batches,
    settings: StepSettings,
    items: int,
) -> Row:
    steps = max(1, work.sample // settings.batch_size)
    run = _stage_run(work, candidate, objective, batches=batches, settings=replace(settings, steps=steps))  # type: ignore[type-var]
    whole = {"one_pass": items, "recipe": settings.steps * settings.batch_size}
    row = _row(part, lambda: run_stage(run, start=0, resume_from=None), items=steps * settings.batch_size, whole=whole)
    trained = sum(parameter.numel() for parameter in objective.parameters() if parameter.requires_grad)
    return row | {"batch_size": settings.batch_size, "trained_parameters": trained}


def _stage_run(
    work: Work, candidate: Candidate, objective: RowObjective, *, batches: Batches, settings: StepSettings
) -> StageRun:
    """A stage as the trainer runs it, without checkpoints and without looks at held-out data."""
    watch = HeldOut(
        candidate=candidate,
        objective=objective,
        parts=[],
        every=_NEVER,
        patience=0,
        last=_NEVER,
        report=lambda step, loss: None,
        device=torch.device("cpu"),
    )
    return StageRun(
        stage=Stage(batches=batches, objective=objective, watch=watch),
        model=candidate,
        settings=settings,
        speed=work.config.speed,
        device=torch.device("cpu"),
        pace=Pace(log_every=_NEVER, checkpoint_every=_NEVER),
        reporter=NoCheckpoints(),
        journal=None,
        seed=work.config.seed,
        training={},
    )


def _row(part: str, run: Callable[[], object], *, items: int, whole: Mapping[str, int]) -> Row:
    with Measured() as cost:
        run()
    return _costs(part, cost, items=items, whole=whole)


def _costs(part: str, cost: Measured, *, items: int, whole: Mapping[str, int]) -> Row:
    """Seconds per 1,000 items as measured, and what so many items would take."""
    extrapolated = {
        name: {"items": count, "cpu_s": round(cost.cpu_seconds / items * count, 1)} for name, count in whole.items()
    }
    return {
        "part": part,
        "measured_items": items,
        "cpu_s_per_1000": round(1000 * cost.cpu_seconds / items, 3),
        "wall_s_per_1000": round(1000 * cost.seconds / items, 3),
        "peak_resident_mib": cost.resident_mib,
        "peak_added_mib": cost.peak_mib,
        "extrapolated": extrapolated,
    }


def write_records(folder: Path, *, count: int) -> list[CaptionRecord]:
    """`count` captions, each of a picture of its own, which is written below `folder`: smooth colours, 640 x 480."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    records = []
    for number in range(count):
        buffer = io.BytesIO()
        coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        coarse.resize((640, 480), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=85)
        path = folder / f"{number}.jpg"
        path.write_bytes(buffer.getvalue())
        records.append(CaptionRecord(image_id=str(number), path=path, caption=a_caption(_words(number))))
    return records


def a_caption(words: Sequence[str]) -> str:
    """Two things and a place in 11 to 13 words."""
    size, colour, noun, other_colour, other_noun, place = words
    return f"a {size} {colour} {noun} and a {other_colour} {other_noun} {place}"


def an_edit(record: CaptionRecord, *, number: int) -> EditRecord:
    """The caption with its first thing in the next colour."""
    words = _words(number)
    colour = _COLOURS[(_COLOURS.index(words[1]) + 1) % len(_COLOURS)]
    return EditRecord(
        id=f"{number:064x}",
        image_id=record.image_id,
        reference_caption=record.caption,
        modification=f"make the {words[2]} {colour}",
        target_caption=a_caption([words[0], colour, *words[2:]]),
        edit_type="attribute",
        generator=EditGenerator(kind="rule", model="bench", prompt_version="1", seed=0),
    )


def _words(number: int) -> list[str]:
    """The words of a caption; neighbouring numbers share none of them for long."""
    places = np.unravel_index(number * 7919 % NUM_CAPTIONS, [len(words) for words in _WORDS])
    return [words[int(place)] for words, place in zip(_WORDS, places, strict=True)]


def quick(work: Work) -> Work:
    """Every part once, in seconds."""
    inversion, alignment = work.config.inversion, work.config.alignment
    config = replace(
        work.config, inversion=replace(inversion, batch_size=4), alignment=replace(alignment, batch_size=4)
    )
    return replace(work, captions=40, triplets=20, sample=8, config=config)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.composing", description=__doc__, allow_abbrev=False)
    parser.add_argument("--captions", type=int, default=100_000, help="captions of stage 1")
    parser.add_argument("--triplets", type=int, default=5_000, help="edits of stage 2")
    parser.add_argument("--sample", type=int, default=512, help="items that every part is measured on")
    parser.add_argument("--tag", default="ViT-B-32", help="open_clip model, untrained")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="threads of torch")
    parser.add_argument("--quick", action="store_true", help="narrow towers and few items, to see that it runs")
    parser.add_argument("--out", type=Path, default=OUT, help="JSON to write")
    return parser.parse_args()


if __name__ == "__main__":
    main()
