"""WordTable: encode text by looking up whole words, with array operations on the CPU (numpy) or a GPU (torch).

Rows are cut before every run of spaces. Every distinct chunk, a word with the spaces before it, is given to the
tokenizer once; its ids are kept, and from then on text is encoded by hash, table and ragged gather. The ids are the
tokenizer's own for every row: where a chunk's ids are not sure to be the same in this row, the tokenizer encodes the
whole row. `SurfaceTable` is the inverse. One algorithm over two sets of operations; all numbers are int64, products
wrap and shifts are masked, so that both give the same bits.
Shapes: R rows, N bytes, C chunks, T ids, E entries of the table.
"""

import hashlib
import io
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor

from seqgen.core.files import ARRAY_FAULTS, write_bytes
from seqgen.data.ragged import Ragged, stacked, utf8, widen

Array: TypeAlias = Any
"""A numpy array or a torch tensor, as the operations are."""

_LONGEST = 255
"""Bytes of a chunk that is kept; longer ones hardly recur."""

_MOST_IDS = 255
"""Ids of a chunk that is kept: their number has eight bits of a table value."""

_MOST_ENTRIES = 1 << 21
"""Chunks that are kept, some 300 bytes each; rows with later ones are left to the tokenizer."""

_NO_WORDS = 24
"""Bytes per chunk of a block from which on it counts as text without spaces, whose chunks do not recur."""

_NEAR, _HEAVY = 65536, 256
"""A chunk of less reach or of more weight is looked at in every row; all chunks of rows that may weigh as much are."""

_FEW_BYTES = 2000
"""Text below which the tokenizer itself is faster than some sixty array operations."""

_CPU_BLOCK, _GPU_BLOCK = 1 << 19, 1 << 26
"""Bytes encoded at once: what fits a processor's cache, or keeps a GPU busy. Ids decoded at once are a part of it."""

_LOW_27, _LOW_54 = (1 << 27) - 1, (1 << 54) - 1
_LINES = 4096
"""Lines handed over together."""

_FORMAT = 1
_LOG = logging.getLogger("seqgen")


