"""BLEU and Self-BLEU, exact and near-linear.

BLEU is Papineni et al. 2002, its smoothings Chen and Cherry 2014, Self-BLEU Zhu et al. 2018 (Texygen).
Two identities replace the comparison of every sentence with every other. Multi-reference clip: the matches of a
hypothesis are the sum over its grams of min(own count, largest count in any one reference). Leave-one-out: min(own
count, largest count among the *other* sentences) = min(own count, second-largest count over all sentences, multiplicity
kept), so Self-BLEU clips with the second-largest and nothing is ever removed. And an n-gram can only match if both
(n-1)-grams inside it do, so each order looks only at positions where the one before matched.

Statistics are integers, scores float64; one set of statistics feeds every smoothing and level.
Shapes: N hypotheses, K orders, T tokens.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Literal, NamedTuple, TypeAlias, TypedDict, Unpack

import numpy as np

from seqgen.metrics.ngrams import (
    Bools,
    Floats,
    Ints,
    KnownTokens,
    Packed,
    Runs,
    Sentences,
    Whole,
    join,
    joined_tokens,
    ngram_ids,
    packed,
    runs_of,
    sentence_index,
    tokens_left,
    whole,
)
from seqgen.metrics.score import Score, Signature, Statistic, input_hash, mean_rows, ratio_of_sums
from seqgen.metrics.tokens import Text, Tokenizer, kind_of, pack_texts, written_differently

Level: TypeAlias = Literal["sentence", "corpus", "sacrebleu"]
_Alive: TypeAlias = Callable[[Runs], Bools]  # which grams can still match one order up, (G,)

MAX_ORDER = 9
_BLOCK = 1 << 20  # runs that are worked on at a time: sums and repeats want 8 bytes where runs have 4
EPSILON, ALPHA, K = 0.1, 5, 5  # the constants of Chen and Cherry 2014, section 3, which nltk uses too

SMOOTHING = {
    "method0": "m0",
    "method1": f"m1({EPSILON})",
    "method2": "m2",
    "method3": "m3",
    "method4": f"m4({K})",
    "method5": "m5",
    "method6": f"m6({ALPHA})",
    "method7": "m7",
}
"""Names of the smoothing methods, and what a signature calls them."""

LEVEL_SMOOTHING = {"sentence": "method1", "corpus": "method0", "sacrebleu": "method3"}
"""Smoothing of each level by default: as text-GAN papers do, as nltk's corpus_bleu (none), as sacreBLEU (exp)."""


