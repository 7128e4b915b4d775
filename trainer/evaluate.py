"""What a model is worth: retrieval, grounding against its controls, and perplexity, on held-out data only."""

# Axes: Q queries, N pictures, K pictures of a query, D embedding width.
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from sightline.data.captions import CaptionRecord
from sightline.data.dialogues import DialogueRecord, query_text
from sightline.data.pools import PoolImage
from sightline.data.questions import QuestionRecord
from sightline.metrics import (
    grounded_accuracy,
    invention_rate,
    median_rank,
    perplexity,
    recall_at_each,
    unigram_perplexity,
)
from trainer.answers import ALWAYS, MAX_RESPONSE_TOKENS, NEVER, Flags, answer_all, is_shown, response_losses
from trainer.architecture import Built
from trainer.config import EvaluationSettings
from trainer.data import Corpus, unique_pictures
from trainer.relevance import calibrate, relevance_scores, search
from trainer.retrieval import encode_texts, nearest_pictures, ranks_of_relevant, retrieve
from trainer.store import EncodedPictures, Floats, Rows, encode_pool

ItemT = TypeVar("ItemT")
Scores = dict[str, float]
RECALLS = (1, 5, 10)
_NO_PICTURES = 0


def evaluate(built: Built, *, corpus: Corpus, settings: EvaluationSettings, cache: Path, seed: int) -> Scores:
    """Every score that the corpus allows, by name; pictures of the pool were never trained on."""
    pool = encode_pool(built.model, corpus.pool, cache=cache, skip_bad=corpus.skip_bad)
    scores = caption_scores(built, captions=corpus.captions_val, cache=cache, skip_bad=corpus.skip_bad) | _perplexity(
        built, corpus=corpus, pool=pool, settings=settings
    )
    scores |= relevance(built, corpus=corpus, settings=settings, cache=cache)
    if corpus.questions:
        examiner = Examiner(built=built, pool=pool, images=corpus.pool, settings=settings, seed=seed)
        scores |= examiner.held_out(spread(corpus.questions, limit=settings.max_questions))
        if corpus.questions_seen:
            scores |= examiner.seen(spread(corpus.questions_seen, limit=settings.max_questions))
        if corpus.strangers:
            scores |= examiner.strangers(corpus.strangers, values=corpus.fact_values())
    return scores


def caption_scores(built: Built, *, captions: Sequence[CaptionRecord], cache: Path, skip_bad: bool = False) -> Scores:
    """How well each caption finds its picture among the pictures of all of `captions`.

    `skip_bad` leaves out pictures that cannot be decoded; else the first one raises DataLineInvalid.
    """
    images = unique_pictures(captions)
    pictures = encode_pool(built.model, images, cache=cache, skip_bad=skip_bad)
    row_of = pictures.rows_by_id(images)
    known = [record for record in captions if record.image_id in row_of]
    relevant = [np.array([row_of[record.image_id]]) for record in known]
    queries_QD = encode_texts(built, [record.caption for record in known])
    ranks_Q = ranks_of_relevant(queries_QD, pictures_ND=pictures.vectors_ND, relevant=relevant)
    recalls = recall_at_each(RECALLS, rank_Q=ranks_Q)
    found = {f"caption_{name}": value for name, value in recalls.items()}
    return found | {"caption_median_rank": median_rank(ranks_Q), "num_captions": float(len(ranks_Q))}


def score_floor(built: Built, *, corpus: Corpus, settings: EvaluationSettings, cache: Path) -> float:
    """The floor that half of the held-out dialogues calls for over the pool; -1 with a tolerance below 0.

    The other half measures what the floor is worth.
    """
    if settings.floor_tolerance < 0:
        return ALWAYS
    pool = encode_pool(built.model, corpus.pool, cache=cache, skip_bad=corpus.skip_bad)
    found = search(built, dialogues=_halves(corpus, settings=settings)[0], pictures=pool, settings=settings)
    return calibrate(built, found=found, settings=settings)


def relevance(built: Built, *, corpus: Corpus, settings: EvaluationSettings, cache: Path) -> Scores:
    """What the model's floor is worth on the half of the held-out dialogues that did not set it."""
    pool = encode_pool(built.model, corpus.pool, cache=cache, skip_bad=corpus.skip_bad)
    found = search(built, dialogues=_halves(corpus, settings=settings)[1], pictures=pool, settings=settings)
    return relevance_scores(built, found=found, values=corpus.fact_values(), settings=settings)


