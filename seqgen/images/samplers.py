"""Where codes come from. First the plain ways: standard normals and uniforms that belong to a seed or a row."""

from collections.abc import Callable

import torch
from torch import Tensor

from seqgen.core import rng

TILE = 64
"""Rows decoded together: one size of matrix product, so that picture k has the same bits in any batch."""

_LABELS = 1 << 20  # the stream that labels are drawn from; those of codes count up from 0


def normals(seeds: Tensor, width: int, *, stream: int = 0) -> Tensor:
    """Standard normal numbers (B, width) float64, a function of each row's seed and the stream alone."""
    # the middle of each of the 2^53 cells, so that 0 and with it -infinity cannot come
    drawn: Tensor = torch.special.ndtri(fixed_uniforms(seeds, width, stream=stream) + 2.0**-54)
    return drawn


def fixed_uniforms(seeds: Tensor, width: int, *, stream: int = 0) -> Tensor:
    """Uniform numbers in [0, 1), (B, width) float64, a function of each row's seed and the stream alone."""
    return rng.uniforms(seeds[:, None], torch.arange(width, device=seeds.device), stream=stream)


def decoded_in_tiles(decode: Callable[[Tensor, Tensor | None], Tensor], codes: Tensor, labels: Tensor | None) -> Tensor:
    """`decode` of (B, Z) codes and (B,) labels, TILE rows at a time, the last tile filled up with copies of row 0."""
    rows = len(codes)
    filled = torch.arange(-(-rows // TILE) * TILE, device=codes.device)
    filled = torch.where(filled < rows, filled, 0)
    tiles = torch.split(filled, TILE)
    return torch.cat([decode(codes[t], None if labels is None else labels[t]) for t in tiles])[:rows]


def drawn_labels(seeds: Tensor, class_counts: tuple[int, ...]) -> Tensor:
    """A class number (B,) for each seed, with the frequencies of `class_counts`."""
    shares = torch.tensor(class_counts, dtype=torch.float64, device=seeds.device)
    # a stream of its own: the codes' uniforms use 0
    drawn = torch.searchsorted(shares.cumsum(0) / shares.sum(), rng.uniforms(seeds, 0, stream=_LABELS), right=True)
    return drawn.clamp_max(len(class_counts) - 1)
