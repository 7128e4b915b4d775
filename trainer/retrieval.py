"""Which pictures a dialogue retrieves: exact, in blocks, over a pool of any size that the disk holds."""

# Axes: Q queries, B queries of a block, N pictures, K pictures of a query, D embedding width.
from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sightline.data.dialogues import DialogueRecord, query_text
from sightline.errors import SettingInvalid, UsageError
from sightline.models.release import LoadedModel
from trainer.architecture import Built, device_of
from trainer.store import EncodedPictures, Floats, Rows, StoredArray

QUERIES = ("context", "context_response")
_TEXT_BATCH = 64
_QUERY_BLOCK, _PICTURE_BLOCK = 512, 8192
_META = "meta.json"


@dataclass(frozen=True, kw_only=True)
class Retrieved:
    """The nearest pictures of each dialogue, and by what they were searched."""

    rows_QK: Rows
    cosines_QK: Floats
    query: str
    """`context`, or `context_response`: searched with knowledge of the answer, fit for training alone."""

    def for_evaluation(self) -> Retrieved:
        """Itself. Raises UsageError if the answers took part in the search: no bot could find those pictures."""
        if self.query != "context":
            raise UsageError(f"retrieval: was built with {self.query!r}; evaluation takes 'context' alone")
        return self


def retrieve(
    built: Built,
    dialogues: Sequence[DialogueRecord],
    *,
    pictures: EncodedPictures,
    k: int,
    query: str,
    cache: Path | None = None,
) -> Retrieved:
    """The k nearest pictures of each dialogue by its `query`; kept below `cache` for workers and runs to come.

    Memory: the queries' vectors and results, and the blocks of `nearest_pictures`.
    Raises SettingInvalid for an unknown query.
    """
    queries_QD = encode_texts(built, [searched_text(record, query=query) for record in dialogues])
    if cache is None or not pictures.digest:
        return _searched(queries_QD, pictures=pictures, k=k, query=query)
    key = f"{pictures.digest} {k} {query} {hashlib.sha256(queries_QD.tobytes()).hexdigest()}"
    folder = cache / f"retrieved-{hashlib.sha256(key.encode()).hexdigest()[:24]}"
    if not folder.exists():
        write_retrieved(folder, _searched(queries_QD, pictures=pictures, k=k, query=query))
    return read_retrieved(folder)


def searched_text(record: DialogueRecord, *, query: str) -> str:
    """The text that a dialogue is searched by. Raises SettingInvalid naming the queries there are."""
    if query not in QUERIES:
        raise SettingInvalid(f"stage2.query: got {query!r}, expected one of {', '.join(QUERIES)}")
    return query_text(record.context if query == "context" else (*record.context, record.response))


def write_retrieved(folder: Path, retrieved: Retrieved) -> None:
    """Write rows, cosines and the query that they answer; whole or not at all, whoever writes at the same time."""
    partial = folder.with_name(f"{folder.name}.{uuid.uuid4().hex}.partial")
    partial.mkdir(parents=True)
    np.save(partial / "rows.npy", retrieved.rows_QK)
    np.save(partial / "cosines.npy", retrieved.cosines_QK)
    (partial / _META).write_text(json.dumps({"query": retrieved.query}), encoding="utf-8")
    try:
        partial.replace(folder)
    except OSError:  # Another worker was first, with the same search.
        shutil.rmtree(partial)


def read_retrieved(folder: Path) -> Retrieved:
    """What `write_retrieved` wrote. Rows and cosines stay on disk until they are looked at."""
    meta = json.loads((folder / _META).read_text(encoding="utf-8"))
    return Retrieved(
        rows_QK=np.load(folder / "rows.npy", mmap_mode="r"),
        cosines_QK=np.load(folder / "cosines.npy", mmap_mode="r"),
        query=str(meta["query"]),
    )


@torch.no_grad()
def encode_texts(built: Built | LoadedModel, texts: Sequence[str]) -> Floats:
    """Unit vectors [Q, D] of texts."""
    tower = built.model.tower.eval()
    vectors = []
    for start in range(0, len(texts), _TEXT_BATCH):
        ids_BL = torch.from_numpy(built.tower_tokenizer.tokenize(texts[start : start + _TEXT_BATCH]).ids)
        vectors.append(tower.encode_text(tower.longest_text(ids_BL.to(device_of(built.model)))).float().cpu().numpy())
    return np.concatenate(vectors)


