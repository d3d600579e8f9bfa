"""Draws follow the distribution, filters keep exactly what their definition says."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seqgen.nn import sampler


@pytest.mark.parametrize("columns", [3, 64, 65, 200, 640])
def test_pick_follows_the_distribution(columns):
    torch.manual_seed(columns)
    probabilities = torch.randn(columns).mul(2).softmax(0)
    draws = 40_000
    # stratified uniforms leave no sampling noise: counts may differ from n p by less than 2
    uniforms = (torch.arange(draws, dtype=torch.float64) + 0.5) / draws
    counts = sampler.pick(probabilities.expand(draws, -1), uniforms).bincount(minlength=columns)
    assert (counts - probabilities * draws).abs().max() < 2


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_pick_equals_the_plain_inverse_cdf(data):
    columns = data.draw(st.integers(1, 200))
    mass = st.sampled_from([0.0, 0.0, 0.25, 1.0, 3.0])
    masses = data.draw(st.lists(mass, min_size=columns, max_size=columns))
    if not any(masses):
        masses[data.draw(st.integers(0, columns - 1))] = 1.0
    u = data.draw(st.sampled_from([0.0, 1 - 2**-53, 0.5]) | st.floats(0, 1 - 2**-53))
    probabilities = torch.tensor([masses])
    chosen = sampler.pick(probabilities, torch.tensor([u], dtype=torch.float64)).item()
    # these masses add up without rounding, so brute force is exact
    target, total = u * sum(masses), 0.0
    expected = next(k for k, mass in enumerate(masses) if (total := total + mass) > target)
    assert chosen == expected
    assert masses[chosen] > 0


def test_pick_never_returns_a_column_without_mass_where_block_sums_round():
    torch.manual_seed(0)
    probabilities = torch.rand(4000, 130) * (torch.rand(4000, 130) < 0.3)
    probabilities[:, 0] += 1e-6
    uniforms = torch.cat([torch.full((2000,), 1 - 2**-53, dtype=torch.float64), torch.zeros(2000, dtype=torch.float64)])
    chosen = sampler.pick(probabilities, uniforms)
    assert (probabilities.gather(1, chosen[:, None]) > 0).all()


def test_pick_gives_minus_one_for_a_row_without_mass_or_with_nan():
    probabilities = torch.tensor([[0.0, 0.0], [math.nan, 1.0], [0.0, 1.0]])
    assert sampler.pick(probabilities, torch.full((3,), 0.5, dtype=torch.float64)).tolist() == [-1, -1, 1]


def test_pick_of_a_row_does_not_depend_on_the_others():
    torch.manual_seed(0)
    probabilities, uniforms = torch.rand(64, 333), torch.rand(64, dtype=torch.float64)
    alone = torch.cat([sampler.pick(p[None], u[None]) for p, u in zip(probabilities, uniforms, strict=True)])
    assert torch.equal(sampler.pick(probabilities, uniforms), alone)


def _kept(logits):
    return [row.isfinite().nonzero().squeeze(1).tolist() for row in logits]


def test_top_k_keeps_k_with_ties():
    logits = torch.tensor([[1.0, 1.0, 1.0, 1.0, 0.0], [0.0, 3.0, 2.0, 3.0, 1.0]])
    kept = _kept(sampler.keep_top_k(logits, 2))
    assert [len(k) for k in kept] == [2, 2]
    assert set(kept[0]) <= {0, 1, 2, 3}
    assert kept[1] == [1, 3]
    assert torch.equal(sampler.keep_top_k(logits, 9), logits)


def _logits(*probabilities):
    return torch.tensor([probabilities]).log()


@pytest.mark.parametrize(
    ("p", "expected"),
    [(0.5, [1]), (0.51, [1, 3]), (0.8, [1, 3]), (0.81, [0, 1, 3]), (0.01, [1]), (0.999, [0, 1, 2, 3])],
)
def test_top_p_keeps_the_crossing_token(p, expected):
    # probabilities are sums of powers of two where the border is tested, so the border is exact
    assert _kept(sampler.keep_top_p(_logits(0.125, 0.5, 0.075, 0.3), p))[0] == expected


def test_min_p_is_relative_to_the_likeliest_token():
    assert _kept(sampler.keep_min_p(_logits(0.6, 0.31, 0.06, 0.03), 0.5))[0] == [0, 1]
    assert _kept(sampler.keep_min_p(_logits(0.6, 0.31, 0.06, 0.03), 0.05))[0] == [0, 1, 2, 3]
    assert _kept(sampler.keep_min_p(_logits(0.6, 0.31, 0.06, 0.03), 1.0))[0] == [0]


def _reference_mass(logits, scores, mass):
    """The definition, one row and one token at a time."""
    probabilities = logits.double().softmax(0)
    kept, total = [], 0.0
    for k in sorted(range(len(logits)), key=lambda k: -scores[k]):
        if total >= mass:
            break
        kept.append(k)
        total += float(probabilities[k])
    return sorted(kept)


@pytest.mark.parametrize("columns", [10, 300, 700])
@pytest.mark.parametrize("spread", [0.1, 3.0])
@pytest.mark.parametrize("mass", [0.2, 0.9, 0.99])
def test_top_p_and_typical_equal_their_definitions(columns, spread, mass):
    torch.manual_seed(1)
    logits = torch.randn(6, columns) * spread
    top_p, typical_p = sampler.keep_top_p(logits, mass), sampler.keep_typical(logits, mass)
    for row, kept_p, kept_typical in zip(logits, _kept(top_p), _kept(typical_p), strict=True):
        assert kept_p == _reference_mass(row, row, mass)
        information = -row.double().log_softmax(0)
        expected_information = float((row.double().softmax(0) * information).sum())
        assert kept_typical == _reference_mass(row, -(information - expected_information).abs(), mass)
    assert torch.equal(top_p[top_p.isfinite()], logits[top_p.isfinite()])


def test_typical_can_drop_the_likeliest_token():
    # Meister et al. 2023: the mode may carry far less information than expected
    logits = torch.tensor([[math.log(0.4), *[math.log(0.6 / 60)] * 60]])
    assert 0 not in _kept(sampler.keep_typical(logits, 0.2))[0]


def test_filters_of_a_row_do_not_depend_on_the_others():
    torch.manual_seed(0)
    # half of the rows need a whole sort, half the short ranking
    logits = torch.randn(8, 900) * torch.tensor([0.05, 4.0]).repeat(4)[:, None]
    for keep in (lambda x: sampler.keep_top_p(x, 0.9), lambda x: sampler.keep_typical(x, 0.9)):
        assert torch.equal(keep(logits), torch.cat([keep(row[None]) for row in logits]))


def test_entropy_of_a_known_distribution():
    log_probs = torch.tensor([[0.5, 0.25, 0.25, 0.0], [1.0, 0.0, 0.0, 0.0]]).log()
    assert sampler.entropy(log_probs).tolist() == pytest.approx([1.5 * math.log(2), 0.0])


@pytest.mark.parametrize("fused", [False, True])
def test_what_is_drawn_from_is_the_softmax_of_weight_and_bias(fused, monkeypatch):
    monkeypatch.setattr(sampler, "by_mkl", lambda _: fused)
    generator = torch.Generator().manual_seed(3)
    weight, bias, features = (torch.randn(n, generator=generator) for n in ((150, 7), (150,), (600, 7)))
    output = sampler.OutputLayer((weight, bias), suppress_tokens=(4, 149))
    logits = features @ weight.t() + bias
    logits[:, [4, 149]] = -math.inf
    uniforms = torch.rand(600, dtype=torch.float64, generator=generator)
    ids = output.draw(features, uniforms)
    ends = logits.double().softmax(1).cumsum(1)
    expected = (ends <= uniforms[:, None]).sum(1)
    assert torch.equal(ids, expected)
    assert output.draw(features[:0], uniforms[:0]).shape == (0,)
