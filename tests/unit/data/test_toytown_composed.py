"""Composed queries at size: one right answer each by brute force over facts, and nothing of the tests in training."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sightline.data.lines import read_lines, write_json
from sightline.data.pools import read_pool
from sightline.data.toytown import write_benchmark_copies, write_composed
from sightline.data.toytown.caption_edits import caption_edits, tells
from sightline.data.toytown.ceilings import ceilings, says_of
from sightline.data.toytown.changes import (
    EDIT_TYPES,
    change_between,
    is_sound,
    told_facts,
    transform_of,
)
from sightline.data.toytown.composed import ComposedPlan, plan_composed, query_row, read_world
from sightline.data.toytown.edit_words import PARTS, TEMPLATES, WITHOUT, worded
from sightline.data.toytown.families import RENDERS, ComposedSplit
from sightline.data.toytown.language import ordinary_caption
from sightline.data.toytown.plan import make_plan
from sightline.data.toytown.probes import PROBES, probe_rows
from sightline.data.toytown.records import facts_of
from sightline.data.toytown.scenes import ordinary_scene
from sightline.data.toytown.world import Scene, make_subjects, subject_kinds
from sightline.data.toytown.writer import MIN_SCENES, draw_all
from sightline.data.triplets import read_triplets
from sightline.errors import UsageError

SEED = 5


def folder_digest(folder: Path, *, without: str) -> str:
    """One digest of every file's name and bytes, but for the subfolder `without`."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not name.startswith(f"{without}/"):
            digest.update(name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def rows_of(path: Path) -> list[dict[str, Any]]:
    return read_lines(path, parse=dict)


def write_world(folder: Path) -> None:
    """The files of a small Toytown that composed queries are made from; of its pictures the first."""
    subjects = make_subjects(seed=SEED)
    plan = make_plan(num_scenes=MIN_SCENES, seed=SEED, subjects=subjects)
    write_json(folder / "facts.json", facts_of(plan, subjects=subjects, seed=SEED))
    draw_all(plan.scenes[:1], images=folder / "images", size=16, on_progress=None)


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("town")
    (folder / "images").mkdir()
    write_world(folder)
    before = folder_digest(folder, without="composed")
    write_composed(folder, queries=24, gallery=60, val_queries=12, edits_per_type=1)
    assert folder_digest(folder, without="composed") == before
    return folder


@pytest.fixture(scope="module")
def plan(town: Path) -> ComposedPlan:
    return plan_composed(town, queries=180, gallery=360, val_queries=24)


@pytest.fixture(scope="module")
def test_split(plan: ComposedPlan) -> ComposedSplit:
    return plan.splits[-1]


@pytest.fixture(scope="module")
def edits(plan: ComposedPlan) -> list[dict[str, Any]]:
    """Training edits of that plan."""
    return caption_edits(
        [item for item in plan.world.planned if item.split == "train"],
        part="train",
        per_type=1,
        subjects=plan.world.subjects,
        held_out=plan.held_out,
        avoid={told_facts(scene) for split in plan.splits for scene in split.scenes.values()},
        seed=SEED,
    )


def differences(one: Scene, other: Scene) -> int:
    """How many facts differ, slowly: place, time, weather, and each kind of thing that is not there alike."""
    groups = [{(g.kind, g.colour, g.count) for g in scene.groups} for scene in (one, other)]
    kinds = {kind for kind, _, _ in groups[0] ^ groups[1]}
    return sum(getattr(one, name) != getattr(other, name) for name in ("place", "time", "weather")) + len(kinds)


def test_the_same_world_writes_the_same_queries_and_leaves_its_files_alone(town: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    write_world(tmp_path)
    write_composed(tmp_path, queries=24, gallery=60, val_queries=12, edits_per_type=1)
    again, first = (folder_digest(folder / "composed", without="benchmarks") for folder in (tmp_path, town))
    assert again == first


def test_our_readers_read_galleries_and_queries(town: Path) -> None:
    folder = town / "composed"
    for name, num_queries, num_pictures in (("val", 12, 30), ("test", 24, 60)):
        gallery = read_pool(folder / f"gallery_{name}.jsonl")
        queries = read_triplets(folder / f"queries_{name}.jsonl")
        assert (len(queries), len(gallery)) == (num_queries, num_pictures)
        assert len({image.read_bytes() for image in gallery}) == num_pictures
        ids = {image.image_id for image in gallery}
        assert all({query.reference_id, *query.target_ids} <= ids for query in queries)
    with Image.open(gallery[0].path) as picture:
        assert picture.size == (16, 16)


def test_every_query_has_exactly_one_right_answer(plan: ComposedPlan) -> None:
    """Whatever is not said stays, what is said is so: one picture of both galleries tells these facts."""
    told = {i: told_facts(scene) for split in plan.splits for i, scene in split.scenes.items()}
    world = {told_facts(item.scene) for item in plan.world.planned}
    assert not world & set(told.values())
    for split in plan.splits:
        for query in split.queries:
            assert told[query.reference_id] == told_facts(query.change.reference)
            assert [i for i, facts in told.items() if facts == told_facts(query.change.target)] == [query.target_id]
            layouts = {split.scenes[i].layout_seed for i in (query.reference_id, query.target_id)}
            assert len(layouts) == 2


def test_wrong_answers_are_hard(test_split: ComposedSplit) -> None:
    """Two pictures look like the reference, and of five others in the subset each is a fact from it or the target."""
    for query in test_split.queries:
        alike = test_split.looks_alike[query.reference_id]
        assert len(alike) == RENDERS - 1
        assert {query.reference_id, query.target_id} <= set(query.subset_ids)
        assert len(set(query.subset_ids)) == 6
        near = [test_split.scenes[i] for i in query.subset_ids if i not in (query.reference_id, query.target_id)]
        assert Counter(change_between(query.change.reference, scene) is not None for scene in near) == {
            True: 2,
            False: 2,
        }
        assert all(change_between(query.change.target, s) or change_between(query.change.reference, s) for s in near)


def test_types_of_queries_are_balanced(test_split: ComposedSplit) -> None:
    counts = Counter(query.change.edit_type for query in test_split.queries)
    assert set(counts) == set(EDIT_TYPES)
    assert min(counts.values()) >= len(test_split.queries) / len(EDIT_TYPES) * 0.7


def test_one_change_is_one_difference_by_brute_force(test_split: ComposedSplit) -> None:
    scenes = list(test_split.scenes.values())[:60]
    for one in scenes:
        for other in scenes:
            change = change_between(one, other)
            is_replaced = change is not None and change.edit_type == "replace"
            if change is not None:
                assert differences(one, other) == (2 if is_replaced else 1)
            elif differences(one, other) == 1:
                # Colour and count of one kind at once: one thing differs, in two facts.
                groups = [{g.kind: g for g in scene.groups} for scene in (one, other)]
                changed = [k for k in groups[0].keys() & groups[1].keys() if differs_twice(groups[0][k], groups[1][k])]
                assert len(changed) == 1


def differs_twice(one: Any, other: Any) -> bool:
    return one.colour != other.colour and one.count != other.count


@pytest.mark.parametrize("edit_type", EDIT_TYPES)
def test_a_transform_makes_the_change_that_it_is_named_for(edit_type: str) -> None:
    rng = random.Random(0)
    subjects = make_subjects(seed=0)
    found = 0
    for _ in range(200):
        scene = ordinary_scene(rng, subjects=subjects)
        target = transform_of(scene, edit_type=edit_type, position=0, rng=rng)(scene)
        change = change_between(scene, target)
        if is_sound(target, named_kinds=subject_kinds(subjects)):
            found += 1
            assert change is not None
            assert change.edit_type == edit_type
            assert says_of(change, target)
    assert found > 10


def test_templates_of_training_validation_and_tests_are_disjoint() -> None:
    for by_part in TEMPLATES.values():
        templates = [template for part in PARTS for template in by_part[part]]
        assert len(set(templates)) == len(templates)
        assert all(len(by_part[part]) >= count for part, count in (("train", 6), ("val", 2), ("test", 4)))
    trained = {template for by_part in TEMPLATES.values() for template in by_part["train"]}
    tested = {template for by_part in TEMPLATES.values() for part in ("val", "test") for template in by_part[part]}
    assert not trained & tested


def test_evaluation_sentences_are_new_but_their_words_are_not(plan: ComposedPlan, edits: list[dict[str, Any]]) -> None:
    """Otherwise a text tower that is trained on this world alone would be asked in words without a meaning."""
    known = {word for row in edits for key in ("reference_caption", "modification") for word in words_of(row[key])}
    known |= {
        word for item in plan.world.planned[:200] if item.scene.subject is None for word in caption_words(item.scene)
    }
    known |= words_of("let us")  # Captions of subjects say so.
    texts = [query.text for split in plan.splits for query in split.queries]
    texts += [row["text"] for row in probe_rows(plan.splits[-1], seed=SEED)]
    assert {word for text in texts for word in words_of(text)} - known == set()


def words_of(text: str) -> set[str]:
    return {word.strip(".,?!:") for word in text.split()}


def caption_words(scene: Scene) -> set[str]:
    return words_of(ordinary_caption(scene, rng=random.Random(0)))


def test_held_out_combinations_are_in_tests_and_in_no_training_edit(town: Path, plan: ComposedPlan) -> None:
    things, settings = plan.held_out.things, plan.held_out.settings
    phrases = {colour_kind for kind, colour in things for colour_kind in (f"{colour} {kind}", f"{colour} {kind}s")}
    scenes = {item.image_id: item.scene for item in plan.world.planned}
    for row in rows_of(town / "composed" / "edits_train.jsonl") + rows_of(town / "composed" / "edits_val.jsonl"):
        said = f" {row['reference_caption']} {row['target_caption']} ".replace(",", " ").replace(":", " ")
        assert not [phrase for phrase in phrases if f" {phrase} " in said]
        assert not plan.held_out.covers(scenes[row["image"]])
        assert not [
            setting
            for setting in settings
            if is_told(setting, caption=row["target_caption"], like=scenes[row["image"]])
        ]
    marked = [query for query in plan.splits[-1].queries if query.is_held_out]
    assert 0.1 < len(marked) / len(plan.splits[-1].queries) < 0.6
    for query in plan.splits[-1].queries:
        target = query.change.target
        shown = {(group.kind, group.colour) for group in target.groups} & things
        assert query.is_held_out == bool(shown or (target.place, target.time) in settings)


def is_told(setting: tuple[str, str], *, caption: str, like: Scene) -> bool:
    place, time = setting
    probe = Scene(place=place, time=time, weather=like.weather, groups=like.groups, layout_seed=0)
    return f"the {place} " in f"{caption} " and "time" in tells(caption, probe)


def test_edits_follow_the_schema_and_tell_what_they_change(town: Path) -> None:
    captioned = {item.image_id for item in read_world(town).planned if item.split == "train"}
    rows = rows_of(town / "composed" / "edits_train.jsonl")
    assert len({row["id"] for row in rows}) == len(rows) > 300
    types = {"add", "remove", "replace", "attribute", "count", "background"}
    assert {row["edit_type"] for row in rows} == types
    keys = ["id", "image", "reference_caption", "modification", "target_caption", "edit_type", "generator"]
    for row in rows:
        assert list(row) == keys
        assert row["image"] in captioned
        assert row["target_caption"] != row["reference_caption"]
        assert row["generator"] == {"kind": "rule", "model": "toytown-facts", "prompt_version": "1 train", "seed": SEED}


def test_captions_of_edits_tell_hours_and_weathers_and_keep_what_the_reference_told(
    plan: ComposedPlan, edits: list[dict[str, Any]]
) -> None:
    scenes = {item.image_id: item.scene for item in plan.world.planned}
    counts: Counter[str] = Counter()
    for row in edits:
        told = tells(row["reference_caption"], scenes[row["image"]])
        counts.update(told)
        counts["all"] += 1
        if row["edit_type"] == "count" and told == {"time", "weather"}:
            assert tells(row["target_caption"], scenes[row["image"]]) == told
    assert all(0.3 < counts[name] / counts["all"] < 0.9 for name in ("time", "weather"))


def test_ceilings_equal_brute_force(plan: ComposedPlan) -> None:
    test_split = plan.splits[0]
    table = ceilings(test_split)
    assert set(table["composer"].values()) == {1.0}
    assert table["picture_only"]["recall_at_1"] == 0.0
    others = [(q, [i for i in test_split.scenes if i != q.reference_id]) for q in test_split.queries]
    chances = [1 / sum(says_of(q.change, test_split.scenes[i]) for i in ids) for q, ids in others]
    assert table["text_only"]["recall_at_1"] == pytest.approx(sum(chances) / len(chances))
    assert table["text_only"]["recall_at_1"] < 0.25
    assert table["chance"]["subset_recall_at_1"] == pytest.approx(0.2)
    assert table["picture_only"]["subset_recall_at_1"] == pytest.approx(1 / 3)


def test_a_drawn_picture_only_ranking_scores_its_ceiling(test_split: ComposedSplit) -> None:
    """The exact expectation, compared with rankings drawn by chance."""
    rng = random.Random(0)
    hits = 0
    for query in test_split.queries:
        scenes = [(i, s) for i, s in test_split.scenes.items() if i != query.reference_id]
        rng.shuffle(scenes)
        near = {i: change_between(query.change.reference, scene) is not None for i, scene in scenes}
        ranked = sorted(
            scenes, key=lambda item: 0 if item[0] in alike(test_split, query.reference_id) else 2 - near[item[0]]
        )
        hits += query.target_id in [i for i, _ in ranked[:5]]
    assert hits / len(test_split.queries) == pytest.approx(ceilings(test_split)["picture_only"]["recall_at_5"], abs=0.1)


def alike(split: ComposedSplit, image_id: str) -> tuple[str, ...]:
    return split.looks_alike[image_id]


def test_probes_have_the_answers_of_their_sentences(test_split: ComposedSplit) -> None:
    rows = probe_rows(test_split, seed=SEED)
    assert {row["probe"] for row in rows} == set(PROBES)
    assert len({row["id"] for row in rows}) == len(rows)
    queries = {query.id: query for query in test_split.queries}
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row["group"]].append(row)
        query = queries[row["query_id"]]
        if row["probe"] != "negation_no_longer":
            assert row["target_ids"] == [query.target_id]
            continue
        changes = {i: change_between(query.change.reference, scene) for i, scene in test_split.scenes.items()}
        asked = (query.change.edit_type, query.change.before)
        right = {i for i, change in changes.items() if change and (change.edit_type, change.before) == asked}
        assert set(row["target_ids"]) == right
    for group in groups.values():
        assert len({tuple(row["target_ids"]) for row in group}) == 1
        assert len({row["text"] for row in group}) == (4 if group[0]["probe"] == "paraphrase" else 1)


def test_a_negated_edit_names_what_is_gone(test_split: ComposedSplit) -> None:
    removal = next(query for query in test_split.queries if query.change.edit_type == "remove")
    assert removal.change.before is not None
    assert removal.change.before.kind in worded(WITHOUT[0], change=removal.change, rng=random.Random(0))


def test_a_row_is_a_triplet_and_more(test_split: ComposedSplit) -> None:
    row = query_row(test_split.queries[0])
    assert {"reference_id", "text", "target_ids", "edit_type", "is_held_out", "family", "subset_ids"} < set(row)


@pytest.mark.parametrize(("queries", "gallery"), [(24, 47), (0, 60), (25, 60)])
def test_a_gallery_without_room_is_refused(town: Path, queries: int, gallery: int) -> None:
    with pytest.raises(UsageError, match=f"got {gallery} pictures for {queries}"):
        plan_composed(town, queries=queries, gallery=gallery, val_queries=12)


def test_a_folder_without_a_world_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"facts\.json"):
        read_world(tmp_path)


