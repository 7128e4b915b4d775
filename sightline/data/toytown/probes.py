"""Queries about single skills: edits that are negated, and one edit in several wordings."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sightline.data.toytown.changes import Change
from sightline.data.toytown.edit_words import NO_LONGER, NOT_BUT, TEMPLATES, WITHOUT, worded
from sightline.data.toytown.families import ComposedQuery, ComposedSplit

PROBES = ("negation_without", "negation_no_longer", "negation_not_but", "paraphrase")
_PARAPHRASED_PER_TYPE = 15


def probe_rows(split: ComposedSplit, *, seed: int) -> list[dict[str, Any]]:
    """JSON objects of probes, made from the queries of a split and answered by its gallery.

    `negation_without` and `negation_not_but` ask for a query's own target,
    `negation_no_longer` for every picture that has anything else instead,
    `paraphrase` says 15 queries of each type in every wording for tests. Probes
    of one `group` have the same answers.
    """
    rng = random.Random(f"probes {split.name} {seed}")
    rows = [row for query in split.queries for row in _negated(query, split=split, rng=rng)]
    return rows + [row for query in _paraphrased(split.queries) for row in _paraphrases(query, rng=rng)]


def loose_targets(query: ComposedQuery, *, changes: Mapping[str, Change]) -> tuple[str, ...]:
    """The query's target, then all others of `changes` that change the same of the reference, to another value."""
    wanted = query.change
    others = [
        image_id
        for image_id, change in changes.items()
        if (change.edit_type, change.before) == (wanted.edit_type, wanted.before) and image_id != query.target_id
    ]
    return (query.target_id, *others)


def _negated(query: ComposedQuery, *, split: ComposedSplit, rng: random.Random) -> Iterator[dict[str, Any]]:
    edit_type, only = query.change.edit_type, (query.target_id,)
    if edit_type == "remove":
        yield _row(query, "negation_without", rng.choice(WITHOUT), targets=only, rng=rng)
    if edit_type in NO_LONGER:
        targets = loose_targets(query, changes=split.changes[query.reference_id])
        yield _row(query, "negation_no_longer", rng.choice(NO_LONGER[edit_type]), targets=targets, rng=rng)
        yield _row(query, "negation_not_but", rng.choice(NOT_BUT[edit_type]), targets=only, rng=rng)


def _paraphrased(queries: Sequence[ComposedQuery]) -> Iterator[ComposedQuery]:
    by_type: dict[str, list[ComposedQuery]] = defaultdict(list)
    for query in queries:
        by_type[query.change.edit_type].append(query)
    for same in by_type.values():
        yield from same[:_PARAPHRASED_PER_TYPE]


def _paraphrases(query: ComposedQuery, *, rng: random.Random) -> Iterator[dict[str, Any]]:
    for number, template in enumerate(TEMPLATES[query.change.edit_type]["test"]):
        row = _row(query, "paraphrase", template, targets=(query.target_id,), rng=rng)
        yield row | {"id": f"{row['id']}-{number}"}


def _row(
    query: ComposedQuery, probe: str, template: str, *, targets: tuple[str, ...], rng: random.Random
) -> dict[str, Any]:
    return {
        "id": f"{probe}-{query.id}",
        "probe": probe,
        "group": f"{probe}-{query.id}",
        "query_id": query.id,
        "reference_id": query.reference_id,
        "text": worded(template, change=query.change, rng=rng),
        "target_ids": list(targets),
        "edit_type": query.change.edit_type,
        "is_held_out": query.is_held_out,
    }
