"""Image GAN: a generator against a critic, DCGAN nets (Radford et al. 2016), losses by name. One step, one network.

d is the critic's logit, x a real and y a generated image. Each loss is a row of LOSSES, with its penalty, its defaults
and its source. A cycle is `critic_steps` updates of the critic, then one of the generator. Sampling uses a running
average of the generator (`ema`).
Shapes: B images, C channels, S pixels a side, Z latent dimensions, K classes, F features.
Run: seqgen train image-gan --data digits --out runs/digits
"""

import copy
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple, TypeAlias

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from seqgen.core.config import Train
from seqgen.core.errors import ConfigError
from seqgen.core.rng import normals
from seqgen.core.update import Optimizer, update
from seqgen.images.data import ImageBatch
from seqgen.nn.conv import (
    ClassNorm,
    Norm,
    default_widths,
    doubling,
    frozen_statistics,
    halving,
    limited,
    share_statistics,
    small_normal,
    smallest_side,
)
from seqgen.nn.latents import decoded_in_tiles

DATA = "images"
DECIDES = "ffd"


def squared_gradient(critic: "Critic", images: Tensor, labels: Tensor | None) -> Tensor:
    """Return |grad d|^2 of each image (B,), float32 and outside autocast, with gradient in the critic's weights."""
    with torch.autocast(images.device.type, enabled=False):
        at = images.float().detach().requires_grad_()
        (slope,) = torch.autograd.grad(critic(at, labels).logit.sum(), at, create_graph=True)
        return slope.square().flatten(1).sum(1)


def r1(critic: "Critic", real: Tensor, fake: Tensor, labels: Tensor | None) -> Tensor:
    """Return |grad d|^2 / 2 at the real images, (B,) (Mescheder et al. 2018)."""
    return 0.5 * squared_gradient(critic, real, labels)


def r1_and_r2(critic: "Critic", real: Tensor, fake: Tensor, labels: Tensor | None) -> Tensor:
    """Return |grad d|^2 / 2 at real and at generated images, added, (B,)."""
    return 0.5 * (squared_gradient(critic, real, labels) + squared_gradient(critic, fake, labels))


def unit_norm(critic: "Critic", real: Tensor, fake: Tensor, labels: Tensor | None) -> Tensor:
    """Return (|grad d| - 1)^2 at a random point between each real and generated image, (B,) (Gulrajani et al. 2017)."""
    share = torch.rand(len(real), 1, 1, 1, device=real.device)
    norm = squared_gradient(critic, share * real + (1 - share) * fake, labels).add(1e-12).sqrt()
    return (norm - 1).square()


class LossDefaults(NamedTuple):
    """What a loss is used with where the settings leave it open."""

    norm: Norm
    """Between the critic's layers."""
    critic_steps: int
    gamma: float
    """Factor of the penalty."""


class Loss(NamedTuple):
    """What critic and generator minimise, each a function of the logits (d(x), d(y)), both (B,), to (B,)."""

    critic: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor, Tensor], Tensor]
    defaults: LossDefaults
    penalty: Callable[["Critic", Tensor, Tensor, Tensor | None], Tensor] | None = r1
    """What gamma multiplies; None: there is no gradient penalty."""
    clamp: float = 0.0
    """Largest absolute value of the critic's weights; 0: no limit."""
    relative: bool = False
    """Whether the generator's loss depends on the real images."""


LOSSES = {
    # Goodfellow et al. 2014, the non-saturating form
    "ns": Loss(lambda x, y: F.softplus(-x) + F.softplus(y), lambda x, y: F.softplus(-y), LossDefaults("batch", 1, 0.0)),
    # Mao et al. 2017
    "lsgan": Loss(
        lambda x, y: 0.5 * (x - 1).square() + 0.5 * y.square(),
        lambda x, y: 0.5 * (y - 1).square(),
        LossDefaults("batch", 1, 0.0),
    ),
    # Arjovsky et al. 2017
    "wgan": Loss(lambda x, y: y - x, lambda x, y: -y, LossDefaults("batch", 5, 0.0), penalty=None, clamp=0.01),
    # Gulrajani et al. 2017
    "wgan-gp": Loss(lambda x, y: y - x, lambda x, y: -y, LossDefaults("layer", 5, 10.0), penalty=unit_norm),
    # Miyato et al. 2018, with spectral norm
    "hinge": Loss(lambda x, y: F.relu(1 - x) + F.relu(1 + y), lambda x, y: -y, LossDefaults("spectral", 5, 0.0)),
    # relativistic, Huang et al. 2024
    "rpgan": Loss(
        lambda x, y: F.softplus(y - x),
        lambda x, y: F.softplus(x - y),
        LossDefaults("none", 1, 1.0),
        penalty=r1_and_r2,
        relative=True,
    ),
}
"""The losses by name: the one place that a new one is added to."""

