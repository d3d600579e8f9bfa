"""Numbers about images and their features: distances of two sets, coverage, classes, reconstruction, memory.

Plain functions of arrays, without a net of their own. A feature is a row of whatever encoded the images, so a
Frechet or kernel distance of such features is never FID or KID, which are defined on one particular Inception net.
Shapes: N and M images, D features, K classes, C channels, S pixels a side. Images are uint8, 0..255, where two sets
are compared, and floats in 0..1 where one is laid upon another; anything else is a ValueError, never another number.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from seqgen.metrics.distance import check_features, js_of_counts

Floats = npt.NDArray[np.float64]

_BLOCK = 256  # rows of a distance matrix held at once: with 5,000 columns they fit the second cache
_GROUPS = 64  # of columns, by their number modulo 64


def check_bytes(*sides: Tensor) -> None:
    """Raise ValueError unless each is a tensor of images (N, C, H, W) uint8, N > 0, all of one C, H and W.

    TypeError for what is no tensor.
    """
    _check_tensors(sides)
    for side in sides:
        if side.dtype != torch.uint8:
            raise ValueError(
                f"images must be uint8, 0..255, got {_kind(side)}; floats in 0..1: seqgen.images.grids.as_bytes"
            )
    _check_shapes(sides)


def _check_units(*sides: Tensor) -> None:
    """Raise ValueError unless each is a tensor of images (N, C, H, W) of floats in 0..1, all of one shape."""
    _check_tensors(sides)
    for side in sides:
        if not side.is_floating_point():
            raise ValueError(f"images must be floats in 0..1, got {_kind(side)}; divide bytes by 255")
    _check_shapes(sides)
    for side in sides:
        if not (side.min() >= 0 and side.max() <= 1):
            raise ValueError(f"images must be floats in 0..1, got {float(side.min()):g}..{float(side.max()):g}")
    if len({side.shape for side in sides}) > 1:
        raise ValueError(f"images must have one shape, got {' and '.join(str(tuple(side.shape)) for side in sides)}")


def _check_tensors(sides: tuple[Any, ...]) -> None:
    for side in sides:
        if not isinstance(side, Tensor):
            raise TypeError(f"images must be a torch.Tensor (N, C, H, W), got {type(side).__name__}")


def _kind(side: Tensor) -> str:
    return str(side.dtype).removeprefix("torch.")


def _check_shapes(sides: tuple[Tensor, ...]) -> None:
    for side in sides:
        if side.dim() != 4 or not side.numel():
            raise ValueError(f"images must be (N, C, H, W), N > 0, got {tuple(side.shape)}")
    if len({side.shape[1:] for side in sides}) > 1:
        raise ValueError(f"images must have one size, got {' and '.join(str(tuple(side.shape)) for side in sides)}")


# ------------------------------------------------------------------------------------------------------------ two sets


def kernel_distance(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """Return the squared maximum mean discrepancy of feature rows (N, D) and (M, D), unbiased, so it may fall below 0.

    The kernel is (x . y / D + 1)^3 (Binkowski et al. 2018), over all pairs: no subsets and no seed.
    Raises ValueError as `check_features`.
    """
    x, y = (torch.from_numpy(side) for side in check_features(a, b))
    within = [(_kernel_sum(s, s) - float((s.square().sum(1) / s.shape[1] + 1).pow(3).sum())) for s in (x, y)]
    n, m = len(x), len(y)
    return within[0] / (n * (n - 1)) + within[1] / (m * (m - 1)) - 2 * _kernel_sum(x, y) / (n * m)


def _kernel_sum(x: Tensor, y: Tensor) -> float:
    return sum(float((block @ y.T / x.shape[1] + 1).pow(3).sum()) for block in torch.split(x, _BLOCK))


def standardised(reference: npt.ArrayLike, *others: npt.ArrayLike) -> list[Floats]:
    """Standardise the reference (N, D) and other feature rows (M, D) by the reference's mean and deviation.

    Raises ValueError as `check_features`.
    """
    rows = check_features(reference, reference)[0]
    mean, deviation = rows.mean(0), rows.std(0)
    deviation[deviation == 0] = 1.0
    return [(check_features(rows, side)[1] - mean) / deviation for side in (rows, *others)]


@dataclass(frozen=True)
class Coverage:
    """Where two clouds of features overlap, by balls around each row that reach its k-th neighbour."""

    precision: float
    """Share of made rows inside the ball of some real row (Kynkaanniemi et al. 2019)."""
    recall: float
    """Share of real rows inside the ball of some made row."""
    density: float
    """Balls of real rows around a made row, over k (Naeem et al. 2020); may pass 1."""
    coverage: float
    """Share of real rows whose own ball holds a made row."""


def coverage(real: npt.ArrayLike, made: npt.ArrayLike, *, k: int = 5) -> Coverage:
    """Return precision, recall, density and coverage of features (M, D) against real ones (N, D), N and M above k.

    Distances are taken block by block as squares from one matrix product, so no N x M matrix exists.
    Raises ValueError as `check_features`, and for k outside 1..min(N, M) - 1.
    """
    sides = check_features(real, made)
    if not 1 <= k < min(map(len, sides)):
        raise ValueError(f"k must be in 1..{min(map(len, sides)) - 1}, one less than the rows of a side; got {k}")
    middle = sides[0].mean(0)  # squares near the origin cancel less
    x, y = (torch.from_numpy(side - middle) for side in sides)
    reach_real, reach_made = _reach(x, k), _reach(y, k)
    held = torch.zeros(len(y), dtype=torch.int64)
    recalled = covered = 0
    for at, squares in _squares(x, y):
        reach = reach_real[at : at + _BLOCK]
        held += (squares < reach[:, None]).sum(0, dtype=torch.int32)
        # a minimum, not any(): torch reduces booleans along rows twenty times slower
        covered += int((squares.amin(1) < reach).sum())
        recalled += int((squares.sub_(reach_made).amin(1) < 0).sum())
    return Coverage(
        precision=int((held > 0).sum()) / len(y),
        recall=recalled / len(x),
        density=int(held.sum()) / (k * len(y)),
        coverage=covered / len(x),
    )


def _squares(x: Tensor, y: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yield the squared distances of a block of rows of x to all rows of y, with the block's first row."""
    sizes = y.square().sum(1)
    for at in range(0, len(x), _BLOCK):
        block = x[at : at + _BLOCK]
        yield at, torch.addmm(sizes, block, y.T, alpha=-2).add_(block.square().sum(1)[:, None])


