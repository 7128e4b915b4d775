"""`python -m examples.emoji.vectors`: small word vectors of the chats themselves, where no larger ones are at hand.

Levy and Goldberg 2014: the counts of words that stand near each other, as positive pointwise mutual information,
factorised by its largest eigenvalues.
"""

# Axes: V words, D width of a vector.
from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import typer

from examples.command import run
from sightline.data.dialogues import read_dialogues
from sightline.errors import UsageError
from sightline.metrics import words

NEIGHBOURS = 5
"""Words on either side that count as near."""
FloatArray = npt.NDArray[np.float64]


def word_vectors(texts: Iterable[str], *, num_words: int, width: int) -> tuple[list[str], FloatArray]:
    """(the commonest words, their vectors [V, D]) of the texts. Raises UsageError for fewer words than `width`."""
    cut = [words(text) for text in texts]
    known = [word for word, _ in Counter(word for text in cut for word in text).most_common(num_words)]
    if len(known) < width:
        raise UsageError(f"width: got {width} for {len(known)} different words")
    values_V, vectors_VV = np.linalg.eigh(_nearness(cut, known=known))
    return known, vectors_VV[:, -width:] * np.sqrt(np.clip(values_V[-width:], 0, None))


def main(
    dialogues: Annotated[Path, typer.Option(help="Dialogues to count words in: those that training read.")],
    out: Annotated[Path, typer.Option(help="File to write, in GloVe's form.")],
    num_words: Annotated[int, typer.Option(help="Commonest words that get a vector.")] = 3000,
    width: Annotated[int, typer.Option(help="Values of a vector.")] = 100,
) -> None:
    """Write a file for `python -m trainer evaluate ... --word-vectors`."""
    responses = [record.response for record in read_dialogues(dialogues)]
    known, vectors_VD = word_vectors(responses, num_words=num_words, width=width)
    rows = [
        f"{word} {' '.join(f'{value:.5f}' for value in row_D)}\n" for word, row_D in zip(known, vectors_VD, strict=True)
    ]
    out.write_text("".join(rows), encoding="utf-8")
    typer.echo(f"{len(known)} words of {len(responses)} replies: {out}")


def _nearness(cut: Sequence[Sequence[str]], *, known: Sequence[str]) -> FloatArray:
    """[V, V] max(0, log of how much oftener two words stand near each other than by chance)."""
    row_of = {word: row for row, word in enumerate(known)}
    counts_VV = np.zeros((len(known), len(known)))
    for text in cut:
        rows = [row_of[word] for word in text if word in row_of]
        for distance in range(1, NEIGHBOURS + 1):
            np.add.at(counts_VV, (rows[:-distance], rows[distance:]), 1.0)
    counts_VV += counts_VV.T
    totals_V = counts_VV.sum(axis=1).clip(min=1.0)
    expected_VV = np.outer(totals_V, totals_V) / totals_V.sum()
    nearness_VV: FloatArray = np.log(np.maximum(counts_VV / expected_VV, 1.0))
    return nearness_VV


if __name__ == "__main__":
    run(main)
