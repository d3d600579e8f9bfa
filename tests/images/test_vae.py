"""The image VAE against torch's distributions, quadrature and its own definitions."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Normal, kl_divergence
from torch.nn import functional as F

from seqgen.core import rng
from seqgen.core.config import Train
from seqgen.core.errors import ConfigError
from seqgen.images import vae
from seqgen.images.data import ImageBatch, ImageData

TRAIN = Train(steps=100, batch=16, lr=2e-3, clip=0.0)
SMALL = vae.Config(widths=(4, 8), hidden=16, latent=3, channels=1, size=8, classes=("a", "b", "c"))


def model(**options: Any) -> vae.Model:
    rng.enter_step(7, 0)
    return vae.Model(replace(SMALL, **options))


def batch(rows: int = 6, size: int = 8, channels: int = 1, seed: int = 0) -> ImageBatch:
    made = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (rows, channels, size, size), generator=made, dtype=torch.uint8)
    return ImageBatch(pixels, torch.arange(rows) % 3, torch.arange(rows))


def noise(net: vae.Model, rows: int = 6, samples: int = 1) -> Tensor:
    return torch.randn(samples, rows, net.config.latent, generator=torch.Generator().manual_seed(5))


def test_the_kl_is_that_of_two_gaussians() -> None:
    net = model().eval()
    mean, log_variance = net.encode(batch().pixels / 255)
    expected = kl_divergence(Normal(mean, (0.5 * log_variance).exp()), Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(net.terms(batch(), noise(net))["kl"], expected)


@pytest.mark.parametrize("likelihood", ["bernoulli", "grey"])
def test_the_cross_entropy_is_summed_over_pixels(likelihood: Any) -> None:
    net = model(likelihood=likelihood, binarize="static").eval()
    x = net.observed(batch())
    logits = torch.randn(6, 1, 8, 8)
    expected = Bernoulli(logits=logits, validate_args=False).log_prob(x).sum((1, 2, 3))
    torch.testing.assert_close(net.log_likelihood(x, logits), expected)


@pytest.mark.parametrize("sd", [0.0, 0.3])
def test_the_gaussian_counts_levels_of_grey(sd: float) -> None:
    net = model(likelihood="gaussian", sd=sd).eval()
    x, logits = net.observed(batch()), torch.randn(6, 1, 8, 8)
    scale = sd or math.exp(-2)
    expected = Normal(torch.sigmoid(logits), scale).log_prob(x).sum((1, 2, 3)) - 64 * math.log(256)
    torch.testing.assert_close(net.log_likelihood(x, logits), expected, rtol=1e-5, atol=1e-3)
    assert (net.log_sd is None) == bool(sd)


def test_the_gaussians_levels_have_the_mass_of_the_interval() -> None:
    """exp(log p) averaged over the noise of a level and summed over all levels is the mass of 0..1."""
    net = model(likelihood="gaussian", sd=0.2, size=4, widths=(4,)).eval()
    levels = torch.arange(256).repeat_interleave(40)
    uniform = (torch.arange(40) + 0.5).repeat(256) / 40
    x = ((levels + uniform) / 256).view(-1, 1, 1, 1)
    net.pixels = 1
    mass = net.log_likelihood(x, torch.full_like(x, 0.3)).double().exp().sum() / 40
    middle = torch.sigmoid(torch.tensor(0.3))
    expected = Normal(middle, 0.2).cdf(torch.tensor(1.0)) - Normal(middle, 0.2).cdf(torch.tensor(0.0))
    assert mass.item() == pytest.approx(expected.item(), rel=1e-4)


def test_images_are_seen_as_the_likelihood_says() -> None:
    many = replace(batch(1), pixels=batch(1).pixels.expand(3000, 1, 8, 8), rows=torch.arange(3000))
    grey = many.pixels[0] / 255
    torch.testing.assert_close(model().observed(many)[0], grey)
    torch.manual_seed(0)
    for options in ({"binarize": "dynamic"}, {"binarize": "static"}):
        coins = model(likelihood="bernoulli", **options).observed(many)
        assert set(coins.unique().tolist()) == {0.0, 1.0}
        assert (coins.mean(0) - grey).abs().max() < 5 * 0.5 / math.sqrt(3000)
    dynamic, static = (model(likelihood="bernoulli", binarize=b) for b in ("dynamic", "static"))
    assert not torch.equal(dynamic.observed(many), dynamic.observed(many))
    assert torch.equal(static.observed(many), static.observed(many))
    assert torch.equal(dynamic.eval().observed(many), static.observed(many))
    threshold = model(likelihood="bernoulli", binarize="threshold").observed(many)
    assert torch.equal(threshold[0], (many.pixels[0] >= 128).float())
    noisy = model(likelihood="gaussian").observed(many) * 256
    assert torch.equal(noisy.floor(), many.pixels.float())
    assert noisy.frac().mean().item() == pytest.approx(0.5, abs=0.01)


def test_what_a_row_is_taken_for_does_not_depend_on_its_batch() -> None:
    net = model(likelihood="bernoulli").eval()
    whole = batch(6)
    assert torch.equal(net.observed(whole)[2:4], net.observed(whole.take(slice(2, 4))))
    assert torch.equal(net.observed(whole), net.observed(whole))


@pytest.mark.parametrize("beta", [0.0, 1.0, 4.0])
def test_beta_multiplies_the_kl_of_a_image_beside_its_summed_pixels(beta: float) -> None:
    net = model(beta=beta).eval()
    terms = net.terms(batch(), noise(net))
    torch.testing.assert_close(terms["loss"], terms["reconstruction"] + beta * terms["kl"])


def test_free_bits_charge_each_dimension_at_least_their_price() -> None:
    plain, free = model().eval(), model(free_bits=0.5).eval()
    x = batch()
    mean, log_variance = plain.encode(x.pixels / 255)
    per_dimension = kl_divergence(Normal(mean, (0.5 * log_variance).exp()), Normal(0.0, 1.0)).mean(0)
    assert (per_dimension < 0.5).any()
    terms = free.terms(x, noise(free))
    charged = (terms["loss"] - terms["reconstruction"]).mean()
    assert charged.item() == pytest.approx(per_dimension.clamp_min(0.5).sum().item(), rel=1e-5)
    gradient = torch.autograd.grad(charged, free.to_latent[2].bias)[0]
    below = (per_dimension < 0.5).repeat(2)
    assert gradient[below].eq(0).all()


def likelihood_by_quadrature(net: vae.Model, x: Tensor) -> Tensor:
    """log p(x) of each image with one latent code dimension, by the trapezoid rule over the prior."""
    grid = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    with torch.no_grad():
        logits = net.logits(grid[:, None].float())
    values = [net.log_likelihood(one[None].expand(len(grid), -1, -1, -1), logits).double() for one in x]
    log_prior = Normal(0.0, 1.0).log_prob(grid)
    return torch.stack([(v + log_prior).logsumexp(0) + math.log(16 / 4000) for v in values])


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_the_nll_by_importance_sampling_is_that_of_quadrature(likelihood: Any) -> None:
    net = model(likelihood=likelihood, latent=1, net="mlp", sd=0.3 if likelihood == "gaussian" else 0.0).eval()
    with torch.no_grad():
        for p in net.decoder.parameters():  # so that the latent code matters
            p.mul_(1.7)
    x = batch()
    exact = -likelihood_by_quadrature(net, net.observed(x))
    torch.testing.assert_close(net.nll(x, 8000), exact, rtol=0, atol=0.03)
    assert (net.nll(x, 1) - exact).mean() > 0  # one sample is the plain bound, above it on average
    assert torch.equal(net.nll(x, 120, block=50), net.nll(x, 120, block=7))


def test_more_samples_give_a_tighter_bound() -> None:
    net = model(likelihood="bernoulli").eval()
    with torch.no_grad():
        for p in net.decoder.parameters():
            p.mul_(3)
    x = batch(30)
    one, few, many = (net.nll(x, k).mean().item() for k in (1, 5, 200))
    assert one > few > many


def test_the_importance_weighted_loss_is_the_bound() -> None:
    net = model(likelihood="bernoulli", samples=4).eval()
    x = batch()
    eps = noise(net, samples=4)
    seen = net.observed(x)
    mean, log_variance = net.encode(seen)
    q = Normal(mean, (0.5 * log_variance).exp())
    latents = mean + q.scale * eps
    log_p = torch.stack([net.log_likelihood(seen, net.logits(z)) for z in latents])
    weights = log_p + (Normal(0.0, 1.0).log_prob(latents) - q.log_prob(latents)).sum(2)
    expected = math.log(4) - weights.logsumexp(0)
    torch.testing.assert_close(net.terms(x, eps)["loss"], expected, rtol=1e-5, atol=1e-4)
    bound = vae.validate(net, x)["nll_bound"]
    assert bound[0] == vae.validate(net, x)["loss"][0]


def test_grey_values_have_no_likelihood() -> None:
    net = model().eval()
    with pytest.raises(ValueError, match=r"^model\.likelihood = grey is a cross-entropy on grey values and no like"):
        net.nll(batch(), 10)
    assert set(vae.validate(net, batch())) == {"loss", "reconstruction", "kl"}


def test_bits_per_dimension_are_the_bound_over_the_pixels() -> None:
    net = model(likelihood="bernoulli").eval()
    with torch.no_grad():
        sums = vae.validate(net, batch())
    nats, bits = (float(total) / float(count) for total, count in (sums["nll_bound"], sums["bits_per_dim"]))
    assert bits == pytest.approx(nats / math.log(2) / 64)


def test_validation_repeats_itself_and_leaves_torchs_generator_alone() -> None:
    net = model(likelihood="gaussian").eval()
    before = torch.random.get_rng_state()
    first, second = vae.validate(net, batch()), vae.validate(net, batch())
    assert first == second
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("options", [{}, {"net": "mlp"}, {"conditional": True}, {"size": 28}, {"channels": 3}])
def test_one_code_is_one_image_for_any_batch_size(options: dict[str, Any]) -> None:
    net = model(**options).eval()
    seeds, labels = torch.arange(130) * 7919, torch.arange(130) % 3
    with torch.inference_mode():
        whole = net.sample(seeds, labels)
        assert whole.shape == (130, net.config.channels, net.config.size, net.config.size)
        assert whole.min() >= 0
        assert whole.max() <= 1
        for count in (1, 2, 3, 63, 64, 65):
            assert torch.equal(net.sample(seeds[:count], labels[:count]), whole[:count])
    assert not torch.equal(whole[0], whole[1])


def test_a_conditional_model_needs_and_uses_the_label() -> None:
    net = model(conditional=True).eval()
    with pytest.raises(ValueError, match=r"^this model is conditional: it needs labels \(B,\)$"):
        net.sample(torch.arange(2))
    one, other = (net.sample(torch.arange(2), torch.full((2,), k)) for k in (0, 1))
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"conditional": True, "classes": ()}, "model.conditional needs images with labels"),
        (
            {"conditional": True, "unlabelled": 7},
            "model.conditional needs a label on every image, but 7 have none",
        ),
        (
            {"samples": 5, "beta": 2.0},
            "model.samples > 1 is a bound on the likelihood: use beta = 1, free_bits = 0 and match = kl",
        ),
        ({"match": "adversarial", "free_bits": 0.1}, "model.free_bits needs match = kl"),
        (
            {"adversarial_weight": 1.0, "likelihood": "bernoulli", "match": "adversarial"},
            "model.adversarial_weight needs grey values: a critic would tell black and white by itself; "
            "model.adversarial_weight needs samples = 1 and match = kl",
        ),
        (
            {"size": 6, "widths": (4, 4, 4)},
            "model.widths has 3 widths, each of which halves the image, but 6 pixels can be halved 2 times; "
            "give 1 to 2 widths, or model.net=mlp",
        ),
    ],
)
def test_options_that_contradict_each_other(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        model(**options)
    assert str(caught.value) == message


def changed(net: vae.Model, before: dict[str, Tensor]) -> set[str]:
    return {n.partition(".")[0] for n, p in net.named_parameters() if not torch.equal(p, before[n])}


def test_a_step_of_the_adversarial_autoencoder_moves_one_network() -> None:
    net = model(match="adversarial", beta=5.0)
    made = vae.optimizers(net, TRAIN)
    for step, moved in ((0, {"body", "to_latent", "decoder"}), (1, {"critic"}), (2, {"body", "to_latent", "decoder"})):
        before = {name: p.detach().clone() for name, p in net.named_parameters()}
        rng.enter_step(1, step)
        scalars = vae.train_step(net, made, batch(seed=step), step)
        assert changed(net, before) == moved
        assert ("critic_loss" in scalars) == (step % 2 == 1)


@pytest.mark.parametrize("shape", ["conv", "mlp"])
def test_a_step_with_a_critic_of_images_moves_one_network_by_its_own_loss(shape: str) -> None:
    net = model(adversarial_weight=3.0, net=shape).train()
    made, own = vae.optimizers(net, TRAIN), {"body", "to_latent", "decoder"} - ({"body"} if shape == "mlp" else set())
    for step, moved in ((0, own), (1, {"image_critic"}), (2, own)):
        before = {name: p.detach().clone() for name, p in net.named_parameters()}
        rng.enter_step(1, step)
        scalars = vae.train_step(net, made, batch(seed=step), step)
        assert changed(net, before) == moved
        if step == 1:
            assert scalars["critic_loss"] == pytest.approx(2 * math.log(2), abs=0.2)  # it cannot tell yet
    critic, given, drawn = net.image_critic, batch(), noise(net)
    assert critic is not None
    torch.manual_seed(6)
    terms = net.terms(given, drawn)
    fooled = F.softplus(-critic(2 * terms["made"] - 1)).view(2, -1).mean(0)
    torch.manual_seed(6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(net, "terms", lambda part, noise: terms)
        loss = vae.train_step(net, vae.optimizers(net, TRAIN), given, 0)["loss"]
    assert loss == pytest.approx((terms["loss"] + 3 * fooled).mean().item(), rel=1e-5)
    assert "made" not in net.eval().terms(given, drawn)


def test_the_logged_norm_is_that_of_the_gradient_per_pixel() -> None:
    net = model().train()
    given, drawn = batch(), noise(net)
    mean = net.terms(given, drawn)["loss"].mean()
    gradient = torch.autograd.grad(mean / 64, list(net.parameters()))
    torch.manual_seed(5)
    scalars = vae.train_step(net, vae.optimizers(net, TRAIN), given, 0)
    assert scalars["loss"] == pytest.approx(mean.item(), rel=1e-5)
    assert scalars["grad_norm"] == pytest.approx(math.sqrt(sum(g.square().sum().item() for g in gradient)), rel=1e-4)


def trained(data: ImageData, steps: int, **options: Any) -> Iterator[tuple[vae.Model, float]]:
    net = model(**options)
    made = vae.optimizers(net, replace(TRAIN, steps=steps, lr=5e-3))
    for step in range(steps):
        rng.enter_step(1, step)
        net.train()
        scalars = vae.train_step(net, made, data.batches.at(step), step)
        yield net, float(scalars.get("reconstruction", math.nan))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"net": "mlp", "likelihood": "bernoulli"},
        {"likelihood": "gaussian", "free_bits": 0.1},
        {"likelihood": "bernoulli", "samples": 5, "binarize": "static"},
        {"match": "adversarial", "beta": 5.0},
    ],
)
def test_training_lowers_the_reconstruction_error(digits: ImageData, options: dict[str, Any]) -> None:
    values = [value for _, value in trained(digits, 100, classes=digits.classes, **options)]
    known = np.array([v for v in values if not math.isnan(v)])
    assert known[-10:].mean() < 0.93 * known[:3].mean()


def test_accumulated_parts_give_the_update_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "randn", lambda *shape, device=None: torch.zeros(shape))
    nets = [model(), model()]
    for net, parts in zip(nets, (1, 3), strict=True):
        made = vae.optimizers(net, replace(TRAIN, accumulate=parts))
        scalars = vae.train_step(net, made, batch(), 0)
        assert float(scalars["loss"]) == pytest.approx(
            float(scalars["reconstruction"]) + float(scalars["kl"]), rel=1e-5
        )
    for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
