"""From lines to tokens: the tokenizers that published scores were made with, by name.

`split`   white space, as the text files of the GAN papers come
`nltk`    Penn Treebank rules, `word_tokenize(line, preserve_line=True)`: no sentence splitter, so no downloaded data
`13a`     mteval-v13a, equal to sacrebleu's
`zh`      Chinese characters one by one, the rest as 13a, equal to sacrebleu's
`char`    every character except white space
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import count
from typing import TypeAlias

import numpy as np

from seqgen.metrics.ngrams import Packed, Sentences, encode_with, packed

Tokenizer: TypeAlias = str | Callable[[str], Sequence[Hashable]]
Text: TypeAlias = Sequence[str] | Sentences

NAMES = ("split", "nltk", "13a", "zh", "char")


def tokenizer_name(tokenizer: Tokenizer) -> str:
    """Return the word a signature uses for the tokenizer: its name, or the qualified name of a callable."""
    if tokenizer == "nltk":
        return "nltk(preserve_line)"  # nltk's own word_tokenize splits a line into sentences first; this one does not
    if isinstance(tokenizer, str):
        return tokenizer
    return str(getattr(tokenizer, "__qualname__", type(tokenizer).__qualname__))


def tokenize(lines: Sequence[str], tokenizer: Tokenizer = "split") -> list[Sequence[Hashable]]:
    """Return one token list per line. Raises ValueError for an unknown name, TypeError for what is no list of str."""
    if isinstance(lines, str):
        raise TypeError(f"lines must be a list of str, got one str of {len(lines)} characters; split it into lines")
    for i, line in enumerate(lines):
        if not isinstance(line, str):
            raise TypeError(f"line {i}: must be a str, got {type(line).__name__}")
    return list(map(splitter(tokenizer), lines))


_ENOUGH_LINES = 20


def written_differently(samples: Sequence[str], references: Sequence[str]) -> list[str]:
    """Return why words that are cut at spaces cannot be the same in both texts, a sentence each; none if they can.

    Full stops stand apart in one text and belong to the last word in the other, or one text is in lower case.
    """

    def stops_apart(line: str) -> list[bool]:
        line = line.strip()
        return [line[-2] == " "] if len(line) > 1 and line[-1] in ".!?" else []

    def capitals(line: str) -> list[bool]:
        return [line != line.lower()] if line != line.swapcase() else []

    found = []
    for sign, what, remedy in (
        (stops_apart, "full stops apart from words", "tokenizer nltk or protocol texygen cuts both"),
        (capitals, "capitals", "lowercase or protocol texygen makes them alike"),
    ):
        seen = [[answer for line in text for answer in sign(line)] for text in (samples, references)]
        if min(map(len, seen)) >= _ENOUGH_LINES:
            ours, theirs = (sum(each) / len(each) for each in seen)
            if max(ours, theirs) > 0.5 and min(ours, theirs) < 0.05:
                shares = f"{ours:.0%} of the samples and {theirs:.0%} of the references have {what}"
                found.append(f"{shares}: cut at spaces, equal words differ; {remedy}")
    return found


def splitter(tokenizer: Tokenizer) -> Callable[[str], Sequence[Hashable]]:
    """Return the function from a line to its tokens. Raises ValueError for an unknown name, listing the known ones."""
    if not isinstance(tokenizer, str):
        return tokenizer
    match tokenizer:
        case "split":
            return str.split
        case "nltk":
            # late: nltk takes half a second to import, and only the protocols that ask for its words need it
            from nltk.tokenize import word_tokenize

            return partial(word_tokenize, preserve_line=True)
        case "13a":
            return tokens_13a
        case "zh":
            return tokens_zh
        case "char":
            return tokens_char
    raise ValueError(
        f"unknown tokenizer {tokenizer!r}; known: {', '.join(NAMES)}, or a callable from a line to its tokens"
    )


def tokens_char(line: str) -> list[str]:
    """Return the characters of one line, white space left out."""
    return list("".join(line.split()))


# mteval-v13a: ASCII punctuation other than ' , - . always stands alone; period and comma do unless a digit is on both
# sides of them, and a dash does after a digit. The published rule puts spaces around spaces too: no token changes by
# that, and it is most of the work.
_PUNCTUATION = re.compile(r"([{|}~\[\\\]^_`!\"#$%&()*+:;<=>?@/])")
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
    """Return tokens of one line by the rules of mteval-v13a."""
    line = line.rstrip().replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    if "&" in line:
        for entity, character in _ENTITIES:
            line = line.replace(entity, character)
    return _western(f" {line} ")


# Symbols, CJK radicals, punctuation, strokes, syllables and ideographs. The first range looks odd: the published list
# writes the ideographs beyond U+FFFF with four-digit escapes, so it means punctuation and arrows from U+2001 on; scores
# in the literature were computed with that, and so are ours.
_CHINESE = re.compile(
    "(["
    "\u2001-\u2a6d\u3400-\u4db5\u4e00-\u9fbb\uf900-\ufa2d\ufa30-\ufa6a\ufa70-\ufad9\uff00-\uffef"
    "\u2e80-\u2fdf\u2ff0-\u303f\u3100-\u312f\u31a0-\u31bf\u31c0-\u31ef\u3200-\u33ff\ufe10-\ufe1f\ufe30-\ufe4f"
    "])"
)


def tokens_zh(line: str) -> list[str]:
    """Return tokens of one line: every Chinese character by itself, what is between them by the rules of 13a."""
    return _western(_CHINESE.sub(r" \1 ", line.strip()))


def pack_texts(
    texts: Mapping[str, Text], tokenizer: Tokenizer = "split", *, lowercase: bool = False
) -> tuple[list[Packed], str]:
    """Return texts as `Packed` ids of one vocabulary, and what tokens are: the tokenizer's name, "given" or "ids".

    Lines go through `tokenizer`; token lists and ids are left as they are, but for `lowercase`. The keys name the texts
    in messages. Raises TypeError, with name and index, for a bare string, for lines and token lists side by side,
    and for `lowercase` on what has no case.
    """
    kinds = {name: kind_of(text, name) for name, text in texts.items()}
    found = [(name, kind) for name, kind in kinds.items() if kind]
    for name, kind in found[1:]:
        if kind != found[0][1]:
            raise TypeError(f"{found[0][0]} are {found[0][1]}, but {name} are {kind}; give both in the same form")
    kind = found[0][1] if found else "lines"
    if kind == "ids":
        if lowercase:
            raise TypeError("packed ids have no case; lower the text before it is encoded")
        empty = Packed(np.zeros(0, np.int64), np.zeros(0, np.int64))
        return packed(*(text if isinstance(text, Packed) else empty for text in texts.values()))[0], "ids"
    vocabulary: defaultdict[Hashable, int] = defaultdict(count().__next__)
    split = splitter(tokenizer)
    corpora = []
    for name, text in texts.items():
        sentences: Iterable[Sequence[Hashable]]
        if kind == "lines":
            lines: Iterable[str] = text  # type: ignore[assignment]
            sentences = map(split, map(str.lower, lines) if lowercase else lines)
        else:
            sentences = _lowered(text, name) if lowercase else text  # type: ignore[arg-type,assignment]
        corpora.append(encode_with(vocabulary.__getitem__, sentences, name))
    return corpora, tokenizer_name(tokenizer) if kind == "lines" else "given"


def kind_of(text: Text, name: str) -> str:
    """Return what a text is made of: "lines", "token lists", "ids", or "" if it is empty."""
    if isinstance(text, Packed):
        return "ids"
    if isinstance(text, str) or not isinstance(text, Sequence):
        raise TypeError(
            f"{name} must be a list of lines or of token lists, got {type(text).__name__}; split it into lines"
        )
    if not text:
        return ""
    lines = isinstance(text[0], str)
    for i, item in enumerate(text):
        if isinstance(item, str) is not lines:
            first = "a line (str)" if lines else f"a {type(text[0]).__name__}"
            raise TypeError(f"{name}: item 0 is {first}, but item {i} is a {type(item).__name__}; give one kind only")
    return "lines" if lines else "token lists"


def _lowered(sentences: Iterable[Sequence[Hashable]], name: str) -> Iterator[list[str]]:
    for i, sentence in enumerate(sentences):
        lowered = []
        for token in sentence:
            if not isinstance(token, str):
                raise TypeError(
                    f"{name}, sentence {i}: lower=True needs tokens that are str, got {type(token).__name__}"
                )
            lowered.append(token.lower())
        yield lowered
