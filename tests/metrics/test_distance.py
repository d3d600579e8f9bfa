import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg, stats
from scipy.spatial import distance as scipy_distance

from seqgen.metrics.distance import (
    area_under,
    divergence_curve,
    frechet_distance,
    jensen_shannon,
    mauve,
    ms_jaccard,
    ngram_features,
    ngram_kl,
)

corpora = st.lists(st.lists(st.integers(0, 3), min_size=3, max_size=8), min_size=1, max_size=6)


def counts(sents: list[list[int]], n: int) -> Counter[tuple[int, ...]]:
    return Counter(tuple(s[i : i + n]) for s in sents for i in range(len(s) - n + 1))


@settings(max_examples=100, deadline=None)
@given(corpora, corpora, st.integers(1, 3))
def test_ngram_distances_equal_the_definition(a: list[list[int]], b: list[list[int]], n: int) -> None:
    first, second = counts(a, n), counts(b, n)
    union = sorted(first | second)
    p, q = np.array([[side[g] for g in union] for side in (first, second)], dtype=float)
    assert jensen_shannon(a, b, n) == pytest.approx(scipy_distance.jensenshannon(p, q) ** 2, abs=1e-12)
    assert ngram_kl(a, b, n, alpha=0.5) == pytest.approx(stats.entropy(p + 0.5, q + 0.5), abs=1e-12)
    shares = []
    for order in range(1, n + 1):
        first, second = counts(a, order), counts(b, order)
        union = sorted(first | second)
        low = sum(min(first[g] / len(a), second[g] / len(b)) for g in union)
        shares.append(low / sum(max(first[g] / len(a), second[g] / len(b)) for g in union))
    assert ms_jaccard(a, b, n) == pytest.approx(math.prod(shares) ** (1 / n), abs=1e-12)


def test_distances_of_equal_and_of_disjoint_corpora() -> None:
    a, b = [[1, 2, 3]], [[4, 5, 6]]
    assert (jensen_shannon(a, a, 2), ngram_kl(a, a, 2), ms_jaccard(a, a, 3)) == (0.0, 0.0, 1.0)
    assert jensen_shannon(a, b, 2) == pytest.approx(math.log(2))
    assert ms_jaccard(a, b, 2) == 0.0


def test_wrong_text_is_named() -> None:
    with pytest.raises(ValueError, match="the second corpus has no sentence of 2 tokens; compare lower orders"):
        jensen_shannon([[1, 2]], [[1]], 2)
    with pytest.raises(ValueError, match="the first corpus has no sentence of 1 tokens"):
        ms_jaccard([[]], [[1]], 1)
    with pytest.raises(ValueError, match="alpha must be finite and > 0"):
        ngram_kl([[1]], [[1]], 1, alpha=0)


# ------------------------------------------------------------------------------
# features without a model


def test_ngram_features_are_a_random_projection_of_ngram_shares() -> None:
    sents = [["a", "b"], ["b", "a"], [], ["a", "b", "a", "b"], ["a"]]
    rows = ngram_features(sents, width=4096, max_n=2)
    assert rows.shape == (5, 4096)
    assert not rows[2].any()
    # every n-gram has a column of its own at this width: rows are shares, up to signs
    assert sorted(np.abs(rows[3][rows[3] != 0])) == pytest.approx([1 / 7, 2 / 7, 2 / 7, 2 / 7])
    assert not np.array_equal(rows[0], rows[1])  # the order of the tokens tells
    np.testing.assert_array_equal(rows[4:5], ngram_features([["a"]], width=4096, max_n=2))
    assert not np.array_equal(rows, ngram_features(sents, width=4096, max_n=2, seed=1))


def test_ngram_features_of_unrelated_sentences_are_nearly_orthogonal() -> None:
    sents = [[f"w{i}-{j}" for j in range(40)] for i in range(60)]
    rows = ngram_features(sents, width=1024)
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = (rows @ rows.T)[~np.eye(60, dtype=bool)]
    assert abs(cosines.mean()) < 0.01
    assert cosines.std() == pytest.approx(1 / math.sqrt(1024), rel=0.15)


def test_wrong_widths_are_named() -> None:
    with pytest.raises(ValueError, match="width and max_n must be >= 1, got 0 and 2"):
        ngram_features([["a"]], width=0)


# ------------------------------------------------------------------------------
# Frechet distance


