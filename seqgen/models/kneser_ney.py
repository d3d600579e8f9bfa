"""An n-gram model of lines: interpolated modified Kneser-Ney over a tokenizer's ids (Chen and Goodman 1999).

The first step fits it to all training rows at once, by counting; there are no weights and no gradient, so one step is
the whole training. P(x_t | x_(t-n+1) .. x_(t-1)) as `metrics.ngram_lm` has it, the end of sentence counted as a token
and the unigrams' freed mass shared evenly by all tokens that a row may hold, seen or not.
Shapes: B rows, T positions, P counted positions, V vocabulary, G n-grams of one order, C of the order below, N order.
Run: seqgen train kneser-ney --data captions.txt --out runs/captions-5-gram
"""

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from seqgen.core.batch import SequenceBatch
from seqgen.core.config import Train
from seqgen.core.errors import ConfigError
from seqgen.core.update import Optimizer
from seqgen.metrics.ngram_lm import BOS, EOS, FIRST, UNKNOWN, KneserNey
from seqgen.metrics.ngrams import Packed
from seqgen.nn.decode import Decoder, Recurrent
from seqgen.nn.rnn import State

DATA = "text"
LINES_ONLY = True


@dataclass(frozen=True)
class Config:
    """The section `model` of an n-gram model."""

    order: Annotated[int, Field(ge=1, le=9)] = 5
    """Tokens of the longest n-grams."""
    vocab_size: Annotated[int, Field(ge=0)] = 0
    """Number of tokens; filled from the tokenizer."""
    start: Annotated[int, Field(ge=-1)] = -1
    """The token before the first of a text; filled from the tokenizer."""
    stop: Annotated[int, Field(ge=-1)] = -1
    """The token that ends a text; filled from the tokenizer."""
    pad: Annotated[int, Field(ge=-1)] = -1
    """The token behind the end of short rows; filled from the tokenizer."""
    sep: Annotated[int, Field(ge=-1)] = -1
    """The token behind a condition; filled from the tokenizer."""
    suppress_tokens: tuple[int, ...] = ()
    """Tokens that sampling must not emit; filled from the tokenizer."""
    max_length: Annotated[int, Field(ge=0)] = 0
    """Tokens of a sampled text at most; filled from the data."""


class Model(nn.Module):
    """Sorted tables of n-grams in buffers; empty ones, before the fit, give every token the same probability."""

    tokens: Tensor
    """The ids seen in training, ascending; tables number them from `FIRST`."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        if config.vocab_size < 1:
            raise ValueError(f"model.vocab_size must be at least 1, got {config.vocab_size}")
        self.config = config
        self.register_buffer("tokens", torch.empty(0, dtype=torch.int64))
        for n in range(1, config.order + 1):
            self.register_buffer(f"keys_{n}", torch.empty(0, dtype=torch.int64))
            self.register_buffer(f"p_{n}", torch.empty(0, dtype=torch.float64))
            self.register_buffer(f"spare_{n}", torch.empty(0, dtype=torch.float64))
        self.data_sized = tuple(name for name, _ in self.named_buffers())
        self.rows: Any = None
        """The training rows, while there is training."""

    def fit(self, values: Tensor, lengths: Tensor) -> None:
        """Count the n-grams of rows of ids and fill the tables.

        The rows stand one after the other in `values` (T,), each with its start and stop; `lengths` (R,) of each.
        """
        # a corpus folder has ids below 65,536 as 16 bits without a sign
        values = values.cpu().long() & (0xFFFF if values.dtype == torch.int16 else -1)
        lengths = lengths.cpu()
        ends = lengths.cumsum(0)
        inside = torch.ones_like(values, dtype=torch.bool)
        inside[ends - lengths] = inside[ends - 1] = False
        values = values[inside]
        self.tokens = torch.unique(values).to(self.tokens.device)
        corpus = Packed(values.numpy(), (lengths - 2).numpy())
        fitted = KneserNey(corpus, self.config.order, symbols=int(self.writable().sum()))
        for n, level in enumerate(fitted.orders, 1):
            for name, table in (("keys", level.key), ("p", level.p), ("spare", level.spare)):
                setattr(self, f"{name}_{n}", torch.from_numpy(table).to(self.tokens.device))

    def level(self, n: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return keys (G,) and P (G,) of n-grams of order n, and the mass (C,) a context leaves to the order below."""
        return self.get_buffer(f"keys_{n}"), self.get_buffer(f"p_{n}"), self.get_buffer(f"spare_{n}")

    @property
    def depth(self) -> int:
        """The highest order that has n-grams; 0 before the fit."""
        return max((n for n in range(1, self.config.order + 1) if len(self.level(n)[0])), default=0)

    @property
    def width(self) -> int:
        """Factor of the context in the keys."""
        return len(self.tokens) + FIRST

    def writable(self) -> Tensor:
        """Return which ids a row may hold after its start, (V,) bool."""
        config = self.config
        may = torch.ones(config.vocab_size, dtype=torch.bool, device=self.tokens.device)
        may[[i for i in (config.start, config.pad, config.sep) if i >= 0]] = False
        may[self.tokens] = True
        may[config.stop] = True
        return may

    def numbers(self) -> Tensor:
        """Return what the tables call each id as a target, (V,) int64."""
        number = torch.full((self.config.vocab_size,), UNKNOWN, device=self.tokens.device)
        number[self.tokens] = torch.arange(FIRST, self.width, device=self.tokens.device)
        number[self.config.stop] = EOS
        return number

    def find(self, n: int, context: Tensor, token: Tensor) -> Tensor:
        """Index of the n-gram (context, token) of order n, -1 where it or its context was never seen; any shape."""
        keys = self.level(n)[0]
        key = context * self.width + token
        place = torch.searchsorted(keys, key).clamp(max=len(keys) - 1)
        return torch.where((context >= 0) & (keys[place] == key), place, -1)

    def log_probs(self, batch: SequenceBatch) -> Tensor:
        """Return the log-probability of every counted target in nats, (P,) float64."""
        token = self.numbers()[batch.targets]
        may = self.writable()
        p = may[batch.targets] / may.sum(dtype=torch.float64)
        context = torch.zeros_like(token)
        for n in range(1, self.depth + 1):
            _, p_n, spare = self.level(n)
            gram = self.find(n, context, token)
            p = torch.where(gram >= 0, p_n[gram], torch.where(context >= 0, spare[context], 1.0) * p)
            # the n-grams that end with the input of each position: what was the target before
            begin = self.find(1, context[:, :1], torch.full_like(token[:, :1], BOS))
            context = torch.cat([begin if n == 1 else torch.full_like(begin, -1), gram[:, :-1]], 1)
        return p.log().flatten()[batch.positions]

    # Sampling: one token per row

    def stepper(self) -> Recurrent:
        """Return this model for single steps: its state holds the n-grams that end the row, by order, (B, N)."""
        number, depth = self.numbers(), self.depth

        def start(rows: int) -> State:
            state = torch.full((rows, self.config.order), -1, device=self.tokens.device)
            state[:, 0] = 0
            return (state,)

        def step(ids: Tensor, state: State) -> tuple[Tensor, State]:
            before = state[0]
            token = torch.where(ids == self.config.start, BOS, number[ids])
            after = torch.full_like(before, -1)
            after[:, 0] = 0
            for n in range(1, min(depth, self.config.order - 1) + 1):
                after[:, n] = self.find(n, before[:, n - 1], token)
            return after, (after,)

        return Recurrent(start, step, lambda: NextToken(self))

    def decoder(self, *, fast: bool = False) -> Decoder:
        """Prepare this model for sampling."""
        config = self.config
        return Decoder(
            self.stepper(),
            stop=config.stop,
            suppress_tokens=config.suppress_tokens,
            max_length=config.max_length,
            fast=fast,
        )


