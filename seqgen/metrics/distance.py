"""How far a corpus, or a cloud of features, lies from another: Jensen-Shannon, KL, MS-Jaccard, Frechet distance, MAUVE.

The first three compare n-gram distributions of text. The last two compare feature arrays, one row a text or an image:
whatever `encode` made the rows. A Frechet distance is named after its features, and both are biased for few rows.
Shapes: N and M rows, D features, G distinct n-grams, K clusters.
"""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from seqgen.metrics.diversity import check_n
from seqgen.metrics.ngrams import (
    Floats,
    Ints,
    KnownTokens,
    Packed,
    Sentences,
    Tokens,
    ngram_counts,
    packed,
    sentence_index,
    tokens_left,
)

# ------------------------------------------------------------------------------
# n-gram distributions


def paired_counts(a: Sentences, b: Sentences, max_n: int) -> list[Ints]:
    """Return for each order 1..max_n the counts of every n-gram found in either corpus, (2, G).

    Raises ValueError where one of the corpora has no sentence of max_n tokens.
    """
    corpora, vocabulary = packed(a, b)
    tables = list(ngram_counts(corpora, vocabulary, check_n(max_n)))
    for n, table in enumerate(tables, 1):
        for name, row in zip(("first", "second"), table, strict=True):
            if not row.any():
                raise ValueError(f"the {name} corpus has no sentence of {n} tokens; compare lower orders")
    return tables


def jensen_shannon(a: Sentences, b: Sentences, n: int) -> float:
    """Return the Jensen-Shannon divergence of two corpora's n-grams, 0..ln 2 nats. ValueError on empty input."""
    return js_of_counts(paired_counts(a, b, n)[-1])


def js_of_counts(counts: Ints) -> float:
    """Return the Jensen-Shannon divergence in nats of the two distributions with counts (2, G)."""
    p = counts / counts.sum(axis=1, keepdims=True)
    middle = p.mean(axis=0)
    terms = np.where(p > 0, p * np.log(np.where(p > 0, p / middle, 1.0)), 0.0)
    return max(0.0, _sum(terms) / 2)


def ngram_kl(a: Sentences, b: Sentences, n: int, *, alpha: float = 1.0) -> float:
    """Return the KL divergence of the n-gram distribution of `a` from that of `b`, KL(a || b), in nats.

    Both are smoothed: `alpha` is added to every n-gram that either corpus holds, so the divergence is finite.
    Raises ValueError on empty input or alpha <= 0.
    """
    if not 0 < alpha < np.inf:
        raise ValueError(f"alpha must be finite and > 0, or unseen n-grams make the divergence infinite; got {alpha}")
    return kl_of_counts(paired_counts(a, b, n)[-1], alpha)


def kl_of_counts(counts: Ints, alpha: float) -> float:
    """Return KL(first || second) in nats of the distributions with counts (2, G), alpha added to each."""
    smoothed = counts + alpha
    p, q = smoothed / smoothed.sum(axis=1, keepdims=True)
    return max(0.0, _sum(p * np.log(p / q)))


def ms_jaccard(a: Sentences, b: Sentences, n: int) -> float:
    """Return MS-Jaccard-n (Montahaei et al. 2019), 0..1: geometric mean over orders of sum min(a, b) / sum max(a, b).

    Counts are divided by the number of sentences of their corpus. Raises ValueError on empty input.
    """
    (first, second), _ = packed(a, b)
    tables = paired_counts(first, second, n)
    sizes = np.array([[first.lengths.size], [second.lengths.size]])
    return ms_jaccard_of_counts(tables, sizes)


def ms_jaccard_of_counts(tables: list[Ints], sizes: Ints) -> float:
    """Return MS-Jaccard from counts (2, G) per order and the number of sentences of each side, (2, 1)."""
    shares = []
    for table in tables:
        per_sentence = table / sizes
        shares.append(_sum(per_sentence.min(axis=0)) / _sum(per_sentence.max(axis=0)))
    return float(np.prod(shares) ** (1 / len(shares)))


def _sum(terms: Floats) -> float:
    """Sum by size: the numbering of the tokens, which other texts may change, does not move the last bits."""
    return float(np.sort(terms, axis=None).sum())


