"""Byte-level BPE as GPT-2 has it (Radford et al. 2019), read from Hugging Face's files; needs the extra `hf`.

Given, never trained here, so it is no value of `tokenizer.kind`. Its ids are those of the `tokenizers` library. One end
token stands for start, end, separator and padding, as in GPT-2 itself; every byte has an id, so nothing is unknown.
"""

import json
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from torch import Tensor

from seqgen.core.errors import DataError, MissingExtraError
from seqgen.core.files import read_json, write_text
from seqgen.data.ragged import Ragged
from seqgen.data.tokenizers.common import (
    checked_rows,
    described,
    encode_as_lines,
    fingerprint_of,
    naming_surrogates,
    prepared,
    save_files,
)
from seqgen.data.tokenizers.wordtable import SurfaceTable

KIND = "byte-bpe"
_FILE = "byte_bpe.json"
_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}


def load(stored: dict[str, Any], folder: Path) -> "ByteBpeTokenizer":
    """Return a saved tokenizer."""
    return ByteBpeTokenizer((folder / _FILE).read_text("utf-8"), end=stored["end"])


def read_hugging_face(folder: Path, *, end: int) -> "ByteBpeTokenizer":
    """Return the tokenizer of tokenizer.json, or of vocab.json and merges.txt; `end` is the id of <|endoftext|>.

    DataError where the files are missing or describe another kind of tokenizer, MissingExtraError without `tokenizers`.
    """
    whole, parts = folder / "tokenizer.json", [folder / "vocab.json", folder / "merges.txt"]
    if whole.is_file():
        return _naming(whole, whole.read_text("utf-8", errors="replace"), end)
    if missing := [path.name for path in parts if not path.is_file()]:
        raise DataError(f"{folder}: no tokenizer.json, and in its place no {' and no '.join(missing)}")
    lines = parts[1].read_text("utf-8", errors="replace").split("\n")
    merges = [line for line in lines if line and not line.startswith("#version")]
    byte_level = {**_BYTE_LEVEL, "trim_offsets": True}
    described = {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": byte_level,
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": read_json(parts[0]), "merges": merges},
    }
    return _naming(parts[0], json.dumps(described), end)


def _naming(path: Path, described: str, end: int) -> "ByteBpeTokenizer":
    try:
        return ByteBpeTokenizer(described, end=end)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


