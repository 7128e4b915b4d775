"""Scores: how well pictures are found, and whether replies say what the pictures show. NumPy only."""

from sightline.metrics.grounding import accuracy, grade_answer, grounded_accuracy
from sightline.metrics.ranking import median_rank, ranks_of_first_relevant, recall_at, recall_at_each
from sightline.metrics.variety import distinct_n

__all__ = [
    "accuracy",
    "distinct_n",
    "grade_answer",
    "grounded_accuracy",
    "median_rank",
    "ranks_of_first_relevant",
    "recall_at",
    "recall_at_each",
]