def spread(items: Sequence[ItemT], *, limit: int) -> list[ItemT]:
    """At most `limit` of `items`, evenly over all of them; 0 takes all."""
    if not limit or limit >= len(items):
        return list(items)
    return [items[int(position)] for position in np.linspace(0, len(items) - 1, num=limit)]


@dataclass(frozen=True, kw_only=True)
class Examiner:
    """Asks questions over one pool, with pictures chosen in several ways."""

    built: Built
    pool: EncodedPictures
    images: Sequence[PoolImage]
    settings: EvaluationSettings
    seed: int

    def held_out(self, questions: Sequence[QuestionRecord]) -> Scores:
        """Retrieval, and accuracy with retrieved, no, random and right pictures."""
        relevant_QN = self.relevant(questions)
        queries_QD = self.queries(questions)
        rows = [np.flatnonzero(relevant_N) for relevant_N in relevant_QN]
        ranks_Q = ranks_of_relevant(queries_QD, pictures_ND=self.pool.vectors_ND, relevant=rows)
        rows_QK = self.retrieved(queries_QD)
        scores = {f"retrieval_{name}": value for name, value in recall_at_each(RECALLS, rank_Q=ranks_Q).items()}
        scores["retrieval_median_rank"] = median_rank(ranks_Q)
        scores |= self._accuracies(questions, rows_QK=rows_QK, prefix="grounded")
        floor = self.built.model.config.min_score
        scores |= self._accuracies(questions, rows_QK=rows_QK, prefix="gated", min_score=floor)
        scores |= self._accuracies(questions, rows_QK=rows_QK[:, :_NO_PICTURES], prefix="text_only")
        scores |= self._accuracies(questions, rows_QK=self.drawn(~relevant_QN), prefix="random_picture")
        scores |= self._accuracies(questions, rows_QK=self.nearest(queries_QD, allowed_QN=relevant_QN), prefix="oracle")
        scores |= self._accuracies(questions, rows_QK=rows_QK[:, :1], prefix="one_picture")
        return scores | {"num_questions": float(len(questions)), "num_pool_pictures": float(len(self.images))}

    def seen(self, questions: Sequence[QuestionRecord]) -> Scores:
        """Accuracy on subjects that training dialogues did talk about."""
        return self._accuracies(questions, rows_QK=self.retrieved(self.queries(questions)), prefix="seen")

    def strangers(self, dialogues: Sequence[DialogueRecord], *, values: frozenset[str]) -> Scores:
        """How often a fact is stated that no picture shows: with every picture, over the floor, and from text alone."""
        found = search(self.built, dialogues=dialogues, pictures=self.pool, settings=self.settings)
        floors = {"": ALWAYS, "gated_": self.built.model.config.min_score, "text_only_": NEVER}
        scores = {"stranger_picture_rate": float(found.shown(floor=floors["gated_"]).mean())}
        for prefix, floor in floors.items():
            texts = answer_all(
                self.built,
                contexts=[record.context for record in dialogues],
                pictures=self.pool,
                rows_BK=found.rows_BK,
                cosines_BK=found.cosines_BK,
                max_new_tokens=self.settings.max_new_tokens,
                batch_size=self.settings.batch_size,
                min_score=floor,
            )
            scores[f"{prefix}invention_rate"] = invention_rate(texts, values=values)
        return scores

    def answers(self, questions: Sequence[QuestionRecord], *, rows_QK: Rows, min_score: float = ALWAYS) -> list[str]:
        """The reply to each question, looking at its row's pictures if the best scores enough; K of 0 shows none."""
        return answer_all(
            self.built,
            contexts=[question.context for question in questions],
            pictures=self.pool,
            rows_BK=rows_QK,
            cosines_BK=self._cosines(questions, rows_QK=rows_QK),
            max_new_tokens=self.settings.max_new_tokens,
            batch_size=self.settings.batch_size,
            min_score=min_score,
        )

    def looked_at(self, questions: Sequence[QuestionRecord], *, rows_QK: Rows, min_score: float = ALWAYS) -> Flags:
        """[Q, K] True for the pictures that `answers` really looks at."""
        contexts = [question.context for question in questions]
        return is_shown(contexts, cosines_BK=self._cosines(questions, rows_QK=rows_QK), min_score=min_score)

    def _cosines(self, questions: Sequence[QuestionRecord], *, rows_QK: Rows) -> Floats:
        queries_QD = self.queries(questions)
        return np.einsum("qd,qkd->qk", queries_QD, self.pool.vectors_ND[rows_QK]).astype(np.float32)  # type: ignore[no-any-return]

    def _accuracies(
        self, questions: Sequence[QuestionRecord], *, rows_QK: Rows, prefix: str, min_score: float = ALWAYS
    ) -> Scores:
        texts = self.answers(questions, rows_QK=rows_QK, min_score=min_score)
        found = grounded_accuracy(texts, questions=questions)
        by_fact = {f"{prefix}_{fact}_accuracy": value for fact, value in found.by_fact.items()}
        return {f"{prefix}_accuracy": found.overall} | by_fact

    def queries(self, questions: Sequence[QuestionRecord]) -> Floats:
        """The unit vectors [Q, D] that the questions are searched by."""
        return encode_texts(self.built, [query_text(question.context) for question in questions])

    def retrieved(self, queries_QD: Floats) -> Rows:
        """The pictures [Q, K] that the queries find, best first."""
        k = self.settings.num_images
        return nearest_pictures(queries_QD, pictures_ND=self.pool.vectors_ND, k=k)[0]

    def nearest(self, queries_QD: Floats, *, allowed_QN: np.ndarray[tuple[int, int], np.dtype[np.bool_]]) -> Rows:
        """The pictures [Q, K] that a search finds among the allowed ones of each query alone, best first."""
        k = min(self.settings.num_images, int(allowed_QN.sum(axis=1).min()))
        cosines_QN = np.where(allowed_QN, queries_QD @ self.pool.vectors_ND[:].T, -np.inf)
        return np.argsort(-cosines_QN, axis=1, kind="stable")[:, :k]

    def relevant(self, questions: Sequence[QuestionRecord]) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
        """[Q, N] True where a picture shows the subject of a question."""
        row_of = self.pool.rows_by_id(self.images)
        relevant_QN = np.zeros((len(questions), len(self.pool.vectors_ND)), dtype=bool)
        for query, question in enumerate(questions):
            rows = [row_of[image_id] for image_id in question.relevant_image_ids if image_id in row_of]
            relevant_QN[query, rows] = True
        return relevant_QN

    def drawn(self, allowed_QN: np.ndarray[tuple[int, int], np.dtype[np.bool_]]) -> Rows:
        """Pictures drawn at random among the allowed ones of each query."""
        rng = np.random.default_rng([self.seed, 5])
        k = min(self.settings.num_images, int(allowed_QN.sum(axis=1).min()))
        return np.stack([rng.choice(np.flatnonzero(allowed_N), size=k, replace=False) for allowed_N in allowed_QN])


