"""A Kneser-Ney language model over token lists: the baseline that costs no training.

Interpolated modified Kneser-Ney (Chen and Goodman 1999, section 3.2). Each sentence is <s> tokens </s>. The highest
order, and n-grams that begin with <s>, use counts; other lower orders the number of distinct tokens seen to the left.
An order with n_j n-grams of count j discounts counts of 1, 2 and 3 or more by D1, D2 and D3+,

    Y = n1 / (n1 + 2 n2),  D1 = 1 - 2 Y n2 / n1,  D2 = 2 - 3 Y n3 / n2,  D3+ = 3 - 4 Y n4 / n3        (equation 26)

and by .5, 1 and 1.5 where n1, n2 or n3 is 0 or a D_j is not in (0, j]: the fallback of KenLM (Heafield et al. 2013)
for small or artificial text, of which the equations say nothing. The freed mass goes to the order below, and the
unigrams share theirs evenly over V symbols: the training tokens, </s>, and one unknown, or as many as asked for.
Shapes: N sentences, T tokens, G n-grams of one order, C of the order below, P positions.
"""

from __future__ import annotations

import math
import os
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from seqgen.metrics.ngrams import Floats, Ints, KnownTokens, Packed, Sentences, ngram_ids, stable_sort

BOS, EOS, UNKNOWN, FIRST = 0, 1, 2, 3
"""<s>, </s>, the unknown token and the first of the training tokens, inside the model."""
_NAMES = {"<s>": BOS, "</s>": EOS, "<unk>": UNKNOWN}
"""What ARPA files call the first ids."""
_BREAKS = set(" \t\n\r\v\f\0")
_FALLBACK = (0.0, 0.5, 1.0, 1.5)


@dataclass(frozen=True)
class NgramOrder:
    """N-grams of one order, sorted by (context, token). Contexts are the n-grams of the order below, by index."""

    key: Ints
    """context * width + token, ascending, (G,)."""
    p: Floats
    """P(token | context), lower orders mixed in, (G,)."""
    spare: Floats
    """Share of each context's mass that goes to the order below, (C,)."""


