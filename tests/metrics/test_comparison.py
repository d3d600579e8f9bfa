import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from seqgen.metrics.bleu import bleu
from seqgen.metrics.comparison import (
    Difference,
    best,
    binomial_test,
    collapse_signs,
    difference,
    dominated_area,
    group_seeds,
    misfits,
    paired_seeds,
    pareto_front,
    wilson_interval,
)
from seqgen.metrics.score import Score, Signature, mean_rows


def score(values: np.ndarray, seed: int | None = None, **fields: str) -> Score:
    return Score(float(values.mean()), Signature("m", fields, seed=seed), rows=mean_rows(values))


def test_paired_rows_find_a_small_shift_that_unpaired_rows_do_not() -> None:
    random = np.random.default_rng(0)
    base = random.normal(0, 1, 200)
    first, second = score(base + 0.1 + random.normal(0, 0.1, 200)), score(base)
    paired, apart = difference(first, second, paired=True), difference(first, second)
    assert paired.value == apart.value == pytest.approx(0.1, abs=0.05)
    assert paired.p_value is not None
    assert paired.interval[0] > 0
    assert paired.p_value < 0.01
    assert apart.interval[0] < 0 < apart.interval[1]
    assert apart.p_value is None


def test_unpaired_interval_is_near_the_normal_one() -> None:
    random = np.random.default_rng(1)
    a, b = random.normal(1, 1, 3000), random.normal(0, 2, 2000)
    low, high = difference(score(a), score(b)).interval
    half = 1.96 * np.sqrt(a.var() / 3000 + b.var() / 2000)
    assert (high - low) / 2 == pytest.approx(half, rel=0.12)
    assert (high + low) / 2 == pytest.approx(a.mean() - b.mean(), abs=0.2 * half)


def test_sign_flip_p_value_is_scipys() -> None:
    random = np.random.default_rng(2)
    a, b = random.normal(0.3, 1, 12), random.normal(0, 1, 12)

    def mean_gap(x: np.ndarray, y: np.ndarray, axis: int) -> np.ndarray:
        return np.mean(x - y, axis=axis)

    exact = stats.permutation_test((a, b), mean_gap, permutation_type="samples", n_resamples=np.inf).pvalue
    ours = difference(score(a), score(b), paired=True, resamples=20_000).p_value
    assert ours == pytest.approx(exact, abs=0.015)


def test_equal_scores_do_not_differ() -> None:
    same = bleu(["a b c", "b c d", "c d e"], ["a b c d e"])
    result = difference(same, same, paired=True)
    assert (result.value, result.interval, result.p_value) == (0.0, (0.0, 0.0), 1.0)


def test_pooled_scores_are_compared_by_the_same_rows() -> None:
    references = ["a b c d e f", "c d e f g h"]
    good = bleu(["a b c d e", "c d e f g", "b c d e"] * 9, references, level="corpus")
    bad = bleu(["a b x d e", "c x e f x", "b c x e"] * 9, references, level="corpus")
    result = difference(good, bad, paired=True)
    assert result.value == float(good) - float(bad)
    assert result.interval[0] > 0
    assert result.p_value is not None
    assert result.p_value < 0.01


def test_what_cannot_be_compared_is_named() -> None:
    with pytest.raises(ValueError, match="m scores differ in n: 4 and 5"):
        difference(score(np.arange(3.0), n="4"), score(np.arange(3.0), n="5"))
    with pytest.raises(ValueError, match="paired scores must have the same rows, got 3 and 4"):
        difference(score(np.arange(3.0)), score(np.arange(4.0)), paired=True)
    with pytest.raises(ValueError, match="the second m score has no rows to resample; score again"):
        difference(score(np.arange(3.0)), Score(1.0, Signature("m", {})))


@pytest.mark.parametrize("gap", [0.0, 0.02, -0.5])
def test_paired_seeds_are_scipys_paired_t_test(gap: float) -> None:
    random = np.random.default_rng(5)
    a = random.normal(1, 1, 6)
    b = a + gap + random.normal(0, 0.05, 6)
    found, expected = paired_seeds(a.tolist(), b.tolist()), stats.ttest_rel(a, b)
    assert found.p_value == pytest.approx(expected.pvalue)
    assert found.interval == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert found.value == pytest.approx(a.mean() - b.mean())


def test_what_no_seed_changes_has_an_interval_of_no_width() -> None:
    assert paired_seeds([2.0, 2.0, 2.0], [1.0, 1.0, 1.0]) == Difference(1.0, (1.0, 1.0), 0.0)
    assert paired_seeds([2.0, 2.0], [2.0, 2.0]).p_value == 1.0
    with pytest.raises(ValueError, match=r"^need two pairs or more, got 1 and 1 values$"):
        paired_seeds([1.0], [2.0])


