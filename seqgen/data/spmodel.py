"""A SentencePiece .model file, read by hand: its pieces, trainer options and normaliser, without protobuf.

The file is one protocol buffer message (sentencepiece_model.proto): pieces are field 1, the trainer's options field 2,
the normaliser's field 3.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from seqgen.core.errors import DataError

MARKER = "\u2581"
"""What SentencePiece writes for a space."""

MODEL_TYPES = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
"""Types of pieces."""


@dataclass(frozen=True)
class PieceModel:
    """What decides SentencePiece's ids, as far as this package looks at it."""

    pieces: tuple[str, ...]
    """Text of every id, with markers."""
    types: tuple[int, ...]
    """NORMAL to BYTE for every id."""
    model_type: str
    """unigram, bpe, word or char."""
    marker_is_suffix: bool
    """The marker stands after its word (treat_whitespace_as_suffix)."""
    unknown_surface: str
    """What an unknown id decodes to."""
    dummy_prefix: bool
    """A space is put before every line."""
    merge_spaces: bool
    """Runs of spaces count as one, those at the ends as none (remove_extra_whitespaces)."""
    escape_spaces: bool
    """Spaces become markers; False is unusual."""
    charsmap: bytes
    """The normaliser's compiled rules; empty for identity."""


def read_model(content: bytes) -> PieceModel:
    """The parts of a .model file. Raises DataError if the bytes are none."""
    pieces: list[str] = []
    types: list[int] = []
    trainer: dict[int, int | bytes] = {}
    normalizer: dict[int, int | bytes] = {}
    try:
        for number, value in _fields(content):
            if number == 1:
                piece = dict(_fields(_message(value)))
                pieces.append(_message(piece.get(1, b"")).decode())
                types.append(int(piece.get(3, NORMAL)))
            elif number == 2:
                trainer.update(_fields(_message(value)))
            elif number == 3:
                normalizer.update(_fields(_message(value)))
        model_type = MODEL_TYPES[int(trainer.get(3, 1))]
        unknown_surface = _message(trainer.get(44, b" \xe2\x81\x87 ")).decode()
    except (IndexError, KeyError, TypeError, ValueError, struct.error):
        raise DataError(
            "not a SentencePiece model; expected a .model file as SentencePiece's trainer writes it"
        ) from None
    if not pieces:
        raise DataError("a SentencePiece model without pieces; expected a .model file as its trainer writes it")
    return PieceModel(
        pieces=tuple(pieces),
        types=tuple(types),
        model_type=model_type,
        marker_is_suffix=bool(trainer.get(24, 0)),
        unknown_surface=unknown_surface,
        dummy_prefix=bool(normalizer.get(3, 1)),
        merge_spaces=bool(normalizer.get(4, 1)),
        escape_spaces=bool(normalizer.get(5, 1)),
        charsmap=_message(normalizer.get(2, b"")),
    )


def _message(value: int | bytes) -> bytes:
    if not isinstance(value, bytes):
        raise TypeError("a length-delimited field was expected")
    return value


def _fields(content: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(number, value) of every field of a message: integers, or bytes for strings, messages and floats."""
    at = 0
    while at < len(content):
        key, at = _varint(content, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(content, at)
            yield number, value
            continue
        if wire == 2:
            size, at = _varint(content, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire}")
        if at + size > len(content):
            raise ValueError("cut off inside a field")
        yield number, content[at : at + size]
        at += size


def _varint(content: bytes, at: int) -> tuple[int, int]:
    """A variable-length integer and where it ends."""
    value = shift = 0
    while True:
        byte = content[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