if TYPE_CHECKING:
    LossName: TypeAlias = str
else:
    LossName = Literal[tuple(LOSSES)]


@dataclass(frozen=True)
class Config:
    """The section `model` of an image GAN."""

    net: Literal["conv", "mlp"] = "conv"
    """conv: each width doubles or halves the image (DCGAN); mlp: three hidden layers each."""
    width: Annotated[int, Field(ge=1)] = 64
    """Channels next to the image (conv); twice as many after each further halving, up to eight times."""
    generator_widths: tuple[int, ...] = ()
    """Channels before each doubling (conv); none: by `width`, from a side of 4 to 7 pixels."""
    critic_widths: tuple[int, ...] = ()
    """Channels after each halving (conv); none: by `width`, down to a side of 4 to 7 pixels."""
    hidden: Annotated[int, Field(ge=1)] = 256
    """Features of each hidden layer (mlp)."""
    latent: Annotated[int, Field(ge=1)] = 64
    """Dimensions of the latent."""
    loss: LossName = "ns"
    """What critic and generator minimise; equations and defaults are in the table LOSSES of images/gan.py. The paper of
    wgan takes train.optimizer=rmsprop train.lr=5e-5."""
    critic_steps: Annotated[int, Field(ge=0)] = 0
    """Updates of the critic for each of the generator; 0: the default of the loss, 1 or 5."""
    gamma: Annotated[float, Field(ge=-1)] = -1.0
    """Factor of the gradient penalty of the loss; 0: no penalty; -1: the default of the loss, 10, 1 or 0."""
    generator_norm: Literal["batch", "layer", "none"] = "batch"
    """Norm between the generator's layers (conv)."""
    critic_norm: Literal["auto", "batch", "layer", "spectral", "none"] = "auto"
    """Norm between the critic's layers; auto: by the loss. Batch norm does not go with a gradient penalty."""
    labels: Literal["none", "concat", "acgan", "projection", "semi"] = "none"
    """Classes: joined to latent and image; auxiliary classifier; projection critic and class norms; K + 1 classes."""
    class_weight: Annotated[float, Field(ge=0)] = 1.0
    """Factor of the class cross-entropy (acgan, semi)."""
    pack: Annotated[int, Field(ge=1, le=8)] = 1
    """Images of one origin that the critic judges together, against collapse (Lin et al. 2018)."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Decay of the generator's running average, min(ema, (1 + t) / (10 + t)) after t updates; 0: no average."""
    channels: Annotated[int, Field(ge=0)] = 0
    """1 grey, 3 colour; filled from the data."""
    size: Annotated[int, Field(ge=0)] = 0
    """Pixels a side; filled from the data."""
    classes: tuple[str, ...] = ()
    """Names of the classes; filled from the data."""
    class_counts: tuple[int, ...] = ()
    """Training images of each class; filled from the data."""
    unlabelled: Annotated[int, Field(ge=0)] = 0
    """Training images without a label; filled from the data."""

    @property
    def loss_defaults(self) -> LossDefaults:
        """Norm, critic steps and gamma with what the loss decides filled in."""
        usual = LOSSES[self.loss].defaults
        return LossDefaults(
            usual.norm if self.critic_norm == "auto" else self.critic_norm,
            self.critic_steps or usual.critic_steps,
            usual.gamma if self.gamma < 0 else self.gamma,
        )

    @property
    def conditional(self) -> bool:
        """Whether the generator is given the class, so that images of a chosen class can be sampled."""
        return self.labels in ("concat", "acgan", "projection")


def _check(config: Config) -> None:
    """Raise ConfigError for options that contradict each other, all at once."""
    faults, loss_defaults = [], config.loss_defaults
    if config.labels != "none" and not config.classes:
        faults.append(f"model.labels = {config.labels} needs images with labels")
    if config.conditional and config.unlabelled:
        faults.append(
            f"model.labels = {config.labels} needs a label on every image, but {config.unlabelled} have none; "
            "use model.labels=semi"
        )
    if config.labels == "semi" and config.loss != "ns":
        faults.append(f"model.labels = semi needs model.loss = ns, got {config.loss}")
    if loss_defaults.gamma and loss_defaults.norm == "batch":
        faults.append(
            "a gradient penalty is taken image by image and batch norm mixes them: set model.critic_norm to "
            "layer, spectral or none, or model.gamma=0"
        )
    if config.gamma > 0 and LOSSES[config.loss].penalty is None:
        faults.append(f"model.loss = {config.loss} has no gradient penalty; use another loss, or leave model.gamma out")
    if config.pack > 1 and config.labels != "none":
        faults.append("model.pack > 1 goes with model.labels = none only")
    if faults:
        raise ConfigError("; ".join(faults))


