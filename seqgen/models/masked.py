"""Bidirectional Transformer that fills gaps: masked discrete diffusion with an absorbing state (Sahoo et al. 2024).

At time t each token is masked with probability t (the log-linear schedule), and the model predicts the masked ones from
the others, on both sides. -log p(x | n) <= E over t of 1 / t * sum over masked i of -log p(x_i | the unmasked). Here t
masks exactly k = floor(t n) + 1 of n tokens, each set of k equally often, and weighs them by n / k: the same bound,
since the integral over t of t^k (1 - t)^(n - k) / t is 1 / (k (n choose k)), without the noise of how many are masked.
The length n comes from the training text's distribution, one added to each count; start and end are never masked, so a
row needs no padding tokens, and -log p(x) <= -log p(n) + that bound. Times of a batch are antithetic: evenly spread.
A text is written by unmasking places in random order, one a pass or several; a gap is filled in the same way.
Shapes: B rows, T targets, P counted positions, L = T + 1 positions, M masked ones, D features, V vocabulary.
Run: seqgen train masked --data captions --out runs/masked
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from seqgen.core import config as settings_of
from seqgen.core.batch import SequenceBatch
from seqgen.core.config import Train
from seqgen.core.errors import ConfigError
from seqgen.core.options import Sampling
from seqgen.core.rng import uniforms
from seqgen.core.update import Optimizer, update
from seqgen.models import gpt
from seqgen.models.text_vae import content_seeds
from seqgen.nn.automaton import GAP
from seqgen.nn.decode import TILE, Samples, Step, collect, filtered, tiled
from seqgen.nn.losses import linear_cross_entropy, linear_log_probs
from seqgen.nn.sampler import OutputLayer, Precision, pick

DATA = "text"
LINES_ONLY = True
DECIDES = "bound_per_token"

_LENGTH, _ORDER, _TOKEN = 1, 2, 3  # streams of a text's random numbers
_ROWS = 256  # rows of one length that are filled together


@dataclass(frozen=True)
class Config:
    """The section `model` of a masked diffusion model."""

    layers: Annotated[int, Field(ge=1)] = 4
    """How many blocks of attention and feed-forward."""
    heads: Annotated[int, Field(ge=1)] = 4
    """Attention heads; must divide `hidden`."""
    hidden: Annotated[int, Field(ge=2)] = 256
    """Features of a position."""
    feedforward: Annotated[int, Field(ge=0)] = 0
    """Features inside the feed-forward layers; 0: four times `hidden` for gelu, two thirds of that for swiglu."""
    activation: Literal["swiglu", "gelu"] = "swiglu"
    """Feed-forward layers: with a gate (swiglu), or GELU in its tanh form."""
    positions: Literal["rotary", "learned"] = "rotary"
    """How a position is known: by rotation of queries and keys, or by a learned vector that is added."""
    norm: Literal["rms", "layer"] = "rms"
    """Normalisation before each layer: by the root mean square, or also of the mean."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Dropout of the embedded input, of attention weights, and of what each layer adds."""
    context: Annotated[int, Field(ge=0)] = 0
    """Tokens of a row at most, its end counted; 0: twice as many as the data's longest has."""
    draws: Annotated[int, Field(ge=1)] = 8
    """How often a text is masked to estimate its bound in validation and scoring; more vary less."""
    vocab_size: Annotated[int, Field(ge=0)] = 0
    """Number of tokens; filled from the tokenizer."""
    stop: Annotated[int, Field(ge=-1)] = -1
    """The token that ends a text; filled from the tokenizer."""
    sep: Annotated[int, Field(ge=-1)] = -1
    """The token behind a condition; filled from the tokenizer."""
    suppress_tokens: tuple[int, ...] = ()
    """Tokens that sampling must not emit; filled from the tokenizer."""
    max_length: Annotated[int, Field(ge=0)] = 0
    """Tokens of a sampled text at most; filled from the data."""

    def transformer(self) -> gpt.Config:
        """Return the Transformer's settings: one more token, the mask, and room for start and end."""
        own = settings_of.to_dict(self)
        shared = ("layers", "heads", "hidden", "feedforward", "activation", "positions", "norm", "dropout")
        return gpt.Config(
            **{name: own[name] for name in shared},
            vocab_size=self.vocab_size + 1,
            context=1 + (self.context or 2 * self.max_length),
        )


