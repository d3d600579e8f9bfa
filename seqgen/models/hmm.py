"""A hidden Markov model of lines, trained by expectation maximisation (Baum et al. 1970; Rabiner 1989).

P(x, z) = start[z_1] emission[x_1, z_1] prod_t transition[z_(t-1), z_t] emission[x_t, z_t]; the end of a line is a token
like the others. A step is one iteration over all training rows, in float64: the E step by forward and backward passes
with scaling, rows of a batch together; the M step in closed form, with `smoothing` as a Dirichlet prior on emissions.
Shapes: B rows, T positions, P positions of all rows, those at t = 1 first, longest row first; K states, V vocabulary.
Run: seqgen train hmm --data captions.txt --out runs/captions-hmm
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from seqgen.core.batch import SequenceBatch
from seqgen.core.config import Train
from seqgen.core.errors import ConfigError
from seqgen.core.update import Optimizer
from seqgen.nn.decode import Decoder, Recurrent
from seqgen.nn.products import linear
from seqgen.nn.rnn import State

DATA = "text"
LINES_ONLY = True
_ROWS = 512  # a batch of the E step: its tensors (P, K) stay in the cache
_LEAST = 1e-300  # what a probability of 0 is divided by


@dataclass(frozen=True)
class Config:
    """The section `model` of a hidden Markov model."""

    states: Annotated[int, Field(ge=1)] = 128
    """Hidden states; the work of a step grows with their square."""
    smoothing: Annotated[float, Field(ge=0)] = 0.001
    """Added to every count of a token in a state; 0: what training never saw there has no probability."""
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


@dataclass(frozen=True)
class Rows:
    """Rows of a batch in one piece, position by position."""

    order: Tensor
    """(B,) int64: the rows of the batch, longest first."""
    place: Tensor
    """(P,) int64: where each position stands in the flat batch."""
    counts: list[int]
    """Rows that have each position: falling."""

    def steps(self) -> Iterator[slice]:
        """Yield the range of each position."""
        for end, count in zip(itertools.accumulate(self.counts), self.counts, strict=True):
            yield slice(end - count, end)


def in_rows(width: int, lengths: Tensor, *, skip: int = 0) -> Rows:
    """Return the order of positions for rows of these lengths, (B,) on the CPU, behind `skip` others each."""
    order = lengths.argsort(descending=True, stable=True)
    there = torch.arange(int(lengths.max()))[:, None] < lengths[order]
    t, row = there.nonzero().unbind(1)
    return Rows(order, order[row] * width + t + skip, there.sum(1).tolist())


class Model(nn.Module):
    """Three tables of probabilities in buffers, drawn uniformly from all distributions at first."""

    initial: Tensor
    """(K,): the state of the first token."""
    transition: Tensor
    """(K, K): the next state, a row for each state."""
    emission: Tensor
    """(V, K): the token, a column for each state."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        if config.vocab_size < 1:
            raise ValueError(f"model.vocab_size must be at least 1, got {config.vocab_size}")
        self.config = config
        k = config.states
        emission = _drawn(config.vocab_size, k)
        emission[~self.writable()] = 0
        for name, table in (("initial", _drawn(k)), ("transition", _drawn(k, k)), ("emission", emission)):
            self.register_buffer(name, table / table.sum(1 if name == "transition" else 0, keepdim=True))
        self.rows: Any = None
        """The training rows, while there is training."""

    def writable(self) -> Tensor:
        """Return which ids a row may hold after its start, (V,) bool."""
        config = self.config
        may = torch.ones(config.vocab_size, dtype=torch.bool)
        may[[i for i in (config.start, config.pad, config.sep) if i >= 0]] = False
        may[config.stop] = True
        return may

    # Training: one iteration of expectation maximisation

    def improve(self) -> tuple[Tensor, int]:
        """Make one iteration over the training rows; the nll of all of them before it in nats, and their tokens."""
        totals = [torch.zeros_like(table) for table in (self.initial, self.transition, self.emission)]
        nll, tokens = torch.zeros_like(self.initial[0]), 0
        lengths = self.rows.lengths - 1
        for chosen in lengths.argsort(descending=True, stable=True).split(_ROWS):
            padded, _ = self.rows.take(chosen).padded(0)
            rows = in_rows(padded.shape[1], lengths[chosen], skip=1)
            ids = padded.flatten()[rows.place].to(self.initial.device)
            nll -= self._add_expected(ids, rows, totals)
            tokens += len(ids)
        initial, transition, emission = totals
        emission += self.config.smoothing * self.writable().to(emission.device)[:, None]
        self.initial = initial / initial.sum()
        self.transition = _rows_normal(transition, self.transition)
        self.emission = _rows_normal(emission.t(), self.emission.t()).t().contiguous()
        return nll, tokens

    def forward_pass(self, ids: Tensor, rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
        """Return P(z_t | x_1 .. x_t) (P, K), P(x_t | x_1 .. x_(t-1)) (P,), and the emissions of each token (P, K)."""
        emitted = self.emission[ids]
        filtered, p = torch.empty_like(emitted), emitted.new_empty(len(emitted))
        before = self.initial.expand(rows.counts[0], -1)
        for now, count in zip(rows.steps(), [*rows.counts[1:], 0], strict=True):
            joint = torch.mul(before, emitted[now], out=filtered[now])
            torch.sum(joint, 1, out=p[now])
            joint /= p[now, None].clamp(min=_LEAST)
            before = joint[:count] @ self.transition
        return filtered, p, emitted

    def _add_expected(self, ids: Tensor, rows: Rows, totals: list[Tensor]) -> Tensor:
        """Add the expected counts of rows to those of starts, transitions and emissions; returns log P of the rows."""
        initial, transition, emission = totals
        filtered, p, emitted = self.forward_pass(ids, rows)
        emitted /= p[:, None].clamp(min=_LEAST)  # from here on times P(x_(t+1) .. | z_t) / P(x_(t+1) .. | x_1 .. x_t)
        pairs, after = torch.zeros_like(transition), filtered[:0]
        steps = list(rows.steps())
        for t in range(len(steps) - 1, -1, -1):
            now, count = filtered[steps[t]], len(after)
            beyond = torch.ones_like(now)
            if count:
                torch.mm(after, self.transition.t(), out=beyond[:count])
                pairs.addmm_(now[:count].t(), after)
            after = emitted[steps[t]].mul_(beyond)
            now *= beyond
        initial += filtered[: rows.counts[0]].sum(0)
        transition += pairs * self.transition
        # unlike index_add_, this keeps one order of summation on a GPU
        emission.index_put_((ids,), filtered, accumulate=True)
        return p.log().sum()

    # Scoring

    def log_probs(self, batch: SequenceBatch) -> Tensor:
        """Return the log-probability of every counted target in nats, (P,) float64."""
        rows, place = self._in_rows(batch)
        flat = self.initial.new_zeros(batch.targets.numel())
        flat[place] = self.forward_pass(batch.targets.flatten()[place], rows)[1].log()
        return flat[batch.positions]

    def _in_rows(self, batch: SequenceBatch) -> tuple[Rows, Tensor]:
        """Return the rows of a batch, and the places of their positions in it where it is."""
        rows = in_rows(batch.targets.shape[1], batch.lengths.cpu())
        return rows, rows.place.to(batch.targets.device)

    def viterbi(self, batch: SequenceBatch) -> tuple[Tensor, Tensor]:
        """Return the likeliest states of each row, (B, T) int64, -1 behind its end, and log P(x, z) of them, (B,)."""
        rows, place = self._in_rows(batch)
        emitted, moves = self.emission.log()[batch.targets.flatten()[place]], self.transition.log()
        best = self.initial.log().expand(rows.counts[0], -1) + emitted[: rows.counts[0]]
        ends = torch.empty_like(best)
        origins: list[Tensor | None] = [None]
        for now in itertools.islice(rows.steps(), 1, None):
            count = now.stop - now.start
            ends[count : len(best)] = best[count:]
            best, origin = (best[:count, :, None] + moves).max(1)
            best = best + emitted[now]
            origins.append(origin)
        ends[: len(best)] = best
        total, state = ends.max(1)
        found = torch.full_like(batch.targets, -1).flatten()
        for now, back in zip(reversed(list(rows.steps())), reversed(origins), strict=True):
            count = now.stop - now.start
            found[place[now]] = state[:count]
            if back is not None:
                state[:count] = back.gather(1, state[:count, None])[:, 0]
        return found.view_as(batch.targets), total[rows.order.argsort().to(total.device)]

    # Sampling: one token per row, from what the tokens before say of the state

    def stepper(self) -> Recurrent:
        """Return this model for single steps: the state is P(z_t | x_1 .. x_(t-1)), (B, K) float32."""
        initial, transition, emission = self.initial.float(), self.transition.float(), self.emission.float()

        def start(rows: int) -> State:
            return (initial.repeat(rows, 1),)

        def step(ids: Tensor, state: State) -> tuple[Tensor, State]:
            joint = state[0] * emission[ids]
            after = linear(joint / joint.sum(1, keepdim=True).clamp(min=1e-30), transition.t())
            after = torch.where((ids == self.config.start)[:, None], state[0], after)
            return after, (after,)

        return Recurrent(start, step, lambda: NextToken(emission))

    def decoder(self, *, fast: bool = False) -> Decoder:
        """Prepare this model for sampling with its present tables."""
        config = self.config
        return Decoder(
            self.stepper(),
            stop=config.stop,
            suppress_tokens=config.suppress_tokens,
            max_length=config.max_length,
            fast=fast,
        )


class NextToken:
    """The head: the distribution of the next token from that of the state."""

    def __init__(self, emission_vk: Tensor) -> None:
        self._emission = emission_vk
        self.vocab_size, self.device = len(emission_vk), emission_vk.device

    def log_probs(self, features_cf: Tensor) -> Tensor:
        """Log-probabilities (C, V) in nats, float32."""
        return linear(features_cf, self._emission).log()


def _drawn(*size: int) -> Tensor:
    """Weights that, once they sum to 1, are uniform over all distributions; float64."""
    return -torch.rand(size, dtype=torch.float64).clamp(min=_LEAST).log()


def _rows_normal(counts: Tensor, otherwise: Tensor) -> Tensor:
    """Rows that sum to 1; a state that was never in use keeps what it had."""
    total = counts.sum(1, keepdim=True)
    return torch.where(total > 0, counts / total.clamp(min=_LEAST), otherwise)


def attach(model: Model, data: Any) -> None:
    """Hand over the training rows. ConfigError for text that is no lines, and for conditions."""
    settings = data.resolved[0]
    if data.mode != "sentence" or settings.source:
        what = f"data.source = {settings.source}" if settings.source else f"data.mode = {data.mode}"
        raise ConfigError(f"hmm learns lines without conditions; got {what}, expected data.mode = sentence")
    # on the host, which cuts the batches; only ids go to the device
    model.rows = data.train.ids.to("cpu")


def optimizers(model: Model, train: Train) -> dict[str, Optimizer]:
    """Return no optimizer: nothing is learnt by gradient."""
    return {}


def train_step(model: Model, optimizers: dict[str, Optimizer], batch: SequenceBatch, step: int) -> dict[str, Tensor]:
    """Make one iteration of expectation maximisation; the nll of all training rows before it, in nats per token."""
    with torch.no_grad():
        nll, tokens = model.improve()
    return {"nll": nll / tokens}


def validate(model: Model, batch: SequenceBatch) -> dict[str, tuple[Tensor | float, Tensor | int]]:
    """Return the nll of the counted tokens in nats, as (sum, count)."""
    return {"nll": (-model.log_probs(batch).sum(), batch.count)}