class KneserNey:
    """A model fitted to training sentences: token lists, or `Packed` ids, and what it scores must be the same.

    `symbols` is V, the number of symbols that share the unigrams' freed mass; 0 means the training tokens, </s> and one
    unknown. Raises ValueError for order < 1, no sentences or fewer symbols than there are tokens, TypeError for lines
    instead of token lists.
    """

    def __init__(self, sents: Sentences, order: int = 5, *, symbols: int = 0) -> None:
        if not isinstance(order, int) or isinstance(order, bool) or order < 1:
            raise ValueError(f"order must be an integer >= 1, got {order!r}")
        self.order = order
        self.known = KnownTokens(sents, "training sentences")
        corpus = self.known.corpus
        if not corpus.lengths.size:
            raise ValueError("a language model needs at least one training sentence, got none")
        if symbols and symbols <= self.known.size:
            raise ValueError(f"symbols must be more than the {self.known.size} training tokens, got {symbols}")
        self.symbols = symbols or self.known.size + 2
        """V."""
        self.width = self.known.size + FIRST
        """Factor of the context in `NgramOrder.key`: the model's own ids are below it."""
        self.discounts: list[tuple[float, ...]] = []
        """D1, D2 and D3+ of each order."""
        self.orders: list[NgramOrder] = []
        below, suffix = np.full(1, 1 / self.symbols), np.zeros(self.width, dtype=np.int64)
        wrapped = self._wrap(corpus)
        for level, above in pairwise(chain(ngram_ids(wrapped, self.width, order), [None])):
            if level is None or not level.size:  # no training sentence is that long
                break
            count, next_suffix = np.bincount(level.gram, minlength=level.size), suffix
            if above is not None:
                somewhere = np.empty(above.size, dtype=above.positions.dtype)
                somewhere[above.gram] = above.positions
                gram_at = np.zeros(wrapped.tokens.size, dtype=level.gram.dtype)
                gram_at[level.positions] = level.gram
                next_suffix = gram_at[somewhere + 1]
                starts = np.zeros(level.size, dtype=bool)
                starts[level.gram[wrapped.tokens[level.positions] == BOS]] = True
                count = np.where(starts, count, np.bincount(next_suffix, minlength=level.size))
                del somewhere, gram_at, starts
            if level.n == 1:
                count[level.key == BOS] = 0  # <s> is given, never predicted
            discounts = _discounts(count)
            context = level.key // self.width
            total = np.maximum(np.bincount(context, count, below.size if level.n > 1 else 1), 1)
            # in place, and dropped as soon as may be: the arrays of the highest orders decide how much memory it takes
            discount = np.array(discounts)[np.minimum(count, 3)]
            spare: Floats = np.bincount(context, discount, total.size).astype(np.float64, copy=False)
            spare /= total
            p: Floats = count - discount
            del count, discount
            p /= total[context]
            del total
            lower = below[suffix[: level.size]]
            lower *= spare[context]
            p += lower
            del context, lower
            self.discounts.append(discounts[1:])
            self.orders.append(NgramOrder(level.key, p, spare))
            below, suffix = p, next_suffix

    def _wrap(self, corpus: Packed) -> Packed:
        """Wrap sentences between <s> and </s>, in the model's ids; -1 becomes the unknown token."""
        lengths = corpus.lengths + 2
        ends = np.cumsum(lengths)
        tokens = np.full(int(lengths.sum()), EOS, dtype=np.int64)
        inside = np.ones(tokens.size, dtype=bool)
        inside[ends - lengths] = inside[ends - 1] = False
        tokens[ends - lengths] = BOS
        tokens[inside] = np.where(corpus.tokens >= 0, corpus.tokens + FIRST, UNKNOWN)
        return Packed(tokens, lengths)

    def token_log_probability(self, sents: Sentences) -> list[Floats]:
        """Return ln P of every token and of the sentence's end, one array (length + 1,) a sentence."""
        wrapped = self._wrap(self.known(sents, "sentences"))
        log_p = self._log_p(wrapped)
        ends = np.cumsum(wrapped.lengths)
        return [log_p[end - length + 1 : end] for end, length in zip(ends, wrapped.lengths, strict=True)]

    def log_probability(self, sents: Sentences) -> Floats:
        """Return ln P of every sentence, its end counted, in nats, (N,) float64."""
        wrapped = self._wrap(self.known(sents, "sentences"))
        starts = np.cumsum(wrapped.lengths) - wrapped.lengths
        if not starts.size:
            return np.zeros(0)
        sums: Floats = np.add.reduceat(self._log_p(wrapped), starts)
        return sums

    def perplexity(self, sents: Sentences) -> float:
        """Return exp of the mean negative ln P per token, sentence ends counted. ValueError for no sentences."""
        per_sentence = self.log_probability(sents)
        if not per_sentence.size:
            raise ValueError("perplexity needs at least one sentence, got none")
        lengths = sents.lengths if isinstance(sents, Packed) else np.array([len(sentence) for sentence in sents])
        return float(np.exp(-per_sentence.sum() / (lengths.sum() + lengths.size)))

    def _log_p(self, wrapped: Packed) -> Floats:
        """Return ln P of every wrapped position given what stands before it, 0 at <s>, (T,)."""
        tokens = wrapped.tokens
        first = tokens == BOS
        p = np.full(tokens.size, 1 / self.symbols)
        # positions whose context of order n - 1 was seen in training, and that context; fewer from order to order
        at, context = np.arange(tokens.size), np.zeros(tokens.size, dtype=np.int64)
        for level in self.orders:
            gram = self._find(level, context, tokens[at])
            found = gram >= 0
            p[at] = np.where(found, level.p[gram], level.spare[context] * p[at])
            at, context = at[found] + 1, gram[found]
            inside = ~np.append(first, True)[at]
            at, context = at[inside], context[inside]
        p[first] = 1.0
        log_p: Floats = np.log(p)
        return log_p

    def _find(self, level: NgramOrder, context: Ints, token: Ints) -> Ints:
        """Index of the n-gram (context, token), -1 where it or its context was never seen, (P,)."""
        if level.spare.size == 1:  # the unigrams fit a table
            table = np.full(self.width, -1)
            table[level.key] = np.arange(level.key.size)
            return np.where(context >= 0, table[token], -1)
        # in sorted order the search walks through memory: measured three times as fast for a million keys
        key = np.where(context >= 0, context * self.width + token + 1, 0)
        key, order = stable_sort(key, level.spare.size * self.width + 1)
        key -= 1
        place = np.minimum(np.searchsorted(level.key, key), level.key.size - 1)
        found = np.empty_like(place)
        found[order] = np.where(level.key[place] == key, place, -1)
        return found

    def sample(self, count: int, seed: int, *, max_tokens: int = 200) -> list[list[Hashable]]:
        """Draw `count` sentences as token lists; text k is a function of the model, seed and k alone.

        A sentence that has not ended after `max_tokens` is cut. The unknown token is never drawn.
        Raises ValueError for count or max_tokens < 1.
        """
        if count < 1 or max_tokens < 1:
            raise ValueError(f"count and max_tokens must be >= 1, got {count} and {max_tokens}")
        rows = np.arange(count)
        keys = _mix(_mix(np.full(count, seed, dtype=np.int64)) ^ rows.astype(np.uint64))
        drawn: list[tuple[Ints, Ints]] = []
        # gram of order n that ends the text so far, for n = 0 .. depth - 1; -1 where training never had it
        depth = len(self.orders)
        history = np.full((count, depth), -1, dtype=np.int64)
        history[:, 0] = 0
        if depth > 1:
            history[:, 1] = self._find(self.orders[0], np.zeros(1, dtype=np.int64), np.array([BOS]))[0]
        for step in range(max_tokens):
            token = self._draw(history, keys[rows], step)
            going = token != EOS
            rows, token, history = rows[going], token[going], history[going]
            if not rows.size:
                break
            drawn.append((rows, token))
            longer = np.zeros_like(history)
            for n in range(1, depth):
                longer[:, n] = self._find(self.orders[n - 1], history[:, n - 1], token)
            history = longer
        if not drawn:
            return [[] for _ in range(count)]
        row, token = (np.concatenate(column) for column in zip(*drawn, strict=True))
        in_order = np.argsort(row, kind="stable")
        return self.known.decode(Packed(token[in_order] - FIRST, np.bincount(row, minlength=count)))

    def _draw(self, history: Ints, keys: npt.NDArray[np.uint64], step: int) -> Ints:
        """Draw a token per row down the orders: stay with the discounted mass, else go to the order below."""
        token = np.full(len(history), -1, dtype=np.int64)
        for n in range(len(self.orders), 0, -1):
            level, (start, mass) = self.orders[n - 1], self._own[n - 1]
            context = history[:, n - 1]
            open_rows = np.flatnonzero((token < 0) & (context >= 0))
            at = context[open_rows]
            u = _uniform(keys[open_rows], step * (self.order + 1) + n)
            spare = level.spare[at]
            stay = u >= spare
            rows, at, spare = open_rows[stay], at[stay], spare[stay]
            inside = (u[stay] - spare) / (1 - spare)
            low, high = mass[start[at]], mass[start[at + 1]]
            gram = np.searchsorted(mass, low + inside * (high - low), side="right") - 1
            # a sum rounded up to the end of the context's mass would fall into the next context
            gram = np.clip(gram, start[at], start[at + 1] - 1)
            token[rows] = level.key[gram] % self.width
        rest = np.flatnonzero(token < 0)
        # evenly over </s> and the training tokens: the same share the unigrams give to unseen symbols
        evenly = (_uniform(keys[rest], step * (self.order + 1)) * (self.symbols - 1)).astype(np.int64)
        token[rest] = np.where(evenly == 0, EOS, evenly - 1 + FIRST)
        return token

    @cached_property
    def _own(self) -> list[tuple[Ints, Floats]]:
        """First n-gram of each context, (C + 1,), and the running sum of own mass, (G + 1,), of each order.

        For sampling. Own mass is what P has beyond the share of the order below. ValueError for a model from an ARPA
        file where that is negative: it backs off without interpolation.
        """
        made: list[tuple[Ints, Floats]] = []
        below, suffix = np.full(1, 1 / self.symbols), np.zeros(1, dtype=np.int64)
        for n, level in enumerate(self.orders, 1):
            context, token = np.divmod(level.key, self.width)
            suffix = self._find(self.orders[n - 2], suffix[context], token) if n > 1 else np.zeros_like(token)
            own = level.p - level.spare[context] * below[suffix]
            own[token == BOS] = 0.0
            if (suffix < 0).any() or (own < -1e-6).any():
                raise ValueError("sampling needs an interpolated model; this one backs off without interpolation")
            start = np.searchsorted(level.key, np.arange(level.spare.size + 1) * self.width)
            made.append((start, np.concatenate([[0.0], np.cumsum(np.maximum(own, 0.0))])))
            below = level.p
        return made

    def write_arpa(self, path: str | os.PathLike[str], names: Sequence[str] | None = None) -> None:
        """Write the model as an ARPA file, which appears whole: log10 P and log10 of the mass to the order below.

        `names` are how `Packed` ids are spelt, by id; the ids themselves unless given. ValueError for a token that is
        empty, holds white space, is spelt as another one, or is <s>, </s> or <unk>, which the format keeps for itself.
        """
        tokens = self.known.decode(Packed(np.arange(self.known.size), np.array([self.known.size])))[0]
        spelt = [str(token) if names is None else names[int(str(token))] for token in tokens]
        for word in spelt:
            if word in _NAMES or not word or set(word) & _BREAKS:
                raise ValueError(f"an ARPA file cannot hold the token {word!r}; train on text cut into other tokens")
        if len(set(spelt)) < len(spelt):
            raise ValueError("an ARPA file cannot hold two tokens of one spelling; give every token a name of its own")
        target = Path(path)
        beside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            with beside.open("w", encoding="utf-8", newline="\n") as file:
                file.writelines(self._arpa([*_NAMES, *spelt]))
            beside.replace(target)
        finally:
            beside.unlink(missing_ok=True)

    def _arpa(self, words: list[str]) -> Iterator[str]:
        """Yield pieces of the ARPA file, `words` by the ids inside the model."""
        unknown = 0 if (self.orders[0].key == UNKNOWN).any() else 1  # it has a share of the unigrams' mass only
        sizes = [level.key.size + (unknown if n == 0 else 0) for n, level in enumerate(self.orders)]
        yield "\\data\\\n" + "".join(f"ngram {n}={size}\n" for n, size in enumerate(sizes, 1))
        grams = [""]
        for n, level in enumerate(self.orders, 1):
            yield f"\n\\{n}-grams:\n"
            if n == 1 and unknown:
                yield f"{math.log10(level.spare[0] / self.symbols):.10g}\t<unk>\n"
            context, token = np.divmod(level.key, self.width)
            log_p = [f"{x:.10g}" for x in np.log10(np.maximum(level.p, 1e-99)).tolist()]
            grams = [grams[c] + words[t] for c, t in zip(context.tolist(), token.tolist(), strict=True)]
            backoff = [""] * len(grams)
            if n < len(self.orders):
                spare = self.orders[n].spare.tolist()
                # 0: nothing follows </s>
                backoff = [f"\t{math.log10(share):.10g}" if share else "" for share in spare]
            yield from map("{}\t{}{}\n".format, log_p, grams, backoff)
            grams = [gram + " " for gram in grams]
        yield "\n\\end\\\n"

    @classmethod
    def read_arpa(cls, path: str | os.PathLike[str]) -> KneserNey:
        """Read the back-off model in an ARPA file, of any program; its tokens are strings.

        ValueError names the file and what is wrong with it.
        """
        model = cls.__new__(cls)
        model.orders, model.discounts = [], []
        ids = dict(_NAMES)
        spare = np.zeros(1)
        for n, (grams, p, backoff) in enumerate(_arpa_sections(Path(path)), 1):
            if n == 1:
                words = [word for (word,) in grams if word not in _NAMES]
                model.known = KnownTokens([words], "model's tokens")
                ids |= zip(words, range(FIRST, FIRST + len(words)), strict=True)
                model.symbols, model.width = len(words) + 2, len(words) + FIRST
                # no <unk>: all but impossible, as KenLM has it
                unknown = [at for at, (word,) in enumerate(grams) if word == "<unk>"]
                spare = np.array([(p[unknown[0]] if unknown else 1e-100) * model.symbols])
            try:
                table = np.array([[ids[word] for word in gram] for gram in grams], dtype=np.int64).reshape(-1, n)
            except KeyError as error:
                raise ValueError(f"{path}: the {n}-grams hold {error}, which is not among the 1-grams") from None
            context = np.zeros(len(table), dtype=np.int64)
            for below, token in zip(model.orders, table.T, strict=False):
                context = model._find(below, context, token)
            if (context < 0).any():
                gram = " ".join(grams[int(np.argmin(context))][:-1])
                raise ValueError(f"{path}: {gram!r} begins {n}-grams and is not among the {n - 1}-grams")
            key = context * model.width + table[:, -1]
            order = np.argsort(key)
            model.orders.append(NgramOrder(key[order], p[order], spare))
            spare = backoff[order]
        model.order = len(model.orders)
        return model


