"""Batches as gathers from a packed corpus; each is a function of (seed, step, rank, world) and nothing else.

No loader, no workers, no position to save. `at(step)` finds the group of steps it falls into, draws the group's plan
(the same on every device and for every number of processes), gathers all of its batches at once, and keeps them until
a step falls outside: small batches cost more in calls than in copies. `batch` counts rows over all processes, each
takes its share. Batches are contiguous views of the group; do not write into them.
Shapes: B rows, T input positions, N tokens, P counted positions, G batches of a group.
"""

import bisect
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from seqgen.core.batch import SequenceBatch
from seqgen.core.errors import DataError
from seqgen.core.rng import generator, hash64
from seqgen.data.corpus import Corpus
from seqgen.data.ragged import widen

_GROUP_TOKENS = 1 << 16
"""Positions gathered at once, roughly: what lies in a processor's second cache costs least."""


class Batches(Protocol):
    """What the loop asks for."""

    @property
    def steps_per_epoch(self) -> int:
        """Steps that go through the text once."""

    def at(self, step: int, rank: int = 0, world: int = 1) -> SequenceBatch:
        """Return the batch of a step, or a process's share of it."""


class MovedBatches:
    """The batches of a corpus that stays on the CPU, on another device.

    The batch of the next step is made while the device works on this one, by a thread, as it depends on nothing but
    the step; what comes out is the same in any order of steps.
    """

    def __init__(self, batches: Batches, device: torch.device | str) -> None:
        self.batches = batches
        self.device = device
        self.steps_per_epoch = batches.steps_per_epoch
        self._thread = ThreadPoolExecutor(1, "batches")
        self._ahead: tuple[tuple[int, int, int], Future[SequenceBatch]] | None = None

    def at(self, step: int, rank: int = 0, world: int = 1) -> SequenceBatch:
        """Return the batch of a step, or a process's share of it."""
        wanted, ahead = (step, rank, world), self._ahead
        # one thread makes them all, one after the other: the batches keep what they made last
        made = ahead[1] if ahead and ahead[0] == wanted else self._thread.submit(self.batches.at, *wanted)
        batch = made.result()
        self._ahead = (step + 1, rank, world), self._thread.submit(self.batches.at, step + 1, rank, world)
        return batch.to(self.device)


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
        tokens = corpus.ids.values.numel()
        self._group = max(1, min(bucket, _GROUP_TOKENS * corpus.ids.rows // (batch * tokens)))
        self._pool: tuple[tuple[int, int], Tensor, Tensor] = ((-1, -1), torch.empty(0), torch.empty(0))
        self._made: tuple[tuple[int, ...], list[SequenceBatch]] = ((), [])

    def at(self, step: int, rank: int = 0, world: int = 1) -> SequenceBatch:
        """Return the batch of a step; process `rank` of `world` takes every world-th row of it."""
        _check_share(self.batch, rank, world)
        epoch, at = divmod(step, self.steps_per_epoch)
        pool, at = divmod(at, self.bucket)
        group, at = divmod(at, self._group)
        key = (epoch, pool, group, rank, world)
        if self._made[0] != key:
            if self._pool[0] != (epoch, pool):
                self._pool = ((epoch, pool), *self._draw(epoch, pool))
            share = slice(group * self._group, (group + 1) * self._group), slice(rank, None, world)
            rows, lengths = self._pool[1][share], self._pool[2][share]
            first = self.corpus.ids.begins_of(rows)
            self._made = (key, _gather(self.corpus, rows, first, lengths, self.pad))
        return self._made[1][at]

    def _draw(self, epoch: int, pool: int) -> tuple[Tensor, Tensor]:
        """Draw a pool's batches: rows and their input lengths, (batches, B) on the CPU, each batch rising in length."""
        first = pool * self.bucket
        batches = min(self.bucket, self.steps_per_epoch - first)
        places = np.arange(first * self.batch, (first + batches) * self.batch)
        rows = torch.from_numpy(permuted(places, self.corpus.ids.rows, hash64("sentences", self.seed, epoch)))
        lengths = self.corpus.ids.lengths_of(rows) - 1
        order = torch.argsort(lengths, stable=True).view(batches, self.batch)
        order = order[torch.randperm(batches, generator=generator("batches", self.seed, epoch, pool))]
        return rows[order], lengths[order]


def permuted(places: np.ndarray, size: int, key: int) -> np.ndarray:
    """Return where a keyed permutation of range(size) takes the numbers `places`, int64.

    A balanced Feistel network of six rounds over an even number of bits, walked until the result falls inside
    ("cycle walking", Black and Rogaway 2002); at most four walks are needed on average. The round functions are
    multiply-add-shift hashes (Dietzfelbinger 1996) with keyed odd factors.
    """
    # Fewer than eight bits would reach too few of the permutations.
    half = max(4, ((size - 1).bit_length() + 1) // 2)
    bits, mask, down = np.uint64(half), np.uint64((1 << half) - 1), np.uint64(64 - half)
    keys = [hash64("round", key, i) for i in range(12)]
    factors, offsets = [np.uint64(2 * k + 1) for k in keys[:6]], [np.uint64(k) for k in keys[6:]]
    result = places.astype(np.uint64)
    outside = np.arange(len(result))
    while len(outside):
        left, right = result[outside] >> bits, result[outside] & mask
        for factor, offset in zip(factors, offsets, strict=True):
            left, right = right, left ^ ((right * factor + offset) >> down)
        walked = (left << bits) | right
        result[outside] = walked
        outside = outside[walked >= size]
    return result.astype(np.int64)


def _gather(corpus: Corpus, rows_gb: Tensor, first_gb: Tensor, lengths_gb: Tensor, pad: int) -> list[SequenceBatch]:
    """Gather G padded batches at once: row (g, b) has `lengths` inputs from value `first` on; all (G, B), CPU.

    The group is laid out batch after batch, each as wide as its longest row, so that batches are views of it. The
    layout is made by numpy for every device (its `repeat` takes a fifth of torch's time), the ids are gathered there.
    """
    batches, size = rows_gb.shape
    device, values = corpus.ids.device, corpus.ids.values
    loss_from = np.zeros(batches * size, np.int64)
    if corpus.loss_from is not None:
        loss_from = corpus.loss_from[rows_gb.to(device)].view(-1).cpu().numpy()
    lengths = lengths_gb.reshape(-1).numpy()
    widths = lengths_gb.amax(1).numpy()
    row_widths = widths.repeat(size)
    starts = row_widths.cumsum() - row_widths
    place = np.arange(row_widths.sum())
    at = (first_gb.reshape(-1).numpy() - starts).repeat(row_widths) + place
    # Padding after the last row would be looked up behind the values' end.
    np.minimum(at, values.numel() - 2, out=at)
    real = torch.from_numpy(place < (starts + lengths).repeat(row_widths)).to(device)
    index = torch.from_numpy(at).to(device)
    inputs = torch.where(real, widen(values.index_select(0, index)), pad)
    targets = torch.where(real, widen(values[1:].index_select(0, index)), pad)
    # A row's counted positions are a run that begins at `loss_from` of its place in its own batch.
    counts = lengths - loss_from
    own = np.arange(size) * widths[:, None]
    positions = (own.reshape(-1) + loss_from - (counts.cumsum() - counts)).repeat(counts) + np.arange(counts.sum())
    cells = (widths * size).tolist()
    made = zip(
        inputs.split_with_sizes(cells),
        targets.split_with_sizes(cells),
        torch.from_numpy(positions).to(device).split_with_sizes(counts.reshape(batches, size).sum(1).tolist()),
        lengths_gb.to(device).unbind(),
        rows_gb.to(device).unbind(),
        torch.from_numpy(np.stack([lengths, counts], 1).reshape(batches, size, 2)).mT.unbind(),
        strict=True,
    )
    return [
        SequenceBatch(inputs_n.view(size, -1), targets_n.view(size, -1), positions_p, lengths_b, rows_b, known=known_2b)
        for inputs_n, targets_n, positions_p, lengths_b, rows_b, known_2b in made
    ]


# ------------------------------------------------------------------------------------------------------ running text


class StreamBatches:
    """Running text in B columns, read in windows of T one after the other; the model carries its state from each on.

    Column b holds the targets b * n + 1 to b * n + n of the text, n = (N - 1) // B, so only the last few tokens are
    left out. The last window of an epoch may be shorter. With `jitter` lengths are random (Merity et al. 2018,
    section 5): N(T, 5) with probability .95, else N(T / 2, 5), at least 5. `weight` is always length / T.
    """

    def __init__(self, corpus: Corpus, batch: int, window: int, *, seed: int, jitter: bool = False) -> None:
        _check_running(corpus, batch, window)
        self.corpus = corpus
        self.batch = batch
        self.window = window
        self.seed = seed
        self.jitter = jitter
        self.column = (corpus.ids.values.numel() - 1) // batch
        """Targets of each column."""
        self._group = 1 if jitter else max(1, min(64, _GROUP_TOKENS // (batch * window)))
        self._made: tuple[tuple[int, ...], list[SequenceBatch]] = ((), [])
        self._starts: tuple[int, list[int]] = (-1, [])
        self._ends: list[int] = []

    @property
    def steps_per_epoch(self) -> int:
        """Windows of a column; with `jitter` those of the first epoch."""
        return len(self._drawn_starts(0)) - 1 if self.jitter else -(-self.column // self.window)

    def at(self, step: int, rank: int = 0, world: int = 1) -> SequenceBatch:
        """Return the windows of a step; process `rank` of `world` takes a contiguous share of the columns."""
        _check_share(self.batch, rank, world)
        if self.jitter:
            return self._windows(*self._drawn_window(step), 1, rank, world)[0]
        group, at = divmod(step % self.steps_per_epoch, self._group)
        full = self.column // self.window - group * self._group
        if at == full:
            # What is left at the end of the column is no full window.
            start = self.column // self.window * self.window
            return self._windows(start, self.column, 1, rank, world)[0]
        key = (group, rank, world)
        if self._made[0] != key:
            start = group * self._group * self.window
            made = self._windows(start, start + self.window, min(self._group, full), rank, world)
            self._made = (key, made)
        return self._made[1][at]

    def _windows(self, start: int, end: int, count: int, rank: int, world: int) -> list[SequenceBatch]:
        """Return `count` windows in a row, as long as the first, which is `start` to `end` of every column."""
        width = end - start
        first, last = self.batch * rank // world, self.batch * (rank + 1) // world
        size, strides = (count, last - first, width), (width, self.column, 1)
        values, at = self.corpus.ids.values, first * self.column + start
        inputs = widen(values.as_strided(size, strides, at))
        targets = widen(values.as_strided(size, strides, at + 1))
        positions = torch.arange((last - first) * width, device=values.device)
        lengths = torch.full((last - first,), width, device=values.device)
        rows = torch.arange(at, at + count * width, width, device=values.device)[:, None]
        rows = rows + torch.arange(last - first, device=values.device) * self.column
        known = torch.full((2, last - first), width)
        return [
            SequenceBatch(inputs_bt, targets_bt, positions, lengths, rows_b, start + g > 0, width / self.window, known)
            for g, (inputs_bt, targets_bt, rows_b) in enumerate(
                zip(inputs.unbind(), targets.unbind(), rows.unbind(), strict=True)
            )
        ]

    def _drawn_window(self, step: int) -> tuple[int, int]:
        """Return where a step's window of random length starts and ends in every column."""
        # Epochs differ in length, so those before have to be counted once.
        while not self._ends or self._ends[-1] <= step:
            done = self._ends[-1] if self._ends else 0
            self._ends.append(done + len(self._drawn_starts(len(self._ends))) - 1)
        epoch = bisect.bisect_right(self._ends, step)
        at = step - (self._ends[epoch - 1] if epoch else 0)
        starts = self._drawn_starts(epoch)
        return starts[at], starts[at + 1]

    def _drawn_starts(self, epoch: int) -> list[int]:
        """Return where the windows of an epoch with random lengths start, and the column's end."""
        if self._starts[0] != epoch:
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
            self._starts = (epoch, [*inside, self.column])
        return self._starts[1]


class WindowBatches:
    """Windows of T tokens from seeded random places, each a sample of its own: no state is carried."""

    def __init__(self, corpus: Corpus, batch: int, window: int, *, seed: int) -> None:
        _check_running(corpus, batch, window)
        self.corpus = corpus
        self.batch = batch
        self.window = window
        self.seed = seed
        self.steps_per_epoch = corpus.ids.values.numel() // (batch * window)
        self._group = max(1, min(64, _GROUP_TOKENS // (batch * window)))
        self._made: tuple[tuple[int, ...], list[SequenceBatch]] = ((), [])

    def at(self, step: int, rank: int = 0, world: int = 1) -> SequenceBatch:
        """Return the windows of a step; process `rank` of `world` takes every world-th of them."""
        _check_share(self.batch, rank, world)
        group, at = divmod(step, self._group)
        key = (group, rank, world)
        if self._made[0] != key:
            self._made = (key, self._draw(group, rank, world))
        return self._made[1][at]

    def _draw(self, group: int, rank: int, world: int) -> list[SequenceBatch]:
        values = self.corpus.ids.values
        draws = generator("places", self.seed, group)
        starts = torch.randint(values.numel() - self.window, (self._group, self.batch), generator=draws)
        starts = starts[:, rank::world].to(values.device)
        batches, size = starts.shape
        # Row i of the unfolded view is the window that starts at i, so one look-up copies whole windows.
        inputs, targets = (
            widen(text.unfold(0, self.window, 1).index_select(0, starts.reshape(-1))).view(batches, size, -1)
            for text in (values, values[1:])
        )
        positions = torch.arange(size * self.window, device=values.device)
        lengths = torch.full((size,), self.window, device=values.device)
        known = torch.full((2, size), self.window)
        return [
            SequenceBatch(inputs_bt, targets_bt, positions, lengths, rows_b, known=known)
            for inputs_bt, targets_bt, rows_b in zip(inputs.unbind(), targets.unbind(), starts.unbind(), strict=True)
        ]


# -------------------------------------------------------------------------------------------------------- evaluation


def sentence_evaluation(corpus: Corpus, batch: int, *, pad: int) -> Iterator[SequenceBatch]:
    """Yield every row once, sorted by length, `batch` rows at a time."""
    whole = torch.arange(corpus.ids.rows)
    first, lengths = corpus.ids.begins_of(whole), corpus.ids.lengths_of(whole) - 1
    order = torch.argsort(lengths, stable=True)
    for at in range(0, len(order), batch):
        rows = order[at : at + batch]
        yield from _gather(corpus, rows[None], first[rows][None], lengths[rows][None], pad)


def stream_evaluation(corpus: Corpus, batch: int, window: int, *, pad: int) -> Iterator[SequenceBatch]:
    """Yield every token of a text but the first once, in up to `batch` columns that carry their state.

    There are fewer columns where they would be shorter than eight windows: each starts without context.
    """
    tokens = corpus.ids.values.numel() - 1
    columns = max(1, min(batch, tokens // (8 * window)))
    text = replace(corpus, loss_from=None)
    # Columns differ by at most one token, the longer ones first.
    numbers = torch.arange(columns)
    starts = numbers * (tokens // columns) + numbers.clamp(max=tokens % columns)
    sizes = tokens // columns + (numbers < tokens % columns).long()
    start, longest = 0, -(-tokens // columns)
    while start < longest:
        # A rest of one token joins the window before it, so that no column is empty at the end.
        width = longest - start if longest - start <= window + 1 else window
        lengths = (sizes - start).clamp(max=width)
        first = starts + start
        (made,) = _gather(text, first[None], first[None], lengths[None], pad)
        yield replace(made, stateful=start > 0)
        start += width


def window_evaluation(corpus: Corpus, batch: int, window: int, *, pad: int) -> Iterator[SequenceBatch]:
    """Yield every token of a text but the first once, in windows that overlap by half, the first half unscored.

    The first window counts all its targets.
    """
    tokens = corpus.ids.values.numel() - 1
    context = window // 2
    first = torch.arange(0, max(1, tokens - context), window - context)
    lengths = (tokens - first).clamp(max=window)
    loss_from = torch.where(first > 0, context, 0).to(corpus.ids.device)
    text = replace(corpus, loss_from=loss_from)
    for at in range(0, len(first), batch):
        rows = torch.arange(at, min(at + batch, len(first)))
        (made,) = _gather(text, rows[None], first[rows][None], lengths[rows][None], pad)
        yield replace(made, rows=first[rows].to(corpus.ids.device))


def _check_share(batch: int, rank: int, world: int) -> None:
    if not 0 <= rank < world:
        raise ValueError(f"rank must be in [0, {world}), got {rank}")
    if batch < world:
        raise DataError(
            f"train.batch = {batch} is less than one row for each of {world} processes; use {world} or more"
        )


def _check_running(corpus: Corpus, batch: int, window: int) -> None:
    if batch < 1 or window < 1:
        raise ValueError(f"batch and window must be at least 1, got {batch} and {window}")
    tokens, needed = corpus.ids.values.numel(), batch * (window + 1)
    if tokens < needed:
        raise DataError(
            f"the training text has {tokens} tokens, fewer than train.batch * (data.window + 1) = "
            f"{batch} * {window + 1} = {needed}; use a smaller batch or window, or more text"
        )