def test_seeds_are_grouped_as_mean_deviation_and_count() -> None:
    group = group_seeds([score(np.array([value]), seed=seed) for seed, value in enumerate((1.0, 2.0, 6.0))])
    assert (group.mean, group.count) == (3.0, 3)
    assert group.deviation == pytest.approx(np.std([1, 2, 6], ddof=1))
    assert group.mean - group.half == pytest.approx(stats.t.interval(0.95, 2, 3, stats.sem([1, 2, 6]))[0])
    assert group_seeds([score(np.array([1.0]))]).deviation == 0.0
    with pytest.raises(ValueError, match="group_seeds needs at least one score"):
        group_seeds([])
    with pytest.raises(ValueError, match="differ in n: absent and 2"):
        group_seeds([score(np.array([1.0])), score(np.array([1.0]), n="2")])


points = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=9)


@settings(max_examples=200, deadline=None)
@given(points)
def test_pareto_front_and_area_equal_the_definition(given_points: list[tuple[int, int]]) -> None:
    front = [given_points[i] for i in pareto_front(given_points)]
    expected = {p for p in given_points if not any(q != p and q[0] >= p[0] and q[1] >= p[1] for q in given_points)}
    assert front == sorted(expected)
    cells = sum(any(x < p[0] and y < p[1] for p in given_points) for x in range(1, 7) for y in range(1, 7))
    assert dominated_area(given_points, (1, 1)) == cells


def test_pareto_front_refuses_what_is_no_list_of_points() -> None:
    for bad in ([], [[1.0, 2.0, 3.0]], [1.0, 2.0]):
        with pytest.raises(ValueError, match=r"points must be \(P, 2\) with P >= 1"):
            pareto_front(bad)
    with pytest.raises(ValueError, match="points must be finite"):
        dominated_area([[1.0, np.inf]], (0, 0))


@pytest.mark.parametrize(("wins", "trials"), [(0, 1), (5, 10), (9, 10), (31, 50), (60, 100), (512, 1000)])
@pytest.mark.parametrize("probability", [0.5, 0.3])
def test_binomial_test_and_wilson_interval_equal_scipys(wins: int, trials: int, probability: float) -> None:
    test = stats.binomtest(wins, trials, probability)
    assert binomial_test(wins, trials, probability) == pytest.approx(test.pvalue, rel=1e-9)
    interval = test.proportion_ci(method="wilson")
    assert wilson_interval(wins, trials) == pytest.approx((interval.low, interval.high), abs=1e-12)


def test_impossible_counts_are_refused() -> None:
    for wins, trials in ((0, 0), (3, 2), (-1, 2)):
        with pytest.raises(ValueError, match=f"got {wins} of {trials}"):
            binomial_test(wins, trials)
        with pytest.raises(ValueError, match="need 0 <= successes <= trials"):
            wilson_interval(wins, trials)
    with pytest.raises(ValueError, match="probability must be between 0 and 1, got 1"):
        binomial_test(1, 2, 1)


def test_the_share_itself_lies_in_its_wilson_interval() -> None:
    for trials in (1, 7, 10**9):
        assert wilson_interval(trials, trials)[1] == 1.0
        assert wilson_interval(0, trials)[0] == 0.0


def test_an_area_above_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match=r"reference must be finite, got \(nan, 0\)"):
        dominated_area([(1, 1)], (math.nan, 0))


@pytest.mark.parametrize(
    ("self_bleu", "unique", "signs"),
    [
        (0.55, 0.99, []),
        (0.95, 0.99, ["samples repeat each other: Self-BLEU 0.950, real text 0.550"]),
        (0.10, 0.99, ["samples share too little for text: Self-BLEU 0.100, real text 0.550"]),
        (0.60, 0.20, ["samples are duplicates: unique share 0.200, real text 1.000"]),
    ],
)
def test_collapse_is_named_when_a_figure_leaves_the_band(self_bleu: float, unique: float, signs: list[str]) -> None:
    assert collapse_signs(self_bleu, 0.55, unique, 1.0) == signs


def test_collapse_refuses_what_is_no_share() -> None:
    with pytest.raises(ValueError, match=r"unique must be in 0\.\.1, got 3"):
        collapse_signs(0.5, 0.5, 3, 1.0)


def test_the_best_is_the_highest_the_lowest_or_the_nearest_to_real_text() -> None:
    values = [0.3, None, 0.5, 0.5, float("nan")]
    assert best(values, "higher") == [False, False, True, True, False]
    assert best(values, "lower") == [True, False, False, False, False]
    assert best(values, "real", 0.35) == [True, False, False, False, False]
    for better, real in (("", None), ("real", None)):
        assert not any(best(values, better, real))  # type: ignore[arg-type]
    assert best([0.3, None], "higher") == [False, False]  # there is nothing to choose from


def test_what_was_made_otherwise_is_named() -> None:
    a, b, c = score(np.ones(3), hyp="3"), score(np.ones(3), seed=2, hyp="3"), score(np.ones(3), hyp="3", unk="1")
    assert misfits([None, a, b, c, None]) == ["", "", "", "unk: absent and 1", ""]
