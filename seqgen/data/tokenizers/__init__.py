"""Tokenizers: lines of text to packed ids and back. Bytes, characters, words, and SentencePiece's BPE and unigram.

Ids 0 pad, 1 unk, 2 bos, 3 eos, 4 sep stand before the symbols; a given SentencePiece model keeps its own ids, and the
specials it lacks come after its last. What a round trip `decode(encode(line))` gives back:

    byte            the line
    char            the line; characters outside the vocabulary become U+FFFD
    word, split     the words joined by single spaces; unknown words become <unk>
    word, nltk      the tokens joined by single spaces ("do n't"; double quotes become `` and '')
    word, pattern   the line, where the pattern's tokens tile the training text (joined by nothing); else the tokens
                    joined by single spaces
    bpe, unigram    the line if trained here (no normalisation, all spaces kept, unseen characters as bytes), but for
                    U+2581, SentencePiece's word marker, which becomes a space. A given model normalises as it was
                    trained to

With `lower` the line is lower-cased first. Running text goes through `encode_stream` and `decode_stream`, which keep
its line breaks with every kind. Saved as JSON and text files, never as pickles.
"""

import contextlib
import io
import json
import logging
import math
import random
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import islice, pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, TypeAlias

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from seqgen.core.errors import ConfigError, DataError
from seqgen.core.files import read_json, write_bytes, write_json, write_text
from seqgen.core.patterns import Expression
from seqgen.data.formats import check_unicode
from seqgen.data.ragged import Ragged, widen
from seqgen.data.tokenizers.spmodel import MARKER, PieceLearner, read_model, why_rows
from seqgen.data.tokenizers.wordtable import Learnt, SurfaceTable, WordTable

SPECIALS = ("<pad>", "<unk>", "<s>", "</s>", "<sep>")
"""Names of the ids 0 to 4: padding, unknown, start, end, separator of a condition and of its fields."""

Kind: TypeAlias = Literal["auto", "byte", "char", "word", "bpe", "unigram"]

_PAD, _UNK, _BOS, _EOS, _SEP = range(5)
_FIRST = len(SPECIALS)
_FORMAT = 2
_LINES = 512
"""Lines of characters encoded together."""

_LOG = logging.getLogger("seqgen")


@dataclass(frozen=True)
class TokenizerConfig:
    """How text becomes ids: the section `tokenizer`."""

    kind: Kind = "auto"
    """Units. auto: word for tokenised text, char for text with hardly any spaces, else bpe."""
    vocab_size: Annotated[int, Field(ge=0)] = 0
    """Ids in all, the five special ones included (byte: always 261); 0: chosen from the text."""
    min_count: Annotated[int, Field(ge=0)] = 0
    """Fewest occurrences of a word or character that gets an id; 0: 2 where rare ones are rare in all, else 1."""
    words: Literal["split", "nltk"] = "split"
    """Words (kind word): split at white space, or nltk's Treebank-style word tokenizer."""
    pattern: str = ""
    """Regular expression whose matches are the words (kind word), for example SMILES atoms or item ids."""
    model: str = ""
    """A SentencePiece .model file to use as it is, instead of training one."""
    exact: Literal["row", "word"] = "row"
    """Ids of unigram models: SentencePiece's own for every row, or the same ids for a word in every row, which is
    faster with new words; some .03 % of rows then differ from SentencePiece's."""
    lowercase: bool = False
    """Lower-case the text first."""
    symbols: tuple[str, ...] = ()
    """Words, characters or pieces that get an id whether the text holds them or not."""


class Tokenizer(Protocol):
    """What every tokenizer offers. Text exists only on its two sides."""

    @property
    def kind(self) -> str:
        """byte, char, word, bpe or unigram; sentencepiece for a given model of another type."""

    @property
    def vocab_size(self) -> int:
        """Number of ids, specials included."""

    @property
    def pad(self) -> int:
        """Id that fills rows."""

    @property
    def unk(self) -> int:
        """Id of everything outside the vocabulary."""

    @property
    def bos(self) -> int:
        """Id a sentence starts with."""

    @property
    def eos(self) -> int:
        """Id a line ends with."""

    @property
    def sep(self) -> int:
        """Id after each field of a condition."""

    @property
    def newline(self) -> int:
        """Id of a line break in running text: the character's own (byte, char), or `eos` in its place."""

    @property
    def lossless(self) -> bool:
        """Whether running text comes back from its ids as it was, wherever `unknown` finds nothing in its lines."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all that changes ids."""

    def encode(self, lines: Sequence[str]) -> Ragged:
        """The ids of every line, int32, without special ids around them. DataError for lone surrogates."""

    def decode(self, ids: Ragged | Sequence[Sequence[int]]) -> list[str]:
        """The text of every row, special ids left out. DataError for ids out of range, TypeError for no integers."""

    def encode_bytes(self, text: Ragged) -> Ragged:
        """The ids of rows of UTF-8 bytes (uint8), on their device; what is not UTF-8 counts as U+FFFD."""

    def decode_bytes(self, ids: Ragged) -> Ragged:
        """The text of every row as UTF-8 bytes, on the ids' device; the ids must be in range."""

    def encode_stream(self, text: str) -> Tensor:
        """Running text as (N,) int32 ids, every line break as `newline`."""

    def decode_stream(self, ids: Sequence[int]) -> str:
        """The running text of ids from a stream, every `newline` as a line break."""

    def id_to_token(self, i: int) -> str:
        """The token of an id, as it is stored."""

    def token_to_id(self, token: str) -> int:
        """The id of a stored token, or `unk`."""

    def surfaces(self) -> list[str]:
        """The text each id adds in the middle of a line; "" for specials, U+FFFD for bytes that are no character."""

    def unknown(self, line: str) -> list[str]:
        """The parts of a line that would not come back: those that become `unk`, in order."""

    def save(self, folder: Path) -> None:
        """Write the tokenizer's files into a folder, made if need be."""


