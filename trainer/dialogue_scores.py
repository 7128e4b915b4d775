"""A release measured on dialogues that people had: its replies against theirs, over a pool of pictures."""

# Axes: Q dialogues, M of them with a known picture, K pictures of a dialogue, D embedding width.
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from sightline.data.dialogues import DialogueRecord
from sightline.data.pools import PoolImage
from sightline.metrics import (
    WordVectors,
    bleu_each,
    clip_scores,
    distinct_n,
    embedding_similarities,
    median_rank,
    perplexity,
    picture_gain,
    read_word_vectors,
    recall_at_each,
    rouge_l_each,
    token_loss,
    words,
)
from trainer import shown
from trainer.answers import Flags, ResponseLosses, answer_all, is_shown, response_losses
from trainer.architecture import Built
from trainer.config import EvaluationSettings
from trainer.evaluate import RECALLS, Scores
from trainer.retrieval import encode_texts
from trainer.shown import UNKNOWN, Shown
from trainer.store import LEFT_OUT, EncodedPictures, Floats, Rows

RETRIEVED, SERVED, RANDOM, NONE, TRUE = "retrieved", "served", "random", "none", "true"
LOOKS = (RETRIEVED, SERVED, RANDOM, NONE)
"""What replies can be given to look at; `served` is retrieved over the release's score floor, as services do."""

ItemT = TypeVar("ItemT")
PerDialogue = dict[str, np.ndarray[Any, np.dtype[np.float64]]]


class Track(Protocol):
    """Shows how far a loop is; `rich.progress.Progress.track` is one."""

    def __call__(self, sequence: Sequence[ItemT], *, description: str) -> Iterable[ItemT]:
        """The items of the sequence, in order."""


