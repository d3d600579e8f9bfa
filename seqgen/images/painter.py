"""Pictures from a trained run: made, rebuilt, blended, repaired, scored. What `seqgen.load` gives for a picture model.

    painter = seqgen.load("runs/digits")
    pixels = painter.generate(64, seed=1)                  # (64, 1, 8, 8) uint8
    pictures.save_grid(pixels, "grid.png")

Picture k of a call is a function of (weights, options, seed, k) alone, not of the count or of earlier calls.
Shapes: N pictures, C channels, S pixels a side, Z code dimensions.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seqgen.core import rng
from seqgen.core.errors import DataError
from seqgen.images import samplers
from seqgen.images.data import DataConfig
from seqgen.images.pictures import as_bytes


class Painter:
    """A trained picture model: what `seqgen.load` returns. No optimizer, no loop."""

    def __init__(self, model: Any, data: DataConfig, seed: int, device: torch.device, folder: Path | None) -> None:
        """`data` and `seed` are those of the run, by which its pictures are found again where a method needs them."""
        self.model, self.config, self.data = model, model.config, data
        self.seed, self.device, self.folder = seed, device, folder

    @property
    def told(self) -> bool:
        """Whether the model is told a class, so that `labels` may be chosen."""
        return bool(self.config.told)

    def generate(
        self, count: int = 1, *, seed: int = 0, labels: Sequence[str] = (), temperature: float = 1.0
    ) -> Tensor:
        """`count` pictures (N, C, S, S) uint8, rounded.

        labels: names of classes, taken in turn; none: each picture's is drawn as often as in the training pictures.
        temperature: factor of the codes' deviation. ValueError for options out of range, DataError for unknown labels.
        """
        if count < 1:
            raise ValueError(f"count must be an integer >= 1, got {count}")
        if temperature < 0:
            raise ValueError(f"temperature must be at least 0, got {temperature}")
        seeds = rng.text_seeds(seed, 0, count).to(self.device)
        with torch.inference_mode():
            pictures = self.model.sample(seeds, self.labels(seeds, labels), temperature=temperature)
        return as_bytes(pictures).cpu()

    def labels(self, seeds: Tensor, names: Sequence[str] = ()) -> Tensor | None:
        """The class number (N,) of each picture to be made; None where the model is told none."""
        if not self.told:
            if names:
                raise DataError("this run was trained without being told classes, so none can be chosen")
            return None
        if not names:
            return samplers.drawn_labels(seeds, self.config.class_counts)
        for name in names:
            if name not in self.config.classes:
                raise DataError(f"class {name!r} was never seen in training; known: {', '.join(self.config.classes)}")
        chosen = [self.config.classes.index(names[k % len(names)]) for k in range(len(seeds))]
        return torch.tensor(chosen, device=self.device)
