"""What a text model is handed at every step. Shapes: B rows, T positions, P counted positions."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class SequenceBatch:
    """B rows of T positions: what is read, what comes next, and which predictions count.

    A sentence with the ids `[start, x1..xn, eos]` has the inputs `[start, x1..xn]` and the targets `[x1..xn, eos]`.
    A conditional row `[start, s1..sm, sep, x1..xn, eos]` counts from the position whose target is x1.
    """

    inputs: Tensor
    """(B, T) int64, padded on the right."""
    targets: Tensor
    """(B, T) int64, the next token of every input position, padded on the right."""
    positions: Tensor
    """(P,) int64, rising: flat indices b * T + t of the positions that are predicted and counted."""
    lengths: Tensor
    """(B,) int64, real input positions of every row, at least 1."""
    rows: Tensor
    """(B,) int64: the corpus row of each sentence, or the first token of each window."""
    stateful: bool = False
    """Stream mode: the hidden state at the end of the batch before continues here; False where a pass begins."""
    weight: float = 1.0
    """Factor on this step's learning rate: with random window lengths, this length / `data.window`."""
    known: Tensor | None = None
    """(2, B) int64 on the host, where it is known there: `lengths`, and how many positions of each row are counted.
    What a step has to know of them then costs no wait for a device."""

    @property
    def count(self) -> int:
        """Predictions that are counted, P."""
        return self.positions.numel()

    @property
    def sizes(self) -> Tensor:
        """(2, B) int64 on the host: `lengths`, and how many positions of each row are counted."""
        if self.known is not None:
            return self.known
        counted = (self.positions // self.inputs.shape[1]).bincount(minlength=len(self.inputs))
        return torch.stack([self.lengths, counted]).cpu()

    @property
    def later(self) -> Tensor:
        """The counted positions but those at the begin of a row."""
        lengths, counted = self.sizes
        firsts = (counted.cumsum(0) - counted)[(counted == lengths) & (counted > 0)]
        kept = torch.ones(self.count, dtype=torch.bool).index_fill_(0, firsts, False).nonzero()[:, 0]
        return self.positions[kept.to(self.positions.device)]

    def micro_batches(self, count: int) -> "Iterator[tuple[slice, SequenceBatch]]":
        """Yield the batch cut by rows into at most `count` batches, with the rows of each."""
        if count == 1:  # the whole batch, without the wait for a device that finding its positions would be
            yield slice(None), self
            return
        size = -(-len(self.inputs) // count)
        width, sizes = self.inputs.shape[1], self.sizes
        parts = self.positions.split_with_sizes([int(part.sum()) for part in torch.split(sizes[1], size)])
        for begin, positions in zip(range(0, len(self.inputs), size), parts, strict=True):
            rows = slice(begin, begin + size)
            yield (
                rows,
                replace(
                    self,
                    inputs=self.inputs[rows],
                    targets=self.targets[rows],
                    positions=positions - begin * width,
                    lengths=self.lengths[rows],
                    rows=self.rows[rows],
                    known=sizes[:, rows],
                ),
            )

    def to(self, device: torch.device | str) -> "SequenceBatch":
        """Return the same batch on another device."""
        return replace(
            self,
            inputs=self.inputs.to(device),
            targets=self.targets.to(device),
            positions=self.positions.to(device),
            lengths=self.lengths.to(device),
            rows=self.rows.to(device),
        )