class Generator(nn.Module):
    """Codes (B, Z), and classes where it is conditional, to images (B, C, S, S) in -1..1."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.joined = len(config.classes) if config.labels in ("concat", "acgan") else 0
        inputs, size, channels = config.latent + self.joined, config.size, config.channels
        if config.net == "conv":
            widths = config.generator_widths or default_widths(size, config.width)[::-1]
            side = smallest_side(size, widths, "model.generator_widths")
            norm: Norm = "class" if config.labels == "projection" else config.generator_norm
            self.pieces = nn.ModuleList(
                [
                    nn.Linear(inputs, widths[0] * side**2),
                    nn.Unflatten(1, (widths[0], side, side)),
                    *doubling(widths, channels, size, nn.ReLU(), norm=norm, classes=len(config.classes)),
                    nn.Tanh(),
                ]
            )
        else:
            hidden = [config.hidden] * 3
            self.pieces = nn.ModuleList(
                [*_dense([inputs, *hidden, channels * size**2], nn.ReLU()), nn.Unflatten(1, (channels, size, size))]
            )
            self.pieces.append(nn.Tanh())

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return images in -1..1 of latents, and of classes where the net has places for them."""
        x = latents
        if self.joined:
            x = torch.cat([latents, F.one_hot(_given(labels), self.joined).to(latents.dtype)], 1)
        for piece in self.pieces:
            x = piece(x, _given(labels)) if isinstance(piece, ClassNorm) else piece(x)
        return x


def _given(labels: Tensor | None) -> Tensor:
    if labels is None:
        raise ValueError("this model is conditional: it needs labels (B,)")
    return labels


def _dense(widths: list[int], activation: nn.Module, norm: Norm = "none") -> list[nn.Module]:
    """Stack linear layers with an activation between them."""
    pieces: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        pieces += [limited(nn.Linear(before, after), norm), activation]
    return pieces[:-1]


class CriticOutput(NamedTuple):
    """The outputs of a critic for B images (packs count as one)."""

    logit: Tensor
    """(B,) float32, above 0 for real."""
    classes: Tensor | None
    """(B, K) float32 class logits, where the critic has such a head."""
    features: Tensor
    """(B, F), the layer before the heads."""


