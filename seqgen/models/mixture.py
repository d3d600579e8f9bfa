"""Text models mixed token by token: p(x_t | before) = sum over k of w_k p_k(x_t | before) (Jelinek and Mercer 1980).

The mixture is an autoregressive model itself, so sampling options and constraints act on the mixed distribution, and
the likelihood of a text is exact. It is not trained: `seqgen mix` puts it together and chooses the weights.
Shapes: B rows, C rows of a chunk, F features of all parts, P counted positions, V vocabulary, K parts.
"""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, NoReturn

import torch
from pydantic import Field
from torch import Tensor, nn

from seqgen.core import config as settings_of
from seqgen.core.batch import SequenceBatch
from seqgen.core.config import Train
from seqgen.core.errors import ConfigError
from seqgen.core.update import Optimizer
from seqgen.nn.decode import Decoder

DATA = "text"
MADE_BY = "seqgen mix"

MIXABLE = ("lm", "gpt", "seqgan", "kneser-ney", "mixture")
"""Models that predict token by token and are of this package: a run never leads to other code."""


@dataclass(frozen=True)
class Config:
    """The section `model` of a mixture."""

    models: tuple[str, ...] = ()
    """The parts, by their names on the command line."""
    settings: tuple[dict[str, Any], ...] = ()
    """The section `model` of each."""
    weights: tuple[Annotated[float, Field(gt=0, le=1)], ...] = ()
    """The share of each; they add up to 1."""
    vocab_size: Annotated[int, Field(ge=0)] = 0
    """Number of tokens, which the parts have in common."""
    stop: Annotated[int, Field(ge=-1)] = -1
    """The token that ends a text, -1: none."""
    suppress_tokens: tuple[int, ...] = ()
    """Tokens that sampling must not emit."""
    max_length: Annotated[int, Field(ge=0)] = 0
    """Tokens of a sampled text at most."""


class Model(nn.Module):
    """The parts, and how much of each."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        count = len(config.models)
        if not count or {len(config.settings), len(config.weights)} != {count} or abs(sum(config.weights) - 1) > 1e-9:
            raise ConfigError(
                f"model.weights must be one number for each of {count} parts and add up to 1, and model.settings one "
                f"table for each, got {list(config.weights)} and {len(config.settings)}; make a mixture with: {MADE_BY}"
            )
        self.config = config
        self.parts = nn.ModuleList(map(part, config.models, config.settings))
        self.data_sized = tuple(
            f"parts.{k}.{name}" for k, part in enumerate(self.parts) for name in getattr(part, "data_sized", ())
        )

    def log_weights(self, like: Tensor) -> Tensor:
        """Return the logarithms of the weights, (K,), where `like` is and as exact."""
        return torch.tensor(self.config.weights, device=like.device, dtype=like.dtype).log()

    def log_probs(self, batch: SequenceBatch) -> Tensor:
        """Return the log-probability of every counted target in nats, (P,) float64, without gradient."""
        with torch.no_grad():
            each = torch.stack([part.log_probs(batch) for part in self.parts])  # type: ignore[operator]
            return (each + self.log_weights(each)[:, None]).logsumexp(0)

    def decoder(self, *, fast: bool = False) -> Decoder:
        """Prepare this model for sampling with its present weights."""
        config = self.config
        return Decoder(
            _Stepper(self, fast),
            stop=config.stop,
            suppress_tokens=config.suppress_tokens,
            max_length=config.max_length,
            fast=fast,
        )


def part(name: str, settings: dict[str, Any]) -> nn.Module:
    """Return a model of this package by its name and its section `model`; ConfigError where it is none of `MIXABLE`."""
    if name not in MIXABLE:
        raise ConfigError(f"model.models: {name!r} cannot be mixed; these can: {', '.join(MIXABLE)}")
    module = importlib.import_module(f"seqgen.models.{name.replace('-', '_')}")
    model: nn.Module = module.Model(settings_of.build(module.Config, settings, section="model.settings"))
    return model


class _Stepper:
    """The parts side by side: the state is a tuple of theirs, features are theirs in a row, in float64."""

    def __init__(self, model: Model, fast: bool) -> None:
        self._model = model
        self._parts: list[Decoder] = [part.decoder(fast=fast) for part in model.parts]  # type: ignore[operator]
        self.context = min((part.context for part in self._parts if part.context), default=0)

    def prefill(self, prompts: Sequence[Sequence[int]], state: Any = None, *, room: int = 0) -> Any:
        states = [None] * len(self._parts) if state is None else state
        # a decoder reads all but the last token of a prompt, which is what its first step reads
        longer = [[*prompt, 0] for prompt in prompts]
        return tuple(part.prefill(longer, one, room=room) for part, one in zip(self._parts, states, strict=True))

    def step(self, ids: Tensor, state: Any) -> tuple[Tensor, Any]:
        both = [part.step(ids, one) for part, one in zip(self._parts, state, strict=True)]
        # float64 holds float32 as it is, and whole numbers up to 2^53: the indices of n-grams
        return torch.cat([features.double() for features, _ in both], 1), tuple(after for _, after in both)

    def select(self, state: Any, rows: Tensor) -> Any:
        return tuple(part.select(one, rows) for part, one in zip(self._parts, state, strict=True))

    def head(self) -> "_Head":
        ids = torch.zeros(1, dtype=torch.int64, device=self._parts[0].device)
        widths = [part.step(ids, part.prefill([[0]], room=1))[0].shape[1] for part in self._parts]
        return _Head(self._model, self._parts, widths)


class _Head:
    """The mixed distribution."""

    def __init__(self, model: Model, parts: list[Decoder], widths: list[int]) -> None:
        self.vocab_size, self.device = model.config.vocab_size, parts[0].device
        self._outputs = [part.output for part in parts]
        self._log_weights = model.log_weights(parts[0].output.bias)
        ends = torch.tensor([0, *widths]).cumsum(0).tolist()
        self._columns = [slice(begin, end) for begin, end in pairwise(ends)]

    def log_probs(self, features_cf: Tensor) -> Tensor:
        """Log-probabilities (C, V) in nats, float32."""
        each = []
        for output, columns in zip(self._outputs, self._columns, strict=True):
            features = features_cf[:, columns]
            if len(output.weight_t):  # else the head takes features as they are
                features = features.to(output.weight_t.dtype)
            each.append(output.logits(features, output.plain_bias)[:, : self.vocab_size].log_softmax(-1))
        return (torch.stack(each) + self._log_weights[:, None, None]).logsumexp(0)


def optimizers(model: Model, train: Train) -> dict[str, Optimizer]:
    """Return no optimizer: a mixture is not trained."""
    return {}


def train_step(model: Model, optimizers: dict[str, Optimizer], batch: SequenceBatch, step: int) -> NoReturn:
    """Raise ConfigError: a mixture is not trained."""
    raise ConfigError(f"a mixture is not trained; it is made by: {MADE_BY}")


def validate(model: Model, batch: SequenceBatch) -> dict[str, tuple[Tensor | float, Tensor | int]]:
    """Return the nll of the counted tokens in nats, as (sum, count)."""
    return {"nll": (-model.log_probs(batch).sum(), batch.count)}
