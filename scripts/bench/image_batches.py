"""Batches of images against the usual way: a map-style data set, one item at a time, and DataLoader.

Images per CPU-second, one thread, 60,000 images of 28 x 28 bytes with labels, batches of 128, no workers (with one
thread they only add cost). Every contestant yields float32 images in 0..1 and int64 labels.
Run: scripts/bench.py image-batches
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from measure import ratios, row
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from seqgen.images.data import ImageBatches, Split

BATCH = 128


class Items(Dataset[tuple[Tensor, int]]):
    """Images as a map-style data set holds them: an array, each item scaled and made a tensor."""

    def __init__(self, pixels: Any, labels: Any, *, pillow: bool) -> None:
        self.pixels, self.labels, self.pillow = pixels, labels, pillow

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = self.pixels[index]
        if self.pillow:  # as data sets do that hand a image to transforms
            image = np.asarray(Image.fromarray(image))
        return torch.from_numpy(image.astype(np.float32) / 255)[None], int(self.labels[index])


def endless(loader: DataLoader[Any]) -> Iterator[Any]:
    while True:
        yield from loader


def rows(quick: bool) -> Iterator[dict[str, Any]]:
    """How many times the images of a per-item DataLoader ours gives in a CPU-second."""
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (60_000, 28, 28), dtype=np.uint8)
    labels = random.integers(0, 10, 60_000)
    steps = 40 if quick else 150
    side = Split(torch.from_numpy(pixels)[:, None], torch.from_numpy(labels))
    ours = ImageBatches(side, BATCH, seed=1)
    ours.at(0)  # an epoch's order is drawn once

    def fast() -> None:
        for step in range(steps):
            ours.at(step).pixels.float().div_(255)

    batch = ours.at(3)
    right = all(torch.equal(batch.pixels[i, 0], side.pixels[r, 0]) for i, r in enumerate(batch.rows.tolist()))
    right &= torch.equal(batch.labels, side.labels[batch.rows])
    gate = "ok" if right else "a batch's rows are not the images they name"
    for case, pillow, floor in (("per-item DataLoader", False, 8.0), ("per-item DataLoader with Pillow", True, None)):
        made = torch.Generator()
        made.manual_seed(1)
        loader = endless(DataLoader(Items(pixels, labels, pillow=pillow), BATCH, shuffle=True, generator=made))
        next(loader)

        def usual(loader: Iterator[Any] = loader) -> None:
            for _ in range(steps):
                next(loader)

        yield row("image-batches", case, ratios(usual, fast, rounds=3 if quick else 7), floor, gate)


BENCHES = {"image-batches": rows}
