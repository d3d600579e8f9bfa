"""Decoder-only Transformer with pre-normalisation (Radford et al. 2019), cached keys and values in sampling.

x = x + attention(norm(x)), x = x + feedforward(norm(x)), logits = W norm(x). Positions by rotation of queries and keys
(Su et al. 2021) or learned; feed-forward SwiGLU (Shazeer 2020) or GELU. A row sees the last `context` positions at
most. A longer text slides: its window starts anew with the last half of it, in sampling and scoring alike, so no window
is longer than in training and every token but the first ones has half a context before it.
Shapes: B rows, T positions, P counted positions, D features (model.hidden), H heads, K features of a head, S positions
in the cache, V vocabulary.
Run: seqgen train gpt --data captions --out runs/gpt
"""

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from seqgen.core.batch import SequenceBatch
from seqgen.core.config import Train
from seqgen.core.errors import ConfigError
from seqgen.core.options import Sampling
from seqgen.core.update import Optimizer, update
from seqgen.nn.decode import TILE, Decoder, Samples, tiled
from seqgen.nn.losses import linear_cross_entropy, linear_log_probs
from seqgen.nn.products import linear, trained_linear
from seqgen.nn.sampler import Precision

DATA = "text"
STATELESS = True
_BLOCK = 64  # attention runs over whole blocks of positions: zeros at their end leave the bits of a row as they are


@dataclass(frozen=True)
class Config:
    """The section `model` of a decoder-only Transformer."""

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
    bias: bool = False
    """Linear layers and layer normalisation have biases."""
    tied: bool = True
    """The output layer shares the embedding's weights."""
    context: Annotated[int, Field(ge=0)] = 0
    """Positions that are seen at once; 0: as many as a row of the data has."""
    slide: bool = True
    """A text longer than the context goes on from its last half; false: it is refused."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Dropout of the embedded input, of attention weights, and of what each layer adds."""
    vocab_size: Annotated[int, Field(ge=0)] = 0
    """Number of tokens; filled from the tokenizer."""
    stop: Annotated[int, Field(ge=-1)] = -1
    """The token that ends a text, -1: none; filled from the tokenizer."""
    suppress_tokens: tuple[int, ...] = ()
    """Tokens that sampling must not emit; filled from the tokenizer."""
    max_length: Annotated[int, Field(ge=0)] = 0
    """Tokens of a sampled text at most; filled from the data."""


def _check(config: Config) -> None:
    """Raise ConfigError for sizes that do not go together; all at once."""
    faults = []
    if config.vocab_size < 1:
        faults.append(f"model.vocab_size must be at least 1, got {config.vocab_size}")
    if config.hidden % config.heads:
        faults.append(f"model.heads = {config.heads} must divide model.hidden = {config.hidden}")
    elif config.positions == "rotary" and config.hidden // config.heads % 2:
        faults.append(
            f"rotary positions need an even number of features in a head, got model.hidden / model.heads = "
            f"{config.hidden // config.heads}; change one of them, or set model.positions=learned"
        )
    if (context := config.context or config.max_length) < 2:
        faults.append(f"model.context must be at least 2 positions, got {context}")
    if faults:
        raise ConfigError("; ".join(faults))


class Norm(nn.Module):
    """Root-mean-square or layer normalisation with a gain, (.., D) to (.., D)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(config.hidden))
        self.bias = nn.Parameter(torch.zeros(config.hidden)) if config.norm == "layer" and config.bias else None
        self.kind = config.norm

    def forward(self, x: Tensor) -> Tensor:
        """Normalise in float32."""
        if self.kind == "rms":
            return F.rms_norm(x, self.weight.shape, self.weight, 1e-5)
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, 1e-5)


class Block(nn.Module):
    """The weights of one attention and one feed-forward layer; `apply` says what becomes of them."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        size, inner = config.hidden, _inner(config)
        self.norm_1, self.norm_2 = Norm(config), Norm(config)
        self.qkv = nn.Linear(size, 3 * size, config.bias)
        self.out = nn.Linear(size, size, config.bias)
        self.up = nn.Linear(size, inner * (2 if config.activation == "swiglu" else 1), config.bias)
        self.down = nn.Linear(inner, size, config.bias)


def _inner(config: Config) -> int:
    """Features inside the feed-forward layers: with a gate two thirds, in whole eights, so that weights are as many."""
    wide = 4 * config.hidden if config.activation == "gelu" else 8 * -(-config.hidden // 3)
    return config.feedforward or wide


class Model(nn.Module):
    """Embedding, blocks, a last normalisation, output layer.

    Weights start normal with standard deviation 0.02, those whose product is added to the stream of features smaller by
    sqrt(2 layers) (Radford et al. 2019); biases at 0.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        _check(config)
        self.config = config
        self.context = config.context or config.max_length
        self.embedding = nn.Embedding(config.vocab_size, config.hidden)
        self.positions = nn.Embedding(self.context, config.hidden) if config.positions == "learned" else None
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = Norm(config)
        self.output_weight = None if config.tied else nn.Parameter(torch.empty(config.vocab_size, config.hidden))
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                added = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * config.layers) if added else 0.02)
            elif "norm" not in name:
                nn.init.zeros_(parameter)

    # Training and scoring: whole rows

    def scan(self, inputs_bt: Tensor, seen_bt: Tensor | None = None) -> Tensor:
        """Return features of all positions of rows within the context, (B, T, D), before the last normalisation.

        A position sees itself and those before it; with `seen_bt` (bool) it sees those of its row, on both sides.
        """
        config, length = self.config, inputs_bt.shape[1]
        dropout = config.dropout if self.training else 0.0
        seen = None if seen_bt is None else seen_bt[:, None, None]
        if length > self.context:
            raise ValueError(f"a row of {length} positions exceeds model.context = {self.context}")
        x = self.embedding(inputs_bt)
        if self.positions is not None:
            x = x + self.positions.weight[:length]
        turn = None if self.positions is not None else rotation(length, config.hidden // config.heads, x.device)

        def attend(_: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            if q.device.type == "cpu":  # in bfloat16 it takes twice the time there
                q, k, v = q.float(), k.float(), v.float()
            # the fused kernels of a GPU add up the gradients of keys and values in no fixed order
            kernel = sdpa_kernel(SDPBackend.MATH) if self.training and q.is_cuda else contextlib.nullcontext()
            with kernel, torch.autocast("cpu", enabled=False):
                return F.scaled_dot_product_attention(
                    q, k, v, attn_mask=seen, dropout_p=dropout, is_causal=seen is None
                )

        def product(layer: nn.Linear, x: Tensor) -> Tensor:
            return trained_linear(x.flatten(0, 1), layer.weight, layer.bias).view(*x.shape[:2], -1)

        x = F.dropout(x, dropout)
        for number, block in enumerate(self.blocks):
            x = _through(block, number, x, turn, config, attend, product, dropout)
        return x

    def features(self, batch: SequenceBatch) -> Tensor:
        """Return what the output layer multiplies at counted positions, (P, D); long rows by windows as in sampling."""
        inputs, counted = batch.inputs, batch.positions
        if inputs.shape[1] <= self.context:
            return self.norm(self.scan(inputs).flatten(0, 1)[counted])  # type: ignore[no-any-return]
        if not self.config.slide:
            raise ConfigError(
                f"a row of {inputs.shape[1]} positions exceeds model.context = {self.context}, and model.slide is off"
            )
        keep = self.context // 2
        found = inputs.new_empty((*inputs.shape, self.config.hidden), dtype=self.embedding.weight.dtype)
        begin = 0
        while not begin or begin + keep < inputs.shape[1]:
            seen = slice(begin, begin + self.context)
            fresh = keep if begin else 0
            found[:, begin + fresh : begin + self.context] = self.scan(inputs[:, seen])[:, fresh:]
            begin += self.context - keep
        return self.norm(found.flatten(0, 1)[counted])  # type: ignore[no-any-return]

    def log_probs(self, batch: SequenceBatch) -> Tensor:
        """Return the log-probability of every counted target in nats, (P,) float64, without gradient."""
        with torch.no_grad():
            return linear_log_probs(self.features(batch), *self.head(), batch.targets.flatten()[batch.positions])

    # Sampling: one token per row

    def head(self) -> tuple[Tensor, None]:
        """Return the output layer: weight (V, D), without bias."""
        return self.embedding.weight if self.output_weight is None else self.output_weight, None

    def stepper(self, *, fast: bool = False) -> "Steps":
        """Return this model for single steps, with copies of the weights of now."""
        return Steps(self, 1 if fast else TILE)

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
        self, prompts: Sequence[Sequence[int]], seeds: Tensor, sampling: Sampling, *, fast: bool = False, **limits: Any
    ) -> Samples:
        """Continue prompts (with their start id); text k depends on prompt, seed and options alone.

        `limits`: automaton, begin and no_copy of `Decoder.steps`.
        """
        return self.decoder(fast=fast).decode(prompts, seeds, sampling, **limits)


def rotation(length: int, features: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return cosines and sines (T, K / 2) by which the pairs of features of a head turn at each position."""
    frequency = 10_000.0 ** -(torch.arange(0, features, 2, device=device) / features)
    angle = torch.arange(length, device=device)[:, None] * frequency
    return angle.cos(), angle.sin()


def _turned(x_bhtk: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Queries or keys with feature i and feature K / 2 + i turned against each other (Su et al. 2021, eq. 34)."""
    (cosine, sine), (a, b) = turn, x_bhtk.chunk(2, -1)
    return torch.cat([a * cosine - b * sine, b * cosine + a * sine], -1).to(x_bhtk.dtype)


def _through(
    block: Any, number: int, x: Tensor, turn: Any, config: Config, attend: Any, product: Any, dropout: float = 0.0
) -> Tensor:
    """Put x (B, T, D) through a block; `product` is a linear layer, `attend` takes q, k, v (B, H, T, K)."""
    q, k, v = product(block.qkv, block.norm_1(x)).unflatten(-1, (3, config.heads, -1)).transpose(1, 3).unbind(2)
    if turn is not None:
        q, k = _turned(q, turn), _turned(k, turn)
    mixed = attend(number, q, k, v).transpose(1, 2).flatten(2)
    x = x + F.dropout(product(block.out, mixed), dropout)
    up = product(block.up, block.norm_2(x))
    if config.activation == "gelu":
        inner = F.gelu(up, approximate="tanh")
    else:
        gate, value = up.chunk(2, -1)
        inner = F.silu(gate) * value
    return x + F.dropout(product(block.down, inner), dropout)


@dataclass
class Cache:
    """What a row keeps of the tokens it has read; the memory is taken once and written in place."""

    keys: list[Tensor]
    """Per layer, (rows, H, S, K); S in whole blocks."""
    values: list[Tensor]
    ids: Tensor
    """(rows, S): the tokens read, from which a window that is full begins anew."""
    used: Tensor
    """(B,) int64: positions in use. B may be below the number of rows that the memory has."""
    longest: int
    """The largest of `used`, or more."""


class Steps:
    """A Transformer for single steps (`nn.decode.Autoregressive`), with copies of its weights.

    A row's result has the same bits in every batch whose row count is a multiple of 8 (on a CPU).
    """

    def __init__(self, model: Model, tile: int) -> None:
        self._config, self._limit, self._tile = model.config, model.context, tile
        self.context = 0 if model.config.slide else model.context
        self.head = model.head
        self._embedding = model.embedding.weight.detach()
        self._positions = None if model.positions is None else model.positions.weight.detach()
        size = model.config.hidden // model.config.heads
        self._turn = rotation(self._limit, size, self._embedding.device) if self._positions is None else None
        self._blocks, self._norm = model.blocks, model.norm
        # transposed copies: a step of few rows reads them at twice the speed
        self._weights = {
            layer: layer.weight.detach().t().contiguous() for layer in model.modules() if isinstance(layer, nn.Linear)
        }

    def prefill(self, prompts: Sequence[Sequence[int]], state: Cache | None = None, *, room: int = 0) -> Cache:
        """Read whole prompts, a block of positions at a time; of longer ones than the context, their last window."""
        if state is not None:
            raise ValueError("a Transformer has no state of its own before a prompt")
        rows = tiled(torch.arange(len(prompts)), self._tile).tolist()
        windows = [self._window(list(prompts[n])) for n in rows]
        longest = max(map(len, windows))
        positions = min(self._limit, longest + room)
        cache = self._empty(len(rows), positions)
        if longest:
            padded = torch.zeros(len(rows), -(-longest // self._tile) * self._tile, dtype=torch.int64)
            for row, window in enumerate(windows):
                padded[row, : len(window)] = torch.tensor(window, dtype=torch.int64)
            padded = padded.to(cache.used.device)
            for begin in range(0, longest, _BLOCK):
                self._read(padded[:, begin : begin + _BLOCK], cache)
        lengths = torch.tensor([len(window) for window in windows[: len(prompts)]], device=cache.used.device)
        cache.used, cache.longest = lengths, longest
        return cache

    def step(self, ids: Tensor, state: Cache) -> tuple[Tensor, Cache]:
        """Read one position of every row."""
        if state.longest == self._limit:
            self._slide(state)
        x = self._read(ids[:, None], state)
        return self._norm(x[:, 0]), state

    def select(self, state: Cache, rows: Tensor) -> Cache:
        """Move rows within the memory; only more rows than it has take new memory."""
        used, count = state.used[rows], len(rows)
        full, inside = len(state.ids), _in_blocks(state.longest)
        for tensors in (state.keys, state.values):
            for n, memory in enumerate(tensors):
                tensors[n] = _moved(memory, rows, slice(inside), full)
        state.ids = _moved(state.ids[:, None], rows, slice(inside), full)[:, 0]
        # the true length: where others may join, a guess that only grows would outgrow the memory
        return Cache(state.keys, state.values, state.ids, used, int(used.amax()) if count else 0)

    def join(self, states: Sequence[Cache]) -> Cache:
        """Return the rows of several states as those of one, in new memory with room for the longest."""
        used = torch.cat([state.used for state in states])
        positions = max(state.ids.shape[1] for state in states)
        joined = self._empty(len(used), positions)
        begin = 0
        for state in states:
            rows, length = slice(begin, begin + len(state.used)), state.ids.shape[1]
            for ours, theirs in zip(joined.keys + joined.values, state.keys + state.values, strict=True):
                ours[rows, :, :length] = theirs[: len(state.used)]
            joined.ids[rows, :length] = state.ids[: len(state.used)]
            begin += len(state.used)
        joined.used, joined.longest = used, int(used.amax())
        return joined

    def _empty(self, rows: int, positions: int) -> Cache:
        config, like = self._config, self._embedding
        shape = (rows, config.heads, _in_blocks(positions), config.hidden // config.heads)
        # zeros: what lies behind the last position is multiplied by 0, which leaves no trace of a number only
        keys, values = ([like.new_zeros(shape) for _ in range(config.layers)] for _ in range(2))
        ids = torch.zeros(rows, shape[2], dtype=torch.int64, device=like.device)
        return Cache(keys, values, ids, ids[:, 0].clone(), 0)

    def _window(self, ids: list[int]) -> list[int]:
        """Return what of a prompt is seen, where its window has slid as in sampling: at most the context."""
        if len(ids) <= self._limit:
            return ids
        shift = self._limit - self._limit // 2
        return ids[-(-(len(ids) - self._limit) // shift) * shift :]

    def _slide(self, cache: Cache) -> None:
        """Begin the windows that are full anew with their last half."""
        full = (cache.used == self._limit).nonzero()[:, 0]
        if len(full):
            fresh = self.prefill(cache.ids[full, self._limit - self._limit // 2 : self._limit].tolist())
            inside = fresh.ids.shape[1]
            for ours, theirs in zip(cache.keys + cache.values, fresh.keys + fresh.values, strict=True):
                ours[full, :, :inside] = theirs[: len(full)]
            cache.ids[full, :inside] = fresh.ids[: len(full)]
            cache.used[full] = fresh.used
        cache.longest = int(cache.used.amax())

    def _read(self, ids_bt: Tensor, cache: Cache) -> Tensor:
        """Read the next T tokens of every row, T at most a block: features (B, T, D), and the cache with them."""
        rows, count = ids_bt.shape
        at = cache.used[:, None] + torch.arange(count, device=ids_bt.device)
        row = torch.arange(rows, device=ids_bt.device)[:, None]
        cache.ids[row, at] = ids_bt
        cache.longest += count
        cache.used = cache.used + count
        inside = _in_blocks(cache.longest)
        seen = (torch.arange(inside, device=ids_bt.device) <= at[..., None])[:, None]

        def attend(n: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            for memory, fresh in ((cache.keys[n], k), (cache.values[n], v)):
                memory[row, :, at] = fresh.transpose(1, 2)
            keys, values = cache.keys[n][:rows, :, :inside], cache.values[n][:rows, :, :inside]
            return F.scaled_dot_product_attention(q, keys, values, attn_mask=seen)

        def product(layer: nn.Linear, x: Tensor) -> Tensor:
            return linear(x.flatten(0, 1), self._weights[layer].t(), layer.bias).view(*x.shape[:2], -1)

        x = self._embedding[ids_bt]
        place = at.clamp(max=self._limit - 1)  # padding behind a prompt may lie outside
        if self._positions is not None:
            x = x + self._positions[place]
        turn = None if self._turn is None else tuple(part[place][:, None] for part in self._turn)
        for number, block in enumerate(self._blocks):
            x = _through(block, number, x, turn, self._config, attend, product)
        return x


def _in_blocks(positions: int) -> int:
    return -(-positions // _BLOCK) * _BLOCK


def _moved(memory: Tensor, rows: Tensor, inside: slice, full: int) -> Tensor:
    """Return memory (rows, .., S, ..) whose first rows are some of its rows, up to `inside` positions."""
    if len(rows) > full:
        return memory[rows]
    memory[: len(rows), :, inside] = memory[rows, :, inside]
    return memory


_FORM = ("layers", "heads", "hidden", "feedforward", "activation", "positions", "norm", "bias", "tied")


def inherit(config: Config, name: str, other: Any) -> tuple[Config, str]:
    """Return what a run that starts from another becomes: it has the other's form, and all of its weights."""
    if name != "gpt":
        raise ConfigError(f"--from a run of {name}: a gpt starts from a run of gpt")
    form = {part: getattr(other, part) for part in _FORM}
    if other.positions == "learned":
        form["context"] = other.context or other.max_length
    return replace(config, **form), ""


def attach(model: Model, data: Any) -> None:
    """Refuse text whose rows do not fit before anything is trained."""
    if data.mode == "stream":
        raise ConfigError("gpt carries no state from window to window: set data.mode=window in the place of stream")
    needed = data.resolved[0].window if data.mode == "window" else data.facts["max_length"] - 1
    if needed > model.context:
        raise ConfigError(
            f"model.context = {model.context} is less than the {needed} positions of a training row; set it higher, or "
            f"{'data.window' if data.mode == 'window' else 'data.max_length'} lower"
        )


def optimizers(model: Model, train: Train) -> dict[str, Optimizer]:
    """Build one optimizer over all weights."""
    return {"model": Optimizer(model.named_parameters(), train)}


def train_step(
    model: Model, optimizers: dict[str, Optimizer], batch: SequenceBatch, step: int
) -> dict[str, float | Tensor]:
    """Make one update on the mean loss per token."""
    optimizer = optimizers["model"]
    nll: list[Tensor] = []

    def losses() -> Iterator[tuple[Tensor, int]]:
        for _, part in batch.micro_batches(optimizer.train.accumulate):
            hidden = model.features(part)
            loss = linear_cross_entropy(hidden, *model.head(), part.targets.flatten()[part.positions])
            nll.append(loss.detach())
            yield loss, part.count

    scalars = update(optimizer, losses(), step, weight=batch.weight)
    return {**scalars, "nll": torch.stack(nll).sum() / batch.count}


def validate(model: Model, batch: SequenceBatch) -> dict[str, tuple[Tensor | float, Tensor | int]]:
    """Return the nll of the counted tokens in nats, as (sum, count)."""
    return {"nll": (-model.log_probs(batch).sum(), batch.count)}