@pytest.fixture(scope="module")
def copies(town: Path) -> dict[str, Path]:
    return write_benchmark_copies(town)


def json_of(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def test_the_circo_copy_keeps_circos_promises(copies: dict[str, Path]) -> None:
    folder = copies["circo"] / "annotations"
    gallery = {row["id"]: row["file_name"] for row in json_of(folder / "image_info_unlabeled2017.json")["images"]}
    assert len(gallery) == 90
    assert all((copies["circo"] / "unlabeled2017" / name).is_file() for name in gallery.values())
    val, test = json_of(folder / "val.json"), json_of(folder / "test.json")
    assert [row["id"] for row in val] == list(range(12))
    assert max(len(row["gt_img_ids"]) for row in val) > 1
    for row in val:
        assert row["gt_img_ids"][0] == row["target_img_id"]
        assert row["reference_img_id"] not in row["gt_img_ids"]
        assert set(row["gt_img_ids"]) <= set(gallery)
    assert set(test[0]) == {"reference_img_id", "relative_caption", "shared_concept", "id"}
    assert set(json_of(folder / "answers_test.json")) == {str(row["id"]) for row in test}


def test_the_cirr_copy_keeps_cirrs_promises(copies: dict[str, Path]) -> None:
    for name in ("val", "test1"):
        split = json_of(copies["cirr"] / "image_splits" / f"split.rc2.{name}.json")
        assert all((copies["cirr"] / path).is_file() for path in split.values())
        for row in json_of(copies["cirr"] / "captions" / f"cap.rc2.{name}.json"):
            members = row["img_set"]["members"]
            assert len(set(members)) == 6
            assert set(members) <= set(split)
            assert members[row["img_set"]["reference_rank"]] == row["reference"]
            assert ("target_hard" in row) == ("target_rank" in row["img_set"]) == (name == "val")
            if name == "val":
                assert members[row["img_set"]["target_rank"]] == row["target_hard"] != row["reference"]


def test_the_fashioniq_copy_keeps_fashioniqs_promises(copies: dict[str, Path]) -> None:
    num_queries = 0
    for category in ("dress", "shirt", "toptee"):
        asins = json_of(copies["fashioniq"] / "image_splits" / f"split.{category}.test.json")
        assert all((copies["fashioniq"] / "images" / f"{asin}.png").is_file() for asin in asins)
        for row in json_of(copies["fashioniq"] / "captions" / f"cap.{category}.test.json"):
            num_queries += 1
            assert set(row) == {"candidate", "captions"}
            assert len(set(row["captions"])) == 2
            assert row["candidate"] in asins
        for row in json_of(copies["fashioniq"] / "captions" / f"cap.{category}.val.json"):
            assert row["target"] != row["candidate"]
    assert num_queries == 24


@pytest.mark.parametrize(
    ("task", "size"), [("focus_attribute", 10), ("change_attribute", 15), ("focus_object", 15), ("change_object", 15)]
)
def test_the_genecis_copy_keeps_genecis_promises(copies: dict[str, Path], task: str, size: int) -> None:
    rows = json_of(copies["genecis"] / f"{task}.json")
    assert rows
    key, name = (
        ("image_id", "VG_100K/{}.jpg") if task.endswith("attribute") else ("val_image_id", "val2017/{:012d}.jpg")
    )
    for row in rows:
        others = [one[key] for one in row["gallery"]]
        assert len({row["target"][key], *others}) == size == len(others) + 1
        assert row["reference"][key] not in {row["target"][key], *others}
        assert all((copies["genecis"] / name.format(number)).is_file() for number in others)
        assert len(row["condition"].split()) == 1