@dataclass(frozen=True, kw_only=True)
class DialogueExam:
    """A model, dialogues, and a pool of pictures that it was not trained on."""

    built: Built
    dialogues: Sequence[DialogueRecord]
    images: Sequence[PoolImage]
    pictures: EncodedPictures
    """What `images` look like to the tower, each distinct one a row."""
    settings: EvaluationSettings
    seed: int
    track: Track


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What an exam came to."""

    scores: Scores
    predictions: list[dict[str, Any]]
    """One row a dialogue: id, context, response, reply, image_ids, image_scores, scores."""


def evaluate_dialogues(exam: DialogueExam, *, look: str, word_vectors: Path | None) -> Measured:
    """Every score that the dialogues allow, with the replies that look at the pictures `look` names, one of LOOKS.

    Losses are taken with retrieved, served, random and no pictures whatever `look` is,
    and with the right one for dialogues that name a picture of the pool. Pictures
    are retrieved by contexts alone. Embedding scores need a file of `word_vectors`,
    which is read once the words of the replies are known.
    """
    queries_QD = shown.query_vectors(exam.built, exam.dialogues)
    known_Q = shown.known_rows(exam.dialogues, row_of=exam.pictures.rows_by_id(exam.images))
    choices = _choices(exam, queries_QD=queries_QD, known_Q=known_Q)
    losses = {name: _losses(exam, choice, name=name) for name, choice in choices.items()}
    replies = _replies(exam, choices[look], look=look)
    vectors = _vectors(word_vectors, texts=[*replies, *_responses(exam)])
    each = _text_scores(exam, replies, vectors=vectors) | _clip(exam, replies, looked=choices[look], known_Q=known_Q)
    scores = _corpus_scores(exam, replies) | {name: float(np.nanmean(values)) for name, values in each.items()}
    scores |= {"perplexity": perplexity(losses[look].nll_B, num_tokens_N=losses[look].num_tokens_B)}
    scores |= _picture_gains(losses, best=RETRIEVED) | _known_scores(exam, queries_QD, known_Q=known_Q, losses=losses)
    rows = _predictions(exam, replies, looked=choices[look], each=each, losses=losses[look])
    return Measured(scores=scores | _counts(exam, replies, known_Q=known_Q, vectors=vectors), predictions=rows)


def _choices(exam: DialogueExam, *, queries_QD: Floats, known_Q: Rows) -> dict[str, Shown]:
    k, floor = exam.settings.num_images, exam.built.model.config.min_score
    return {
        RETRIEVED: shown.retrieved(queries_QD, pictures=exam.pictures, k=k),
        SERVED: shown.retrieved(queries_QD, pictures=exam.pictures, k=k, min_score=floor),
        RANDOM: shown.drawn(queries_QD, pictures=exam.pictures, k=k, known_Q=known_Q, seed=exam.seed),
        NONE: shown.nothing(queries_QD),
    }


def _batches(exam: DialogueExam) -> list[slice]:
    size = exam.settings.batch_size
    return [slice(start, start + size) for start in range(0, len(exam.dialogues), size)]


def _losses(exam: DialogueExam, choice: Shown, *, name: str) -> ResponseLosses:
    parts = [
        response_losses(
            exam.built,
            dialogues=exam.dialogues[part],
            pictures=exam.pictures,
            rows_BK=choice.rows_QK[part],
            cosines_BK=choice.cosines_QK[part],
            batch_size=exam.settings.batch_size,
            min_score=choice.min_score,
        )
        for part in exam.track(_batches(exam), description=f"losses, pictures: {name}")
    ]
    return ResponseLosses(
        nll_B=np.concatenate([part.nll_B for part in parts]),
        num_tokens_B=np.concatenate([part.num_tokens_B for part in parts]),
    )


def _replies(exam: DialogueExam, looked: Shown, *, look: str) -> list[str]:
    return [
        reply
        for part in exam.track(_batches(exam), description=f"replies, pictures: {look}")
        for reply in answer_all(
            exam.built,
            contexts=[record.context for record in exam.dialogues[part]],
            pictures=exam.pictures,
            rows_BK=looked.rows_QK[part],
            cosines_BK=looked.cosines_QK[part],
            max_new_tokens=exam.settings.max_new_tokens,
            batch_size=exam.settings.batch_size,
            min_score=looked.min_score,
        )
    ]


def _responses(exam: DialogueExam) -> list[str]:
    return [record.response for record in exam.dialogues]


def _vectors(path: Path | None, *, texts: Sequence[str]) -> WordVectors | None:
    return read_word_vectors(path, words={word for text in texts for word in words(text)}) if path else None


def _corpus_scores(exam: DialogueExam, replies: Sequence[str]) -> Scores:
    """Scores that only a whole set of replies has."""
    distinct = {f"distinct_{n}": distinct_n(replies, n=n) for n in (1, 2)}
    return bleu_each(replies, responses=_responses(exam)) | distinct


def _text_scores(exam: DialogueExam, replies: Sequence[str], *, vectors: WordVectors | None) -> PerDialogue:
    """Scores of each reply against its response."""
    scores: PerDialogue = {"rouge_l": np.array(rouge_l_each(replies, responses=_responses(exam)))}
    if vectors is None:
        return scores
    return {**scores, **embedding_similarities(replies, responses=_responses(exam), vectors=vectors)}


def _clip(exam: DialogueExam, replies: Sequence[str], *, looked: Shown, known_Q: Rows) -> PerDialogue:
    """CLIPScore of replies, and of responses beside them, by what they are held against; not-a-number without it."""
    reply_QD = encode_texts(exam.built, list(replies))
    scores: PerDialogue = {}
    looks_Q = _is_shown(exam, looked).any(axis=1)
    if looks_Q.any():
        response_QD = encode_texts(exam.built, _responses(exam))
        for name, text_QD in (("clip_score", reply_QD), ("clip_score_response", response_QD)):
            score_Q = _clip_of(text_QD, rows_QK=looked.rows_QK, pictures=exam.pictures)
            scores[name] = np.where(looks_Q, score_Q, np.nan)
    has_known_Q = known_Q != UNKNOWN
    if has_known_Q.any():
        rows_MK = known_Q[has_known_Q][:, None]
        scores["clip_score_true"] = np.full(len(replies), np.nan)
        scores["clip_score_true"][has_known_Q] = _clip_of(
            reply_QD[has_known_Q], rows_QK=rows_MK, pictures=exam.pictures
        )
    return scores


def _is_shown(exam: DialogueExam, looked: Shown) -> Flags:
    contexts = [record.context for record in exam.dialogues]
    return is_shown(contexts, cosines_BK=looked.cosines_QK, min_score=looked.min_score)


def _clip_of(text_QD: Floats, *, rows_QK: Rows, pictures: EncodedPictures) -> np.ndarray[Any, np.dtype[np.float64]]:
    """[Q] the mean over each text's pictures."""
    by_slot = [clip_scores(text_QD, image_ND=pictures.vectors_ND[rows_Q]) for rows_Q in rows_QK.T]
    return np.mean(by_slot, axis=0)  # type: ignore[no-any-return]


