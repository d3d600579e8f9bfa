"""What the latents of a text VAE are for: texts to latents and back, interpolation, directions, conditions, quality.

    space = seqgen.LatentSpace(seqgen.load("runs/captions"))
    space.interpolate("a dog runs .", "two men sit on a bench .", steps=7)
    space.generator.generate(10, latents=space.steered([space.condition("contains=dog")]))

Shapes: B texts of a call, N known texts, Z latent dimensions, K latents of a text.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from seqgen import metrics
from seqgen.core import rng
from seqgen.core.batch import SequenceBatch
from seqgen.core.errors import DataError, RunError
from seqgen.core.log import messages
from seqgen.core.options import Sampling
from seqgen.data.batches import sentence_evaluation
from seqgen.data.prepare import encode_sources, facts
from seqgen.data.text import read_lines
from seqgen.engine.generate import Latents, TextGenerator
from seqgen.models.text_vae import Model, active_units, content_seeds, gaussian_kl, information, latent_seeds
from seqgen.nn.latents import Mixture, between, fit_mixture, langevin
from seqgen.nn.losses import CHUNK

_ROWS = 512
"""Texts written together; results do not depend on it."""

_KNOWN = 10_000
"""Training texts whose latents are looked at, at most."""

_CHAIN = 100
"""Steps of a Langevin chain, half of them to find its step size."""

_EXAMPLES = 10
"""Texts that have a property, and that have it not, which a condition is learnt from at least."""


@dataclass(frozen=True, eq=False)
class Condition:
    """A property of texts as a probability of their latents."""

    name: str
    log_probability: Callable[[Tensor], Tensor]
    """Of latents (B, Z) float64, up to a constant: (B,), differentiable."""


@dataclass(frozen=True, eq=False)
class Known:
    """Training texts and their latents."""

    lines: list[str]
    tokens: Tensor
    """(N,) int64: how many tokens each has, its end not counted."""
    mean: Tensor
    """(N, Z) float32."""
    latents: Tensor
    """(N, Z) float64: one drawn for each text."""


class LatentSpace:
    """A text VAE at work: its `TextGenerator`, and from texts to latents and back. RunError for any other run."""

    def __init__(self, generator: TextGenerator) -> None:
        if not getattr(generator.model, "encodes", False):
            raise RunError(
                f"a run of {generator.settings.name} has no latents; train one: seqgen train text-vae --data FILE"
            )
        self.generator = generator
        self.model, self.device = cast(Model, generator.model), generator.device  # what has latents is a text VAE
        self.latent: int = generator.settings.model.latent

    def __repr__(self) -> str:
        return f"LatentSpace({self.latent} dimensions of {self.generator})"

    # Texts to latents and back

    def encode(self, lines: Sequence[str], sources: Sequence[str] | None = None) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance of each line's latent, (N, Z) float32 on the CPU.

        DataError, which names the text, for one without a known token and one longer than the run's limit.
        """
        self._check(lines)
        return self._encoded(self.generator.batches(lines, sources), len(lines))

    def _encoded(self, batches: Any, rows: int) -> tuple[Tensor, Tensor]:
        mean, log_variance = torch.empty(rows, self.latent), torch.empty(rows, self.latent)
        with torch.inference_mode():
            for batch in batches:
                found = self.model.encode(batch.to(self.device))
                mean[batch.rows.cpu()], log_variance[batch.rows.cpu()] = (part.cpu() for part in found)
        return mean, log_variance

    def _check(self, lines: Sequence[str]) -> None:
        if not lines:
            raise DataError("no texts to encode")
        tokenizer, limit = self.generator.tokenizer, self.generator.settings.model.max_length
        faults = []
        for number, ids in enumerate(tokenizer.encode(lines), 1):
            name = f"text {number} ({lines[number - 1][:40]!r})" if len(lines) > 1 else repr(lines[0][:60])
            if bool((ids == tokenizer.unk).all()):
                faults.append(f"{name} holds no token that this run knows; use words of its training text")
            elif len(ids) + 1 > limit:
                faults.append(f"{name} has {len(ids) + 1} tokens with its end; this run encodes {limit} at most")
        if faults:
            more = f"; and {len(faults) - 3} more" if len(faults) > 3 else ""
            raise DataError("; ".join(faults[:3]) + more)

    def write(
        self, latents: Tensor, sources: Sequence[str] | None = None, *, seed: int = 0, temperature: float = 0.0
    ) -> list[str]:
        """Decode every latent (N, Z): the likeliest token each time, or drawn at a temperature above 0."""
        prompts = self._prompts(sources, len(latents))
        seeds = rng.text_seeds(seed, 0, len(latents)).to(self.device)
        decoder, state = self.generator.left_to_right("a latent"), self.model.begin(latents.to(self.device))
        texts: list[str] = []
        for first in range(0, len(latents), _ROWS):
            rows = slice(first, first + _ROWS)
            begun = tuple(part[rows] for part in state)
            made = decoder.decode(prompts[rows], seeds[rows], Sampling(temperature=temperature), state=begun)
            texts += self.generator.tokenizer.decode(made.ids)
        return texts

    def _prompts(self, sources: Sequence[str] | None, count: int) -> list[list[int]]:
        """Return what the decoder reads before each text."""
        settings, tokenizer = self.generator.settings, self.generator.tokenizer
        start = int(facts(tokenizer, settings.data.mode, settings.model.max_length)["start"])
        if sources is None and settings.data.source:
            raise DataError(
                f"this run was trained with data.source = {settings.data.source}: give the source (--source)"
            )
        if sources is None:
            return [[start]] * count
        if len(sources) != count:
            raise DataError(f"{count} latents but {len(sources)} sources; give one source per latent")
        return [[start, *ids.tolist()] for ids in encode_sources(tokenizer, sources)]

    def reconstruct(
        self,
        lines: Sequence[str],
        sources: Sequence[str] | None = None,
        *,
        step: Tensor | None = None,
        seed: int = 0,
        temperature: float = 0.0,
    ) -> list[str]:
        """Decode each line from the mean of its latent, which `step` (Z,) moves; else as `write`."""
        mean, _ = self.encode(lines, sources)
        return self.write(mean if step is None else mean + step, sources, seed=seed, temperature=temperature)

    def interpolate(
        self, a: str, b: str, *, steps: int = 7, spherical: bool = False, source: str | None = None, seed: int = 0
    ) -> list[str]:
        """Interpolate from one text's latent to another's, both ends included, the likeliest token each time.

        spherical: along the great circle instead of the line. An empty text is a latent of the prior, drawn by `seed`.
        """
        sources = None if source is None else [source]
        drawn = self.model.prior(rng.text_seeds(seed, 0, 2).to(self.device)).cpu()
        ends = [self.encode([text], sources)[0][0] if text else own for text, own in zip((a, b), drawn, strict=True)]
        path = between(ends[0], ends[1], steps, spherical=spherical)
        return self.write(path, None if source is None else [source] * steps)

    def direction(
        self, toward: tuple[Sequence[str], Sequence[str] | None], away: tuple[Sequence[str], Sequence[str] | None]
    ) -> Tensor:
        """Return the step (Z,) to the mean latent of one set from that of another; each is (lines, sources or None)."""
        return self.encode(*toward)[0].mean(0) - self.encode(*away)[0].mean(0)

    def nearest(
        self, lines: Sequence[str], sources: Sequence[str] | None = None, *, count: int = 5
    ) -> list[list[tuple[str, float]]]:
        """Find for each line the training texts with the nearest latents, and how far they are, nearest first."""
        mean, _ = self.encode(lines, sources)
        # by differences: as a product of matrices the distance of a text to itself is that of the rounding
        far = torch.cdist(mean, self.known.mean, compute_mode="donot_use_mm_for_euclid_dist")
        distances, rows = far.topk(min(count, len(self.known.lines)), largest=False)
        pairs = zip(rows.tolist(), distances.tolist(), strict=True)
        return [[(self.known.lines[i], far) for i, far in zip(*pair, strict=True)] for pair in pairs]

    @functools.cached_property
    def known(self) -> Known:
        """The run's training texts, 10,000 at most and spread over all, with their latents; errors as `own_text`."""
        data = self.generator.own_text()
        rows = torch.arange(0, data.train.ids.rows, -(-data.train.ids.rows // _KNOWN))
        loss_from = None if data.train.loss_from is None else data.train.loss_from[rows]
        corpus = replace(data.train, ids=data.train.ids.take(rows), loss_from=loss_from)
        batches = sentence_evaluation(corpus, _ROWS, pad=self.generator.tokenizer.pad)
        mean, log_variance = self._encoded(batches, len(rows))
        lines = [data.train_lines[i] for i in rows.tolist()]
        return Known(lines, self.generator.tokenizer.encode(lines).lengths, mean, _drawn(mean, log_variance))

    # Codes for new texts: `TextGenerator.texts(latents=...)`

    def mixture(self, components: int = 10, seed: int = 0) -> Mixture:
        """Fit a mixture of Gaussians to latents of the training text: where they are, not where the prior is."""
        latents = self.known.latents
        return fit_mixture(latents.numpy(), components=max(1, min(components, len(latents) // 10)), seed=seed)

    def of_mixture(self, mixture: Mixture) -> Latents:
        """Draw latents from a mixture."""
        return lambda seeds: mixture.sample(latent_seeds(seeds)).float()

    def steered(
        self, conditions: Sequence[Condition], *, strength: float = 1.0, mixture: Mixture | None = None
    ) -> Latents:
        """Draw latents by Langevin chains towards p(z) times every condition's probability to the power `strength`.

        Metropolis-adjusted (Roberts and Tweedie 1996). The chains start where latents come from otherwise: from the
        prior, or from `mixture`, whose density is then p(z).
        """

        def energy(latents: Tensor, _: float) -> Tensor:
            z = latents.double()
            total = 0.5 * z.square().sum(1) if mixture is None else -log_density(mixture, z)
            for condition in conditions:
                total = total - strength * condition.log_probability(z)
            return total

        def draw(seeds: Tensor) -> Tensor:
            own = latent_seeds(seeds).cpu()  # conditions and mixture live there
            start = rng.normals(own, self.latent) if mixture is None else mixture.sample(own)
            chain = langevin(energy, start, own, steps=_CHAIN)
            messages.info("steering: %.0f %% of the chains' steps were accepted", 100 * float(chain.acceptance.mean()))
            return chain.latents.to(seeds.device)

        return draw

    def condition(self, words: str) -> Condition:
        """Return a condition on texts as a probability of latents, learnt from latents of known texts.

        length=12: tokens, the end not counted; contains=WORD; label=YES_FILE:NO_FILE: like the lines of the one file
        rather than those of the other. ValueError for other words, DataError for too few examples.
        """
        kind, _, value = words.partition("=")
        if kind == "length" and value.isdecimal() and int(value) >= 1:
            return length_condition(words, int(value), self.known.latents, self.known.tokens)
        if kind == "contains" and value.strip():
            has = torch.tensor([_contains(line, value) for line in self.known.lines])
            return property_condition(words, self.known.latents, has)
        if kind == "label" and all(value.partition(":")):
            texts = [[line for line in read_lines(file) if line.strip()] for file in value.split(":", 1)]
            latents = [_drawn(*self.encode(lines)) for lines in texts]
            has = torch.arange(sum(map(len, latents))) < len(latents[0])
            return property_condition(words, torch.cat(latents), has)
        raise ValueError(f"{words!r} is no condition; expected length=12, contains=WORD or label=YES_FILE:NO_FILE")

    # How good the latent is

    def likelihood(
        self, lines: Sequence[str], sources: Sequence[str] | None = None, *, samples: int = 100, count: int = 1000
    ) -> dict[str, float]:
        """Score given lines, and what the latent contributes; `count` of them, spread over all (0: all).

        `nll_*` in nats weighs `samples` latents of each text (Burda et al. 2016). The end of a text is counted; words
        outside the vocabulary become `<unk>`, which is counted. ValueError for samples < 1, DataError for no lines.
        """
        if samples < 1:
            raise ValueError(f"samples must be at least 1, got {samples}")
        if count and len(lines) > count:
            rows = [i * len(lines) // count for i in range(count)]
            lines, sources = [lines[i] for i in rows], None if sources is None else [sources[i] for i in rows]
        sums = torch.zeros(7, dtype=torch.float64)
        tokens = 0
        mean, log_variance = torch.empty(len(lines), self.latent), torch.empty(len(lines), self.latent)
        seeds = torch.empty(len(lines), dtype=torch.int64)
        with torch.inference_mode():
            for placed in self.generator.batches(lines, sources):
                batch, rows_b = placed.to(self.device), placed.rows.cpu()
                found = self.model.encode(batch)
                mean[rows_b], log_variance[rows_b] = (part.cpu() for part in found)
                seeds[rows_b] = content_seeds(batch).cpu()
                sums += self._sums(batch, found[0], found[1], samples).cpu()
                tokens += batch.count
        nll, bound, effective, kl, reconstruction, without = (sums[:-1] / len(lines)).tolist()
        per_token = nll * len(lines) / tokens
        written = self.write(mean, sources)
        return {
            "nll_per_token": per_token,
            "perplexity": math.exp(min(per_token, 700.0)),
            "nll_per_line": nll,
            "nll_per_character": nll * len(lines) / sum(len(line) + 1 for line in lines),
            "bound_per_line": bound,
            "effective_latents": effective,
            "kl": kl,
            "mutual_information": information(mean, log_variance, seeds),
            "information_ceiling": math.log(len(lines)),
            "active_units": float(active_units(mean)),
            "reconstruction": reconstruction,
            "reconstruction_without_latent": without,
            "reconstruction_bleu_4": float(metrics.bleu(written, references_per_hypothesis=[[line] for line in lines])),
            "token_accuracy": float(sums[-1]) / tokens,
        }

    def _sums(self, batch: SequenceBatch, mean: Tensor, log_variance: Tensor, samples: int) -> Tensor:
        """Sum over a batch: nll, -ELBO, effective number of latents, KL, reconstruction, that without one, hits."""
        ratios, found = zip(*((ratio, each.sum(2)) for ratio, each in self.model.weighed(batch, samples)), strict=True)
        given = torch.cat(found)
        weights = torch.cat(ratios) + given
        whole = weights.logsumexp(0)
        prior = rng.normals(content_seeds(batch), self.latent, stream=1).float()
        targets = batch.targets.flatten()[batch.positions]
        weight, bias = self.model.head()
        parts = torch.split(self.model.written(batch, mean), CHUNK)
        likeliest = [F.linear(part, weight, bias).argmax(1) for part in parts]
        values = [
            (math.log(samples) - whole).sum(),
            -weights.mean(0).sum(),
            (-(2 * (weights - whole)).logsumexp(0)).exp().sum(),
            gaussian_kl(mean.double(), log_variance.double()).sum(),
            -given.mean(0).sum(),
            -self.model.token_log_probs(batch, prior).sum(),
            (torch.cat(likeliest) == targets).sum(),
        ]
        return torch.stack([value.double() for value in values])


@dataclass(frozen=True)
class Interpolation:
    """From one text to another through the space of latents."""

    begin: str
    end: str
    between: list[str]
    """What latents on the straight line write, the two texts' own latents included; nothing twice in a row."""


@dataclass(frozen=True, eq=False)
class Overview:
    """Where held-out texts lie in the space of latents, and what lies between them."""

    lines: list[str]
    places: Tensor
    """(N, 2): their mean latents on the two axes along which these differ most (PCA)."""
    share: float
    """Of the variance of the mean latents, what these two axes show."""
    interpolations: list[Interpolation]
    """From one of them to another."""


def overview(space: LatentSpace, *, count: int = 200, interpolations: int = 10, steps: int = 7) -> Overview:
    """Map held-out texts and interpolate between the first ones; errors as `TextGenerator.own_text`."""
    data = space.generator.own_text()
    lines, sources = list(data.valid_lines[:count]), data.valid_sources
    given = None if sources is None else sources[:count]
    mean, _ = space._encoded(space.generator.batches(lines, given), len(lines))
    centred = mean - mean.mean(0)
    _, sizes, axes = torch.linalg.svd(centred, full_matrices=False)
    points = F.pad(centred @ axes[:2].t(), (0, max(0, 2 - len(axes))))
    shown = []
    for k in range(0, 2 * min(interpolations, len(lines) // 2), 2):
        latents = between(mean[k], mean[k + 1], steps)
        texts = space.write(latents, None if given is None else [given[k]] * steps)
        shown.append(Interpolation(lines[k], lines[k + 1], [text for text, _ in itertools.groupby(texts)]))
    return Overview(list(lines), points, float(sizes[:2].square().sum() / sizes.square().sum()), shown)


def _drawn(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Draw one latent (N, Z) float64 from each posterior, always the same."""
    noise = rng.normals(torch.arange(len(mean)), mean.shape[1])
    return mean.double() + (0.5 * log_variance.double()).exp() * noise


def _contains(line: str, words: str) -> bool:
    """Return whether words stand in a line as words; where a line has no blanks, as characters."""
    return f" {words} " in f" {line} " or (" " not in line.strip() and words in line)


def log_density(mixture: Mixture, latents: Tensor) -> Tensor:
    """Log-density (B,) of latents (B, Z) float64 under a mixture, differentiable."""
    away = (latents[:, None] - mixture.means)[..., None]  # (B, K, Z, 1)
    white = torch.linalg.solve_triangular(mixture.roots, away, upper=False).squeeze(3)
    scale = mixture.roots.diagonal(dim1=1, dim2=2).log().sum(1)
    each: Tensor = mixture.weights.log() - scale - 0.5 * white.square().sum(2)
    density: Tensor = each.logsumexp(1) - 0.5 * latents.shape[1] * math.log(2 * math.pi)
    return density


def length_condition(name: str, length: int, latents: Tensor, lengths: Tensor) -> Condition:
    """Condition on `length` tokens: a Gaussian around a ridge regression of `lengths` (N,) on latents (N, Z)."""
    centred, targets = latents - latents.mean(0), lengths.double() - lengths.double().mean()
    square = centred.t() @ centred + torch.eye(latents.shape[1], dtype=torch.float64)
    slope = torch.linalg.solve(square, centred.t() @ targets)
    left = float((targets - centred @ slope).square().mean())
    _tell(name, 1 - left / max(float(targets.square().mean()), 1e-9))
    variance = max(left, 0.25)  # lengths are whole numbers
    offset = float(lengths.double().mean() - latents.mean(0) @ slope)
    return Condition(name, lambda z: -((z * slope).sum(1) + offset - length).square() / (2 * variance))


def property_condition(name: str, latents: Tensor, has: Tensor) -> Condition:
    """Condition on a property: logistic regression of `has` (N,) bool on latents (N, Z).

    DataError where fewer than 10 of the known texts have it, or have it not.
    """
    from sklearn.linear_model import LogisticRegression  # late: a second to import

    count = int(has.sum())
    if min(count, len(has) - count) < _EXAMPLES:
        raise DataError(
            f"{name} holds for {count} of {len(has)} known texts; to learn it takes {_EXAMPLES} of either kind at least"
        )
    fitted = LogisticRegression(C=1.0, max_iter=1000).fit(latents.numpy(), has.numpy())
    slope, offset = torch.from_numpy(fitted.coef_[0]), float(fitted.intercept_[0])
    share = torch.tensor(count / len(has), dtype=torch.float64)
    left = -F.logsigmoid(torch.where(has, 1.0, -1.0) * (latents @ slope + offset)).mean()
    _tell(name, 1 - float(left / -(share * share.log() + (1 - share) * (1 - share).log())))
    return Condition(name, lambda z: F.logsigmoid((z * slope).sum(1) + offset))


def _tell(name: str, explained: float) -> None:
    """Log how much latents explain of a property: a share of its variance, or of its entropy."""
    weak = "; steering by it will do little" if explained < 0.05 else ""
    messages.info("%s: latents explain %.0f %% of it%s", name, 100 * max(0.0, explained), weak)
