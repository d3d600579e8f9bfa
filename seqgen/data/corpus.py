"""A corpus: packed ids of every row with their special ids, ready to be gathered into batches."""

from dataclasses import dataclass

import torch
from torch import Tensor

from seqgen.data.ragged import Ragged


@dataclass(frozen=True)
class Corpus:
    """Token ids of one side (training or held out), as the batches gather them.

    A sentence is a row `[start, x1..xn, eos]`, a conditional one `[start, s1..sm, sep, x1..xn, eos]`; running text is
    one row `[start, x1..xN]`.
    """

    ids: Ragged
    """All rows, special ids included."""
    loss_from: Tensor | None
    """(R,) int64, the first input position of a row whose target counts; None: all of them."""
    fingerprint: str
    """Fingerprint of the tokenizer that made the ids."""

    def to(self, device: torch.device | str) -> "Corpus":
        """The same corpus on another device."""
        loss_from = None if self.loss_from is None else self.loss_from.to(device)
        return Corpus(self.ids.to(device), loss_from, self.fingerprint)
