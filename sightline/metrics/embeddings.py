"""How near a reply's words are to a response's in a space of word vectors: Average, Extrema and Greedy.

Liu et al. 2016 (arXiv 1603.08023), as nlg-eval computes them: an unknown word
has the mean of all vectors. Words are those of `sightline.metrics.words`.
"""

# Axes: T words of a reply, U words of a response, D width of a vector, N pairs.
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from sightline.errors import UsageError
from sightline.metrics.word_vectors import WordVectors
from sightline.metrics.words import words

FloatArray = npt.NDArray[np.float64]


def embedding_similarities(
    replies: Sequence[str], *, responses: Sequence[str], vectors: WordVectors
) -> dict[str, FloatArray]:
    """The three similarities [N] of each reply to its response, -1 to 1, by 'embedding_average', ...

    A text without words is similar to nothing: 0. Raises UsageError if the
    counts differ.
    """
    if len(replies) != len(responses):
        raise UsageError(f"replies: got {len(replies)} for {len(responses)} responses")
    pairs = [
        (vectors.rows(words(reply)), vectors.rows(words(response)))
        for reply, response in zip(replies, responses, strict=True)
    ]
    return {
        f"embedding_{name}": np.array([measure(reply_TD, response_UD) for reply_TD, response_UD in pairs])
        for name, measure in _MEASURES.items()
    }


def average_similarity(reply_TD: FloatArray, response_UD: FloatArray) -> float:
    """The cosine of the two texts' summed vectors."""
    return _cosine(reply_TD.sum(axis=0), response_UD.sum(axis=0))


def extrema_similarity(reply_TD: FloatArray, response_UD: FloatArray) -> float:
    """The cosine of the texts' extreme vectors: in each dimension the value farthest from 0, of two the negative."""
    return 0.0 if _is_empty(reply_TD, response_UD) else _cosine(_extreme(reply_TD), _extreme(response_UD))


def greedy_similarity(reply_TD: FloatArray, response_UD: FloatArray) -> float:
    """Each word's cosine with the most similar word of the other text: the mean of the two texts' means."""
    if _is_empty(reply_TD, response_UD):
        return 0.0
    cosine_TU = _unit(reply_TD) @ _unit(response_UD).T
    return float(cosine_TU.max(axis=1).mean() + cosine_TU.max(axis=0).mean()) / 2


_MEASURES: Mapping[str, Callable[[FloatArray, FloatArray], float]] = {
    "average": average_similarity,
    "extrema": extrema_similarity,
    "greedy": greedy_similarity,
}


def _is_empty(reply_TD: FloatArray, response_UD: FloatArray) -> bool:
    return len(reply_TD) == 0 or len(response_UD) == 0


def _extreme(text_TD: FloatArray) -> FloatArray:
    highest_D, lowest_D = text_TD.max(axis=0), text_TD.min(axis=0)
    return np.where(highest_D > -lowest_D, highest_D, lowest_D)


def _cosine(first_D: FloatArray, second_D: FloatArray) -> float:
    return float(_unit(first_D) @ _unit(second_D))


def _unit(vectors: FloatArray) -> FloatArray:
    """The vectors at length 1; a vector of length 0 stays."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0)
