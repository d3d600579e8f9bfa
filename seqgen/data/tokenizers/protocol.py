"""What every tokenizer offers, and what the file of a kind holds."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from seqgen.data.ragged import Ragged

if TYPE_CHECKING:
    from seqgen.data.tokenizers.kinds import TokenizerConfig

SPECIALS = ("<pad>", "<unk>", "<s>", "</s>", "<sep>")
"""Names of the ids 0 to 4: padding, unknown, start, end, separator of a condition and of its fields."""

PAD, UNK, BOS, EOS, SEP = range(5)
FIRST = len(SPECIALS)
"""The first id of a symbol."""


class Tokenizer(Protocol):
    """What every tokenizer offers. Text exists only before encoding and after decoding."""

    @property
    def kind(self) -> str:
        """byte, char, word, bpe or unigram; of given ones also sentencepiece (another type of model) and byte-bpe."""

    @property
    def vocab_size(self) -> int:
        """Number of ids, specials included."""

    @property
    def pad(self) -> int:
        """Id that fills rows."""

    @property
    def unk(self) -> int:
        """Id of everything outside the vocabulary; -1 where nothing is."""

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
        """Return the ids of every line, int32, without special ids around them. DataError for lone surrogates."""

    def decode(self, ids: Ragged | Sequence[Sequence[int]]) -> list[str]:
        """Return the text of every row without special ids; DataError for ids out of range, TypeError for floats."""

    def encode_bytes(self, text: Ragged) -> Ragged:
        """Return the ids of rows of UTF-8 bytes (uint8), on their device; what is not UTF-8 counts as U+FFFD."""

    def decode_bytes(self, ids: Ragged) -> Ragged:
        """Return the text of every row as UTF-8 bytes, on the ids' device; the ids must be in range."""

    def encode_stream(self, text: str) -> Tensor:
        """Return running text as (N,) int32 ids, every line break as `newline`."""

    def decode_stream(self, ids: Sequence[int]) -> str:
        """Return the running text of ids from a stream, every `newline` as a line break."""

    def id_to_token(self, i: int) -> str:
        """Return the token of an id, as it is stored."""

    def token_to_id(self, token: str) -> int:
        """Return the id of a stored token, or `unk`."""

    def surfaces(self) -> list[str]:
        """Return the text each id adds inside a line; "" for specials, U+FFFD for bytes that are no character."""

    def unknown(self, line: str) -> list[str]:
        """Return the parts of a line that would not come back: those that become `unk`, in order."""

    def save(self, folder: Path) -> None:
        """Write the tokenizer's files into a folder, made if need be."""


class KindModule(Protocol):
    """The file of a kind: with these names in this folder it is found, trained and loaded.

    An optional `LINE_BREAKS = True` says that running text keeps its line breaks as characters.
    """

    @property
    def KINDS(self) -> Mapping[str, Collection[str]]:  # noqa: N802
        """Values of `tokenizer.kind` this file provides, each with the options of the section that it uses."""

    def train(self, config: "TokenizerConfig", kind: str, lines: Collection[str], *, seed: int) -> Tokenizer:
        """Return a tokenizer for the text; equal lines, options and seed give equal ids."""

    def load(self, stored: dict[str, Any], folder: Path) -> Tokenizer:
        """Return a saved tokenizer from its options in tokenizer.json and the other files of its folder."""
