"""Texts with gaps as rows of tokens: every [MASK] is one token of the run, a word or a character."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from seqgen.core.errors import DataError, RunError
from seqgen.data.tokenizers import Tokenizer
from seqgen.data.tokenizers.word import WordTokenizer
from seqgen.engine.run import Settings
from seqgen.nn.automaton import GAP

MASK = "[MASK]"


@dataclass(frozen=True)
class Filled:
    """A text whose gaps were filled, and how likely the fillings were."""

    text: str
    given: str
    """The text with its gaps."""
    index: int
    """k: the filling is a function of (weights, options, seed, given, k)."""
    words: list[str]
    """What was filled in, gap by gap."""
    log_probs: list[float]
    """Log-probability of each under the model itself, nats, given what it saw then: the text before the gap, or of a
    run of masked all that stood in the text when its turn came."""


def rows(tokenizer: Tokenizer, settings: Settings, texts: Sequence[str], longest: int) -> list[list[int]]:
    """Return the tokens of every text, `GAP` for each of its gaps; at most `longest`, 0: any number.

    DataError for texts without a gap, too long, or with words it does not know, RunError for a run
    whose tokens are parts of words and for one with conditions.
    """
    if tokenizer.kind not in ("word", "char"):
        raise RunError(
            f"{MASK} stands for a word or a character, and this run's tokens are parts of them (tokenizer.kind = "
            f"{tokenizer.kind}); train with tokenizer.kind=word or char"
        )
    if settings.data.source:
        raise RunError(f"this run answers conditions (data.source = {settings.data.source}); gaps are filled without")
    found = []
    for number, text in enumerate(texts, 1):
        if MASK not in text:
            raise DataError(f"text {number} has no gap: {text!r:.80}; write {MASK} for each token to be filled in")
        parts = text.split(MASK)
        joined = isinstance(tokenizer, WordTokenizer) and tokenizer.joiner
        touching = any(
            (a[-1:] + b[:1]).strip() and (a[-1:].isalnum() or b[:1].isalnum()) for a, b in itertools.pairwise(parts)
        )
        if joined and touching:
            raise DataError(f"text {number}: {MASK} stands for a whole word of this run; put spaces around it")
        if unknown := [word for part in parts for word in tokenizer.unknown(part)]:
            raise DataError(
                f"text {number} holds {', '.join(map(repr, unknown[:5]))}, which this run's vocabulary of "
                f"{tokenizer.vocab_size} does not; use words or characters of its training text"
            )
        first, *others = [row.tolist() for row in tokenizer.encode(parts)]
        found.append([*first, *(token for row in others for token in (GAP, *row))])
        if 0 < longest < len(found[-1]):
            raise DataError(
                f"text {number} has {len(found[-1])} tokens, and this run knows texts of at most {longest}; shorten "
                "it, or train with a higher model.context"
            )
    return found
