"""Which kinds of tokenizers there are, found by their files, and the options of all: the section `tokenizer`."""

import functools
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias, cast

from pydantic import Field

from seqgen.data.tokenizers.protocol import KindModule


@functools.cache
def kinds() -> Mapping[str, KindModule]:
    """Return the module of every kind by the kind's name: each file of this folder with a line `KINDS = ...`."""
    found: dict[str, KindModule] = {}
    for path in sorted(resources.files(__package__).iterdir(), key=lambda path: path.name):
        if path.name.endswith(".py") and "\nKINDS = " in path.read_text("utf-8"):
            module = cast(KindModule, importlib.import_module(f"{__package__}.{path.name.removesuffix('.py')}"))
            found |= dict.fromkeys(module.KINDS, module)
    return found


def uses(kind: str, option: str) -> bool:
    """Return whether an option of the section `tokenizer` takes effect with a kind."""
    return kind in kinds() and option in kinds()[kind].KINDS[kind]


def newline_is_character(kind: str) -> bool:
    """Return whether a tokenizer trained on running text reads line breaks as characters, not as ends of lines."""
    return bool(getattr(kinds().get(kind), "LINE_BREAKS", False))


if TYPE_CHECKING:
    Kind: TypeAlias = str
    SourceKind: TypeAlias = str
else:
    Kind = Literal["auto", *kinds()]
    SourceKind = Literal["shared", "auto", *kinds()]


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
