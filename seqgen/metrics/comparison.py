"""Whether two scores differ, how seeds spread, which settings are dominated, and whether samples have collapsed.

Bootstrap after Efron 1979 and Koehn 2004; sign-flip permutation after Noreen 1989; Wilson 1927 for shares.
Shapes: N rows, C statistics a row, B resamples, P points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from seqgen.metrics.names import Better
from seqgen.metrics.ngrams import Floats, Ints
from seqgen.metrics.score import RESAMPLES, Score, Signature, quantiles, resampled_sums


@dataclass(frozen=True)
class Difference:
    """First score minus second."""

    value: float
    interval: tuple[float, float]
    """95 % interval of the difference: percentile bootstrap over rows, or Student's t over seeds."""
    p_value: float | None
    """Two-sided, of a sign-flip permutation test over rows or a t test over seeds; None where nothing pairs."""


def difference(a: Score, b: Score, *, paired: bool = False, seed: int = 0, resamples: int = RESAMPLES) -> Difference:
    """Compute the `Difference` of two comparable scores.

    `paired` states that row i of both belongs together (the same prompt or source): rows are then drawn together, and a
    permutation test swaps them row by row. Otherwise both sides are drawn on their own.
    Raises ValueError where signatures differ, a score has no rows, or paired scores have unequal numbers of rows.
    """
    a.signature.check_comparable(b.signature)
    for name, score in (("first", a), ("second", b)):
        if score.rows is None or len(score.rows) < 2:
            raise ValueError(f"the {name} {score.signature.metric} score has no rows to resample; score again")
    assert a.rows is not None
    assert b.rows is not None
    value = a.value - b.value
    if paired and len(a.rows) != len(b.rows):
        raise ValueError(f"paired scores must have the same rows, got {len(a.rows)} and {len(b.rows)}")
    sums_a = resampled_sums(a.rows, seed=seed, resamples=resamples)
    # one seed draws the same rows for both sides; another one makes the sides independent
    sums_b = resampled_sums(b.rows, seed=seed if paired else seed + 1, resamples=resamples)
    interval = quantiles(a.statistic(sums_a) - b.statistic(sums_b)) or (math.nan, math.nan)
    p_value = _sign_flip(a, b, a.rows, b.rows, seed, resamples) if paired else None
    return Difference(value, interval, p_value)


def _sign_flip(a: Score, b: Score, rows_a: Floats, rows_b: Floats, seed: int, resamples: int) -> float:
    """Return the share of row-wise swaps, the given labelling counted, whose difference is at least as large."""
    random = np.random.default_rng(seed)
    gap = rows_b - rows_a
    total_a, total_b = rows_a.sum(axis=0), rows_b.sum(axis=0)
    moved = np.stack([random.integers(0, 2, len(gap)) @ gap for _ in range(resamples)])
    swapped = np.abs(a.statistic(total_a + moved) - b.statistic(total_b - moved))
    swapped = swapped[~np.isnan(swapped)]  # a swap may leave one side without any line that counts
    seen = abs(a.value - b.value) * (1 - 1e-12)  # rounding must not make an equal difference a smaller one
    return float((1 + (swapped >= seen).sum()) / (1 + swapped.size))


@dataclass(frozen=True)
class Group:
    """Scores of runs that differ in nothing but their seed."""

    mean: float
    deviation: float
    """Standard deviation (n - 1); 0 for one score."""
    count: int
    signature: Signature
    """Signature of the first score; the others equal it but for inputs and seed."""

    @property
    def half(self) -> float:
        """Half of the 95 % interval of the mean by Student's t; nan for one score."""
        return _half_of_t(self.deviation, self.count)


def group_seeds(scores: Sequence[Score]) -> Group:
    """Return mean, deviation and count of comparable scores. Raises ValueError for none, or signatures that differ."""
    if not scores:
        raise ValueError("group_seeds needs at least one score, got none")
    for score in scores[1:]:
        scores[0].signature.check_comparable(score.signature)
    values = np.array([score.value for score in scores])
    deviation = float(values.std(ddof=1)) if values.size > 1 else 0.0
    return Group(float(values.mean()), deviation, values.size, scores[0].signature)


def paired_seeds(a: Sequence[float], b: Sequence[float]) -> Difference:
    """Compute the mean `Difference` of values that pair by their seed, with Student's t interval and paired t test.

    Raises ValueError for fewer than two pairs, or unequal numbers.
    """
    if len(a) != len(b) or len(a) < 2:
        raise ValueError(f"need two pairs or more, got {len(a)} and {len(b)} values")
    apart = np.subtract(a, b)
    mean, deviation = float(apart.mean()), float(apart.std(ddof=1))
    half = _half_of_t(deviation, apart.size)
    if deviation == 0:  # what no seed changes
        return Difference(mean, (mean, mean), float(mean == 0))
    from scipy.special import stdtr

    p_value = 2 * stdtr(apart.size - 1, -abs(mean) / deviation * math.sqrt(apart.size))
    return Difference(mean, (mean - half, mean + half), float(p_value))


def _half_of_t(deviation: float, count: int) -> float:
    """Return half of the 95 % interval of a mean of `count` values."""
    from scipy.special import stdtrit  # late: scores alone need none of it

    return float(stdtrit(count - 1, 0.975)) * deviation / math.sqrt(count) if count > 1 else math.nan


# ------------------------------------------------------------------------------
# one number of several entries, side by side


def misfits(scores: Sequence[Score | None]) -> list[str]:
    """Return for each score the field in which its signature differs from that of the first, "" where there is none."""
    first = next((score for score in scores if score is not None), None)
    return ["" if first is None or s is None else first.signature.differs(s.signature) for s in scores]


