"""How much a corpus varies: distinct n-grams, entropy, repetition, unique lines, Zipf's law, lengths, frequencies.

Diversity has no "higher is better": every figure is read beside the same figure of real text of the same size, since
distinct-n and unique shares fall as a corpus grows.
Shapes: N sentences, T tokens, P n-gram positions, G distinct n-grams.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from seqgen.metrics.ngrams import (
    Floats,
    Ints,
    Packed,
    Sentences,
    ngram_counts,
    ngram_ids,
    packed,
    runs_of,
    sentence_index,
)


def counts_of_order(sents: Sentences, n: int) -> Ints:
    """Count of every distinct n-gram of the corpus, (G,). Raises ValueError where no sentence has n tokens."""
    (corpus,), vocabulary = packed(sents)
    *_, table = ngram_counts([corpus], vocabulary, check_n(n))
    counts: Ints = table[0]
    if not counts.size:
        raise ValueError(f"no sentence has {n} tokens, so there is no {n}-gram among {corpus.lengths.size} sentences")
    return counts


def check_n(n: int) -> int:
    """Return `n`, or raise ValueError if it is no n-gram order."""
    if not isinstance(n, int) or isinstance(n, bool) or n < 1:
        raise ValueError(f"n must be an integer >= 1, got {n!r}")
    return n


def distinct_n(sents: Sentences, n: int, *, per: Literal["ngrams", "sentences"] = "ngrams") -> float:
    """Return distinct over all n-grams of the corpus (Li et al. 2016), 0..1; distinct-1 is the type-token ratio.

    `per="sentences"` divides by the number of sentences instead (Texygen's UniqueGram). Raises ValueError on empty
    input.
    """
    if per not in ("ngrams", "sentences"):
        raise ValueError(f"per must be ngrams or sentences, got {per!r}")
    counts = counts_of_order(sents, n)
    if per == "ngrams":
        return counts.size / int(counts.sum())
    return counts.size / (sents.lengths.size if isinstance(sents, Packed) else len(sents))


def ngram_entropy(sents: Sentences, n: int) -> float:
    """Return the entropy of the corpus' n-grams, -sum p ln p, in nats. Raises ValueError on empty input."""
    return entropy(counts_of_order(sents, n))


def entropy(counts: Ints) -> float:
    """Return the entropy in nats of the distribution with these counts; zero counts add nothing."""
    counts = np.sort(counts[counts > 0])  # so that the numbering of the tokens does not move the last bits
    total = int(counts.sum())
    return float(np.log(total) - (counts * np.log(counts)).sum() / total)


def repetition_rows(sents: Sentences, n: int) -> Floats:
    """Count per sentence the positions with an n-gram that stood before in it, and all positions, (N, 2)."""
    (corpus,), vocabulary = packed(sents)
    *_, grams = ngram_ids(corpus, vocabulary, check_n(n))
    sentence = sentence_index(corpus.lengths)
    runs = runs_of(grams.gram.astype(np.int64), max(1, grams.size), grams.positions, sentence)
    size = corpus.lengths.size
    repeated = np.bincount(runs.run_sentence, runs.run_length - 1, size)
    return np.column_stack([repeated, np.maximum(0, corpus.lengths - n + 1)]).astype(np.float64)


def repetition_n(sents: Sentences, n: int) -> float:
    """Return the share of n-grams that occurred before in their sentence, 0..1. ValueError on empty input."""
    rows = repetition_rows(sents, n)
    if not rows[:, 1].sum():
        raise ValueError(f"no sentence has {n} tokens, so there is no {n}-gram among {len(rows)} sentences")
    return float(rows[:, 0].sum() / rows[:, 1].sum())


def first_occurrence(corpus: Packed) -> Ints:
    """Return for every sentence the index of the first sentence equal to it, (N,); its own where it is new."""
    ends = np.cumsum(corpus.lengths)
    seen: dict[bytes, int] = {}
    data, starts = corpus.tokens, ends - corpus.lengths
    pairs = zip(starts.tolist(), ends.tolist(), strict=True)
    return np.array([seen.setdefault(data[a:b].tobytes(), i) for i, (a, b) in enumerate(pairs)], dtype=np.int64)


def unique_share(sents: Sentences) -> float:
    """Return distinct sentences over all sentences, 0..1. Raises ValueError on empty input."""
    (corpus,), _ = packed(sents)
    size = corpus.lengths.size
    if not size:
        raise ValueError("unique_share needs at least one sentence, got none")
    return float((first_occurrence(corpus) == np.arange(size)).mean())


def zipf_exponent(sents: Sentences) -> float:
    """Return minus the least-squares slope of ln frequency on ln rank of the tokens; about 1 for natural language.

    Raises ValueError where fewer than two different tokens occur.
    """
    counts = counts_of_order(sents, 1)
    if counts.size < 2:
        raise ValueError("zipf_exponent needs at least 2 different tokens, got 1")
    return zipf_of_counts(counts)


def zipf_of_counts(counts: Ints) -> float:
    """Return minus the slope of ln count on ln rank, (G,) counts of at least two tokens; zeros are left out."""
    counts = np.sort(counts[counts > 0])[::-1]
    x, y = np.log(np.arange(1, counts.size + 1)), np.log(counts)
    x = x - x.mean()
    return float(-(x @ y) / (x @ x))


# ------------------------------------------------------------------------------
# statistics beside another corpus


@dataclass(frozen=True)
class Summary:
    """A list of numbers in seven figures."""

    mean: float
    variance: float
    """Population variance (divided by the number of values)."""
    quantiles: tuple[float, float, float, float, float]
    """Minimum, lower quartile, median, upper quartile, maximum."""


def summary(values: Floats | Ints) -> Summary:
    """Summarise values (N,). Raises ValueError if there are none."""
    if not values.size:
        raise ValueError("a summary needs at least one value, got none")
    low, q1, median, q3, high = (float(q) for q in np.quantile(values, [0, 0.25, 0.5, 0.75, 1]))
    return Summary(float(values.mean()), float(values.var()), (low, q1, median, q3, high))


def length_stats(sents: Sentences) -> Summary:
    """Summarise the sentence lengths, in tokens. Raises ValueError on empty input."""
    (corpus,), _ = packed(sents)
    return summary(corpus.lengths)


def frequency_stats(sents: Sentences) -> Summary:
    """Summarise how often each distinct token occurs. Raises ValueError on empty input."""
    return summary(counts_of_order(sents, 1))


def wasserstein_1(a: Floats | Ints, b: Floats | Ints) -> float:
    """Return the Wasserstein-1 distance of samples (N,) and (M,): the area between the distribution functions.

    Raises ValueError for an empty sample or values that are not finite.
    """
    a, b = np.sort(np.asarray(a, np.float64)), np.sort(np.asarray(b, np.float64))
    for name, sample in (("first", a), ("second", b)):
        if sample.ndim != 1 or not sample.size:
            raise ValueError(f"the {name} sample must be a non-empty list of numbers, got shape {sample.shape}")
        if not np.isfinite(sample).all():
            raise ValueError(f"the {name} sample holds values that are not finite")
    points = np.sort(np.concatenate([a, b]))
    steps = np.diff(points)
    share_a = np.searchsorted(a, points[:-1], side="right") / a.size
    share_b = np.searchsorted(b, points[:-1], side="right") / b.size
    return float(np.abs(share_a - share_b) @ steps)


def length_distance(a: Sentences, b: Sentences) -> float:
    """Return the Wasserstein-1 distance between the sentence lengths of two corpora, in tokens."""
    (first, second), _ = packed(a, b)
    return wasserstein_1(first.lengths, second.lengths)


def token_frequency_distance(a: Sentences, b: Sentences) -> float:
    """Return the Wasserstein-1 distance of two corpora's token frequencies by rank: 0 for the same Zipf curve.

    Each corpus gives the relative frequency of its r-th most frequent token; the distance is over the rank r at which a
    token drawn from the corpus stands, in ranks. It sees how heavy the tail is and not which words make it.
    """
    (first, second), vocabulary = packed(a, b)
    counts = next(ngram_counts([first, second], vocabulary, 1))
    if not counts.any(axis=1).all():
        raise ValueError("token_frequency_distance needs at least one token in each corpus")
    return frequency_distance_of_counts(counts)


def frequency_distance_of_counts(counts: Ints) -> float:
    """Return the same from token counts of both corpora, (2, G), each with at least one token."""
    curves = [np.cumsum(np.sort(row)[::-1]) / row.sum() for row in counts]
    return float(np.abs(curves[0] - curves[1]).sum())