# ------------------------------------------------------------------------------------------------------------- bytes


class ByteTokenizer:
    """UTF-8 bytes: id = byte + 5. Any text, lossless, 261 ids."""

    kind = "byte"
    vocab_size = _FIRST + 256
    pad, unk, bos, eos, sep = _PAD, _UNK, _BOS, _EOS, _SEP
    newline = _FIRST + ord("\n")

    def __init__(self, *, lowercase: bool = False) -> None:
        self.lowercase, self.lossless = lowercase, not lowercase
        self.fingerprint = _fingerprint(self._options())

    def encode(self, lines: Sequence[str]) -> Ragged:
        """The bytes of every line as ids."""
        with _naming_surrogates(lines):
            text = Ragged.from_text(_prepared(lines, self.lowercase))
        return Ragged(text.values.to(torch.int32) + _FIRST, text.offsets)

    def decode(self, ids: Ragged | Sequence[Sequence[int]]) -> list[str]:
        """The text of every row; bytes that are not UTF-8 become U+FFFD."""
        text = self.decode_bytes(_checked(ids, self.vocab_size))
        content = text.values.numpy().tobytes()
        return [content[first:end].decode(errors="replace") for first, end in pairwise(text.offsets.tolist())]

    def encode_bytes(self, text: Ragged) -> Ragged:
        """The bytes themselves, lossless even where they are not UTF-8."""
        if self.lowercase:
            return _encode_as_lines(self, text)
        return Ragged(text.values.to(torch.int32) + _FIRST, text.offsets)

    def decode_bytes(self, ids: Ragged) -> Ragged:
        """The bytes themselves."""
        values = widen(ids.values)
        kept = values >= _FIRST
        before = torch.cat([kept.new_zeros(1, dtype=torch.int64), kept.cumsum(0)])
        return Ragged((values[kept] - _FIRST).to(torch.uint8), before[ids.offsets])

    def encode_stream(self, text: str) -> Tensor:
        """The bytes of the text, newlines included."""
        return self.encode([text]).values

    def decode_stream(self, ids: Sequence[int]) -> str:
        """The text of the bytes."""
        return self.decode([ids])[0]

    def id_to_token(self, i: int) -> str:
        """`<0x41>` for the byte 0x41."""
        return SPECIALS[i] if i < _FIRST else f"<0x{i - _FIRST:02X}>"

    def token_to_id(self, token: str) -> int:
        """The id of `<0x41>`, of a special, or of a one-byte character itself."""
        if token in SPECIALS:
            return SPECIALS.index(token)
        if match := re.fullmatch(r"<0x([0-9A-F]{2})>", token):
            return _FIRST + int(match[1], 16)
        return _FIRST + ord(token) if len(token) == 1 and token.isascii() else _UNK

    def surfaces(self) -> list[str]:
        """ASCII characters; U+FFFD for the bytes of longer ones."""
        return [""] * _FIRST + [_byte_surface(byte) for byte in range(256)]

    def unknown(self, line: str) -> list[str]:
        """Nothing: every byte has an id."""
        return []

    def save(self, folder: Path) -> None:
        """Write tokenizer.json."""
        _save(folder, self._options(), self.fingerprint)

    def _options(self) -> dict[str, Any]:
        return {"kind": self.kind, "lowercase": self.lowercase}


# -------------------------------------------------------------------------------------------------------- characters


