"""Which edit is asked of which caption: balanced, seeded, and the same for the first captions of a longer file."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence

from sightline.data.captions import CaptionRecord
from sightline.data.edits import EDIT_TYPES
from sightline.errors import UsageError
from trainer.triplets.asking import Ask, TripletGenerator, key_of

NOTHING_TO_EDIT, ASKED_BEFORE = "nothing_to_edit", "same_caption_and_edit_type"


def plan(
    records: Sequence[CaptionRecord],
    generator: TripletGenerator,
    *,
    edits_per_caption: int = 1,
    edit_types: Sequence[str] = EDIT_TYPES,
) -> tuple[list[Ask], Counter[str]]:
    """(every ask, captions left out by reason). Each caption gets the types that were asked for least so far.

    Ties fall by seed and caption. Captions that read alike are asked about once
    for each type. Raises UsageError for an unknown type or fewer than one edit.
    """
    _check(edits_per_caption, edit_types=edit_types)
    left_out, asked, seen = Counter[str](), Counter[str](), set[str]()
    asks = []
    for record in records:
        possible = [name for name in generator.edit_types(record.caption) if name in edit_types]
        chosen = _least_asked(possible, asked=asked, seed=f"{generator.name.seed} {record.caption}")[:edits_per_caption]
        left_out.update([NOTHING_TO_EDIT] if not chosen else [])
        for ask in _asks(record, chosen, generator=generator):
            if ask.key in seen:
                left_out[ASKED_BEFORE] += 1
                continue
            seen.add(ask.key)
            asked[ask.edit_type] += 1
            asks.append(ask)
    return asks, left_out


def _asks(record: CaptionRecord, edit_types: Sequence[str], *, generator: TripletGenerator) -> Iterator[Ask]:
    for edit_type in edit_types:
        key = key_of(record.caption, name=generator.name, edit_type=edit_type)
        yield Ask(record=record, edit_type=edit_type, key=key, seed=int(key[:8], 16) & 0x7FFFFFFF)


def _least_asked(possible: Sequence[str], *, asked: Counter[str], seed: str) -> list[str]:
    shuffled = random.Random(seed).sample(list(possible), k=len(possible))
    return sorted(shuffled, key=lambda name: asked[name])


def _check(edits_per_caption: int, *, edit_types: Sequence[str]) -> None:
    if not 1 <= edits_per_caption <= len(EDIT_TYPES):
        raise UsageError(f"edits per caption: got {edits_per_caption}, limits 1 to {len(EDIT_TYPES)}")
    if unknown := [name for name in edit_types if name not in EDIT_TYPES]:
        raise UsageError(f"edit types: got {unknown[0]!r}, expected some of {', '.join(EDIT_TYPES)}")
