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

    @property
    def count(self) -> int:
        """Predictions that are counted, P."""
        return self.positions.numel()

    def micro_batches(self, count: int) -> "Iterator[tuple[slice, SequenceBatch]]":
        """Yield the batch cut by rows into at most `count` batches, with the rows of each."""
        if count == 1:  # the whole batch, without the wait for a device that finding its positions would be
            yield slice(None), self
            return
        size = -(-len(self.inputs) // count)
        width = self.inputs.shape[1]
        for begin in range(0, len(self.inputs), size):
            rows = slice(begin, begin + size)
            inside = (self.positions >= begin * width) & (self.positions < (begin + size) * width)
            yield (
                rows,
                replace(
                    self,
                    inputs=self.inputs[rows],
                    targets=self.targets[rows],
                    positions=self.positions[inside] - begin * width,
                    lengths=self.lengths[rows],
                    rows=self.rows[rows],
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