class CharTokenizer:
    """Unicode characters: `symbols[k]` has the id k + 5.

    Encoding is one UTF-32 conversion and one table look-up over all code points.
    """

    kind = "char"
    pad, unk, bos, eos, sep = _PAD, _UNK, _BOS, _EOS, _SEP

    def __init__(self, symbols: Sequence[str], *, lowercase: bool = False) -> None:
        self.symbols = tuple(symbols)
        self.lowercase, self.lossless = lowercase, not lowercase
        self.vocab_size = _FIRST + len(self.symbols)
        codes = np.frombuffer("".join(self.symbols).encode("utf-32-le"), np.uint32)
        self._ids = np.full(0x110000, _UNK, np.int32)
        self._ids[codes] = np.arange(_FIRST, self.vocab_size)
        known = int(self._ids[ord("\n")])
        self.newline = _EOS if known == _UNK else known  # made for single lines, it has no line break among its symbols
        surfaces = ["", "\ufffd", "", "", "", *self.symbols]
        self._surfaces = SurfaceTable([surface.encode() for surface in surfaces], lead=[0] * len(surfaces))
        self.fingerprint = _fingerprint(self._options(), *self.symbols)

    def encode(self, lines: Sequence[str]) -> Ragged:
        """The characters of every line as ids."""
        offsets = np.zeros(len(lines) + 1, np.int64)
        with _naming_surrogates(lines):
            lines = _prepared(lines, self.lowercase)
            np.cumsum(np.fromiter(map(len, lines), np.int64, len(lines)), out=offsets[1:])
            ids = np.empty(offsets[-1], np.int32)
            # Some lines at a time, so that codes and ids stay in the processor's cache.
            for at in range(0, len(lines), _LINES):
                codes = np.frombuffer("".join(lines[at : at + _LINES]).encode("utf-32-le"), np.uint32)
                ids[offsets[at] : offsets[at] + len(codes)] = self._ids.take(codes)
        return Ragged(torch.from_numpy(ids), torch.from_numpy(offsets))

    def decode(self, ids: Ragged | Sequence[Sequence[int]]) -> list[str]:
        """The text of every row; `unk` is U+FFFD."""
        return self._surfaces.texts(_checked(ids, self.vocab_size))

    def encode_bytes(self, text: Ragged) -> Ragged:
        """The characters of every row as ids."""
        if self.lowercase:
            return _encode_as_lines(self, text)
        found = code_points(text)
        if found is None:
            return _encode_as_lines(self, text)
        codes, offsets = found
        return Ragged(torch.from_numpy(self._ids).to(codes.device)[codes], offsets)

    def decode_bytes(self, ids: Ragged) -> Ragged:
        """The characters of every row."""
        return self._surfaces.decode(ids)

    def encode_stream(self, text: str) -> Tensor:
        """The characters of the text, newlines included."""
        return _lines_to_stream(self, text) if self.newline == _EOS else self.encode([text]).values

    def decode_stream(self, ids: Sequence[int]) -> str:
        """The text of the characters."""
        return _stream_to_lines(self, ids) if self.newline == _EOS else self.decode([ids])[0]

    def id_to_token(self, i: int) -> str:
        """The character."""
        return _token(i, self.symbols)

    def token_to_id(self, token: str) -> int:
        """The id of a character or special."""
        if token in SPECIALS:
            return SPECIALS.index(token)
        return int(self._ids[ord(token)]) if len(token) == 1 else _UNK

    def surfaces(self) -> list[str]:
        """The characters."""
        return [""] * _FIRST + list(self.symbols)

    def unknown(self, line: str) -> list[str]:
        """The characters outside the vocabulary."""
        line = line.lower() if self.lowercase else line
        return [character for character in line if self._ids[ord(character)] == _UNK]

    def save(self, folder: Path) -> None:
        """Write tokenizer.json and vocab.txt."""
        _save(folder, self._options(), self.fingerprint, self.symbols)

    def _options(self) -> dict[str, Any]:
        return {"kind": self.kind, "lowercase": self.lowercase}


def code_points(text: Ragged) -> tuple[Tensor, Tensor] | None:
    """The characters of UTF-8 rows as (C,) int64 code points, and the rows' offsets; None if they are not UTF-8."""
    values = text.values.to(torch.int64)
    begins = ((values & 0xC0) != 0x80).nonzero().view(-1)
    lead = values[begins]
    size = 1 + (lead >= 0xC0).long() + (lead >= 0xE0).long() + (lead >= 0xF0).long()
    # The bits of the first byte, then six of each that follows it.
    codes = torch.where(size == 1, lead, lead & (0xFF >> (size + 1)))
    for k in (1, 2, 3):
        following = values[(begins + k).clamp(max=max(0, len(values) - 1))] & 0x3F
        codes = torch.where(size > k, (codes << 6) | following, codes)
    least = torch.tensor([0, 0, 0x80, 0x800, 0x10000], device=codes.device)[size]
    ends = torch.cat([begins[1:], begins.new_tensor([len(values)])])[: len(begins)]
    right = (ends - begins == size) & (codes >= least) & (codes < 0x110000) & ((codes >> 11) != 0x1B) & (lead < 0xF8)
    # Where rows begin a character has to begin; nothing may stand before the first.
    offsets = torch.searchsorted(begins, text.offsets)
    whole = torch.cat([begins, begins.new_tensor([len(values)])])[offsets] == text.offsets
    if not (bool(right.all()) and bool(whole.all()) and int((ends - begins).sum()) == len(values)):
        return None
    return codes, offsets


# ------------------------------------------------------------------------------------------------------------- words


