"""A Kneser-Ney language model over token lists: the baseline that costs no training.

Interpolated Kneser-Ney (Kneser and Ney 1995; Chen and Goodman 1999, section 2.7). Each sentence is <s> tokens </s>.
The highest order, and n-grams that begin with <s>, use counts; other lower orders the number of distinct tokens seen
to the left. Discount per order D = n1 / (n1 + 2 n2); the freed mass goes to the order below, and the unigrams share
theirs evenly over V symbols: the training tokens, </s>, and one unknown.
Shapes: N sentences, T tokens, G n-grams of one order.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, pairwise

import numpy as np
import numpy.typing as npt

from seqgen.metrics.ngrams import Floats, Ints, KnownTokens, Packed, Sentences, Whole, ngram_ids, whole

_BOS, _EOS, _UNKNOWN, _FIRST = 0, 1, 2, 3  # ids inside the model; training tokens follow


@dataclass(frozen=True)
class _Order:
    """N-grams of one order, sorted by (context, token). C contexts are the n-grams of the order below."""

    width: int
    """Number of tokens V."""
    key: Ints
    """context * V + token, ascending, (G,)."""
    count: Whole
    """Count, or distinct left neighbours, (G,)."""
    discount: float
    total: Whole
    """Sum of counts per context, at least 1, (C,)."""
    kinds: Whole
    """Tokens that follow each context, (C,)."""

    def spare(self, context: Ints) -> Floats:
        """Return the share of each context's mass that goes to the order below, (P,)."""
        share: Floats = self.discount * self.kinds[context] / self.total[context]
        return share

    # only sampling needs these two
    @cached_property
    def start(self) -> Ints:
        """First n-gram of each context and the end of the last, (C + 1,)."""
        return np.searchsorted(self.key, np.arange(self.total.size + 1) * self.width)

    @cached_property
    def mass(self) -> Floats:
        """Running sum of the discounted counts, from 0, (G + 1,)."""
        return np.concatenate([[0.0], np.cumsum(np.maximum(self.count - self.discount, 0.0))])


