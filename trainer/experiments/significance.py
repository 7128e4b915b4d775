"""Whether a mean difference could be chance: a paired permutation test, and Holm's correction for several claims."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sightline.errors import UsageError

MAX_EXACT = 14
"""Pairs up to which every one of the 2^n signs is counted; of more, `_DRAWS` are drawn."""
_DRAWS = 20_000
_TOLERANCE = 1e-12


def sign_flip_p(differences: Sequence[float], *, seed: int = 0) -> float:
    """The one-sided p-value of a mean above 0: the share of sign changes whose mean is at least the one observed.

    Under the null hypothesis each pair could as well have come the other way
    round. Exact up to 14 pairs; beyond them estimated from 20,000 seeded draws,
    the observed signs counted as one of them, so never 0. Raises UsageError
    without a difference.
    """
    if len(differences) == 0:
        raise UsageError("significance: got no pair, expected at least one")
    values_N = np.asarray(differences, dtype=np.float64)
    observed = values_N.sum() - _TOLERANCE
    if len(values_N) <= MAX_EXACT:
        signs = 1 - 2 * ((np.arange(2 ** len(values_N))[:, None] >> np.arange(len(values_N))) & 1)
        return float((signs @ values_N >= observed).mean())
    signs = np.random.default_rng(seed).choice((-1.0, 1.0), size=(_DRAWS, len(values_N)))
    return float((1 + (signs @ values_N >= observed).sum()) / (1 + _DRAWS))


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values, in their order, corrected for being looked at together (Holm 1979); none above 1."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted
