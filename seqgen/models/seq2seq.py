"""Encoder and decoder with attention: from a source to a target, such as translation, summary, an answer.

A bidirectional recurrent encoder reads the source: values m_1 .. m_S. The decoder's state h_t follows target token t;
weights a_ts = softmax over s of score(h_t, m_s), context c_t = sum over s of a_ts m_s, attentional vector
v_t = tanh(W [c_t; h_t]), logits = W_out v_t + b (Luong et al. 2015, eq. 5 to 8). The score is bilinear (luong: h_t W
m_s) or additive (bahdanau: w tanh(W h_t + U m_s), Bahdanau et al. 2015, taken with the state after the token). With
input feeding the next input is [token; v_t], so training goes position by position; without it the layers scan whole
targets.
A row is `[start, source, sep, target, end]`: the source is all before the first counted position and that one.
Shapes: B rows, S source positions, U target positions, P counted positions, E embedding, H hidden, V vocabulary.
Run: seqgen train seq2seq --data multi30k --valid multi30k --out runs/translation
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from seqgen.core.batch import SequenceBatch
from seqgen.core.config import Train
from seqgen.core.errors import ConfigError
from seqgen.core.options import Sampling
from seqgen.core.update import Optimizer, update
from seqgen.nn.decode import TILE, Decoder, Samples, tiled
from seqgen.nn.losses import linear_cross_entropy, linear_log_probs
from seqgen.nn.products import linear, trained_linear
from seqgen.nn.rnn import Rnn, State, locked_dropout
from seqgen.nn.sampler import Precision

DATA = "text"
_BLOCK = 32  # source positions in sampling come in whole blocks: zeros at their end leave the bits of a row as they are


@dataclass(frozen=True)
class Config:
    """The section `model` of an encoder with a decoder."""

    cell: Literal["lstm", "gru"] = "lstm"
    """Kind of layer of encoder and decoder."""
    layers: Annotated[int, Field(ge=1)] = 1
    """How many recurrent layers encoder and decoder have each."""
    embedding: Annotated[int, Field(ge=1)] = 256
    """Features of a token, and of the vector that the output layer multiplies."""
    hidden: Annotated[int, Field(ge=2, multiple_of=2)] = 512
    """Features of a decoder layer's state, and of a source position: half of them from each direction."""
    attention: Literal["luong", "bahdanau"] = "luong"
    """Score of a source position: bilinear (Luong et al. 2015, "general") or additive (Bahdanau et al. 2015)."""
    input_feeding: bool = True
    """The decoder also reads the attentional vector of the position before; without it a step is quicker."""
    tied: bool = True
    """The output layer shares the embedding's weights."""
    input_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Dropout of embedded source and target, one mask for all positions of a row."""
    hidden_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Dropout between layers and of the encoder's values, one mask for all positions of a row."""
    output_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Dropout of the attentional vectors, one mask for all positions of a row."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of a target's probability that training spreads over the vocabulary (Szegedy et al. 2016)."""
    max_source: Annotated[int, Field(ge=1)] = 1024
    """Tokens of a source at most, its start and separators included; longer ones are refused."""
    vocab_size: Annotated[int, Field(ge=0)] = 0
    """Number of tokens of the target; filled from the tokenizer."""
    source_vocab_size: Annotated[int, Field(ge=0)] = 0
    """Further tokens that only a source has, 0: none; filled from its own tokenizer."""
    start: Annotated[int, Field(ge=-1)] = -1
    """The token that a row begins with; filled from the tokenizer."""
    stop: Annotated[int, Field(ge=-1)] = -1
    """The token that ends a text, -1: none; filled from the tokenizer."""
    sep: Annotated[int, Field(ge=-1)] = -1
    """The token behind each field of a source; filled from the tokenizer."""
    suppress_tokens: tuple[int, ...] = ()
    """Tokens that sampling must not emit; filled from the tokenizer."""
    max_length: Annotated[int, Field(ge=0)] = 0
    """Tokens of a sampled text at most; filled from the data."""


@dataclass(frozen=True)
class Sources:
    """What the decoder attends to."""

    keys: Tensor
    """(B, S, H): what a state is scored against."""
    values: Tensor
    """(B, S, H): what the context is the weighted mean of."""
    bias: Tensor
    """(B, S): 0, or -infinity behind the end of a source."""