def _signed(value: int) -> int:
    """Return the int64 with the low 64 bits of an integer."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >= 1 << 63 else value


_ODD_1, _ODD_2, _ODD_3 = map(_signed, (0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 0x9E3779B97F4A7C15))
_LOW_56 = (1 << 56) - 1
_BYTES = np.array([_signed((1 << 8 * min(n, 8)) - 1) for n in range(_LONGEST + 1)])
"""Masks of the lowest n bytes of a word; all eight from n = 8 on."""


# -------------------------------------------------------------------------------------------- two sets of operations


_TORCH_DTYPES = {"int64": torch.int64, "int32": torch.int32, "uint8": torch.uint8, "bool": torch.bool}


class _Numpy:
    """Array operations on the CPU."""

    block, ids = _CPU_BLOCK, _CPU_BLOCK >> 4

    def array(self, tensor: Tensor) -> Array:
        return tensor.numpy()

    def place(self, array: np.ndarray) -> Array:
        return array

    def fetch(self, array: Array) -> np.ndarray:
        return np.asarray(array)

    def tensor(self, array: Array) -> Tensor:
        return torch.from_numpy(array)

    def full(self, count: int, value: int | bool, dtype: str = "int64") -> Array:
        return np.full(count, value, dtype)

    def arange(self, count: int) -> Array:
        return np.arange(count)

    def nonzero(self, mask: Array) -> Array:
        return np.flatnonzero(mask)

    def take(self, array: Array, index: Array) -> Array:
        return array.take(index, axis=0)

    def where(self, condition: Array, one: Array, other: Array | int) -> Array:
        return np.where(condition, one, other)

    def minimum(self, array: Array, limit: int) -> Array:
        return np.minimum(array, limit)

    def repeat(self, array: Array, counts: Array, total: int) -> Array:
        return array.repeat(counts)

    def sums(self, array: Array) -> Array:
        """Return running sums, 0 first."""
        sums = np.empty(len(array) + 1, array.dtype)
        sums[0] = 0
        np.cumsum(array, out=sums[1:])
        return sums

    def search(self, rising: Array, values: Array, right: bool = False) -> Array:
        return np.searchsorted(rising, values, side="right" if right else "left")

    def concatenate(self, arrays: Sequence[Array]) -> Array:
        return np.concatenate(arrays)

    def unique(self, array: Array) -> tuple[Array, Array]:
        """Return the distinct values, rising, and where one of each stands."""
        return np.unique(array, return_index=True)

    def words(self, buffer: Array) -> Array:
        """Return bytes as 8-byte words, little-endian, with at least 16 zero bytes after them."""
        padded = np.empty(len(buffer) // 8 * 8 + 24, np.uint8)
        padded[: len(buffer)] = buffer
        padded[len(buffer) :] = 0
        return padded.view("<i8")

    def eight(self, words: Array, at: Array) -> Array:
        """Return the eight bytes from each place on as one number."""
        # Two neighbouring words shifted together; a left shift by 64 is none, so it is done in two.
        unsigned, place, bits = words.view("<u8"), at >> 3, ((at & 7) << 3).view(np.uint64)
        high = (unsigned.take(place + 1) << np.uint64(1)) << (np.uint64(63) - bits)
        eight: np.ndarray = ((unsigned.take(place) >> bits) | high).view(np.int64)
        return eight

    def write(self, array: Array, at: Array, values: Array, counts: Array) -> None:
        """Put values at rising places; those of no count may be there or not, others are not overwritten by them."""
        # Of values for one place numpy keeps the last, and those without count come before the one that has some.
        array[at] = values

    def convert(self, array: Array, dtype: str) -> Array:
        return array.astype(dtype)

    def unsigned(self, ids: Array) -> Array:
        """Return stored ids as int64."""
        return ids.astype(np.int64) & 0xFFFF if ids.dtype == np.int16 else ids.astype(np.int64)


class _Torch:
    """The same operations as tensors on any device."""

    block, ids = _GPU_BLOCK, _GPU_BLOCK >> 3

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def array(self, tensor: Tensor) -> Array:
        return tensor

    def place(self, array: np.ndarray) -> Array:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    def fetch(self, array: Array) -> np.ndarray:
        return np.asarray(array.cpu().numpy())

    def tensor(self, array: Array) -> Tensor:
        return torch.as_tensor(array)

    def full(self, count: int, value: int | bool, dtype: str = "int64") -> Array:
        return torch.full((count,), value, dtype=_TORCH_DTYPES[dtype], device=self.device)

    def arange(self, count: int) -> Array:
        return torch.arange(count, device=self.device)

    def nonzero(self, mask: Array) -> Array:
        return mask.nonzero().view(-1)

    def take(self, array: Array, index: Array) -> Array:
        return array.index_select(0, index)

    def where(self, condition: Array, one: Array, other: Array | int) -> Array:
        return torch.where(condition, one, other)

    def minimum(self, array: Array, limit: int) -> Array:
        return array.clamp(max=limit)

    def repeat(self, array: Array, counts: Array, total: int) -> Array:
        return array.repeat_interleave(counts, output_size=total)

    def sums(self, array: Array) -> Array:
        """Return running sums, 0 first."""
        return torch.cat([array.new_zeros(1), array.cumsum(0)])

    def search(self, rising: Array, values: Array, right: bool = False) -> Array:
        return torch.searchsorted(rising, values, right=right)

    def concatenate(self, arrays: Sequence[Array]) -> Array:
        return torch.cat(list(arrays))

    def unique(self, array: Array) -> tuple[Array, Array]:
        """Return the distinct values, rising, and where one of each stands."""
        ordered, order = torch.sort(array, stable=True)
        new = torch.ones_like(ordered, dtype=torch.bool)
        new[1:] = ordered[1:] != ordered[:-1]
        return ordered[new], order[new]

    def words(self, buffer: Array) -> Array:
        """Return bytes as 8-byte words, little-endian, with at least 16 zero bytes after them."""
        padded = torch.zeros(len(buffer) // 8 * 8 + 24, dtype=torch.uint8, device=self.device)
        padded[: len(buffer)] = buffer
        return padded.view(torch.int64)

    def eight(self, words: Array, at: Array) -> Array:
        """Return the eight bytes from each place on as one number."""
        # As above, with the bits that a signed shift fills in cut off.
        place, bits = at >> 3, (at & 7) << 3
        kept = ~((-1 << 1) << (63 - bits))
        low = (self.take(words, place) >> bits) & kept
        return low | ((self.take(words, place + 1) << 1) << (63 - bits))

    def write(self, array: Array, at: Array, values: Array, counts: Array) -> None:
        """Put values at rising places; those of no count may be there or not, others are not overwritten by them."""
        real = self.nonzero(counts > 0)
        array[at[real]] = values[real].to(array.dtype)

    def convert(self, array: Array, dtype: str) -> Array:
        return array.to(_TORCH_DTYPES[dtype])

    def unsigned(self, ids: Array) -> Array:
        """Return stored ids as int64."""
        return widen(ids)


Operations: TypeAlias = _Numpy | _Torch
_NUMPY = _Numpy()


def operations(device: torch.device, *, tensors: bool = False) -> Operations:
    """Return numpy's operations on the CPU, else torch's: on the CPU its gathers and scans are 2 to 20 times slower.

    `tensors` asks for torch on the CPU too, to try what a GPU would do.
    """
    return _NUMPY if device.type == "cpu" and not tensors else _Torch(device)


def _runs(ops: Operations, first: Array, counts: Array, sums: Array | None = None) -> Array:
    """Return the numbers first[i], first[i] + 1 ... of every run i of so many, one run after the other.

    `sums` are the running sums of `counts`, if they are known. A running sum of steps, most of them 1, makes the
    numbers in a third of the time that repeating and adding takes.
    """
    sums = ops.sums(counts) if sums is None else sums
    total = int(sums[-1])
    steps = ops.full(total, 1)
    if total:
        if not bool((counts > 0).all()):
            filled = ops.nonzero(counts > 0)
            first, counts, sums = ops.take(first, filled), ops.take(counts, filled), ops.take(sums, filled)
        else:
            sums = sums[:-1]
        jumps = first + 0
        jumps[1:] -= first[:-1] + counts[:-1] - 1
        steps[sums] = jumps
    return steps.cumsum(0)


# ------------------------------------------------------------------------------------------------------------ encode


@dataclass(frozen=True)
class Learnt:
    """What a tokenizer returns for chunks."""

    ids: Sequence[Sequence[int]]
    """The ids of every chunk."""
    reach: np.ndarray
    """(E,) float64: the ids are sure first in a row, and in a row of less weight; inf: everywhere, -1: nowhere."""
    weight: np.ndarray
    """(E,) float64: what the chunk adds to the weight of its row."""


class Learner(Protocol):
    """A tokenizer as its table sees it."""

    @property
    def first_apart(self) -> bool:
        """A chunk at the start of a row may have other ids than further on, after a space."""

    @property
    def key(self) -> str:
        """Digest of all that decides the ids."""

    def learn(self, chunks: list[bytes], first: bool) -> Learnt:
        """Return the ids of chunks that stand first in a row, or further on after one more space than they hold."""

    def rows(self, rows: Sequence[str | bytes]) -> list[list[int]]:
        """Return the ids of whole rows, all of one type."""


class WordTable:
    """The chunks met so far with their ids; grows as it encodes."""

    def __init__(self, learner: Learner) -> None:
        self.learner = learner
        self._store = _Store({name: np.empty(0, dtype) for name, dtype in _SAVED.items()})

    def __len__(self) -> int:
        """Return the number of chunks kept."""
        return len(self._store)

    def encode_lines(self, lines: Sequence[str]) -> Ragged:
        """Return the ids of every line, int32, on the CPU."""
        # Some lines at a time: few of them hold other than ASCII characters, which Python joins and encodes fastest.
        return stacked([self._group(lines[at : at + _LINES]) for at in range(0, len(lines), _LINES)])

    def _group(self, lines: Sequence[str]) -> Ragged:
        buffer, offsets = utf8(lines)
        size = len(buffer)
        if size < _FEW_BYTES or size > _NO_WORDS * (np.count_nonzero(buffer == 32) + len(lines)):
            ids, counts = _packed(self.learner.rows(lines))  # as they are: the tokenizer takes str fastest
            return Ragged(torch.from_numpy(ids), torch.from_numpy(_NUMPY.sums(counts)))
        return self._encode(_NUMPY, [(buffer, offsets)])

    def encode(self, text: Ragged, *, ops: Operations | None = None) -> Ragged:
        """Return the ids of every row of text (uint8), int32, on the text's device.

        `ops` states the operations, for trying torch's on the CPU.
        """
        ops = ops or operations(text.device)
        return self._encode(ops, [(ops.array(text.values), ops.array(text.offsets))])

    def _encode(self, ops: Operations, texts: Iterable[tuple[Array, Array]]) -> Ragged:
        parts, ends, done = [ops.full(0, 0, "int32")], [ops.full(1, 0)], 0
        for buffer, offsets in texts:
            for rows in _row_blocks(ops.fetch(offsets), ops.block):
                bounds = offsets[rows.start : rows.stop + 1]
                ids, row_ends = self._block(ops, buffer[int(bounds[0]) : int(bounds[-1])], bounds - bounds[0])
                parts.append(ids)
                ends.append(row_ends[1:] + done)
                done += len(ids)
        return Ragged(ops.tensor(ops.concatenate(parts)), ops.tensor(ops.concatenate(ends)))

    def _block(self, ops: Operations, buffer: Array, offsets: Array) -> tuple[Array, Array]:
        """Return ids and row offsets of a block of rows."""
        if len(buffer) < _FEW_BYTES:
            return self._rows(ops, buffer, offsets)
        starts, lengths, first, bounds = _chunks(ops, buffer, offsets)
        if len(buffer) > _NO_WORDS * len(starts):
            return self._rows(ops, buffer, offsets)
        keys, long = _keys(ops, ops.words(buffer), starts, lengths)
        if self.learner.first_apart:
            keys = keys | (first << 62)
        table = self._store.at(ops)
        values, slots = table.find(ops, keys)
        missing = ops.nonzero((values < 0) & (lengths <= _LONGEST))
        if len(missing) and len(self) < _MOST_ENTRIES:
            self._learn(ops, buffer, starts, lengths, keys, missing)
            table = self._store.at(ops)
            values, slots = table.find(ops, keys)
        unsure = (values < 0) | (lengths > _LONGEST)
        if len(table.words):
            unsure[long.chunks] |= ~table.same(ops, ops.take(slots, long.chunks), long)
        if table.guarded:
            table.add_out_of_reach(ops, values, slots, first, bounds, unsure)
        return self._gathered(ops, buffer, offsets, bounds, values, table.ids, ops.nonzero(unsure))

    def _gathered(
        self, ops: Operations, buffer: Array, offsets: Array, bounds: Array, values: Array, ids: Array, unsure: Array
    ) -> tuple[Array, Array]:
        """Return the ids of the chunks found; rows with an unsure one as the tokenizer gives them."""
        counts = (values >> 54) & 0xFF
        if len(unsure):
            rows, _ = ops.unique(ops.search(bounds, unsure, right=True) - 1)
            row_starts = ops.take(offsets, rows)
            row_lengths = ops.take(offsets, rows + 1) - row_starts
            text = ops.take(buffer, _runs(ops, row_starts, row_lengths))
            redone, redone_ends = self._rows(ops, text, ops.sums(row_lengths))
            first = ops.take(bounds, rows)
            counts[_runs(ops, first, ops.take(bounds, rows + 1) - first)] = 0
            # The rows' ids get room at their first chunks; nothing else is written there.
            room = counts + 0
            room[first] = redone_ends[1:] - redone_ends[:-1]
            at = ops.sums(room)
        else:
            at = ops.sums(counts)
        made = ops.full(int(at[-1]) + 1, 0, "int32")
        # Most chunks have one or two ids, which stand in the value itself; one more place catches what has none.
        ops.write(made, at[:-1], values & _LOW_27, counts)
        two = ops.nonzero(counts == 2)
        made[ops.take(at, two) + 1] = ops.convert((ops.take(values, two) >> 27) & _LOW_27, "int32")
        more = ops.nonzero(counts > 2)
        if len(more):
            more_counts = ops.take(counts, more)
            sums = ops.sums(more_counts)
            source = _runs(ops, ops.take(values, more) & _LOW_54, more_counts, sums)
            made[_runs(ops, ops.take(at, more), more_counts, sums)] = ops.take(ids, source)
        if len(unsure):
            made[_runs(ops, ops.take(at, first), ops.take(room, first))] = redone
        return made[:-1], ops.take(at, bounds)

    def _rows(self, ops: Operations, buffer: Array, offsets: Array) -> tuple[Array, Array]:
        """Return ids and offsets of rows from the tokenizer."""
        ids, counts = _packed(self.learner.rows(_cut(ops.fetch(buffer), ops.fetch(offsets))))
        return ops.place(ids), ops.sums(ops.place(counts))

    def _learn(
        self, ops: Operations, buffer: Array, starts: Array, lengths: Array, keys: Array, missing: Array
    ) -> None:
        """Ask the tokenizer for each missing chunk once and keep the answer."""
        distinct, one_of = ops.unique(ops.take(keys, missing))
        new_keys, at = ops.fetch(distinct), ops.take(missing, one_of)
        chunk_starts, chunk_lengths = ops.take(starts, at), ops.take(lengths, at)
        part = ops.fetch(ops.take(buffer, _runs(ops, chunk_starts, chunk_lengths)))
        sizes = ops.fetch(chunk_lengths)
        chunks = _cut(part, _NUMPY.sums(sizes))
        for is_first in (False, True):
            which = np.flatnonzero((new_keys >> 62 & 1) == is_first)
            if len(which):
                learnt = self.learner.learn([chunks[i] for i in which.tolist()], is_first)
                ids, counts = _packed(learnt.ids)
                # What has too many ids to be counted in a value is not kept; its rows go to the tokenizer.
                few = counts <= _MOST_IDS
                kept = which[few]
                self._store.append(
                    keys=new_keys[kept],
                    chunks=[chunks[i] for i in kept.tolist()],
                    counts=counts[few],
                    ids=ids[few.repeat(counts)],
                    reach=learnt.reach[few],
                    weight=learnt.weight[few],
                )

    def save(self, path: Path) -> None:
        """Write the table as an .npz file of plain arrays, whole or not at all."""
        arrays = self._store.arrays
        content = {name: arrays[name].content for name in _SAVED}
        writer = io.BytesIO()
        np.savez(
            writer, allow_pickle=False, key=np.array(self._file_key()), digest=np.array(_digest(content)), **content
        )
        write_bytes(path, writer.getvalue())

    def load(self, path: Path) -> None:
        """Take over a saved table; one of another tokenizer or a damaged one is left out, with a warning."""
        content: dict[str, np.ndarray] = {}
        try:
            # numpy leaves a file open that it was given by name and cannot read.
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                content = {name: file[name] for name in _SAVED}
                right = str(file["key"]) == self._file_key() and str(file["digest"]) == _digest(content)
        except ARRAY_FAULTS:
            right = False
        if right:
            self._store = _Store(content)
        else:
            _LOG.warning("%s belongs to another tokenizer or is damaged; its words are learnt anew", path)

    def _file_key(self) -> str:
        return f"{_FORMAT}:{self.learner.key}"


def _digest(content: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name, array in sorted(content.items()):
        digest.update(f"{name}:{array.dtype}:{len(array)};".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _row_blocks(offsets: np.ndarray, size: int) -> Iterator[range]:
    """Yield consecutive rows of about `size` bytes together, or one longer row."""
    first = 0
    while first < len(offsets) - 1:
        last = max(first + 1, int(np.searchsorted(offsets, offsets[first] + size, side="right")) - 1)
        yield range(first, last)
        first = last


def chunks_of(row: bytes) -> list[bytes]:
    """Return the chunks of one row as a table sees them: all but the first without the space they begin with."""
    chunks = re.findall(rb" +[^ ]*|[^ ]+", row)
    return [*chunks[:1], *(chunk[1:] for chunk in chunks[1:])]


def _cut(packed: np.ndarray, offsets: np.ndarray) -> list[bytes]:
    """Split packed bytes into rows."""
    content = packed.tobytes()
    return [content[first:end] for first, end in pairwise(offsets.tolist())]


def _packed(rows: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids of rows in one array, and their numbers."""
    counts = np.fromiter(map(len, rows), np.int64, len(rows))
    return np.fromiter(chain.from_iterable(rows), np.int32, int(counts.sum())), counts


