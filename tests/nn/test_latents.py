"""Where latents come from, against distributions whose moments are known."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from seqgen.core import rng
from seqgen.nn import latents as samplers

SEEDS = rng.text_seeds(3, 0, 4000)


def test_normals_are_normal_and_belong_to_their_seed() -> None:
    x = rng.normals(SEEDS, 6)
    assert x.dtype == torch.float64
    assert stats.kstest(x.flatten().numpy(), "norm").pvalue > 1e-3
    correlations = np.corrcoef(x.T.numpy()) - np.eye(6)
    assert np.abs(correlations).max() < 5 / math.sqrt(len(SEEDS))
    assert torch.equal(rng.normals(SEEDS[40:43], 6), x[40:43])
    assert torch.equal(rng.normals(SEEDS, 4), x[:, :4])
    assert not torch.equal(rng.normals(SEEDS, 6, stream=1), x)


def test_labels_come_as_often_as_they_are_counted() -> None:
    counts = (10, 0, 30, 60)
    drawn = torch.bincount(samplers.drawn_labels(SEEDS, counts), minlength=4).numpy()
    assert drawn[1] == 0
    assert stats.chisquare(drawn[[0, 2, 3]], np.array([10, 30, 60]) / 100 * len(SEEDS)).pvalue > 1e-3


def test_tiles_decode_every_row_once() -> None:
    latents, labels = torch.arange(150.0)[:, None], torch.arange(150)
    sizes: list[int] = []

    def decode(z: Tensor, y: Tensor | None) -> Tensor:
        sizes.append(len(z))
        assert y is not None
        return z[:, 0] * 1000 + y

    assert torch.equal(samplers.decoded_in_tiles(decode, latents, labels), torch.arange(150.0) * 1001)
    assert sizes == [samplers.TILE] * 3


def test_paths_begin_and_end_at_their_latents() -> None:
    a, b = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    for spherical in (False, True):
        path = samplers.between(a, b, 5, spherical=spherical)
        torch.testing.assert_close(path[[0, -1]], torch.stack([a, b]))
    torch.testing.assert_close(samplers.between(a, b, 3)[1], (a + b) / 2)
    a, b = a / a.norm(), b / b.norm()
    around = samplers.between(a, b, 9, spherical=True)
    torch.testing.assert_close(around.norm(dim=1), torch.ones(9))
    steps = (around[1:] - around[:-1]).norm(dim=1)
    torch.testing.assert_close(steps, steps[:1].expand(8))
    torch.testing.assert_close(samplers.between(a, 2 * a, 3, spherical=True)[1], 1.5 * a)
    with pytest.raises(ValueError, match=r"^steps must be at least 2, both ends included; got 1$"):
        samplers.between(a, b, 1)


def test_a_fitted_mixture_has_the_moments_of_its_latents() -> None:
    random = np.random.default_rng(0)
    root = np.array([[1.0, 0.0], [0.8, 0.3]])
    latents = np.concatenate([random.normal(size=(600, 2)) @ root.T - 4, random.normal(size=(1400, 2)) * 0.5 + 3])
    mixture = samplers.fit_mixture(latents, components=2, seed=1)
    assert sorted(mixture.weights.tolist()) == pytest.approx([0.3, 0.7], abs=0.01)
    drawn = mixture.sample(SEEDS).numpy()
    np.testing.assert_allclose(drawn.mean(0), latents.mean(0), atol=0.25)
    np.testing.assert_allclose(np.cov(drawn.T), np.cov(latents.T), rtol=0.08)
    left = drawn[drawn[:, 1] < -0.5]
    np.testing.assert_allclose(np.cov(left.T), root @ root.T, atol=0.12)
    assert np.array_equal(mixture.sample(SEEDS[7:9]).numpy(), drawn[7:9])
    with pytest.raises(ValueError, match=r"^10 components need at least 20 latents, got 5$"):
        samplers.fit_mixture(latents[:5])


def test_calibration_finds_the_log_odds_and_says_where_it_fails() -> None:
    draws = torch.Generator().manual_seed(0)
    real = torch.randn(4000, generator=draws) + 1
    made = torch.randn(4000, generator=draws) - 1
    # two Gaussians of variance 1 at +-1: the true log-odds at x are 2 x; the critic reports x / 2 + 3
    found = samplers.calibrate(real / 2 + 3, made / 2 + 3)
    assert found.slope == pytest.approx(4.0, rel=0.1)
    assert found.offset == pytest.approx(-12.0, rel=0.1)
    assert abs(found.error) < 3
    with pytest.raises(ValueError, match=r"^calibration needs at least 8 held-out images, got 7$"):
        samplers.calibrate(real[:7], made)


def test_metropolis_chains_reach_the_prior_times_the_odds() -> None:
    """Prior N(0, 1) with odds exp(-(z - 1.5)^2 / (2 * 0.5)) is N(1, 1/3)."""

    def log_odds(latents: Tensor) -> Tensor:
        return -(latents[:, 0] - 1.5).square()

    latents, accepted = samplers.metropolis(log_odds, torch.zeros(len(SEEDS)), SEEDS, 2, length=60)
    assert latents[:, 0].mean().item() == pytest.approx(1.0, abs=0.05)
    assert latents[:, 0].var().item() == pytest.approx(1 / 3, abs=0.03)
    assert latents[:, 1].mean().item() == pytest.approx(0.0, abs=0.08)
    assert latents[:, 1].var().item() == pytest.approx(1.0, abs=0.08)
    assert 0.1 < accepted < 0.9
    alone, _ = samplers.metropolis(log_odds, torch.zeros(5), SEEDS[10:15], 2, length=60)
    assert torch.equal(alone, latents[10:15])


def test_a_metropolis_chain_that_never_moves_starts_again_from_its_first_proposal() -> None:
    def log_odds(latents: Tensor) -> Tensor:
        return -(latents[:, 0] - 1.5).square()

    start = torch.full((len(SEEDS),), math.inf)
    latents, accepted = samplers.metropolis(log_odds, start, SEEDS, 1, length=60)
    assert accepted == 0
    assert latents[:, 0].mean().item() == pytest.approx(1.0, abs=0.05)


def test_langevin_chains_reach_their_density() -> None:
    mean, scale = torch.tensor([1.0, -2.0]), torch.tensor([0.3, 1.5])

    def energy(latents: Tensor, warmed: float) -> Tensor:
        return 0.5 * ((latents - mean) / scale).square().sum(1)

    chain = samplers.langevin(energy, torch.zeros(1500, 2), SEEDS[:1500], steps=400)
    np.testing.assert_allclose(chain.latents.mean(0), mean, atol=0.15)
    np.testing.assert_allclose(chain.latents.std(0), scale, rtol=0.08)
    assert chain.acceptance.mean().item() == pytest.approx(0.6, abs=0.1)
    torch.testing.assert_close(chain.energy.float(), energy(chain.latents, 1.0), rtol=1e-4, atol=1e-4)
    alone = samplers.langevin(energy, torch.zeros(3, 2), SEEDS[:3], steps=400)
    torch.testing.assert_close(alone.latents, chain.latents[:3])


def test_without_the_acceptance_test_langevin_chains_would_be_too_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: with every proposal taken, a coarse step inflates the variance, and the test above would notice."""

    def energy(latents: Tensor, warmed: float) -> Tensor:
        return 0.5 * latents.square().sum(1)

    uniforms = samplers.fixed_uniforms
    monkeypatch.setattr(
        samplers,
        "fixed_uniforms",
        lambda seeds, width, stream=0: (
            torch.zeros(len(seeds), width, dtype=torch.float64)
            if stream == samplers._ACCEPTANCES
            else uniforms(seeds, width, stream=stream)
        ),
    )
    chain = samplers.langevin(energy, torch.zeros(1500, 2), SEEDS[:1500], steps=60, step_size=1.0, target=1.0)
    assert chain.latents.std().item() > 1.1


def test_langevin_chains_follow_an_energy_that_is_annealed() -> None:
    seen: list[float] = []

    def energy(latents: Tensor, warmed: float) -> Tensor:
        seen.append(warmed)
        return 0.5 * (latents / (2 - warmed)).square().sum(1)

    chain = samplers.langevin(energy, torch.zeros(1500, 1), SEEDS[:1500], steps=200)
    assert seen[0] == 0.0
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    assert chain.latents.std().item() == pytest.approx(1.0, rel=0.08)
    with pytest.raises(ValueError, match=r"^steps must be at least 2, got 1$"):
        samplers.langevin(energy, torch.zeros(1, 1), SEEDS[:1], steps=1)
