import json
import math

import numpy as np
import pytest

from seqgen.metrics.bleu import bleu, self_bleu
from seqgen.metrics.comparison import difference
from seqgen.metrics.score import Score, Signature, factored, input_hash, mean_rows, resampled_sums, with_intervals

LINES = ["a b c d e", "b c d e f", "a a b c", "x y z", "a b x y"]


def score(values: list[float], **fields: str) -> Score:
    rows = mean_rows(np.array(values))
    return Score(float(np.mean(values)), Signature("m", fields), rows=rows)


def test_float_of_a_score_is_its_value() -> None:
    assert float(score([1.0, 2.0])) == 1.5


def test_interval_covers_the_mean_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        low, high = score(list(random.normal(3.0, 2.0, 60))).interval or (0, 0)
        covered += low <= 3.0 <= high
    assert 0.90 <= covered / 200 <= 0.985


def test_interval_is_near_the_normal_one() -> None:
    values = np.random.default_rng(1).normal(0.0, 1.0, 4000)
    low, high = score(list(values)).interval or (0, 0)
    half = 1.96 * values.std() / np.sqrt(4000)
    assert low == pytest.approx(values.mean() - half, abs=0.15 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.15 * half)


def test_scores_with_equal_rows_share_resamples_and_keep_their_own_interval() -> None:
    several = [score([1.0, 2.0, 4.0]), score([2.0, 4.0, 8.0]), score([1.0, 2.0])]
    alone = [Score(s.value, s.signature, rows=s.rows).interval for s in several]
    # the resamples of several scores are one matrix product, whose last bits depend on its width
    for shared, own in zip(with_intervals(several), alone, strict=True):
        assert shared.stored_interval == pytest.approx(own, rel=1e-12)
    assert alone[1] == pytest.approx(tuple(2 * x for x in alone[0] or ()), rel=1e-12)


def test_resamples_do_not_depend_on_how_many_are_drawn_at_once() -> None:
    rows = np.random.default_rng(0).normal(size=(700, 3))
    many = resampled_sums(rows, seed=4, resamples=1000)
    np.testing.assert_allclose(many[:10], resampled_sums(rows, seed=4, resamples=10), rtol=1e-10, atol=1e-10)
    assert not np.array_equal(many[:10], resampled_sums(rows, seed=5, resamples=10))


def test_a_score_without_rows_has_no_interval() -> None:
    assert Score(1.0, Signature("m", {})).interval is None
    assert score([1.0]).interval is None


def test_json_round_trip_keeps_number_signature_and_interval() -> None:
    first = bleu(LINES, LINES[1:], order=3)
    stored = json.loads(first.json())
    assert stored["signature"] == str(first.signature)
    assert stored["orders"] == {str(n): value for n, value in first.orders.items()}
    again = Score.from_dict(stored)
    assert (again.value, again.orders, again.interval) == (first.value, first.orders, first.interval)
    assert str(again) == str(first)
    assert again.to_dict() == stored


def test_an_undefined_score_is_null_in_json() -> None:
    undefined = Score(float("nan"), Signature("m", {}), note="undefined: no sample has 3 tokens")
    stored = json.loads(undefined.json())
    assert stored["value"] is None
    assert np.isnan(Score.from_dict(stored).value)


@pytest.mark.parametrize(
    ("other", "field"),
    [
        (bleu(LINES, LINES[1:], order=3), "differ in n: 1-4 and 1-3"),
        (bleu(LINES, LINES[1:], smoothing="method2"), r"differ in smooth: m1\(0.1\) and m2"),
        (bleu(LINES, LINES[1:], level="corpus"), "differ in lvl: sent-mean and corpus"),
        (bleu(LINES[1:], LINES[1:]), "differ in hyp: 5 and 4"),
        (bleu(LINES, LINES), "differ in nrefs: 4 and 5"),
        (bleu(LINES, LINES[1:], tokenizer="char"), "differ in tok: split and char"),
        (bleu(LINES, LINES[1:], lowercase=True), "differ in case: mixed and lc"),
        (self_bleu(LINES), "differ in metric: bleu and self_bleu"),
    ],
)
def test_scores_made_differently_are_not_compared(other: Score, field: str) -> None:
    first = bleu(LINES, LINES[1:])
    for compare in (lambda: first < other, lambda: first > other, lambda: first - other):
        with pytest.raises(ValueError, match=field):
            compare()


def test_scores_of_other_texts_seeds_and_temperatures_are_compared() -> None:
    first = bleu(LINES, LINES[1:])
    second = bleu(LINES[::-1], ["q r s", "a b c d", "x", "y"])
    assert first > second
    assert second < first
    assert first - second == pytest.approx(float(first) - float(second))
    assert first > 0.1
    warm = Score(0.5, Signature("m", {}, "aa", seed=1, temperature=1.0))
    cold = Score(0.4, Signature("m", {}, "bb", seed=2, temperature=0.7))
    assert warm > cold
    assert str(cold.signature) == "m|version:1.0|in:bb|seed:2|temp:0.7"


def test_equal_texts_have_equal_hashes() -> None:
    assert input_hash(["a b", "c"]) == input_hash(["a b", "c"])
    assert len({input_hash(["a b", "c"]), input_hash(["a", "b c"]), input_hash([["a", "b"], ["c"]])}) == 3
    assert input_hash(["a"], ["b"]) == f"{input_hash(['a'])}/{input_hash(['b'])}"


def test_what_all_signatures_share_stands_once_and_nothing_is_lost() -> None:
    signatures = {
        "a": Signature("a", {"n": "2", "tok": "split", "hyp": "9"}, "f0"),
        "b": Signature("b", {"tok": "split", "hyp": "8"}, "f0"),
    }
    assert factored(signatures) == {"": "tok:split|version:1.0|in:f0", "a": "n:2|hyp:9", "b": "hyp:8"}
    assert factored({"b": signatures["b"]}) == {"": "", "b": "tok:split|hyp:8|version:1.0|in:f0"}
    assert factored({}) == {"": ""}


def test_resamples_that_leave_a_share_undefined_do_not_count_as_0() -> None:
    rows = np.zeros((30, 2))
    rows[3] = 4, 4  # one line alone is long enough, and a third of all resamples lack it
    share = Score(1.0, Signature("novelty", {}), rows=rows)
    assert share.interval == (1.0, 1.0)
    half = Score(0.5, Signature("novelty", {}), rows=rows * [0.5, 1])
    found = difference(share, half, paired=True)
    assert (found.value, found.interval) == (0.5, (0.5, 0.5))
    assert Score(math.nan, Signature("novelty", {}), rows=rows * 0).interval is None
