"""A model of lines corrected by a critic: n texts of the base are drawn, one is kept (Lawson et al. 2019).

The chance of each to be kept is proportional to exp(s). What comes out is a normalised model itself,

    q_n(x) = p(x) E[n exp(s(x)) / (exp(s(x)) + sum of exp(s(x_j)) over n - 1 texts x_j of the base p)],

whose likelihood needs no sum over all texts: the expectation is the mean over random sets of n - 1 texts that took no
part in the fit. By Jensen's inequality the logarithm of that mean is too low on average, never too high. s estimates
log p_data - log p: a polynomial of degree two in eleven numbers of a whole text and, by option, in what recurrent
networks make of its tokens (readers). It is not trained by steps: `seqgen refine` fits it. Shapes: B texts, T tokens of
all texts, L of the longest, F = 11 or 12 features, W = 77 or 90 weights, N scores kept, n candidates.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NoReturn

import torch
from pydantic import Field
from torch import Tensor, nn

from seqgen.core import rng
from seqgen.core.batch import SequenceBatch
from seqgen.core.config import Train
from seqgen.core.errors import ConfigError
from seqgen.core.update import Optimizer
from seqgen.models import kneser_ney, mixture
from seqgen.nn.decode import Decoder, Details

DATA = "text"
MADE_BY = "seqgen refine"

FEATURES = (
    "length",
    "log_p",
    "entropy",
    "below_likeliest",
    "log_p_trigram",
    "log_p_ngram",
    "log_p_backward",
    "log_p_both",
    "least_log_p",
    "least_log_p_ngram",
    "least_log_p_both",
)
"""Sums over the tokens of a text, its end counted: log p of the base, its entropy, log p less that of the likeliest
token, log p of n-gram models forward and backward and of base and n-grams half and half; then the least of a token."""

_FARTHEST = 5.0
"""Standard deviations from the mean beyond which a feature counts no further."""
_SETS = 1024
"""Sets of n - 1 texts at least that a likelihood is estimated from."""
_ROWS = 512
VALUES = 7
"""What base and n-grams say of a token: log p of the base, its entropy, log p less that of the likeliest token, log p
of 3-grams, n-grams, n-grams from the end, and base and n-grams half and half."""
_CHUNK, _STEP = 64, 8
"""Texts that a reader reads at once, and tokens that their length is brought to a multiple of: the shapes of products
depend on a text's own length alone, so its score does not depend on the other texts."""


@dataclass(frozen=True)
class Config:
    """The section `model` of a refined run."""

    base: str = ""
    """The model that is corrected, by its name on the command line."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Its section `model`."""
    resample: Annotated[int, Field(ge=1, le=256)] = 16
    """Candidates of each text, unless asked for otherwise."""
    order: Annotated[int, Field(ge=1, le=9)] = 5
    """Tokens of the longest n-grams that the critic looks at."""
    critic: Literal["sums", "gru"] = "sums"
    """sums: eleven numbers of a whole text; gru: also the mean score of readers of its tokens."""
    hidden: Annotated[int, Field(ge=1)] = 64
    """Features of a reader's state, in either direction."""
    folds: Annotated[int, Field(ge=2)] = 4
    """Readers: each is fitted to the texts without one part, to which its score is taken while the critic is fitted."""
    vocab_size: Annotated[int, Field(ge=0)] = 0
    """Number of tokens."""
    start: Annotated[int, Field(ge=-1)] = -1
    """The token before the first of a text."""
    stop: Annotated[int, Field(ge=-1)] = -1
    """The token that ends a text."""
    pad: Annotated[int, Field(ge=-1)] = -1
    """The token behind the end of short rows."""


