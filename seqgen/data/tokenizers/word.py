"""Words: cut at white space, by nltk's Treebank-style tokenizer, or as the matches of a pattern."""

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from torch import Tensor

from seqgen.core.errors import DataError
from seqgen.core.patterns import Expression
from seqgen.data.ragged import Ragged
from seqgen.data.tokenizers.common import (
    checked_rows,
    described,
    encode_as_lines,
    fingerprint_of,
    frequent,
    lines_to_stream,
    load_symbols,
    lowered,
    naming_surrogates,
    prepared,
    save_files,
    stream_to_lines,
    token_of,
)
from seqgen.data.tokenizers.protocol import BOS, EOS, FIRST, PAD, SEP, SPECIALS, UNK
from seqgen.data.tokenizers.wordtable import Learnt, SurfaceTable, WordTable

if TYPE_CHECKING:
    from seqgen.data.tokenizers.kinds import TokenizerConfig

KINDS = {"word": ("vocab_size", "min_count", "words", "pattern", "lowercase", "symbols")}

_LOG = logging.getLogger("seqgen")

_MOST_COUNTED = 1 << 21
"""Different words that are counted at once."""


def train(config: "TokenizerConfig", kind: str, lines: Collection[str], *, seed: int) -> "WordTokenizer":
    """Return a tokenizer of the words of the text that are frequent enough, and of `tokenizer.symbols`."""
    joiner = " "
    if config.pattern:
        joiner = _joiner(_compiled(config.pattern), lowered(lines, config.lowercase))
    cut = word_cutter(config.words, config.pattern, keep_gaps=False)
    counts: Counter[str] = Counter()
    least = 0
    for line in lowered(lines, config.lowercase):
        counts.update(cut(line))
        if len(counts) > _MOST_COUNTED:
            # Of so many words the rarest get no id, and their counts are given up for the memory.
            least = _halved(counts, least)
    if least:
        _LOG.warning("over %d different words; those counted up to %d times were forgotten", _MOST_COUNTED, least)
    counts.pop(SPECIALS[UNK], None)
    if not counts:
        raise DataError(f"tokenizer.pattern = {config.pattern!r} matches nothing in the text")
    symbols = frequent(counts, config, "words", rare=0)
    return WordTokenizer(symbols, words=config.words, pattern=config.pattern, joiner=joiner, lowercase=config.lowercase)


def load(stored: dict[str, Any], folder: Path) -> "WordTokenizer":
    """Return a saved tokenizer."""
    options = {name: stored[name] for name in ("words", "pattern", "joiner", "lowercase")}
    return WordTokenizer(load_symbols(folder), **options)


class WordTokenizer:
    """Words: `symbols[k]` has the id k + 5. The word `<unk>` in a text is `unk` itself, as WikiText writes it.

    `joiner` stands between words in decoded text. With a pattern and the joiner "" the tokens tile the text: what the
    pattern leaves out is `unk`, so nothing vanishes silently. With the joiner " " what it leaves out is dropped.
    """

    kind = "word"
    pad, unk, bos, eos, sep = PAD, UNK, BOS, EOS, SEP
    newline = EOS

    def __init__(
        self,
        symbols: Sequence[str],
        *,
        words: Literal["split", "nltk"] = "split",
        pattern: str = "",
        joiner: str = " ",
        lowercase: bool = False,
    ) -> None:
        self.symbols = tuple(symbols)
        self.words = words
        self.pattern = pattern
        self.joiner = joiner
        self.lowercase, self.lossless = lowercase, joiner == "" and not lowercase
        self.vocab_size = FIRST + len(self.symbols)
        self._cut = word_cutter(words, pattern, keep_gaps=joiner == "")
        self._ids = {symbol: i for i, symbol in enumerate(self.symbols, FIRST)}
        self._ids[SPECIALS[UNK]] = UNK
        self.fingerprint = fingerprint_of(self._options(), *self.symbols)
        self._table = WordTable(_SplitWords(self._ids, self.fingerprint)) if self._cut is str.split else None
        spelt = [joiner + token for token in (SPECIALS[UNK], *self.symbols)]
        surfaces = ["", spelt[0], "", "", "", *spelt[1:]]
        lead = len(joiner.encode())
        self._surfaces = SurfaceTable([surface.encode() for surface in surfaces], lead=[lead] * len(surfaces))

    def __repr__(self) -> str:
        return described(self)

    def encode(self, lines: Sequence[str]) -> Ragged:
        """Return the words of every line as ids."""
        ids, cut = self._ids, self._cut
        with naming_surrogates(lines):
            lines = prepared(lines, self.lowercase)
            if self._table is not None:
                return self._table.encode_lines(lines)
            "".join(lines).encode()  # words are looked up as str, which would let surrogates through
        return Ragged.from_lists([[ids.get(word, UNK) for word in cut(line)] for line in lines])

    def decode(self, ids: Ragged | Sequence[Sequence[int]]) -> list[str]:
        """Return the words of every row, joined; `unk` is `<unk>`."""
        return self._surfaces.texts(checked_rows(ids, self.vocab_size))

    def encode_bytes(self, text: Ragged) -> Ragged:
        """Return the words of every row as ids; split at white space on the device, else row by row on the CPU."""
        if self._table is None or self.lowercase:
            return encode_as_lines(self, text)
        return self._table.encode(text)

    def decode_bytes(self, ids: Ragged) -> Ragged:
        """Return the words of every row, joined."""
        return self._surfaces.decode(ids)

    def encode_stream(self, text: str) -> Tensor:
        """Return the words of the text, every newline as eos."""
        return lines_to_stream(self, text)

    def decode_stream(self, ids: Sequence[int]) -> str:
        """Return the text of the words, every eos as a newline."""
        return stream_to_lines(self, ids)

    def id_to_token(self, i: int) -> str:
        """Return the word."""
        return token_of(i, self.symbols)

    def token_to_id(self, token: str) -> int:
        """Return the id of a word or special."""
        return SPECIALS.index(token) if token in SPECIALS else self._ids.get(token, UNK)

    def surfaces(self) -> list[str]:
        """Return the words, each with the joiner before it."""
        return [""] * FIRST + [self.joiner + symbol for symbol in self.symbols]

    def unknown(self, line: str) -> list[str]:
        """Return the words outside the vocabulary."""
        return [word for word in self._cut(line.lower() if self.lowercase else line) if word not in self._ids]

    def save(self, folder: Path) -> None:
        """Write tokenizer.json and vocab.txt."""
        save_files(folder, self._options(), self.fingerprint, self.symbols)

    def _options(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "lowercase": self.lowercase,
            "words": self.words,
            "pattern": self.pattern,
            "joiner": self.joiner,
        }


