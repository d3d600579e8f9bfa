"""Image VAE: a Gaussian latent per image, decoded into pixel probabilities (Kingma and Welling 2014).

loss = mean over images of [ -log p(x|z) summed over pixels + beta * KL(q(z|x) || N(0, 1)) summed over dimensions ],
in nats. Pixels: `bernoulli` draws black and white images from the grey values; `grey` is the same cross-entropy on
grey values, which is a loss but no likelihood; `gaussian` adds uniform noise of one grey level and is a density.
With `samples` = K > 1 the loss is the importance-weighted bound (Burda et al. 2016); with `match` = adversarial the KL
is replaced by a critic that distinguishes latents from N(0, 1) (Makhzani et al. 2015), trained at every second step.
With `adversarial_weight` a critic of images stands beside the reconstruction, trained so too (Larsen et al. 2016,
without its distance of features).
Shapes: B images, C channels, S pixels a side, Z latent dimensions, K samples.
Run: seqgen train image-vae --data digits --out runs/digits
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from seqgen.core.config import Train
from seqgen.core.errors import ConfigError
from seqgen.core.rng import normals
from seqgen.core.update import Optimizer, update
from seqgen.images.data import ImageBatch
from seqgen.nn.conv import default_widths, doubling, halving, smallest_side
from seqgen.nn.latents import decoded_in_tiles, fixed_uniforms

DATA = "images"
DECIDES = "loss"

_LEVELS = 256
_SMALLEST_LOG_VARIANCE = -12.0  # latents sharper than e^-6 gain nothing and overflow the importance weights


@dataclass(frozen=True)
class Config:
    """The section `model` of an image VAE."""

    net: Literal["conv", "mlp"] = "conv"
    """conv: each of `widths` halves the image; mlp: two hidden layers in encoder and decoder, the classic one."""
    width: Annotated[int, Field(ge=1)] = 32
    """Channels next to the image (conv); twice as many after each further halving, up to eight times."""
    widths: tuple[int, ...] = ()
    """Channels after each halving (conv); none: by `width`, down to a side of 4 to 7 pixels."""
    hidden: Annotated[int, Field(ge=1)] = 256
    """Features of the fully connected layers."""
    latent: Annotated[int, Field(ge=1)] = 16
    """Dimensions of the latent."""
    likelihood: Literal["grey", "bernoulli", "gaussian"] = "grey"
    """What a pixel is: a grey value under cross-entropy (no likelihood), black or white, or a noisy grey value."""
    binarize: Literal["dynamic", "static", "threshold"] = "dynamic"
    """Black and white (bernoulli): drawn from the grey value at every step, drawn once, or white from 128 on."""
    sd: Annotated[float, Field(ge=0)] = 0.0
    """Standard deviation of a pixel (gaussian) in widths of the grey scale; 0: learnt, one number for all pixels."""
    beta: Annotated[float, Field(ge=0)] = 1.0
    """Factor of the KL per image, or of the latent critic's loss (match = adversarial)."""
    free_bits: Annotated[float, Field(ge=0)] = 0.0
    """Nats of each latent dimension's KL, averaged over the batch, that cost nothing (Kingma et al. 2016)."""
    samples: Annotated[int, Field(ge=1)] = 1
    """Codes per image in the importance-weighted bound; 1: the plain bound with the KL in closed form."""
    match: Literal["kl", "adversarial"] = "kl"
    """What draws the latents towards N(0, 1)."""
    adversarial_weight: Annotated[float, Field(ge=0)] = 0.0
    """Factor, in nats per image, of what a critic of images finds wrong with reconstructions and samples; 0: none."""
    conditional: bool = False
    """Encoder and decoder are given the class, and images of a chosen class can be sampled."""
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


def _check(config: Config) -> None:
    """Raise ConfigError for options that contradict each other, all at once."""
    faults = []
    if config.conditional and not config.classes:
        faults.append("model.conditional needs images with labels")
    elif config.conditional and config.unlabelled:
        faults.append(f"model.conditional needs a label on every image, but {config.unlabelled} have none")
    if config.samples > 1 and (config.match == "adversarial" or config.beta != 1 or config.free_bits):
        faults.append("model.samples > 1 is a bound on the likelihood: use beta = 1, free_bits = 0 and match = kl")
    if config.match == "adversarial" and config.free_bits:
        faults.append("model.free_bits needs match = kl")
    if config.adversarial_weight:
        if config.likelihood == "bernoulli":
            faults.append("model.adversarial_weight needs grey values: a critic would tell black and white by itself")
        if config.samples > 1 or config.match == "adversarial":
            faults.append("model.adversarial_weight needs samples = 1 and match = kl")
    if faults:
        raise ConfigError("; ".join(faults))