class Reader(nn.Module):
    """Two GRUs over the tokens of a text and what base and n-grams say of each, from its start and from its end."""

    def __init__(self, vocab_size: int, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, hidden)
        self.forth, self.back = (nn.GRU(hidden + VALUES, hidden, batch_first=True) for _ in range(2))
        self.dropout = nn.Dropout(0.3)
        self.out = nn.Linear(4 * hidden, 1)

    def forward(self, ids_bl: Tensor, values_blv: Tensor, lengths_b: Tensor) -> Tensor:
        """Return the score of each text, (B,): linear in the mean and the maximum of the states over its tokens."""
        at = torch.arange(ids_bl.shape[1], device=ids_bl.device)
        inside = at < lengths_b[:, None]
        # each row turned around within its own length, so that padding comes last for both
        turned = torch.where(inside, lengths_b[:, None] - 1 - at, at)
        x = self.dropout(torch.cat([self.embedding(ids_bl), values_blv], 2))
        forth, _ = self.forth(x)
        back, _ = self.back(x.gather(1, turned[..., None].expand_as(x)))
        states = torch.cat([forth, back], 2)
        mean = (states * inside[..., None]).sum(1) / lengths_b[:, None]
        largest = states.masked_fill(~inside[..., None], -1.0).amax(1)  # states are in -1..1
        scores: Tensor = self.out(self.dropout(torch.cat([mean, largest], 1))).squeeze(1)
        return scores


