"""A SentencePiece .model file, read by hand, and whether it can be encoded word by word.

The file is one protocol buffer message (sentencepiece_model.proto): pieces are field 1, the trainer's options field 2,
the normaliser's field 3. Reading it here needs no protobuf, and what matters is decided from the pieces and rules
themselves: a trainer's options may not show what was done to a model later.
"""

import hashlib
import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from seqgen.core.errors import DataError
from seqgen.data.tokenizers.wordtable import Learnt, SurfaceTable, chunks_of

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
    scores: tuple[float, ...]
    """Log-probability (unigram) or rank of the merge (bpe) of every id."""
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
    denormalizes: bool
    """Decoding applies rules of its own."""

    @property
    def lossless(self) -> bool:
        """Whether text in known pieces comes back as it was."""
        changed = self.merge_spaces or self.charsmap or self.denormalizes or self.marker_is_suffix
        return self.escape_spaces and not changed


def read_model(content: bytes) -> PieceModel:
    """Return the parts of a .model file. Raises DataError if the bytes are none."""
    pieces: list[str] = []
    types: list[int] = []
    scores: list[float] = []
    trainer: dict[int, int | bytes] = {}
    normalizer: dict[int, int | bytes] = {}
    denormalizer: dict[int, int | bytes] = {}
    try:
        for number, value in _fields(content):
            if number == 1:
                piece = dict(_fields(_message(value)))
                pieces.append(_message(piece.get(1, b"")).decode())
                scores.append(struct.unpack("<f", _message(piece.get(2, bytes(4))))[0])
                types.append(int(piece.get(3, NORMAL)))
            elif number == 2:
                trainer.update(_fields(_message(value)))
            elif number == 3:
                normalizer.update(_fields(_message(value)))
            elif number == 5:
                denormalizer.update(_fields(_message(value)))
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
        scores=tuple(scores),
        model_type=model_type,
        marker_is_suffix=bool(trainer.get(24, 0)),
        unknown_surface=unknown_surface,
        dummy_prefix=bool(normalizer.get(3, 1)),
        merge_spaces=bool(normalizer.get(4, 1)),
        escape_spaces=bool(normalizer.get(5, 1)),
        charsmap=_message(normalizer.get(2, b"")),
        denormalizes=bool(denormalizer.get(2, b"")),
    )


def _message(value: int | bytes) -> bytes:
    if not isinstance(value, bytes):
        raise TypeError("a length-delimited field was expected")
    return value