class Model(nn.Module):
    """Embedding, encoder layers of two directions each, attention, decoder layers, output layer.

    The embedding and an untied output layer start uniform with variance 1 / E, and what is read of the embedding is
    multiplied by sqrt(E): of small inputs all values are alike, and attention is not learnt for long. Output biases
    start at 0, the recurrent layers as `nn.rnn.Rnn` says, all else as torch's `nn.Linear`.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        if config.vocab_size < 1:
            raise ValueError(f"model.vocab_size must be at least 1, got {config.vocab_size}")
        self.config = config
        size, wide = config.hidden, config.embedding
        self.embedding = nn.Embedding(config.vocab_size + config.source_vocab_size, wide)
        self.encoder = nn.ModuleList(
            nn.ModuleList(Rnn(config.cell, size if layer else wide, [size // 2]) for _ in range(2))
            for layer in range(config.layers)
        )
        self.bridge = nn.Linear(size, config.layers * size)
        self.decoder_rnn = Rnn(
            config.cell,
            2 * wide if config.input_feeding else wide,
            [size] * config.layers,
            between_dropout=config.hidden_dropout,
        )
        self.keys = nn.Linear(size, size, bias=False)
        additive = config.attention == "bahdanau"
        self.query = nn.Linear(size, size) if additive else None
        self.energy = nn.Linear(size, 1, bias=False) if additive else None
        self.combine = nn.Linear(2 * size, wide, bias=False)
        self.output_weight = None if config.tied else nn.Parameter(torch.empty(config.vocab_size, wide))
        self.output_bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.scale = math.sqrt(wide)
        for weight in (self.embedding.weight, self.output_weight):
            if weight is not None:
                nn.init.uniform_(weight, -math.sqrt(3) / self.scale, math.sqrt(3) / self.scale)

    # Training and scoring: whole batches

    def _embedded(self, ids_bt: Tensor) -> Tensor:
        x: Tensor = self.embedding(ids_bt) * self.scale
        return locked_dropout(x, self.config.input_dropout) if self.training else x

    def encode(self, ids_bs: Tensor, lengths: Tensor) -> tuple[Sources, State]:
        """Return what the decoder attends to of sources (B, S) of these lengths (B,), and its state before a target."""
        config, training = self.config, self.training
        x = self._embedded(ids_bs)
        order, real = _backwards(ids_bs, lengths)
        row = torch.arange(len(ids_bs), device=ids_bs.device)
        ends: list[Tensor] = []
        layers: Any = self.encoder
        for number, (forwards, backwards) in enumerate(layers):
            if number and training:
                x = locked_dropout(x, config.hidden_dropout)
            # by indices, not gather, whose gradient a GPU sums in no fixed order
            there, _ = forwards(x)
            back, _ = backwards(x[row[:, None], order])
            x = torch.cat([there, back[row[:, None], order]], -1)
            ends = [there[row, lengths - 1], back[row, lengths - 1]]
        if training:
            x = locked_dropout(x, config.hidden_dropout)
        state = self._state(_product(self.bridge, torch.cat(ends, 1)))
        keys = _product(self.keys, x.flatten(0, 1)).view_as(x)
        return Sources(keys, x, _end_bias(real, x)), state

    def _state(self, bridge_bk: Tensor) -> State:
        """Return the decoder's state before its first token from the bridge's (B, layers * H)."""
        parts = bridge_bk.chunk(self.config.layers, 1)
        if self.config.cell == "gru":
            return tuple(part.tanh() for part in parts)
        return tuple(end for part in parts for end in (part.tanh(), part))

    def attended(self, states_bth: Tensor, sources: Sources, product: "Product") -> tuple[Tensor, Tensor]:
        """Return attentional vectors (B, T, E), without dropout, and weights (B, T, S) for states of the decoder."""
        if self.query is None or self.energy is None:
            scores = states_bth @ sources.keys.transpose(1, 2)
        else:
            query = product(self.query, states_bth.flatten(0, 1)).view_as(states_bth)
            both = torch.tanh(sources.keys[:, None] + query[:, :, None])
            scores = both @ self.energy.weight[0]
        weights = (scores + sources.bias[:, None]).softmax(-1)
        joined = torch.cat([weights.to(sources.values.dtype) @ sources.values, states_bth], -1)
        vectors = product(self.combine, joined.flatten(0, 1)).view(*states_bth.shape[:2], -1)
        return torch.tanh(vectors), weights

    def decode(self, inputs_bu: Tensor, sources: Sources, state: State) -> tuple[Tensor, Tensor]:
        """Return attentional vectors (B, U, E) after target tokens (B, U), and weights (B, U, S)."""
        config = self.config
        x = self._embedded(inputs_bu)
        if not config.input_feeding:
            hidden, _ = self.decoder_rnn(x, state)
            vectors, weights = self.attended(hidden, sources, _product)
            return locked_dropout(vectors, config.output_dropout) if self.training else vectors, weights
        made, seen = [], []
        step = self._steps_with_gradient(x)
        mask = F.dropout(torch.ones_like(x[:, 0]), config.output_dropout, self.training)
        vector = torch.zeros_like(x[:, 0])
        for t in range(x.shape[1]):
            state = step(t, vector, state)
            vectors, weights = self.attended(state[-2 if config.cell == "lstm" else -1][:, None], sources, _product)
            vector = vectors[:, 0] * mask if self.training else vectors[:, 0]
            made.append(vector)
            seen.append(weights[:, 0])
        return torch.stack(made, 1), torch.stack(seen, 1)

    def _steps_with_gradient(self, x_bue: Tensor) -> Callable[[int, Tensor, State], State]:
        """Return a function (t, attentional vector before, state) -> state after token t, all layers, with gradient.

        What the first layer makes of tokens is one product for all positions.
        """
        config, (rows, length, wide) = self.config, x_bue.shape
        each = 2 if config.cell == "lstm" else 1
        first: Any = self.decoder_rnn.layers[0]
        # copies in one piece: products with slices of rows take 15 times as long
        own, fed = (part.contiguous() for part in first.weight_ih_l0.split([wide, wide], 1))
        from_tokens = trained_linear(x_bue.flatten(0, 1), own, first.bias_ih_l0).view(rows, length, -1).unbind(1)
        dropout = config.hidden_dropout if self.training else 0.0
        masks = [F.dropout(x_bue.new_ones(rows, config.hidden), dropout) for _ in self.decoder_rnn.layers[1:]]

        def step(t: int, vector: Tensor, state: State) -> State:
            after: list[Tensor] = []
            for number, layer in enumerate(self.decoder_rnn.layers):
                weights: Any = layer
                if number:
                    x = trained_linear(after[-each] * masks[number - 1], weights.weight_ih_l0, weights.bias_ih_l0)
                else:
                    x = from_tokens[t] + trained_linear(vector, fed)
                before = state[number * each : (number + 1) * each]
                h = trained_linear(before[0], weights.weight_hh_l0, weights.bias_hh_l0)
                if config.cell == "lstm":
                    i, f, g, o = (x + h).chunk(4, 1)
                    c = f.sigmoid() * before[1] + i.sigmoid() * g.tanh()
                    after += [o.sigmoid() * c.tanh(), c]
                else:
                    (r_x, u_x, n_x), (r_h, u_h, n_h) = x.chunk(3, 1), h.chunk(3, 1)
                    n = torch.tanh(n_x + (r_x + r_h).sigmoid() * n_h)
                    after.append(n + (u_x + u_h).sigmoid() * (before[0] - n))
            return tuple(after)

        return step

    def features(self, batch: SequenceBatch) -> tuple[Tensor, Tensor]:
        """Return what the output layer multiplies at every counted position, (P, E), and attention weights (B, U, S).

        The weights are those of all target positions, padded ones among them.
        """
        inputs, width, device = batch.inputs, batch.inputs.shape[1], batch.inputs.device
        row = torch.arange(len(inputs), device=device)
        # a row's counted positions begin at the last token of its source
        first = batch.positions[torch.searchsorted(batch.positions, row * width)] - row * width
        lengths, counted = batch.sizes
        source, target = int((lengths - counted).amax()) + 1, int(counted.amax())
        if source > self.config.max_source:
            raise ConfigError(
                f"a source of {source} tokens is over model.max_source = {self.config.max_source}; set it higher, or "
                "split the source"
            )
        sources, state = self.encode(inputs[:, :source], first + 1)
        place = first[:, None] + torch.arange(target, device=device)
        vectors, weights = self.decode(inputs[row[:, None], place.clamp(max=width - 1)], sources, state)
        of = batch.positions // width
        return vectors.flatten(0, 1)[batch.positions - first[of] + of * (target - width)], weights

    def loss(self, batch: SequenceBatch) -> tuple[Tensor, Tensor]:
        """Return the summed loss with gradient, and the summed nll in nats without."""
        features, _ = self.features(batch)
        targets, (weight, bias) = batch.targets.flatten()[batch.positions], self.head()
        loss = nll = linear_cross_entropy(features, weight, bias, targets)
        if share := self.config.label_smoothing:
            # (1 - share) nll + share * mean over v of -log p_v = nll + share * (logit of the target - mean logit)
            at_target = (features * F.embedding(targets, weight)).sum() + bias[targets].sum()
            mean = (features.sum(0) * weight.mean(0)).sum() + len(targets) * bias.mean()
            loss = loss + share * (at_target - mean)
        return loss, nll.detach()

    def log_probs(self, batch: SequenceBatch) -> Tensor:
        """Return the log-probability of every counted target in nats, (P,) float64, without gradient."""
        with torch.no_grad():
            features, _ = self.features(batch)
            return linear_log_probs(features, *self.head(), batch.targets.flatten()[batch.positions])

    def attention(self, batch: SequenceBatch) -> Tensor:
        """Return how much every target position looks at every source position, (B, U, S), each row 1 in all."""
        with torch.no_grad():
            return self.features(batch)[1]

    def head(self) -> tuple[Tensor, Tensor]:
        """Return the output layer: weight (V, E) and bias (V,)."""
        weight = self.embedding.weight[: self.config.vocab_size] if self.output_weight is None else self.output_weight
        return weight, self.output_bias

    # Sampling: one token per row

    def decoder(self, *, fast: bool = False, precision: Precision = "fp32") -> Decoder:
        """Prepare this model for sampling with its present weights; worth keeping while they do not change."""
        config = self.config
        return Decoder(
            Steps(self, 1 if fast else TILE),
            stop=config.stop,
            suppress_tokens=config.suppress_tokens,
            max_length=config.max_length,
            fast=fast,
            precision=precision,
        )

    def sample(
        self, prompts: Sequence[Sequence[int]], seeds: Tensor, sampling: Sampling, *, fast: bool = False, **limits: Any
    ) -> Samples:
        """Answer prompts (start id, source, separator); text k depends on prompt, seed and options alone.

        `limits`: automaton, begin and no_copy of `Decoder.steps`.
        """
        return self.decoder(fast=fast).decode(prompts, seeds, sampling, **limits)


Product = Callable[[nn.Linear, Tensor], Tensor]
"""A linear layer on a matrix: with gradient in training, by copied weights in sampling."""


def _product(layer: nn.Linear, x_rk: Tensor) -> Tensor:
    return trained_linear(x_rk, layer.weight, layer.bias)


def _backwards(ids_bs: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Return the places (B, S) that turn each row round within its own length, and which are inside it."""
    place, last = torch.arange(ids_bs.shape[1], device=ids_bs.device), (lengths - 1)[:, None]
    real = place <= last
    return torch.where(real, last - place, place), real