def _reach(x: Tensor, k: int) -> Tensor:
    """Return the squared distance of every row to its k-th nearest other row, (N,)."""
    groups = max(_GROUPS, k + 1)
    whole = len(x) - len(x) % groups
    found = []
    for _, squares in _squares(x, x):
        if whole:
            # the k + 1 smallest of a row lie in the k + 1 groups of columns with the smallest minima
            grouped = squares[:, :whole].view(len(squares), -1, groups)
            least = grouped.amin(1).topk(k + 1, largest=False, sorted=False).indices
            few = grouped.gather(2, least[:, None].expand(-1, grouped.shape[1], -1)).flatten(1)
            squares = torch.cat([few, squares[:, whole:]], 1)
        found.append(squares.topk(k + 1, largest=False).values[:, k])  # itself comes first
    return torch.cat(found)


def sliced_wasserstein(a: Tensor, b: Tensor, *, directions: int = 256, seed: int = 0) -> float:
    """Return the Wasserstein-2 distance of two sets of images along random directions, root of the mean square.

    a (N, C, S, S) and b (M, C, S, S) uint8; each direction is a unit vector in pixel space (Rabin et al. 2011). Sets
    of different size are compared exactly, by their quantile functions.
    """
    check_bytes(a, b)
    random = np.random.default_rng(seed)
    x, y = (np.asarray(side.cpu().flatten(1), np.float32) / 255 for side in (a, b))
    axes = random.standard_normal((x.shape[1], directions), np.float32)
    axes /= np.linalg.norm(axes, axis=0)
    left, right = np.sort(x @ axes, 0), np.sort(y @ axes, 0)
    n, m = len(x), len(y)
    edges = np.unique(np.concatenate([np.arange(1, n + 1) * m, np.arange(1, m + 1) * n]))  # in units of 1 / (n m)
    before = np.concatenate([[0], edges[:-1]])
    gaps = (left[before // m] - right[before // n]).astype(np.float64) ** 2
    return float(np.sqrt((gaps * (edges - before)[:, None]).sum(0).mean() / (n * m)))


# ------------------------------------------------------------------------------------------------------------- classes


def class_counts(labels: Tensor, classes: int) -> Floats:
    """Count the images with each of the labels (N,) 0..K-1; those below 0 are not counted.

    ValueError for one above, TypeError for what is no tensor of integers.
    """
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.dim() != 1:
        found = _kind(labels) + f" {tuple(labels.shape)}" if isinstance(labels, Tensor) else type(labels).__name__
        raise TypeError(f"labels must be a torch.Tensor (N,) of integers, got {found}")
    if len(labels) and int(labels.max()) >= classes:
        raise ValueError(f"labels must be below {classes}, the number of classes; got {int(labels.max())}")
    return np.bincount(labels[labels >= 0].cpu().numpy(), minlength=classes).astype(np.float64)


def class_kl(made: npt.ArrayLike, real: npt.ArrayLike) -> float:
    """Return the KL divergence in nats of the classes of generated images from those of real ones, by counts (K,).

    Infinite where a class was made that no real image has.
    """
    p, q = (counts / counts.sum() for counts in _checked_counts(made, real))
    if ((p > 0) & (q == 0)).any():
        return math.inf
    seen = p > 0
    return max(0.0, float((p[seen] * np.log(p[seen] / q[seen])).sum()))


def class_js(made: npt.ArrayLike, real: npt.ArrayLike) -> float:
    """Return the Jensen-Shannon divergence of the same, 0..ln 2 nats."""
    return js_of_counts(np.stack(_checked_counts(made, real)).astype(np.int64))


def _checked_counts(made: npt.ArrayLike, real: npt.ArrayLike) -> list[Floats]:
    sides = [np.asarray(side, np.float64) for side in (made, real)]
    if sides[0].ndim != 1 or sides[0].shape != sides[1].shape:
        raise ValueError(f"counts must be two rows of as many classes, got shapes {sides[0].shape}, {sides[1].shape}")
    for name, counts in zip(("made", "real"), sides, strict=True):
        if not (np.isfinite(counts).all() and (counts >= 0).all() and counts.any()):
            raise ValueError(f"counts of {name} images must be 0 or more and not all 0, got {counts.tolist()}")
    return sides


def classifier_score(probabilities: npt.ArrayLike) -> float:
    """Return exp of the mean KL(p(y|x) || p(y)), 1..K, from class probabilities (N, K): the Inception score's formula.

    High where the classifier is sure of each image and all classes come (Salimans et al. 2016).
    """
    p = np.asarray(probabilities, np.float64)
    if p.ndim != 2 or not len(p):
        raise ValueError(f"probabilities must be (N, K), got shape {p.shape}")
    if not ((p >= 0).all() and np.allclose(p.sum(1), 1, atol=1e-3)):
        raise ValueError("probabilities must be 0 or more and sum to 1 in every row; of logits take the softmax")
    mean = p.mean(0)
    terms = np.where(p > 0, p * np.log(np.where(p > 0, p, 1) / np.where(mean > 0, mean, 1)), 0.0)
    return float(np.exp(terms.sum(1).mean()))


# ----------------------------------------------------------------------------------------------- image beside image


def pixel_statistics(pixels: Tensor) -> dict[str, float]:
    """Return mean and standard deviation of all pixels, and the mean deviation of a pixel between images, in 0..1."""
    check_bytes(pixels)
    x = pixels.double().flatten(1) / 255
    between = x.std(0, correction=0).mean() if len(x) > 1 else torch.zeros(())
    return {"mean": float(x.mean()), "deviation": float(x.std(correction=0)), "variety": float(between)}


def squared_error(a: Tensor, b: Tensor) -> Tensor:
    """Return the mean over the pixels of (a - b)^2 of each pair of images in 0..1, (N,) float64."""
    _check_units(a, b)
    return (a.double() - b.double()).square().flatten(1).mean(1)


def cross_entropy(target: Tensor, prediction: Tensor) -> Tensor:
    """Return the mean over the pixels of -t ln p - (1 - t) ln (1 - p), nats, of each pair in 0..1, (N,) float64.

    Predictions are kept 1e-6 away from 0 and 1.
    """
    _check_units(target, prediction)
    p = prediction.double().clamp(1e-6, 1 - 1e-6)
    return F.binary_cross_entropy(p, target.double(), reduction="none").flatten(1).mean(1)


def structural_similarity(a: Tensor, b: Tensor) -> Tensor:
    """Return SSIM (Wang et al. 2004) of each pair of images (N, C, S, S) in 0..1, -1..1, (N,) float64.

    Gaussian windows of 11 pixels and deviation 1.5; for smaller images the largest odd size that fits. At borders
    the authors' convention: only windows that lie inside the image count. So does scikit-image (with
    gaussian_weights and without use_sample_covariance); torchmetrics lets windows reach over the border, by reflection.
    Means over windows and channels; constants 0.01^2 and 0.03^2.
    """
    _check_units(a, b)
    shorter = min(a.shape[-2:])
    size = min(11, shorter - 1 + shorter % 2)
    places = torch.arange(size, dtype=torch.float64, device=a.device) - size // 2
    weights = torch.exp(-places.square() / (2 * 1.5**2))
    window = torch.outer(weights, weights) / weights.sum() ** 2

    def blurred(x: Tensor) -> Tensor:
        return F.conv2d(x.flatten(0, 1)[:, None], window[None, None]).view(*x.shape[:2], -1)

    x, y = a.double(), b.double()
    mean_x, mean_y = blurred(x), blurred(y)
    var_x, var_y = blurred(x * x) - mean_x**2, blurred(y * y) - mean_y**2
    both = blurred(x * y) - mean_x * mean_y
    light = (2 * mean_x * mean_y + 0.01**2) / (mean_x**2 + mean_y**2 + 0.01**2)
    shape = (2 * both + 0.03**2) / (var_x + var_y + 0.03**2)
    return (light * shape).flatten(1).mean(1)


def nearest(pixels: Tensor, train: Tensor) -> tuple[Tensor, Tensor]:
    """Return each image's root mean square distance per pixel, 0..1, to the nearest of `train`, and its row.

    Images (N, C, S, S) against (M, C, S, S) give two (N,) tensors; a distance of 0 is a copy.
    """
    check_bytes(pixels, train)
    x, y = (side.flatten(1).float() / 255 for side in (pixels, train))
    best = torch.full((len(x),), math.inf, device=x.device)
    row = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    for first in range(0, len(y), 8192):
        block = y[first : first + 8192]
        squares = x.square().sum(1)[:, None] + block.square().sum(1) - 2 * x @ block.T
        low, at = squares.min(1)
        better = low < best
        best, row = torch.where(better, low, best), torch.where(better, at + first, row)
    # once more without cancellation, so that a copy is exactly 0
    exact = torch.cat(
        [(a - y[r]).square().mean(1) for a, r in zip(torch.split(x, 1024), torch.split(row, 1024), strict=True)]
    )
    return exact.sqrt(), row


def factor_r2(latents: npt.ArrayLike, factors: npt.ArrayLike) -> Floats:
    """Return the R^2 (J,), on the second half, of a linear map from latents (N, Z) to each known factor (N, J).

    The map is fitted by least squares to the first half; a factor that does not vary gives nan.
    """
    z, f = np.asarray(latents, np.float64), np.asarray(factors, np.float64)
    if z.ndim != 2 or f.ndim != 2 or len(z) != len(f) or len(z) < 2:
        raise ValueError(f"latents and factors must be (N, Z) and (N, J), N > 1, got shapes {z.shape} and {f.shape}")
    half = len(z) // 2
    design = np.column_stack([z, np.ones(len(z))])
    weights = np.linalg.lstsq(design[:half], f[:half], rcond=None)[0]
    rest = ((f[half:] - design[half:] @ weights) ** 2).sum(0)
    whole = ((f[half:] - f[half:].mean(0)) ** 2).sum(0)
    explained: Floats = 1 - np.divide(rest, whole, out=np.full_like(rest, np.nan), where=whole > 0)
    return explained
