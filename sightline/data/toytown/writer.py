"""Toytown on disk: pictures, captions, dialogues, questions, composed queries and facts."""

from __future__ import annotations

import io
import json
import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sightline.data.captions import write_captions
from sightline.data.dialogues import write_dialogues
from sightline.data.pools import PoolImage, write_pool
from sightline.data.questions import write_questions
from sightline.data.toytown.draw import draw_scene
from sightline.data.toytown.plan import CAPTION_SPLITS, COMPOSED_SPLITS, NAMED_SHARE, Plan, PlannedScene, make_plan
from sightline.data.toytown.records import (
    QUESTIONS_PER_FACT,
    SEEN_QUESTIONS_PER_FACT,
    annotated_of,
    captions_of,
    dialogues_of,
    facts_of,
    questions_of,
    stranger_dialogues,
)
from sightline.data.toytown.world import Subject, make_subjects
from sightline.data.triplets import write_triplets
from sightline.errors import UsageError

MIN_SCENES = 800
"""Fewer would leave a subject without a picture in the pool."""
_OWN_PICTURES = re.compile(r"(train|val|test|pool|composed_[a-z]+)-\d{5}\.png")

OnProgress = Callable[[int, int], None]
"""Called with the number of pictures drawn and of all."""


@dataclass(frozen=True, kw_only=True)
class ToytownSummary:
    """How much was written where."""

    folder: Path
    seed: int
    lines: dict[str, int]
    """Lines of each JSONL file by its name."""
    num_pictures: int


def write_toytown(
    out: Path,
    *,
    scenes: int = 3000,
    seed: int = 0,
    size: int = 64,
    captions_per_scene: int = 2,
    dialogues: int = 2000,
    strangers: int = 0,
    named_share: float = NAMED_SHARE,
    on_progress: OnProgress | None = None,
) -> ToytownSummary:
    """A Toytown in the folder `out`; the same arguments write the same bytes. 3,000 scenes take a core some 8 seconds.

    `images/*.png` of `size` pixels a side, `captions_{train,val,test}.jsonl`,
    `dialogues_{train,val}.jsonl` (text only), `dialogues_annotated.jsonl` (those of
    training that name a subject, each with a picture of it), `pool.jsonl`, `questions.jsonl`
    (held-out subjects), `questions_seen.jsonl`, `triplets_{train,val,test}.jsonl`
    with `gallery_{train,val,test}.jsonl`, `facts.json`. With `strangers`, that
    many training dialogues more ask about names without a picture and get "i do
    not know"; `strangers.jsonl` asks about other such names. Of the captioned scenes a
    `named_share` shows a subject, the others anything. Pictures of an earlier
    Toytown in the same folder are removed. Raises UsageError for fewer than 800
    scenes, a picture below 16 pixels or a share outside 0..1.
    """
    if scenes < MIN_SCENES or size < 16:
        raise UsageError(f"toytown: got {scenes} scenes of {size} pixels, limits {MIN_SCENES} and 16")
    if not 0 <= named_share <= 1:
        raise UsageError(f"toytown: got a named share of {named_share}, limits 0 and 1")
    subjects = make_subjects(seed=seed)
    plan = make_plan(num_scenes=scenes, seed=seed, subjects=subjects, named_share=named_share)
    draw_all(plan.scenes, images=_cleared(out / "images"), size=size, on_progress=on_progress)
    lines = _write_captions(out, plan=plan, per_scene=captions_per_scene, seed=seed)
    lines |= _write_pools(out, plan=plan)
    lines |= _write_talk(out, plan=plan, subjects=subjects, num_dialogues=dialogues, num_strangers=strangers, seed=seed)
    facts = facts_of(plan, subjects=subjects, seed=seed)
    (out / "facts.json").write_bytes(json.dumps(facts, indent=1).encode())
    return ToytownSummary(folder=out, seed=seed, lines=lines, num_pictures=len(plan.scenes))


def _cleared(images: Path) -> Path:
    images.mkdir(parents=True, exist_ok=True)
    for path in images.iterdir():
        if _OWN_PICTURES.fullmatch(path.name):
            path.unlink()
    return images


def _write_captions(out: Path, *, plan: Plan, per_scene: int, seed: int) -> dict[str, int]:
    lines = {}
    for split in CAPTION_SPLITS:
        rng = random.Random(f"captions {seed} {split}")
        records = captions_of(plan.of_split(split), images=out / "images", per_scene=per_scene, rng=rng)
        name = f"captions_{split}.jsonl"
        lines[name] = write_captions(out / name, records)
    return lines


def _write_pools(out: Path, *, plan: Plan) -> dict[str, int]:
    lines = {"pool.jsonl": write_pool(out / "pool.jsonl", _pool(plan.of_split("pool"), out=out))}
    for split in COMPOSED_SPLITS:
        short = split.removeprefix("composed_")
        gallery, triplets = f"gallery_{short}.jsonl", f"triplets_{short}.jsonl"
        lines[gallery] = write_pool(out / gallery, _pool(plan.of_split(split), out=out))
        lines[triplets] = write_triplets(out / triplets, plan.triplets[split])
    return lines


def _pool(planned: Sequence[PlannedScene], *, out: Path) -> Iterator[PoolImage]:
    for item in planned:
        yield PoolImage(image_id=item.image_id, path=out / "images" / f"{item.image_id}.png")


def _write_talk(
    out: Path, *, plan: Plan, subjects: Sequence[Subject], num_dialogues: int, num_strangers: int, seed: int
) -> dict[str, int]:
    train, val = dialogues_of(subjects, num_train=num_dialogues, num_val=num_dialogues // 10, seed=seed)
    annotated = annotated_of(train, plan=plan, subjects=subjects, seed=seed)
    ask = partial(questions_of, plan, subjects=subjects, seed=seed)
    held_out = ask(is_held_out=True, per_fact=QUESTIONS_PER_FACT)
    seen = ask(is_held_out=False, per_fact=SEEN_QUESTIONS_PER_FACT)
    met, unmet = stranger_dialogues(size=num_strangers, seed=seed) if num_strangers else ([], [])
    unmet_lines = {"strangers.jsonl": write_dialogues(out / "strangers.jsonl", unmet)} if unmet else {}
    return unmet_lines | {
        "dialogues_train.jsonl": write_dialogues(out / "dialogues_train.jsonl", train + met),
        "dialogues_val.jsonl": write_dialogues(out / "dialogues_val.jsonl", val),
        "dialogues_annotated.jsonl": write_dialogues(out / "dialogues_annotated.jsonl", annotated),
        "questions.jsonl": write_questions(out / "questions.jsonl", held_out),
        "questions_seen.jsonl": write_questions(out / "questions_seen.jsonl", seen),
    }


def draw_all(planned: Sequence[PlannedScene], *, images: Path, size: int, on_progress: OnProgress | None) -> None:
    """A PNG of every scene in the folder `images`, named by its id."""
    for done, item in enumerate(planned, start=1):
        buffer = io.BytesIO()
        draw_scene(item.scene, size=size).save(buffer, format="PNG", compress_level=6)
        (images / f"{item.image_id}.png").write_bytes(buffer.getvalue())
        if on_progress is not None:
            on_progress(done, len(planned))
