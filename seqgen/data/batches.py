"""Batches as gathers from a packed corpus; each is a function of (seed, step, rank, world) and nothing else.

No loader, no workers, no position to save: `at(step)` draws the plan of the part of the epoch it falls into, the same
on every device and for every number of processes, and keeps it until a step falls outside. `batch` is the number of
rows over all processes; each takes its share. Shapes: B rows, T input positions, N tokens, P counted positions.
"""

import bisect
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from seqgen.core.batch import SequenceBatch
from seqgen.core.errors import DataError
from seqgen.core.rng import generator, hash64
from seqgen.data.corpus import Corpus
from seqgen.data.ragged import widen


class Batches(Protocol):
    """What the loop asks for."""

    @property
    def steps_per_epoch(self) -> int:
        """Steps that go through the text once."""

    def at(self, step: int, rank: int = 0, world: int = 1) -> SequenceBatch:
        """The batch of a step, or a process's share of it."""


# --------------------------------------------------------------------------------------------------------- sentences


class SentenceBatches:
    """Rows of similar length, padded on the right.

    An epoch is a permutation of the rows. It is taken in pools of `bucket` batches; a pool is sorted by length, cut
    into batches, and its batches are shuffled. Rows that do not fill a last batch wait for another epoch. The
    permutation is a keyed bijection on [0, R), computed pool by pool, so memory does not grow with the corpus.
    """

    def __init__(self, corpus: Corpus, batch: int, *, pad: int, seed: int, bucket: int = 50) -> None:
        if batch < 1 or bucket < 1:
            raise ValueError(f"batch and bucket must be at least 1, got {batch} and {bucket}")
        if corpus.ids.rows < batch:
            raise DataError(
                f"the training text has {corpus.ids.rows} rows, fewer than train.batch = {batch}; "
                "use a smaller train.batch or more text"
            )
        self.corpus = corpus
        self.batch = batch
        self.pad = pad
        self.seed = seed
        self.bucket = bucket
        self.steps_per_epoch = corpus.ids.rows // batch
        self._column = torch.arange(int(corpus.ids.lengths.max()), device=corpus.ids.device)
        self._pool = _Pool(-1, -1, torch.empty(0), torch.empty(0), torch.empty(0), torch.empty(0))

    def at(self, step: int, rank: int = 0, world: int = 1) -> SequenceBatch:
        """The batch of a step; process `rank` of `world` takes every world-th row of it."""
        _check_share(self.batch, rank, world)
        epoch, at = divmod(step, self.steps_per_epoch)
        pool, at = divmod(at, self.bucket)
        if (self._pool.epoch, self._pool.number) != (epoch, pool):
            self._pool = self._draw(epoch, pool)
        share = slice(rank, None, world)
        plan = self._pool
        return _gather(
            self.corpus,
            plan.rows[at, share],
            plan.first[at, share],
            plan.lengths[at, share],
            int(plan.widths[at, share][-1]),
            self._column,
            self.pad,
        )

    def _draw(self, epoch: int, pool: int) -> "_Pool":
        """Rows, first values and input lengths of a pool's batches, (batches, B), each batch rising in length."""
        first_step = pool * self.bucket
        batches = min(self.bucket, self.steps_per_epoch - first_step)
        at = np.arange(first_step * self.batch, (first_step + batches) * self.batch)
        rows = torch.from_numpy(permuted(at, self.corpus.ids.rows, hash64("sentences", self.seed, epoch)))
        offsets = self.corpus.ids.offsets
        first = offsets[rows.to(offsets.device)]
        lengths = (offsets[rows.to(offsets.device) + 1] - first).cpu() - 1
        order = torch.argsort(lengths, stable=True).view(batches, self.batch)
        shuffle = torch.randperm(batches, generator=generator("batches", self.seed, epoch, pool))
        order = order[shuffle]
        device = self.corpus.ids.device
        widths = lengths[order]
        return _Pool(epoch, pool, rows[order].to(device), first[order.to(device)], widths.to(device), widths)


