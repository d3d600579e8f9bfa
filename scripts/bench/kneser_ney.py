"""A Kneser-Ney 5-gram model against the plain way: Python dictionaries of tuples.

Half a million tokens of training text, 20,000 words of unequal frequency, and a million tokens to score. The
plain way fits by counters and scores token by token, one look-up of the context and one of the n-gram an order.
Run: scripts/bench.py kneser-ney
"""

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
from measure import cpu_seconds, ratios, row

from seqgen.metrics import KneserNey

ORDER, WORDS = 5, 20_000
Gram = tuple[int, ...]


class Plain:
    """Interpolated modified Kneser-Ney (Chen and Goodman 1999, equations 21 to 26); <s> is -1 and </s> is -2."""

    def __init__(self, sentences: list[list[int]]) -> None:
        wrapped = [[-1, *sentence, -2] for sentence in sentences]
        counts = [Counter(tuple(s[i : i + n]) for s in wrapped for i in range(len(s) - n + 1)) for n in range(1, 6)]
        for lower, upper in zip(counts, list(counts[1:]), strict=False):
            left = Counter(gram[1:] for gram in upper)
            lower.update({gram: left[gram] - lower[gram] for gram in lower if gram[0] != -1})
        del counts[0][(-1,)]
        self.uniform = 1 / (len(counts[0]) + 1)  # </s> is among them, the unknown token is not
        self.own: list[dict[Gram, float]] = []
        self.spare: list[dict[Gram, float]] = []
        for table in counts:
            n1, n2, n3, n4 = (list(table.values()).count(j) for j in (1, 2, 3, 4))
            discount = [0.0, 0.5, 1.0, 1.5]
            if n1 and n2 and n3:
                y = n1 / (n1 + 2 * n2)
                found = [0.0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3]
                discount = found if min(found[1:]) > 0 else discount
            total, freed = Counter[Gram](), dict[Gram, float]()
            for gram, count in table.items():
                total[gram[:-1]] += count
                freed[gram[:-1]] = freed.get(gram[:-1], 0.0) + discount[min(count, 3)]
            self.own.append({g: (count - discount[min(count, 3)]) / total[g[:-1]] for g, count in table.items()})
            self.spare.append({context: mass / total[context] for context, mass in freed.items()})

    def log_probability(self, sentences: list[list[int]]) -> list[float]:
        """ln P of every sentence, its end counted."""
        return [self._sentence((-1, *sentence, -2)) for sentence in sentences]

    def _sentence(self, tokens: Gram) -> float:
        log_p = 0.0
        for i in range(1, len(tokens)):
            p = self.uniform
            for n in range(min(ORDER, i + 1)):
                share = self.spare[n].get(tokens[i - n : i])
                if share is None:
                    break
                p = self.own[n].get(tokens[i - n : i + 1], 0.0) + share * p
            log_p += math.log(p)
        return log_p


def text(seed: int, lines: int) -> list[list[int]]:
    random = np.random.default_rng(seed)
    made = []
    for length in random.integers(5, 20, lines).tolist():
        words = (WORDS * random.random(length) ** 4).astype(int)
        # in six places of ten one of three words that often follow the one before
        follow, which = random.random(length) < 0.6, random.integers(0, 3, length)
        for i in np.flatnonzero(follow[1:]).tolist():
            words[i + 1] = (words[i] * 7919 + which[i]) % WORDS
        made.append(words.tolist())
    return made


def rows(quick: bool) -> Iterator[dict[str, Any]]:
    """How many times faster fitting and scoring are; the gate wants the same log-probabilities."""
    lines = 8_000 if quick else 83_600
    train, scored = text(1, lines // 2), text(2, lines)
    tokens, learnt = (sum(map(len, sentences)) for sentences in (scored, train))
    plain, ours = Plain(train), KneserNey(train, ORDER)
    wanted, got = np.array(plain.log_probability(scored)), ours.log_probability(scored)
    gate = "ok" if np.abs(wanted - got).max() < 1e-9 else f"a line differs by {np.abs(wanted - got).max():.2g} nats"
    spent = {"cpu_s": round(cpu_seconds(lambda: ours.log_probability(scored)), 2)}
    values = ratios(lambda: plain.log_probability(scored), lambda: ours.log_probability(scored), rounds=3)
    yield row("kneser-ney", f"probabilities of {tokens:,} tokens", values, 10.0, gate) | spent
    values = ratios(lambda: Plain(train), lambda: KneserNey(train, ORDER), rounds=1 if quick else 3)
    yield row("kneser-ney", f"fitting to {learnt:,} tokens", values, 10.0, gate)


BENCHES = {"kneser-ney": rows}