def best(values: Sequence[float | None], better: Better, real: float | None = None) -> list[bool]:
    """Return which of the values are the best: the highest, the lowest, or the nearest to that of real text.

    None of them where there are fewer than two, or where it is not known which direction is better.
    """
    known = [value for value in values if value is not None and math.isfinite(value)]
    if len(known) < 2 or not better or (better == "real" and real is None):
        return [False] * len(values)
    far = {"higher": [-v for v in known], "lower": known, "real": [abs(v - (real or 0.0)) for v in known]}[better]
    chosen = {value for value, distance in zip(known, far, strict=True) if distance == min(far)}
    return [value in chosen for value in values]


def figure(score: Score | None) -> str:
    """Return a score for people, with half of the interval it came with: `0.6091 ±0.0032`; "" for none."""
    if score is None:
        return ""
    half = _half(score)
    return (f"{score.value:.4f}" if abs(score.value) < 1000 else f"{score.value:.1f}") + (
        f" ±{half:.2g}" if half else ""
    )


def apart(score: Score | None, real: Score | None) -> str:
    """Return how far a score is from that of real text or images, with ~ where so little is noise; "" for none."""
    if score is None or real is None:
        return ""
    far = score.value - real.value
    return f"{far:+.4f}" + (" ~" if abs(far) < math.hypot(_half(score), _half(real)) else "")


def _half(score: Score) -> float:
    """Return half of the interval that a score came with, before it was cut to what is possible; 0 for none."""
    low, high = score.stored_interval or (score.value, score.value)
    return max(high - score.value, score.value - low)


# ------------------------------------------------------------------------------
# quality against diversity


def _points(points: npt.ArrayLike) -> Floats:
    array = np.asarray(points, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] != 2 or not len(array):
        raise ValueError(f"points must be (P, 2) with P >= 1, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError("points must be finite")
    return array


def pareto_front(points: npt.ArrayLike) -> Ints:
    """Return indices of the points (P, 2) that no other one beats or equals on both axes, by ascending first axis.

    Larger is better on both; negate Self-BLEU. Of equal points the first is kept. Raises ValueError for another shape.
    """
    array = _points(points)
    front: list[int] = []
    best = -math.inf
    for i in np.lexsort((np.arange(len(array)), -array[:, 1], -array[:, 0])).tolist():
        if array[i, 1] > best:
            best = float(array[i, 1])
            front.append(i)
    return np.array(front[::-1], dtype=np.int64)


def dominated_area(points: npt.ArrayLike, reference: tuple[float, float]) -> float:
    """Return the area that the points (P, 2) dominate above `reference`, larger being better on both axes.

    Points that do not exceed the reference on both axes add nothing. Raises ValueError for another shape.
    """
    if not np.isfinite(reference).all():
        raise ValueError(f"reference must be finite, got {reference}")
    array = _points(points) - np.asarray(reference, dtype=np.float64)
    array = array[(array > 0).all(axis=1)]
    if not len(array):
        return 0.0
    front = array[pareto_front(array)]
    widths = np.diff(front[:, 0], prepend=0.0)
    return float(widths @ front[:, 1])


# ------------------------------------------------------------------------------
# human preferences


def binomial_test(successes: int, trials: int, probability: float = 0.5) -> float:
    """Return the exact two-sided binomial p-value: the chance of any outcome no more likely than this one.

    Raises ValueError unless 0 <= successes <= trials, trials >= 1 and 0 < probability < 1.
    """
    _check_counts(successes, trials)
    if not 0 < probability < 1:
        raise ValueError(f"probability must be between 0 and 1, got {probability}")
    log_p, log_q = math.log(probability), math.log1p(-probability)
    ways = [math.lgamma(trials + 1) - math.lgamma(i + 1) - math.lgamma(trials - i + 1) for i in range(trials + 1)]
    chances = [math.exp(way + i * log_p + (trials - i) * log_q) for i, way in enumerate(ways)]
    seen = chances[successes] * (1 + 1e-7)  # equally likely outcomes differ in their last bits
    return min(1.0, math.fsum(chance for chance in chances if chance <= seen))


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """Return the 95 % Wilson score interval of a share. Raises ValueError unless 0 <= successes <= trials >= 1."""
    _check_counts(successes, trials)
    z = 1.959963984540054
    share, spread = successes / trials, z * z / trials
    centre = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / trials + spread / (4 * trials))
    # rounding must not leave the share itself outside
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


def _check_counts(successes: int, trials: int) -> None:
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(f"need 0 <= successes <= trials and trials >= 1, got {successes} of {trials}")


# ------------------------------------------------------------------------------
# collapse


def collapse_signs(
    self_bleu: float, real_self_bleu: float, unique: float, real_unique: float, *, band: float = 0.15
) -> list[str]:
    """List the signs that samples have left the band of real text: one sentence each, none while all is well.

    Both figures must come from as many samples as lines of real text. Self-BLEU leaves the band `band` above or below
    that of real text, the unique share `band` below. Raises ValueError for a band outside 0..1 or shares outside 0..1.
    """
    figures = {"self_bleu": self_bleu, "real_self_bleu": real_self_bleu, "unique": unique, "real_unique": real_unique}
    for name, value in {**figures, "band": band}.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must be in 0..1, got {value}")
    signs = []
    if self_bleu > real_self_bleu + band:
        signs.append(f"samples repeat each other: Self-BLEU {self_bleu:.3f}, real text {real_self_bleu:.3f}")
    if self_bleu < real_self_bleu - band:
        signs.append(f"samples share too little for text: Self-BLEU {self_bleu:.3f}, real text {real_self_bleu:.3f}")
    if unique < real_unique - band:
        signs.append(f"samples are duplicates: unique share {unique:.3f}, real text {real_unique:.3f}")
    return signs
