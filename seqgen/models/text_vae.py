"""Text VAE: a Gaussian latent z for every text, from which a language model decodes it (Bowman et al. 2016).

loss = -log p(x|z) + w KL(q(z|x) || N(0, 1)), both summed over a text, nats; w = `beta` times a factor of the step
or of a buffer. A batch's sum is divided by its counted tokens, as a language model's is, so `beta` means the same for
texts of any length. An encoder reads the whole text; the decoder is `lm`, given z in its first state and at every
token. Without further measures the decoder learns to ignore z (the KL falls to 0); those measures are under `Config`.
Shapes: B texts, T positions, P counted positions, Z latent dimensions, K latents of a text, E embedding, H hidden.
Run: seqgen train text-vae --data captions.txt --out runs/captions
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from seqgen.core import dist
from seqgen.core.batch import SequenceBatch
from seqgen.core.config import Train
from seqgen.core.errors import ConfigError
from seqgen.core.options import Sampling
from seqgen.core.rng import hash64, normals
from seqgen.core.update import Optimizer, update
from seqgen.models import lm
from seqgen.nn.decode import TILE, Decoder, Recurrent, Samples
from seqgen.nn.losses import linear_cross_entropy, linear_log_probs
from seqgen.nn.rnn import Rnn, State, locked_dropout
from seqgen.nn.sampler import Precision

DATA = "text"

_SMALLEST_LOG_VARIANCE = -12.0  # latents sharper than e^-6 gain nothing and overflow the importance weights
_TILE = 64  # rows of one product from latent to state: one size, so that text k has the same bits in any batch
_ROWS = 1024  # copies of texts that are written out at once to weigh latents
_LATENTS = 20  # latents per text in `log_probs`
_SURVEYED = 2000  # held-out texts whose latents are compared all with all
_LATENT = hash64("code")  # tokens draw from a text's seed, its latent from another
_CHECKED_EVERY = 15  # aggressive encoder steps between two looks at their loss (He et al. 2019)
_PROPORTIONAL, _INTEGRAL = 0.01, 0.005  # gains of the controller, the second for errors in parts of the target


@dataclass(frozen=True)
class Config:
    """The section `model` of a text VAE."""

    cell: Literal["lstm", "gru"] = "lstm"
    """Kind of layer of encoder and decoder."""
    layers: Annotated[int, Field(ge=1)] = 1
    """Number of recurrent layers of the decoder; the encoder has one."""
    embedding: Annotated[int, Field(ge=1)] = 256
    """Features of a token's embedding; encoder and decoder have their own."""
    hidden: Annotated[int, Field(ge=1)] = 512
    """Features of each layer's state, in the encoder too."""
    last_hidden: Annotated[int, Field(ge=0)] = 0
    """Features of the decoder's last layer; 0: as `hidden`."""
    tied: bool = True
    """Whether the decoder's output layer shares its embedding's weights."""
    bidirectional: bool = False
    """The encoder reads the text backwards too."""
    pool: Literal["last", "mean", "max"] = "max"
    """What the encoder makes of its states at all positions: the last one, their mean, or the largest of each feature,
    with which latents are learnt sooner and kept (Long et al. 2019)."""
    latent: Annotated[int, Field(ge=1)] = 32
    """Dimensions of the latent."""
    input_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Dropout of the embedded tokens that encoder and decoder read, one mask for all positions of a row."""
    hidden_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Dropout between the decoder's layers, one mask for all positions of a row."""
    output_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Dropout after the decoder's last layer, one mask for all positions of a row."""
    word_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the tokens that the decoder reads as zeros, so that it needs the latent more (training only)."""

    match: Literal["kl", "adversarial"] = "kl"
    """What draws the latents towards N(0, 1): the KL, or a critic of both (Makhzani et al. 2015)."""
    beta: Annotated[float, Field(ge=0)] = 1.0
    """Factor of a text's KL, or of the critic's loss (match = adversarial); the most a controller may use."""
    anneal: Literal["none", "linear", "cyclical"] = "none"
    """The factor rises with the step: once, or in each of several cycles, half of it a rise (Fu et al. 2019)."""
    anneal_steps: Annotated[int, Field(ge=1)] = 1000
    """Steps of the whole rise, or of all cycles together; after them the factor is `beta`."""
    anneal_from: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of `beta` at the start of a rise."""
    cycles: Annotated[int, Field(ge=1)] = 4
    """How many cycles (anneal = cyclical)."""
    free_bits: Annotated[float, Field(ge=0)] = 0.0
    """Nats of each latent dimension's KL, averaged over a batch, that cost nothing (Kingma et al. 2016)."""
    aggressive: bool = False
    """Steps of the encoder alone, until its loss no longer falls, before each step of the decoder; for good off when a
    validation finds less mutual information than the one before (He et al. 2019)."""
    aggressive_steps: Annotated[int, Field(ge=1)] = 100
    """Steps of the encoder in a row at most."""
    bn_gamma: Annotated[float, Field(ge=0)] = 0.0
    """BN-VAE: standard deviation of posterior means over texts, so that the mean KL is at least latent * bn_gamma
    squared / 2 (Zhu et al. 2020); 0: off."""
    kl_target: Annotated[float, Field(ge=0)] = 0.0
    """Nats of KL per text that a controller of the factor holds (Shao et al. 2020); 0: off."""

    critic_hidden: Annotated[int, Field(ge=1)] = 128
    """Features of each of the critic's two layers (match = adversarial)."""
    critic_steps: Annotated[int, Field(ge=1)] = 1
    """Steps of the critic after each step of encoder and decoder (match = adversarial)."""

    vocab_size: Annotated[int, Field(ge=0)] = 0
    """Number of tokens; filled from the tokenizer."""
    stop: Annotated[int, Field(ge=-1)] = -1
    """The token that ends a text, -1: none; filled from the tokenizer."""
    suppress_tokens: tuple[int, ...] = ()
    """Tokens that sampling must not emit; filled from the tokenizer."""
    max_length: Annotated[int, Field(ge=0)] = 0
    """Tokens of a sampled text at most; filled from the data."""

    def language_model(self) -> lm.Config:
        """Return the decoder's settings as a language model; input dropout is applied before the latent is added."""
        return lm.Config(
            cell=self.cell,
            layers=self.layers,
            embedding=self.embedding,
            hidden=self.hidden,
            last_hidden=self.last_hidden,
            tied=self.tied,
            input_dropout=0.0,
            hidden_dropout=self.hidden_dropout,
            output_dropout=self.output_dropout,
            vocab_size=self.vocab_size,
            stop=self.stop,
            suppress_tokens=self.suppress_tokens,
            max_length=self.max_length,
        )