@dataclass(frozen=True)
class BleuSettings:
    """How BLEU and Self-BLEU are computed: keywords of the library, a protocol, and options of the command line.

    Raises ValueError for orders outside 1..9, an unknown smoothing or level, and method6 below order 3.
    """

    orders: tuple[int, ...] = (2, 3, 4, 5)
    """n-gram orders, 1 to 9, each with a score of its own; on the command line 4, 2-5 or 2,4."""
    tokenizer: Tokenizer = "split"
    """How lines are cut: split (at spaces), nltk (word_tokenize of the whole line, no sentence splitting), 13a, zh or
    char; in the library also a function from a line to its tokens, on the command line also a run's folder."""
    smoothing: str | None = None
    """One of nltk's method0 to method7; without it method1 for sentences, none (method0) at the level corpus,
    exponential (method3) at the level sacrebleu."""
    level: Level = "sentence"
    """What is averaged: sentence, the mean over hypotheses; corpus, counts pooled as in nltk's corpus_bleu; sacrebleu,
    counts pooled as in sacreBLEU."""
    weights: tuple[float, ...] | None = None
    """Weight of each n-gram order, which add up to 1; without them all orders weigh the same."""
    lowercase: bool = False
    """Lower-case the text first."""

    def __post_init__(self) -> None:
        """Check every value."""
        if self.level not in LEVEL_SMOOTHING:
            raise ValueError(f"level must be sentence, corpus or sacrebleu, got {self.level!r}")
        if not self.orders:
            raise ValueError("orders must name at least one n-gram order")
        for order in self.orders:
            _check_order(order)
            _check_smoothing(self.method, order)

    @property
    def method(self) -> str:
        """Return the smoothing, that of the level unless one is chosen."""
        return self.smoothing or LEVEL_SMOOTHING[self.level]

    @property
    def needed_order(self) -> int:
        """Return how many orders the statistics must hold."""
        return needed_order(max(self.orders), self.method)

    @property
    def case(self) -> str:
        """Return what a signature calls the case of the text."""
        return "lc" if self.lowercase else "mixed"

    def pack(self, texts: Mapping[str, Text]) -> tuple[list[Packed], str]:
        """Cut named texts into ids of one vocabulary; see `pack_texts`.

        Warns of hypotheses and references that are written differently, if nothing here makes them alike.
        """
        corpora, kind = pack_texts(texts, self.tokenizer, lowercase=self.lowercase)
        if kind == "split" and not self.lowercase and {"hypotheses", "references"} <= set(texts):
            some = (islice(texts[name], 0, None, 1 + len(texts[name]) // 1000) for name in ("hypotheses", "references"))
            hypotheses, references = ([line for line in lines if isinstance(line, str)] for lines in some)
            for text in written_differently(hypotheses, references):
                warnings.warn(text, stacklevel=3)
        return corpora, kind


class BleuKeywords(TypedDict, total=False):
    """The fields of `BleuSettings` but for the orders, as keywords of `bleu` and `self_bleu`."""

    tokenizer: Tokenizer
    smoothing: str | None
    level: Level
    weights: tuple[float, ...] | None
    lowercase: bool


class BleuStats(NamedTuple):
    """Counts per hypothesis: all that any BLEU is computed from."""

    num: Ints
    """Clipped matches per order, (N, K)."""
    den: Ints
    """max(1, length - n + 1) per order, (N, K)."""
    hyp_len: Ints
    """Tokens of the hypothesis, (N,)."""
    ref_len: Ints
    """Length of the closest reference, ties to the shorter, (N,)."""


# ------------------------------------------------------------------------------
# statistics


def bleu_stats(
    hypotheses: Sentences,
    references: Sentences | None = None,
    max_n: int = 5,
    *,
    references_per_hypothesis: Sequence[Sentences] | None = None,
) -> BleuStats:
    """Count matches of every hypothesis with all of `references`, or of number i with references_per_hypothesis[i].

    Sentences are token lists or `Packed` ids. Raises ValueError for no hypotheses, no references, an empty reference
    list (index named), a number of reference lists that is not the number of hypotheses, max_n < 1; TypeError for
    strings instead of tokens.
    """
    _check_order(max_n, limit=None)
    if (references is None) == (references_per_hypothesis is None):
        raise ValueError(
            "give either references, shared by all hypotheses, or references_per_hypothesis, one list for each"
        )
    if references is not None:
        (hyp, ref), vocabulary = packed(hypotheses, references)
        _check_filled(hyp, ref)
        num = _clipped_matches(ref, hyp, vocabulary, max_n)
        return _with_lengths(num, hyp, closest_length(hyp.lengths, ref.lengths))
    assert references_per_hypothesis is not None
    count = hypotheses.lengths.size if isinstance(hypotheses, Packed) else len(hypotheses)
    sizes = check_reference_lists(count, references_per_hypothesis)
    (hyp, *lists), vocabulary = packed(hypotheses, *references_per_hypothesis)
    return own_reference_stats(hyp, join(lists), np.array(sizes), vocabulary, max_n)


def own_reference_stats(hyp: Packed, ref: Packed, sizes: Ints, vocabulary: int, max_n: int) -> BleuStats:
    """Count matches of hypothesis i with its own sizes[i] references, which stand in `ref` in the same order."""
    group = np.repeat(np.arange(sizes.size), sizes)
    num = _clipped_matches(ref, hyp, vocabulary, max_n, group)
    # the closest length, ties to the shorter: the least of (distance, length)
    distance = np.abs(ref.lengths - hyp.lengths[group])
    first = np.cumsum(sizes) - sizes
    nearest = np.minimum.reduceat(distance, first)
    closest = np.minimum.reduceat(np.where(distance == nearest[group], ref.lengths, np.iinfo(np.int64).max), first)
    return _with_lengths(num, hyp, closest)


def self_bleu_stats(sents: Sentences, max_n: int = 5) -> BleuStats:
    """Count matches of every sentence with all others (leave-one-out). Raises ValueError for fewer than 2."""
    _check_order(max_n, limit=None)
    (corpus,), vocabulary = packed(sents)
    lengths = corpus.lengths
    if lengths.size < 2:
        raise ValueError(f"Self-BLEU needs at least 2 sentences, got {lengths.size}")
    num = np.zeros((lengths.size, max_n), dtype=np.int64)
    for n, runs in _matching_runs([corpus], vocabulary, max_n, None, _repeated_grams):
        if runs.positions.size:
            num[:, n - 1] = _matches(runs, _second_largest(runs), 0, lengths.size)
        del runs  # or they would live on beside those of the next order
    return _with_lengths(num, corpus, _closest_other_length(lengths))


def _clipped_matches(ref: Packed, hyp: Packed, vocabulary: int, max_n: int, group: Ints | None = None) -> Ints:
    """Return matches (N, K); `group` names the hypothesis that each reference serves, None if it serves all."""
    references = ref.lengths.size
    if group is not None:
        group = np.concatenate([group, np.arange(hyp.lengths.size)])
    num = np.zeros((hyp.lengths.size, max_n), dtype=np.int64)
    for n, runs in _matching_runs([ref, hyp], vocabulary, max_n, group, partial(_shared_grams, references=references)):
        if runs.positions.size:
            clip = np.maximum.reduceat(np.where(runs.run_sentence < references, runs.run_length, 0), runs.first_run)
            num[:, n - 1] = _matches(runs, clip, references, hyp.lengths.size)
            del clip
        del runs  # or they would live on beside those of the next order
    return num


def _matches(runs: Runs, clip: Whole, first: int, sentences: int) -> Ints:
    """Return clipped matches of each of the `sentences` from number `first` on, (N,)."""
    found = np.zeros(sentences, dtype=np.int64)
    block = max(_BLOCK, sentences)
    for begin in range(0, runs.run_gram.size, block):
        part = slice(begin, begin + block)
        own = runs.run_sentence[part] >= first
        share = np.minimum(runs.run_length[part], clip[runs.run_gram[part]])[own]
        found += np.bincount(runs.run_sentence[part][own] - first, share, sentences).astype(np.int64)
    return found


def _matching_runs(
    corpora: Sequence[Packed], vocabulary: int, max_n: int, group: Ints | None, alive: _Alive
) -> Iterator[tuple[int, Runs]]:
    """Yield runs of every order over the positions that may still match: both (n-1)-grams inside the n-gram are alive.

    The corpora lie end to end. `group` (N,) keeps grams of different groups apart by giving order 0 an id of its own
    per group.
    """
    tokens = joined_tokens(corpora, vocabulary)
    lengths = np.concatenate([corpus.lengths for corpus in corpora])
    small = whole(max(tokens.size, lengths.size))
    sentence = np.repeat(np.arange(lengths.size, dtype=small), lengths)
    previous: Whole = np.zeros(tokens.size, dtype=small) if group is None else group[sentence].astype(small)
    grams = 1 if group is None else int(group.max()) + 1
    positions = np.arange(tokens.size, dtype=small)
    living = np.zeros(tokens.size + 1, dtype=bool)
    for n in range(1, max_n + 1):
        # the keys are not named here, so that they go as soon as they are sorted
        runs = runs_of(_keys(previous, tokens, vocabulary, positions, n), grams * vocabulary, positions, sentence)
        positions = positions[:0].copy()  # the runs hold them now
        yield n, runs
        if not runs.positions.size:
            continue
        keep = alive(runs)
        grams = max(1, int(keep.sum()))
        number = np.cumsum(keep, dtype=small)
        number -= 1
        living[:] = False
        end = 0
        for first in range(0, runs.run_gram.size, _BLOCK):
            gram, length = runs.run_gram[first : first + _BLOCK], runs.run_length[first : first + _BLOCK]
            begin, end = end, end + int(length.sum())
            kept = keep[gram]
            at = runs.positions[begin:end][np.repeat(kept, length)]
            previous[at] = np.repeat(number[gram[kept]], length[kept])
            living[at] = True
        del runs, keep, number, gram, length, at
        positions = np.flatnonzero(living[:-1] & living[1:]).astype(small)
        # what is alive at the next position may belong to the next sentence
        positions = positions[sentence[positions] == sentence[positions + n]]


def _keys(previous: Whole, tokens: Whole, vocabulary: int, positions: Whole, n: int) -> Ints:
    """Return (gram of order n - 1, token) of the n-gram at each position as one number, (P,)."""
    key = previous[positions].astype(np.int64)
    key *= vocabulary
    key += tokens[positions + (n - 1)]
    return key


def _repeated_grams(runs: Runs) -> Bools:
    """Tell which grams at least two sentences hold."""
    several: Bools = np.diff(runs.first_run, append=runs.run_gram.size) > 1
    return several


def _shared_grams(runs: Runs, *, references: int) -> Bools:
    """Tell which grams a reference and a hypothesis hold: references come first, so the first and last run show it."""
    last = np.append(runs.first_run[1:], runs.run_gram.size) - 1
    both: Bools = (runs.run_sentence[runs.first_run] < references) & (runs.run_sentence[last] >= references)
    return both


def _second_largest(runs: Runs) -> Ints:
    """Return the second-largest run of every gram with multiplicity, 0 where one sentence alone holds it, (G,)."""
    length = runs.run_length
    if length.max() == 1:
        return _repeated_grams(runs).astype(np.int64)
    largest = np.maximum.reduceat(length, runs.first_run)
    at_top = length == largest[runs.run_gram]
    second = np.maximum.reduceat(np.where(at_top, 0, length), runs.first_run)
    return np.where(np.add.reduceat(at_top, runs.first_run, dtype=np.int64) > 1, largest, second)


def _with_lengths(num: Ints, hyp: Packed, ref_len: Ints) -> BleuStats:
    den = np.maximum(1, hyp.lengths[:, None] - np.arange(num.shape[1]))
    return BleuStats(num, den, hyp.lengths, ref_len)


def closest_length(lengths: Ints, references: Ints) -> Ints:
    """Return for each of `lengths` (N,) the closest of `references` (M,), ties to the shorter, (N,)."""
    known = np.unique(references)
    above = np.minimum(np.searchsorted(known, lengths), known.size - 1)
    below = np.maximum(above - 1, 0)
    return np.where(np.abs(lengths - known[below]) <= np.abs(known[above] - lengths), known[below], known[above])


def _closest_other_length(lengths: Ints) -> Ints:
    """Return for each sentence the closest length among the others, ties to the shorter, (N,); N >= 2."""
    known, own, counts = np.unique(lengths, return_inverse=True, return_counts=True)
    far = np.iinfo(np.int64).max // 2
    below = np.concatenate([[-far], known])[own]
    above = np.append(known, far)[own + 1]
    other = np.where(lengths - below <= above - lengths, below, above)
    return np.where(counts[own] > 1, lengths, other)


def _check_order(order: int, *, limit: int | None = MAX_ORDER) -> None:
    if not isinstance(order, int) or isinstance(order, bool) or order < 1 or (limit is not None and order > limit):
        raise ValueError(f"order must be an integer in 1..{limit or '...'}, got {order!r}")


def _check_filled(hyp: Packed, ref: Packed) -> None:
    if not hyp.lengths.size:
        raise ValueError("there are no hypotheses; give at least one")
    if not ref.lengths.size:
        raise ValueError("there are no references; give at least one")


def check_reference_lists(hypotheses: int, references_per_hypothesis: Sequence[Text]) -> list[int]:
    """Return the number of references of every hypothesis, at least one each."""
    if not hypotheses:
        raise ValueError("there are no hypotheses; give at least one")
    sizes = [one.lengths.size if isinstance(one, Packed) else len(one) for one in references_per_hypothesis]
    if len(sizes) != hypotheses:
        transposed = bool(sizes) and set(sizes) == {hypotheses}
        hint = (
            f"each holds {hypotheses} entries, so they look transposed: give zip(*streams)"
            if transposed
            else "one is missing"
        )
        raise ValueError(
            f"references_per_hypothesis must hold a list for each of {hypotheses} hypotheses, got {len(sizes)}; {hint}"
        )
    if 0 in sizes:
        raise ValueError(
            f"references_per_hypothesis[{sizes.index(0)}] is empty; every hypothesis needs at least one reference"
        )
    return sizes


class ReferenceIndex:
    """Prepare references once for many sets: `ReferenceIndex(references, max_n)(hypotheses)` equals `bleu_stats`.

    Holds, per order, the sorted keys of the references' grams with their clips; hypotheses look theirs up by binary
    search. References are token lists or `Packed` ids, and the hypotheses must be of the same kind. Raises
    ValueError for no references.
    """

    def __init__(self, references: Sentences, max_n: int = 5) -> None:
        _check_order(max_n, limit=None)
        self.max_n = max_n
        self._known = KnownTokens(references, "references")
        ref = self._known.corpus
        if not ref.lengths.size:
            raise ValueError("there are no references; give at least one")
        self._size = max(1, self._known.size)
        self._lengths = np.unique(ref.lengths)
        self._keys: list[Ints] = []
        self._clips: list[Ints] = []
        sentence = sentence_index(ref.lengths)
        for grams in ngram_ids(ref, self._size, max_n):
            runs = runs_of(grams.gram.astype(np.int64), max(1, grams.size), grams.positions, sentence)
            self._keys.append(grams.key)
            self._clips.append(np.maximum.reduceat(runs.run_length, runs.first_run) if grams.size else runs.run_length)

    def __call__(self, hypotheses: Sentences, max_n: int | None = None) -> BleuStats:
        """Count matches of the hypotheses, orders 1..max_n; ValueError above the order the index was built for."""
        max_n = self.max_n if max_n is None else max_n
        _check_order(max_n, limit=None)
        if max_n > self.max_n:
            raise ValueError(
                f"the index holds orders up to {self.max_n}, got {max_n}; build ReferenceIndex(references, {max_n})"
            )
        hyp = self._known(hypotheses, "hypotheses")
        if not hyp.lengths.size:
            raise ValueError("there are no hypotheses; give at least one")
        num = np.zeros((hyp.lengths.size, max_n), dtype=np.int64)
        sentence, left = sentence_index(hyp.lengths), tokens_left(hyp.lengths)
        gram = np.zeros(hyp.tokens.size, dtype=np.int64)
        positions = np.arange(hyp.tokens.size)
        for n in range(1, max_n + 1):
            keys, clips = self._keys[n - 1], self._clips[n - 1]
            positions = positions[left[positions] >= n]
            token = hyp.tokens[positions + n - 1]
            positions, token = positions[token >= 0], token[token >= 0]
            if not (keys.size and positions.size):
                break
            key = gram[positions] * self._size + token
            found = np.searchsorted(keys, key)
            known = keys[np.minimum(found, keys.size - 1)] == key
            positions, found = positions[known], found[known]
            gram[positions] = found
            pairs, own = np.unique(sentence[positions] * keys.size + found, return_counts=True)
            share = np.minimum(own, clips[pairs % keys.size])
            num[:, n - 1] = np.bincount(pairs // keys.size, share, hyp.lengths.size)
        return _with_lengths(num, hyp, closest_length(hyp.lengths, self._lengths))


# ------------------------------------------------------------------------------
# scores


def smoothed_precisions(num: Floats, den: Floats, hyp_len: Floats, method: str, order: int) -> Floats:
    """Return smoothed precisions p' of orders 1..order, (..., order) float64, from counts (..., K) and lengths (...).

    Chen and Cherry 2014 as nltk computes them, with its quirks: method 4 leaves 0 for hypotheses of one token,
    methods 5 and 7 append the 5-gram precision whatever the order (so K >= 5), method 6 needs a trigram match. Rows
    without a unigram match score 0 whatever stands here.
    """
    m, d = num[..., :order], den[..., :order]
    p = m / d
    match method:
        case "method0":
            return np.where(m > 0, p, np.finfo(np.float64).tiny)
        case "method1":
            return np.where(m > 0, p, EPSILON / d)
        case "method2":
            p[..., 1:] = (m[..., 1:] + 1) / (d[..., 1:] + 1)
            return p
        case "method3":
            return np.where(m > 0, p, 1 / (2.0 ** np.cumsum(m == 0, axis=-1) * d))
        case "method4":
            return _method4(m, d, hyp_len)
        case "method5":
            return _method5(p, num[..., 4] / den[..., 4])
        case "method6":
            for n in range(2, order):
                square = p[..., n - 1] ** 2
                prior = np.divide(square, p[..., n - 2], out=np.zeros_like(square), where=p[..., n - 2] > 0)
                p[..., n] = (m[..., n] + ALPHA * prior) / (np.maximum(0, hyp_len - n) + ALPHA)
            return p
        case "method7":
            return _method5(_method4(m, d, hyp_len), num[..., 4] / den[..., 4])
    raise ValueError(f"unknown smoothing {method!r}; known: {', '.join(SMOOTHING)}")


def _method4(m: Floats, d: Floats, hyp_len: Floats) -> Floats:
    """Replace zeros by a geometric sequence scaled by ln(length): short hypotheses get smaller counts."""
    log_length = np.log(np.maximum(hyp_len, 1))[..., None]  # 0 for one token, so its empty orders stay 0
    return np.where(m > 0, m / d, log_length / (2.0 ** np.cumsum(m == 0, axis=-1) * K * d))


def _method5(p: Floats, p5: Floats) -> Floats:
    """Average neighbouring orders as they come; the order above the last is always the 5-gram precision."""
    above = np.concatenate([p[..., 1:], p5[..., None]], axis=-1)
    smoothed = np.empty_like(p)
    before = p[..., 0] + 1
    for n in range(p.shape[-1]):
        before = smoothed[..., n] = (before + p[..., n] + above[..., n]) / 3
    return smoothed


def _combine(p: Floats, num: Floats, hyp_len: Floats, ref_len: Floats, weights: Floats) -> Floats:
    """Return brevity penalty times the weighted geometric mean of p (..., N); p = 0 is skipped as in nltk."""
    log_p = np.log(np.where(p > 0, p, 1.0))
    short = hyp_len < ref_len
    penalty = np.where(short, 1 - ref_len / np.where(short & (hyp_len > 0), hyp_len, 1), 0.0)
    return np.where(num[..., 0] > 0, np.exp(penalty) * np.exp(log_p @ weights), 0.0)


def _weights(order: int, weights: Sequence[float] | None) -> Floats:
    if weights is None:
        return np.full(order, 1 / order)
    if len(weights) != order:
        raise ValueError(f"weights must hold one number per order 1..{order}, got {len(weights)}")
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights):
        raise ValueError(f"weights must be finite and >= 0, got {', '.join(map(str, weights))}")
    if abs(math.fsum(weights) - 1) > 1e-9:
        raise ValueError(f"weights must add up to 1, got {math.fsum(weights)}")
    return np.asarray(weights, dtype=np.float64)


def _check_smoothing(smoothing: str, order: int) -> None:
    if smoothing not in SMOOTHING:
        raise ValueError(f"unknown smoothing {smoothing!r}; known: {', '.join(SMOOTHING)}")
    if smoothing == "method6" and order < 3:
        raise ValueError(f"method6 extrapolates from two lower orders and needs order >= 3, got {order}")


def needed_order(order: int, smoothing: str) -> int:
    """Return how many orders a score of this order reads: methods 5 and 7 also read the 5-gram precision."""
    return max(order, 5) if smoothing in ("method5", "method7") else order


def sentence_scores(
    stats: BleuStats, order: int = 4, smoothing: str = "method1", weights: Sequence[float] | None = None
) -> Floats:
    """Return BLEU-`order` of every hypothesis, (N,) float64 in 0..1, as nltk's `sentence_bleu` with this smoothing.

    Raises ValueError if the statistics hold too few orders, for an unknown smoothing, for weights of the wrong
    number or sum, and for method6 with order < 3 or where a hypothesis with a unigram match has no trigram match
    (indices listed).
    """
    _check_order(order)
    _check_smoothing(smoothing, order)
    needed = needed_order(order, smoothing)
    if stats.num.shape[1] < needed:
        raise ValueError(
            f"BLEU-{order} with {smoothing} needs statistics of orders 1..{needed}, got 1..{stats.num.shape[1]}"
        )
    if smoothing == "method6":
        bad = np.flatnonzero((stats.num[:, 0] > 0) & (stats.num[:, 2] == 0))
        if bad.size:
            listed = ", ".join(map(str, bad[:5])) + (", ..." if bad.size > 5 else "")
            raise ValueError(
                f"method6 needs a matching trigram; {bad.size} hypotheses have none: {listed}; use another smoothing"
            )
    num, den = stats.num.astype(np.float64), stats.den.astype(np.float64)
    hyp_len, ref_len = stats.hyp_len.astype(np.float64), stats.ref_len.astype(np.float64)
    p = smoothed_precisions(num, den, hyp_len, smoothing, order)
    return _combine(p, num, hyp_len, ref_len, _weights(order, weights))


def corpus_bleu(
    stats: BleuStats,
    order: int = 4,
    *,
    style: Literal["nltk", "sacrebleu"] = "nltk",
    smoothing: str | None = None,
    weights: Sequence[float] | None = None,
) -> float:
    """Return one BLEU of the whole set, 0..1: counts and lengths are summed first, then scored once.

    `nltk` sums max(1, length - n + 1) per sentence and knows methods 0-4. `sacrebleu` sums the true counts and knows
    methods 0, 1, 2, 3, which it calls none, floor (0.1), add-k (1) and exp. Without `smoothing` each does as its
    namesake does by default: none and exp. Raises ValueError for other methods: in nltk 5-7 read the last sentence
    only there, so the order of lines would change the score.
    """
    smoothing = smoothing or LEVEL_SMOOTHING["sacrebleu" if style == "sacrebleu" else "corpus"]
    _check_order(order)
    if stats.num.shape[1] < order:
        raise ValueError(f"BLEU-{order} needs statistics of orders 1..{order}, got 1..{stats.num.shape[1]}")
    pooled = pooled_statistic(order, style, smoothing, weights)
    return float(pooled(corpus_rows(stats, order, style).sum(axis=0)))


def corpus_rows(stats: BleuStats, order: int, style: str) -> Floats:
    """Return additive rows for corpus scores, (N, 2 order + 2): matches, counts, both lengths."""
    num = stats.num[:, :order]
    if style == "sacrebleu":
        den = np.maximum(0, stats.hyp_len[:, None] - np.arange(order))
    else:
        den = stats.den[:, :order]
    return np.column_stack([num, den, stats.hyp_len, stats.ref_len]).astype(np.float64)


def pooled_statistic(
    order: int, style: str, smoothing: str, weights: Sequence[float] | None = None
) -> Callable[[Floats], Floats]:
    """Return the function from summed `corpus_rows` (..., C) to corpus BLEU (...); ValueError as `corpus_bleu`."""
    _check_smoothing(smoothing, order)
    if style not in ("nltk", "sacrebleu"):
        raise ValueError(f"style must be nltk or sacrebleu, got {style!r}")
    last = 4 if style == "nltk" else 3
    if int(smoothing[-1]) > last:
        raise ValueError(f"corpus BLEU in the style of {style} knows method0 to method{last}, got {smoothing}")
    score = _pooled_sacrebleu if style == "sacrebleu" else _pooled_nltk
    return partial(score, smoothing=smoothing, weights=_weights(order, weights))


def _pooled_nltk(sums: Floats, *, smoothing: str, weights: Floats) -> Floats:
    order = weights.size
    num, den, hyp_len, ref_len = sums[..., :order], sums[..., order : 2 * order], sums[..., -2], sums[..., -1]
    return _combine(smoothed_precisions(num, den, hyp_len, smoothing, order), num, hyp_len, ref_len, weights)


def _pooled_sacrebleu(sums: Floats, *, smoothing: str, weights: Floats) -> Floats:
    order = weights.size
    num, den, hyp_len, ref_len = sums[..., :order], sums[..., order : 2 * order], sums[..., -2], sums[..., -1]
    if smoothing == "method2":
        den = den + (np.arange(order) > 0)  # one more above the unigrams also where a set has no n-gram of that order
        num = num + (np.arange(order) > 0)
        smoothing = "method0"
    p = smoothed_precisions(num, np.maximum(den, 1), hyp_len, smoothing, order)
    counted = (den > 0) & ((num > 0) | (smoothing != "method0"))
    return np.where(counted.all(axis=-1), _combine(p, num, hyp_len, ref_len, weights), 0.0)


# ------------------------------------------------------------------------------
# text in, scores out


def bleu(
    hypotheses: Text,
    references: Text | None = None,
    *,
    order: int = 4,
    references_per_hypothesis: Sequence[Text] | None = None,
    **settings: Unpack[BleuKeywords],
) -> Score:
    """Return BLEU-`order` of the hypotheses against all references, 0..1, with `.orders` for 1..order.

    `list[str]` is lines (cut by `tokenizer`), `list[list[str]]` is tokens (left as they are). The other keywords are
    the fields of `BleuSettings`. An empty hypothesis scores 0 and is counted. With `weights`, `.orders` holds `order`
    alone; method6 starts at order 3. Warns of lines cut at spaces that set full stops apart or have capitals on one
    side alone.
    Raises TypeError for a bare string or a mix of lines and tokens, ValueError as `bleu_stats`, `sentence_scores`,
    `corpus_bleu`.
    """
    chosen = BleuSettings(orders=(order,), **settings)
    return bleu_orders(hypotheses, references, chosen, references_per_hypothesis=references_per_hypothesis)[order]


def bleu_orders(
    hypotheses: Text,
    references: Text | None = None,
    settings: BleuSettings = BleuSettings(),
    *,
    references_per_hypothesis: Sequence[Text] | None = None,
) -> dict[int, Score]:
    """Compute `bleu` at every order of the settings from one pass over the text; order -> Score."""
    top = settings.needed_order
    if (references is None) == (references_per_hypothesis is None):
        raise ValueError(
            "give either references, shared by all hypotheses, or references_per_hypothesis, one list for each"
        )
    if references is not None:
        (hyp, ref), kind = settings.pack({"hypotheses": hypotheses, "references": references})
        stats = bleu_stats(hyp, ref, top)
        counted, inputs = str(ref.lengths.size), input_hash(hypotheses, references)
    else:
        assert references_per_hypothesis is not None
        kind_of(hypotheses, "hypotheses")
        for i, one in enumerate(references_per_hypothesis):
            kind_of(one, f"references_per_hypothesis[{i}]")
        sizes = check_reference_lists(
            hypotheses.lengths.size if isinstance(hypotheses, Packed) else len(hypotheses), references_per_hypothesis
        )
        flat = _end_to_end(references_per_hypothesis)  # packed at once: a list at a time costs more than the n-grams do
        (hyp, ref), kind = settings.pack({"hypotheses": hypotheses, "references": flat})
        (hyp, ref), vocabulary = packed(hyp, ref)
        stats = own_reference_stats(hyp, ref, np.array(sizes), vocabulary, top)
        counted, inputs = f"{ref.lengths.size}(own)", input_hash(hypotheses, flat)
    fields = {"hyp": str(stats.hyp_len.size), "nrefs": counted, "tok": kind, "case": settings.case}
    return scores_of_stats("bleu", stats, settings, fields, inputs)


def self_bleu(
    lines: Text,
    *,
    order: int = 4,
    sample: int | None = None,
    seed: int = 0,
    against: Text | None = None,
    keep_self: bool = False,
    **settings: Unpack[BleuKeywords],
) -> Score:
    """Return Self-BLEU-`order`, 0..1: BLEU of every line against all other lines.

    Lower is more diverse, and real text of the same size is the measure: below it is not better.
    `sample` scores a subset of that many lines, drawn with `seed`, among themselves. `against` scores the lines
    against another set of samples instead (the split form). `keep_self` leaves every line among its own references,
    the known fault of two toolkits: the result is 1 or nearly so. Text and the other keywords are as for `bleu`.
    Raises ValueError for fewer than two lines, `sample` above their number or below 2, or options that exclude each
    other.
    """
    chosen = BleuSettings(orders=(order,), **settings)
    return self_bleu_orders(lines, chosen, sample=sample, seed=seed, against=against, keep_self=keep_self)[order]


def self_bleu_orders(
    lines: Text,
    settings: BleuSettings = BleuSettings(),
    *,
    sample: int | None = None,
    seed: int = 0,
    against: Text | None = None,
    keep_self: bool = False,
) -> dict[int, Score]:
    """Compute `self_bleu` at every order of the settings from one pass over the text; order -> Score."""
    top = settings.needed_order
    if against is not None and (keep_self or sample is not None):
        raise ValueError("against scores one set of samples against another; it excludes sample and keep_self")
    texts = {"lines": lines} if against is None else {"lines": lines, "against": against}
    (sents, *others), kind = settings.pack(texts)
    size = sents.lengths.size
    fields = {"hyp": str(size), "self": "loo"}
    if sample is not None:
        if not 2 <= sample <= size:
            raise ValueError(f"sample must be in 2..{size}, the number of lines, got {sample}")
        sents = take(sents, np.sort(np.random.default_rng(seed).choice(size, sample, replace=False)))
        fields["hyp"] = f"{sample} of {size}"
    if others:
        stats = bleu_stats(sents, others[0], top)
        fields |= {"nrefs": str(others[0].lengths.size), "self": "split"}
    elif keep_self:
        stats = bleu_stats(sents, sents, top)
        fields |= {"self": "included"}
    else:
        stats = self_bleu_stats(sents, top)
    fields |= {"tok": kind, "case": settings.case}
    drawn = seed if sample is not None else None
    return scores_of_stats("self_bleu", stats, settings, fields, input_hash(*texts.values()), drawn)


def take(sents: Packed, rows: Ints) -> Packed:
    """Return the sentences at `rows`, in that order."""
    lengths = sents.lengths[rows]
    start = np.cumsum(sents.lengths) - sents.lengths
    within = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return Packed(sents.tokens[np.repeat(start[rows], lengths) + within], lengths)


def scores_of_stats(
    metric: str,
    stats: BleuStats,
    settings: BleuSettings,
    fields: Mapping[str, str],
    inputs: str,
    seed: int | None = None,
    temperature: float | None = None,
) -> dict[int, Score]:
    """Return one Score per order from counts, signed with the settings and with `fields`."""
    smoothing, weights = settings.method, settings.weights
    top = max(settings.orders)
    lowest = top if weights is not None else 3 if smoothing == "method6" else 1
    values: dict[int, float] = {}
    parts: dict[int, tuple[Floats, Statistic]] = {}
    for n in range(lowest, top + 1):
        if settings.level == "sentence":
            rows = mean_rows(sentence_scores(stats, n, smoothing, weights))
            statistic: Statistic = ratio_of_sums
        else:
            style = "nltk" if settings.level == "corpus" else "sacrebleu"
            rows, statistic = corpus_rows(stats, n, style), pooled_statistic(n, style, smoothing, weights)
        parts[n] = rows, statistic
        values[n] = float(statistic(rows.sum(axis=0)))
    scores = {}
    for n in settings.orders:
        how = {
            "n": f"1-{n}" if weights is None else f"1-{n}({','.join(f'{w:g}' for w in weights)})",
            "lvl": {"sentence": "sent-mean", "corpus": "corpus", "sacrebleu": "corpus-sacrebleu"}[settings.level],
            "smooth": SMOOTHING[smoothing],
        }
        signature = Signature(metric, how | dict(fields), inputs, seed, temperature)
        rows, statistic = parts[n]
        scores[n] = Score(values[n], signature, {k: v for k, v in values.items() if k <= n}, rows, statistic)
    return scores


def _end_to_end(lists: Sequence[Text]) -> Text:
    packed_lists = [one for one in lists if isinstance(one, Packed)]
    if packed_lists:
        return join(packed_lists)
    return [item for one in lists if not isinstance(one, Packed) for item in one]
