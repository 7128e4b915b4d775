"""What a generator of triplets is asked and answers: one caption, one type of edit, one pair."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from sightline.data.captions import CaptionRecord
from sightline.data.edits import EditGenerator, EditRecord
from sightline.language.asking import Cost, Problem


@dataclass(frozen=True, kw_only=True)
class Pair:
    """What a generator writes: the edit and the caption that it leads to."""

    modification: str
    target_caption: str


@dataclass(frozen=True, kw_only=True)
class Complaint:
    """An answer that was refused, and why, to ask once more."""

    answer: str
    message: str


@dataclass(frozen=True, kw_only=True)
class Ask:
    """One caption and the one type of edit that is wanted."""

    record: CaptionRecord
    edit_type: str
    key: str
    """Id of the record that comes of it, and what a resumed run knows it by."""
    seed: int
    """Of this ask alone, drawn from its key."""
    complaint: Complaint | None = None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a generator made of an ask: a pair, or the problem."""

    result: Pair | Problem
    text: str = ""
    """As the model wrote it; empty for rules."""
    cost: Cost = field(default_factory=Cost)


class TripletGenerator(Protocol):
    """Turns captions into pairs. `propose` may be called from `num_parallel` threads at once."""

    name: EditGenerator
    prompt_digest: str
    """sha256 of everything that decides what is asked, or of the rules' templates and words."""
    num_parallel: int
    batch_items: int
    max_asks: int
    """How often one caption is asked about: 2 where a complaint can help, 1 where the answer would be the same."""

    def edit_types(self, caption: str) -> Sequence[str]:
        """The edit types that can be asked for about this caption; empty for none."""
        ...

    def propose(self, asks: Sequence[Ask]) -> list[Answer]:
        """One answer an ask, in order. Raises UsageError for what no further ask would mend."""
        ...

    def close(self) -> None:
        """End waiting and free what is held; `propose` running in other threads returns soon."""
        ...


def key_of(caption: str, *, name: EditGenerator, edit_type: str) -> str:
    """sha256, in hex, of caption, prompt version, model, seed and edit type."""
    parts = [caption, name.prompt_version, name.model, name.seed, edit_type]
    return hashlib.sha256(json.dumps(parts, ensure_ascii=False).encode()).hexdigest()


def record_of(ask: Ask, pair: Pair, *, name: EditGenerator) -> EditRecord:
    """The line that an accepted pair becomes."""
    return EditRecord(
        id=ask.key,
        image_id=ask.record.image_id,
        reference_caption=ask.record.caption,
        modification=pair.modification,
        target_caption=pair.target_caption,
        edit_type=ask.edit_type,
        generator=name,
    )
