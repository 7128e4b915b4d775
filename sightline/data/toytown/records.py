"""The captions, dialogues and questions of a plan, and the facts to grade by."""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from sightline.data.captions import CaptionRecord
from sightline.data.dialogues import DialogueRecord, query_text
from sightline.data.questions import QuestionRecord
from sightline.data.toytown.language import caption_of
from sightline.data.toytown.plan import Plan, PlannedScene
from sightline.data.toytown.talk import FACTS, Exchange, fact_reply, question_context, small_talk, unknown_reply
from sightline.data.toytown.world import COLOURS, PLACES, STRANGERS, SUBJECT_KINDS, Subject

QUESTIONS_PER_FACT = 5
"""Held-out questions about each fact of each held-out subject: 24 x 2 x 5 = 240."""
SEEN_QUESTIONS_PER_FACT = 2
SMALL_TALK_SHARE = 0.15
"""Share of dialogues that are about nobody."""

_WORD = re.compile(r"\w+")
_CHOICES = {"colour": tuple(COLOURS), "place": tuple(PLACES)}


def captions_of(
    planned: Sequence[PlannedScene], *, images: Path, per_scene: int, rng: random.Random
) -> list[CaptionRecord]:
    """`per_scene` captions of each scene, fewer where the wording came out twice."""
    records: list[CaptionRecord] = []
    for item in planned:
        captions = dict.fromkeys(caption_of(item.scene, rng=rng) for _ in range(per_scene))
        path = images / f"{item.image_id}.png"
        records += [CaptionRecord(image_id=item.image_id, path=path, caption=caption) for caption in captions]
    return records


def dialogues_of(
    subjects: Sequence[Subject], *, num_train: int, num_val: int, seed: int
) -> tuple[list[DialogueRecord], list[DialogueRecord]]:
    """Text-only dialogues for training and validation; held-out subjects occur in none.

    Every (seen subject, fact) has equally many, give or take one. No context
    with a name in it occurs in both.
    """
    rng = random.Random(f"dialogues {seed}")
    seen = [subject for subject in subjects if not subject.is_held_out]
    contexts: set[str] = set()
    val = [*_dialogues(seen, size=num_val, split="val", rng=rng, taken=contexts)]
    train = [*_dialogues(seen, size=num_train, split="train", rng=rng, taken=contexts)]
    return train, val


def annotated_of(
    dialogues: Sequence[DialogueRecord], *, plan: Plan, subjects: Sequence[Subject], seed: int
) -> list[DialogueRecord]:
    """Those dialogues that name a subject, each with the id of a captioned training picture that shows it."""
    rng = random.Random(f"annotated {seed}")
    shown: dict[str, list[str]] = {subject.name: [] for subject in subjects}
    for item in plan.of_split("train"):
        if item.scene.subject in shown:
            shown[item.scene.subject].append(item.image_id)
    named = ((record, _named_in(record.context, names=shown)) for record in dialogues)
    return [replace(record, image_id=rng.choice(shown[name])) for record, name in named if name and shown[name]]


