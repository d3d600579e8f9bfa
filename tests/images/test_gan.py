"""The image GAN: losses by their formulas, penalties in closed form, one network a step, heads and averages."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from seqgen.core import rng
from seqgen.core.config import Train
from seqgen.core.errors import ConfigError
from seqgen.images import gan
from seqgen.images.data import DataConfig, ImageBatch, ImageData, prepare

TRAIN = Train(steps=100, batch=8, lr=2e-3, optimizer="adam", beta1=0.5, schedule="constant", clip=0.0)
SMALL = gan.Config(
    generator_widths=(8, 4), critic_widths=(4, 8), hidden=16, latent=5, channels=1, size=8, classes=("a", "b", "c")
)
LOSSES = list(gan.LOSSES)


def model(**options: Any) -> gan.Model:
    rng.enter_step(7, 0)
    return gan.Model(replace(SMALL, **options))


def batch(rows: int = 8, seed: int = 0) -> ImageBatch:
    made = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (rows, 1, 8, 8), generator=made, dtype=torch.uint8)
    return ImageBatch(pixels, torch.arange(rows) % 3, torch.arange(rows))


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


FORMULAS = {
    "ns": (lambda x, y: softplus(-x) + softplus(y), lambda x, y: softplus(-y)),
    "lsgan": (lambda x, y: (x - 1) ** 2 / 2 + y**2 / 2, lambda x, y: (y - 1) ** 2 / 2),
    "wgan": (lambda x, y: y - x, lambda x, y: -y),
    "wgan-gp": (lambda x, y: y - x, lambda x, y: -y),
    "hinge": (lambda x, y: max(0.0, 1 - x) + max(0.0, 1 + y), lambda x, y: -y),
    "rpgan": (lambda x, y: softplus(-(x - y)), lambda x, y: softplus(-(y - x))),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_their_formulas(name: str) -> None:
    real, fake = [2.0, -0.5, 0.3], [-1.5, 0.7, 2.2]
    pairs = list(zip(real, fake, strict=True))
    critics, makers = FORMULAS[name]
    x, y = torch.tensor(real), torch.tensor(fake)
    np.testing.assert_allclose(gan.LOSSES[name].critic(x, y), [critics(a, b) for a, b in pairs], rtol=1e-5)
    np.testing.assert_allclose(gan.LOSSES[name].generator(x, y), [makers(a, b) for a, b in pairs], rtol=1e-5)


class Linear(nn.Module):
    """A critic whose gradient is known: d(x) = sum of w * x."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights = nn.Parameter(weights)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> gan.CriticOutput:
        logit = (images * self.weights).flatten(1).sum(1)
        return gan.CriticOutput(logit, None, logit[:, None])


def test_penalties_of_a_linear_critic_are_those_of_its_weights() -> None:
    weights = torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(0)) / 4
    critic: Any = Linear(weights)
    norm = weights.norm().item()
    real, fake = (torch.rand(6, 1, 8, 8) for _ in range(2))
    config = replace(SMALL, loss="rpgan", gamma=3.0)
    np.testing.assert_allclose(gan.penalty(config, critic, real, fake, None).detach(), 3 * norm**2, rtol=1e-5)
    config = replace(SMALL, loss="hinge", gamma=3.0)
    np.testing.assert_allclose(gan.penalty(config, critic, real, fake, None).detach(), 1.5 * norm**2, rtol=1e-5)
    config = replace(SMALL, loss="wgan-gp")
    found = gan.penalty(config, critic, real, fake, None)
    np.testing.assert_allclose(found.detach(), 10 * (norm - 1) ** 2, rtol=1e-4)
    (gradient,) = torch.autograd.grad(found.mean(), critic.weights)
    torch.testing.assert_close(gradient, 20 * (norm - 1) * weights / norm, rtol=1e-4, atol=1e-5)
    assert gan.penalty(replace(SMALL, loss="ns"), critic, real, fake, None).eq(0).all()


def test_penalties_are_float32_also_under_autocast() -> None:
    net = model(loss="rpgan")
    x = torch.rand(4, 1, 8, 8)
    plain = gan.squared_gradient(net.critic, x, None)
    with torch.autocast("cpu", torch.bfloat16):
        inside = gan.squared_gradient(net.critic, x, None)
        assert net.critic(x).features.dtype == torch.bfloat16
    assert inside.dtype == torch.float32
    assert torch.equal(plain, inside)


def step(net: gan.Model, made: dict[str, Any], number: int, given: ImageBatch | None = None) -> dict[str, Any]:
    rng.enter_step(1, number)
    net.train()
    return gan.train_step(net, made, given or batch(seed=number), number)


def moved(net: gan.Model, before: dict[str, Tensor]) -> set[str]:
    return {n.partition(".")[0] for n, p in net.named_parameters() if not torch.equal(p, before[n])}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("net_kind", ["conv", "mlp"])