class WordTokenizer:
    """Words: `symbols[k]` has the id k + 5. The word `<unk>` in a text is `unk` itself, as WikiText writes it.

    `joiner` stands between words in decoded text. With a pattern and the joiner "" the tokens tile the text: what the
    pattern leaves out is `unk`, so nothing vanishes silently. With the joiner " " what it leaves out is dropped.
    """

    kind = "word"
    pad, unk, bos, eos, sep = _PAD, _UNK, _BOS, _EOS, _SEP
    newline = _EOS

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
        self.vocab_size = _FIRST + len(self.symbols)
        self._cut = word_cutter(words, pattern, keep_gaps=joiner == "")
        self._ids = {symbol: i for i, symbol in enumerate(self.symbols, _FIRST)}
        self._ids[SPECIALS[_UNK]] = _UNK
        self.fingerprint = _fingerprint(self._options(), *self.symbols)
        self._table = WordTable(_SplitWords(self._ids, self.fingerprint)) if self._cut is str.split else None
        spelt = [joiner + token for token in (SPECIALS[_UNK], *self.symbols)]
        surfaces = ["", spelt[0], "", "", "", *spelt[1:]]
        lead = len(joiner.encode())
        self._surfaces = SurfaceTable([surface.encode() for surface in surfaces], lead=[lead] * len(surfaces))

    def encode(self, lines: Sequence[str]) -> Ragged:
        """The words of every line as ids."""
        ids, cut = self._ids, self._cut
        with _naming_surrogates(lines):
            lines = _prepared(lines, self.lowercase)
            if self._table is not None:
                return self._table.encode_lines(lines)
            "".join(lines).encode()  # words are looked up as str, which would let surrogates through
        return Ragged.from_lists([[ids.get(word, _UNK) for word in cut(line)] for line in lines])

    def decode(self, ids: Ragged | Sequence[Sequence[int]]) -> list[str]:
        """The words of every row, joined; `unk` is `<unk>`."""
        return self._surfaces.texts(_checked(ids, self.vocab_size))

    def encode_bytes(self, text: Ragged) -> Ragged:
        """The words of every row as ids; split at white space on the device, else row by row on the CPU."""
        if self._table is None or self.lowercase:
            return _encode_as_lines(self, text)
        return self._table.encode(text)

    def decode_bytes(self, ids: Ragged) -> Ragged:
        """The words of every row, joined."""
        return self._surfaces.decode(ids)

    def encode_stream(self, text: str) -> Tensor:
        """The words of the text, every newline as eos."""
        return _lines_to_stream(self, text)

    def decode_stream(self, ids: Sequence[int]) -> str:
        """The text of the words, every eos as a newline."""
        return _stream_to_lines(self, ids)

    def id_to_token(self, i: int) -> str:
        """The word."""
        return _token(i, self.symbols)

    def token_to_id(self, token: str) -> int:
        """The id of a word or special."""
        return SPECIALS.index(token) if token in SPECIALS else self._ids.get(token, _UNK)

    def surfaces(self) -> list[str]:
        """The words, each with the joiner before it."""
        return [""] * _FIRST + [self.joiner + symbol for symbol in self.symbols]

    def unknown(self, line: str) -> list[str]:
        """The words outside the vocabulary."""
        return [word for word in self._cut(line.lower() if self.lowercase else line) if word not in self._ids]

    def save(self, folder: Path) -> None:
        """Write tokenizer.json and vocab.txt."""
        _save(folder, self._options(), self.fingerprint, self.symbols)

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
        """The ids of the words in every chunk, sure wherever they stand."""
        return Learnt(self.rows(chunks), np.full(len(chunks), np.inf), np.zeros(len(chunks)))

    def rows(self, rows: Sequence[str | bytes]) -> list[list[int]]:
        """The ids of the words in every row."""
        get = self._ids.get
        texts = (row.decode(errors="replace") if isinstance(row, bytes) else row for row in rows)
        return [[get(word, _UNK) for word in text.split()] for text in texts]


def word_cutter(words: str, pattern: str, *, keep_gaps: bool) -> Callable[[str], list[str]]:
    """A function that cuts a line into words: by white space, by nltk, or into the matches of a pattern.

    The word `<unk>` stays whole. `keep_gaps` makes what lies between two matches a word too. nltk's is
    `NLTKWordTokenizer`, which needs no downloaded data; the line is taken as one sentence, so only its last full stop
    is cut off.
    """
    unknown = SPECIALS[_UNK]
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


# ----------------------------------------------------------------------------------------------------- SentencePiece