def _discounts(count: Ints) -> tuple[float, ...]:
    """Return 0, D1, D2 and D3+ of an order with these counts; see the head of the file."""
    n1, n2, n3, n4 = (int((count == j).sum()) for j in (1, 2, 3, 4))
    if not n1 or not n2 or not n3:
        return _FALLBACK
    y = n1 / (n1 + 2 * n2)
    found = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
    # at 0 a context of such counts alone would leave nothing for what it never had after it
    return (0.0, *found) if all(0 < d <= j for j, d in enumerate(found, 1)) else _FALLBACK


def _arpa_sections(path: Path) -> Iterator[tuple[list[list[str]], Floats, Floats]]:
    """Yield the n-grams of each order in an ARPA file, their P and the back-off weight (1 where none is given)."""
    n, grams, log_p, backoff = 0, list[list[str]](), list[float](), list[float]()
    with path.open(encoding="utf-8", newline="\n") as file:
        for number, line in enumerate(file, 1):
            fields = line.strip("\r\n\t ").replace("\t", " ").split(" ")
            if fields[0] in (f"\\{n + 1}-grams:", "\\end\\"):
                if n:
                    yield grams, np.power(10.0, log_p), np.power(10.0, backoff)
                if fields[0] == "\\end\\" and n:
                    return
                n, grams, log_p, backoff = n + 1, [], [], []
            elif n and fields[0]:
                try:
                    log_p.append(float(fields[0]))
                    backoff.append(float(fields[n + 1]) if len(fields) > n + 1 else 0.0)
                    if len(fields) not in (n + 1, n + 2):
                        raise ValueError
                except ValueError:
                    raise ValueError(
                        f"{path}, line {number}: expected log10 P, {n} tokens and perhaps a back-off weight, "
                        f"got {line.strip()!r:.80}"
                    ) from None
                grams.append(fields[1 : n + 1])
    raise ValueError(
        f"{path}: no ARPA file, or one cut off: expected \\\\data\\\\, sections and \\\\end\\\\ at its end"
    )


def _mix(value: npt.NDArray[np.int64] | npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Apply the finalizer of splitmix64 (Steele et al. 2014): neighbouring inputs, unrelated outputs."""
    x = value.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _uniform(keys: npt.NDArray[np.uint64], counter: int) -> Floats:
    """Number `counter` of each key's stream, in [0, 1), 53 bits."""
    bits = _mix(keys ^ _mix(np.full(keys.size, counter, dtype=np.int64))) >> np.uint64(11)
    return bits.astype(np.float64) * 2.0**-53