@dataclass(frozen=True)
class _Pool:
    """The plan of `bucket` batches: (batches, B) tensors on the corpus's device, `widths` the lengths on the CPU."""

    epoch: int
    number: int
    rows: Tensor
    first: Tensor
    lengths: Tensor
    widths: Tensor


def permuted(at: np.ndarray, size: int, key: int) -> np.ndarray:
    """Where a keyed permutation of range(size) takes the numbers `at`, int64.

    A balanced Feistel network of eight rounds over the next even number of bits, walked until the result falls inside
    (Black, Rogaway 2002, "cycle walking"; at most four walks are needed on average).
    """
    half = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    mask = (np.uint64(1) << half) - np.uint64(1)
    keys = [np.uint64(hash64("round", key, i)) for i in range(8)]
    result = at.astype(np.uint64)
    outside = np.arange(len(result))
    while len(outside):
        x = result[outside]
        left, right = x >> half, x & mask
        for round_key in keys:
            left, right = right, left ^ (_mixed(right ^ round_key) & mask)
        result[outside] = (left << half) | right
        outside = outside[result[outside] >= size]
    return result.astype(np.int64)


def _mixed(x: np.ndarray) -> np.ndarray:
    """splitmix64's output function (Steele, Lea, Flood 2014); products wrap."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = x ^ (x >> np.uint64(31))
    return mixed


def _gather(
    corpus: Corpus, rows: Tensor, first: Tensor, lengths: Tensor, width: int, column: Tensor, pad: int
) -> SequenceBatch:
    """Rows of a corpus as a padded batch: `first` is each row's first value, `lengths` its input positions."""
    values = corpus.ids.values
    index = (first[:, None] + column[: width + 1]).clamp_(max=values.numel() - 1)
    ids = widen(values.index_select(0, index.view(-1))).view(index.shape)
    real = column[:width] < lengths[:, None]
    counted = real
    if corpus.loss_from is not None:
        counted = real & (column[:width] >= corpus.loss_from[rows][:, None])
    return SequenceBatch(
        inputs=torch.where(real, ids[:, :-1], pad),
        targets=torch.where(real, ids[:, 1:], pad),
        positions=counted.view(-1).nonzero().view(-1),
        lengths=lengths,
        rows=rows,
    )


# ----------------------------------------------------------------------------------------------------- streams