class Model(nn.Module):
    """The base, three n-gram models, and the critic: readers, where it has them, and buffers."""

    mean: Tensor
    scale: Tensor
    weights: Tensor
    base_scores: Tensor
    """The critic's scores of texts of the base that took no part in the fit, (N,) float64."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.base = mixture.part(config.base, config.settings)
        self.trigram, self.ngram, self.backward = (
            kneser_ney.Model(
                kneser_ney.Config(
                    order=order,
                    vocab_size=config.vocab_size,
                    start=config.start,
                    stop=config.stop,
                    pad=config.pad,
                )
            )
            for order in (3, config.order, config.order)
        )
        readers = config.folds if config.critic == "gru" else 0
        self.readers = nn.ModuleList(Reader(config.vocab_size, config.hidden) for _ in range(readers))
        features = len(FEATURES) + bool(readers)
        self._row, self._column = torch.triu_indices(features, features)
        self.register_buffer("mean", torch.zeros(features, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(features, dtype=torch.float64))
        self.register_buffer("weights", torch.zeros(features + len(self._row), dtype=torch.float64))
        self.register_buffer("base_scores", torch.zeros(0, dtype=torch.float64))
        parts = {"base": self.base, "trigram": self.trigram, "ngram": self.ngram, "backward": self.backward}
        inside = [f"{at}.{name}" for at, part in parts.items() for name in getattr(part, "data_sized", ())]
        self.data_sized = ("base_scores", *inside)

    def log_probs(self, batch: SequenceBatch) -> Tensor:
        """Return the log-probability of every counted target under the base, (P,) float64, nats; see `gains`."""
        log_p: Tensor = self.base.log_probs(batch)  # type: ignore[operator]
        return log_p

    def decoder(self, *, fast: bool = False) -> Decoder:
        """Prepare the base for sampling: it writes the candidates."""
        made: Decoder = self.base.decoder(fast=fast)  # type: ignore[operator]
        return made

    def fit_ngrams(self, values: Tensor, lengths: Tensor) -> None:
        """Fit the n-gram models to rows of ids, one after the other in `values`, their start and stop included."""
        self.trigram.fit(values, lengths)
        self.ngram.fit(values, lengths)
        # read from its end, the whole has the rows in the opposite order, each from its end
        self.backward.fit(values.flip(0), lengths.flip(0))

    # What the critic looks at

    def features(self, ids: Sequence[Sequence[int]], details: Sequence[Details]) -> Tensor:
        """Return what the critic looks at, (B, F) float64 on the CPU.

        `ids`: the tokens of each text, its end included where it has one. `details`: what the base thinks of them.
        """
        return self.looked_at(ids, self.values(ids, details))

    def looked_at(self, ids: Sequence[Sequence[int]], values: Sequence[Tensor]) -> Tensor:
        """Return what the critic looks at, (B, F) float64, from the `values` of each text."""
        found = self.sums(values)
        if self.readers:
            read = torch.stack([self.read(k, ids, values) for k in range(len(self.readers))])
            found = torch.cat([found, read.mean(0)[:, None]], 1)
        return found

    @torch.no_grad()
    def values(self, ids: Sequence[Sequence[int]], details: Sequence[Details]) -> list[Tensor]:
        """Return what base and n-grams say of the tokens of each text, B of (L, VALUES) float64 on the CPU."""
        lengths = [len(row) for row in ids]
        log_p, entropy, likeliest = (
            torch.cat([getattr(one, name) for one in details]).cpu().double()
            for name in ("log_prob", "entropy", "top_log_prob")
        )
        trigram, ngram = (self._log_p(model, ids) for model in (self.trigram, self.ngram))
        turned = torch.split(self._log_p(self.backward, [self._reversed(text) for text in ids]), lengths)
        backward = torch.cat([self._unreversed(text, rows) for text, rows in zip(ids, turned, strict=True)])
        both = torch.logaddexp(log_p, ngram) - torch.tensor(2.0).log()
        columns = [log_p, entropy, log_p - likeliest, trigram, ngram, backward, both]
        return list(torch.split(torch.stack(columns, 1), lengths))

    def sums(self, values: Sequence[Tensor]) -> Tensor:
        """Return the numbers of whole texts, (B, FEATURES) float64."""
        lengths = torch.tensor([len(rows) for rows in values])
        row = torch.arange(len(values)).repeat_interleave(lengths)
        columns = torch.cat(list(values)).T if len(values) else torch.zeros(VALUES, 0, dtype=torch.float64)
        found = torch.zeros(len(values), len(FEATURES), dtype=torch.float64)
        found[:, 0] = lengths
        for place, column in enumerate(columns, 1):
            found[:, place] = torch.zeros(len(values), dtype=torch.float64).index_add_(0, row, column)
        for place, column in enumerate(columns[[0, 4, 6]], 1 + VALUES):
            found[:, place] = found[:, place].scatter_reduce(0, row, column, "amin", include_self=False)
        return found

    @torch.no_grad()
    def read(self, reader: int, ids: Sequence[Sequence[int]], values: Sequence[Tensor]) -> Tensor:
        """Return what one reader thinks of each text, (B,) float64 on the CPU; a text without a token has 0."""
        found = torch.zeros(len(ids), dtype=torch.float64)
        device = self.weights.device
        long = torch.tensor([-(-len(row) // _STEP) * _STEP for row in ids])
        for length in sorted({*long.tolist()} - {0}):
            for some in torch.split((long == length).nonzero().flatten(), _CHUNK):
                batch = padded([ids[k] for k in some], [values[k] for k in some], length, _CHUNK)
                found[some] = self.readers[reader](*(x.to(device) for x in batch))[: len(some)].cpu().double()
        return found

    def _reversed(self, text: Sequence[int]) -> list[int]:
        ended = bool(text) and text[-1] == self.config.stop
        return [*reversed(text[:-1]), self.config.stop] if ended else list(reversed(text))

    def _unreversed(self, text: Sequence[int], rows: Tensor) -> Tensor:
        return torch.cat([rows[:-1].flip(0), rows[-1:]]) if text and text[-1] == self.config.stop else rows.flip(0)

    def _log_p(self, model: kneser_ney.Model, ids: Sequence[Sequence[int]]) -> Tensor:
        """Return the log-probability of every token of all texts, (T,) float64 on the CPU."""
        parts = []
        for begin in range(0, len(ids), _ROWS):
            some = ids[begin : begin + _ROWS]
            lengths = torch.tensor([len(row) for row in some])
            targets = nn.utils.rnn.pad_sequence([torch.tensor(row) for row in some], batch_first=True)
            inputs = torch.cat([torch.full_like(targets[:, :1], self.config.start), targets[:, :-1]], 1)
            inside = torch.arange(targets.shape[1]) < lengths[:, None]
            positions = inside.flatten().nonzero().squeeze(1)
            batch = SequenceBatch(inputs, targets, positions, lengths, torch.arange(len(some)))
            parts.append(model.log_probs(batch.to(model.tokens.device)).cpu())
        return torch.cat(parts)

    # The critic and the model that it makes

    def expanded(self, features_bf: Tensor) -> Tensor:
        """Return what the critic is linear in, (B, W): features in standard deviations, and all their products."""
        z = ((features_bf - self.mean.cpu()) / self.scale.cpu()).clamp(-_FARTHEST, _FARTHEST)
        return torch.cat([z, z[:, self._row] * z[:, self._column]], 1)

    def scores(self, features_bf: Tensor) -> Tensor:
        """Return s, (B,) float64: how much likelier a text is in the data than under the base, up to a constant."""
        total = torch.zeros(len(features_bf), dtype=torch.float64)
        # column by column: a product of matrices adds up in an order that depends on how many texts there are
        for column, weight in zip(self.expanded(features_bf).T, self.weights.tolist(), strict=True):
            total = total + column * weight
        return total

    def gains(self, scores_b: Tensor, n: int) -> Tensor:
        """Return log q_n - log p of texts with these scores, (B,) float64, nats: see the head of the file."""
        return resampled_gains(scores_b, self.base_scores.cpu(), n)

    def chosen(self, scores_bn: Tensor, seeds_b: Tensor) -> Tensor:
        """Return which of n candidates each text is, (B,) int64: i with probability proportional to exp(s_i).

        The draw is a function of the seed of each text, that of its first candidate.
        """
        uniforms_b = rng.uniforms(seeds_b, 0, stream=1)
        ends = torch.softmax(scores_bn, 1).cumsum(1)
        ends[:, -1] = 1.0
        return torch.searchsorted(ends, uniforms_b[:, None], right=True).squeeze(1)


def padded(
    ids: Sequence[Sequence[int]], values: Sequence[Tensor], length: int, rows: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what a reader reads, filled up with texts of one token 0: ids (rows, length), values, lengths (rows,)."""
    ids_bl, lengths = torch.zeros(rows, length, dtype=torch.int64), torch.ones(rows, dtype=torch.int64)
    values_blv = torch.zeros(rows, length, VALUES)
    for k, (row, own) in enumerate(zip(ids, values, strict=True)):
        ids_bl[k, : len(row)], values_blv[k, : len(row)], lengths[k] = torch.tensor(row), own / 5, len(row)
    return ids_bl, values_blv, lengths