class KneserNey:
    """A model fitted to training sentences: token lists, or `Packed` ids, and what it scores must be the same.

    Raises ValueError for order < 1 or no sentences, TypeError for lines instead of token lists.
    """

    def __init__(self, sents: Sentences, order: int = 5) -> None:
        if not isinstance(order, int) or isinstance(order, bool) or order < 1:
            raise ValueError(f"order must be an integer >= 1, got {order!r}")
        self.order = order
        self.known = KnownTokens(sents, "training sentences")
        corpus = self.known.corpus
        if not corpus.lengths.size:
            raise ValueError("a language model needs at least one training sentence, got none")
        self.symbols = self.known.size + 2
        """V: training tokens, </s> and the unknown token."""
        self._width = self.known.size + _FIRST
        wrapped = self._wrap(corpus)
        self._orders: list[_Order] = []
        contexts = 1
        for level, above in pairwise(chain(ngram_ids(wrapped, self._width, order), [None])):
            if level is None or not level.size:  # no training sentence is that long
                break
            count = np.bincount(level.gram, minlength=level.size)
            if above is not None:
                somewhere = np.empty(above.size, dtype=level.positions.dtype)
                somewhere[above.gram] = above.positions
                gram_at = np.zeros(wrapped.tokens.size, dtype=level.gram.dtype)
                gram_at[level.positions] = level.gram
                left = np.bincount(gram_at[somewhere + 1], minlength=level.size)
                starts = np.zeros(level.size, dtype=bool)
                starts[level.gram[wrapped.tokens[level.positions] == _BOS]] = True
                count = np.where(starts, count, left)
                del somewhere, gram_at, left, starts
            if level.n == 1:
                count[level.key == _BOS] = 0  # <s> is given, never predicted
            self._orders.append(_order_of(level.key, count, contexts, self._width))
            contexts = level.size

    def _wrap(self, corpus: Packed) -> Packed:
        """Sentences between <s> and </s>, in the model's ids; -1 becomes the unknown token."""
        lengths = corpus.lengths + 2
        ends = np.cumsum(lengths)
        tokens = np.full(int(lengths.sum()), _EOS, dtype=np.int64)
        inside = np.ones(tokens.size, dtype=bool)
        inside[ends - lengths] = inside[ends - 1] = False
        tokens[ends - lengths] = _BOS
        tokens[inside] = np.where(corpus.tokens >= 0, corpus.tokens + _FIRST, _UNKNOWN)
        return Packed(tokens, lengths)

    def token_log_probability(self, sents: Sentences) -> list[Floats]:
        """ln P of every token and of the sentence's end, one array (length + 1,) a sentence."""
        wrapped = self._wrap(self.known(sents, "sentences"))
        log_p = self._log_p(wrapped)
        ends = np.cumsum(wrapped.lengths)
        return [log_p[end - length + 1 : end] for end, length in zip(ends, wrapped.lengths, strict=True)]

    def log_probability(self, sents: Sentences) -> Floats:
        """ln P of every sentence, its end counted, in nats, (N,) float64."""
        wrapped = self._wrap(self.known(sents, "sentences"))
        starts = np.cumsum(wrapped.lengths) - wrapped.lengths
        if not starts.size:
            return np.zeros(0)
        sums: Floats = np.add.reduceat(self._log_p(wrapped), starts)
        return sums

    def perplexity(self, sents: Sentences) -> float:
        """exp of the mean negative ln P per token, sentence ends counted as tokens. ValueError for no sentences."""
        per_sentence = self.log_probability(sents)
        if not per_sentence.size:
            raise ValueError("perplexity needs at least one sentence, got none")
        lengths = sents.lengths if isinstance(sents, Packed) else np.array([len(sentence) for sentence in sents])
        return float(np.exp(-per_sentence.sum() / (lengths.sum() + lengths.size)))

    def _log_p(self, wrapped: Packed) -> Floats:
        """ln P of every wrapped position given what stands before it, 0 at <s>, (T,)."""
        tokens = wrapped.tokens
        first = tokens == _BOS
        p = np.full(tokens.size, 1 / self.symbols)
        context = np.zeros(tokens.size, dtype=np.int64)  # of order n - 1, ending before each position; -1 where unseen
        for level in self._orders:
            gram = _find(level, context, tokens, self._width)
            seen = context >= 0
            at = context[seen]
            own = np.where(gram >= 0, np.maximum(level.count[gram] - level.discount, 0.0), 0.0)[seen]
            p[seen] = own / level.total[at] + level.spare(at) * p[seen]
            context = np.concatenate([[-1], gram[:-1]])
            context[first] = -1
        p[first] = 1.0
        log_p: Floats = np.log(p)
        return log_p

    def sample(self, count: int, seed: int, *, max_tokens: int = 200) -> list[list[Hashable]]:
        """`count` sentences drawn from the model, as token lists; text k is a function of the model, seed and k alone.

        A sentence that has not ended after `max_tokens` is cut. The unknown token is never drawn.
        Raises ValueError for count or max_tokens < 1.
        """
        if count < 1 or max_tokens < 1:
            raise ValueError(f"count and max_tokens must be >= 1, got {count} and {max_tokens}")
        rows = np.arange(count)
        keys = _mix(_mix(np.full(count, seed, dtype=np.int64)) ^ rows.astype(np.uint64))
        drawn: list[tuple[Ints, Ints]] = []
        # gram of order n that ends the text so far, for n = 0 .. depth - 1; -1 where training never had it
        depth = len(self._orders)
        history = np.full((count, depth), -1, dtype=np.int64)
        history[:, 0] = 0
        if depth > 1:
            history[:, 1] = _find(self._orders[0], np.zeros(1, dtype=np.int64), np.array([_BOS]), self._width)[0]
        for step in range(max_tokens):
            token = self._draw(history, keys[rows], step)
            going = token != _EOS
            rows, token, history = rows[going], token[going], history[going]
            if not rows.size:
                break
            drawn.append((rows, token))
            longer = np.zeros_like(history)
            for n in range(1, depth):
                longer[:, n] = _find(self._orders[n - 1], history[:, n - 1], token, self._width)
            history = longer
        if not drawn:
            return [[] for _ in range(count)]
        row, token = (np.concatenate(column) for column in zip(*drawn, strict=True))
        in_order = np.argsort(row, kind="stable")
        return self.known.decode(Packed(token[in_order] - _FIRST, np.bincount(row, minlength=count)))

    def _draw(self, history: Ints, keys: npt.NDArray[np.uint64], step: int) -> Ints:
        """One token per row, by walking down the orders: stay with the discounted mass, else go to the order below."""
        token = np.full(len(history), -1, dtype=np.int64)
        for n in range(len(self._orders), 0, -1):
            level = self._orders[n - 1]
            context = history[:, n - 1]
            open_rows = np.flatnonzero((token < 0) & (context >= 0))
            at = context[open_rows]
            u = _uniform(keys[open_rows], step * (self.order + 1) + n)
            spare = level.spare(at)
            stay = u >= spare
            rows, at, spare = open_rows[stay], at[stay], spare[stay]
            inside = (u[stay] - spare) / (1 - spare)
            low, high = level.mass[level.start[at]], level.mass[level.start[at + 1]]
            gram = np.searchsorted(level.mass, low + inside * (high - low), side="right") - 1
            # a sum rounded up to the end of the context's mass would fall into the next context
            gram = np.clip(gram, level.start[at], level.start[at + 1] - 1)
            token[rows] = level.key[gram] % self._width
        rest = np.flatnonzero(token < 0)
        # evenly over </s> and the training tokens: the same share the unigrams give to unseen symbols
        evenly = (_uniform(keys[rest], step * (self.order + 1)) * (self.symbols - 1)).astype(np.int64)
        token[rest] = np.where(evenly == 0, _EOS, evenly - 1 + _FIRST)
        return token


def _order_of(key: Ints, count: Ints, contexts: int, width: int) -> _Order:
    once, twice = int((count == 1).sum()), int((count == 2).sum())
    # without a single n-gram seen once the estimate is 0 and unseen n-grams would be impossible: discount one half
    discount = once / (once + 2 * twice) if once else 0.5
    small = whole(int(count.sum()) + 1)
    prefix = key // width
    total = np.maximum(np.bincount(prefix, count, contexts), 1).astype(small)
    kinds = np.bincount(prefix[count > 0], minlength=contexts).astype(small)
    return _Order(width, key, count.astype(small), discount, total, kinds)


def _find(level: _Order, context: Ints, token: Ints, width: int) -> Ints:
    """Index of the n-gram (context, token), -1 where it or its context was never seen, (P,)."""
    key = np.where(context >= 0, context * width + token, -1)
    place = np.minimum(np.searchsorted(level.key, key), level.key.size - 1)
    return np.where(level.key[place] == key, place, -1)


def _mix(value: npt.NDArray[np.int64] | npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finalizer of splitmix64 (Steele et al. 2014): neighbouring inputs, unrelated outputs."""
    x = value.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _uniform(keys: npt.NDArray[np.uint64], counter: int) -> Floats:
    """Number `counter` of each key's stream, in [0, 1), 53 bits."""
    bits = _mix(keys ^ _mix(np.full(keys.size, counter, dtype=np.int64))) >> np.uint64(11)
    return bits.astype(np.float64) * 2.0**-53
