"""Composed queries of your own: `triplets.jsonl` over a pool, the reference taken out of the ranking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from sightline.data.formats import read_any_pool
from sightline.data.triplets import TripletRecord, read_triplets
from sightline.errors import DataLineInvalid, UsageError
from sightline.metrics import mean_average_precision_at_each, recall_at_each
from trainer.benchmarks.annotations import Files, different, known
from trainer.benchmarks.protocol import Benchmark, Picture, Query, Task
from trainer.benchmarks.ranking import Ranked, Scores, relevant_ranks

KS, MAP_KS = (1, 5, 10), (10,)


def read(files: Files) -> Benchmark:
    """The queries of a JSONL file over the pool `images`. Raises UsageError or DataLineInvalid naming file and record.

    Every reference must lie in the pool: whoever asks with a picture does not
    want it back, so that it is known and left out.
    """
    pool, triplets = read_any_pool(files.images), read_triplets(files.annotations)
    if not triplets:
        raise UsageError(f"{files.annotations}: no composed query; a benchmark needs at least one")
    ids = tuple(image.image_id for image in pool)
    among = set(ids)
    task = Task(
        name="triplets",
        pictures=tuple(Picture(image=image) for image in pool),
        gallery=ids,
        queries=tuple(_query(one, number=at, among=among, files=files) for at, one in enumerate(triplets)),
        excludes_reference=True,
    )
    return Benchmark(
        name="triplets",
        split=files.split,
        tasks=(task,),
        annotations=(files.annotations, files.images) if files.images.is_file() else (files.annotations,),
        ks={"recall": KS, "map": MAP_KS},
        caption_mode="text",
        is_published=False,
        how_to_get_pictures="the pictures are those of your own pool",
    )


def scores(ranked: Mapping[str, Sequence[Ranked]]) -> Scores:
    """recall@k of the best answer, and mAP@10 over all answers."""
    ranks = relevant_ranks(ranked["triplets"])
    first = np.array([rank_R[0] for rank_R in ranks], dtype=np.int64)
    return {"all": recall_at_each(KS, rank_Q=first) | mean_average_precision_at_each(MAP_KS, rank_QR=ranks)}


def _query(record: TripletRecord, *, number: int, among: set[str], files: Files) -> Query:
    where = files.images
    try:
        targets = different(record.target_ids, key="target_ids")
        if record.reference_id in targets:
            raise ValueError(f"target_ids: holds the reference {record.reference_id!r}")
        return Query(
            query_id=str(number),
            reference=known(record.reference_id, key="reference_id", among=among, where=where),
            texts=(record.text,),
            targets=tuple(known(one, key="target_ids", among=among, where=where) for one in targets),
        )
    except ValueError as error:
        raise DataLineInvalid(f"{files.annotations}: record {number}: {error}") from error