class Critic(nn.Module):
    """Images (B, C, S, S) in -1..1, and their classes where it is conditional, to its output."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.labels, self.pack, self.classes = config.labels, config.pack, len(config.classes)
        channels, size, norm = config.channels * config.pack, config.size, config.loss_defaults.norm
        self.class_maps = None
        if config.labels == "concat":
            self.class_maps = nn.Embedding(self.classes, size**2)
            channels += 1
        if config.net == "conv":
            widths = config.critic_widths or default_widths(size, config.width)
            side = smallest_side(size, widths, "model.critic_widths")
            pieces = [*halving(channels, widths, nn.LeakyReLU(0.2), norm=norm), nn.Flatten()]
            width = widths[-1] * side**2
        else:
            width, leaky = config.hidden, nn.LeakyReLU(0.2)
            layers = _dense([channels * size**2, width, width, width], leaky, norm)
            pieces = [nn.Flatten(), *layers, leaky]
        self.body = nn.Sequential(*pieces)
        outputs = {"semi": self.classes, "acgan": 1 + self.classes}.get(config.labels, 1)
        self.head = limited(nn.Linear(width, outputs), norm)
        self.class_weights = None
        if config.labels == "projection":
            self.class_weights = limited(nn.Embedding(self.classes, width), norm)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> CriticOutput:
        """Return the output for images; with `pack` = m on each m of them that follow one another, (B / m,)."""
        x = images
        if self.pack > 1:
            x = x.reshape(len(x) // self.pack, -1, *x.shape[2:])
        if self.class_maps is not None:
            x = torch.cat([x, self.class_maps(_given(labels)).to(x.dtype).view(len(x), 1, *x.shape[2:])], 1)
        features = self.body(x)
        out = self.head(features).float()
        if self.labels == "semi":
            # K classes and a made-up one of logit 0: real as against made is the log-sum-exp (Salimans et al. 2016)
            return CriticOutput(out.logsumexp(1), out, features)
        logit = out[:, 0]
        if self.class_weights is not None:
            logit = logit + (self.class_weights(_given(labels)) * features).float().sum(1)
        return CriticOutput(logit, out[:, 1:] if self.labels == "acgan" else None, features)


class Model(nn.Module):
    """Generator, its running average, and critic.

    With batch norms and without a penalty weights start as in DCGAN (N(0, 0.02)), otherwise as torch makes them.
    """

    rank_local: tuple[str, ...] = ()
    on_host = ("monitor",)
    encodes = False
    monitor: Tensor
    """The latest of each of MONITORED: half of them belong to the other network's step, and a log line holds all."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        if config.channels < 1 or config.size < 1:
            raise ValueError(f"channels and size must be at least 1, got {config.channels} and {config.size}")
        _check(config)
        self.config = config
        self.generator, self.critic = Generator(config), Critic(config)
        if config.net == "conv" and config.generator_norm == "batch":
            small_normal(self.generator)
        if config.net == "conv" and config.loss_defaults.norm == "batch":
            small_normal(self.critic)
        self.average = copy.deepcopy(self.generator).requires_grad_(False) if config.ema else None
        self.register_buffer("monitor", torch.zeros(len(MONITORED)))

    def decode(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return images (B, C, S, S) in 0..1 of latents (B, Z) by the averaged generator, in tiles of one size."""
        net = self.generator if self.average is None else self.average
        return decoded_in_tiles(lambda z, y: (net(z, y).float() + 1) / 2, latents, labels)

    def sample(self, seeds: Tensor, labels: Tensor | None = None, *, temperature: float = 1.0) -> Tensor:
        """Return images (B, C, S, S) in 0..1 of latents from N(0, temperature^2), one seed (B,) each."""
        return self.decode(normals(seeds, self.config.latent).float() * temperature, labels)

    def critic_output(self, images: Tensor, labels: Tensor | None = None) -> CriticOutput:
        """Return the critic's output for images (B, C, S, S) in 0..1."""
        return self.critic(2 * images - 1, labels if self.config.conditional else None)  # type: ignore[no-any-return]


MONITORED = ("critic_loss", "generator_loss", "penalty", "real", "fake")
"""Logged at every step: both losses, the penalty in the critic's, and the mean logit of real and made images."""


def scaled(pixels: Tensor) -> Tensor:
    """Return bytes as float32 in -1..1."""
    return pixels.float() / 127.5 - 1


def penalty(config: Config, critic: Critic, real: Tensor, fake: Tensor, labels: Tensor | None) -> Tensor:
    """Return the gradient penalty of each image (B,), its factor included; zeros where the loss has none."""
    gamma, rule = config.loss_defaults.gamma, LOSSES[config.loss].penalty
    return gamma * rule(critic, real, fake, labels) if gamma and rule else real.new_zeros(len(real))


def optimizers(model: Model, train: Train) -> dict[str, Optimizer]:
    """Build one optimizer for each of the two networks, alike."""
    return {
        "critic": Optimizer(model.critic.named_parameters(), train),
        "generator": Optimizer(model.generator.named_parameters(), train),
    }


def train_step(
    model: Model, optimizers: dict[str, Optimizer], batch: ImageBatch, step: int
) -> dict[str, float | Tensor]:
    """Make one update: of the critic, or at the last step of a cycle of the generator."""
    rounds = model.config.loss_defaults.critic_steps
    if len(batch.pixels) % model.config.pack:
        raise ConfigError(f"{len(batch.pixels)} images per process do not divide into packs of {model.config.pack}")
    if step % (rounds + 1) < rounds:
        scalars = _critic_step(model, optimizers["critic"], batch, step)
    else:
        scalars = _generator_step(model, optimizers["generator"], batch, step)
        if model.average is not None:
            _follow(model.average, model.generator, model.config.ema, step // (rounds + 1))
    share_statistics(model)
    figures = dict(zip(MONITORED, model.monitor.tolist(), strict=True))
    return {**figures, "wasserstein": figures["real"] - figures["fake"], **scalars}


def _critic_step(model: Model, optimizer: Optimizer, batch: ImageBatch, step: int) -> dict[str, float]:
    config, critic, rule = model.config, model.critic, LOSSES[model.config.loss]
    seen = torch.zeros(3, device=batch.pixels.device)  # sums of penalty, real, fake

    def losses() -> Iterator[tuple[Tensor, int]]:
        for part in batch.micro_batches(optimizer.train.accumulate):
            real, labels = scaled(part.pixels), part.labels if config.conditional else None
            with torch.no_grad():
                fake = model.generator(_noise(model, len(real), real), labels).float()
            on_real, on_fake = critic(real, labels), critic(fake, labels)
            loss = rule.critic(on_real.logit, on_fake.logit).sum() * config.pack
            if on_real.classes is not None:
                loss = loss + config.class_weight * _class_loss(critic, on_real.classes, part)
            extra = penalty(config, critic, real, fake, labels)
            seen.add_(torch.stack([extra.sum(), on_real.logit.sum(), on_fake.logit.sum()]).detach())
            yield loss + extra.sum(), len(real)

    noted = dict(zip(("penalty", "real", "fake"), seen, strict=True))
    scalars = update(optimizer, losses(), step, clamp=rule.clamp, noted=noted)
    seen = torch.tensor([scalars[name] for name in noted]) / len(batch.pixels)
    with torch.no_grad():
        model.monitor[0] = scalars["loss"]
        model.monitor[2] = seen[0]
        model.monitor[3:] = seen[1:] * config.pack
    return {"grad_norm": scalars["grad_norm"], "lr": scalars["lr"]}


def _class_loss(critic: Critic, logits: Tensor, part: ImageBatch) -> Tensor:
    """Sum the cross-entropy of the classes of real images; semi-supervised, of the labelled images drawn beside."""
    if part.labelled is not None:
        few = part.labelled
        return F.cross_entropy(_class_logits(critic, scaled(few.pixels)), few.labels, reduction="sum")
    return F.cross_entropy(logits, part.labels, reduction="sum", ignore_index=-1)


def _class_logits(critic: Critic, images: Tensor) -> Tensor:
    output: CriticOutput = critic(images)
    assert output.classes is not None
    return output.classes


def _generator_step(model: Model, optimizer: Optimizer, batch: ImageBatch, step: int) -> dict[str, float]:
    config, critic, rule = model.config, model.critic, LOSSES[model.config.loss]
    needs_real = rule.relative or config.labels == "semi"

    def losses() -> Iterator[tuple[Tensor, int]]:
        for part in batch.micro_batches(optimizer.train.accumulate):
            labels = part.labels if config.conditional else None
            count = len(part.pixels)
            fake = critic(model.generator(_noise(model, count, part.pixels), labels), labels)
            real = fake
            if needs_real:
                with torch.no_grad():
                    real = critic(scaled(part.pixels), labels)
            if config.labels == "semi":
                # feature matching (Salimans et al. 2016): the critic's logits alone would make a poor classifier
                loss = count * (real.features.float().mean(0) - fake.features.float().mean(0)).square().sum()
            else:
                loss = rule.generator(real.logit, fake.logit).sum() * config.pack
            if config.labels == "acgan" and fake.classes is not None:
                loss = loss + config.class_weight * F.cross_entropy(fake.classes, part.labels, reduction="sum")
            yield loss, count

    with frozen_statistics(critic):
        scalars = update(optimizer, losses(), step)
    with torch.no_grad():
        model.monitor[1] = scalars["loss"]
    return {"grad_norm": scalars["grad_norm"], "lr": scalars["lr"]}


def _noise(model: Model, rows: int, like: Tensor) -> Tensor:
    return torch.randn(rows, model.config.latent, device=like.device)


def _follow(average: nn.Module, generator: nn.Module, limit: float, updates: int) -> None:
    """Move the running average towards the generator, weights and batch-norm statistics alike."""
    decay = min(limit, (1 + updates) / (10 + updates))
    with torch.no_grad():
        for mean, value in zip(average.state_dict().values(), generator.state_dict().values(), strict=True):
            if mean.is_floating_point():
                mean.lerp_(value, 1 - decay)


def validate(model: Model, batch: ImageBatch) -> dict[str, tuple[Tensor | float, Tensor | int]]:
    """Return the critic's mean logit for held-out (`real`) and generated (`fake`) images; its classes' `accuracy`."""
    config, count = model.config, len(batch.pixels)
    labels = batch.labels if config.conditional else None
    whole = count - count % config.pack
    if not whole:
        return {"real": (0.0, 0), "fake": (0.0, 0)}
    images = model.decode(normals(batch.rows, config.latent).float(), labels)
    on_real = model.critic(scaled(batch.pixels[:whole]), labels)
    on_fake = model.critic(2 * images[:whole] - 1, labels)
    sums: dict[str, tuple[Tensor | float, Tensor | int]] = {
        "real": (on_real.logit.double().sum(), len(on_real.logit)),
        "fake": (on_fake.logit.double().sum(), len(on_fake.logit)),
    }
    if on_real.classes is not None:
        sums["accuracy"] = ((on_real.classes.argmax(1) == batch.labels).double().sum(), count)
    return sums
