"""torchtext's vocabularies and this package's word tokenizer, each from the other.

torchtext is at its end of life: its last release, 0.18, does not load beside torch 2.4 or newer. So nothing here
imports it: `word_tokenizer` takes whatever has a vocabulary's verbs, and `as_vocab` gives an object with the same verbs
and the same errors to code that was written for one. `docs/torchtext.md` has a table of calls.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from seqgen.core.errors import DataError
from seqgen.data.tokenizers.protocol import SPECIALS, Tokenizer
from seqgen.data.tokenizers.word import WordTokenizer

SPECIAL_NAMES: Mapping[str, str] = {
    **{name: name for name in SPECIALS},
    "<bos>": "<s>",
    "<sos>": "<s>",
    "<eos>": "</s>",
    "[PAD]": "<pad>",
    "[UNK]": "<unk>",
}
"""What is often written into a vocabulary for padding, unknown words and ends, and what it is called here."""


@runtime_checkable
class TorchtextVocab(Protocol):
    """As much of a torchtext `Vocab` as is needed to make a tokenizer of it."""

    def get_itos(self) -> list[str]:
        """Return the token of every index."""


class Vocab:
    """Tokens and their indices with the verbs of a torchtext `Vocab`, and its errors (RuntimeError)."""

    def __init__(self, tokens: Iterable[str] = (), default_index: int | None = None) -> None:
        self._tokens: list[str] = []
        self._indices: dict[str, int] = {}
        self._default = default_index
        for token in tokens:
            self.append_token(token)

    def __repr__(self) -> str:
        return f"Vocab({len(self):,} tokens)"

    def __len__(self) -> int:
        return len(self._tokens)

    def __contains__(self, token: object) -> bool:
        return token in self._indices

    def __getitem__(self, token: str) -> int:
        """Return the index of a token, or the default index if one was set."""
        index = self._indices.get(token, self._default)
        if index is None:
            raise RuntimeError(f"token {token!r} is not in the vocabulary and no default index is set")
        return index

    def __call__(self, tokens: Iterable[str]) -> list[int]:
        """Return the indices of tokens."""
        return self.lookup_indices(tokens)

    def forward(self, tokens: Iterable[str]) -> list[int]:
        """Return the indices of tokens."""
        return self.lookup_indices(tokens)

    def lookup_indices(self, tokens: Iterable[str]) -> list[int]:
        """Return the indices of tokens."""
        return [self[token] for token in tokens]

    def lookup_token(self, index: int) -> str:
        """Return the token of an index."""
        if not 0 <= index < len(self):
            raise RuntimeError(f"index {index} is not in the vocabulary, 0 to {len(self) - 1}")
        return self._tokens[index]

    def lookup_tokens(self, indices: Iterable[int]) -> list[str]:
        """Return the tokens of indices."""
        return [self.lookup_token(int(index)) for index in indices]

    def get_itos(self) -> list[str]:
        """Return the token of every index."""
        return list(self._tokens)

    def get_stoi(self) -> dict[str, int]:
        """Return the index of every token."""
        return dict(self._indices)

    def set_default_index(self, index: int | None) -> None:
        """Set the index of tokens that are not there; None: they are errors."""
        self._default = index

    def get_default_index(self) -> int | None:
        """Return the index of tokens that are not there, or None."""
        return self._default

    def insert_token(self, token: str, index: int) -> None:
        """Put a new token at an index; those from there on move up by one."""
        if not 0 <= index <= len(self):
            raise RuntimeError(f"index {index} is not in the vocabulary, 0 to {len(self)}")
        if token in self._indices:
            raise RuntimeError(f"token {token!r} is in the vocabulary already, at index {self._indices[token]}")
        self._tokens.insert(index, token)
        self._indices.update(zip(self._tokens[index:], range(index, len(self)), strict=True))

    def append_token(self, token: str) -> None:
        """Put a new token at the end."""
        self.insert_token(token, len(self))


def as_vocab(tokenizer: Tokenizer) -> Vocab:
    """Return the vocabulary of a tokenizer, every token at its own id; what is not there is `unk`."""
    tokens = [tokenizer.id_to_token(i) for i in range(tokenizer.vocab_size)]
    return Vocab(tokens, default_index=tokenizer.unk)


def word_tokenizer(
    vocab: TorchtextVocab, *, specials: Mapping[str, str] = SPECIAL_NAMES, lowercase: bool = False
) -> WordTokenizer:
    """Return a word tokenizer that knows the tokens of a torchtext `Vocab` (0.18 or alike), in their order.

    Ids are this package's: five special ones come first, and tokens that `specials` takes for one of them get no other.
    `rows_of` returns the index an id had. TypeError for what is no vocabulary, DataError for one that holds no words.
    """
    if not isinstance(vocab, TorchtextVocab):
        raise TypeError(f"expected a torchtext Vocab (something with get_itos), got {type(vocab).__name__}")
    symbols = [token for token in vocab.get_itos() if token not in specials]
    if not symbols:
        raise DataError("the vocabulary holds nothing but special tokens")
    return WordTokenizer(symbols, lowercase=lowercase)


def rows_of(vocab: TorchtextVocab, tokenizer: Tokenizer, *, specials: Mapping[str, str] = SPECIAL_NAMES) -> Tensor:
    """Return the index in a vocabulary of each id of a tokenizer, (V,) int64, -1 where it has none.

    With it trained embeddings are put in the tokenizer's order: `new[rows >= 0] = old[rows[rows >= 0]]`.
    """
    indices: dict[str, int] = {}
    for index, token in enumerate(vocab.get_itos()):
        indices.setdefault(specials.get(token, token), index)
    tokens: Sequence[str] = [tokenizer.id_to_token(i) for i in range(tokenizer.vocab_size)]
    return torch.tensor([indices.get(token, -1) for token in tokens])