class Model(nn.Module):
    """A Transformer whose positions see both sides, and the lengths of the training texts."""

    lengths: Tensor
    """(context,) int64: how many training texts have so many tokens, the end not counted."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        if config.vocab_size < 1:
            raise ValueError(f"model.vocab_size must be at least 1, got {config.vocab_size}")
        self.config = config
        self.transformer = gpt.Model(config.transformer())
        self.register_buffer("lengths", torch.zeros(self.transformer.context - 1, dtype=torch.int64))
        self.mask = config.vocab_size

    @property
    def bound(self) -> str:
        """How `log_probs` bounds the log-likelihood from below."""
        return f"{self.config.draws} draws of masks"

    def length_log_probs(self) -> Tensor:
        """Return log p(n) of texts of n tokens, (context,) float64: counts with one added; no text is empty."""
        counts = self.lengths.double() + 1
        counts[0] = 0
        return (counts / counts.sum()).log()

    def head(self) -> Tensor:
        """Return the output layer's weight, (V, D): the mask is never predicted."""
        return self.transformer.head()[0][: self.mask]

    def features(self, ids_bl: Tensor, lengths_b: Tensor, places: Tensor) -> Tensor:
        """Return what the output layer multiplies at flat places of rows (B, L), (M, D); rows see their own length."""
        inside = torch.arange(ids_bl.shape[1], device=ids_bl.device) < lengths_b[:, None]
        return self.transformer.norm(self.transformer.scan(ids_bl, inside).flatten(0, 1)[places])  # type: ignore[no-any-return]

    # Training and scoring: whole rows

    def maskable(self, batch: SequenceBatch) -> Tensor:
        """Return which targets are tokens of the text and may be masked, (B, T) bool: not a condition, not the end."""
        counted = torch.zeros(batch.targets.numel(), dtype=torch.bool, device=batch.targets.device)
        counted[batch.positions] = True
        return counted.view_as(batch.targets) & (batch.targets != self.config.stop)

    def text_lengths(self, maskable_bt: Tensor) -> Tensor:
        """Return the log-probabilities of the lengths of texts, (B,) float64. ConfigError for one that cannot be."""
        count = maskable_bt.sum(1)
        longest = int(count.amax())
        if longest >= len(self.lengths) or int(count.amin()) < 1:
            raise ConfigError(
                f"a text of {longest if longest >= len(self.lengths) else 0} tokens; this model knows texts of 1 to "
                f"{len(self.lengths) - 1} (longer ones if trained with a higher model.context)"
            )
        return self.length_log_probs()[count]

    def terms(self, batch: SequenceBatch, times_b: Tensor, noise_bt: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return masked places as flat indices of targets (M,), what predicts them (M, D), and their weights (M,)."""
        chosen, weight = masks(self.maskable(batch), times_b, noise_bt)
        rows = torch.cat([batch.inputs[:, :1], batch.targets], 1)
        hidden = torch.nn.functional.pad(chosen, (1, 0))
        at = chosen.flatten().nonzero().squeeze(1)
        row = at // chosen.shape[1]
        # a row has one position more than targets: its start
        features = self.features(rows.masked_fill(hidden, self.mask), batch.lengths + 1, at + row + 1)
        return at, features, weight[row]

    def log_probs(self, batch: SequenceBatch) -> Tensor:
        """Return each counted target's part of a lower bound on the log-likelihood in nats, (P,) float64.

        A token's part is its mean log-probability over `draws` masks of its row, as the bound weighs it; the length is
        counted at the end. The masks are a function of the text. The sum is the bound, in expectation over the masks.
        """
        with torch.no_grad():
            seeds, draws = content_seeds(batch), self.config.draws
            length_log_probs = self.text_lengths(self.maskable(batch))
            parts = torch.zeros(batch.targets.numel(), dtype=torch.float64, device=batch.targets.device)
            place = torch.arange(batch.targets.shape[1], device=seeds.device)
            shift = uniforms(seeds, 0, stream=draws)
            for draw in range(draws):
                noise = uniforms(seeds[:, None], place, stream=draw)
                at, features, weight = self.terms(batch, (draw + shift) / draws, noise)
                targets = batch.targets.flatten()[at]
                parts[at] += weight / draws * linear_log_probs(features, self.head(), None, targets)
            # the last counted target of each row: its end
            last = torch.arange(len(seeds), device=seeds.device) * len(place) + batch.lengths - 1
            parts[last] += length_log_probs
            return parts[batch.positions]

    # Sampling

    def decoder(self, *, fast: bool = False, precision: Precision = "fp32") -> "Unmasker":
        """Prepare this model for sampling with its present weights."""
        return Unmasker(self, 1 if fast else TILE, precision)


def masks(maskable_bt: Tensor, times_b: Tensor, noise_bt: Tensor) -> tuple[Tensor, Tensor]:
    """Return which places are masked, (B, T) bool, and the weight n / k of each row's, (B,) float64.

    `times_b` float64 in [0, 1) say how many, k = floor(t n) + 1; the k places of lowest noise are masked.
    """
    count = maskable_bt.sum(1)
    masked = ((times_b * count).long() + 1).clamp(max=count)
    rank = noise_bt.masked_fill(~maskable_bt, torch.inf).argsort(stable=True).argsort(1)
    return maskable_bt & (rank < masked[:, None]), count / masked.clamp(min=1).double()


def antithetic_times(count: int, device: torch.device) -> Tensor:
    """Return times (B,) float64, each uniform in [0, 1) and together evenly spread (Kingma et al. 2021)."""
    first = torch.rand(1, dtype=torch.float64, device=device)
    return (first + torch.arange(count, device=device) / count) % 1


class Unmasker:
    """A model prepared for filling masked places: what `nn.decode.Decoder` is to models that write left to right.

    Row k depends on the weights, the options, its tokens and its seed alone: rows of one length are unmasked together,
    padded to a multiple of 8.
    """

    def __init__(self, model: Model, tile: int, precision: Precision) -> None:
        config = model.config
        self.longest = len(model.lengths) - 1
        """Tokens of a text at most."""
        self._model, self._tile = model, tile
        self.stop, self.max_length = config.stop, config.max_length
        self.suppress_tokens = frozenset(config.suppress_tokens) | {config.stop}
        self.output = OutputLayer(
            (model.head(), None), suppress_tokens=self.suppress_tokens - {-1}, precision=precision
        )
        self.device = self.output.bias.device

    def decode(self, prompts: Sequence[Sequence[int]], seeds: Tensor, sampling: Sampling, **limits: Any) -> Samples:
        """Write all texts; arguments as in `steps`."""
        return collect(list(self.steps(prompts, seeds, sampling, **limits)), len(prompts), detailed=False)

    def steps(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Tensor,
        sampling: Sampling,
        *,
        until: Callable[[Tensor, Tensor], Tensor] | None = None,
        **limits: Any,
    ) -> Iterator[Step]:
        """Yield the texts token by token once they are written, as `Decoder.steps` does.

        A length is drawn first, of those that the prompt and the limits allow. ValueError for options that need a text
        to be written from left to right, and where no length is left.
        """
        self.check(sampling, limits)
        seeds = seeds.to(self.device)
        fresh = self._new_tokens(prompts, seeds, sampling)
        end = [self.stop] if self.stop >= 0 else []
        rows = [[*prompt, *[GAP] * count, *end] for prompt, count in zip(prompts, fresh, strict=True)]
        filled, _ = self.fill(rows, seeds, sampling)
        written = [[*row[len(prompt) :]] for row, prompt in zip(filled, prompts, strict=True)]
        going = list(range(len(prompts)))
        for t in range(max(map(len, written), default=0)):
            texts = torch.tensor(going, device=self.device)
            ids = torch.tensor([written[text][t] for text in going], device=self.device)
            over = [len(written[text]) == t + 1 for text in going]
            ended = finished = torch.tensor(over, device=self.device)
            if until is not None:
                finished = ended | until(texts, ids)
                over = finished.tolist()
            yield Step(texts, ids, ended & (ids == self.stop), finished, None)
            going = [text for text, ends in zip(going, over, strict=True) if not ends]
            if not going:
                return

    def check(self, sampling: Sampling, limits: dict[str, Any]) -> None:
        """Raise ValueError for an option that this model has no use for; settings are checked too."""
        settings_of.build(Sampling, settings_of.to_dict(sampling), section="sample")
        asked = {
            "bad_words, require, template and pattern": limits.get("automaton") is not None,
            "no_copy": limits.get("no_copy") is not None,
            "logits_processor": limits.get("logits_processor") is not None,
            "no_repeat_ngram_size": bool(sampling.no_repeat_ngram_size),
            "repetition_penalty": sampling.repetition_penalty != 1,
            "log-probabilities of a text, which best_of compares,": sampling.details,
        }
        for name, given in asked.items():
            if given:
                raise ValueError(
                    f"{name} need a model that writes from left to right; a masked run unmasks places in any order: "
                    "leave them out, or fill gaps with seqgen fill"
                )

    def _new_tokens(self, prompts: Sequence[Sequence[int]], seeds: Tensor, sampling: Sampling) -> list[int]:
        """Draw how many tokens follow each prompt, from p(n) where prompt and limits allow."""
        if not prompts:
            return []
        read = torch.tensor([len(prompt) for prompt in prompts], device=self.device)
        # a text begins behind the start, or behind the condition before it
        own = torch.tensor([_text_begins(prompt, self._model.config.sep) for prompt in prompts], device=self.device)
        own = read - own
        longest = len(self._model.lengths)
        length = torch.arange(longest, device=self.device)
        fresh = length - own[:, None]
        room = longest - read[:, None]  # the end takes one, the start none
        limit = sampling.limit(self.max_length)
        may = (fresh >= sampling.min_new_tokens) & (fresh >= 0) & (fresh <= room) & (fresh < limit)
        p = self._model.length_log_probs().exp() * may
        if not bool((p.sum(1) > 0).all()):
            worst = int((p.sum(1) == 0).nonzero()[0])
            raise ValueError(
                f"no length is left for text {worst}: a prompt of {len(prompts[worst]) - 1} tokens, "
                f"sample.min_new_tokens = {sampling.min_new_tokens} and max_new_tokens = {sampling.max_new_tokens} "
                f"(the end counts as one); rows have at most {longest} tokens"
            )
        return (pick(p, uniforms(seeds, 0, stream=_LENGTH)) - own).tolist()

    @torch.inference_mode()
    def fill(
        self, rows: Sequence[Sequence[int]], seeds: Tensor, sampling: Sampling
    ) -> tuple[list[list[int]], list[list[float]]]:
        """Return rows with their gaps (`GAP`) filled, and per row the log-probability of each filled token, in nats.

        Places are unmasked in an order that the row's seed draws, one a pass or, with sampling.denoising_steps below
        their number, several that do not see each other. A log-probability is that under the unmodified model when the
        token was drawn, with the tokens seen by then.
        """
        seeds = seeds.to(self.device)
        filled: list[list[int]] = [[] for _ in rows]
        found: list[list[float]] = [[] for _ in rows]
        by_length: dict[int, list[int]] = {}
        for number, row in enumerate(rows):
            by_length.setdefault(len(row), []).append(number)
        for numbers in by_length.values():
            for begin in range(0, len(numbers), _ROWS):
                part = numbers[begin : begin + _ROWS]
                ids = torch.tensor([rows[n] for n in part], device=self.device)
                own = seeds[torch.tensor(part, device=self.device)]
                after, log_probs = self._unmasked(ids, own, sampling)
                for n, row, values, gap in zip(
                    part, after.tolist(), log_probs.tolist(), (ids == GAP).tolist(), strict=True
                ):
                    filled[n] = row
                    found[n] = [value for value, there in zip(values, gap, strict=True) if there]
        return filled, found

    def _unmasked(self, ids_bl: Tensor, seeds_b: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
        """Fill the gaps of rows of one length: ids (B, L), and log-probabilities (B, L), 0 where no gap was."""
        model, count = self._model, len(ids_bl)
        slots = tiled(torch.arange(count, device=self.device), self._tile)
        seeds, gaps = seeds_b[slots], ids_bl[slots] == GAP
        ids = ids_bl[slots].masked_fill(gaps, model.mask)
        width = ids.shape[1]
        place = torch.arange(width, device=self.device)
        rank = uniforms(seeds[:, None], place, stream=_ORDER).masked_fill(~gaps, 2.0).argsort(stable=True).argsort(1)
        # float64: with fewer bits rare tokens fall away, which acts like a lower temperature (Zheng et al. 2024)
        draws = uniforms(seeds[:, None], place, stream=_TOKEN)
        wanted = gaps.sum(1, keepdim=True)
        passes = wanted.clamp(max=sampling.denoising_steps) if sampling.denoising_steps else wanted
        turn = torch.where(gaps, rank * passes // wanted.clamp(min=1), -1)
        lengths = torch.full((len(ids),), width, device=self.device)
        bias = self.output.without(self.suppress_tokens | set(sampling.suppress_tokens) - {-1})
        log_probs = torch.zeros(ids.shape, dtype=torch.float64, device=self.device)
        none = ids.new_empty(0, 0)
        turns, least = turn.flatten().cpu(), []  # one wait for a device, and one at the end
        for now in range(int(turns.amax()) + 1):
            places = (turns == now).nonzero().squeeze(1).to(self.device)
            padded = tiled(places, self._tile)
            features = model.features(ids, lengths, padded)
            for part in self.output.parts(len(padded)):
                plain = self.output.logits(features[part], self.output.plain_bias).log_softmax(-1)
                logits = filtered(self.output.logits(features[part], bias), none, sampling)
                chosen = pick(self.output.probabilities(logits), draws.flatten()[padded[part]])
                least.append(chosen.amin())
                chosen = chosen.clamp(min=0)
                ids.view(-1)[padded[part]] = chosen
                log_probs.view(-1)[padded[part]] = plain.gather(1, chosen[:, None]).squeeze(1).double()
        if least and torch.stack(least).amin() < 0:
            raise ValueError("no token is left to fill a place with; relax suppress_tokens")
        return ids[:count], log_probs[:count]


def _text_begins(prompt: Sequence[int], sep: int) -> int:
    """Return the number of tokens before a prompt's own: the start, or all up to the last separator."""
    return max([n + 1 for n, token in enumerate(prompt) if sep >= 0 and token == sep], default=1)


def attach(model: Model, data: Any) -> None:
    """Count the lengths of the training texts. ConfigError for text that is no lines."""
    if data.mode != "sentence":
        raise ConfigError(f"masked fills lines, but data.mode is {data.mode}; use data.mode=sentence")
    before = 1 if data.train.loss_from is None else 1 + data.train.loss_from.cpu()
    ids = data.train.ids
    ends = ids.values[(ids.offsets[1:] - 1).to(ids.values.device)].cpu() == model.config.stop
    count = ids.lengths.cpu() - before - ends.long()
    model.lengths.copy_(count.bincount(minlength=len(model.lengths)))


def optimizers(model: Model, train: Train) -> dict[str, Optimizer]:
    """Build one optimizer over all weights."""
    return {"model": Optimizer(model.named_parameters(), train)}


def train_step(
    model: Model, optimizers: dict[str, Optimizer], batch: SequenceBatch, step: int
) -> dict[str, float | Tensor]:
    """Make one update on the bound per token, the length's part of it left out, which no weight changes."""
    optimizer = optimizers["model"]
    # for the whole batch at once, so that the parts of an accumulated step are masked as it would be
    device = batch.targets.device
    times = antithetic_times(len(batch.targets), device)
    noise = torch.rand(batch.targets.shape, dtype=torch.float64, device=device)

    def losses() -> Iterator[tuple[Tensor, int]]:
        for rows, part in batch.micro_batches(optimizer.train.accumulate):
            at, features, weight = model.terms(part, times[rows], noise[rows])
            targets = part.targets.flatten()[at]
            yield linear_cross_entropy(features, model.head(), None, targets, row_weights=weight.float()), part.count

    return {**update(optimizer, losses(), step, weight=batch.weight)}


def validate(model: Model, batch: SequenceBatch) -> dict[str, tuple[Tensor | float, Tensor | int]]:
    """Return a bound on the nll of the counted tokens in nats, as (sum, count)."""
    return {"nll": (-model.log_probs(batch).sum(), batch.count)}
