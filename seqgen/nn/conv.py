"""Layers of image models: convolutions that halve or double the map, norms, activations and their first weights.

Shapes: B images, C channels, S side of the square map.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from seqgen.core import dist
from seqgen.core.errors import ConfigError

Norm: TypeAlias = Literal["none", "batch", "layer", "spectral", "class"]
Pieces: TypeAlias = list[nn.Module]


def default_widths(size: int, first: int) -> tuple[int, ...]:
    """Return channels after each halving: `first`, then twice as many each time, up to eight times `first`.

    The map is halved down to a side of 4 to 7 (Radford et al. 2016), but at least twice where there are pixels for it.
    """
    bits = size.bit_length()
    return tuple(first * min(2**k, 8) for k in range(min(max(2, bits - 3), bits - 1)))


def smallest_side(size: int, widths: Sequence[int], option: str) -> int:
    """Return the side of the map after one halving per width, an odd side rounded down.

    ConfigError names `option` where there are too few pixels for so many halvings, or none is made.
    """
    most = size.bit_length() - 1
    if not 0 < len(widths) <= most:
        raise ConfigError(
            f"{option} has {len(widths)} widths, each of which halves the image, but {size} pixels can be halved "
            f"{most} times; give 1 to {most} widths, or model.net=mlp"
        )
    return size >> len(widths)


def halving(channels: int, widths: Sequence[int], activation: nn.Module, *, norm: Norm = "none") -> Pieces:
    """Stack 4x4 convolutions of stride 2, one per width: (B, C, S, S) to (B, widths[-1], S / 2^n, S / 2^n), floored.

    The activation stands behind every convolution; batch or layer norm between them, but not behind the first (Radford
    et al. 2016).
    """
    pieces: Pieces = []
    for i, width in enumerate(widths):
        pieces.append(limited(nn.Conv2d(channels, width, 4, 2, 1), norm))
        if i:
            pieces += _normed(width, norm)
        pieces.append(activation)
        channels = width
    return pieces


def doubling(
    widths: Sequence[int], channels: int, size: int, activation: nn.Module, *, norm: Norm = "none", classes: int = 0
) -> Pieces:
    """Stack 4x4 transposed convolutions of stride 2, as `halving` reversed: (B, widths[0], ...) to (B, C, size, size).

    The norm (`class` for one with a scale and shift per class) and the activation stand before every convolution, so
    that the last one's output is bare.
    """
    pieces: Pieces = []
    for k, (width, after) in enumerate(zip(widths, [*widths[1:], channels], strict=True), 1):
        odd = (size >> (len(widths) - k)) % 2
        up = nn.ConvTranspose2d(width, after, 4, 2, 1, output_padding=odd)
        pieces += [*_normed(width, norm, classes), activation, up]
    return pieces


def limited(layer: nn.Module, norm: Norm) -> nn.Module:
    """Divide a layer by its largest singular value where the norm is spectral (Miyato et al. 2018)."""
    return spectral_norm(layer) if norm == "spectral" else layer


def _normed(width: int, norm: Norm, classes: int = 0) -> Pieces:
    if norm == "batch":
        return [nn.BatchNorm2d(width)]
    if norm == "class":
        return [ClassNorm(width, classes)]
    # one group: mean and variance over all channels and places of one image, so no image depends on its batch
    return [nn.GroupNorm(1, width)] if norm == "layer" else []


class ClassNorm(nn.Module):
    """Batch norm whose scale and shift belong to the class (de Vries et al. 2017; Miyato and Koyama 2018)."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(width, affine=False)
        self.scale = nn.Embedding(classes, width)
        self.shift = nn.Embedding(classes, width)
        nn.init.ones_(self.scale.weight)
        nn.init.zeros_(self.shift.weight)

    def forward(self, maps: Tensor, labels: Tensor) -> Tensor:
        """Normalise maps (B, C, S, S) of the classes `labels` (B,) over the batch."""
        scale, shift = self.scale(labels)[:, :, None, None], self.shift(labels)[:, :, None, None]
        return self.norm(maps) * scale + shift  # type: ignore[no-any-return]


def small_normal(module: nn.Module) -> None:
    """Draw DCGAN's initial weights in place: convolutions and linear layers N(0, 0.02), batch norms N(1, 0.02)."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.normal_(part.weight, 0.0, 0.02)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.BatchNorm2d) and part.affine:
            nn.init.normal_(part.weight, 1.0, 0.02)


@contextmanager
def frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Keep batch norms from updating their running statistics while open; they still normalise by the batch."""
    norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


def share_statistics(module: nn.Module) -> None:
    """Average the running statistics of all batch norms over the processes, in place, so that all hold the same."""
    found: list[Any] = [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]
    if not found or dist.world() == 1:
        return
    with torch.no_grad():
        tensors = [t for norm in found for t in (norm.running_mean, norm.running_var)]
        means = torch.split(dist.sum_(torch.cat(tensors)) / dist.world(), [t.numel() for t in tensors])
        for tensor, mean in zip(tensors, means, strict=True):
            tensor.copy_(mean)