class Model(nn.Module):
    """Encoder, decoder and, for the adversarial autoencoder, the critic of latents. Weights begin as torch's."""

    rank_local: tuple[str, ...] = ()
    encodes = True

    def __init__(self, config: Config) -> None:
        super().__init__()
        if config.channels < 1 or config.size < 1:
            raise ValueError(f"channels and size must be at least 1, got {config.channels} and {config.size}")
        _check(config)
        self.config = config
        classes = len(config.classes) if config.conditional else 0
        self.pixels = config.channels * config.size**2
        hidden, latent = config.hidden, config.latent
        if config.net == "conv":
            widths = config.widths or default_widths(config.size, config.width)
            side = smallest_side(config.size, widths, "model.widths")
            maps = widths[-1] * side**2
            self.body = nn.Sequential(*halving(config.channels, widths, nn.SiLU()), nn.Flatten())
            # SiLU: with ReLU and no norm units die, and one epoch of MNIST ends 20 nats higher
            self.to_latent = nn.Sequential(nn.Linear(maps + classes, hidden), nn.SiLU(), nn.Linear(hidden, 2 * latent))
            self.decoder = nn.Sequential(
                nn.Linear(latent + classes, hidden),
                nn.SiLU(),
                nn.Linear(hidden, maps),
                nn.Unflatten(1, (widths[-1], side, side)),
                *doubling(widths[::-1], config.channels, config.size, nn.SiLU()),
            )
        else:
            self.body = nn.Sequential(nn.Flatten())
            self.to_latent = _two_layers(self.pixels + classes, hidden, 2 * latent, nn.Tanh())
            image = nn.Unflatten(1, (config.channels, config.size, config.size))
            self.decoder = nn.Sequential(*_two_layers(latent + classes, hidden, self.pixels, nn.Tanh()), image)
        self.log_sd = nn.Parameter(torch.tensor(-2.0)) if config.likelihood == "gaussian" and not config.sd else None
        self.critic = _two_layers(latent, hidden, 1, nn.LeakyReLU(0.2)) if config.match == "adversarial" else None
        self.image_critic = None
        if config.adversarial_weight and config.net == "conv":
            layers = halving(config.channels, widths, nn.LeakyReLU(0.2))
            self.image_critic = nn.Sequential(*layers, nn.Flatten(), nn.Linear(maps, 1))
        elif config.adversarial_weight:
            layers = [nn.Flatten(), *_two_layers(self.pixels, hidden, 1, nn.LeakyReLU(0.2))]
            self.image_critic = nn.Sequential(*layers)

    # Images to latents and back

    def encode(self, images: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance of the latents, each (B, Z) float32, of images (B, C, S, S) in 0..1."""
        features = self._with_class(self.body(2 * images - 1), labels)
        mean, log_variance = self.to_latent(features).float().chunk(2, 1)
        return mean, log_variance.clamp_min(_SMALLEST_LOG_VARIANCE)

    def logits(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the decoded images (B, C, S, S) before the sigmoid, with gradient."""
        return self.decoder(self._with_class(latents, labels)).float()  # type: ignore[no-any-return]

    def decode(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the expected images (B, C, S, S) in 0..1 of latents (B, Z), computed in tiles of one size."""
        return decoded_in_tiles(lambda z, y: torch.sigmoid(self.logits(z, y)), latents, labels)

    def sample(self, seeds: Tensor, labels: Tensor | None = None, *, temperature: float = 1.0) -> Tensor:
        """Return images (B, C, S, S) in 0..1 of latents from N(0, temperature^2), one seed (B,) each."""
        latents = normals(seeds, self.config.latent).float() * temperature
        return self.decode(latents, labels)

    def _with_class(self, features: Tensor, labels: Tensor | None) -> Tensor:
        if not self.config.conditional:
            return features
        if labels is None:
            raise ValueError("this model is conditional: it needs labels (B,)")
        return torch.cat([features, F.one_hot(labels, len(self.config.classes)).to(features.dtype)], 1)

    # What the bytes are taken for

    def observed(self, batch: ImageBatch) -> Tensor:
        """Return the images of a batch as the likelihood sees them, (B, C, S, S) float32 in 0..1.

        Noise and coins come from torch's generator in training; in evaluation, and for `static`, they are the row's.
        """
        config, grey = self.config, batch.pixels.float() / (_LEVELS - 1)
        if config.likelihood == "grey":
            return grey
        if config.likelihood == "bernoulli" and config.binarize == "threshold":
            return (grey > 0.5).float()
        if self.training and not (config.likelihood == "bernoulli" and config.binarize == "static"):
            uniform = torch.rand_like(grey)
        else:
            uniform = fixed_uniforms(batch.rows, self.pixels).float().view_as(grey)
        if config.likelihood == "gaussian":
            return (batch.pixels + uniform) / _LEVELS
        return (uniform < grey).float()

    def log_likelihood(self, observed: Tensor, logits: Tensor) -> Tensor:
        """Return log p(x|z) in nats, summed over the pixels, (B,); for `grey` the negative cross-entropy.

        For `gaussian` it is that of the 256 levels: the density of the grey scale times the width of a level.
        """
        if self.config.likelihood != "gaussian":
            return -F.binary_cross_entropy_with_logits(logits, observed, reduction="none").flatten(1).sum(1)
        log_sd = logits.new_tensor(math.log(self.config.sd)) if self.log_sd is None else self.log_sd
        distance = (observed - torch.sigmoid(logits)) / log_sd.exp()
        log_density = -0.5 * (distance.square() + math.log(2 * math.pi)) - log_sd
        return (log_density - math.log(_LEVELS)).flatten(1).sum(1)

    # Training and scoring

    def terms(self, batch: ImageBatch, noise: Tensor) -> dict[str, Tensor]:
        """Return, in nats per image (B,), `reconstruction` = -log p(x|z), `kl` and `loss`, by normals (K, B, Z)."""
        config = self.config
        x = self.observed(batch)
        labels = batch.labels if config.conditional else None
        mean, log_variance = self.encode(x, labels)
        latents = mean + (0.5 * log_variance).exp() * noise
        kl_bz = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)
        if config.samples > 1:
            log_weights, log_p = self.log_weights(x, latents, mean, log_variance, labels)
            loss = math.log(len(latents)) - log_weights.logsumexp(0)
            return {"reconstruction": -log_p[0], "kl": kl_bz.sum(1), "loss": loss, "latents": latents[0]}
        logits = self.logits(latents[0], labels)
        reconstruction = -self.log_likelihood(x, logits)
        if config.match == "adversarial":
            loss = reconstruction
        else:
            # free bits: a dimension whose mean KL is below them costs that much, without gradient
            free = (kl_bz.mean(0) < config.free_bits).float()
            loss = reconstruction + config.beta * (kl_bz * (1 - free) + config.free_bits * free).sum(1)
        found = {"reconstruction": reconstruction, "kl": kl_bz.sum(1), "loss": loss, "latents": latents[0]}
        if self.image_critic is not None and self.training:
            found |= {"observed": x, "made": self._made(logits, labels)}
        return found

    def _made(self, logits: Tensor, labels: Tensor | None) -> Tensor:
        """Return reconstructions and as many images of random latents, (2 B, C, S, S) in 0..1, with gradient."""
        drawn = torch.randn(len(logits), self.config.latent, device=logits.device)
        return torch.sigmoid(torch.cat([logits, self.logits(drawn, labels)]))

    def log_weights(
        self, observed: Tensor, latents: Tensor, mean: Tensor, log_variance: Tensor, labels: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return log p(x|z) p(z) / q(z|x) of latents (K, B, Z), and log p(x|z) alone, each (K, B)."""
        samples, rows = latents.shape[:2]
        repeated = None if labels is None else labels.repeat(samples)
        logits = self.logits(latents.flatten(0, 1), repeated)
        log_p = self.log_likelihood(observed.repeat(samples, 1, 1, 1), logits).view(samples, rows)
        distance = (latents - mean).square() / log_variance.exp()
        return log_p + 0.5 * (distance + log_variance - latents.square()).sum(2), log_p

    def nll(self, batch: ImageBatch, samples: int, *, block: int = 50) -> Tensor:
        """Return -log p(x) in nats by importance sampling from the encoder (Burda et al. 2016, eq. 8), (B,) float64.

        An upper bound in expectation, tighter with more samples. The noise belongs to the row. ValueError for `grey`.
        """
        if self.config.likelihood == "grey":
            raise ValueError(
                "model.likelihood = grey is a cross-entropy on grey values and no likelihood, so there is no NLL; "
                "train with bernoulli or gaussian"
            )
        with torch.no_grad():
            x, labels = self.observed(batch), batch.labels if self.config.conditional else None
            mean, log_variance = self.encode(x, labels)
            found = []
            for first in range(0, samples, block):
                count = min(block, samples - first)
                noise = _row_noise(batch, self.config.latent, first, count)
                latents = mean + (0.5 * log_variance).exp() * noise
                found.append(self.log_weights(x, latents, mean, log_variance, labels)[0].double())
            return math.log(samples) - torch.cat(found).logsumexp(0)


def _two_layers(inputs: int, hidden: int, outputs: int, activation: nn.Module) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, hidden),
        activation,
        nn.Linear(hidden, hidden),
        activation,
        nn.Linear(hidden, outputs),
    )