class NextToken:
    """The head: the whole distribution of the next token from the n-grams that end each row."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self.vocab_size, self.device = model.config.vocab_size, model.tokens.device
        may = model.writable()
        ids = [model.config.start, model.config.stop, -1]
        self._ids = torch.cat([torch.tensor(ids, device=self.device), model.tokens])
        self._unigrams = may.float() / may.sum()
        if model.depth:
            keys, p, spare = model.level(1)
            self._unigrams *= spare.float()
            seen = keys != BOS
            self._unigrams[self._ids[keys[seen]]] = p[seen].float()

    def log_probs(self, features_cf: Tensor) -> Tensor:
        """Log-probabilities (C, V) in nats, float32."""
        model = self._model
        p = self._unigrams.repeat(len(features_cf), 1)
        for n in range(2, model.depth + 1):
            context = features_cf[:, n - 1].long()
            rows = (context >= 0).nonzero().squeeze(1)
            context = context[rows]
            keys, p_n, spare = model.level(n)
            p[rows] *= spare[context].float()[:, None]
            begin = torch.searchsorted(keys, context * model.width)
            count = torch.searchsorted(keys, (context + 1) * model.width) - begin
            first = count.cumsum(0) - count
            within = torch.arange(int(count.sum()), device=self.device) - first.repeat_interleave(count)
            gram = begin.repeat_interleave(count) + within
            p[rows.repeat_interleave(count), self._ids[keys[gram] % model.width]] = p_n[gram].float()
        return p.log()


def attach(model: Model, data: Any) -> None:
    """Hand over the training rows. ConfigError for text that is no lines, and for conditions."""
    settings = data.resolved[0]
    if data.mode != "sentence" or settings.source:
        what = f"data.source = {settings.source}" if settings.source else f"data.mode = {data.mode}"
        raise ConfigError(f"kneser-ney learns lines without conditions; got {what}, expected data.mode = sentence")
    model.rows = data.train.ids


def optimizers(model: Model, train: Train) -> dict[str, Optimizer]:
    """Return no optimizer: nothing is learnt by gradient."""
    return {}


def train_step(model: Model, optimizers: dict[str, Optimizer], batch: SequenceBatch, step: int) -> dict[str, Tensor]:
    """Fit the tables, unless an earlier step has; the nll of the batch in nats per token."""
    if not model.depth:
        model.fit(model.rows.values, model.rows.lengths)
    return {"nll": -model.log_probs(batch).mean()}


def validate(model: Model, batch: SequenceBatch) -> dict[str, tuple[Tensor | float, Tensor | int]]:
    """Return the nll of the counted tokens in nats, as (sum, count)."""
    return {"nll": (-model.log_probs(batch).sum(), batch.count)}