def _fields(content: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield (number, value) of every field of a message: integers, or bytes for strings, messages and floats."""
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
    """Return a variable-length integer and where it ends."""
    value = shift = 0
    while True:
        byte = content[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7


# -------------------------------------------------------------------------------------------------- word by word


def why_rows(model: PieceModel) -> str:
    """Return why rows have to be encoded whole, or "" where every word can be encoded by itself.

    It can where no piece reaches over a word marker and no rule of the normaliser over a space. The score of a unigram
    segmentation is summed over a row in float32, so equal ids also take a guard against near ties: see `PieceLearner`.
    """
    symbols = [p for p, t in zip(model.pieces, model.types, strict=True) if t == USER_DEFINED]
    matched = [p for p, t in zip(model.pieces, model.types, strict=True) if t in (NORMAL, USER_DEFINED, UNUSED)]
    inner = [p[:-1].rstrip(MARKER) if model.marker_is_suffix else p.lstrip(MARKER) for p in matched]
    crossing = [p for p, middle in zip(matched, inner, strict=True) if MARKER in middle]
    if model.model_type == "word":
        return "neighbouring unknown words become one id in a word model"
    if not model.escape_spaces:
        return "the model does not mark spaces (escape_whitespaces is off)"
    if MARKER not in matched:
        return "the word marker is no piece, so unknown characters join across words"
    if model.marker_is_suffix and not (model.merge_spaces and model.dummy_prefix):
        return "the word marker is a suffix while spaces are kept or no space is added"
    spaced = next((symbol for symbol in symbols if " " in symbol or MARKER in symbol), None)
    if spaced is not None:
        return f"the user symbol {spaced!r} holds a space"
    if crossing:
        return f"{len(crossing)} pieces reach over a word marker, for example {crossing[0]!r}"
    if model.model_type == "unigram" and any(
        score > 0 for score, t in zip(model.scores, model.types, strict=True) if t in (NORMAL, USER_DEFINED, UNUSED)
    ):
        return "a piece's score is above zero, so no log-probability"
    if charsmap_has(model.charsmap, 0x20):
        return "a rule of the normaliser reads a space"
    return ""


def charsmap_has(charsmap: bytes, byte: int) -> bool:
    """Return whether a rule of a compiled normaliser reads this byte anywhere.

    The rules' keys are a double-array trie (Darts-clone): a unit's lowest eight bits are the byte it is reached by, its
    children stand at its own place xor its offset xor their byte. Unused units hold any byte, so each that has the one
    looked for is followed up to the root.
    """
    if not charsmap:
        return False
    size = struct.unpack_from("<I", charsmap)[0]
    units = np.frombuffer(charsmap, "<u4", size // 4, 4).astype(np.int64)
    leaf = units >> 31 == 1
    place = np.arange(len(units))
    base = place ^ ((units >> 10) << ((units & 0x200) >> 6))
    inner = place[~leaf]
    inner = inner[np.argsort(base[inner], kind="stable")]
    bases = base[inner]
    wanted = place[~leaf & (units & 0xFF == byte) & (place > 0)]
    seen = np.zeros(len(units), bool)
    while len(wanted):
        seen[wanted] = True
        parents_base = wanted ^ (units[wanted] & 0xFF)
        first, last = np.searchsorted(bases, parents_base), np.searchsorted(bases, parents_base, side="right")
        parents = np.unique(np.concatenate([inner[i:j] for i, j in zip(first, last, strict=True)]))
        if len(parents) and parents[0] == 0:
            return True
        wanted = parents[~seen[parents]]
    return False


_FEW_ROWS = 16
"""Rows that are encoded one by one: for a list of them SentencePiece starts a thread, which takes 20 us."""

_FARTHEST = 2.0**20
"""Weight from which on rows with any second segmentation are encoded whole."""


class PieceLearner:
    """A SentencePiece model as a word table sees it; only for models of which `why_rows` says "".

    A chunk is encoded by itself, a later one with the space before it, or with the one that SentencePiece puts before
    every text. Where that is not sure to be what it gives in a row, the chunk's reach is -1 and its rows are encoded
    whole: with a marker in the text itself, with nothing or a marker left at its end by the normaliser, if it matters.
    Unigram: SentencePiece sums scores over a row in float32, so where the best two segmentations of a word are nearly
    equal, which one wins depends on the row. Each addition errs by at most half a unit in the last place of the row's
    score; the ids are sure while the additions of both segmentations together err by less than the gap between them.
    `by_word` leaves ties as they fall in a word by itself: a word then has the same ids in every row.
    """

    def __init__(self, content: bytes, *, by_word: bool = False) -> None:
        from sentencepiece import SentencePieceProcessor, __version__

        model = read_model(content)
        self.model = model
        self.by_word = by_word and model.model_type == "unigram"
        self.key = hashlib.sha256(content).hexdigest() + __version__ + (":word" if self.by_word else "")
        # Runs of spaces are one marker, which every word gets, or each is one, also the first chunk's own.
        self.first_apart = not (model.merge_spaces and model.dummy_prefix)
        try:
            self.processor = SentencePieceProcessor(model_proto=content)
        except RuntimeError as error:
            raise DataError(
                f"a model that SentencePiece refuses ({error}); expected one as its trainer wrote it"
            ) from None
        # A later message adds to the normaliser's options: field 3 of field 3 is add_dummy_prefix.
        further = content + bytes([0x1A, 2, 0x18, model.merge_spaces])
        self._further = SentencePieceProcessor(model_proto=further) if self.first_apart else self.processor
        self._empty_matters = not model.dummy_prefix or model.marker_is_suffix
        self._end_matters = not model.merge_spaces and any(
            piece.startswith(2 * MARKER) for piece, t in zip(model.pieces, model.types, strict=True) if t != CONTROL
        )
        self._unknown = model.types.index(UNKNOWN)
        self._ends_in_marker = [piece.endswith(MARKER) for piece in model.pieces]
        self._is_marker = [not piece.strip(MARKER) for piece in model.pieces]

    def rows(self, rows: Sequence[str | bytes]) -> list[list[int]]:
        """Return SentencePiece's ids of rows, or those of their words where no word's are unsure."""
        if not self.by_word:
            return self._whole(rows)
        cut = [chunks_of(row.encode() if isinstance(row, str) else row) for row in rows]
        first = self._learnt(list(dict.fromkeys(chunks[0] for chunks in cut if chunks)), True)
        later = self._learnt(list(dict.fromkeys(chunk for chunks in cut for chunk in chunks[1:])), False)
        made: list[list[int]] = []
        for row, chunks in zip(rows, cut, strict=True):
            known = [first[chunk] for chunk in chunks[:1]] + [later[chunk] for chunk in chunks[1:]]
            sure = all(ids is not None for ids in known)
            made.append([i for ids in known for i in ids or ()] if sure else self._whole([row])[0])
        return made

    def _learnt(self, chunks: list[bytes], first: bool) -> dict[bytes, Sequence[int] | None]:
        """Return the ids of chunks; None for those whose rows have to be encoded whole."""
        if not chunks:
            return {}
        learnt = self.learn(chunks, first)
        sure = (learnt.reach >= 0).tolist()
        return {chunk: ids if s else None for chunk, ids, s in zip(chunks, learnt.ids, sure, strict=True)}

    def _whole(self, rows: Any) -> list[list[int]]:
        if len(rows) < _FEW_ROWS:
            return [self.processor.encode(row) for row in rows]
        ids: list[list[int]] = self.processor.encode(rows, num_threads=1)
        return ids

    def learn(self, chunks: list[bytes], first: bool) -> Learnt:
        """Return SentencePiece's ids of chunks, and how far they hold."""
        processor = self.processor if first else self._further
        if self.model.merge_spaces:
            # A chunk of spaces alone, at the end of a row, is nothing.
            chunks = [chunk.strip(b" ") for chunk in chunks]
        elif not first:
            chunks = [b" " + chunk for chunk in chunks]
        ids: list[list[int]] = processor.encode(chunks, num_threads=1)
        reach, weight = np.full(len(chunks), np.inf), np.zeros(len(chunks))
        marker = MARKER.encode()
        for number, (chunk, row) in enumerate(zip(chunks, ids, strict=True)):
            if not chunk.strip(b" "):
                continue
            if (
                marker in chunk
                or (self._empty_matters and all(self._is_marker[i] for i in row))
                or (self._end_matters and row and self._ends_in_marker[row[-1]])
            ):
                reach[number] = -1.0
            elif self.model.model_type == "unigram" and row and not self.by_word:
                reach[number], weight[number] = self._tie(processor, chunk, row)
        return Learnt(ids, reach, weight)

    def surfaces(self, *, left_out: Sequence[int]) -> SurfaceTable:
        """Return the table that decodes as SentencePiece does; special ids `left_out` may lie behind the model's own.

        Left to SentencePiece: rows with byte pieces, which may be no characters; rows that begin with markers alone
        where runs of spaces are merged, of which it drops as many as there are; and all rows of models that have rules
        for decoding or write the marker behind a word.
        """
        model = self.model
        size = max(len(model.pieces), 1 + max(left_out, default=0))
        surfaces, lead = [b""] * size, [0] * size
        for i, (piece, t) in enumerate(zip(model.pieces, model.types, strict=True)):
            if t == UNKNOWN:
                surfaces[i] = model.unknown_surface.encode()
            elif t != CONTROL and i not in left_out:
                surfaces[i] = piece.replace(MARKER, " ").encode()
                lead[i] = int(piece.startswith(MARKER) and (model.dummy_prefix or model.merge_spaces))
        if model.denormalizes or model.marker_is_suffix:
            alone = [i for i in range(size) if surfaces[i]]
        else:
            alone = [i for i, t in enumerate(model.types) if t == BYTE]
        alone_first = [i for i, marker in enumerate(self._is_marker) if marker and surfaces[i] and model.merge_spaces]
        return SurfaceTable(surfaces, lead=lead, alone=alone, alone_first=alone_first, rows=self._decode)

    def _decode(self, rows: list[list[int]]) -> list[str]:
        # Row by row: for a list without rows SentencePiece gives one text. It knows nothing of added special ids.
        size = len(self.model.pieces)
        return [self.processor.decode([i for i in row if i < size]) for row in rows]

    def _tie(self, processor: Any, chunk: bytes, row: list[int]) -> tuple[float, float]:
        """Return up to which weight of its row a chunk's segmentation is sure, and its own weight."""
        nbest: bytes = processor.nbest_encode(chunk, nbest_size=2, out_type="serialized_proto")
        texts = [_message(text) for number, text in _fields(nbest) if number == 1]
        # A text's pieces are its field 2, its score comes last: the key 0x1d and a float.
        scores = [struct.unpack("<f", text[-4:])[0] for text in texts]
        weight = max(map(abs, scores))
        if len(texts) == 1:
            return math.inf, weight
        additions = sum(number == 2 for text in texts for number, _ in _fields(text))
        if self._unknown in row:
            # Neighbouring unknown characters are one piece here, though each was added by itself.
            additions += 2 * len(processor.normalize(chunk))
        # The scores themselves are sums in float32.
        gap = abs(scores[0] - scores[1]) - additions * _last_place(weight)
        if gap <= 0:
            return 0.0, weight
        # Half a unit in the last place of w, 2 ** (floor(log2 w) - 23), per addition has to be less than the gap.
        # A thousandth is left for w's own rounding.
        return min(_FARTHEST, 2.0 ** (math.ceil(math.log2(gap / additions)) + 24) / 1.001), weight


def _last_place(value: float) -> float:
    """Return one unit in the last place of a float32 near this value."""
    return float(np.spacing(np.float32(value)))
