"""What a generator took from its training text: novel n-grams, copied lines, the longest copied span and its source.

One array answers all of it: for every position of the samples, the longest run of tokens from there that stands
inside one training sentence. It comes from the sorted order of all suffixes: prefix doubling (Manber and Myers 1993) of
those alone that are not told apart yet (Larsson and Sadakane 2007). The cost is at most O(T log T log L) for T tokens
in sentences of at most L, whatever was copied, and nearer to that of one sort where most runs of a few tokens are new.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from seqgen.metrics.ngrams import (
    Bools,
    Floats,
    Ints,
    Sentences,
    Whole,
    joined_tokens,
    packed,
    sentence_index,
    stable_sort,
    tokens_left,
    whole,
)

_BLOCK = 1 << 18  # positions that are looked up or sorted at a time, so that what they need stays small


class Matches(NamedTuple):
    """Overlap of a corpus with a training corpus. Shapes: T tokens and N sentences of the samples."""

    length: Ints
    """Longest run of tokens from each position that stands inside one training sentence, (T,)."""
    source: Ints
    """A training sentence that holds that run, (T,); meaningless where length is 0."""
    copied: Bools
    """Whether the whole sentence is a training sentence, (N,)."""
    lengths: Ints
    """Tokens of each sentence, (N,)."""


def match_training(sents: Sentences, train: Sentences) -> Matches:
    """Match every sentence with the training text. Raises ValueError if either is empty."""
    (own, other), vocabulary = packed(sents, train)
    if not own.lengths.size:
        raise ValueError("there are no samples; give at least one sentence")
    if not other.lengths.size:
        raise ValueError("the training text is empty; give at least one sentence")
    lengths = np.concatenate([own.lengths, other.lengths])
    tokens = joined_tokens([own, other], vocabulary)
    small = whole(max(tokens.size, lengths.size))
    sentence, left = np.repeat(np.arange(lengths.size, dtype=small), lengths), tokens_left(lengths).astype(small)
    ranks = _suffix_ranks(tokens, left, vocabulary)
    size = own.tokens.size
    suffix = ranks[-1]
    length, source = np.zeros(size, dtype=np.int64), np.zeros(size, dtype=np.int64)
    if size and other.tokens.size:
        # the best match of a suffix is one of its two neighbours among the training suffixes in sorted order
        bound = int(suffix.max()) + 1
        by_rank = stable_sort(suffix[size:].astype(np.int64), bound)[1].astype(small)
        by_rank += size
        before = np.cumsum(np.bincount(suffix[size:], minlength=bound), dtype=small)  # training suffixes up to a rank
        for begin in range(0, size, _BLOCK):
            mine = np.arange(begin, min(begin + _BLOCK, size))
            place = np.where(suffix[mine] > 0, before[suffix[mine] - 1], 0)
            above, below = by_rank[np.minimum(place, by_rank.size - 1)], by_rank[np.maximum(place - 1, 0)]
            length_above = _common_prefix(ranks, left, mine, above)
            length_below = _common_prefix(ranks, left, mine, below)
            length[mine] = np.maximum(length_above, length_below)
            source[mine] = sentence[np.where(length_above >= length_below, above, below)] - own.lengths.size

    starts = np.cumsum(lengths) - lengths
    empty = lengths == 0
    name = np.full(lengths.size, -1, dtype=np.int64)
    name[~empty] = suffix[starts[~empty]]
    copied = np.isin(name[: own.lengths.size], name[own.lengths.size :])
    return Matches(length, source, copied, own.lengths)


def leaked(lines: Iterable[str], train: Iterable[str]) -> tuple[int, int]:
    """Return (how many of the lines stand in the training text, how many there are); blank ones are not counted.

    White space at the ends is not looked at.
    """
    wanted = Counter(line.strip() for line in lines)
    del wanted[""]
    found = {text for text in (line.strip() for line in train) if text in wanted}
    return sum(wanted[text] for text in found), wanted.total()


def _suffix_ranks(tokens: Whole, left: Whole, vocabulary: int) -> list[Whole]:
    """Rank all windows of 1, 2, 4, ... tokens, cut at the sentence's end, each (T,); the last ranks whole suffixes.

    Equal rank, equal window; a window that ends sorts before one that goes on. Ranks of two tokens and more are the
    number of windows before. The last windows are those by which all suffixes are told apart but for equal ones.
    """
    ranks, width = [tokens], 1
    # what is not told apart, in the order so far, and where the group of each begins among all
    at = stable_sort(tokens.astype(np.int64), max(1, vocabulary))[1]
    first = _starts(_new(tokens[at]))
    while at.size:
        begins = _new(first)
        group = np.cumsum(begins, dtype=at.dtype)
        # one more symbol than ranks: 0 stands for "the sentence has ended"
        bound = int(ranks[-1].max()) + 2
        goes_on = left[at] > width
        after = np.zeros_like(at)
        after[goes_on] = ranks[-1][at[goes_on] + width] + 1
        order, new = np.empty_like(at), np.ones(at.size, dtype=bool)
        borders = np.flatnonzero(begins)
        blocks = np.unique(borders[np.searchsorted(borders, np.arange(0, borders[-1] + 1, _BLOCK))]).tolist()
        for begin, end in pairwise([*blocks, at.size]):
            key = (group[begin:end] - group[begin]).astype(np.int64)
            key *= bound
            key += after[begin:end]
            key, order[begin:end] = stable_sort(key, int(group[end - 1] - group[begin] + 1) * bound)
            order[begin:end] += begin
            new[begin + 1 : end] = key[1:] != key[:-1]
        at = at[order]  # groups stay where they are
        first += _starts(new) - _starts(begins)
        rank = ranks[-1].astype(at.dtype)
        rank[at] = first
        ranks.append(rank)
        width *= 2
        tied = ~new
        tied[:-1] |= tied[1:]
        tied &= left[at] >= width  # what has ended is the same to its end
        at, first = at[tied], first[tied]
    return ranks


def _new(values: Whole) -> Bools:
    """Return where a value differs from the one before, (T,)."""
    new = np.ones(values.size, dtype=bool)
    new[1:] = values[1:] != values[:-1]
    return new


def _starts(new: Bools) -> Whole:
    """Return the place of the last True up to each, (T,)."""
    places = np.arange(new.size, dtype=whole(new.size))
    places *= new
    return np.maximum.accumulate(places, out=places)


def _common_prefix(ranks: list[Whole], left: Whole, a: Ints, b: Whole) -> Ints:
    """Return the longest common prefix of the suffixes at `a` and `b`, (P,), by descent over window sizes."""
    length = np.zeros(a.size, dtype=np.int64)
    last = left.size - 1
    left_a, left_b = left[a], left[b]
    for k in reversed(range(len(ranks))):
        rank = ranks[k]
        equal = rank[np.minimum(a + length, last)] == rank[np.minimum(b + length, last)]
        # windows beyond either sentence's end must not count: what was equal so far already reached it
        equal &= (length < left_a) & (length < left_b)
        length += np.where(equal, 1 << k, 0)
    return np.minimum(length, np.minimum(left_a, left_b))


def novelty_rows(matches: Matches, n: int) -> Floats:
    """Count per sentence the n-grams that are absent from the training text, and all n-grams, (N, 2)."""
    sentence, left = sentence_index(matches.lengths), tokens_left(matches.lengths)
    absent = (matches.length < n) & (left >= n)
    size = matches.lengths.size
    return np.column_stack([np.bincount(sentence, absent, size), np.maximum(0, matches.lengths - n + 1)]).astype(
        np.float64
    )


def novelty_n(sents: Sentences, train: Sentences, n: int) -> float:
    """Return the share of the samples' n-grams that are absent from the training text, 0..1.

    Raises ValueError on empty input, or where no sample has n tokens.
    """
    rows = novelty_rows(match_training(sents, train), n)
    if n < 1 or not rows[:, 1].sum():
        raise ValueError(f"n must be >= 1 and some sample must have n tokens, got n = {n} for {len(rows)} samples")
    return float(rows[:, 0].sum() / rows[:, 1].sum())


def copied_share(sents: Sentences, train: Sentences) -> float:
    """Return the share of samples that are training sentences word for word, 0..1. Raises ValueError on empty input."""
    return float(match_training(sents, train).copied.mean())


@dataclass(frozen=True)
class CopiedSpan:
    """The longest run of tokens that a sample shares with one training sentence."""

    length: int
    """Tokens in the run; 0 where not even a token is shared."""
    start: int
    """Where it begins in the sample, in tokens."""
    source: int
    """Index of a training sentence that holds it; -1 where length is 0."""


def copied_spans(sents: Sentences, train: Sentences) -> list[CopiedSpan]:
    """Return the `CopiedSpan` of every sample, the earliest of equally long ones. Raises ValueError on empty input."""
    return spans_of(match_training(sents, train))


def spans_of(matches: Matches) -> list[CopiedSpan]:
    """Return the `CopiedSpan` of every sample, from its matches."""
    spans = []
    end = 0
    for size in matches.lengths.tolist():
        start, end = end, end + size
        at = int(matches.length[start:end].argmax()) if size else 0
        length = int(matches.length[start + at]) if size else 0
        spans.append(CopiedSpan(length, at, int(matches.source[start + at])) if length else CopiedSpan(0, 0, -1))
    return spans


def span_lengths(matches: Matches) -> Ints:
    """Return the length of the longest copied span of every sample, (N,)."""
    longest = np.zeros(matches.lengths.size, dtype=np.int64)
    np.maximum.at(longest, sentence_index(matches.lengths), matches.length)
    return longest
