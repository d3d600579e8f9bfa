"""Two tokenizers in one run: the text's own, and another that reads conditions, with ids after those of the text."""

from hashlib import sha256
from pathlib import Path
from typing import Any, cast

from seqgen.core.errors import DataError
from seqgen.data.tokenizers.common import described
from seqgen.data.tokenizers.protocol import Tokenizer

FOLDER = "source"
"""Where the tokenizer of conditions is saved, in the folder of the text's own."""


class Paired:
    """The tokenizer of a text, in all but what conditions are read by."""

    def __init__(self, target: Tokenizer, source: Tokenizer) -> None:
        self.target, self.source = target, source
        joint = f"{target.fingerprint}\n{source.fingerprint}"
        self.fingerprint = sha256(joint.encode()).hexdigest()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.target, name)

    def __repr__(self) -> str:
        return described(self)

    def id_to_token(self, i: int) -> str:
        """Return the token of an id of either."""
        own = i - self.target.vocab_size
        return self.target.id_to_token(i) if own < 0 else self.source.id_to_token(own)

    def save(self, folder: Path) -> None:
        """Write both into a folder, the second below the first."""
        self.target.save(folder)
        self.source.save(folder / FOLDER)


def paired(target: Tokenizer, source: Tokenizer) -> Tokenizer:
    """Return a tokenizer of texts that reads conditions by another."""
    return cast(Tokenizer, Paired(target, source))


def source_of(tokenizer: Tokenizer) -> Tokenizer | None:
    """Return what reads conditions in a tokenizer's place; None: it reads them itself."""
    return tokenizer.source if isinstance(tokenizer, Paired) else None


def check_paired(tokenizer: Tokenizer, own: bool, folder: Path) -> None:
    """Raise DataError where a saved tokenizer has a second one and the settings say otherwise, or the other way."""
    if (source_of(tokenizer) is not None) != own:
        raise DataError(
            f"{folder / FOLDER}: {'missing' if own else 'a tokenizer of conditions'}, but data.source_tokenizer says "
            f"{'that conditions have a tokenizer of their own' if own else 'shared'}; restore the folder"
        )