def gaussian_rows(mean: np.ndarray, cov: np.ndarray, rows: int) -> np.ndarray:
    """Rows whose sample mean and covariance are exactly these."""
    raw = np.random.default_rng(0).normal(size=(rows, len(mean)))
    raw -= raw.mean(axis=0)
    whitened = raw @ np.linalg.inv(np.linalg.cholesky(np.cov(raw.T))).T
    return whitened @ np.linalg.cholesky(cov).T + mean


def test_frechet_of_commuting_covariances_is_the_closed_form() -> None:
    a, b = np.array([1.0, 4.0, 9.0]), np.array([4.0, 1.0, 16.0])
    shift = np.array([1.0, -2.0, 0.5])
    first, second = gaussian_rows(np.zeros(3), np.diag(a), 50), gaussian_rows(shift, np.diag(b), 40)
    wanted = shift @ shift + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    assert frechet_distance(first, second) == pytest.approx(wanted, rel=1e-12)


def test_frechet_equals_sqrtm() -> None:
    random = np.random.default_rng(3)
    first = random.normal(size=(300, 20)) @ random.normal(size=(20, 20))
    second = random.normal(size=(250, 20)) @ random.normal(size=(20, 20)) + 0.4
    cov_a, cov_b = np.cov(first.T), np.cov(second.T)
    gap = first.mean(axis=0) - second.mean(axis=0)
    wanted = gap @ gap + np.trace(cov_a + cov_b - 2 * linalg.sqrtm(cov_a @ cov_b).real)
    assert frechet_distance(first, second) == pytest.approx(wanted, rel=1e-10)
    assert frechet_distance(second, first) == pytest.approx(wanted, rel=1e-10)


def test_frechet_of_collapsed_rows_is_exact_and_never_negative() -> None:
    random = np.random.default_rng(0)
    real = random.normal(size=(100, 8))
    collapsed = np.ones((50, 8))
    gap = real.mean(axis=0) - 1
    assert frechet_distance(collapsed, real) == pytest.approx(gap @ gap + np.trace(np.cov(real.T)), rel=1e-12)
    for seed in range(20):
        rows = np.random.default_rng(seed).normal(size=(40, 8)) * 1e3
        assert 0 <= frechet_distance(rows, rows.copy()) < 1e-6


def test_frechet_eps_is_added_to_both_diagonals() -> None:
    first, second = np.zeros((50, 2)), np.ones((50, 2))
    assert frechet_distance(first, second, eps=0.1) == pytest.approx(2.0)


@pytest.mark.filterwarnings("ignore:MAUVE of 60 rows")
@pytest.mark.parametrize("scale", [1e-100, 1e-60, 1e60, 1e100])
def test_frechet_and_mauve_scale_with_their_features(scale: float) -> None:
    rng = np.random.default_rng(5)
    a, b = rng.normal(size=(60, 4)), rng.normal(0.5, 2, size=(60, 4))
    assert frechet_distance(a * scale, b * scale) / scale**2 == pytest.approx(frechet_distance(a, b), rel=1e-9)
    for unit_rows in (True, False):
        own, scaled = (mauve(a * s, b * s, unit_rows=unit_rows, seeds=2).value for s in (1.0, scale**2))
        assert scaled == pytest.approx(own, rel=1e-9)


def test_features_whose_covariance_overflows_are_refused_and_not_equal() -> None:
    rows = np.random.default_rng(6).normal(size=(9, 2))
    with pytest.raises(ValueError, match="means and covariances must be finite; the features are too large"):
        frechet_distance(rows * 1e200, rows * 2e200)
    for call, words in (
        (lambda: frechet_distance(rows, rows, eps=-1), "eps must be finite and >= 0, got -1"),
        (lambda: frechet_distance(rows, rows, eps=np.nan), "eps must be finite and >= 0, got nan"),
        (lambda: mauve(rows, rows, scale=np.nan), "scale must be finite and > 0, got nan"),
        (lambda: ngram_kl([["a"]], [["b"]], 1, alpha=np.inf), "alpha must be finite and > 0, .* got inf"),
    ):
        with pytest.raises(ValueError, match=words):
            call()


def test_frechet_warns_where_rows_are_few() -> None:
    rows = np.random.default_rng(0).normal(size=(10, 8))
    with pytest.warns(UserWarning, match="of 10 rows with 8 features is biased upward; give at least 16 rows"):
        frechet_distance(rows, rows)


