"""Where latents come from: a Gaussian mixture, interpolation, and Markov chains that follow a critic or an energy.

Every number drawn belongs to a seed (one per text or image) and a count, never to the batch, so number k of a call
does not depend on how many were asked for.
Shapes: B images or chains, Z latent code dimensions, K components, N latents fitted to.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from seqgen.core import rng
from seqgen.core.rng import normals

TILE = 64
"""Rows decoded together: one size of matrix product, so that image k has the same bits in any batch."""

_LABELS = 1 << 20  # streams above those of latents and chains, which count up from 0
_COMPONENTS = _LABELS + 1
_ACCEPTANCES = _LABELS + 2


def fixed_uniforms(seeds: Tensor, width: int, *, stream: int = 0) -> Tensor:
    """Return uniform numbers in [0, 1), (B, width) float64, a function of each row's seed and the stream alone."""
    return rng.uniforms(seeds[:, None], torch.arange(width, device=seeds.device), stream=stream)


def drawn_labels(seeds: Tensor, class_counts: tuple[int, ...]) -> Tensor:
    """Draw a class number (B,) for each seed, with the frequencies of `class_counts`."""
    return _drawn(seeds, torch.tensor(class_counts, dtype=torch.float64, device=seeds.device), _LABELS)


def _drawn(seeds: Tensor, weights: Tensor, stream: int) -> Tensor:
    below = weights.cumsum(0) / weights.sum()
    return torch.searchsorted(below, rng.uniforms(seeds, 0, stream=stream), right=True).clamp_max(len(weights) - 1)