def _chunks(ops: Operations, buffer: Array, offsets: Array) -> tuple[Array, Array, Array, Array]:
    """Return where chunks start, their lengths, 1 for a row's first, else 0, (C,) each; the rows' bounds in them.

    A row is cut before every run of spaces. Of a chunk that is not the first the space it begins with is left out.
    """
    space = buffer == 32
    begin = ops.full(len(buffer) + 1, False, "bool")
    begin[offsets] = True
    cut = space & begin[:-1]
    cut[1:] = space[1:] & ~space[:-1]
    starts = ops.nonzero(cut | begin[:-1])
    ends = ops.concatenate([starts[1:], ops.full(len(starts[:1]), len(buffer))])
    is_first = ops.take(begin, starts)
    # Chunk numbers of the rows' first chunks; an empty row has none, and begins where the next one does.
    filled = ops.sums(ops.convert(offsets[1:] > offsets[:-1], "int64"))
    bounds = ops.take(ops.concatenate([ops.nonzero(is_first), ops.full(1, len(starts))]), filled)
    first = ops.convert(is_first, "int64")
    starts = starts + (1 - first)
    return starts, ends - starts, first, bounds


def _load(ops: Operations, words: Array, at: Array, size: Array) -> Array:
    """Return the bytes from `at` on as one number, those past `size` zero."""
    return ops.eight(words, at) & ops.take(ops.place(_BYTES), size)


