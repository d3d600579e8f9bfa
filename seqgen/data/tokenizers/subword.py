"""Subwords: SentencePiece's BPE and unigram models, trained here or given as a .model file."""

import io
import logging
import math
import random
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from seqgen.core.errors import ConfigError, DataError
from seqgen.core.files import write_bytes
from seqgen.data.ragged import Ragged
from seqgen.data.tokenizers.common import (
    MOST_UNITS,
    byte_surface,
    checked_rows,
    described,
    encode_as_lines,
    fingerprint_of,
    lines_to_stream,
    lowered,
    naming_surrogates,
    prepared,
    save_files,
    stream_to_lines,
)
from seqgen.data.tokenizers.protocol import BOS, EOS, PAD, SEP, SPECIALS, UNK
from seqgen.data.tokenizers.spmodel import MARKER, PieceLearner, read_model, why_rows
from seqgen.data.tokenizers.wordtable import WordTable

if TYPE_CHECKING:
    from seqgen.data.tokenizers.kinds import TokenizerConfig

KINDS = {
    "bpe": ("vocab_size", "lowercase", "symbols"),
    "unigram": ("vocab_size", "exact", "lowercase", "symbols"),
}

_LOG = logging.getLogger("seqgen")


def load(stored: dict[str, Any], folder: Path) -> "PieceTokenizer":
    """Return a saved tokenizer, with the word table that it had learnt."""
    lowercase, exact = stored["lowercase"], stored.get("exact", "row")
    tokenizer = PieceTokenizer((folder / "spm.model").read_bytes(), lowercase=lowercase, exact=exact)
    if tokenizer.kind != stored["kind"]:
        raise DataError(
            f"{folder}: spm.model is a {tokenizer.kind} model, tokenizer.json says {stored['kind']!r}; it is altered"
        )
    tokenizer.recall(folder / "words.npz")
    return tokenizer


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
        self.fingerprint = fingerprint_of({**self._options(), "kind": "sentencepiece"}, sha256(model).hexdigest())

    def __repr__(self) -> str:
        return described(self)

    def encode(self, lines: Sequence[str]) -> Ragged:
        """Return SentencePiece's ids of every line."""
        with naming_surrogates(lines):
            lines = prepared(lines, self.lowercase)
            if self._table is not None:
                return self._table.encode_lines(lines)
            return Ragged.from_lists(self._learner.rows(lines))

    def decode(self, ids: Ragged | Sequence[Sequence[int]]) -> list[str]:
        """Return SentencePiece's text of every row; `unk` is the model's unknown surface, by default U+2047."""
        return self._surfaces.texts(checked_rows(ids, self.vocab_size))

    def encode_bytes(self, text: Ragged) -> Ragged:
        """Return SentencePiece's ids of every row; bytes that are not UTF-8 are U+FFFD each, as it takes them."""
        if self._table is None or self.lowercase:
            return encode_as_lines(self, text)
        return self._table.encode(text)

    def decode_bytes(self, ids: Ragged) -> Ragged:
        """Return SentencePiece's text of every row."""
        return self._surfaces.decode(ids)

    def encode_stream(self, text: str) -> Tensor:
        """Return the pieces of the text, every newline as eos."""
        return lines_to_stream(self, text)

    def decode_stream(self, ids: Sequence[int]) -> str:
        """Return the text of the pieces, every eos as a newline."""
        return stream_to_lines(self, ids)

    def id_to_token(self, i: int) -> str:
        """Return the piece, its word marker U+2581 as stored."""
        return self._added[i - self._size] if i >= self._size else str(self._sp.id_to_piece(i))

    def token_to_id(self, token: str) -> int:
        """Return the id of a piece."""
        return self._size + self._added.index(token) if token in self._added else int(self._sp.piece_to_id(token))

    def surfaces(self) -> list[str]:
        """Return the pieces with spaces for markers; "" for control and unused ones."""
        return [self._surface(i) for i in range(self._size)] + [""] * len(self._added)

    def unknown(self, line: str) -> list[str]:
        """Return the parts of the line that no piece holds, and U+2581, which stands for a space in pieces."""
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
        save_files(folder, self._options(), self.fingerprint)

    def recall(self, words: Path) -> None:
        """Take over a saved word table, if there is one and it belongs to this model."""
        if self._table is not None and words.is_file():
            self._table.load(words)

    def _surface(self, i: int) -> str:
        if self._sp.is_control(i) or self._sp.is_unknown(i) or self._sp.is_unused(i):
            return ""
        piece = str(self._sp.id_to_piece(i))
        return byte_surface(int(piece[3:5], 16)) if self._sp.is_byte(i) else piece.replace(MARKER, " ")

    def _options(self) -> dict[str, Any]:
        exact = {"exact": self.exact} if self.exact == "word" else {}
        return {"kind": self.kind, "lowercase": self.lowercase, **exact}


def given_model(config: "TokenizerConfig") -> PieceTokenizer:
    """Return the tokenizer of the file `tokenizer.model`; DataError where it is none."""
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


def train(config: "TokenizerConfig", kind: str, lines: Collection[str], *, seed: int) -> PieceTokenizer:
    """Return a SentencePiece model of the text, trained so that text comes back as it was.

    That is without normalisation, with all spaces, and with unseen characters as bytes.
    """
    from sentencepiece import SentencePieceTrainer

    text = _training_pieces(lines, config.lowercase, seed)
    characters = sum(map(len, text))
    # Grows with the square root of the text, as its distinct words roughly do: 8,000 for a million characters.
    size = config.vocab_size or max(512, min(MOST_UNITS, int(8 * math.sqrt(characters)) + 261))
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
                pad_id=PAD,
                unk_id=UNK,
                bos_id=BOS,
                eos_id=EOS,
                control_symbols=[SPECIALS[SEP]],
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
    """Return the lines to train on: long ones cut, blank ones left out, and a drawn part where there are too many."""

    def pieces() -> Iterator[str]:
        cut = (line[at : at + _LONGEST] for line in lowered(lines, lowercase) for at in range(0, len(line), _LONGEST))
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