def resampled_gains(scores_b: Tensor, base_scores: Tensor, n: int) -> Tensor:
    """Return log q_n - log p, (B,) float64, of texts with scores (B,), estimated from scores (N,) of texts of p.

    The mean is over random sets of n - 1 of them, the same for every text: every one of the N stands in as many sets
    as any other, up to one. ValueError where there are fewer than n - 1.
    """
    if n == 1:
        return torch.zeros_like(scores_b)
    if len(base_scores) < n - 1:
        raise ValueError(f"resampling of {n} needs {n - 1} scores of the base, got {len(base_scores)}")
    generator, sets = rng.generator("resample", n), len(base_scores) // (n - 1)
    others = torch.cat(
        [
            base_scores[torch.randperm(len(base_scores), generator=generator)[: sets * (n - 1)]].view(sets, n - 1)
            for _ in range(-(-_SETS // sets))
        ]
    ).logsumexp(1)
    parts = [
        (scores[:, None] - torch.logaddexp(scores[:, None], others)).logsumexp(1)
        for scores in torch.split(scores_b, _ROWS)
    ]
    return torch.cat(parts) + torch.tensor(n / len(others), dtype=torch.float64).log() if parts else scores_b


def optimizers(model: Model, train: Train) -> dict[str, Optimizer]:
    """Return no optimizer: a refined run is not trained."""
    return {}


def train_step(model: Model, optimizers: dict[str, Optimizer], batch: SequenceBatch, step: int) -> NoReturn:
    """Raise ConfigError: a refined run is not trained."""
    raise ConfigError(f"a refined run is not trained; it is made by: {MADE_BY}")


def validate(model: Model, batch: SequenceBatch) -> dict[str, tuple[Tensor | float, Tensor | int]]:
    """Return the nll of the counted tokens under the base in nats, as (sum, count)."""
    return {"nll": (-model.log_probs(batch).sum(), batch.count)}