def test_one_step_moves_one_network_and_a_cycle_ends_with_the_generator(name: Any, net_kind: Any) -> None:
    norm = {"mlp": "none"}.get(net_kind, "auto")
    net = model(loss=name, net=net_kind, critic_norm="spectral" if name == "hinge" else norm)
    made = gan.optimizers(net, TRAIN)
    rounds = gan.LOSSES[name].defaults.critic_steps
    for number in range(2 * (rounds + 1)):
        before = {n: p.detach().clone() for n, p in net.named_parameters()}
        scalars = step(net, made, number)
        is_last = number % (rounds + 1) == rounds
        assert moved(net, before) == ({"generator", "average"} if is_last else {"critic"})
        assert set(gan.MONITORED) | {"wasserstein", "grad_norm", "lr"} == set(scalars)
        assert scalars["wasserstein"] == pytest.approx(scalars["real"] - scalars["fake"])


def test_nets_follow_the_width_and_the_size() -> None:
    net = model(size=45, width=4, generator_widths=(), critic_widths=())
    sides = [layer.out_channels for layer in net.critic.body if isinstance(layer, nn.Conv2d)]
    backwards = [layer.in_channels for layer in net.generator.pieces if isinstance(layer, nn.ConvTranspose2d)]
    assert (sides, backwards) == ([4, 8, 16], [16, 8, 4])  # 45 -> 22 -> 11 -> 5
    assert net.sample(torch.arange(2)).shape == (2, 1, 45, 45)


def test_weights_of_wgan_are_clipped() -> None:
    net = model(loss="wgan")
    made = gan.optimizers(net, replace(TRAIN, lr=1.0))
    step(net, made, 0)
    limits = [p.abs().max().item() for p in net.critic.parameters()]
    assert max(limits) == pytest.approx(0.01)


def test_a_generator_step_leaves_the_critics_statistics_alone() -> None:
    net = model()
    made = gan.optimizers(net, TRAIN)
    step(net, made, 0)
    statistics = {n: b.clone() for n, b in net.critic.named_buffers()}
    step(net, made, 1)
    assert statistics
    assert all(torch.equal(b, statistics[n]) for n, b in net.critic.named_buffers())


def test_the_average_follows_with_a_ramp() -> None:
    net = model(ema=0.6)
    assert net.average is not None
    made = gan.optimizers(net, TRAIN)
    expected = {n: p.detach().clone() for n, p in net.generator.state_dict().items() if p.is_floating_point()}
    for number in range(24):
        step(net, made, number)
        if number % 2:
            t = number // 2
            decay = min(0.6, (1 + t) / (10 + t))
            now = net.generator.state_dict()
            expected = {n: decay * mean + (1 - decay) * now[n] for n, mean in expected.items()}
    for name, mean in expected.items():
        torch.testing.assert_close(net.average.state_dict()[name], mean, rtol=1e-4, atol=1e-6)
    assert "running_mean" in " ".join(expected)


def test_without_an_average_the_generator_itself_is_sampled() -> None:
    net = model(ema=0.0).eval()
    assert net.average is None
    latents = torch.randn(3, 5)
    torch.testing.assert_close(net.decode(latents), (net.generator(latents) + 1) / 2)


@pytest.mark.parametrize("labels", ["none", "concat", "acgan", "projection"])
def test_one_code_is_one_image_for_any_batch_size(labels: Any) -> None:
    net = model(labels=labels).eval()
    seeds, numbers = torch.arange(130) * 7919, torch.arange(130) % 3
    with torch.inference_mode():
        whole = net.sample(seeds, numbers)
        assert whole.shape == (130, 1, 8, 8)
        assert whole.min() >= 0
        assert whole.max() <= 1
        for count in (1, 2, 3, 63, 64, 65):
            assert torch.equal(net.sample(seeds[:count], numbers[:count]), whole[:count])


@pytest.mark.parametrize("labels", ["concat", "acgan", "projection"])
def test_a_conditional_generator_needs_and_uses_the_label(labels: Any) -> None:
    net = model(labels=labels)
    made = gan.optimizers(net, TRAIN)
    for number in range(4):
        step(net, made, number)
    net.eval()
    with pytest.raises(ValueError, match=r"^this model is conditional: it needs labels \(B,\)$"):
        net.sample(torch.arange(2))
    one, other = (net.sample(torch.arange(2), torch.full((2,), k)) for k in (0, 1))
    assert not torch.equal(one, other)


def test_a_projection_critic_adds_the_classs_product_with_the_features() -> None:
    net = model(labels="projection", critic_norm="none", loss="rpgan").eval()
    x, labels = torch.rand(6, 1, 8, 8), torch.arange(6) % 3
    output = net.critic(x, labels)
    weights = net.critic.class_weights
    assert weights is not None
    expected = net.critic.head(output.features)[:, 0] + (weights.weight[labels] * output.features).sum(1)
    torch.testing.assert_close(output.logit, expected)


