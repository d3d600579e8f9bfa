"""From lines to tokens: the tokenizers that published scores were made with, by name.

`split`   white space, as the text files of the GAN papers come
`nltk`    Penn Treebank rules, `word_tokenize(line, preserve_line=True)`: no sentence splitter, so no downloaded data
`13a`     mteval-v13a, equal to sacrebleu's
`zh`      Chinese characters one by one, the rest as 13a, equal to sacrebleu's
`char`    every character except white space
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Sequence
from typing import TypeAlias

from seqgen.metrics.ngrams import Packed, Sentences, Tokens

Tokenizer: TypeAlias = str | Callable[[str], Sequence[Hashable]]
Text: TypeAlias = Sequence[str] | Sentences

NAMES = ("split", "nltk", "13a", "zh", "char")


def tokenizer_name(tokenizer: Tokenizer) -> str:
    """The word a signature uses for the tokenizer: its name, or the qualified name of a callable."""
    if isinstance(tokenizer, str):
        return tokenizer
    return str(getattr(tokenizer, "__qualname__", type(tokenizer).__qualname__))


def tokenize(lines: Sequence[str], tokenizer: Tokenizer = "split") -> list[Sequence[Hashable]]:
    """One token list per line. Raises ValueError for an unknown name, TypeError for a bare string or a line that is none."""
    if isinstance(lines, str):
        raise TypeError(f"lines must be a list of str, got one str of {len(lines)} characters; split it into lines")
    for i, line in enumerate(lines):
        if not isinstance(line, str):
            raise TypeError(f"line {i}: must be a str, got {type(line).__name__}")
    if not isinstance(tokenizer, str):
        return [tokenizer(line) for line in lines]
    match tokenizer:
        case "split":
            return [line.split() for line in lines]
        case "nltk":
            # late and by name: nltk takes half a second to import, and only the protocols that ask for its words need it
            from nltk.tokenize import word_tokenize

            return [word_tokenize(line, preserve_line=True) for line in lines]
        case "13a":
            return [tokens_13a(line) for line in lines]
        case "zh":
            return [tokens_zh(line) for line in lines]
        case "char":
            return [list("".join(line.split())) for line in lines]
    raise ValueError(
        f"unknown tokenizer {tokenizer!r}; known: {', '.join(NAMES)}, or a callable from str to a list of tokens"
    )


# mteval-v13a: ASCII punctuation other than ' , - . always stands alone; period and comma do unless a digit is on both sides
# of them, and a dash does after a digit.
_PUNCTUATION = re.compile(r"([{|}~\[\\\]^_` !\"#$%&()*+:;<=>?@/])")
_STOP_AFTER_TEXT = re.compile(r"([^0-9])([.,])")
_STOP_BEFORE_TEXT = re.compile(r"([.,])([^0-9])")
_DASH_AFTER_DIGIT = re.compile(r"([0-9])(-)")
_ENTITIES = (("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"))


def _western(line: str) -> list[str]:
    line = _PUNCTUATION.sub(r" \1 ", line)
    line = _STOP_AFTER_TEXT.sub(r"\1 \2 ", line)
    line = _STOP_BEFORE_TEXT.sub(r" \1 \2", line)
    return _DASH_AFTER_DIGIT.sub(r"\1 \2 ", line).split()


def tokens_13a(line: str) -> list[str]:
    """Tokens of one line by the rules of mteval-v13a."""
    line = line.rstrip().replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    if "&" in line:
        for entity, character in _ENTITIES:
            line = line.replace(entity, character)
    return _western(f" {line} ")


# Symbols, CJK radicals, punctuation, strokes, syllables and ideographs. The first range looks odd: the published list writes
# the ideographs beyond U+FFFF with four-digit escapes, so it means punctuation and arrows from U+2001 on; scores in the
# literature were computed with that, and so are ours.
_CHINESE = re.compile(
    "(["
    "\u2001-\u2a6d\u3400-\u4db5\u4e00-\u9fbb\uf900-\ufa2d\ufa30-\ufa6a\ufa70-\ufad9\uff00-\uffef"
    "\u2e80-\u2fdf\u2ff0-\u303f\u3100-\u312f\u31a0-\u31bf\u31c0-\u31ef\u3200-\u33ff\ufe10-\ufe1f\ufe30-\ufe4f"
    "])"
)


def tokens_zh(line: str) -> list[str]:
    """Tokens of one line: every Chinese character by itself, what is between them by the western rules of 13a."""
    return _western(_CHINESE.sub(r" \1 ", line.strip()))


def as_sentences(text: Text, name: str, tokenizer: Tokenizer, *, lower: bool = False) -> tuple[Sentences, str]:
    """Token lists (or the packed ids as given), and which tokens they are: the tokenizer's name, "given" or "ids".

    Lines go through `tokenizer`; token lists are left as they are, but for `lower`. Raises TypeError, naming `name` and the
    index, for a bare string, a mix of lines and token lists, anything else, and for `lower` on tokens that are no strings.
    """
    if isinstance(text, Packed):
        if lower:
            raise TypeError(f"{name}: packed ids have no case; lower the text before it is encoded")
        return text, "ids"
    if isinstance(text, str):
        raise TypeError(f"{name} must be a list of lines or of token lists, got one str; split it into lines")
    if not isinstance(text, Sequence):
        text = list(text)
    if not text:
        return [], "given"
    lines = isinstance(text[0], str)
    for i, item in enumerate(text):
        if isinstance(item, str) is not lines:
            kind = "a line (str)" if lines else "a token list"
            raise TypeError(f"{name}: item 0 is {kind}, but item {i} is {type(item).__name__}; give one kind only")
    if lines:
        chosen: list[str] = [line.lower() for line in text] if lower else list(text)  # type: ignore[union-attr,arg-type]
        return tokenize(chosen, tokenizer), tokenizer_name(tokenizer)
    tokens: Tokens = text  # type: ignore[assignment]
    if lower:
        try:
            tokens = [[token.lower() for token in sentence] for sentence in tokens]  # type: ignore[attr-defined]
        except AttributeError:
            raise TypeError(f"{name}: lower=True needs tokens that are str") from None
    return tokens, "given"
