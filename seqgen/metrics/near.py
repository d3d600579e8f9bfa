"""Near-duplicates: texts whose sets of token pairs are alike (Jaccard), found exactly and without comparing all pairs.

Two sets with a Jaccard similarity of t share one of the first |x| - ceil(t |x|) + 1 elements of each when both are
sorted alike; sorted by rarity, those are in few other sets (prefix filtering: Chaudhuri et al. 2006; Bayardo et al.
2007).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import TypeAlias

from seqgen.metrics.tokens import Tokenizer, tokenize

Pairs: TypeAlias = frozenset[tuple[Hashable, Hashable]]


def pairs_of(tokens: Sequence[Hashable]) -> Pairs:
    """Return the pairs of neighbouring tokens, the two ends of the text counted as tokens."""
    return frozenset(zip((None, *tokens), (*tokens, None), strict=True))


def near_duplicates(
    lines: Sequence[str], threshold: float, *, others: Sequence[str] = (), tokenizer: Tokenizer = "split"
) -> list[int | None]:
    """Return for each line the text it nearly repeats, None where there is none.

    A number n >= 0 is an earlier line that repeats none itself, -1 - n is line n of `others`. `threshold` is the least
    Jaccard similarity of the pairs of tokens. ValueError where that is not above 0 and at most 1.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must be above 0 and at most 1, got {threshold:g}")
    sets = [pairs_of(tokens) for tokens in tokenize([*others, *lines], tokenizer)]
    counts = Counter(pair for one in sets for pair in one)
    # equal counts need one order for all texts; the place in the table is one, and depends on the texts alone
    place = {pair: (count, number) for number, (pair, count) in enumerate(counts.items())}
    holding: dict[tuple[Hashable, Hashable], list[int]] = {}
    found: list[int | None] = []
    for i, own in enumerate(sets):
        prefix = sorted(own, key=place.__getitem__)[: len(own) - math.ceil(threshold * len(own) - 1e-9) + 1]
        line = i - len(others)
        near = None
        if line >= 0:
            candidates = sorted({j for pair in prefix for j in holding.get(pair, ())})
            near = next((j for j in candidates if jaccard(own, sets[j]) >= threshold - 1e-9), None)
            found.append(None if near is None else near - len(others) if near >= len(others) else -1 - near)
        if near is None:
            for pair in prefix:
                holding.setdefault(pair, []).append(i)
    return found


def jaccard(a: Pairs, b: Pairs) -> float:
    """Return the Jaccard similarity of two sets, 1 for two empty ones."""
    shared = len(a & b)
    either = len(a) + len(b) - shared
    return shared / either if either else 1.0