def _check(config: Config) -> None:
    """Raise ConfigError for options that contradict each other, all at once."""
    faults = []
    if config.match == "adversarial":
        against = {"free_bits": config.free_bits, "kl_target": config.kl_target, "aggressive": config.aggressive}
        faults += [f"model.{name} needs match = kl; turn one of them off" for name, given in against.items() if given]
    if config.kl_target and (config.anneal != "none" or config.free_bits):
        faults.append("model.kl_target sets the factor itself: set it to 0, or anneal to none and free_bits to 0")
    if faults:
        raise ConfigError("; ".join(faults))


class Model(nn.Module):
    """Encoder, decoder, and for the adversarial autoencoder the critic of latents.

    The decoder starts as a language model does, all else as torch makes it.
    """

    rank_local = ("lm.stream_state", "control")
    on_host = ("control", "encoder_first", "inner")
    encodes = True
    control: Tensor | None
    """The controller's sum of errors in parts of the target, and the last error in nats; each process has its own."""
    encoder_first: Tensor
    """Whether aggressive steps of the encoder are still on."""
    inner: Tensor
    """Aggressive: [encoder steps in this row of them (-1: the decoder is next), sum of losses and steps since the last
    look, mean loss at that look]."""
    information: Tensor
    """Mutual information at the last validation, nats."""
    lowest: Tensor
    """Adversarial: the lowest held-out reconstruction loss of any validation, nats per text."""
    verdict: Tensor
    """Which of `VERDICTS` the last validation came to; -1: none yet."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        _check(config)
        self.config = config
        self.lm = lm.Model(config.language_model())
        readers = 2 if config.bidirectional else 1
        self.encoder_embedding = nn.Embedding(config.vocab_size, config.embedding)
        nn.init.uniform_(self.encoder_embedding.weight, -0.1, 0.1)
        self.encoder = nn.ModuleList(Rnn(config.cell, config.embedding, [config.hidden]) for _ in range(readers))
        self.to_posterior = nn.Linear(readers * config.hidden, 2 * config.latent)
        # eps: the usual 1e-5 is a way around it: means whose differences shrink below it are not spread any more
        self.norm = nn.BatchNorm1d(config.latent, affine=False, eps=1e-10) if config.bn_gamma else None
        self.shift = nn.Parameter(torch.zeros(config.latent)) if config.bn_gamma else None
        self.to_state = nn.Linear(config.latent, sum(self.lm.rnn.widths))
        self.to_input = nn.Linear(config.latent, config.embedding, bias=False)
        # the spread of an embedded token: a latent that drowns the tokens leaves a bad language model for long
        nn.init.uniform_(self.to_input.weight, -0.1 / math.sqrt(config.latent), 0.1 / math.sqrt(config.latent))
        self.critic = _critic(config) if config.match == "adversarial" else None
        self.register_buffer("control", torch.zeros(2) if config.kl_target else None)
        self.register_buffer("encoder_first", torch.tensor(config.aggressive))
        self.register_buffer("inner", torch.tensor([0.0, 0.0, 0.0, math.inf]))
        self.register_buffer("information", torch.tensor(-math.inf))
        self.register_buffer("lowest", torch.tensor(math.inf))
        self.register_buffer("verdict", torch.tensor(-1))

    # From texts to latents

    def encode(self, batch: SequenceBatch) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance of every text's latent, each (B, Z) float32; conditions are read with texts."""
        x = self.encoder_embedding(batch.inputs)
        if self.training:
            x = locked_dropout(x, self.config.input_dropout)
        last = (batch.lengths - 1)[:, None]
        places = torch.arange(x.shape[1], device=x.device)
        real = (places <= last)[..., None]
        ends = []
        for reader, backwards in zip(self.encoder, (False, True), strict=False):
            if backwards:  # each row turned round within its own length, so that padding stays behind
                # by indices, not gather, whose gradient a GPU sums in no fixed order
                turned = torch.where(real[..., 0], last - places, places)
                x = x[torch.arange(len(x), device=x.device)[:, None], turned]
            out, _ = reader(x)
            if self.config.pool == "max":
                ends.append(out.masked_fill(~real, -math.inf).amax(1))
            elif self.config.pool == "mean":
                ends.append((out * real).sum(1) / batch.lengths[:, None])
            else:
                ends.append(out[torch.arange(len(out), device=out.device), last[:, 0]])
        mean, log_variance = self.to_posterior(torch.cat(ends, 1)).float().chunk(2, 1)
        if self.norm is not None and self.shift is not None:
            mean = self.config.bn_gamma * self.norm(mean) + self.shift
        return mean, log_variance.clamp_min(_SMALLEST_LOG_VARIANCE)

    # From latents to texts: whole batches

    def state(self, latents: Tensor) -> State:
        """Return the decoder's state before a text, from its latent (B, Z)."""
        parts = self.to_state(latents).split_with_sizes(list(self.lm.rnn.widths), 1)
        if self.config.cell == "gru":
            return tuple(part.tanh() for part in parts)
        return tuple(end for part in parts for end in (part.tanh(), part))

    def written(self, batch: SequenceBatch, latents: Tensor) -> Tensor:
        """Return what the output layer multiplies at every counted position, (P, features), from latents (B, Z)."""
        config = self.config
        x = self.lm.embedding(batch.inputs)
        if self.training:
            x = locked_dropout(x, config.input_dropout)
            if config.word_dropout:
                x = x * (torch.rand(x.shape[:2], device=x.device) >= config.word_dropout)[..., None]
        out, _ = self.lm.rnn(x + self.to_input(latents)[:, None], self.state(latents))
        if self.training:
            out = locked_dropout(out, config.output_dropout)
        return self.lm.features(out.flatten(0, 1)[batch.positions])

    def token_log_probs(self, batch: SequenceBatch, latents: Tensor) -> Tensor:
        """Return log p(x_t | x_<t, z) of every counted target, 0 elsewhere, (B, T) float64, without gradient."""
        with torch.no_grad():
            targets = batch.targets.flatten()
            found = torch.zeros(targets.shape, dtype=torch.float64, device=targets.device)
            features = self.written(batch, latents)
            found[batch.positions] = linear_log_probs(features, *self.lm.head(), targets[batch.positions])
            return found.view(batch.targets.shape)

    def weighed(self, batch: SequenceBatch, samples: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield `samples` latents of every text from its posterior, in blocks (k, B): log p(z) / q(z|x), and
        `token_log_probs` (k, B, T), float64. The noise belongs to the text, not to its place."""
        with torch.no_grad():
            mean, log_variance = self.encode(batch)
            seeds = content_seeds(batch)
            block = max(1, _ROWS // len(mean))
            for first in range(0, samples, block):
                count = min(block, samples - first)
                noise = torch.stack([normals(seeds, self.config.latent, stream=first + k) for k in range(count)])
                latents = mean + (0.5 * log_variance).exp() * noise.float()
                ratio = 0.5 * (noise.square() + log_variance - latents.double().square()).sum(2)
                found = self.token_log_probs(_repeated(batch, count), latents.flatten(0, 1))
                yield ratio, found.view(count, *batch.targets.shape)

    def nll(self, batch: SequenceBatch, samples: int) -> Tensor:
        """Return -log p(x) in nats by importance sampling from the encoder (Burda et al. 2016, eq. 8), (B,) float64.

        An upper bound in expectation, tighter with more samples. ValueError for samples < 1.
        """
        if samples < 1:
            raise ValueError(f"samples must be at least 1, got {samples}")
        weights = torch.cat([ratio + found.sum(2) for ratio, found in self.weighed(batch, samples)])
        return math.log(samples) - weights.logsumexp(0)

    def log_probs(self, batch: SequenceBatch) -> Tensor:
        """Return the log-probability of every counted target in nats, (P,) float64, by 20 latents of each text.

        They are log p(x_1..x_t) - log p(x_1..x_(t-1)), each by the same latents; their sum is -`nll` of the text.
        The cost of the latent itself is counted at the first token.
        """
        ratios, found = zip(*self.weighed(batch, _LATENTS), strict=True)
        weights = torch.cat(ratios)[..., None] + torch.cat(found).cumsum(2)
        whole = weights.logsumexp(0) - math.log(_LATENTS)
        places = torch.arange(len(batch.inputs), device=whole.device) * batch.inputs.shape[1]
        first = torch.isin(batch.positions, batch.positions[torch.searchsorted(batch.positions, places)])
        after = whole.flatten()[batch.positions]
        before = whole.flatten()[(batch.positions - 1).clamp_min(0)]
        return torch.where(first, after, after - before)

    # Sampling: one token per row

    def begin(self, latents: Tensor) -> State:
        """Return the state before the texts of latents (B, Z): the decoder's, and what is added to every token."""
        with torch.no_grad():
            tiles = torch.split(F.pad(latents.float(), (0, 0, 0, -len(latents) % _TILE)), _TILE)
            parts = zip(*((*self.state(tile), self.to_input(tile)) for tile in tiles), strict=True)
            return tuple(torch.cat(part)[: len(latents)] for part in parts)

    def start(self, rows: int) -> State:
        """Return the state before a prompt at the latent 0, for callers without seeds."""
        return self.begin(self.to_state.weight.new_zeros(rows, self.config.latent))

    def prior(self, seeds: Tensor) -> Tensor:
        """Draw a latent from N(0, 1) for the seed (B,) of each text, (B, Z) float32."""
        return normals(latent_seeds(seeds), self.config.latent).float()

    def stepper(self, *, fast: bool = False) -> Recurrent:
        """Return this model for single steps, with copies of the recurrent weights of now."""
        embedding, step = self.lm.embedding.weight.detach(), self.lm.rnn.stepper()
        projection = self.lm.projection
        projection_t = None if projection is None else projection.weight.detach().t().contiguous()

        def run(ids: Tensor, state: State) -> tuple[Tensor, State]:
            hidden, after = step(embedding[ids] + state[-1], state[:-1])
            return hidden if projection_t is None else hidden @ projection_t, (*after, state[-1])

        return Recurrent(self.start, run, self.head, tile=1 if fast else TILE)

    def head(self) -> tuple[Tensor, Tensor]:
        """Return the output layer: weight (V, H) and bias (V,)."""
        return self.lm.head()

    def decoder(
        self,
        *,
        fast: bool = False,
        precision: Precision = "fp32",
        latents: Callable[[Tensor], Tensor] | None = None,
    ) -> Decoder:
        """Prepare sampling. `latents` gives the latent (B, Z) of each text from its seed (B,); else `prior`."""
        config, source = self.config, latents or self.prior
        return Decoder(
            self.stepper(fast=fast),
            stop=config.stop,
            suppress_tokens=config.suppress_tokens,
            max_length=config.max_length,
            fast=fast,
            precision=precision,
            start=lambda seeds: self.begin(source(seeds)),
        )

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Tensor,
        sampling: Sampling,
        *,
        fast: bool = False,
        **options: Any,
    ) -> Samples:
        """Decode latents of the prior; text k and its latent depend on prompt, seed and options alone."""
        return self.decoder(fast=fast).decode(prompts, seeds, sampling, **options)

    # Training

    def terms(self, batch: SequenceBatch, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return -log p(x|z) summed over the batch, KL (B, Z) of every dimension, and the latents, nats with gradient.

        noise: standard normals (B, Z).
        """
        mean, log_variance = self.encode(batch)
        latents = mean + (0.5 * log_variance).exp() * noise
        targets = batch.targets.flatten()[batch.positions]
        reconstruction = linear_cross_entropy(self.written(batch, latents), *self.head(), targets)
        return reconstruction, gaussian_kl(mean, log_variance), latents


def _critic(config: Config) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(config.latent, config.critic_hidden),
        nn.LeakyReLU(0.2),
        nn.Linear(config.critic_hidden, config.critic_hidden),
        nn.LeakyReLU(0.2),
        nn.Linear(config.critic_hidden, 1),
    )


def gaussian_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return KL(N(mean, variance) || N(0, 1)) of each element, nats."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)


def latent_seeds(seeds: Tensor) -> Tensor:
    """Return seeds for the latents of texts, so that no number is drawn twice for a text."""
    return seeds ^ _LATENT


def content_seeds(batch: SequenceBatch) -> Tensor:
    """Return a seed (B,) int64 for each row from what it holds, the same at any place of any batch."""
    width = batch.inputs.shape[1]
    place = torch.arange(width, device=batch.inputs.device)
    # a polynomial in an odd number modulo 2^64: places count, padding does not
    powers = torch.full_like(place, _LATENT | 1).cumprod(0)
    return torch.where(place < batch.lengths[:, None], (batch.targets + 1) * powers, 0).sum(1)


def _repeated(batch: SequenceBatch, count: int) -> SequenceBatch:
    """Return the batch `count` times, one copy under the other."""
    copies = torch.arange(count, device=batch.inputs.device)[:, None] * batch.inputs.numel()
    return replace(
        batch,
        inputs=batch.inputs.repeat(count, 1),
        targets=batch.targets.repeat(count, 1),
        positions=(batch.positions + copies).flatten(),
        lengths=batch.lengths.repeat(count),
        rows=batch.rows.repeat(count),
    )


def inherit(config: Config, name: str, other: Any) -> tuple[Config, str]:
    """Return what a run that starts from another becomes, and the part of it that takes the other's weights ("": all).

    From a language model: the decoder takes its sizes and its weights.
    """
    if name == "text-vae":
        return config, ""
    if name != "lm":
        raise ConfigError(f"--from a run of {name}: a text-vae starts from a run of lm or text-vae")
    sizes = {size: getattr(other, size) for size in ("cell", "layers", "embedding", "hidden", "last_hidden", "tied")}
    return replace(config, **sizes), "lm"


LINES_ONLY = True

# A preset's target for the KL gives way where another control of it is set.
GIVES_WAY = {"kl_target": ("free_bits", "bn_gamma", "anneal", "match")}


def attach(model: Model, data: Any) -> None:
    """Refuse text that runs on: a latent belongs to a text with a beginning and an end."""
    if data.mode not in ("sentence", "fixed"):
        raise ConfigError(f"a text-vae latents lines, but data.mode is {data.mode}; use data.mode=sentence")


def optimizers(model: Model, train: Train) -> dict[str, Optimizer]:
    """Build one optimizer over encoder and decoder; the adversarial autoencoder's critic has its own."""
    if model.norm is not None and train.batch // train.accumulate < 2 * dist.world():
        raise ConfigError("model.bn_gamma needs two texts at least in each part of a batch; raise train.batch")
    own = [(name, p) for name, p in model.named_parameters() if not name.startswith("critic.")]
    made = {"model": Optimizer(own, train)}
    if model.critic is not None:
        made["critic"] = Optimizer([(n, p) for n, p in model.named_parameters() if n.startswith("critic.")], train)
    return made


def kl_weight(config: Config, step: int) -> float:
    """Return the factor of the KL at a step, from 0 to `beta`, where no controller sets it."""
    if config.anneal == "none" or step >= config.anneal_steps:
        return config.beta
    share = step / config.anneal_steps
    if config.anneal == "cyclical":
        share = min(1.0, 2 * (share * config.cycles % 1))
    return config.beta * (config.anneal_from + (1 - config.anneal_from) * share)


def controlled_weight(control: Tensor, most: float) -> float:
    """Return the KL's factor from the controller's state (Shao et al. 2020, eq. 5): small where the KL is too small."""
    summed, error = float(control[0]), float(control[1])
    return min(most, max(0.0, _proportional(error) - _INTEGRAL * summed))


def _proportional(error: float) -> float:
    return _PROPORTIONAL / (1 + math.exp(min(error, 50.0)))


def control_step(control: Tensor, target: float, kl: float, most: float) -> None:
    """Take a step's KL into the controller's state, whose sum stays where the factor is between 0 and `most`."""
    error = target - kl
    summed, proportional = float(control[0]) + error / target, _proportional(error)
    control[0] = min(proportional / _INTEGRAL, max((proportional - most) / _INTEGRAL, summed))
    control[1] = error


def train_step(
    model: Model, optimizers: dict[str, Optimizer], batch: SequenceBatch, step: int
) -> dict[str, float | Tensor]:
    """Make one update: of encoder and decoder, of one of them in aggressive steps, or of the critic."""
    config = model.config
    if model.critic is not None and step % (1 + config.critic_steps):
        return _critic_step(model, model.critic, optimizers["critic"], batch, step)
    optimizer = optimizers["model"]
    control = model.control
    weight = kl_weight(config, step) if control is None else controlled_weight(control, config.beta)
    rows = len(batch.inputs)
    sums = torch.zeros(2, device=batch.inputs.device)

    def losses() -> Iterator[tuple[Tensor, int]]:
        for _, part in batch.micro_batches(optimizer.train.accumulate):
            noise = torch.randn(len(part.inputs), config.latent, device=part.inputs.device)
            reconstruction, kl_bz, latents = model.terms(part, noise)
            sums.add_(torch.stack([reconstruction.detach(), kl_bz.detach().sum()]))
            if model.critic is not None:
                pull = F.softplus(-model.critic(latents).float()).sum()
            else:
                # free bits: a dimension whose mean KL is below them costs that much, without gradient
                pull = len(kl_bz) * kl_bz.mean(0).clamp_min(config.free_bits).sum()
            yield reconstruction + weight * pull, part.count

    turn = _turn(model)
    noted = dict(zip(("reconstruction", "kl"), sums, strict=True))
    scalars = update(optimizer, losses(), step, weight=batch.weight, only=_PARTS[turn], noted=noted)
    if model.norm is not None:
        _share_statistics(model.norm)
    if turn != "both":
        _note_inner(model, turn, scalars["loss"])
    reconstruction, kl = (torch.tensor([scalars["reconstruction"], scalars["kl"]]) / rows).tolist()
    if control is not None:
        control_step(control, config.kl_target, kl, config.beta)
    return {**scalars, "reconstruction": reconstruction, "kl": kl, "kl_weight": weight}


def _critic_step(
    model: Model, critic: nn.Module, optimizer: Optimizer, batch: SequenceBatch, step: int
) -> dict[str, float | Tensor]:
    """Make one update of the critic: latents of texts against latents of the prior."""
    with torch.no_grad():
        mean, log_variance = model.encode(batch)
        latents = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
    real, fake = critic(torch.randn_like(latents)).float(), critic(latents).float()
    loss = (F.softplus(-real) + F.softplus(fake)).sum()
    return {f"critic_{name}": value for name, value in update(optimizer, (loss, len(latents)), step).items()}


# ------------------------------------------------------------------------------------------ aggressive encoder steps

Turn = Literal["both", "encoder", "decoder"]
_ENCODER = ("encoder", "to_posterior", "shift")
_PARTS: dict[Turn, Callable[[str], bool] | None] = {
    "both": None,
    "encoder": lambda name: name.startswith(_ENCODER),
    "decoder": lambda name: not name.startswith(_ENCODER),
}
"""Whose parameters a turn changes."""


def _turn(model: Model) -> Turn:
    if not model.encoder_first:
        return "both"
    return "decoder" if model.inner[0] < 0 else "encoder"


def _note_inner(model: Model, turn: Turn, loss: float) -> None:
    """Decide after an aggressive step, by the losses of this row of steps, whether the encoder continues."""
    done, total, count, before = model.inner.tolist()
    if turn == "decoder":
        done, total, count, before = 0.0, 0.0, 0.0, math.inf
    else:
        done, total, count = done + 1, total + loss, count + 1
        over = done >= model.config.aggressive_steps
        if count == _CHECKED_EVERY:
            over |= total / count >= before
            total, count, before = 0.0, 0.0, total / count
        if over:
            done = -1.0
    model.inner.copy_(torch.tensor([done, total, count, before]))


def _share_statistics(norm: nn.BatchNorm1d) -> None:
    """Average running statistics over the processes, so that all hold the same."""
    if dist.world() > 1:
        for tensor in (norm.running_mean, norm.running_var):
            if tensor is not None:
                tensor.copy_(dist.sum_(tensor.clone()) / dist.world())


# ------------------------------------------------------------------------------------------------------- validation


def validate(model: Model, batch: SequenceBatch) -> dict[str, tuple[Tensor | float, Tensor | int]]:
    """Return `nll`, an upper bound of it (-ELBO, nats, tokens), and its parts `reconstruction`, `kl` in nats per text.

    `reconstruction_without_latent` is that from latents of the prior: equal if the latent is not used.
    """
    mean, log_variance = model.encode(batch)
    seeds, latent, rows = content_seeds(batch), model.config.latent, len(batch.inputs)
    latents = mean + (0.5 * log_variance).exp() * normals(seeds, latent).float()
    reconstruction = -model.token_log_probs(batch, latents).sum()
    without = -model.token_log_probs(batch, normals(seeds, latent, stream=1).float()).sum()
    kl = gaussian_kl(mean.double(), log_variance.double()).sum()
    return {
        "nll": (reconstruction + kl, batch.count),
        "reconstruction": (reconstruction, rows),
        "kl": (kl, rows),
        "reconstruction_without_latent": (without, rows),
    }


@torch.no_grad()
def survey(model: Model, batches: Iterable[SequenceBatch]) -> dict[str, float]:
    """Summarise the latents of at most 2,000 held-out texts: see `information` and `active_units`."""
    means, log_variances, seeds, rows = [], [], [], 0
    for batch in batches:
        mean, log_variance = model.encode(batch)
        means.append(mean)
        log_variances.append(log_variance)
        seeds.append(content_seeds(batch))
        rows += len(mean)
    # spread over all of them: batches rise in length
    chosen = torch.arange(0, rows, -(-rows // _SURVEYED))
    mean, log_variance = torch.cat(means).cpu()[chosen], torch.cat(log_variances).cpu()[chosen]
    return {
        "mutual_information": information(mean, log_variance, torch.cat(seeds).cpu()[chosen]),
        "information_ceiling": math.log(len(mean)),
        "active_units": float(active_units(mean)),
    }


def information(mean: Tensor, log_variance: Tensor, seeds: Tensor) -> float:
    """Estimate the mutual information of text and latent, nats: mean of log q(z_n|x_n) - log mean_m q(z_n|x_m).

    m runs over all texts given, so it cannot exceed log N (the corpus estimator; Hoffman and Johnson 2016).
    """
    mean, log_variance = mean.double(), log_variance.double()
    latents = mean + (0.5 * log_variance).exp() * normals(seeds, mean.shape[1], stream=2)
    precision = (-log_variance).exp()
    distance = latents.square() @ precision.t() - 2 * latents @ (mean * precision).t()
    log_q = -0.5 * (distance + (mean.square() * precision + log_variance).sum(1))  # without the constant of all
    return float((log_q.diagonal() - log_q.logsumexp(1)).mean()) + math.log(len(mean))


def active_units(mean: Tensor) -> int:
    """Return the latent dimensions whose posterior mean varies over texts by more than 0.01 (Burda et al. 2016)."""
    return int((mean.double().var(0) > 0.01).sum())


VERDICTS = ("collapsed", "hardly used", "used")


def observe(model: Model, scores: dict[str, Any]) -> dict[str, Any]:
    """Report when the use of the latent changes; aggressive steps end when mutual information falls.

    The best adversarial autoencoder is the one that reconstructs best: its bound holds a KL that it does not train.
    """
    found, units, kl = scores["mutual_information"], scores["active_units"], scores["kl"]
    events = []
    if model.encoder_first and found < float(model.information):
        model.encoder_first.fill_(False)
        events.append(f"aggressive encoder steps end: mutual information fell from {float(model.information):.2f}")
    model.information.fill_(found)
    verdict = 0 if found < 0.1 and not units else 1 if found < 0.5 else 2
    if verdict != int(model.verdict):
        model.verdict.fill_(verdict)
        events.append(
            f"the latent code is {VERDICTS[verdict]}: KL {kl:.2f} nats, mutual information {found:.2f} of a possible "
            f"{scores['information_ceiling']:.2f}, {units:.0f} of {model.config.latent} units active"
            + ("" if verdict else "; try model.kl_target=4 or model.aggressive=true")
        )
    answer: dict[str, Any] = {"event": "; ".join(events)} if events else {}
    if model.critic is not None:
        answer["best"] = scores["reconstruction"] < float(model.lowest)
        model.lowest.fill_(min(float(model.lowest), scores["reconstruction"]))
    return answer
