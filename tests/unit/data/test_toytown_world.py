"""Toytown's promise: what is held out cannot be read, guessed or met twice."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise
from statistics import multimode

import pytest

from sightline.data.dialogues import DialogueRecord, query_text
from sightline.data.toytown.language import caption_of, edit_text
from sightline.data.toytown.plan import Plan, make_plan
from sightline.data.toytown.records import dialogues_of, questions_of, stranger_dialogues
from sightline.data.toytown.scenes import edits_of, named_scene, ordinary_scene
from sightline.data.toytown.talk import FACTS, SENTENCES, fact_reply
from sightline.data.toytown.world import COLOURS, KINDS, NAMES, PLACES, STRANGERS, SUBJECT_KINDS, Subject, make_subjects
from sightline.metrics import grade_answer

SUBJECTS = make_subjects(seed=0)
VALUES = {*COLOURS, *PLACES}
BETRAYING = {
    *VALUES,
    *("mountain", "beaches", "harbor", "streets", "farms", "parks", "forests", "deserts"),
    *("sea", "sand", "water", "waves", "palm", "lighthouse", "road", "barn", "field", "cactus", "woods", "city"),
}
"""Words that tell a place or a colour, in captions that must tell none."""

HOURS = ("by day", "daytime", "during the day", "dusk", "in the evening", "sun goes down", "at night", "after dark")
"""Every way to say an hour."""


def words_of(text: str) -> set[str]:
    return {word.strip(".,?!:") for word in text.split()}


@pytest.fixture(scope="module")
def plan() -> Plan:
    return make_plan(num_scenes=800, seed=0, subjects=SUBJECTS)


@pytest.fixture(scope="module")
def dialogues() -> tuple[list[DialogueRecord], list[DialogueRecord]]:
    return dialogues_of(SUBJECTS, num_train=600, num_val=60, seed=0)


@pytest.mark.parametrize("seed", range(20))
def test_held_out_facts_cannot_be_guessed(seed: int) -> None:
    """No constant guess is better than chance, nor is the commonest value among the seen subjects of a kind."""
    subjects = make_subjects(seed=seed)
    held_out = [subject for subject in subjects if subject.is_held_out]
    seen = [subject for subject in subjects if not subject.is_held_out]
    assert (len(held_out), len(seen)) == (32, 96)
    for fact in FACTS:
        assert set(Counter(subject.fact(fact) for subject in held_out).values()) == {4}
        assert set(Counter(subject.fact(fact) for subject in seen).values()) == {12}
        guesses = [multimode(other.fact(fact) for other in seen if other.kind == one.kind) for one in held_out]
        rights = [one.fact(fact) in guess and 1 / len(guess) for one, guess in zip(held_out, guesses, strict=True)]
        assert sum(rights) <= len(held_out) / 8


def test_no_two_held_out_subjects_share_colour_and_place() -> None:
    assert len({(subject.colour, subject.place) for subject in SUBJECTS if subject.is_held_out}) == 32
    assert len(SUBJECTS) == 128


@pytest.mark.parametrize("seed", range(20))
def test_the_two_subjects_of_a_colour_and_a_place_have_different_hours(seed: int) -> None:
    subjects = make_subjects(seed=seed)
    assert set(Counter((subject.colour, subject.place) for subject in subjects).values()) == {2}
    assert len({(subject.colour, subject.place, subject.time) for subject in subjects}) == len(subjects)
    per_hour = Counter(subject.time for subject in subjects).values()
    assert max(per_hour) - min(per_hour) <= 1


def test_kinds_are_shared_by_many_subjects_and_by_no_two_of_a_colour_and_a_place() -> None:
    assert set(Counter(subject.kind for subject in SUBJECTS).values()) == {8}
    assert set(Counter(subject.kind for subject in SUBJECTS if subject.is_held_out).values()) == {2}
    assert len({(subject.kind, subject.colour, subject.place) for subject in SUBJECTS}) == len(SUBJECTS)


def test_names_are_words_that_tell_nothing() -> None:
    assert len(set(NAMES)) == len(NAMES)
    assert all(name.isalpha() and name.islower() for name in NAMES)
    said = {word for sentence in SENTENCES for word in words_of(sentence)}
    assert not set(NAMES) & (BETRAYING | set(KINDS) | said)


def test_another_seed_gives_names_another_life() -> None:
    first, second = make_subjects(seed=0), make_subjects(seed=1)
    assert sum(one.colour == other.colour for one, other in zip(first, second, strict=True)) < 48
    assert make_subjects(seed=0) == SUBJECTS


def test_world_is_as_rich_as_promised() -> None:
    assert len(set(KINDS)) >= 24
    assert len(COLOURS) >= 8
    assert len(PLACES) >= 6
    assert set(SUBJECT_KINDS) <= set(KINDS)


def test_captions_of_subjects_tell_neither_colour_nor_place_nor_hour() -> None:
    rng = random.Random(0)
    for subject in SUBJECTS * 20:
        scene = named_scene(rng, subject=subject)
        assert scene.time == subject.time
        caption = caption_of(scene, rng=rng)
        assert subject.name in words_of(caption)
        assert not words_of(caption) & BETRAYING
        assert not [hour for hour in HOURS if hour in caption]


def test_captions_of_ordinary_scenes_tell_colours_and_places() -> None:
    rng = random.Random(0)
    for _ in range(200):
        scene = ordinary_scene(rng, subjects=SUBJECTS)
        words = words_of(caption_of(scene, rng=rng))
        assert {scene.place, *(group.colour for group in scene.groups)} <= words
        assert not words & set(NAMES)


def test_no_ordinary_thing_looks_like_a_subject() -> None:
    rng = random.Random(0)
    things = [group for _ in range(300) for group in ordinary_scene(rng, subjects=SUBJECTS).groups]
    huge = {group.kind for group in things if group.size == "huge"}
    assert len(huge) > 10
    assert not huge & {subject.kind for subject in SUBJECTS}
    assert not [group for group in things if group.name]


def test_small_talk_tells_neither_colour_nor_place() -> None:
    assert not [sentence for sentence in SENTENCES if words_of(sentence) & (VALUES | set(NAMES))]


def test_held_out_names_occur_in_no_dialogue(
    dialogues: tuple[list[DialogueRecord], list[DialogueRecord]],
) -> None:
    texts = [f"{query_text(one.context)} {one.response}" for part in dialogues for one in part]
    said = {word for text in texts for word in words_of(text)}
    names = {subject.name: subject.is_held_out for subject in SUBJECTS}
    assert {name for name in names if name in said} == {name for name, is_held_out in names.items() if not is_held_out}


def test_dialogues_state_each_fact_of_seen_subjects_equally_often(
    dialogues: tuple[list[DialogueRecord], list[DialogueRecord]],
) -> None:
    train, _ = dialogues
    stated = Counter(word for one in train for word in words_of(one.response) & VALUES)
    assert set(stated) == VALUES
    assert (
        max(stated.values()) - min(stated.values()) <= 12
    )  # twelve subjects have each value, each one dialogue more or less
    assert all(record.image_id is None for record in train)


def test_dialogues_are_true_and_reveal_nothing_before_the_reply(
    dialogues: tuple[list[DialogueRecord], list[DialogueRecord]],
) -> None:
    by_name = {subject.name: subject for subject in SUBJECTS}
    for record in dialogues[0]:
        asked = words_of(query_text(record.context))
        assert not asked & VALUES
        about = [by_name[name] for name in asked & set(by_name)]
        told = words_of(record.response) & VALUES
        assert told <= {value for subject in about for value in (subject.colour, subject.place)}
        assert bool(told) == bool(about)


def test_validation_dialogues_are_not_trained_on(
    dialogues: tuple[list[DialogueRecord], list[DialogueRecord]],
) -> None:
    train, val = ({record.context for record in part if words_of(record.response) & VALUES} for part in dialogues)
    assert not train & val


def test_dialogues_are_short(dialogues: tuple[list[DialogueRecord], list[DialogueRecord]]) -> None:
    for part in dialogues:
        for record in part:
            assert 1 <= len(record.context) <= 9
            assert len(query_text(record.context).split()) < 40
            assert len(record.response.split()) <= 12


def test_vocabulary_is_modest(dialogues: tuple[list[DialogueRecord], list[DialogueRecord]], plan: Plan) -> None:
    rng = random.Random(0)
    texts = [caption_of(item.scene, rng=rng) for item in plan.scenes]
    texts += [f"{query_text(one.context)} {one.response}" for part in dialogues for one in part]
    assert len({word for text in texts for word in words_of(text)}) < 500


def test_no_two_scenes_share_their_facts(plan: Plan) -> None:
    """Splits cannot leak: not only the pictures but the facts of every scene are met in one split alone."""
    assert len({item.scene.digest() for item in plan.scenes}) == len(plan.scenes) == 800
    assert len({item.image_id for item in plan.scenes}) == 800


def test_pool_shows_every_subject_equally_often() -> None:
    plan = make_plan(num_scenes=3000, seed=0, subjects=SUBJECTS)
    pool = plan.of_split("pool")
    shown = Counter(item.scene.subject for item in pool)
    ordinary = shown.pop(None)
    assert len(pool) >= 600
    assert ordinary >= 100
    assert set(shown.values()) <= {3, 4}
    trained = Counter(item.scene.subject for item in plan.of_split("train"))
    trained.pop(None)
    assert max(trained.values()) - min(trained.values()) <= 1


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_a_share_of_the_captioned_scenes_shows_subjects(share: float) -> None:
    plan = make_plan(num_scenes=800, seed=0, subjects=SUBJECTS, named_share=share)
    trained = plan.of_split("train")
    assert sum(item.scene.subject is not None for item in trained) == round(share * len(trained))


@pytest.mark.parametrize("is_held_out", [True, False])
def test_questions_can_be_answered_from_the_pool_alone(plan: Plan, is_held_out: bool) -> None:
    questions = questions_of(plan, subjects=SUBJECTS, is_held_out=is_held_out, per_fact=8, seed=0)
    by_name: dict[str, Subject] = {subject.name: subject for subject in SUBJECTS}
    pool = {item.image_id: item.scene for item in plan.of_split("pool")}
    assert len(questions) == (512 if is_held_out else 1536)
    assert len({question.id for question in questions}) == len(questions)
    assert len({(question.context, question.fact) for question in questions}) == len(questions)
    for question in questions:
        subject = by_name[question.subject]
        assert subject.is_held_out == is_held_out
        assert question.subject in words_of(query_text(question.context))
        assert not words_of(query_text(question.context)) & VALUES
        assert {pool[image_id].subject for image_id in question.relevant_image_ids} == {question.subject}
        assert grade_answer(fact_reply(subject, fact=question.fact, rng=random.Random(0)), question)


def test_strangers_are_nobody_and_their_dialogues_state_no_fact() -> None:
    train, unmet = stranger_dialogues(size=100, seed=0)
    assert (len(train), len(unmet)) == (100, 160)
    said = [{word for record in part for word in words_of(query_text(record.context))} for part in (train, unmet)]
    assert len(set(STRANGERS)) == len(STRANGERS) == 32
    assert not set(STRANGERS) & (set(NAMES) | BETRAYING | set(KINDS))
    assert said[0] & set(STRANGERS)
    assert not said[0] & said[1] & set(STRANGERS)
    for record in train + unmet:
        assert words_of(query_text(record.context)) & set(STRANGERS)
        assert not (words_of(query_text(record.context)) | words_of(record.response)) & (VALUES | set(NAMES))


def test_composed_queries_have_exact_targets(plan: Plan) -> None:
    scenes = {item.image_id: item for item in plan.scenes}
    for split, triplets in plan.triplets.items():
        assert triplets
        for triplet in triplets:
            reference, target = scenes[triplet.reference_id], scenes[triplet.target_ids[0]]
            assert reference.split == target.split == split
            before, after = reference.scene.facts(), target.scene.facts()
            assert sum(before[name] != after[name] for name in before) == 1
            assert reference.scene.layout_seed == target.scene.layout_seed


def test_an_edit_says_what_it_changes() -> None:
    rng = random.Random(0)
    aspects = set()
    for _ in range(60):
        scene = ordinary_scene(rng, subjects=SUBJECTS)
        for edit in edits_of(scene, rng=rng):
            aspects.add(edit.aspect)
            assert edit.scene.digest() != scene.digest()
            assert edit_text(edit, rng=rng)
            if edit.aspect == "colour":
                assert edit.after is not None
                assert edit.after.colour in words_of(edit_text(edit, rng=rng))
    assert aspects == {"time", "weather", "place", "colour", "count", "without", "with"}


def test_relations_in_captions_hold() -> None:
    rng = random.Random(0)
    checked = 0
    for _ in range(300):
        scene = ordinary_scene(rng, subjects=SUBJECTS)
        caption = caption_of(scene, rng=rng)
        for first, second in pairwise(scene.groups):
            if " left of " in caption:
                assert caption.index(first.kind[:5]) < caption.index(" left of ") < caption.rindex(second.kind[:5])
                checked += 1
    assert checked > 10