def nearest_pictures(
    queries_QD: Floats,
    *,
    pictures_ND: StoredArray | Floats,
    k: int,
    query_block: int = _QUERY_BLOCK,
    picture_block: int = _PICTURE_BLOCK,
) -> tuple[Rows, Floats]:
    """(rows [Q, K], cosines [Q, K]) of the k nearest pictures of each query, exact, best first, ties by lower row.

    Besides the result it holds some 20 bytes for each of query_block x
    picture_block similarities, 80 MiB as it is called, and a block of vectors,
    whatever the size of the pool.
    """
    k = min(k, len(pictures_ND))
    rows_QK = np.zeros((len(queries_QD), k), dtype=np.int64)
    cosines_QK = np.full((len(queries_QD), k), -np.inf, dtype=np.float32)
    for start in range(0, len(pictures_ND), picture_block):
        block_ND = pictures_ND[start : start + picture_block]
        for first in range(0, len(queries_QD), query_block):
            part = slice(first, first + query_block)
            new_rows, new_cosines = _best(queries_QD[part] @ block_ND.T, k=min(k, len(block_ND)))
            both_rows = np.concatenate([rows_QK[part], new_rows + start], axis=1)
            both_cosines = np.concatenate([cosines_QK[part], new_cosines], axis=1)
            # Stable, and earlier rows stand first: equal cosines stay in the order of rows.
            order = np.argsort(-both_cosines, axis=1, kind="stable")[:, :k]
            rows_QK[part] = np.take_along_axis(both_rows, order, axis=1)
            cosines_QK[part] = np.take_along_axis(both_cosines, order, axis=1)
    return rows_QK, cosines_QK


def ranks_of_relevant(
    queries_QD: Floats,
    *,
    pictures_ND: StoredArray | Floats,
    relevant: Sequence[Rows],
    query_block: int = _QUERY_BLOCK,
    picture_block: int = _PICTURE_BLOCK,
) -> Rows:
    """For each query, how many pictures come before the best of its `relevant` rows; ties count as before. [Q]

    Equal to `sightline.metrics.ranks_of_first_relevant` of the whole matrix, of
    which it holds a block. Raises UsageError for a query without a relevant row.
    """
    if any(not len(rows) for rows in relevant):
        raise UsageError(f"query {[len(rows) for rows in relevant].index(0)}: has no relevant picture")
    best_Q = np.full(len(queries_QD), -np.inf, dtype=np.float32)
    ahead_Q = np.zeros(len(queries_QD), dtype=np.int64)
    sizes = {"query_block": query_block, "picture_block": picture_block}
    for part, cosines_BN, relevant_BN in _blocks(queries_QD, pictures_ND, relevant, **sizes):
        best_Q[part] = np.maximum(best_Q[part], np.where(relevant_BN, cosines_BN, -np.inf).max(axis=1))
    # The same blocks once more, so that a cosine is compared with itself and not with one summed in another order.
    for part, cosines_BN, relevant_BN in _blocks(queries_QD, pictures_ND, relevant, **sizes):
        ahead_Q[part] += ((cosines_BN >= best_Q[part][:, None]) & ~relevant_BN).sum(axis=1)
    return ahead_Q


def _blocks(
    queries_QD: Floats,
    pictures_ND: StoredArray | Floats,
    relevant: Sequence[Rows],
    *,
    query_block: int,
    picture_block: int,
) -> Iterator[tuple[slice, Floats, np.ndarray[Any, np.dtype[np.bool_]]]]:
    for start in range(0, len(pictures_ND), picture_block):
        block_ND = pictures_ND[start : start + picture_block]
        for first in range(0, len(queries_QD), query_block):
            part = slice(first, first + query_block)
            cosines_BN = queries_QD[part] @ block_ND.T
            relevant_BN = np.zeros(cosines_BN.shape, dtype=bool)
            for query, rows in enumerate(relevant[part]):
                relevant_BN[query, rows[(rows >= start) & (rows < start + len(block_ND))] - start] = True
            yield part, cosines_BN, relevant_BN


def _searched(queries_QD: Floats, *, pictures: EncodedPictures, k: int, query: str) -> Retrieved:
    rows_QK, cosines_QK = nearest_pictures(queries_QD, pictures_ND=pictures.vectors_ND, k=k)
    return Retrieved(rows_QK=rows_QK, cosines_QK=cosines_QK, query=query)


def _best(cosines_BN: Floats, *, k: int) -> tuple[Rows, Floats]:
    """(rows, cosines) of the k largest of each row of a block, best first, ties by lower row."""
    top_BK = np.argpartition(-cosines_BN, k - 1, axis=1)[:, :k]
    least_B = np.take_along_axis(cosines_BN, top_BK, axis=1).min(axis=1)
    # A partition keeps any of several that tie for the last place; those few queries are sorted in full.
    tied_B = (cosines_BN >= least_B[:, None]).sum(axis=1) > k
    top_BK[tied_B] = np.argsort(-cosines_BN[tied_B], axis=1, kind="stable")[:, :k]
    top_BK.sort(axis=1)
    order_BK = np.argsort(-np.take_along_axis(cosines_BN, top_BK, axis=1), axis=1, kind="stable")
    rows_BK = np.take_along_axis(top_BK, order_BK, axis=1)
    return rows_BK, np.take_along_axis(cosines_BN, rows_BK, axis=1)