class _SplitWords:
    """Words split at white space, as a word table sees them: the other kinds of white space are inside its chunks."""

    first_apart = False

    def __init__(self, ids: dict[str, int], key: str) -> None:
        self._ids = ids
        self.key = key

    def learn(self, chunks: list[bytes], first: bool) -> Learnt:
        """Return the ids of the words in every chunk, sure wherever they stand."""
        return Learnt(self.rows(chunks), np.full(len(chunks), np.inf), np.zeros(len(chunks)))

    def rows(self, rows: Sequence[str | bytes]) -> list[list[int]]:
        """Return the ids of the words in every row."""
        get = self._ids.get
        texts = (row.decode(errors="replace") if isinstance(row, bytes) else row for row in rows)
        return [[get(word, UNK) for word in text.split()] for text in texts]


def word_cutter(words: str, pattern: str, *, keep_gaps: bool) -> Callable[[str], list[str]]:
    """Return a function that cuts a line into words: by white space, by nltk, or into the matches of a pattern.

    The word `<unk>` stays whole. `keep_gaps` makes what lies between two matches a word too. nltk's is
    `NLTKWordTokenizer`, which needs no downloaded data; the line is taken as one sentence, so only its last full stop
    is cut off.
    """
    unknown = SPECIALS[UNK]
    if pattern:
        compiled = _compiled(pattern)

        def matches(line: str) -> list[str]:
            first, *others = [_matches(compiled, part, keep_gaps) for part in line.split(unknown)]
            return first + [word for part in others for word in (unknown, *part)]

        return matches
    if words == "nltk":
        from nltk.tokenize import NLTKWordTokenizer

        tokenize: Callable[[str], list[str]] = NLTKWordTokenizer().tokenize

        def tokens(line: str) -> list[str]:
            found = tokenize(line)
            if unknown in line:  # nltk cuts the brackets off
                for i in reversed(range(len(found) - 2)):
                    if found[i : i + 3] == ["<", "unk", ">"]:
                        found[i : i + 3] = [unknown]
            return found

        return tokens
    return str.split


def _compiled(pattern: str) -> Expression:
    return Expression(pattern, f"tokenizer.pattern = {pattern!r}")


def _matches(pattern: Expression, line: str, keep_gaps: bool) -> list[str]:
    words, end = [], 0
    for match in pattern.all(line):
        if match.start() == match.end():
            continue
        if keep_gaps and match.start() > end:
            words.append(line[end : match.start()])
        words.append(match[0])
        end = match.end()
    if keep_gaps and end < len(line):
        words.append(line[end:])
    return words


def _joiner(pattern: Expression, lines: Iterable[str]) -> str:
    """Return "" where the matches tile the lines, " " where white space stands between them."""
    gaps: Counter[str] = Counter()
    for line in lines:
        if sum(map(len, _matches(pattern, line, keep_gaps=False))) < len(line):
            gaps.update(set(_matches(pattern, line, keep_gaps=True)) - set(_matches(pattern, line, keep_gaps=False)))
            if len(gaps) > _MOST_COUNTED:
                _halved(gaps, 0)
    if any(any(map(str.isspace, gap)) for gap in gaps):
        return " "
    if gaps:
        gap, count = gaps.most_common(1)[0]
        _LOG.warning(
            "tokenizer.pattern does not match all of the text: %d different parts become unk, most often %r (%d lines)",
            len(gaps),
            gap,
            count,
        )
    return ""


def _halved(counts: Counter[str], least: int) -> int:
    """Forget the rarest words until half the room is free; returns the count up to which they were forgotten."""
    while len(counts) > _MOST_COUNTED // 2:
        least += 1
        for word in [word for word, count in counts.items() if count <= least]:
            del counts[word]
    return least