class PieceTokenizer:
    """A SentencePiece model, its own ids untouched; pad, bos, eos or sep that it lacks get the ids after its last.

    `why_rows` says why words cannot be encoded by themselves with this model, so that every row is left to
    SentencePiece, which is slower; "" where a word table is used.
    """

    def __init__(self, model: bytes, *, lowercase: bool = False, exact: Literal["row", "word"] = "row") -> None:
        described = read_model(model)
        # SentencePiece's own char and word models keep spaces as markers: not this package's kinds of the same name.
        self.kind = described.model_type if described.model_type in ("bpe", "unigram") else "sentencepiece"
        self.model = model
        self.lowercase, self.lossless = lowercase, described.lossless and not lowercase
        self._learner = PieceLearner(model, by_word=exact == "word")
        self.exact: Literal["row", "word"] = "word" if self._learner.by_word else "row"
        self._sp = self._learner.processor
        self.why_rows = why_rows(described)
        if self.why_rows:
            _LOG.warning("this SentencePiece model encodes whole rows, which is slow: %s", self.why_rows)
        self._table = None if self.why_rows else WordTable(self._learner)
        size = int(self._sp.get_piece_size())
        self.unk = int(self._sp.unk_id())
        own = {"<pad>": self._sp.pad_id(), "<s>": self._sp.bos_id(), "</s>": self._sp.eos_id(), "<sep>": -1}
        sep = self._sp.piece_to_id("<sep>")
        if self._sp.is_control(sep):
            own["<sep>"] = sep
        self._added = tuple(name for name, i in own.items() if i < 0)
        added = dict(zip(self._added, range(size, size + len(self._added)), strict=True))
        self.pad, self.bos, self.eos, self.sep = (added.get(name, int(i)) for name, i in own.items())
        self.newline = self.eos
        self.vocab_size = size + len(added)
        self._size = size
        self._surfaces = self._learner.surfaces(left_out=(self.pad, self.bos, self.eos, self.sep))
        self.fingerprint = _fingerprint({**self._options(), "kind": "sentencepiece"}, sha256(model).hexdigest())

    def encode(self, lines: Sequence[str]) -> Ragged:
        """SentencePiece's ids of every line."""
        with _naming_surrogates(lines):
            lines = _prepared(lines, self.lowercase)
            if self._table is not None:
                return self._table.encode_lines(lines)
            return Ragged.from_lists(self._learner.rows(lines))

    def decode(self, ids: Ragged | Sequence[Sequence[int]]) -> list[str]:
        """SentencePiece's text of every row; `unk` is the model's unknown surface, U+2047 between spaces by default."""
        return self._surfaces.texts(_checked(ids, self.vocab_size))

    def encode_bytes(self, text: Ragged) -> Ragged:
        """SentencePiece's ids of every row; bytes that are not UTF-8 are U+FFFD each, as it takes them."""
        if self._table is None or self.lowercase:
            return _encode_as_lines(self, text)
        return self._table.encode(text)

    def decode_bytes(self, ids: Ragged) -> Ragged:
        """SentencePiece's text of every row."""
        return self._surfaces.decode(ids)

    def encode_stream(self, text: str) -> Tensor:
        """The pieces of the text, every newline as eos."""
        return _lines_to_stream(self, text)

    def decode_stream(self, ids: Sequence[int]) -> str:
        """The text of the pieces, every eos as a newline."""
        return _stream_to_lines(self, ids)

    def id_to_token(self, i: int) -> str:
        """The piece, its word marker U+2581 as stored."""
        return self._added[i - self._size] if i >= self._size else str(self._sp.id_to_piece(i))

    def token_to_id(self, token: str) -> int:
        """The id of a piece."""
        return self._size + self._added.index(token) if token in self._added else int(self._sp.piece_to_id(token))

    def surfaces(self) -> list[str]:
        """The pieces with spaces for markers; "" for control and unused ones."""
        return [self._surface(i) for i in range(self._size)] + [""] * len(self._added)

    def unknown(self, line: str) -> list[str]:
        """The parts of the line that no piece holds, and U+2581, which stands for a space in pieces."""
        line = line.lower() if self.lowercase else line
        pieces: list[str] = self._sp.encode_as_pieces(line)
        lost = [piece for piece, i in zip(pieces, self._sp.encode(line), strict=True) if i == self.unk]
        return lost + [MARKER] * (MARKER in line)

    def save(self, folder: Path) -> None:
        """Write tokenizer.json, spm.model (byte for byte) and words.npz, the word table learnt so far."""
        folder.mkdir(parents=True, exist_ok=True)
        write_bytes(folder / "spm.model", self.model)
        if self._table is not None and len(self._table):
            self._table.save(folder / "words.npz")
        _save(folder, self._options(), self.fingerprint)

    def recall(self, words: Path) -> None:
        """Take over a saved word table, if there is one and it belongs to this model."""
        if self._table is not None and words.is_file():
            self._table.load(words)

    def _surface(self, i: int) -> str:
        if self._sp.is_control(i) or self._sp.is_unknown(i) or self._sp.is_unused(i):
            return ""
        piece = str(self._sp.id_to_piece(i))
        return _byte_surface(int(piece[3:5], 16)) if self._sp.is_byte(i) else piece.replace(MARKER, " ")

    def _options(self) -> dict[str, Any]:
        exact = {"exact": self.exact} if self.exact == "word" else {}
        return {"kind": self.kind, "lowercase": self.lowercase, **exact}


# ---------------------------------------------------------------------------------------------------------- training


def newline_is_character(kind: str) -> bool:
    """Return whether a tokenizer trained on running text reads line breaks as characters, not as ends of lines."""
    return kind in ("byte", "char")


def train_tokenizer(config: TokenizerConfig, lines: Collection[str], *, seed: int) -> Tokenizer:
    """A tokenizer for the text, the same for the same lines, settings and seed on every machine.

    The lines are gone through a few times, and what is kept of them does not grow with their number.

    Where sizes are 0 and the kind is auto they are chosen from the text; `resolved` tells what was chosen. The seed
    only matters for SentencePiece on more than 20 million characters, of which that many are drawn. DataError if the
    text does not support the vocabulary asked for, ConfigError if settings contradict each other.
    """
    kind = choose_kind(config, lines)
    _report_unused(config, kind)
    with _naming_surrogates(lines):
        return _trained(config, kind, lines, seed)


def _trained(config: TokenizerConfig, kind: Kind, lines: Collection[str], seed: int) -> Tokenizer:
    if config.model:
        return _given_model(config)
    if kind == "byte":
        return ByteTokenizer(lowercase=config.lowercase)
    if kind == "char":
        return _train_char(config, lines)
    if kind == "word":
        return _train_word(config, lines)
    return _train_pieces(config, kind, lines, seed)


def resolved(config: TokenizerConfig, tokenizer: Tokenizer) -> TokenizerConfig:
    """The settings with what was chosen in the place of auto and 0."""
    kind: Any = tokenizer.kind if tokenizer.kind in ("byte", "char", "word", "bpe", "unigram") else config.kind
    return replace(config, kind=kind, vocab_size=tokenizer.vocab_size)


