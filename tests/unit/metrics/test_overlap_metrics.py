"""BLEU, ROUGE-L and Distinct against the libraries that define them, and against slow, obvious code."""

from __future__ import annotations

import itertools
import math
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU

from sightline.errors import UsageError
from sightline.metrics import WORDS_RULE, bleu_each, distinct_n, rouge_l, rouge_l_each, words
from sightline.metrics.overlap import longest_common_subsequence
from tests.unit.metrics.conftest import Pairs


class OurWords:
    """Our rule where rouge-score would put its own."""

    def tokenize(self, text: str) -> list[str]:
        return words(text)


def library_bleu(pairs: Pairs, *, order: int) -> float:
    scorer = BLEU(lowercase=True, tokenize="13a", smooth_method="none", max_ngram_order=order)
    score = scorer.corpus_score(pairs.replies, [pairs.responses]).score
    assert set(WORDS_RULE.split("|")) <= set(str(scorer.get_signature()).split("|"))
    return float(score)


def slow_bleu(pairs: Pairs, *, order: int) -> float:
    """Papineni et al. 2002, section 2.3, by counting."""
    replies, responses = [words(text) for text in pairs.replies], [words(text) for text in pairs.responses]
    logs = []
    for n in range(1, order + 1):
        right = total = 0
        for reply, response in zip(replies, responses, strict=True):
            said, wanted = (Counter(zip(*(text[k:] for k in range(n)), strict=False)) for text in (reply, response))
            right += sum(min(count, wanted[gram]) for gram, count in said.items())
            total += sum(said.values())
        logs.append(math.log(right / total))
    lengths = sum(map(len, replies)), sum(map(len, responses))
    penalty = 1.0 if lengths[0] >= lengths[1] else math.exp(1 - lengths[1] / lengths[0])
    return 100 * penalty * math.exp(sum(logs) / order)


def check_bleu(pairs: Pairs) -> None:
    found = bleu_each(pairs.replies, responses=pairs.responses)
    assert list(found) == ["bleu_1", "bleu_2", "bleu_3", "bleu_4"]
    for order in range(1, 5):
        assert found[f"bleu_{order}"] == pytest.approx(library_bleu(pairs, order=order), abs=1e-6)


def check_rouge(pairs: Pairs) -> None:
    scorer = RougeScorer(["rougeL"], tokenizer=OurWords())
    library = [
        scorer.score(target=response, prediction=reply)["rougeL"]
        for reply, response in zip(pairs.replies, pairs.responses, strict=True)
    ]
    at_one = rouge_l_each(pairs.replies, responses=pairs.responses, beta=1.0)
    assert at_one == pytest.approx([100 * score.fmeasure for score in library], abs=1e-6)
    for own, score in zip(rouge_l_each(pairs.replies, responses=pairs.responses), library, strict=True):
        shared = score.recall + 1.2**2 * score.precision
        expected = 100 * (1 + 1.2**2) * score.precision * score.recall / shared if shared else 0.0
        assert own == pytest.approx(expected, abs=1e-6)


def test_words_are_cut_as_the_standard_cuts_them_and_lower_cased() -> None:
    assert words("It's $4.50, red-ish & DON'T!") == ["it's", "$", "4.50", ",", "red-ish", "&", "don't", "!"]
    assert words(" \n") == []


def test_bleu_is_the_librarys_on_own_sentences(own_pairs: Pairs) -> None:
    check_bleu(own_pairs)


@pytest.mark.data
def test_bleu_is_the_librarys_on_real_sentences(real_pairs: Pairs) -> None:
    assert len(real_pairs.replies) > 1000
    check_bleu(real_pairs)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_bleu_equals_counting(own_pairs: Pairs, order: int) -> None:
    found = bleu_each(own_pairs.replies, responses=own_pairs.responses)[f"bleu_{order}"]
    assert found == pytest.approx(slow_bleu(own_pairs, order=order), abs=1e-9)


def test_bleu_is_not_smoothed() -> None:
    found = bleu_each(["a b"], responses=["b a"])
    assert found["bleu_1"] == pytest.approx(100)
    assert found["bleu_2"] == found["bleu_4"] == 0


def test_rouge_l_at_beta_one_is_the_librarys_on_own_sentences(own_pairs: Pairs) -> None:
    check_rouge(own_pairs)


@pytest.mark.data
def test_rouge_l_at_beta_one_is_the_librarys_on_real_sentences(real_pairs: Pairs) -> None:
    check_rouge(real_pairs)


def test_rouge_l_favours_recall() -> None:
    long, short = rouge_l_each(["a b c d", "a b"], responses=["a b", "a b c d"])
    assert long > 100 * 2 / 3 > short


def slow_common_subsequence(first: list[str], second: list[str]) -> int:
    kept = (list(part) for size in range(len(first), -1, -1) for part in itertools.combinations(first, size))
    return next(len(part) for part in kept if is_subsequence(part, second))


def is_subsequence(part: list[str], whole: list[str]) -> bool:
    rest = iter(whole)
    return all(word in rest for word in part)


@pytest.mark.parametrize("seed", range(40))
def test_common_subsequence_equals_trying_them_all(seed: int) -> None:
    draw = random.Random(seed)
    first, second = ([draw.choice("abcd") for _ in range(draw.randrange(9))] for _ in range(2))
    assert longest_common_subsequence(first, second) == slow_common_subsequence(first, second)


def test_common_subsequence_of_long_texts_is_no_machine_word() -> None:
    text = [str(number % 97) for number in range(500)]
    assert longest_common_subsequence(text, text[3:]) == 497


def slow_distinct(texts: list[str], *, n: int) -> float:
    grams = [tuple(words(text)[k : k + n]) for text in texts for k in range(max(0, len(words(text)) - n + 1))]
    return len(dict.fromkeys(grams)) / len(grams)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_distinct_counts_the_same_words_as_bleu(own_pairs: Pairs, n: int) -> None:
    assert distinct_n(own_pairs.replies, n=n) == slow_distinct(own_pairs.replies, n=n)


def test_unequal_and_empty_sets_are_refused() -> None:
    with pytest.raises(UsageError, match="got 1 for 2 responses"):
        bleu_each(["a"], responses=["a", "b"])
    with pytest.raises(UsageError, match="got 1 for 2 responses"):
        rouge_l_each(["a"], responses=["a", "b"])
    with pytest.raises(UsageError, match="at least one"):
        rouge_l([], responses=[])
    with pytest.raises(UsageError, match="beta: got 0"):
        rouge_l(["a"], responses=["a"], beta=0)


def test_importing_the_metrics_loads_no_torch() -> None:
    code = "import sys, sightline.metrics; assert 'torch' not in sys.modules and 'nltk' not in sys.modules"
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
