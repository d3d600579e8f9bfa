"""Ragged: rows of different length in one packed tensor. Shapes: R rows, T values, L longest row."""

from collections.abc import Iterator, Sequence
from itertools import accumulate, chain, pairwise
from numbers import Integral
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from seqgen.core.errors import DataError

_BLOCK = 1 << 20
"""Offsets checked at once, so that a corpus larger than memory can be opened."""

_ROWS = 1 << 14
"""Rows moved at once: the place of each value, eight bytes, is needed for so many rows only, and stays in the cache."""


class Ragged:
    """R rows of ids or bytes: row i is `values[offsets[i]:offsets[i + 1]]`.

    `values` is (T,) int32 ids, uint8 bytes, or int16 holding the bit patterns of ids below 65,536 (as a corpus on
    disk has them); `offsets` is (R+1,) int64, first 0, last T, never falling. Raises DataError if it is not so, and
    TypeError for other dtypes. Both tensors are kept, not copied. The offsets of another device are fetched once, here:
    rows are counted, taken, cut and padded without a wait for it.
    """

    __slots__ = ("_host", "offsets", "values")

    def __init__(self, values: Tensor, offsets: Tensor) -> None:
        if values.dtype not in (torch.int32, torch.uint8, torch.int16) or values.dim() != 1:
            raise TypeError(
                f"values must be (T,) int32, uint8 or int16, got {tuple(values.shape)} {values.dtype}; "
                "build rows of Python integers with Ragged.from_lists"
            )
        if offsets.dtype != torch.int64 or offsets.dim() != 1 or offsets.numel() == 0:
            raise TypeError(f"offsets must be (R+1,) int64, got {tuple(offsets.shape)} {offsets.dtype}")
        host = offsets.cpu()
        if int(host[0]) != 0 or int(host[-1]) != values.numel():
            raise DataError(
                f"offsets must run from 0 to the number of values, {values.numel()}; "
                f"they run from {int(host[0])} to {int(host[-1])}"
            )
        for first in range(0, host.numel() - 1, _BLOCK):
            falling = host[first : first + _BLOCK + 1].diff() < 0
            if bool(falling.any()):
                row = first + int(falling.nonzero()[0])
                raise DataError(
                    f"offsets must not fall, but row {row} runs from {int(host[row])} to {int(host[row + 1])}"
                )
        self.values, self.offsets, self._host = values, offsets, host

    @classmethod
    def _of(cls, values: Tensor, host: Tensor) -> "Ragged":
        """Return rows whose offsets on the host are known to be right."""
        made = object.__new__(cls)
        made.values, made.offsets, made._host = values, host.to(values.device), host
        return made

    def __repr__(self) -> str:
        kind = str(self.values.dtype).removeprefix("torch.")
        return f"Ragged({len(self.offsets) - 1} rows, {len(self.values)} values, {kind})"

    @classmethod
    def from_lists(cls, rows: Sequence[Sequence[int]]) -> "Ragged":
        """Return rows of Python integers, packed as int32; TypeError for anything else, bool included."""
        flat = list(chain.from_iterable(rows))
        wrong = {kind for kind in set(map(type, flat)) if kind is bool or not issubclass(kind, Integral)}
        if wrong:
            first = next(value for value in flat if type(value) in wrong)
            raise TypeError(f"ids must be integers, got {first!r} ({type(first).__name__})")
        offsets = torch.zeros(len(rows) + 1, dtype=torch.int64)
        torch.cumsum(torch.tensor([len(row) for row in rows], dtype=torch.int64), 0, out=offsets[1:])
        return cls(torch.tensor(flat, dtype=torch.int32), offsets)

    @classmethod
    def from_text(cls, lines: Sequence[str]) -> "Ragged":
        """Return the UTF-8 bytes of every line, uint8."""
        values, offsets = utf8(lines)
        return cls(torch.from_numpy(values), torch.from_numpy(offsets))

    @property
    def rows(self) -> int:
        """How many rows there are, R."""
        return self.offsets.numel() - 1

    @property
    def lengths(self) -> Tensor:
        """(R,) int64, the length of every row."""
        return self.offsets.diff()

    def begins_of(self, rows: Tensor) -> Tensor:
        """Return the places of the first values of the given rows, (N,) int64 on the CPU."""
        return self._host[rows.cpu()]

    def lengths_of(self, rows: Tensor) -> Tensor:
        """Return the lengths of the given rows, (N,) int64 on the CPU."""
        rows = rows.cpu()
        return self._host[rows + 1] - self._host[rows]

    @property
    def longest(self) -> int:
        """The length of the longest row, 0 if there is none."""
        blocks = (self._host[first : first + _BLOCK + 1].diff() for first in range(0, self.rows, _BLOCK))
        return max((int(block.max()) for block in blocks), default=0)

    @property
    def device(self) -> torch.device:
        """Where the values are."""
        return self.values.device

    def row(self, i: int) -> Tensor:
        """Return the values of row i, (length,) int64; a negative i counts from the end."""
        if not -self.rows <= i < self.rows:
            raise IndexError(f"row {i} of {self.rows}")
        i %= self.rows
        return widen(self.values[int(self._host[i]) : int(self._host[i + 1])])

    def __len__(self) -> int:
        return self.rows

    def __iter__(self) -> Iterator[Tensor]:
        return (self.row(i) for i in range(self.rows))

    def tolist(self) -> list[list[int]]:
        """Return the rows as lists of Python integers."""
        values, offsets = widen(self.values).tolist(), self.offsets.tolist()
        return [values[first:end] for first, end in pairwise(offsets)]

    def take(self, rows: Tensor) -> "Ragged":
        """Return the given rows, (N,) int64, in that order, as a new Ragged."""
        return self._moved(self.begins_of(rows), self.lengths_of(rows))

    def cut(self, max_len: int) -> "Ragged":
        """Return the first `max_len` values of every row."""
        return self._moved(self._host[:-1], self._host.diff().clamp(max=max_len))

    def _moved(self, first: Tensor, lengths: Tensor) -> "Ragged":
        """Return new rows from what the host knows: (N,) the place of the first value of each and how many follow,
        itself included."""
        offsets = torch.zeros(len(first) + 1, dtype=torch.int64)
        torch.cumsum(lengths, 0, out=offsets[1:])
        ends = offsets[torch.arange(0, len(first) + _ROWS, _ROWS).clamp(max=len(first))].tolist()
        values = torch.empty(ends[-1], dtype=self.values.dtype, device=self.device)
        for row, (begin, end) in zip(range(0, len(first), _ROWS), pairwise(ends), strict=True):
            some = slice(row, row + _ROWS)
            moved, count = (first[some] - offsets[:-1][some]).to(self.device), lengths[some].to(self.device)
            index = torch.repeat_interleave(moved, count, output_size=end - begin)
            index += torch.arange(begin, end, device=self.device)
            values[begin:end] = self.values[index]
        return Ragged._of(values, offsets)

    def padded(
        self,
        pad: int,
        max_len: int | None = None,
        left: bool = False,
        *,
        truncate: Literal["error", "cut", "drop"] = "error",
    ) -> tuple[Tensor, Tensor]:
        """Return all rows as (R, L) int64 filled with `pad`, and their (R,) int64 lengths.

        Padding stands on the right, or on the left if asked. Rows longer than `max_len` are an error (DataError)
        unless `truncate` says to cut their end or to drop them.
        """
        rows, known = self, self._host.diff()
        if max_len is not None:
            too_long = known > max_len
            if truncate == "error" and bool(too_long.any()):
                raise DataError(
                    f"{int(too_long.sum())} of {self.rows} rows are longer than max_len = {max_len}, "
                    f"the first is row {int(too_long.nonzero()[0])}; state truncate='cut' or 'drop', or raise max_len"
                )
            if truncate == "drop":
                rows = self.take((~too_long).nonzero()[:, 0])
            known = rows._host.diff().clamp(max=max_len)
        lengths = known.to(self.device)
        width = int(known.max()) if rows.rows else 0
        column = torch.arange(width, device=self.device)
        if left:
            column = column - (width - lengths)[:, None]
        else:
            column = column.expand(rows.rows, width)
        real = (column >= 0) & (column < lengths[:, None])
        place = (rows.offsets[:-1, None] + column).clamp(0, max(0, rows.values.numel() - 1))
        return torch.where(real, widen(rows.values[place]), pad), lengths

    def to(self, device: torch.device | str) -> "Ragged":
        """Return the same rows on another device."""
        return Ragged._of(self.values.to(device), self._host)