def decoded_in_tiles(
    decode: Callable[[Tensor, Tensor | None], Tensor], latents: Tensor, labels: Tensor | None
) -> Tensor:
    """Decode latents (B, Z) and labels (B,) TILE rows at a time, the last tile filled up with copies of row 0."""
    rows = len(latents)
    filled = torch.arange(-(-rows // TILE) * TILE, device=latents.device)
    filled = torch.where(filled < rows, filled, 0)
    tiles = torch.split(filled, TILE)
    return torch.cat([decode(latents[t], None if labels is None else labels[t]) for t in tiles])[:rows]


def between(first: Tensor, second: Tensor, steps: int, *, spherical: bool = False) -> Tensor:
    """Interpolate: `steps` latents (steps, Z) from one (Z,) to another, both included, on the line or the great circle.

    The great circle keeps the length that normal latents have in many dimensions (Shoemake 1985); those that point the
    same or the opposite way are joined by the line.
    """
    if steps < 2:
        raise ValueError(f"steps must be at least 2, both ends included; got {steps}")
    share = torch.linspace(0, 1, steps, dtype=first.dtype, device=first.device)[:, None]
    line = first + share * (second - first)
    cosine = torch.dot(first, second) / (first.norm() * second.norm()).clamp_min(1e-12)
    angle = torch.arccos(cosine.clamp(-1, 1))
    if not spherical or torch.sin(angle) < 1e-6:
        return line
    return (torch.sin((1 - share) * angle) * first + torch.sin(share * angle) * second) / torch.sin(angle)


# ------------------------------------------------------------------------------------------------------------- mixture


@dataclass(frozen=True, eq=False)
class Mixture:
    """A mixture of Gaussians over latents, float64."""

    weights: Tensor
    """(K,), summing to 1."""
    means: Tensor
    """(K, Z)."""
    roots: Tensor
    """(K, Z, Z): lower Cholesky factors of the covariances."""

    def sample(self, seeds: Tensor) -> Tensor:
        """Draw one latent (B, Z) float64 for each seed (B,)."""
        part = _drawn(seeds, self.weights.to(seeds.device), _COMPONENTS)
        noise = normals(seeds, self.means.shape[1])
        means, roots = self.means.to(seeds.device), self.roots.to(seeds.device)
        return means[part] + torch.einsum("bij,bj->bi", roots[part], noise)


def fit_mixture(latents: npt.ArrayLike, *, components: int = 10, seed: int = 0) -> Mixture:
    """Fit a mixture of full Gaussians to latents (N, Z) by expectation maximisation from k-means, in float64.

    In float32 covariances lose their positive definiteness. ValueError for fewer than two latents per component.
    """
    from sklearn.exceptions import ConvergenceWarning  # late: a second to import
    from sklearn.mixture import GaussianMixture

    rows = np.asarray(latents, np.float64)
    if len(rows) < 2 * components:
        raise ValueError(f"{components} components need at least {2 * components} latents, got {len(rows)}")
    model = GaussianMixture(components, covariance_type="full", reg_covar=1e-6, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # 100 rounds are near enough to sample from
        model.fit(rows)
    roots = np.linalg.cholesky(model.covariances_)
    return Mixture(*(torch.from_numpy(np.asarray(a)) for a in (model.weights_, model.means_, roots)))


# -------------------------------------------------------------------------------------------------------------- chains


@dataclass(frozen=True)
class Calibration:
    """The log-odds that an image is real, a line in the critic's logit: slope * d + offset."""

    slope: float
    offset: float
    error: float
    """Z of Turner et al. 2019, section 3.2: within +-2 the probabilities agree with what held-out images are."""


def calibrate(real: Tensor, made: Tensor) -> Calibration:
    """Fit Platt's calibration of a critic to its logits (N,) of held-out real and as many generated images.

    Fitted to one half of them by logistic regression; the other half gives `error`. ValueError for fewer than 8.
    """
    from sklearn.linear_model import LogisticRegression

    count = min(len(real), len(made))
    if count < 8:
        raise ValueError(f"calibration needs at least 8 held-out images, got {count}")
    logits = torch.stack([real[:count], made[:count]]).double().cpu().numpy()
    half = count // 2
    truth = np.repeat([1, 0], half)
    fitted = LogisticRegression(C=1e6).fit(logits[:, :half].reshape(-1, 1), truth)
    slope, offset = float(fitted.coef_[0, 0]), float(fitted.intercept_[0])
    chance = 1 / (1 + np.exp(-(slope * logits[:, half:] + offset)))
    spread = math.sqrt(max(1e-12, float((chance * (1 - chance)).sum())))
    return Calibration(slope, offset, (chance.shape[1] - float(chance.sum())) / spread)


def fit_head(real: Tensor, made: Tensor) -> tuple[Tensor, float]:
    """Fit weights (F,) and offset of the log-odds that features (N, F) are of a real image, by logistic regression.

    Ridge on features of deviation 1, so that more features than rows do no harm; what it shrinks `calibrate` restores.
    """
    from sklearn.linear_model import LogisticRegression

    rows = torch.cat([real, made]).double().cpu().numpy()
    mean, deviation = rows.mean(0), rows.std(0)
    deviation[deviation == 0] = 1.0
    truth = np.repeat([1, 0], [len(real), len(made)])
    fitted = LogisticRegression(C=0.01, class_weight="balanced", max_iter=500).fit((rows - mean) / deviation, truth)
    weights = fitted.coef_[0] / deviation
    offset = float(fitted.intercept_[0]) - float(weights @ mean)
    return torch.from_numpy(weights).float().to(real.device), offset


def metropolis(
    log_odds: Callable[[Tensor], Tensor], start: Tensor, seeds: Tensor, latent: int, *, length: int
) -> tuple[Tensor, float]:
    """Run Metropolis-Hastings chains over prior latents; return their ends (B, Z) and the share of proposals accepted.

    A proposal z' ~ N(0, 1) replaces z with probability min(1, odds(z') / odds(z)) (Turner et al. 2019): `log_odds` of
    latents (B, Z) is that of a calibrated critic on their images. `start` (B,) are the log-odds of real images, from
    which a chain needs no burn-in; one that accepts nothing starts again from its first proposal.
    """
    # two chains with the same proposals: the second takes its first proposal whatever it is
    at = torch.stack([start.to(seeds.device), torch.full_like(start, -math.inf, device=seeds.device)])
    latents = torch.zeros(2, len(seeds), latent, device=seeds.device)
    moves = torch.zeros(len(seeds), device=seeds.device)
    chance = fixed_uniforms(seeds, length, stream=_ACCEPTANCES).log()
    for k in range(length):
        proposal = normals(seeds, latent, stream=k).float()
        odds = log_odds(proposal)
        take = chance[:, k] < odds - at
        latents, at = torch.where(take[..., None], proposal, latents), torch.where(take, odds, at)
        moves += take[0]
    return torch.where((moves > 0)[:, None], latents[0], latents[1]), float(moves.mean()) / length


@dataclass(frozen=True, eq=False)
class Chain:
    """Where Langevin chains ended."""

    latents: Tensor
    """(B, Z) float32."""
    acceptance: Tensor
    """(B,): share of the proposals accepted after the warm-up."""
    energy: Tensor
    """(B,): energy of the latents."""


def langevin(
    energy: Callable[[Tensor, float], Tensor],
    start: Tensor,
    seeds: Tensor,
    *,
    steps: int,
    step_size: float = 0.05,
    target: float = 0.6,
) -> Chain:
    """Run Metropolis-adjusted Langevin chains (B, Z) towards the density exp(-energy), one for each seed.

    z' = z - h / 2 grad U(z) + sqrt(h) eps, accepted with its exact probability (Roberts and Tweedie 1996). In the first
    half of the steps every chain moves its own h towards the acceptance `target`; then it stays. `energy` of latents
    (B, Z) and of the share of the warm-up that is done (0..1, then 1) gives (B,), so that it can be annealed.
    """
    if steps < 2:
        raise ValueError(f"steps must be at least 2, got {steps}")
    warm = steps // 2
    with torch.inference_mode(False), torch.enable_grad():
        h = torch.full((len(seeds), 1), step_size, dtype=torch.float64, device=seeds.device)
        chance = fixed_uniforms(seeds, steps, stream=_ACCEPTANCES).log()
        kept = torch.zeros(len(seeds), device=seeds.device, dtype=torch.float64)
        latents = start.detach().clone().double()
        for k in range(steps):
            share = min(1.0, 2 * k / warm)  # the second half of the warm-up is for the step size alone
            if share < 1 or k <= warm // 2 + 1:  # the energy changes while it is annealed
                value, slope = _slope(energy, latents, share)
            mean = latents - 0.5 * h * slope
            proposal = mean + h.sqrt() * normals(seeds, latents.shape[1], stream=1 + k)
            new_value, new_slope = _slope(energy, proposal, share)
            back = proposal - 0.5 * h * new_slope
            log_ratio = value - new_value
            log_ratio = log_ratio + ((proposal - mean).square() - (latents - back).square()).sum(1) / (2 * h[:, 0])
            take = chance[:, k] < log_ratio
            latents = torch.where(take[:, None], proposal, latents)
            value, slope = torch.where(take, new_value, value), torch.where(take[:, None], new_slope, slope)
            if k < warm:
                h = h * torch.exp(0.15 * (take.double() - target))[:, None]
            else:
                kept += take
    return Chain(latents.float(), kept / (steps - warm), value)


def _slope(energy: Callable[[Tensor, float], Tensor], latents: Tensor, share: float) -> tuple[Tensor, Tensor]:
    at = latents.detach().requires_grad_()
    value = energy(at.float(), share).double()
    (slope,) = torch.autograd.grad(value.sum(), at)
    return value.detach(), slope
