import math
import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from seqgen.metrics.diversity import (
    distinct_n,
    frequency_stats,
    length_distance,
    length_stats,
    ngram_entropy,
    repetition_n,
    token_frequency_distance,
    unique_share,
    wasserstein_1,
    zipf_exponent,
)
from seqgen.metrics.ngrams import encode

corpora = st.lists(st.lists(st.integers(0, 4), max_size=8), min_size=1, max_size=8)


def grams(sents: list[list[int]], n: int) -> list[list[tuple[int, ...]]]:
    return [[tuple(s[i : i + n]) for i in range(len(s) - n + 1)] for s in sents]


@settings(max_examples=150, deadline=None)
@given(corpora, st.integers(1, 4))
def test_counts_equal_the_definition(sents: list[list[int]], n: int) -> None:
    by_sentence = grams(sents, n)
    flat = [gram for one in by_sentence for gram in one]
    if not flat:
        for metric in (distinct_n, ngram_entropy, repetition_n):
            with pytest.raises(ValueError, match=f"no sentence has {n} tokens"):
                metric(sents, n)
        return
    assert distinct_n(sents, n) == len(set(flat)) / len(flat)
    assert distinct_n(sents, n, per="sentences") == len(set(flat)) / len(sents)
    assert ngram_entropy(sents, n) == pytest.approx(stats.entropy(list(Counter(flat).values())), abs=1e-12)
    repeated = sum(len(one) - len(set(one)) for one in by_sentence)
    assert repetition_n(sents, n) == repeated / len(flat)
    (packed,), _ = encode(sents)
    assert distinct_n(packed, n) == distinct_n(sents, n)


@settings(max_examples=100, deadline=None)
@given(corpora)
def test_unique_share_counts_equal_sentences_once(sents: list[list[int]]) -> None:
    assert unique_share(sents) == len({tuple(s) for s in sents}) / len(sents)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(-9, 9), min_size=1), st.lists(st.integers(-9, 9), min_size=1))
def test_wasserstein_equals_scipy(a: list[int], b: list[int]) -> None:
    ours = wasserstein_1(np.array(a), np.array(b))
    assert ours == pytest.approx(stats.wasserstein_distance(a, b), abs=1e-12)


def test_length_and_frequency_statistics() -> None:
    sents = [["a"], ["a", "b", "c"], [], ["a", "b", "c", "d", "e"]]
    lengths = length_stats(sents)
    assert (lengths.mean, lengths.variance) == (2.25, 3.6875)
    assert lengths.quantiles == (0.0, 0.75, 2.0, 3.5, 5.0)
    assert frequency_stats(sents).quantiles == (1.0, 1.0, 2.0, 2.0, 3.0)
    assert length_distance(sents, [[*s, "x"] for s in sents]) == 1.0


def test_zipf_exponent_of_a_zipf_law_is_its_exponent() -> None:
    for exponent in (0.8, 1.0, 1.3):
        counts = [round(1e5 / rank**exponent) for rank in range(1, 50)]
        sents = [[token] * count for token, count in enumerate(counts)]
        assert zipf_exponent(sents) == pytest.approx(exponent, abs=2e-3)


def test_frequency_distance_sees_ranks_and_not_words() -> None:
    draw = random.Random(0)
    one = [[draw.choice("aaabbc") for _ in range(9)] for _ in range(20)]
    renamed = [[{"a": "x", "b": "y", "c": "z"}[t] for t in s] for s in one]
    assert token_frequency_distance(one, renamed) == 0.0
    assert token_frequency_distance([["a", "b", "c", "d"]], [["a", "a", "a", "a"]]) == pytest.approx(1.5)


def test_entropy_of_equally_frequent_tokens() -> None:
    assert ngram_entropy([["a", "b"], ["c", "d"]], 1) == pytest.approx(math.log(4))


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: distinct_n([], 1), "no sentence has 1 tokens, so there is no 1-gram among 0 sentences"),
        (lambda: distinct_n([["a"]], 0), "n must be an integer >= 1, got 0"),
        (lambda: distinct_n([["a"]], 1, per="lines"), "per must be ngrams or sentences, got 'lines'"),
        (lambda: unique_share([]), "unique_share needs at least one sentence, got none"),
        (lambda: length_stats([]), "a summary needs at least one value, got none"),
        (lambda: zipf_exponent([["a", "a"]]), "zipf_exponent needs at least 2 different tokens, got 1"),
        (lambda: wasserstein_1(np.array([1.0, np.nan]), np.array([1.0])), "the first sample holds values that are not"),
        (lambda: wasserstein_1(np.array([1.0]), np.array([])), "the second sample must be a non-empty list of numbers"),
        (lambda: token_frequency_distance([["a"]], [[]]), "needs at least one token in each corpus"),
    ],
)
def test_wrong_input_is_named(call: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        call()
