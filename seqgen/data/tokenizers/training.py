"""A tokenizer for a text: its kind chosen, its options checked, then trained by the file of its kind."""

import logging
import re
from collections.abc import Collection
from dataclasses import replace
from itertools import islice

from seqgen.core.errors import ConfigError
from seqgen.data.tokenizers.common import naming_surrogates
from seqgen.data.tokenizers.kinds import Kind, TokenizerConfig, kinds, uses
from seqgen.data.tokenizers.protocol import Tokenizer
from seqgen.data.tokenizers.subword import given_model

_LOG = logging.getLogger("seqgen")


def train_tokenizer(config: TokenizerConfig, lines: Collection[str], *, seed: int) -> Tokenizer:
    """Return a tokenizer for the text, the same for the same lines, settings and seed on every machine.

    The lines are gone through a few times, and what is kept of them does not grow with their number. Sizes of 0 and
    the kind auto are chosen from the text; `resolved` returns what was chosen. The seed only matters for SentencePiece
    on more than 20 million characters, of which that many are drawn. DataError if the text does not support the
    vocabulary asked for, ConfigError if settings contradict each other.
    """
    kind = choose_kind(config, lines)
    _report_unused(config, kind)
    with naming_surrogates(lines):
        return given_model(config) if config.model else kinds()[kind].train(config, kind, lines, seed=seed)


def resolved(config: TokenizerConfig, tokenizer: Tokenizer) -> TokenizerConfig:
    """Return the settings with what was chosen in the place of auto and 0."""
    kind = tokenizer.kind if tokenizer.kind in kinds() else config.kind
    return replace(config, kind=kind, vocab_size=tokenizer.vocab_size)


def choose_kind(config: TokenizerConfig, lines: Collection[str]) -> Kind:
    """Return the kind, auto replaced: word for tokenised text, char for text with hardly any spaces, else bpe.

    Looks at up to 5,000 lines spread over the text. Text counts as tokenised if nearly all of its punctuation stands
    alone, or if it has none and its words recur often.
    """
    if config.pattern and config.words == "nltk":
        raise ConfigError("tokenizer.pattern and tokenizer.words = nltk both cut words; give one")
    if config.pattern or config.words == "nltk":
        given, option = ("tokenizer.pattern", "pattern") if config.pattern else ("tokenizer.words = nltk", "words")
        if (config.kind != "auto" and not uses(config.kind, option)) or config.model:
            other = "tokenizer.model" if config.model else f"tokenizer.kind = {config.kind}"
            raise ConfigError(f"{given} makes words, but {other} is given; leave one out")
        return "word" if config.kind == "auto" else config.kind
    if config.kind != "auto" or config.model:
        return config.kind
    sample = [line for line in islice(lines, 0, None, max(1, len(lines) // 5000)) if line.strip()]
    text = "\n".join(sample)
    spaces = sum(map(text.count, " \t\u3000"))
    if spaces < 0.02 * len(text):
        return "char"
    words = text.split()
    punctuation = len(re.findall(_PUNCTUATION, text))
    if punctuation >= 0.01 * len(words):
        alone = sum(re.fullmatch(_PUNCTUATION, word) is not None for word in words)
        return "word" if alone >= 0.9 * punctuation else "bpe"
    return "word" if len(words) >= 5 * len(set(words)) else "bpe"


_PUNCTUATION = "[.,;:!?\u3002\uff0c\uff1b\uff1a\uff01\uff1f\u3001]"


def _report_unused(config: TokenizerConfig, kind: str) -> None:
    """Warn of settings that take no effect with this kind."""
    given = {
        "vocab_size": config.vocab_size > 0,
        "min_count": config.min_count > 0,
        "symbols": bool(config.symbols),
        "exact": config.exact == "word",
        "lowercase": config.lowercase,
    }
    of_model = kind if kind in kinds() else "unigram"  # a given model may be of any type
    for name, is_given in given.items():
        takes_effect = name in ("exact", "lowercase") or not config.model
        if is_given and not (takes_effect and uses(of_model, name)):
            because = "with a given tokenizer.model" if config.model else f"with tokenizer.kind = {kind}"
            _LOG.warning("tokenizer.%s takes no effect %s", name, because)