class ByteBpeTokenizer:
    """A tokenizer of the `tokenizers` library, its own ids untouched."""

    kind = KIND
    lossless = True
    unk = -1

    def __init__(self, described: str, *, end: int) -> None:
        try:
            from tokenizers import Tokenizer
        except ImportError:
            raise MissingExtraError(
                "GPT-2's tokenizer needs the library tokenizers; run: pip install 'neural-seqgen[hf]'"
            ) from None
        _check(described)
        try:
            self._theirs = Tokenizer.from_str(described)
        except Exception as error:  # the library raises nothing narrower
            raise DataError(f"not a tokenizer that the library tokenizers can read ({error})") from None
        self._theirs.no_padding()
        self._theirs.no_truncation()
        # the text <|endoftext|> is text, and cannot end a line
        self._theirs.encode_special_tokens = True
        self.described = described
        self.vocab_size = int(self._theirs.get_vocab_size(with_added_tokens=True))
        tokens = [self._theirs.id_to_token(i) or "" for i in range(self.vocab_size)]
        if gaps := [i for i, token in enumerate(tokens) if not token]:
            raise DataError(f"no token has the id {gaps[0]}, though there are {self.vocab_size}")
        if not 0 <= end < self.vocab_size:
            raise DataError(f"eos_token_id = {end} is outside the vocabulary, 0 to {self.vocab_size - 1}")
        added = self._theirs.get_added_tokens_decoder()
        self._special = {end, *(i for i, token in added.items() if token.special)}
        byte_of = byte_values()
        if lacking := sorted(set(byte_of) - set(tokens)):
            raise DataError(f"lacks {len(lacking)} of the 256 single bytes, which byte-level BPE has")
        surfaces = [
            b"" if i in self._special else token.encode() if i in added else bytes(byte_of[c] for c in token)
            for i, token in enumerate(tokens)
        ]
        partial = [i for i, surface in enumerate(surfaces) if not _is_utf8(surface)]
        self._surfaces = SurfaceTable(surfaces, lead=[0] * len(surfaces), alone=partial, rows=self._decode)
        self.pad = self.bos = self.eos = self.sep = end
        self.newline = tokens.index(next(c for c, byte in byte_of.items() if byte == ord("\n")))
        self.fingerprint = fingerprint_of(self._options(), sha256(described.encode()).hexdigest())

    def __repr__(self) -> str:
        return described(self)

    def encode(self, lines: Sequence[str]) -> Ragged:
        """Return the library's ids of every line."""
        with naming_surrogates(lines):
            lines = list(prepared(lines, False))
            for line in lines:
                line.encode()
            return Ragged.from_lists([row.ids for row in self._theirs.encode_batch(lines, add_special_tokens=False)])

    def decode(self, ids: Ragged | Sequence[Sequence[int]]) -> list[str]:
        """Return the text of every row; bytes that are not UTF-8 become U+FFFD."""
        return self._surfaces.texts(checked_rows(ids, self.vocab_size))

    def encode_bytes(self, text: Ragged) -> Ragged:
        """Return the library's ids of every row."""
        return encode_as_lines(self, text)

    def decode_bytes(self, ids: Ragged) -> Ragged:
        """Return the text of every row."""
        return self._surfaces.decode(ids)

    def encode_stream(self, text: str) -> Tensor:
        """Return the ids of the text, line breaks included, which may be one token with what stands beside them."""
        return self.encode([text]).values

    def decode_stream(self, ids: Sequence[int]) -> str:
        """Return the text of the ids."""
        return self.decode([ids])[0]

    def id_to_token(self, i: int) -> str:
        """Return the token as the library stores it: a character for each byte."""
        return str(self._theirs.id_to_token(i))

    def token_to_id(self, token: str) -> int:
        """Return the id of a stored token."""
        found = self._theirs.token_to_id(token)
        return self.unk if found is None else int(found)

    def surfaces(self) -> list[str]:
        """Return the text of each token; U+FFFD for bytes that are no character by themselves."""
        return self.decode([[i] for i in range(self.vocab_size)])

    def unknown(self, line: str) -> list[str]:
        """Return nothing: every byte has an id."""
        return []

    def save(self, folder: Path) -> None:
        """Write tokenizer.json, and the library's file beside it."""
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / _FILE, self.described)
        save_files(folder, self._options(), self.fingerprint)

    def _decode(self, rows: list[list[int]]) -> list[str]:
        kept = [[i for i in row if i not in self._special] for row in rows]
        return [str(text) for text in self._theirs.decode_batch(kept, skip_special_tokens=False)]

    def _options(self) -> dict[str, Any]:
        return {"kind": self.kind, "end": self.eos}


def _check(described: str) -> None:
    """Raise DataError unless a tokenizer.json is of byte-level BPE that gives every text back."""
    try:
        parts = json.loads(described)
    except (ValueError, RecursionError) as error:
        raise DataError(f"not JSON ({error})") from None
    parts = parts if isinstance(parts, dict) else {}
    found = {name: parts.get(name) or {} for name in ("model", "normalizer", "pre_tokenizer", "decoder")}
    kinds = {name: part.get("type") if isinstance(part, dict) else part for name, part in found.items()}
    wanted = {"model": "BPE", "normalizer": None, "pre_tokenizer": "ByteLevel", "decoder": "ByteLevel"}
    for name, kind in wanted.items():
        if kinds[name] != kind:
            raise DataError(f"{name} is {kinds[name]}, expected {kind}: only GPT-2's byte-level BPE can be read")
    if found["model"].get("dropout"):
        raise DataError("model.dropout draws other ids each time, which no run can use")
    for option in ("add_prefix_space", "use_regex"):
        if found["pre_tokenizer"].get(option, True) != _BYTE_LEVEL[option]:
            raise DataError(f"pre_tokenizer.{option} is not {_BYTE_LEVEL[option]}: text would not come back as it was")


def byte_values() -> dict[str, int]:
    """Return the byte behind each of GPT-2's 256 characters: its own where it is printable, else the next from 256."""
    own = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in own]
    return {chr(byte): byte for byte in own} | {chr(256 + n): byte for n, byte in enumerate(rest)}


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True