def choose_kind(config: TokenizerConfig, lines: Collection[str]) -> Kind:
    """The kind, auto replaced: word for tokenised text, char for text with hardly any spaces, else bpe.

    Looks at up to 5,000 lines spread over the text. Text counts as tokenised if nearly all of its punctuation stands
    alone, or if it has none and its words recur often.
    """
    if config.pattern and config.words == "nltk":
        raise ConfigError("tokenizer.pattern and tokenizer.words = nltk are two ways to cut words; give one")
    if config.pattern or config.words == "nltk":
        given = "tokenizer.pattern" if config.pattern else "tokenizer.words = nltk"
        if config.kind not in ("auto", "word") or config.model:
            other = "tokenizer.model" if config.model else f"tokenizer.kind = {config.kind}"
            raise ConfigError(f"{given} makes words, but {other} is given; leave one out")
        return "word"
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
    """Say which settings take no effect with this kind."""
    given = {
        "vocab_size": config.vocab_size > 0 and (kind == "byte" or config.model),
        "min_count": config.min_count > 0 and (kind not in ("char", "word") or config.model),
        "symbols": config.symbols and (kind == "byte" or config.model),
        "exact": config.exact == "word" and kind in ("byte", "char", "word", "bpe"),
    }
    for name, unused in given.items():
        if unused:
            because = "with a given tokenizer.model" if config.model else f"with tokenizer.kind = {kind}"
            _LOG.warning("tokenizer.%s takes no effect %s", name, because)


def _given_model(config: TokenizerConfig) -> PieceTokenizer:
    path = Path(config.model)
    try:
        model = path.read_bytes()
    except OSError as error:
        raise DataError(f"tokenizer.model: {path} cannot be read ({error.strerror})") from None
    try:
        tokenizer = PieceTokenizer(model, lowercase=config.lowercase, exact=config.exact)
    except DataError as error:
        raise DataError(f"tokenizer.model: {path}: {error}") from None
    if config.kind not in ("auto", tokenizer.kind):
        raise ConfigError(f"tokenizer.kind = {config.kind}, but {path} is a {tokenizer.kind} model")
    return tokenizer


def _train_char(config: TokenizerConfig, lines: Iterable[str]) -> CharTokenizer:
    long = next((symbol for symbol in config.symbols if len(symbol) != 1), None)
    if long is not None:
        raise ConfigError(
            f"tokenizer.symbols holds {long!r}, but kind char takes single characters; use kind word or bpe"
        )
    counts: Counter[str] = Counter()
    for line in lines:
        counts.update(line.lower() if config.lowercase else line)
    # Few letters and digits may be rare by chance; of a thousand and more characters the rare ones train `unk`.
    symbols = _frequent(counts, config, "characters", rare=1000)
    return CharTokenizer(symbols, lowercase=config.lowercase)


def _train_word(config: TokenizerConfig, lines: Iterable[str]) -> WordTokenizer:
    joiner = " "
    if config.pattern:
        joiner = _joiner(_compiled(config.pattern), _lowered(lines, config.lowercase))
    cut = word_cutter(config.words, config.pattern, keep_gaps=False)
    counts: Counter[str] = Counter()
    least = 0
    for line in _lowered(lines, config.lowercase):
        counts.update(cut(line))
        if len(counts) > _MOST_COUNTED:
            # Of so many words the rarest get no id, and their counts are given up for the memory.
            least = _halved(counts, least)
    if least:
        _LOG.warning("over %d different words; those counted up to %d times were forgotten", _MOST_COUNTED, least)
    counts.pop(SPECIALS[_UNK], None)
    if not counts:
        raise DataError(f"tokenizer.pattern = {config.pattern!r} matches nothing in the text")
    symbols = _frequent(counts, config, "words", rare=0)
    return WordTokenizer(symbols, words=config.words, pattern=config.pattern, joiner=joiner, lowercase=config.lowercase)


_MOST_COUNTED = 1 << 21
"""Different words that are counted at once."""


def _halved(counts: Counter[str], least: int) -> int:
    """Forget the rarest words until half the room is free; returns the count up to which they were forgotten."""
    while len(counts) > _MOST_COUNTED // 2:
        least += 1
        for word in [word for word, count in counts.items() if count <= least]:
            del counts[word]
    return least


def _lowered(lines: Iterable[str], lowercase: bool) -> Iterable[str]:
    return (line.lower() for line in lines) if lowercase else lines


def _joiner(pattern: Expression, lines: Iterable[str]) -> str:
    """ "" where the matches tile the lines, " " where white space stands between them."""
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


def _frequent(counts: Counter[str], config: TokenizerConfig, noun: str, *, rare: int) -> list[str]:
    """The units that get ids, by falling count, then by code points: independent of the order of lines.

    With an automatic `min_count`, units seen once get none if there are more than `rare` units and those seen once
    make at most 5 % of the text: then they are what `unk` is learnt from.
    """
    least = config.min_count
    if not least:
        once = sum(count == 1 for count in counts.values())
        least = 2 if len(counts) > rare and once <= 0.05 * counts.total() else 1
    extra = list(dict.fromkeys(config.symbols))
    extra_set = set(extra)
    kept = sorted(
        (unit for unit, n in counts.items() if n >= least and unit not in extra_set), key=lambda u: (-counts[u], u)
    )
    symbols = extra + kept
    if config.vocab_size > _FIRST + len(symbols):
        raise DataError(
            f"tokenizer.vocab_size = {config.vocab_size}, but the text has only {len(symbols)} {noun} seen "
            f"{least} times or more, and {_FIRST} ids are special; use 0 (automatic) or at most {_FIRST + len(symbols)}"
        )
    if config.vocab_size and config.vocab_size <= _FIRST + len(extra):
        raise DataError(
            f"tokenizer.vocab_size = {config.vocab_size} leaves no room for {noun} beside {_FIRST} special ids "
            f"and {len(extra)} tokenizer.symbols; use 0 (automatic) or more"
        )
    limit = config.vocab_size - _FIRST if config.vocab_size else _MOST_UNITS
    return symbols[:limit]