@pytest.mark.parametrize(
    ("second", "text"),
    [
        (np.full((3, 2), np.nan), "the second features hold NaN or infinity in 3 rows, the first is row 0"),
        (np.zeros((3, 4)), "features must have one width, got D = 2 and 4"),
        (np.zeros((1, 2)), "the second features must have at least 2 rows, got 1"),
        (np.zeros(3), r"the second features must be \(rows, features\), got shape \(3,\)"),
    ],
)
def test_wrong_features_are_named(second: np.ndarray, text: str) -> None:
    for distance in (frechet_distance, mauve):
        with pytest.raises(ValueError, match=text):
            distance(np.zeros((8, 2)), second)


# ------------------------------------------------------------------------------
# MAUVE


def test_mauve_of_equal_histograms_is_1() -> None:
    p = np.array([0.2, 0.5, 0.3])
    assert area_under(divergence_curve(p, p)) == pytest.approx(1.0)


def test_mauve_of_disjoint_histograms_is_the_beta_integral() -> None:
    """KL(q, r) = -ln(1 - t) and KL(p, r) = -ln t, so the area is 5 B(6, 5) = 1/252."""
    curve = divergence_curve(np.array([1.0, 0.0]), np.array([0.0, 1.0]))
    t = np.linspace(1e-6, 1 - 1e-6, 25)
    np.testing.assert_allclose(curve, np.column_stack([(1 - t) ** 5, t**5]))
    assert area_under(curve) == pytest.approx(1 / 252, rel=0.05)


def test_mauve_orders_clouds_by_their_distance() -> None:
    random = np.random.default_rng(0)
    real = random.normal(size=(1000, 6))
    near, far = random.normal(size=(1000, 6)) + 0.3, random.normal(size=(1000, 6)) + 3.0
    same, close, apart = (mauve(real, other, k=20, seeds=2) for other in (real, near, far))
    assert same.value == pytest.approx(1.0)
    assert same.value > close.value > apart.value
    assert same.curve.shape == (25, 2)
    assert close.clusters == 20
    assert mauve(real, near, k=20, seeds=2).value == close.value


def test_mauve_of_two_points_needs_no_more_clusters_than_points() -> None:
    rows = np.repeat([[0.0, 0.0], [1.0, 1.0]], 600, axis=0)
    assert mauve(rows, rows, seeds=1).clusters == 2
    assert mauve(rows[:1000] * 0, rows[:1000] * 0, seeds=2).value == pytest.approx(1.0)


def test_mauve_of_unit_rows_does_not_see_lengths() -> None:
    random = np.random.default_rng(0)
    real = random.normal(size=(1000, 4))
    longer = real * random.uniform(1, 9, size=(1000, 1))
    assert mauve(real, longer, k=10, seeds=1).value == pytest.approx(1.0)
    assert mauve(real, longer, k=10, seeds=1, unit_rows=False).value < 0.9


def test_mauve_equals_the_package_of_its_authors() -> None:
    package = pytest.importorskip("mauve", reason="mauve-text (GPL-3, needs faiss) is not installed")
    random = np.random.default_rng(0)
    real = random.normal(size=(2000, 16))
    for shift in (0.1, 0.5, 1.5):
        other = random.normal(size=(2000, 16)) + shift
        theirs = [package.compute_mauve(p_features=real, q_features=other, seed=s, verbose=False) for s in range(3)]
        # from the same histograms the same number; clusterings differ by their seeds
        same = area_under(divergence_curve(theirs[0].p_hist, theirs[0].q_hist))
        assert same == pytest.approx(theirs[0].mauve, rel=1e-6)
        assert mauve(real, other).value == pytest.approx(np.mean([one.mauve for one in theirs]), rel=0.1)


def test_mauve_says_what_is_wrong() -> None:
    rows = np.random.default_rng(0).normal(size=(40, 3))
    with pytest.warns(UserWarning, match="MAUVE of 40 rows is unreliable; give at least 1,000 on each side"):
        mauve(rows, rows, seeds=1)
    with pytest.raises(ValueError, match=r"k must be in 2\.\.80, got 1"):
        mauve(rows, rows, k=1)
    with pytest.raises(ValueError, match="seeds must be >= 1, got 0"):
        mauve(rows, rows, seeds=0)