# ------------------------------------------------------------------------------
# features


def ngram_features(sents: Tokens, *, width: int = 256, max_n: int = 2, seed: int = 0) -> Floats:
    """Return features of sentences without a model: a seeded random projection of n-gram shares, (N, width) float64.

    Every n-gram of orders 1..max_n is hashed to a column and a sign (Weinberger et al. 2009), and a row is the sum over
    its n-grams divided by their number; an empty sentence is a row of zeros. The same tokens give the same row in any
    corpus. Raises ValueError for width or max_n < 1, TypeError for strings instead of token lists.
    """
    if width < 1 or max_n < 1:
        raise ValueError(f"width and max_n must be >= 1, got {width} and {max_n}")
    known = KnownTokens(sents, "sentences")
    lengths, size = known.corpus.lengths, known.corpus.lengths.size
    names = known.decode(Packed(np.arange(known.size), np.array([known.size])))[0]
    salt = str(seed).encode()
    digests = (hashlib.blake2b(str(name).encode("utf-8", "surrogatepass"), digest_size=8, key=salt) for name in names)
    code = np.array([int.from_bytes(digest.digest(), "little") for digest in digests], dtype=np.uint64)
    sentence, left = sentence_index(lengths), tokens_left(lengths)
    gram = np.zeros(known.corpus.tokens.size, dtype=np.uint64)
    sums = np.zeros(size * width)
    for n in range(1, max_n + 1):
        at = np.flatnonzero(left >= n)
        # multiplied before the token is added, so that the order of the tokens counts, and mixed from above: high bits
        # of a product depend on all bits below them
        grown = (gram[at] + code[known.corpus.tokens[at + n - 1]]) * np.uint64(0x9E3779B97F4A7C15)
        gram[at] = grown ^ (grown >> np.uint64(32))
        column = ((gram[at] >> np.uint64(1)) % np.uint64(width)).astype(np.int64)
        sign = np.where(gram[at] & np.uint64(1), 1.0, -1.0)
        sums += np.bincount(sentence[at] * width + column, sign, size * width)
    grams = np.maximum(1, np.maximum(0, lengths[:, None] - np.arange(max_n)).sum(axis=1))
    rows: Floats = sums.reshape(size, width) / grams[:, None]
    return rows


def check_features(a: npt.ArrayLike, b: npt.ArrayLike) -> tuple[Floats, Floats]:
    """Return both as float64 (N, D) and (M, D). Raises ValueError: shape, D, fewer than 2 rows, values not finite."""
    arrays = []
    for name, given in (("first", a), ("second", b)):
        array = np.asarray(given, dtype=np.float64)
        if array.ndim != 2:
            raise ValueError(f"the {name} features must be (rows, features), got shape {array.shape}")
        if len(array) < 2:
            raise ValueError(f"the {name} features must have at least 2 rows, got {len(array)}")
        bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
        if bad.size:
            raise ValueError(f"the {name} features hold NaN or infinity in {bad.size} rows, the first is row {bad[0]}")
        arrays.append(array)
    if arrays[0].shape[1] != arrays[1].shape[1]:
        raise ValueError(f"features must have one width, got D = {arrays[0].shape[1]} and {arrays[1].shape[1]}")
    return arrays[0], arrays[1]


def frechet_distance(a: npt.ArrayLike, b: npt.ArrayLike, *, eps: float = 0.0) -> float:
    """Return the squared Frechet distance of Gaussians fitted to feature rows (N, D) and (M, D); >= 0, never complex.

    The formula is that of `frechet_of_moments`; `eps` is added to the diagonals of the covariances. Warns where a side
    has fewer than 2 D rows, since the estimate is then biased. Raises ValueError as `check_features`, for eps < 0, and
    for features so large that their covariance overflows.
    """
    first, second = check_features(a, b)
    if not 0 <= eps < np.inf:
        raise ValueError(f"eps must be finite and >= 0, got {eps}")
    fewest, width = min(len(first), len(second)), first.shape[1]
    if fewest < 2 * width:
        warnings.warn(
            f"Frechet distance of {fewest} rows with {width} features is biased upward; give at least {2 * width} rows",
            stacklevel=2,
        )
    return frechet_of_moments(*moments(first, eps=eps), *moments(second, eps=eps))