def _mixed(h: Array) -> Array:
    """Return a word with all its bits spread: splitmix64's output function, shifts made logical by masks."""
    h = h * _ODD_1
    h = (h ^ ((h >> 29) & ((1 << 35) - 1))) * _ODD_2
    return h ^ ((h >> 32) & ((1 << 32) - 1))


@dataclass(frozen=True)
class _Long:
    """The chunks of 8 bytes and more of a block, and their bytes as 8-byte words, the last one filled up with zeros."""

    chunks: Array
    """Which chunks, rising."""
    sizes: Array
    """Their bytes, no more than the longest that is kept."""
    counts: Array
    """How many words each has."""
    sums: Array
    """Running sums of the counts."""
    words: Array
    """The words, one chunk after the other."""


def _keys(ops: Operations, words: Array, starts: Array, lengths: Array) -> tuple[Array, _Long]:
    """Return a key per chunk, and the long chunks.

    Up to 7 bytes stand as they are in the lower bits, their number in bits 56 to 58, so that equal keys are equal
    chunks; of more there is a hash, marked by bit 59. Bit 63 is set, so that no key is 0; bit 62 is left for the first
    chunk of a row.
    """
    size = ops.minimum(lengths, _LONGEST)
    keys = _load(ops, words, starts, size)
    chunks = ops.nonzero(size > 7)
    counts = (ops.take(size, chunks) + 7) >> 3
    sums = ops.sums(counts)
    total = int(sums[-1])
    place = _runs(ops, counts * 0, counts, sums)
    at = ops.repeat(ops.take(starts, chunks), counts, total) + (place << 3)
    left = ops.repeat(ops.take(size, chunks), counts, total) - (place << 3)
    parts = _load(ops, words, at, left)
    # The sum of a hash of each word, its place and what is left. Differences of running sums are right, they may wrap.
    hashes = ops.sums(_mixed(parts ^ (place * _ODD_3) ^ (left << 40)))
    keys[chunks] = (ops.take(hashes, sums[1:]) - ops.take(hashes, sums[:-1])) & _LOW_56
    return keys | (ops.minimum(size, 8) << 56) | (-1 << 63), _Long(chunks, ops.take(size, chunks), counts, sums, parts)