def _end_bias(real_bs: Tensor, like: Tensor) -> Tensor:
    return torch.zeros(real_bs.shape, dtype=like.dtype, device=like.device).masked_fill(~real_bs, -torch.inf)


@dataclass(frozen=True)
class Answers:
    """What rows carry from token to token: `Steps` says how."""

    waiting: list[tuple[int, ...] | None]
    """Of each row the tokens that were read before its source was encoded; None: it has been."""
    labels: Tensor
    """(B,) int64: a number for the source of each row, equal for equal ones."""
    sources: Sources
    state: State
    """Of the decoder's layers, and the attentional vector before."""


class Steps:
    """The model for single steps (`nn.decode.Autoregressive`), with copies of its weights.

    Where a source ends only the next token tells (a separator stands behind each of its fields), so it is encoded at
    the first step, each source once however many rows have it. A row's result has the same bits in every batch whose
    row count is a multiple of 8 (on a CPU).
    """

    context = 0

    def __init__(self, model: Model, tile: int) -> None:
        self._model, self._tile, self.head = model, tile, model.head
        self._embedding = model.embedding.weight.detach() * model.scale
        self.inputs = len(self._embedding)
        # transposed copies: a step of few rows reads them at twice the speed
        self._weights = {
            layer: layer.weight.detach().t().contiguous() for layer in model.modules() if isinstance(layer, nn.Linear)
        }
        layers: Any = model.encoder
        self._readers = [[(rnn.zeros, rnn.stepper()) for rnn in pair] for pair in layers]
        self._writer = model.decoder_rnn.stepper()
        self._numbers = itertools.count()

    def prefill(self, prompts: Sequence[Sequence[int]], state: Any = None, *, room: int = 0) -> Answers:
        """Keep the tokens for the first step."""
        if state is not None:
            raise ValueError("an encoder has no state of its own before a source")
        config, like = self._model.config, self._embedding
        limit = config.max_source
        for prompt in prompts:
            source = len(prompt) + 1 if config.sep not in prompt else _source_end(prompt, config)
            if source > limit:
                raise ValueError(
                    f"a source of {source} tokens is over the model's limit of {limit} (model.max_source); split it"
                )
        rows = len(prompts)
        nothing = like.new_zeros(rows, _BLOCK, config.hidden)
        after = (*self._model.decoder_rnn.zeros(rows), like.new_zeros(rows, config.embedding))
        labels = torch.full((rows,), -1, device=like.device)
        return Answers(list(map(tuple, prompts)), labels, Sources(nothing, nothing, nothing[:, :, 0]), after)

    def step(self, ids: Tensor, state: Answers) -> tuple[Tensor, Answers]:
        """Read one token of every row."""
        if any(tokens is not None for tokens in state.waiting):
            state = self._begun(ids.tolist(), state)
        after = self._read(ids, state)
        return after[-1], replace(state, state=after)

    def select(self, state: Answers, rows: Tensor) -> Answers:
        """Index what differs between rows; sources stay in place where beams of equal ones change places."""
        labels, sources = state.labels[rows], state.sources
        waiting = state.waiting
        if any(tokens is not None for tokens in waiting):
            waiting = [waiting[row] for row in rows.tolist()]
        elif len(rows) != len(waiting):
            waiting = [None] * len(rows)
        if not torch.equal(labels, state.labels):
            sources = Sources(sources.keys[rows], sources.values[rows], sources.bias[rows])
        return Answers(waiting, labels, sources, tuple(part[rows] for part in state.state))

    def join(self, states: Sequence[Answers]) -> Answers:
        """Return the rows of several states as those of one."""
        longest = max(state.sources.bias.shape[1] for state in states)
        sources = [_widened(state.sources, longest) for state in states]
        return Answers(
            [tokens for state in states for tokens in state.waiting],
            torch.cat([state.labels for state in states]),
            Sources(*(torch.cat([getattr(s, name) for s in sources]) for name in ("keys", "values", "bias"))),
            tuple(map(torch.cat, zip(*(state.state for state in states), strict=True))),
        )

    def _begun(self, last: list[int], state: Answers) -> Answers:
        """Return the state with all sources encoded and all tokens read but the last of each row."""
        config, device = self._model.config, self._embedding.device
        new = [row for row, tokens in enumerate(state.waiting) if tokens is not None]
        whole = [(*(state.waiting[row] or ()), last[row]) for row in new]
        ends = [_source_end(tokens, config) for tokens in whole]
        distinct = {tokens[:end]: None for tokens, end in zip(whole, ends, strict=True)}
        places = {source: place for place, source in enumerate(distinct)}
        numbers = torch.tensor([next(self._numbers) for _ in places], device=device)
        found, before = self._encoded(list(places))
        each = torch.tensor([places[tokens[:end]] for tokens, end in zip(whole, ends, strict=True)], device=device)
        rows = torch.tensor(new, device=device)
        sources = _widened(state.sources, found.bias.shape[1])
        found = _widened(found, sources.bias.shape[1])
        labels = state.labels.index_copy(0, rows, numbers[each])
        filled = Sources(
            sources.keys.index_copy(0, rows, found.keys[each]),
            sources.values.index_copy(0, rows, found.values[each]),
            sources.bias.index_copy(0, rows, found.bias[each]),
        )
        begun = tuple(old.index_copy(0, rows, part[each]) for old, part in zip(state.state, before, strict=False))
        result = Answers([None] * len(last), labels, filled, (*begun, state.state[-1]))
        # what of a target is given, read row by row as it would be in writing
        given: list[Sequence[int]] = [()] * len(last)
        for row, tokens, end in zip(new, whole, ends, strict=True):
            given[row] = tokens[end - 1 : -1]
        for t in range(max(map(len, given))):
            ids = torch.tensor([tokens[t] if t < len(tokens) else 0 for tokens in given], device=device)
            going = torch.tensor([t < len(tokens) for tokens in given], device=device)[:, None]
            after = self._read(ids, result)
            parts = zip(after, result.state, strict=True)
            result = replace(result, state=tuple(torch.where(going, part, old) for part, old in parts))
        return result

    def _read(self, ids: Tensor, state: Answers) -> State:
        """Return the decoder's state after a token of every row."""
        x = self._embedding[ids]
        if self._model.config.input_feeding:
            x = torch.cat([x, state.state[-1]], 1)
        hidden, after = self._writer(x, state.state[:-1])
        vectors, _ = self._model.attended(hidden[:, None], state.sources, self._product)
        return (*after, vectors[:, 0])

    def _encoded(self, sources: Sequence[tuple[int, ...]]) -> tuple[Sources, State]:
        """Return what the decoder attends to of each source, and its state before a target; the last ones repeat."""
        slots = tiled(torch.arange(len(sources)), self._tile).tolist()
        size = -(-max(map(len, sources)) // _BLOCK) * _BLOCK
        ids = torch.zeros(len(slots), size, dtype=torch.int64)
        for row, slot in enumerate(slots):
            ids[row, : len(sources[slot])] = torch.tensor(sources[slot])
        ids = ids.to(self._embedding.device)
        lengths = torch.tensor([len(sources[slot]) for slot in slots], device=ids.device)
        order, real = _backwards(ids, lengths)
        every = torch.arange(len(slots), device=ids.device)
        x = self._embedding[ids]
        ends: list[Tensor] = []
        for readers in self._readers:
            both, ends = [], []
            for turned, (zeros, step) in zip((False, True), readers, strict=True):
                state, out = zeros(len(slots)), x.new_zeros(len(slots), size, self._model.config.hidden // 2)
                for t in range(int(lengths.max())):
                    place = order[:, t] if turned else torch.full_like(order[:, 0], t)
                    hidden, after = step(x[every, place], state)
                    going = real[:, t, None]
                    state = tuple(torch.where(going, part, old) for part, old in zip(after, state, strict=True))
                    out[every, place] = torch.where(going, hidden, 0.0)
                both.append(out)
                ends.append(state[0])
            x = torch.cat(both, -1)
        before = self._model._state(self._product(self._model.bridge, torch.cat(ends, 1)))
        keys = self._product(self._model.keys, x.flatten(0, 1)).view_as(x)
        return Sources(keys, x, _end_bias(real, x)), before

    def _product(self, layer: nn.Linear, x_rk: Tensor) -> Tensor:
        return linear(x_rk, self._weights[layer].t(), layer.bias)


def _source_end(tokens: Sequence[int], config: Config) -> int:
    """Return how many tokens of a row its source has: up to its last separator, else the start alone."""
    return max((n for n, token in enumerate(tokens, 1) if token == config.sep), default=1)


def _widened(sources: Sources, size: int) -> Sources:
    """Return sources with room for so many positions at least."""
    more = size - sources.bias.shape[1]
    if more <= 0:
        return sources
    keys, values = (F.pad(part, (0, 0, 0, more)) for part in (sources.keys, sources.values))
    return Sources(keys, values, F.pad(sources.bias, (0, more), value=-torch.inf))


def attach(model: Model, data: Any) -> None:
    """Refuse text without sources, and sources that are too long, before anything is trained."""
    if not data.resolved[0].source:
        raise ConfigError(
            "seq2seq learns targets from sources: name them with data.source and data.target, columns of a table or "
            "endings of parallel files (train.en, train.de); for text alone there is lm"
        )
    longest = 1 + max(int(split.loss_from.max()) for split in (data.train, data.valid))
    if longest > model.config.max_source:
        raise ConfigError(
            f"the longest source has {longest} tokens, more than model.max_source = {model.config.max_source}; set it "
            "higher, or leave long rows out: data.max_length with data.long=drop"
        )


def optimizers(model: Model, train: Train) -> dict[str, Optimizer]:
    """Build one optimizer over all weights."""
    return {"model": Optimizer(model.named_parameters(), train)}


def train_step(
    model: Model, optimizers: dict[str, Optimizer], batch: SequenceBatch, step: int
) -> dict[str, float | Tensor]:
    """Make one update on the mean loss per target token."""
    optimizer = optimizers["model"]
    nll: list[Tensor] = []

    def losses() -> Iterator[tuple[Tensor, int]]:
        for _, part in batch.micro_batches(optimizer.train.accumulate):
            loss, part_nll = model.loss(part)
            nll.append(part_nll)
            yield loss, part.count

    scalars = update(optimizer, losses(), step, weight=batch.weight)
    return {**scalars, "nll": torch.stack(nll).sum() / batch.count}


def validate(model: Model, batch: SequenceBatch) -> dict[str, tuple[Tensor | float, Tensor | int]]:
    """Return the nll of the counted tokens in nats, as (sum, count)."""
    return {"nll": (-model.log_probs(batch).sum(), batch.count)}