def moments(rows: Floats, *, eps: float = 0.0) -> tuple[Floats, Floats]:
    """Return mean (D,) and covariance (D, D), over N - 1, of feature rows (N, D); `eps` is added to the diagonal."""
    with np.errstate(over="ignore", invalid="ignore"):  # `frechet_of_moments` refuses what overflows
        mean = rows.mean(axis=0)
        centred = rows - mean
        cov = centred.T @ centred / (len(rows) - 1)
    cov[np.diag_indices_from(cov)] += eps
    return mean, cov


def frechet_of_moments(mean_a: Floats, cov_a: Floats, mean_b: Floats, cov_b: Floats) -> float:
    """Return the squared Frechet distance of two Gaussians (Dowson and Landau 1982; Heusel et al. 2017), float64, >= 0.

    |mu1 - mu2|^2 + Tr S1 + Tr S2 - 2 Tr sqrt(S1^(1/2) S2 S1^(1/2)); the last trace is the sum of the roots of the
    eigenvalues of L' S2 L for any L L' = S1, a symmetric problem, so nothing can become complex. Raises ValueError for
    moments that are not finite.
    """
    if not all(np.isfinite(part).all() for part in (mean_a, cov_a, mean_b, cov_b)):
        raise ValueError("means and covariances must be finite; the features are too large, or NaN")
    gap = mean_a - mean_b
    distance = gap @ gap + np.trace(cov_a) + np.trace(cov_b) - 2 * _root_trace(cov_a, cov_b)
    return max(0.0, float(distance))