def _row_noise(batch: ImageBatch, latent: int, first: int, count: int) -> Tensor:
    """Draw standard normals (count, B, Z) number `first` and on of every row, the same whatever the batch."""
    rows = [normals(batch.rows, latent, stream=1 + first + k).float() for k in range(count)]
    return torch.stack(rows)


def optimizers(model: Model, train: Train) -> dict[str, Optimizer]:
    """Build one optimizer over encoder and decoder; a critic, of latents or of images, has its own."""
    critics = ("critic.", "image_critic.")
    made = {"model": Optimizer([(n, p) for n, p in model.named_parameters() if not n.startswith(critics)], train)}
    if model.critic is not None or model.image_critic is not None:
        made["critic"] = Optimizer([(n, p) for n, p in model.named_parameters() if n.startswith(critics)], train)
    return made


def train_step(
    model: Model, optimizers: dict[str, Optimizer], batch: ImageBatch, step: int
) -> dict[str, float | Tensor]:
    """Make one update of encoder and decoder; where there is a critic, at every second step one of that.

    The gradient, whose norm is logged and clipped, is that of the loss per pixel: its norm is of one order for all
    sizes, where that of the loss per image grows with the pixels.
    """
    if model.critic is not None and step % 2:
        return _critic_step(model, model.critic, optimizers["critic"], batch, step)
    if model.image_critic is not None and step % 2:
        return _image_critic_step(model, model.image_critic, optimizers["critic"], batch, step)
    optimizer = optimizers["model"]
    sums: dict[str, Tensor] = {}

    def losses() -> Iterator[tuple[Tensor, int]]:
        for part in batch.micro_batches(optimizer.train.accumulate):
            noise = torch.randn(model.config.samples, len(part.pixels), model.config.latent, device=part.pixels.device)
            terms = model.terms(part, noise)
            for name in ("reconstruction", "kl"):
                sums[name] = sums.get(name, torch.zeros(())) + terms[name].detach().sum()
            loss = terms["loss"].sum()
            if model.critic is not None:
                loss = loss + model.config.beta * F.softplus(-model.critic(terms["latents"]).float()).sum()
            if model.image_critic is not None:
                judged = F.softplus(-model.image_critic(2 * terms["made"] - 1).float())
                loss = loss + model.config.adversarial_weight * judged.sum() / 2  # two images for each of the batch
            yield loss / model.pixels, len(part.pixels)

    scalars = update(optimizer, losses(), step)
    scalars["loss"] *= model.pixels
    return {**scalars, **{name: total / len(batch.pixels) for name, total in sums.items()}}


