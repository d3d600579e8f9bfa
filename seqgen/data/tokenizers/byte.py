"""Bytes: any text in 261 ids, lossless."""

import re
from collections.abc import Collection, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from seqgen.data.ragged import Ragged, widen
from seqgen.data.tokenizers.common import (
    byte_surface,
    checked_rows,
    described,
    encode_as_lines,
    fingerprint_of,
    naming_surrogates,
    prepared,
    save_files,
)
from seqgen.data.tokenizers.protocol import BOS, EOS, FIRST, PAD, SEP, SPECIALS, UNK

if TYPE_CHECKING:
    from seqgen.data.tokenizers.kinds import TokenizerConfig

KINDS = {"byte": ("lowercase",)}
LINE_BREAKS = True


def train(config: "TokenizerConfig", kind: str, lines: Collection[str], *, seed: int) -> "ByteTokenizer":
    """Return the tokenizer of bytes; there is nothing to learn."""
    return ByteTokenizer(lowercase=config.lowercase)


def load(stored: dict[str, Any], folder: Path) -> "ByteTokenizer":
    """Return a saved tokenizer."""
    return ByteTokenizer(lowercase=stored["lowercase"])


class ByteTokenizer:
    """UTF-8 bytes: id = byte + 5. Any text, lossless, 261 ids."""

    kind = "byte"
    vocab_size = FIRST + 256
    pad, unk, bos, eos, sep = PAD, UNK, BOS, EOS, SEP
    newline = FIRST + ord("\n")

    def __init__(self, *, lowercase: bool = False) -> None:
        self.lowercase, self.lossless = lowercase, not lowercase
        self.fingerprint = fingerprint_of(self._options())

    def __repr__(self) -> str:
        return described(self)

    def encode(self, lines: Sequence[str]) -> Ragged:
        """Return the bytes of every line as ids."""
        with naming_surrogates(lines):
            text = Ragged.from_text(prepared(lines, self.lowercase))
        return Ragged(text.values.to(torch.int32) + FIRST, text.offsets)

    def decode(self, ids: Ragged | Sequence[Sequence[int]]) -> list[str]:
        """Return the text of every row; bytes that are not UTF-8 become U+FFFD."""
        text = self.decode_bytes(checked_rows(ids, self.vocab_size))
        content = text.values.numpy().tobytes()
        return [content[first:end].decode(errors="replace") for first, end in pairwise(text.offsets.tolist())]

    def encode_bytes(self, text: Ragged) -> Ragged:
        """Return the bytes themselves, lossless even where they are not UTF-8."""
        if self.lowercase:
            return encode_as_lines(self, text)
        return Ragged(text.values.to(torch.int32) + FIRST, text.offsets)

    def decode_bytes(self, ids: Ragged) -> Ragged:
        """Return the bytes themselves."""
        values = widen(ids.values)
        kept = values >= FIRST
        before = torch.cat([kept.new_zeros(1, dtype=torch.int64), kept.cumsum(0)])
        return Ragged((values[kept] - FIRST).to(torch.uint8), before[ids.offsets])

    def encode_stream(self, text: str) -> Tensor:
        """Return the bytes of the text, newlines included."""
        return self.encode([text]).values

    def decode_stream(self, ids: Sequence[int]) -> str:
        """Return the text of the bytes."""
        return self.decode([ids])[0]

    def id_to_token(self, i: int) -> str:
        """Return `<0x41>` for the byte 0x41."""
        return SPECIALS[i] if i < FIRST else f"<0x{i - FIRST:02X}>"

    def token_to_id(self, token: str) -> int:
        """Return the id of `<0x41>`, of a special, or of a one-byte character itself."""
        if token in SPECIALS:
            return SPECIALS.index(token)
        if match := re.fullmatch(r"<0x([0-9A-F]{2})>", token):
            return FIRST + int(match[1], 16)
        return FIRST + ord(token) if len(token) == 1 and token.isascii() else UNK

    def surfaces(self) -> list[str]:
        """Return ASCII characters; U+FFFD for the bytes of longer ones."""
        return [""] * FIRST + [byte_surface(byte) for byte in range(256)]

    def unknown(self, line: str) -> list[str]:
        """Return nothing: every byte has an id."""
        return []

    def save(self, folder: Path) -> None:
        """Write tokenizer.json."""
        save_files(folder, self._options(), self.fingerprint)

    def _options(self) -> dict[str, Any]:
        return {"kind": self.kind, "lowercase": self.lowercase}
