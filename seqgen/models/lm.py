"""Recurrent language model: LSTM, GRU, minGRU or minLSTM with AWD regularisation (Merity, Keskar and Socher 2018).

log p(x) = sum over t of log softmax(W_out h_t + b)[x_t], where h_t summarises x_1 .. x_(t-1). Rows are sentences, each
from a zero state, or windows of a stream whose state is carried from step to step. Only counted positions reach the
output layer.
Shapes: B rows, T positions, P counted positions, E embedding, H hidden, V vocabulary.
Run: seqgen train lm --data captions.txt --out runs/captions
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from seqgen.core.batch import SequenceBatch
from seqgen.core.config import Train
from seqgen.core.options import Sampling
from seqgen.core.update import Optimizer, update
from seqgen.nn.decode import TILE, Decoder, Recurrent, Samples
from seqgen.nn.losses import linear_cross_entropy, linear_log_probs
from seqgen.nn.rnn import Cell, Rnn, State, locked_dropout, row_dropout
from seqgen.nn.sampler import Precision

DATA = "text"
_TABLE = 1 << 23  # tokens times width up to which sampling tabulates input products: 4 gates of 4 bytes each


@dataclass(frozen=True)
class Config:
    """The section `model` of a language model."""

    cell: Cell = "lstm"
    """Kind of layer."""
    layers: Annotated[int, Field(ge=1)] = 1
    """How many recurrent layers."""
    embedding: Annotated[int, Field(ge=1)] = 256
    """Features of a token."""
    hidden: Annotated[int, Field(ge=1)] = 512
    """Features of each layer's state."""
    last_hidden: Annotated[int, Field(ge=0)] = 0
    """Features of the last layer; 0: as `hidden`. AWD-LSTM makes it as wide as the embedding."""
    tied: bool = True
    """The output layer shares the embedding's weights; a last layer of another width is projected to it first."""
    embedding_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the vocabulary whose embeddings are zero for a whole step."""
    input_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Dropout of the embedded input, one mask for all positions of a row."""
    hidden_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Dropout between layers, one mask for all positions of a row."""
    output_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Dropout after the last layer, one mask for all positions of a row."""
    weight_drop: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the hidden-to-hidden weights that are zero for a whole step."""
    activation_penalty: Annotated[float, Field(ge=0)] = 0.0
    """AR: times the mean square of the dropped-out last layer, added to the loss per token."""
    slowness_penalty: Annotated[float, Field(ge=0)] = 0.0
    """TAR: times the mean square of the change of the last layer between positions, added to the loss per token."""
    vocab_size: Annotated[int, Field(ge=0)] = 0
    """Number of tokens; filled from the tokenizer."""
    stop: Annotated[int, Field(ge=-1)] = -1
    """The token that ends a text, -1: none; filled from the tokenizer."""
    suppress_tokens: tuple[int, ...] = ()
    """Tokens that sampling must not emit; filled from the tokenizer."""
    max_length: Annotated[int, Field(ge=0)] = 0
    """Tokens of a sampled text at most; filled from the data."""


class Model(nn.Module):
    """Embedding, recurrent layers, output layer.

    The embedding starts uniform in +-0.1 and an untied output layer likewise, output biases at 0, the recurrent layers
    as `nn.rnn.Rnn` says, a projection as torch's `nn.Linear`.
    """

    rank_local = ("stream_state",)
    stream_state: Tensor | None
    """In stream mode the state after the last training step, (B, sum of widths); each process has its own."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        if config.vocab_size < 1:
            raise ValueError(f"model.vocab_size must be at least 1, got {config.vocab_size}")
        self.config = config
        widths = [config.hidden] * (config.layers - 1) + [config.last_hidden or config.hidden]
        self.embedding = nn.Embedding(config.vocab_size, config.embedding)
        self.rnn = Rnn(
            config.cell,
            config.embedding,
            widths,
            input_dropout=config.input_dropout,
            between_dropout=config.hidden_dropout,
            weight_drop=config.weight_drop,
        )
        self.projection = None
        if config.tied and widths[-1] != config.embedding:
            self.projection = nn.Linear(widths[-1], config.embedding, bias=False)
        self.output_weight = None if config.tied else nn.Parameter(torch.empty(config.vocab_size, widths[-1]))
        self.output_bias = nn.Parameter(torch.zeros(config.vocab_size))
        for weight in (self.embedding.weight, self.output_weight):
            if weight is not None:
                nn.init.uniform_(weight, -0.1, 0.1)
        self.register_buffer("stream_state", None)
        self.carries = True
        self._evaluation_state: Tensor | None = None

    # Training and scoring: whole batches

    def scan(self, inputs_bt: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Return the last layer at every position, (B, T, H) without output dropout, and the state after it."""
        dropout = self.config.embedding_dropout if self.training else 0.0
        return self.rnn(row_dropout(self.embedding, inputs_bt, dropout), state)  # type: ignore[no-any-return]

    def features(self, hidden_ph: Tensor) -> Tensor:
        """Return what the output layer multiplies: the last layer, projected where widths differ."""
        return hidden_ph if self.projection is None else self.projection(hidden_ph)

    def loss(self, batch: SequenceBatch, state: State | None = None) -> tuple[Tensor, Tensor, State]:
        """Return the summed loss with gradient, the summed nll in nats without, and the state after the batch."""
        config = self.config
        raw_bth, state = self.scan(batch.inputs, state)
        dropped = locked_dropout(raw_bth, config.output_dropout) if self.training else raw_bth
        counted = dropped.flatten(0, 1)[batch.positions]
        targets = batch.targets.flatten()[batch.positions]
        loss = nll = linear_cross_entropy(self.features(counted), *self.head(), targets)
        if config.activation_penalty:
            loss = loss + config.activation_penalty * batch.count * counted.float().square().mean()
        if config.slowness_penalty:
            later = batch.later
            flat = raw_bth.flatten(0, 1).float()
            change = (flat[later] - flat[later - 1]).square().sum() / max(1, later.numel() * flat.shape[1])
            loss = loss + config.slowness_penalty * batch.count * change
        return loss, nll.detach(), state

    def log_probs(self, batch: SequenceBatch) -> Tensor:
        """Return the log-probability of every counted target in nats, (P,) float64, without gradient.

        A carried batch goes on from the last call's state, not from training's.
        """
        with torch.no_grad():
            before = self._unpacked(self._evaluation_state) if batch.stateful else None
            hidden_bth, state = self.scan(batch.inputs, before)
            self._evaluation_state = torch.cat(state, 1)
            counted = hidden_bth.flatten(0, 1)[batch.positions]
            return linear_log_probs(self.features(counted), *self.head(), batch.targets.flatten()[batch.positions])

    def _unpacked(self, stream_state: Tensor | None) -> State:
        if stream_state is None:
            raise ValueError("a carried batch came first; a stream must begin with a batch whose `carried` is False")
        each = 2 if self.config.cell == "lstm" else 1
        return tuple(stream_state.split_with_sizes([width for width in self.rnn.widths for _ in range(each)], 1))

    # Sampling: one token per row

    def stepper(self, *, fast: bool = False) -> Recurrent:
        """Return this model for single steps, with copies of the recurrent weights of now.

        Input products are looked up in a table from the V-th id on, with `fast` at once, if it stays below 128 MB.
        """
        embedding = self.embedding.weight.detach()
        by_id = len(embedding) * self.rnn.widths[0] <= _TABLE
        step = self.rnn.stepper(embedding if by_id else None, table_now=fast)
        projection_t = None if self.projection is None else self.projection.weight.detach().t().contiguous()

        def run(ids: Tensor, state: State) -> tuple[Tensor, State]:
            hidden, state = step(ids if by_id else embedding[ids], state)
            return hidden if projection_t is None else hidden @ projection_t, state

        return Recurrent(self.rnn.zeros, run, self.head, tile=1 if fast else TILE)

    def head(self) -> tuple[Tensor, Tensor]:
        """Return the output layer: weight (V, H) and bias (V,)."""
        return self.embedding.weight if self.output_weight is None else self.output_weight, self.output_bias

    def decoder(self, *, fast: bool = False, precision: Precision = "fp32") -> Decoder:
        """Prepare this model for sampling with its present weights; worth keeping while they do not change."""
        config = self.config
        return Decoder(
            self.stepper(fast=fast),
            stop=config.stop,
            suppress_tokens=config.suppress_tokens,
            max_length=config.max_length,
            fast=fast,
            precision=precision,
        )

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Tensor,
        sampling: Sampling,
        *,
        fast: bool = False,
        precision: Precision = "fp32",
        **limits: Any,
    ) -> Samples:
        """Continue prompts (with their start id); text k depends on prompt, seed and options alone.

        `limits`: automaton, begin and no_copy of `Decoder.steps`.
        """
        return self.decoder(fast=fast, precision=precision).decode(prompts, seeds, sampling, **limits)


def attach(model: Model, data: Any) -> None:
    """Keep no state from batch to batch where the text is no stream: checkpoints then fit any number of processes."""
    model.carries = data.mode == "stream"


def optimizers(model: Model, train: Train) -> dict[str, Optimizer]:
    """Build one optimizer over all weights."""
    return {"model": Optimizer(model.named_parameters(), train)}


def train_step(
    model: Model, optimizers: dict[str, Optimizer], batch: SequenceBatch, step: int
) -> dict[str, float | Tensor]:
    """Make one update on the mean loss per token; the state of a stream is kept for the next batch."""
    optimizer = optimizers["model"]
    before = model._unpacked(model.stream_state) if batch.stateful else None
    after: list[State] = []
    nll: list[Tensor] = []

    def losses() -> Iterator[tuple[Tensor, int]]:
        for rows, part in batch.micro_batches(optimizer.train.accumulate):
            loss, part_nll, state = model.loss(part, None if before is None else tuple(s[rows] for s in before))
            after.append(state)
            nll.append(part_nll)
            yield loss, part.count

    scalars = update(optimizer, losses(), step, weight=batch.weight)
    if model.carries:
        model.stream_state = torch.cat([torch.cat(state, 1).detach() for state in after]).to(
            model.embedding.weight.dtype
        )
    return {**scalars, "nll": torch.stack(nll).sum() / batch.count}


def validate(model: Model, batch: SequenceBatch) -> dict[str, tuple[Tensor | float, Tensor | int]]:
    """Return the nll of the counted tokens in nats, as (sum, count)."""
    return {"nll": (-model.log_probs(batch).sum(), batch.count)}