def _root_trace(cov_a: Floats, cov_b: Floats) -> float:
    # the product of two covariances has the fourth power of the features' scale, which leaves float64 first
    powers = [2 * (_far_power(np.abs(cov).max()) // 2) for cov in (cov_a, cov_b)]
    cov_a, cov_b = (np.ldexp(cov, -power) for cov, power in zip((cov_a, cov_b), powers, strict=True))
    return float(np.ldexp(_root_trace_in_range(cov_a, cov_b), sum(powers) // 2))


def _far_power(largest: Any) -> Any:
    """Return the exponents of two that bring extreme values near 1, and 0 for others, whose bits then stay."""
    power = np.frexp(largest)[1]
    return np.where(np.abs(power) > 200, power, 0)


def _root_trace_in_range(cov_a: Floats, cov_b: Floats) -> float:
    from scipy.linalg import lapack  # late: BLEU alone needs none of it

    # transposed: they are symmetric, and in this order LAPACK takes them without turning them round
    factor, singular = lapack.dpotrf(cov_a.T, lower=1, clean=0)
    if singular:  # too few rows, or collapsed ones: a root by eigenvectors, which needs no inverse
        values, vectors = np.linalg.eigh(cov_a)
        root = vectors * np.sqrt(np.maximum(values, 0.0))
        product = root.T @ cov_b @ root
        eigenvalues = np.linalg.eigvalsh((product + product.T) / 2)
    else:
        # straight to LAPACK: L' S2 L in place and no eigenvectors, half the time of the same by numpy
        product, _ = lapack.dsygst(cov_b.T, factor, itype=3, lower=1)
        _, diagonal, beside, _, _ = lapack.dsytrd(product, lower=1, lwork=64 * len(product), overwrite_a=1)
        eigenvalues, _ = lapack.dsterf(diagonal, beside)
    return float(np.sqrt(np.maximum(eigenvalues, 0.0)).sum())


@dataclass(frozen=True, eq=False)
class Mauve:
    """MAUVE over several clusterings."""

    value: float
    """Mean over seeds, 0..1; higher is closer."""
    deviation: float
    """Standard deviation over seeds (n - 1)."""
    curve: Floats
    """Divergence curve, (25, 2): mean over seeds of (exp(-c KL(q, r)), exp(-c KL(p, r)))."""
    clusters: int
    """Number of clusters."""


MIXTURES = 25


def mauve(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    *,
    k: int | Literal["auto"] = "auto",
    seeds: int = 5,
    scale: float = 5.0,
    unit_rows: bool = True,
) -> Mauve:
    """Compute MAUVE of Pillutla et al. 2021, section 3, of feature rows (N, D) and (M, D), as `mauve-text` computes it.

    Rows scaled to length 1 (`unit_rows`), principal components up to 90 % of the variance, k-means of both sets
    together into `k` clusters (auto: a tenth of the smaller set), histograms p and q, then the area under the
    `divergence_curve`, closed at (0, 1) and (1, 0); `scale` is the paper's c. Clusterings are seeded 0, 1, ...
    Warns for fewer than 1,000 rows. Raises ValueError as `check_features`, for k < 2 or above all rows, for seeds < 1,
    and for a scale that is not finite and > 0.
    """
    first, second = check_features(a, b)
    fewest = min(len(first), len(second))
    clusters = max(2, round(fewest / 10)) if k == "auto" else k
    if not 2 <= clusters <= len(first) + len(second):
        raise ValueError(f"k must be in 2..{len(first) + len(second)}, got {clusters}")
    if seeds < 1:
        raise ValueError(f"seeds must be >= 1, got {seeds}")
    if not 0 < scale < np.inf:
        raise ValueError(f"scale must be finite and > 0, got {scale}")
    if fewest < 1000:
        warnings.warn(f"MAUVE of {fewest} rows is unreliable; give at least 1,000 on each side", stacklevel=2)
    rows = np.concatenate([first, second])
    # neither directions nor clusters depend on the scale, but squares of extreme values leave float64
    rows = np.ldexp(rows, -_far_power(np.abs(rows).max(axis=1 if unit_rows else None, keepdims=True)))
    if unit_rows:
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        rows = rows / np.where(lengths > 0, lengths, 1.0)
    rows = _principal_components(rows, 0.9)
    clusters = min(clusters, len(np.unique(rows, axis=0)))
    curves = np.stack([_divergence_curve(rows, len(first), clusters, seed, scale) for seed in range(seeds)])
    values = np.array([area_under(curve) for curve in curves])
    deviation = float(values.std(ddof=1)) if seeds > 1 else 0.0
    return Mauve(float(values.mean()), deviation, curves.mean(axis=0), clusters)


def _principal_components(rows: Floats, share: float) -> Floats:
    centred = rows - rows.mean(axis=0)
    values, vectors = np.linalg.eigh(centred.T @ centred)
    values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
    if not values.sum():
        kept = 1
    else:
        kept = int(np.searchsorted(np.cumsum(values) / values.sum(), share)) + 1
    components: Floats = centred @ vectors[:, :kept]
    return components


def _divergence_curve(rows: Floats, size: int, clusters: int, seed: int, scale: float) -> Floats:
    from sklearn.cluster import KMeans  # late: a second to import

    label = KMeans(clusters, n_init=1, random_state=seed).fit_predict(rows)
    p = np.bincount(label[:size], minlength=clusters) / size
    q = np.bincount(label[size:], minlength=clusters) / (len(rows) - size)
    return divergence_curve(p, q, scale)


def divergence_curve(p: Floats, q: Floats, scale: float = 5.0) -> Floats:
    """Return points (exp(-c KL(q, r)), exp(-c KL(p, r))), r = t p + (1 - t) q, from histograms p, q.

    t goes in 25 equal steps from just above 0 to just below 1.
    """
    t = np.linspace(1e-6, 1 - 1e-6, MIXTURES)[:, None]
    r = t * p + (1 - t) * q
    divergences = [np.where(h > 0, h * np.log(np.where(h > 0, h / np.where(r > 0, r, 1), 1)), 0).sum(1) for h in (q, p)]
    curve: Floats = np.exp(-scale * np.stack(divergences, axis=1))
    return curve


def area_under(curve: Floats) -> float:
    """Return the area under a divergence curve (P, 2), closed at (0, 1) and (1, 0), by the trapezoid rule."""
    points = np.concatenate([[[0.0, 1.0]], curve[np.lexsort((-curve[:, 1], curve[:, 0]))], [[1.0, 0.0]]])
    return float(((points[1:, 0] - points[:-1, 0]) * (points[1:, 1] + points[:-1, 1])).sum() / 2)