class StreamBatches:
    """Running text in B columns, read in windows of T one after the other; the model carries its state from each on.

    Column b holds the targets b * n + 1 to b * n + n of the text, n = (N - 1) // B, so only the last few tokens are
    left out. The last window of an epoch may be shorter. With `jitter` lengths are random (Merity et al. 2018,
    section 5): N(T, 5) with probability .95, else N(T / 2, 5), at least 5. `weight` is always length / T.
    """

    def __init__(self, corpus: Corpus, batch: int, window: int, *, seed: int, jitter: bool = False) -> None:
        if batch < 1 or window < 1:
            raise ValueError(f"batch and window must be at least 1, got {batch} and {window}")
        tokens = corpus.ids.values.numel()
        _check_tokens(tokens, batch, window)
        self.corpus = corpus
        self.batch = batch
        self.window = window
        self.seed = seed
        self.jitter = jitter
        self.column = (tokens - 1) // batch
        """Targets of each column."""
        self._plan: tuple[int, list[int]] = (-1, [])
        self._ends: list[int] = []
        self._constant: tuple[Tensor, Tensor] = (torch.empty(0), torch.empty(0))

    @property
    def steps_per_epoch(self) -> int:
        """Windows of a column; with `jitter` those of the first epoch."""
        return len(self._starts(0)) - 1 if self.jitter else -(-self.column // self.window)

    def at(self, step: int, rank: int = 0, world: int = 1) -> SequenceBatch:
        """The windows of a step; process `rank` of `world` takes a contiguous share of the columns."""
        _check_share(self.batch, rank, world)
        start, end = self._window(step)
        width = end - start
        first, last = self.batch * rank // world, self.batch * (rank + 1) // world
        size, at = (last - first, width), first * self.column + start
        values = self.corpus.ids.values
        positions, lengths = self._constants(*size)
        return SequenceBatch(
            inputs=widen(values.as_strided(size, (self.column, 1), at)),
            targets=widen(values.as_strided(size, (self.column, 1), at + 1)),
            positions=positions,
            lengths=lengths,
            rows=torch.arange(at, at + (last - first) * self.column, self.column, device=values.device),
            carried=start > 0,
            weight=width / self.window,
        )

    def _constants(self, rows: int, width: int) -> tuple[Tensor, Tensor]:
        """Positions and lengths of a full batch, kept while the shape stays."""
        positions, lengths = self._constant
        if lengths.numel() != rows or positions.numel() != rows * width:
            device = self.corpus.ids.device
            positions = torch.arange(rows * width, device=device)
            lengths = torch.full((rows,), width, device=device)
            self._constant = (positions, lengths)
        return positions, lengths

    def _window(self, step: int) -> tuple[int, int]:
        """Where a step's window starts and ends in every column."""
        if not self.jitter:
            start = step % self.steps_per_epoch * self.window
            return start, min(start + self.window, self.column)
        # Epochs differ in length, so those before have to be counted once.
        while not self._ends or self._ends[-1] <= step:
            done = self._ends[-1] if self._ends else 0
            self._ends.append(done + len(self._starts(len(self._ends))) - 1)
        epoch = bisect.bisect_right(self._ends, step)
        at = step - (self._ends[epoch - 1] if epoch else 0)
        starts = self._starts(epoch)
        return starts[at], starts[at + 1]

    def _starts(self, epoch: int) -> list[int]:
        """Where the windows of an epoch with random lengths start, and the column's end."""
        if self._plan[0] != epoch:
            draws = generator("windows", self.seed, epoch)
            count = 16 + 2 * self.column // self.window
            starts = [0]
            while starts[-1] < self.column:
                half = torch.rand(count, generator=draws) >= 0.95
                mean = torch.where(half, self.window / 2, float(self.window))
                lengths = (mean + 5 * torch.randn(count, generator=draws)).long().clamp(min=5)
                starts += (starts[-1] + lengths.cumsum(0)).tolist()
            # No last window of fewer than five tokens.
            inside = [start for start in starts if start == 0 or start <= self.column - 5]
            self._plan = (epoch, [*inside, self.column])
        return self._plan[1]


class WindowBatches:
    """Windows of T tokens from seeded random places, each a sample of its own: no state is carried."""

    _DRAWN = 1024
    """Steps whose places are drawn at once."""

    def __init__(self, corpus: Corpus, batch: int, window: int, *, seed: int) -> None:
        if batch < 1 or window < 1:
            raise ValueError(f"batch and window must be at least 1, got {batch} and {window}")
        tokens = corpus.ids.values.numel()
        _check_tokens(tokens, batch, window)
        self.corpus = corpus
        self.batch = batch
        self.window = window
        self.seed = seed
        self.steps_per_epoch = tokens // (batch * window)
        device = corpus.ids.device
        self._column = torch.arange(window + 1, device=device)
        self._positions = torch.arange(batch * window, device=device)
        self._lengths = torch.full((batch,), window, device=device)
        self._plan: tuple[int, Tensor] = (-1, torch.empty(0))

    def at(self, step: int, rank: int = 0, world: int = 1) -> SequenceBatch:
        """The windows of a step; process `rank` of `world` takes every world-th of them."""
        _check_share(self.batch, rank, world)
        block, at = divmod(step, self._DRAWN)
        if self._plan[0] != block:
            last = self.corpus.ids.values.numel() - self.window
            draws = generator("places", self.seed, block)
            starts = torch.randint(last, (self._DRAWN, self.batch), generator=draws)
            self._plan = (block, starts.to(self.corpus.ids.device))
        starts = self._plan[1][at, rank::world]
        index = starts[:, None] + self._column
        ids = widen(self.corpus.ids.values.index_select(0, index.view(-1))).view(index.shape)
        return SequenceBatch(
            inputs=ids[:, :-1],
            targets=ids[:, 1:],
            positions=self._positions[: len(starts) * self.window],
            lengths=self._lengths[: len(starts)],
            rows=starts,
        )


# ------------------------------------------------------------------------------------------------------- evaluation


def sentence_evaluation(corpus: Corpus, batch: int, *, pad: int) -> Iterator[SequenceBatch]:
    """Every row once, sorted by length, `batch` rows at a time."""
    lengths = corpus.ids.lengths - 1
    order = torch.argsort(lengths, stable=True)
    column = torch.arange(int(lengths.max()) + 1, device=corpus.ids.device)
    for at in range(0, len(order), batch):
        rows = order[at : at + batch]
        width = int(lengths[rows[-1]])
        yield _gather(corpus, rows, corpus.ids.offsets[rows], lengths[rows], width, column, pad)


def stream_evaluation(corpus: Corpus, batch: int, window: int, *, pad: int) -> Iterator[SequenceBatch]:
    """Every token of a text but the first once, in up to `batch` columns whose state is carried from window to window.

    There are fewer columns where they would be shorter than eight windows: each starts without context.
    """
    tokens = corpus.ids.values.numel() - 1
    columns = max(1, min(batch, tokens // (8 * window)))
    device = corpus.ids.device
    # Columns differ by at most one token, the longer ones first.
    ends = torch.arange(1, columns + 1) * (tokens // columns) + torch.arange(1, columns + 1).clamp(max=tokens % columns)
    sizes = ends.diff(prepend=torch.zeros(1, dtype=torch.int64))
    starts, sizes = (ends - sizes).to(device), sizes.to(device)
    longest, start = -(-tokens // columns), 0
    column = torch.arange(window + 2, device=device)
    while start < longest:
        # A rest of one token joins the window before it, so that no column is empty at the end.
        width = longest - start if longest - start <= window + 1 else window
        lengths = (sizes - start).clamp(max=width)
        text = Corpus(corpus.ids, None, corpus.fingerprint)
        made = _gather(text, starts + start, starts + start, lengths, width, column, pad)
        yield replace(made, carried=start > 0)
        start += width


def window_evaluation(corpus: Corpus, batch: int, window: int, *, pad: int) -> Iterator[SequenceBatch]:
    """Every token of a text but the first once, in windows that overlap by half: the first half is context only.

    The first window counts all its targets.
    """
    tokens = corpus.ids.values.numel() - 1
    context = window // 2
    starts = torch.arange(0, max(1, tokens - context), window - context, device=corpus.ids.device)
    lengths = (tokens - starts).clamp(max=window)
    column = torch.arange(window + 1, device=corpus.ids.device)
    loss_from = torch.where(starts > 0, context, 0)
    text = Corpus(corpus.ids, loss_from, corpus.fingerprint)
    for first in range(0, len(starts), batch):
        at = torch.arange(first, min(first + batch, len(starts)), device=corpus.ids.device)
        made = _gather(text, at, starts[at], lengths[at], int(lengths[first]), column, pad)
        yield replace(made, rows=starts[at])


def _check_share(batch: int, rank: int, world: int) -> None:
    if not 0 <= rank < world:
        raise ValueError(f"rank must be in [0, {world}), got {rank}")
    if batch < world:
        raise DataError(
            f"train.batch = {batch} is less than one row for each of {world} processes; use {world} or more"
        )


def _check_tokens(tokens: int, batch: int, window: int) -> None:
    needed = batch * (window + 1)
    if tokens < needed:
        raise DataError(
            f"the training text has {tokens} tokens, fewer than train.batch * (data.window + 1) = "
            f"{batch} * {window + 1} = {needed}; use a smaller batch or window, or more text"
        )
