"""Text made cleaner: which lines break a rule, repeat others, or are unlikely under a run; in this order."""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

from seqgen.engine.evaluate import metric_tokenizer
from seqgen.engine.generate import TextGenerator
from seqgen.metrics.domains import DOMAINS
from seqgen.metrics.near import near_duplicates

Rank: TypeAlias = Literal["token", "line", "worst"]
"""What a line is judged by: nats per token, nats of the line, or its least likely token."""

_HELD_OUT = 2000
"""Held-out lines of a run that lines are compared with, at most."""


def repeated(
    lines: Sequence[str],
    *,
    rule: str = "",
    duplicates: bool = False,
    near: float = 0.0,
    against: Sequence[str] = (),
    numbers: Sequence[int] = (),
) -> dict[int, str]:
    """Return why lines are dropped, by their index: those that break a rule, or repeat others.

    `rule` is the name of a domain (`seqgen.metrics.domains`). A line repeats an earlier one, or one of `against`, if it
    is equal but for white space at the ends, or with `near` > 0 if their similarity is at least that
    (`seqgen.metrics.near`). `numbers` are what lines are called, from 1 unless given. ValueError for an unknown rule.
    """
    if rule and rule not in DOMAINS:
        raise ValueError(f"unknown rule {rule!r}; known: {', '.join(DOMAINS)}")
    names = numbers or range(1, len(lines) + 1)
    others, first = {text.strip() for text in against}, dict[str, int]()
    reasons: dict[int, str] = {}
    for i, text in enumerate(line.strip() for line in lines):
        if rule and not DOMAINS[rule][1](text):
            reasons[i] = f"invalid: the rule {rule} does not hold"
        elif text in others:
            reasons[i] = "stands in the other file"
        elif duplicates and first.setdefault(text, i) != i:
            reasons[i] = f"equals line {names[first[text]]}"
    if near:
        rest = [i for i in range(len(lines)) if i not in reasons]
        tokenizer = metric_tokenizer(lines)
        found = near_duplicates([lines[i] for i in rest], near, others=against, tokenizer=tokenizer)
        for i, other in zip(rest, found, strict=True):
            if other is not None:
                reasons[i] = f"nearly line {names[rest[other]]}" if other >= 0 else "nearly in the other file"
    return reasons


def unlikely(
    generator: TextGenerator,
    lines: Sequence[str],
    sources: Sequence[str] | None = None,
    *,
    rank: Rank = "worst",
    count: Callable[[int], int] | None = None,
    percentile: float = 0.0,
) -> dict[int, str]:
    """Return why lines are dropped as unlikely under a run, by their index.

    `count` says how many of so many lines are: the least likely ones. `percentile` drops lines less likely than all
    but so many per cent of the run's own held-out lines. DataError where those are not at hand.
    """
    values = _judged(generator, lines, sources, rank)
    reasons: dict[int, str] = {}
    if percentile:
        text = generator.own_text()
        known_sources = None if text.valid_sources is None else text.valid_sources[:_HELD_OUT]
        known = sorted(_judged(generator, text.valid_lines[:_HELD_OUT], known_sources, rank))
        for i, value in enumerate(values):
            share = 100 * bisect_left(known, value) / len(known)
            if share < percentile:
                reasons[i] = f"unlikely: {value:.2f}, percentile {share:.1f}"
    if count is not None:
        order = sorted(range(len(lines)), key=values.__getitem__)
        reasons = {i: f"unlikely: {values[i]:.2f}" for i in order[: count(len(lines))]} | reasons
    return reasons


def _judged(generator: TextGenerator, lines: Sequence[str], sources: Sequence[str] | None, rank: Rank) -> list[float]:
    """Return what lines are sorted by, the worst the lowest."""
    scores = generator.score(lines, sources)
    if rank == "line":
        return scores.per_line
    return [min(row) if rank == "worst" else sum(row) / len(row) for row in scores.log_probs]