def test_a_critic_of_k_plus_1_classes_is_a_softmax_with_a_made_up_class_of_logit_0() -> None:
    net = model(labels="semi").eval()
    output = net.critic(torch.rand(5, 1, 8, 8))
    assert output.classes is not None
    every = torch.cat([output.classes, torch.zeros(5, 1)], 1).softmax(1)
    torch.testing.assert_close(torch.sigmoid(output.logit), 1 - every[:, 3])


def test_labels_of_the_semi_supervised_loss_are_those_drawn_beside() -> None:
    net = model(labels="semi").eval()
    few = batch(4, seed=9)
    given = replace(batch(), labels=torch.full((8,), -1), labelled=few)
    output = net.critic(gan.scaled(given.pixels))
    loss = gan._class_loss(net.critic, output.classes, given)
    logits = net.critic(gan.scaled(few.pixels)).classes
    torch.testing.assert_close(loss, nn.functional.cross_entropy(logits, few.labels, reduction="sum"))


@pytest.mark.parametrize(
    "options",
    [
        {"labels": "semi"},
        {"labels": "acgan", "loss": "hinge"},
        {"labels": "projection", "loss": "hinge"},
        {"labels": "concat", "loss": "wgan-gp"},
        {"pack": 2},
        {"gamma": 2.0, "critic_norm": "layer"},
        {"generator_norm": "layer", "loss": "rpgan"},
        {"net": "mlp", "critic_norm": "none", "ema": 0.0},
    ],
)
def test_every_kind_trains_and_validates(options: dict[str, Any]) -> None:
    net = model(**options)
    made = gan.optimizers(net, TRAIN)
    for number in range(7):
        scalars = step(net, made, number)
        assert all(math.isfinite(float(value)) for value in scalars.values())
    net.eval()
    with torch.inference_mode():
        sums = gan.validate(net, batch(7))
    assert set(sums) == {"real", "fake"} | ({"accuracy"} if options.get("labels") in ("semi", "acgan") else set())
    assert sums["real"][1] == 7 // net.config.pack


def test_packs_are_scored_together() -> None:
    net = model(pack=2).eval()
    x = torch.rand(6, 1, 8, 8)
    whole = net.critic(x).logit
    assert whole.shape == (3,)
    torch.testing.assert_close(net.critic(x[2:4]).logit, whole[1:2])
    with pytest.raises(ConfigError) as caught:
        step(net, gan.optimizers(net, TRAIN), 0, batch(7))
    assert str(caught.value) == "7 images per process do not divide into packs of 2"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"gamma": 1.0},
            "a gradient penalty is taken image by image and batch norm mixes them: set model.critic_norm to layer, "
            "spectral or none, or model.gamma=0",
        ),
        ({"labels": "acgan", "classes": ()}, "model.labels = acgan needs images with labels"),
        (
            {"labels": "concat", "unlabelled": 3},
            "model.labels = concat needs a label on every image, but 3 have none; use model.labels=semi",
        ),
        ({"labels": "semi", "loss": "hinge"}, "model.labels = semi needs model.loss = ns, got hinge"),
        (
            {"loss": "wgan", "gamma": 1.0, "critic_norm": "none"},
            "model.loss = wgan has no gradient penalty; use another loss, or leave model.gamma out",
        ),
        ({"pack": 2, "labels": "concat"}, "model.pack > 1 goes with model.labels = none only"),
        (
            {"size": 3},
            "model.generator_widths has 2 widths, each of which halves the image, but 3 pixels can be halved 1 times; "
            "give 1 to 1 widths, or model.net=mlp",
        ),
    ],
)
def test_options_that_contradict_each_other(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        model(**options)
    assert str(caught.value) == message


def test_accumulated_parts_give_the_update_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    fixed = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
    nets = [model(loss="rpgan", generator_norm="none"), model(loss="rpgan", generator_norm="none")]
    for net, parts in zip(nets, (1, 2), strict=True):
        drawn = iter(fixed.repeat(2, 1).split(8 // parts))
        monkeypatch.setattr(gan, "_noise", lambda *_, drawn=drawn: next(drawn))
        made = gan.optimizers(net, replace(TRAIN, accumulate=parts))
        for number in range(2):
            step(net, made, number, batch())
    for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_a_few_labels_train_a_classifier() -> None:
    data = prepare(DataConfig(labelled=100), batch=32, seed=1, device="cpu")
    net = model(labels="semi", classes=data.classes, generator_widths=(16, 8), critic_widths=(16, 32))
    made = gan.optimizers(net, replace(TRAIN, lr=1e-3))
    for number in range(120):
        step(net, made, number, data.batches.at(number))
    assert accuracy(net, data) > 0.6  # one class alone is right in 0.1


def accuracy(net: gan.Model, data: ImageData) -> float:
    net.eval()
    with torch.inference_mode():
        found = [gan.validate(net, part)["accuracy"] for part in data.validation()]
    return sum(float(a) for a, _ in found) / sum(int(b) for _, b in found)