def _critic_step(
    model: Model, critic: nn.Module, optimizer: Optimizer, batch: ImageBatch, step: int
) -> dict[str, float | Tensor]:
    noise = torch.randn(1, len(batch.pixels), model.config.latent, device=batch.pixels.device)
    with torch.no_grad():
        latents = model.terms(batch, noise)["latents"]
    real, fake = critic(torch.randn_like(latents)).float(), critic(latents).float()
    loss = (F.softplus(-real) + F.softplus(fake)).sum()
    return {f"critic_{name}": value for name, value in update(optimizer, (loss, len(latents)), step).items()}


def _image_critic_step(
    model: Model, critic: nn.Module, optimizer: Optimizer, batch: ImageBatch, step: int
) -> dict[str, float | Tensor]:
    noise = torch.randn(1, len(batch.pixels), model.config.latent, device=batch.pixels.device)
    with torch.no_grad():
        terms = model.terms(batch, noise)
    real, fake = critic(2 * terms["observed"] - 1).float(), critic(2 * terms["made"] - 1).float()
    loss = F.softplus(-real).sum() + F.softplus(fake).sum() / 2
    return {f"critic_{name}": value for name, value in update(optimizer, (loss, len(real)), step).items()}


def validate(model: Model, batch: ImageBatch) -> dict[str, tuple[Tensor | float, Tensor | int]]:
    """Return `loss`, `reconstruction`, `kl` in nats per image; for a likelihood `nll_bound` and `bits_per_dim` too."""
    config, count = model.config, len(batch.pixels)
    terms = model.terms(batch, _row_noise(batch, config.latent, 0, config.samples))
    sums: dict[str, tuple[Tensor | float, Tensor | int]] = {
        name: (terms[name].double().sum(), count) for name in ("loss", "reconstruction", "kl")
    }
    if config.likelihood != "grey" and config.match == "kl":
        tight = terms["loss"] if config.samples > 1 else terms["reconstruction"] + terms["kl"]
        bound = tight.double().sum()
        sums["nll_bound"] = (bound, count)
        sums["bits_per_dim"] = (bound / math.log(2), count * model.pixels)
    return sums