# ------------------------------------------------------------------------------------------------------- the table


@dataclass(frozen=True)
class _Table:
    """The table as the operations see it, on their device.

    A value holds a chunk's ids if they are one or two (27 bits each), else the place of the first in `ids` (54 bits);
    their number (8 bits); and whether its reach is short or its weight large (1 bit). -1 stands for a chunk that is not
    there. A slot is a key and its value side by side, so that one look into memory brings both; slots are probed one
    after the other from the key's hash on. For a slot with a long chunk it is also known where its words begin in
    `words` (56 bits) and how many bytes it has (8 bits), and for every slot the number of its entry in `reach` and
    `weight`.
    """

    slots: Array
    slot_words: Array
    slot_entries: Array
    ids: Array
    words: Array
    reach: Array
    weight: Array
    guarded: bool

    def find(self, ops: Operations, keys: Array) -> tuple[Array, Array]:
        """Return the value of every key, or -1, and its slot."""
        last = len(self.slots) - 1
        slots = _slot(keys, len(self.slots))
        found = ops.take(self.slots, slots)
        values = found[:, 1]
        open_ = ops.nonzero(found[:, 0] != keys)
        keys, slot, found = ops.take(keys, open_), ops.take(slots, open_), ops.take(found, open_)
        while len(open_):
            right = found[:, 0] == keys
            values[open_] = ops.where(right, found[:, 1], -1)
            slots[open_] = slot
            further = ops.nonzero(~right & (found[:, 0] != 0))
            open_, keys = ops.take(open_, further), ops.take(keys, further)
            slot = (ops.take(slot, further) + 1) & last
            found = ops.take(self.slots, slot)
        return values, slots

    def same(self, ops: Operations, slots: Array, long: _Long) -> Array:
        """Return whether long chunks are, word by word, those of the slots: a hash alone might err."""
        stored = ops.take(self.slot_words, slots)
        at = _runs(ops, stored >> 8, long.counts, long.sums)
        other = ops.take(self.words, ops.minimum(at, len(self.words) - 1)) != long.words
        others = ops.sums(ops.convert(other, "int64"))
        equal = ops.take(others, long.sums[1:]) == ops.take(others, long.sums[:-1])
        return equal & ((stored & 0xFF) == long.sizes)

    def add_out_of_reach(
        self, ops: Operations, values: Array, slots: Array, first: Array, bounds: Array, unsure: Array
    ) -> None:
        """Mark in `unsure` the chunks whose ids are not sure in their row.

        That is where the row weighs too much, but not for its first chunk, which stands where it stood when it was
        learnt. Chunks that are unsure in rows of unusual weight only are not looked at in others.
        """
        near = ops.nonzero((values >> 62) == 1)  # a missing one's -1 stays -1
        rows = ops.search(bounds, near, right=True) - 1
        counts = bounds[1:] - bounds[:-1]
        long_rows = ops.nonzero(counts * _HEAVY >= _NEAR)
        rows, _ = ops.unique(ops.concatenate([rows, long_rows]))
        if len(rows) == 0:
            return
        counts = ops.take(counts, rows)
        chunks = _runs(ops, ops.take(bounds, rows), counts)
        entries = ops.take(self.slot_entries, ops.take(slots, chunks))
        weights = ops.sums(ops.take(self.weight, entries))
        ends = ops.sums(counts)
        row_weights = ops.take(weights, ends[1:]) - ops.take(weights, ends[:-1])
        reach = ops.take(self.reach, entries)
        far = ops.repeat(row_weights, counts, len(chunks)) >= reach
        far = far & ((ops.take(first, chunks) == 0) | (reach < 0))
        unsure[ops.take(chunks, ops.nonzero(far))] = True