def widen(values: Tensor) -> Tensor:
    """Return stored values as contiguous int64 ids: int16 holds the bit patterns of unsigned ids."""
    wide = values.to(torch.int64, memory_format=torch.contiguous_format)
    return wide.bitwise_and_(0xFFFF) if values.dtype == torch.int16 else wide


def utf8(lines: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the UTF-8 bytes of all lines, uint8, and the (R+1,) int64 offsets of each."""
    text = "".join(lines)
    values = np.frombuffer(bytearray(text.encode()), np.uint8)
    offsets = np.zeros(len(lines) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, lines), np.int64, len(lines)), out=offsets[1:])
    if len(values) > len(text):
        # A byte that continues a character belongs to character number (its place - such bytes up to it): what
        # stands before character c is c bytes that begin one, and the continuing bytes of lower numbers.
        continuing = np.flatnonzero((values & 0xC0) == 0x80)
        offsets += np.searchsorted(continuing - np.arange(1, len(continuing) + 1), offsets)
    return values, offsets


def joined(parts: Sequence[Ragged | int], rows: int) -> Ragged:
    """Return rows put together from left to right: row i is row i of every Ragged; an int stands in all rows."""
    offsets = torch.zeros(rows + 1, dtype=torch.int64)
    for part in parts:
        offsets[1:] += part.lengths if isinstance(part, Ragged) else 1
    torch.cumsum(offsets, 0, out=offsets)
    values = torch.empty(int(offsets[-1]), dtype=torch.int32)
    for row in range(0, rows, _ROWS):
        at = offsets[:-1][row : row + _ROWS].clone()
        for part in parts:
            if isinstance(part, Ragged):
                places = part.offsets[row : row + _ROWS + 1]
                begin, end, count = int(places[0]), int(places[-1]), places.diff()
                moved = torch.repeat_interleave(at - places[:-1], count, output_size=end - begin)
                moved += torch.arange(begin, end)
                values[moved] = part.values[begin:end]
                at += count
            else:
                values[at] = part
                at += 1
    return Ragged(values, offsets)


def stacked(parts: Sequence[Ragged]) -> Ragged:
    """Return the rows of several Ragged of one kind, one after the other; none give no rows of int32."""
    if not parts:
        return Ragged.from_lists([])
    starts = accumulate((part.values.numel() for part in parts), initial=0)
    offsets = [parts[0].offsets[:1], *(part.offsets[1:] + start for part, start in zip(parts, starts, strict=False))]
    return Ragged(torch.cat([part.values for part in parts]), torch.cat(offsets))
