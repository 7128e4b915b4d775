"""How many words a reply shares with the response that a person gave: BLEU and ROUGE-L, 0 to 100 as papers print them.

Words are those of `sightline.metrics.words`; there is one response a reply.
"""

from __future__ import annotations

from collections.abc import Sequence

from sacrebleu.metrics.bleu import BLEU, BLEUScore

from sightline.errors import UsageError
from sightline.metrics.words import words

MAX_BLEU_ORDER = 4
ROUGE_BETA = 1.2
"""How many times as much recall weighs as precision: that of COCO's caption scripts, which the paper used."""


def bleu_each(replies: Sequence[str], *, responses: Sequence[str]) -> dict[str, float]:
    """Corpus BLEU with n-grams of up to 1, 2, 3 and 4 words, 0 to 100: 'bleu_1' to 'bleu_4'.

    sacrebleu counts, with our words and without smoothing: an order of which no
    n-gram was right gives 0, where sacrebleu's own default would not. The
    brevity penalty is that of the whole corpus. Papineni et al. 2002. Raises
    UsageError if the counts differ or there is no reply.
    """
    _check(replies, responses)
    counted = BLEU(tokenize="none", force=True, smooth_method="none", max_ngram_order=MAX_BLEU_ORDER).corpus_score(
        [" ".join(words(reply)) for reply in replies], [[" ".join(words(response)) for response in responses]]
    )
    return {f"bleu_{order}": _bleu_of_order(counted, order=order) for order in range(1, MAX_BLEU_ORDER + 1)}


def rouge_l(replies: Sequence[str], *, responses: Sequence[str], beta: float = ROUGE_BETA) -> float:
    """The mean of `rouge_l_each` over the replies, 0 to 100. Raises UsageError as that does, and for no reply."""
    _check(replies, responses)
    return sum(rouge_l_each(replies, responses=responses, beta=beta)) / len(replies)


def rouge_l_each(replies: Sequence[str], *, responses: Sequence[str], beta: float = ROUGE_BETA) -> list[float]:
    """ROUGE-L of each reply, 0 to 100; 0 if nothing is shared or a text is blank.

    (1 + beta²)PR / (R + beta²P), where P and R are the length of the longest
    common subsequence of words over the words of reply and response; Lin 2004.
    With beta 1.2 recall counts more, so that a reply longer than its response
    scores above rouge-score's F1, which is ours at beta 1, and a shorter one
    below it. rouge-score's own tokenizer also drops marks and all letters but
    a to z; ours does not. Raises UsageError if the counts differ or beta is
    not positive.
    """
    if len(replies) != len(responses):
        raise UsageError(f"replies: got {len(replies)} for {len(responses)} responses")
    if beta <= 0:
        raise UsageError(f"beta: got {beta}, must be above 0")
    return [
        _rouge(words(reply), words(response), beta=beta) for reply, response in zip(replies, responses, strict=True)
    ]


def longest_common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """The length of the longest sequence of words that both have in this order, gaps allowed.

    Bits stand for the words of `first`: O(len(second)) steps on whole numbers
    of len(first) bits, the form of Hyyrö (2004) with bits cleared as words match.
    """
    places: dict[str, int] = {}
    for at, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << at
    every = open_places = (1 << len(first)) - 1
    for word in second:
        matched = open_places & places.get(word, 0)
        open_places = (open_places + matched | open_places - matched) & every
    return len(first) - open_places.bit_count()


def _check(replies: Sequence[str], responses: Sequence[str]) -> None:
    if len(replies) != len(responses) or not replies:
        raise UsageError(f"replies: got {len(replies)} for {len(responses)} responses, expected as many, at least one")


def _bleu_of_order(counted: BLEUScore, *, order: int) -> float:
    counts, totals = counted.counts[:order], counted.totals[:order]
    scored = BLEU.compute_bleu(counts, totals, counted.sys_len, counted.ref_len, max_ngram_order=order)
    return float(scored.score)


def _rouge(reply: list[str], response: list[str], *, beta: float) -> float:
    shared = longest_common_subsequence(reply, response)
    if shared == 0:
        return 0.0
    precision, recall = shared / len(reply), shared / len(response)
    return 100 * (1 + beta**2) * precision * recall / (recall + beta**2 * precision)