def _slot(keys: Array, slots: int) -> Array:
    """Return the slots to try first: the highest bits of a product (Fibonacci hashing); `slots` a power of two."""
    return ((keys * _ODD_3) >> (65 - slots.bit_length())) & (slots - 1)


_SAVED: dict[str, type[np.generic]] = {
    "keys": np.int64,
    "lengths": np.int64,
    "counts": np.int64,
    "reach": np.float64,
    "weight": np.float64,
    "ids": np.int32,
    "words": np.int64,
}
"""What a table file holds; the rest follows from it."""


class _Store:
    """The table's memory on the CPU, and copies of it on other devices until it grows again."""

    def __init__(self, content: dict[str, np.ndarray]) -> None:
        self.arrays = {name: _Growing(content[name].astype(dtype)) for name, dtype in _SAVED.items()}
        values = _values(content["ids"], content["counts"], content["reach"], content["weight"], 0)
        word_counts = np.where(content["lengths"] > 7, (content["lengths"] + 7) // 8, 0)
        self.arrays["values"] = _Growing(values)
        self.arrays["stored"] = _Growing((_NUMPY.sums(word_counts)[:-1] << 8) | content["lengths"])
        self._guarded = bool(np.isfinite(content["reach"]).any())
        self._slots = np.empty((0, 2), np.int64)
        self._slot_words = self._slot_entries = np.empty(0, np.int64)
        self._placed: dict[str, tuple[int, _Table]] = {}
        self._insert(0)

    def __len__(self) -> int:
        return len(self.arrays["keys"].content)

    def append(
        self,
        *,
        keys: np.ndarray,
        chunks: list[bytes],
        counts: np.ndarray,
        ids: np.ndarray,
        reach: np.ndarray,
        weight: np.ndarray,
    ) -> None:
        """Keep more chunks, up to the table's limit."""
        room = _MOST_ENTRIES - len(self)
        if len(keys) > room:
            ids = ids[: int(counts[:room].sum())]
            keys, chunks, counts, reach, weight = keys[:room], chunks[:room], counts[:room], reach[:room], weight[:room]
        known = len(self)
        lengths = np.fromiter(map(len, chunks), np.int64, len(chunks))
        word_counts = np.where(lengths > 7, (lengths + 7) // 8, 0)
        begin = _runs(_NUMPY, np.zeros_like(word_counts), word_counts) * 8
        starts, sizes = (_NUMPY.sums(lengths)[:-1].repeat(word_counts), lengths.repeat(word_counts))
        words = _NUMPY.words(np.frombuffer(b"".join(chunks), np.uint8))
        more = {
            "keys": keys,
            "lengths": lengths,
            "counts": counts,
            "reach": reach,
            "weight": weight,
            "values": _values(ids, counts, reach, weight, len(self.arrays["ids"].content)),
            "stored": ((len(self.arrays["words"].content) + _NUMPY.sums(word_counts)[:-1]) << 8) | lengths,
            "ids": ids,
            "words": _load(_NUMPY, words, starts + begin, np.minimum(sizes - begin, 8)),
        }
        for name, array in more.items():
            self.arrays[name].append(array)
        self._guarded |= bool(np.isfinite(reach).any())
        self._insert(known)

    def at(self, ops: Operations) -> _Table:
        """Return the table on the operations' device."""
        if isinstance(ops, _Numpy):
            return self._table(ops)
        name = str(ops.device)
        if self._placed.get(name, (-1,))[0] != len(self):
            self._placed[name] = (len(self), self._table(ops))
        return self._placed[name][1]

    def _table(self, ops: Operations) -> _Table:
        placed = {name: ops.place(self.arrays[name].content) for name in ("ids", "words", "reach", "weight")}
        return _Table(
            slots=ops.place(self._slots),
            slot_words=ops.place(self._slot_words),
            slot_entries=ops.place(self._slot_entries),
            guarded=self._guarded,
            **placed,
        )

    def _insert(self, known: int) -> None:
        """Give the entries from `known` on their slots; all get new ones where over a quarter would be full."""
        if 4 * len(self) > len(self._slots) or known == 0:
            self._slots = np.zeros((1 << max(8, (4 * len(self)).bit_length()), 2), np.int64)
            self._slots[:, 1] = -1
            self._slot_words, self._slot_entries = np.zeros((2, len(self._slots)), np.int64)
            known = 0
        keys, values, stored = (self.arrays[name].content[known:] for name in ("keys", "values", "stored"))
        slot = _slot(keys, len(self._slots))
        left = np.arange(len(keys))
        while len(left):
            free = self._slots[slot, 0] == 0
            self._slots[slot[free], 0] = keys[left[free]]
            # Of several that want a free slot the last is in it now; the others go on to the next.
            won = self._slots[slot, 0] == keys[left]
            self._slots[slot[won], 1] = values[left[won]]
            self._slot_words[slot[won]] = stored[left[won]]
            self._slot_entries[slot[won]] = known + left[won]
            left, slot = left[~won], (slot[~won] + 1) & (len(self._slots) - 1)


def _values(ids: np.ndarray, counts: np.ndarray, reach: np.ndarray, weight: np.ndarray, first_id: int) -> np.ndarray:
    """Return the values of chunks whose ids are packed one after the other, the first being number `first_id`."""
    at = _NUMPY.sums(counts)[:-1]
    padded = np.append(ids.astype(np.int64), [0, 0])
    inline = padded[at] | np.where(counts == 2, padded[at + 1] << 27, 0)
    looked_at = ((reach < _NEAR) | (weight > _HEAVY)).astype(np.int64)
    values: np.ndarray = np.where(counts > 2, at + first_id, inline) | (counts << 54) | (looked_at << 62)
    return values


class _Growing:
    """A numpy array that is appended to."""

    def __init__(self, content: np.ndarray) -> None:
        self._array, self._count = content, len(content)

    @property
    def content(self) -> np.ndarray:
        return self._array[: self._count]

    def append(self, more: np.ndarray) -> None:
        count = self._count + len(more)
        if count > len(self._array):
            # Doubled, so that appending bit by bit copies every value about once.
            array = np.empty(2 * count, self._array.dtype)
            array[: self._count] = self.content
            self._array = array
        self._array[self._count : count] = more
        self._count = count


# ------------------------------------------------------------------------------------------------------------ decode


class SurfaceTable:
    """The text of every id; decodes by ragged gather.

    `surfaces[i]` is what id i adds to a row, b"" for ids that are left out. The first id of a row that is not left out
    loses the `lead` it begins with. Rows that hold one of `alone`, or whose first id is one of `alone_first`, are
    handed to `rows`.
    """

    def __init__(
        self,
        surfaces: Sequence[bytes],
        *,
        lead: Sequence[int],
        alone: Sequence[int] = (),
        alone_first: Sequence[int] = (),
        rows: Callable[[list[list[int]]], list[str]] | None = None,
    ) -> None:
        size = np.fromiter(map(len, surfaces), np.int64, len(surfaces))
        self._arrays = {
            "text": np.frombuffer(b"".join(surfaces) or b"\0", np.uint8),
            "at": _NUMPY.sums(size)[:-1],
            "size": size,
            "lead": np.array(lead, np.int64),
            "alone": np.isin(np.arange(len(surfaces)), alone),
            "alone_first": np.isin(np.arange(len(surfaces)), alone_first),
        }
        self._rows = rows
        self._placed: dict[str, dict[str, Array]] = {}

    def texts(self, ids: Ragged) -> list[str]:
        """Return the text of every row."""
        text = self.decode(ids)
        content, ends = text.values.cpu().numpy().tobytes(), text.offsets.tolist()
        if content.isascii():
            whole = content.decode("ascii")
            return [whole[first:end] for first, end in pairwise(ends)]
        return [content[first:end].decode() for first, end in pairwise(ends)]

    def decode(self, ids: Ragged, *, ops: Operations | None = None) -> Ragged:
        """Return the UTF-8 bytes of every row, uint8, on the ids' device; ids must be in range.

        `ops` states the operations, for trying torch's on the CPU.
        """
        ops = ops or operations(ids.device)
        values, offsets = ops.array(ids.values), ops.array(ids.offsets)
        parts, ends, done = [ops.full(0, 0, "uint8")], [ops.full(1, 0)], 0
        for rows in _row_blocks(ops.fetch(offsets), ops.ids):
            bounds = offsets[rows.start : rows.stop + 1]
            part = ops.unsigned(values[int(bounds[0]) : int(bounds[-1])])
            text, row_ends = self._block(ops, part, bounds - bounds[0])
            parts.append(text)
            ends.append(row_ends[1:] + done)
            done += len(text)
        return Ragged(ops.tensor(ops.concatenate(parts)), ops.tensor(ops.concatenate(ends)))

    def _block(self, ops: Operations, ids: Array, offsets: Array) -> tuple[Array, Array]:
        """Return bytes and row offsets of a block of rows."""
        table = self._at(ops)
        all_ids, all_offsets = ids, offsets
        size = ops.take(table["size"], ids)
        kept = size > 0
        if not bool(kept.all()):
            which = ops.nonzero(kept)
            ids, size = ops.take(ids, which), ops.take(size, which)
            offsets = ops.take(ops.sums(ops.convert(kept, "int64")), offsets)
        at = ops.take(table["at"], ids)
        filled = ops.nonzero(offsets[1:] > offsets[:-1])
        first = ops.take(offsets, filled)
        lead = ops.take(table["lead"], ops.take(ids, first))
        at[first] += lead
        size[first] -= lead
        redone: list[bytes] = []
        if self._rows is not None:
            alone = ops.search(offsets, ops.nonzero(ops.take(table["alone"], ids)), right=True) - 1
            alone_first = ops.take(filled, ops.nonzero(ops.take(table["alone_first"], ops.take(ids, first))))
            rows, _ = ops.unique(ops.concatenate([alone, alone_first]))
            redone = self._redone(ops, all_ids, all_offsets, rows)
            lengths = ops.place(np.fromiter(map(len, redone), np.int64, len(redone)))
            # These rows' bytes get their room at their first ids, and are written there at the end.
            begin = ops.take(offsets, rows)
            whole = _runs(ops, begin, ops.take(offsets, rows + 1) - begin)
            size[whole] = 0
            at[whole] = 0
            size[begin] = lengths
        sums = ops.sums(size)
        index = _runs(ops, at, size, sums)
        if redone:
            index = ops.minimum(index, len(table["text"]) - 1)
        text = ops.take(table["text"], index)
        if redone:
            bytes_ = np.frombuffer(bytearray(b"".join(redone)), np.uint8)
            text[_runs(ops, ops.take(sums, begin), lengths)] = ops.place(bytes_)
        return text, ops.take(sums, offsets)

    def _redone(self, ops: Operations, ids: Array, offsets: Array, rows: Array) -> list[bytes]:
        """Return the UTF-8 bytes of some rows, from the tokenizer."""
        assert self._rows is not None
        begin = ops.take(offsets, rows)
        counts = ops.take(offsets, rows + 1) - begin
        flat = ops.fetch(ops.take(ids, _runs(ops, begin, counts))).tolist()
        ends = ops.fetch(ops.sums(counts)).tolist()
        return [text.encode() for text in self._rows([flat[first:end] for first, end in pairwise(ends)])]

    def _at(self, ops: Operations) -> dict[str, Array]:
        """Return the arrays where the operations take place."""
        if isinstance(ops, _Numpy):
            return self._arrays
        name = str(ops.device)
        if name not in self._placed:
            self._placed[name] = {key: ops.place(np.array(array)) for key, array in self._arrays.items()}
        return self._placed[name]