def _picture_gains(losses: Mapping[str, ResponseLosses], *, best: str) -> Scores:
    """The losses of a token with each choice of pictures, and what `best` gives over the others."""
    scores = {f"loss_{name}": token_loss(each.nll_B, num_tokens_N=each.num_tokens_B) for name, each in losses.items()}
    for name, found in losses.items():
        if name != best:
            gain = picture_gain(losses[best].nll_B, other_N=found.nll_B, num_tokens_N=found.num_tokens_B)
            scores[f"gain_{best}_over_{name}"] = gain.nats_per_token
            scores[f"better_{best}_than_{name}"] = gain.better_share
    return scores


def _known_scores(
    exam: DialogueExam, queries_QD: Floats, *, known_Q: Rows, losses: Mapping[str, ResponseLosses]
) -> Scores:
    """What can be said of dialogues that name a picture of the pool: whether it is found, and whether it helps."""
    chosen_M = np.flatnonzero(known_Q != UNKNOWN)
    if not len(chosen_M):
        return {}
    queries_MD, known_M = queries_QD[chosen_M], known_Q[chosen_M]
    ranks_M = shown.ranks_of_known(queries_MD, pictures=exam.pictures, known_Q=known_M)
    scores = {f"retrieval_{name}": value for name, value in recall_at_each(RECALLS, rank_Q=ranks_M).items()}
    scores["retrieval_median_rank"] = median_rank(ranks_M)
    part = replace(exam, dialogues=[exam.dialogues[row] for row in chosen_M.tolist()])
    right = _losses(part, shown.known(queries_MD, pictures=exam.pictures, known_Q=known_M), name=TRUE)
    gains = _picture_gains({TRUE: right, **{name: found.part(chosen_M) for name, found in losses.items()}}, best=TRUE)
    return scores | {name: value for name, value in gains.items() if TRUE in name}


def _counts(exam: DialogueExam, replies: Sequence[str], *, known_Q: Rows, vectors: WordVectors | None) -> Scores:
    said, wanted = ([words(text) for text in texts] for texts in (replies, _responses(exam)))
    counts = {
        "reply_words": float(np.mean([len(text) for text in said])),
        "response_words": float(np.mean([len(text) for text in wanted])),
        "num_dialogues": float(len(exam.dialogues)),
        "num_dialogues_with_picture": float((known_Q != UNKNOWN).sum()),
        "num_pool_pictures": float((exam.pictures.row_of_image != LEFT_OUT).sum()),
    }
    if vectors is None:
        return counts
    return counts | {"known_word_share": vectors.known_share([word for text in (*said, *wanted) for word in text])}


def _predictions(
    exam: DialogueExam, replies: Sequence[str], *, looked: Shown, each: PerDialogue, losses: ResponseLosses
) -> list[dict[str, Any]]:
    images = exam.pictures.first_of_rows(exam.images)
    is_shown_QK = _is_shown(exam, looked)
    each = {**each, "loss": losses.nll_B / losses.num_tokens_B, "num_tokens": losses.num_tokens_B.astype(np.float64)}
    return [
        {
            "id": record.id,
            "context": list(record.context),
            "response": record.response,
            "reply": replies[row],
            "image_ids": [images[at].image_id for at in looked.rows_QK[row][is_shown_QK[row]]],
            "image_scores": [round(float(cosine), 6) for cosine in looked.cosines_QK[row][is_shown_QK[row]]],
            "scores": {name: round(float(values[row]), 6) for name, values in each.items() if np.isfinite(values[row])},
        }
        for row, record in enumerate(exam.dialogues)
    ]
