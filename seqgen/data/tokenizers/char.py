"""Characters: an id for each Unicode character that the text holds often enough."""

from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from seqgen.core.errors import ConfigError
from seqgen.data.ragged import Ragged
from seqgen.data.tokenizers.common import (
    checked_rows,
    described,
    encode_as_lines,
    fingerprint_of,
    frequent,
    lines_to_stream,
    load_symbols,
    naming_surrogates,
    prepared,
    save_files,
    stream_to_lines,
    token_of,
)
from seqgen.data.tokenizers.protocol import BOS, EOS, FIRST, PAD, SEP, SPECIALS, UNK
from seqgen.data.tokenizers.wordtable import SurfaceTable

if TYPE_CHECKING:
    from seqgen.data.tokenizers.kinds import TokenizerConfig

KINDS = {"char": ("vocab_size", "min_count", "lowercase", "symbols")}
LINE_BREAKS = True

_LINES = 512
"""Lines of characters encoded together."""


def train(config: "TokenizerConfig", kind: str, lines: Collection[str], *, seed: int) -> "CharTokenizer":
    """Return a tokenizer of the characters of the text that are frequent enough, and of `tokenizer.symbols`."""
    long = next((symbol for symbol in config.symbols if len(symbol) != 1), None)
    if long is not None:
        raise ConfigError(
            f"tokenizer.symbols holds {long!r}, but kind char takes single characters; use kind word or bpe"
        )
    counts: Counter[str] = Counter()
    for line in lines:
        counts.update(line.lower() if config.lowercase else line)
    # Few letters and digits may be rare by chance; of a thousand and more characters the rare ones train `unk`.
    symbols = frequent(counts, config, "characters", rare=1000)
    return CharTokenizer(symbols, lowercase=config.lowercase)


def load(stored: dict[str, Any], folder: Path) -> "CharTokenizer":
    """Return a saved tokenizer."""
    lowercase = stored["lowercase"]
    return CharTokenizer(load_symbols(folder), lowercase=lowercase)


class CharTokenizer:
    """Unicode characters: `symbols[k]` has the id k + 5.

    Encoding is one UTF-32 conversion and one table look-up over all code points.
    """

    kind = "char"
    pad, unk, bos, eos, sep = PAD, UNK, BOS, EOS, SEP

    def __init__(self, symbols: Sequence[str], *, lowercase: bool = False) -> None:
        self.symbols = tuple(symbols)
        self.lowercase, self.lossless = lowercase, not lowercase
        self.vocab_size = FIRST + len(self.symbols)
        codes = np.frombuffer("".join(self.symbols).encode("utf-32-le"), np.uint32)
        self._ids = np.full(0x110000, UNK, np.int32)
        self._ids[codes] = np.arange(FIRST, self.vocab_size)
        known = int(self._ids[ord("\n")])
        self.newline = EOS if known == UNK else known  # made for single lines, it has no line break among its symbols
        surfaces = ["", "\ufffd", "", "", "", *self.symbols]
        self._surfaces = SurfaceTable([surface.encode() for surface in surfaces], lead=[0] * len(surfaces))
        self.fingerprint = fingerprint_of(self._options(), *self.symbols)

    def __repr__(self) -> str:
        return described(self)

    def encode(self, lines: Sequence[str]) -> Ragged:
        """Return the characters of every line as ids."""
        offsets = np.zeros(len(lines) + 1, np.int64)
        with naming_surrogates(lines):
            lines = prepared(lines, self.lowercase)
            np.cumsum(np.fromiter(map(len, lines), np.int64, len(lines)), out=offsets[1:])
            ids = np.empty(offsets[-1], np.int32)
            # Some lines at a time, so that codes and ids stay in the processor's cache.
            for at in range(0, len(lines), _LINES):
                codes = np.frombuffer("".join(lines[at : at + _LINES]).encode("utf-32-le"), np.uint32)
                ids[offsets[at] : offsets[at] + len(codes)] = self._ids.take(codes)
        return Ragged(torch.from_numpy(ids), torch.from_numpy(offsets))

    def decode(self, ids: Ragged | Sequence[Sequence[int]]) -> list[str]:
        """Return the text of every row; `unk` is U+FFFD."""
        return self._surfaces.texts(checked_rows(ids, self.vocab_size))

    def encode_bytes(self, text: Ragged) -> Ragged:
        """Return the characters of every row as ids."""
        if self.lowercase:
            return encode_as_lines(self, text)
        found = code_points(text)
        if found is None:
            return encode_as_lines(self, text)
        codes, offsets = found
        return Ragged(torch.from_numpy(self._ids).to(codes.device)[codes], offsets)

    def decode_bytes(self, ids: Ragged) -> Ragged:
        """Return the characters of every row."""
        return self._surfaces.decode(ids)

    def encode_stream(self, text: str) -> Tensor:
        """Return the characters of the text, newlines included."""
        return lines_to_stream(self, text) if self.newline == EOS else self.encode([text]).values

    def decode_stream(self, ids: Sequence[int]) -> str:
        """Return the text of the characters."""
        return stream_to_lines(self, ids) if self.newline == EOS else self.decode([ids])[0]

    def id_to_token(self, i: int) -> str:
        """Return the character."""
        return token_of(i, self.symbols)

    def token_to_id(self, token: str) -> int:
        """Return the id of a character or special."""
        if token in SPECIALS:
            return SPECIALS.index(token)
        return int(self._ids[ord(token)]) if len(token) == 1 else UNK

    def surfaces(self) -> list[str]:
        """Return the characters."""
        return [""] * FIRST + list(self.symbols)

    def unknown(self, line: str) -> list[str]:
        """Return the characters outside the vocabulary."""
        line = line.lower() if self.lowercase else line
        return [character for character in line if self._ids[ord(character)] == UNK]

    def save(self, folder: Path) -> None:
        """Write tokenizer.json and vocab.txt."""
        save_files(folder, self._options(), self.fingerprint, self.symbols)

    def _options(self) -> dict[str, Any]:
        return {"kind": self.kind, "lowercase": self.lowercase}


def code_points(text: Ragged) -> tuple[Tensor, Tensor] | None:
    """Return the characters of UTF-8 rows as (C,) int64 code points, and row offsets; None for what is not UTF-8."""
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
