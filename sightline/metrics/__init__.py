"""Scores: how well pictures are found, whether replies say what they show, and how near replies are to people's.

NumPy, and sacrebleu for its counts and its words. One module, `words`, decides what a word is.
"""

from sightline.metrics.embeddings import embedding_similarities
from sightline.metrics.grounding import (
    accuracy,
    clip_scores,
    grade_answer,
    grounded_accuracy,
    invention_rate,
    states_any,
)
from sightline.metrics.likelihood import PictureGain, perplexity, picture_gain, token_loss, unigram_perplexity
from sightline.metrics.overlap import bleu_each, rouge_l, rouge_l_each
from sightline.metrics.ranking import (
    average_precision_at,
    mean_average_precision_at,
    mean_average_precision_at_each,
    median_rank,
    ranks_of_first_relevant,
    ranks_of_relevant,
    recall_at,
    recall_at_each,
)
from sightline.metrics.variety import distinct_n
from sightline.metrics.word_vectors import WordVectors, read_word_vectors
from sightline.metrics.words import WORDS_RULE, words

__all__ = [
    "WORDS_RULE",
    "PictureGain",
    "WordVectors",
    "accuracy",
    "average_precision_at",
    "bleu_each",
    "clip_scores",
    "distinct_n",
    "embedding_similarities",
    "grade_answer",
    "grounded_accuracy",
    "invention_rate",
    "mean_average_precision_at",
    "mean_average_precision_at_each",
    "median_rank",
    "perplexity",
    "picture_gain",
    "ranks_of_first_relevant",
    "ranks_of_relevant",
    "read_word_vectors",
    "recall_at",
    "recall_at_each",
    "rouge_l",
    "rouge_l_each",
    "states_any",
    "token_loss",
    "unigram_perplexity",
    "words",
]