_MOST_UNITS = 32_000
"""Words or characters that get an id when the size is automatic."""


def _train_pieces(config: TokenizerConfig, kind: str, lines: Iterable[str], seed: int) -> PieceTokenizer:
    """SentencePiece without normalisation, with all spaces, unseen characters as bytes: text comes back as it was."""
    from sentencepiece import SentencePieceTrainer

    text = _training_pieces(lines, config.lowercase, seed)
    characters = sum(map(len, text))
    # Grows with the square root of the text, as its distinct words roughly do: 8,000 for a million characters.
    size = config.vocab_size or max(512, min(_MOST_UNITS, int(8 * math.sqrt(characters)) + 261))
    needed = 261 + len(config.symbols) + len(set().union(*text)) + 1
    if config.vocab_size == 0:
        size = max(size, needed + needed // 4)
    elif size < needed:
        raise DataError(
            f"tokenizer.vocab_size = {size} is too small for {kind}: the text has {needed - 262 - len(config.symbols)} "
            f"characters, and 256 bytes and 5 special ids come on top; use 0 (automatic) or at least {needed}"
        )
    while True:
        writer = io.BytesIO()
        try:
            SentencePieceTrainer.train(
                sentence_iterator=iter(text),
                model_writer=writer,
                model_type=kind,
                vocab_size=size,
                pad_id=_PAD,
                unk_id=_UNK,
                bos_id=_BOS,
                eos_id=_EOS,
                control_symbols=[SPECIALS[_SEP]],
                user_defined_symbols=list(config.symbols),
                character_coverage=1.0,
                byte_fallback=True,
                normalization_rule_name="identity",
                remove_extra_whitespaces=False,
                allow_whitespace_only_pieces=True,
                max_sentence_length=4 * _LONGEST,
                # More threads would change the order of floating-point sums, and with it pieces of the unigram model.
                num_threads=1,
                minloglevel=3,
            )
        except RuntimeError as error:
            limit = re.search(r"Vocabulary size too high.*<= (\d+)", str(error))
            if limit is None:
                raise DataError(f"SentencePiece cannot be trained on this text: {error}") from None
            if config.vocab_size:
                raise DataError(
                    f"tokenizer.vocab_size = {size} is more than the text supports; "
                    f"use 0 (automatic) or at most {limit[1]}"
                ) from None
            size = int(limit[1])
        else:
            return PieceTokenizer(writer.getvalue(), lowercase=config.lowercase, exact=config.exact)


_LONGEST = 4000
"""Characters of a line SentencePiece's trainer sees at once; longer lines are cut, it would leave them out."""

_MOST_CHARACTERS = 20_000_000
"""Characters SentencePiece is trained on at most."""


def _training_pieces(lines: Iterable[str], lowercase: bool, seed: int) -> list[str]:
    """The lines to train on: long ones cut, blank ones left out, and a drawn part where there are too many."""

    def pieces() -> Iterator[str]:
        cut = (line[at : at + _LONGEST] for line in _lowered(lines, lowercase) for at in range(0, len(line), _LONGEST))
        return (piece for piece in cut if piece.strip())

    kept: list[str] = []
    count = characters = 0
    for piece in pieces():
        count += 1
        characters += len(piece)
        if characters <= _MOST_CHARACTERS:
            kept.append(piece)
    if not count:
        raise DataError("the text holds nothing but white space; a tokenizer cannot be trained on it")
    if characters <= _MOST_CHARACTERS:
        return kept
    # Numbers are drawn and then the pieces with these numbers fetched, so that not all are in memory at once.
    kept.clear()
    numbers = random.Random(seed).sample(range(count), max(1, count * _MOST_CHARACTERS // characters))
    wanted = set(numbers)
    drawn = {number: piece for number, piece in enumerate(pieces()) if number in wanted}
    return [drawn[number] for number in numbers]


# ------------------------------------------------------------------------------------------------------ save and load


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """The tokenizer saved in a folder. DataError if its files are missing or altered."""
    folder = Path(folder)
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise DataError(f"{folder}: no tokenizer.json; expected a folder that a tokenizer was saved in")
    stored = read_json(path)
    if not isinstance(stored, dict) or stored.get("format") != _FORMAT:
        raise DataError(f"{path}: expected format {_FORMAT}; it was written by another version or altered")
    try:
        tokenizer = _built(stored, folder)
    except DataError:
        raise
    except (KeyError, TypeError) as error:
        raise DataError(f"{path}: {error} is missing or wrong; the file is altered") from None
    except ValueError as error:
        raise DataError(f"{folder}: altered: vocab.txt does not fit tokenizer.json ({error})") from None
    except OSError as error:
        raise DataError(
            f"{error.filename}: cannot be read ({error.strerror}); the tokenizer's folder is not whole"
        ) from None
    if tokenizer.fingerprint != stored.get("fingerprint"):
        raise DataError(f"{folder}: altered: the files' fingerprint is not the one stored in tokenizer.json")
    return tokenizer


def _built(stored: dict[str, Any], folder: Path) -> Tokenizer:
    kind, lowercase = stored["kind"], stored["lowercase"]
    if kind == "byte":
        return ByteTokenizer(lowercase=lowercase)
    if kind == "char":
        return CharTokenizer(_load_symbols(folder), lowercase=lowercase)
    if kind == "word":
        return WordTokenizer(
            _load_symbols(folder),
            words=stored["words"],
            pattern=stored["pattern"],
            joiner=stored["joiner"],
            lowercase=lowercase,
        )
    tokenizer = PieceTokenizer(
        (folder / "spm.model").read_bytes(), lowercase=lowercase, exact=stored.get("exact", "row")
    )
    if tokenizer.kind != kind:
        raise DataError(f"{folder}: spm.model is a {tokenizer.kind} model, tokenizer.json says {kind!r}; it is altered")
    tokenizer.recall(folder / "words.npz")
    return tokenizer


def _save(folder: Path, options: dict[str, Any], fingerprint: str, symbols: Sequence[str] | None = None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if symbols is not None:
        # One JSON string per line, so that a token may hold a newline and the file can still be read by eye.
        write_text(folder / "vocab.txt", "".join(json.dumps(symbol, ensure_ascii=False) + "\n" for symbol in symbols))
    write_json(folder / "tokenizer.json", {"format": _FORMAT, **options, "fingerprint": fingerprint})


def _load_symbols(folder: Path) -> list[str]:
    path = folder / "vocab.txt"
    try:
        content = path.read_bytes().decode().removesuffix("\n")
        symbols = [json.loads(line) for line in content.split("\n")] if content else []
        wrong = next((symbol for symbol in symbols if not isinstance(symbol, str)), "")
        if wrong != "":
            raise ValueError(f"{wrong!r} is no string")
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not one JSON string per line ({error}); the file is altered") from None
    return symbols


def _fingerprint(options: dict[str, Any], *parts: str) -> str:
    described = json.dumps([_FORMAT, options, parts], sort_keys=True)
    return sha256(described.encode()).hexdigest()


# ------------------------------------------------------------------------------------------------- shared by the kinds


def _prepared(lines: Sequence[str], lowercase: bool) -> Sequence[str]:
    if isinstance(lines, str):
        raise TypeError("lines must be a list of str, got one str; put it into a list")
    return [line.lower() for line in lines] if lowercase else lines


@contextlib.contextmanager
def _naming_surrogates(lines: Iterable[str]) -> Iterator[None]:
    """Turn an encoding error, which knows nothing of lines, into the DataError that names the line."""
    try:
        yield
    except UnicodeEncodeError:
        for number, line in enumerate(lines, 1):
            check_unicode(line, f"line {number}")
        raise


def _checked(ids: Ragged | Sequence[Sequence[int]], vocab_size: int) -> Ragged:
    """Rows of ids on the CPU, every id in [0, vocab_size)."""
    rows = ids.to("cpu") if isinstance(ids, Ragged) else Ragged.from_lists(ids)
    values = widen(rows.values)
    wrong = ((values < 0) | (values >= vocab_size)).nonzero().view(-1)
    if len(wrong):
        at = int(wrong[0])
        row = int(torch.searchsorted(rows.offsets, at, right=True)) - 1
        raise DataError(
            f"id {int(values[at])} at row {row}, position {at - int(rows.offsets[row])} is outside the vocabulary, "
            f"0 to {vocab_size - 1}"
        )
    return rows


def _encode_as_lines(tokenizer: Tokenizer, text: Ragged) -> Ragged:
    """The ids of rows of bytes by way of strings, for what cannot be done on bytes."""
    content = text.values.cpu().numpy().tobytes()
    lines = [content[first:end].decode(errors="replace") for first, end in pairwise(text.offsets.tolist())]
    return tokenizer.encode(lines).to(text.device)


def _token(i: int, symbols: Sequence[str]) -> str:
    return SPECIALS[i] if 0 <= i < _FIRST else symbols[i - _FIRST]


def _byte_surface(byte: int) -> str:
    return chr(byte) if byte < 0x80 else "\ufffd"


def _lines_to_stream(tokenizer: Tokenizer, text: str) -> Tensor:
    """Lines with an eos in the place of every newline; a last line without newline has none."""
    lines = text.split("\n")
    ids = tokenizer.encode(lines)
    # Row k of the lines is followed by one eos, except the last one.
    at = torch.arange(ids.values.numel()) + torch.repeat_interleave(torch.arange(ids.rows), ids.lengths)
    stream = torch.full((ids.values.numel() + ids.rows - 1,), tokenizer.eos, dtype=torch.int32)
    stream[at] = ids.values
    return stream


def _stream_to_lines(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    rows: list[list[int]] = [[]]
    for i in ids:
        if i == tokenizer.eos:
            rows.append([])
        else:
            rows[-1].append(i)
    return "\n".join(tokenizer.decode(rows))