def _halves(corpus: Corpus, *, settings: EvaluationSettings) -> tuple[list[DialogueRecord], list[DialogueRecord]]:
    """(dialogues that set the floor, dialogues that measure it); one dialogue alone must do for both."""
    dialogues = spread(corpus.dialogues_val, limit=settings.max_dialogues)
    return dialogues[::2], dialogues[1::2] or dialogues


def _perplexity(built: Built, *, corpus: Corpus, pool: EncodedPictures, settings: EvaluationSettings) -> Scores:
    """Perplexity of held-out responses with pictures that their context retrieves from the pool."""
    dialogues = spread(corpus.dialogues_val, limit=settings.max_dialogues)
    found = retrieve(built, dialogues, pictures=pool, k=settings.num_images, query="context").for_evaluation()
    losses = response_losses(
        built,
        dialogues=dialogues,
        pictures=pool,
        rows_BK=found.rows_QK,
        cosines_BK=found.cosines_QK,
        batch_size=settings.batch_size,
    )
    counts_V, seen_V = (_token_counts(built, part) for part in (dialogues, corpus.dialogues_train))
    return {
        "perplexity": perplexity(losses.nll_B, num_tokens_N=losses.num_tokens_B),
        "unigram_perplexity": unigram_perplexity(counts_V, seen_V=seen_V),
    }


def _token_counts(built: Built, dialogues: Sequence[DialogueRecord]) -> Rows:
    """[V] How often each token stands in the responses, cut and ended as `response_losses` does."""
    counts_V = np.zeros(built.dialogue_tokenizer.vocab_size, dtype=np.int64)
    for record in dialogues:
        labels_1T = built.dialogue_tokenizer.label_ids([record.response], max_length=MAX_RESPONSE_TOKENS)
        np.add.at(counts_V, labels_1T[0, 1:], 1)
    return counts_V