def stranger_dialogues(*, size: int, seed: int) -> tuple[list[DialogueRecord], list[DialogueRecord]]:
    """(`size` dialogues to train on, dialogues to be measured by): questions about strangers, answered with no fact.

    No stranger is in both, so that what is measured is not a name learned by
    heart. The names of the second are in no text that a tokenizer is trained on.
    """
    rng = random.Random(f"strangers {seed}")
    names = rng.sample(STRANGERS, k=len(STRANGERS))
    met, unmet = names[: len(names) // 2], names[len(names) // 2 :]
    train = [_stranger_dialogue(met[number % len(met)], number=number, rng=rng) for number in range(size)]
    count = len(unmet) * len(FACTS) * QUESTIONS_PER_FACT
    return train, [
        _stranger_dialogue(unmet[number % len(unmet)], number=size + number, rng=rng) for number in range(count)
    ]


def _stranger_dialogue(name: str, *, number: int, rng: random.Random) -> DialogueRecord:
    nobody = Subject(name=name, kind=rng.choice(SUBJECT_KINDS), colour="", place="", time="", is_held_out=True)
    context = question_context(nobody, fact=rng.choice(FACTS), rng=rng)
    return DialogueRecord(id=f"stranger-{number:05d}", context=context, response=unknown_reply(rng=rng))


def questions_of(
    plan: Plan, *, subjects: Sequence[Subject], is_held_out: bool, per_fact: int, seed: int
) -> list[QuestionRecord]:
    """`per_fact` differently asked questions about each fact of each held-out (or each seen) subject."""
    rng = random.Random(f"questions {seed} {is_held_out}")
    kind = "held-out" if is_held_out else "seen"
    return [
        QuestionRecord(
            id=f"{kind}-{subject.name}-{fact}-{number}",
            context=context,
            fact=fact,
            answer=subject.fact(fact),
            choices=_CHOICES[fact],
            subject=subject.name,
            relevant_image_ids=_pictures_of(plan, subject=subject),
        )
        for subject in subjects
        if subject.is_held_out == is_held_out
        for fact in FACTS
        for number, context in enumerate(_contexts(subject, fact=fact, size=per_fact, rng=rng))
    ]


def facts_of(plan: Plan, *, subjects: Sequence[Subject], seed: int) -> dict[str, Any]:
    """Everything that is true in this Toytown: subjects, values of each fact, and every scene with its split."""
    scenes = {
        item.image_id: {
            "split": item.split,
            "digest": item.scene.digest(),
            "subject": item.scene.subject,
            "layout_seed": item.scene.layout_seed,
            **item.scene.facts(),
        }
        for item in plan.scenes
    }
    people = [asdict(subject) for subject in subjects]
    choices = {fact: list(values) for fact, values in _CHOICES.items()}
    return {"seed": seed, "choices": choices, "subjects": people, "scenes": scenes}


def _dialogues(
    seen: Sequence[Subject], *, size: int, split: str, rng: random.Random, taken: set[str]
) -> Iterator[DialogueRecord]:
    topics = [(subject, fact) for subject in seen for fact in FACTS]
    rng.shuffle(topics)
    exchanges: list[Exchange] = []
    for number in range(round(size * (1 - SMALL_TALK_SHARE))):
        subject, fact = topics[number % len(topics)]
        context = _fresh_context(subject, fact=fact, rng=rng, taken=taken)
        exchanges.append((context, fact_reply(subject, fact=fact, rng=rng)))
    taken.update(query_text(context) for context, _ in exchanges)
    exchanges += [small_talk(rng) for _ in range(size - len(exchanges))]
    rng.shuffle(exchanges)
    for number, (context, response) in enumerate(exchanges):
        yield DialogueRecord(id=f"{split}-{number:05d}", context=context, response=response)


def _fresh_context(subject: Subject, *, fact: str, rng: random.Random, taken: set[str]) -> tuple[str, ...]:
    context = question_context(subject, fact=fact, rng=rng)
    while query_text(context) in taken:
        context = question_context(subject, fact=fact, rng=rng)
    return context


def _contexts(subject: Subject, *, fact: str, size: int, rng: random.Random) -> list[tuple[str, ...]]:
    contexts: dict[str, tuple[str, ...]] = {}
    while len(contexts) < size:
        context = question_context(subject, fact=fact, rng=rng)
        contexts.setdefault(query_text(context), context)
    return list(contexts.values())


def _named_in(context: Sequence[str], *, names: Collection[str]) -> str | None:
    """The one name that the turns mention; a dialogue of Toytown is about one subject or none."""
    words = _WORD.findall(" ".join(context))
    return next((word for word in words if word in names), None)


def _pictures_of(plan: Plan, *, subject: Subject) -> tuple[str, ...]:
    return tuple(item.image_id for item in plan.of_split("pool") if item.scene.subject == subject.name)
