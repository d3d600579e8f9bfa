"""What a model module (one Python file) must offer, and the check of it before step 0. Nothing inherits from this.

A model module has five names and a kind of data: the loop finds all it needs in the module itself. A file of your own
works the same way, by `--module FILE.py` or `module=`; docs/own-model.md has a complete one. How the loop uses it:

    model = module.Model(settings.model)            # weights from the seed alone, on the CPU, then moved
    optimizers = module.optimizers(model, settings.train)
    for step in range(...):
        enter_step(seed, step, rank)                # so dropout is a function of the step
        model.train()
        scalars = module.train_step(model, optimizers, batches.at(step), step)  # bf16: under autocast
    model.eval()                                    # and inference mode, for:
    sums = module.validate(model, batch)            # added over batches and processes, then divided
    texts = model.decoder().decode(...)             # of a text model

Rules that the tests hold every model module to (tests/models/test_contract.py):
- Weights change only in `train_step`, and there only through `core.update.update`: one update of one network a step.
- Whatever lives on between steps is a buffer or a parameter, hence in the checkpoint; phases are arithmetic on `step`.
  A buffer that differs between processes is named in `Model.rank_local` (None until used, if it has no size before);
  without that name there is none. Buffers as large as the data makes them are named in `Model.data_sized`. Those that
  steer the steps and stay on the host, where reading them is no wait for a device, are named in `Model.on_host`.
- `validate` and `sample` change nothing a checkpoint holds.
- A model module never prints, reads no files, knows no ranks.
"""

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from seqgen.core.batch import SequenceBatch
from seqgen.core.config import Train
from seqgen.core.errors import ConfigError
from seqgen.core.update import Optimizer
from seqgen.nn.decode import Writer

_PAGE = "docs/own-model.md describes them"


class ModelModule(Protocol):
    """A model module, as the loop sees it."""

    @property
    def __name__(self) -> str:
        """The name that imported it."""

    @property
    def DATA(self) -> str:  # noqa: N802 - a constant of the module
        """ "text": batches are `core.batch.SequenceBatch`; "images": `images.data.ImageBatch`."""

    @property
    def Config(self) -> Any:  # noqa: N802 - a class of the module
        """A frozen dataclass: the section `model`. Each field has a default, a help text under it and, where there is
        one, its range as `Annotated[int, Field(ge=1)]`, or is a frozen dataclass of such fields, a section of its own.
        Fields named as the data's facts (vocab_size, source_vocab_size, start, stop, sep, pad, suppress_tokens,
        max_length; channels, size, classes) are filled from the data."""

    @property
    def Model(self) -> Any:  # noqa: N802 - a class of the module
        """An `nn.Module`, built from a Config alone, which it keeps as `.config`; `rank_local`: see above.

        A text model has `.decoder(fast=False) -> nn.decode.Decoder`, by which it writes (`nn.decode.Autoregressive` is
        what that wraps; `nn.decode.Writer` is enough to write, not for beams), and `.log_probs(batch) -> (P,) float64`,
        by which it scores; an image model what `images.generator` calls: `.sample`, `.encodes`."""

    def optimizers(self, model: Any, train: Train) -> dict[str, Optimizer]:
        """Return one optimizer for each network, by name; their parameters do not overlap."""

    def train_step(self, model: Any, optimizers: dict[str, Optimizer], batch: Any, step: int) -> dict[str, Any]:
        """Make one update and return the scalars for the log, floats or tensors of one element."""

    def validate(self, model: Any, batch: Any) -> dict[str, tuple[Tensor | float, Tensor | int]]:
        """Return held-out scores of one batch as (sum, count); of a text model at least "nll": nats, counted tokens."""


class TextModel(Protocol):
    """The `Model` of a text model module, as generation and scoring see it: an `nn.Module` with these beside."""

    config: Any
    """The Config that it was built from."""

    def decoder(self, *, fast: bool = False) -> Writer:
        """Return the model prepared for sampling."""

    def log_probs(self, batch: SequenceBatch) -> Tensor:
        """Return the log-probability of every counted target, (P,) float64, nats."""


class Bounded(Protocol):
    """What a text model has beside that where its `log_probs` are no exact log-probabilities."""

    @property
    def bound(self) -> str:
        """How they were computed, in a few words for signatures: their sum over a text is at most its log-likelihood.

        Its scores are then called bound_per_token ..., and stand in columns of their own."""


class Extras(Protocol):
    """What a model module may offer beside that; the loop asks whether each is there."""

    @property
    def DECIDES(self) -> str:  # noqa: N802 - a constant of the module
        """The score whose lowest value makes a checkpoint the best, else nll_per_token; an image model needs it."""

    def observe(self, model: Any, scores: dict[str, Any]) -> dict[str, Any]:
        """Decide what a validation means to the model, which may change its buffers or go back to kept weights.

        The answer may hold "best": whether these weights are the best so far (else the lower nll is), and "event": a
        sentence for the run's record.
        """

    def survey(self, model: Any, batches: Any) -> dict[str, float]:
        """Return held-out scores that are no sums over batches, from all held-out batches; added before `observe`."""

    def inherit(self, config: Any, name: str, other: Any) -> tuple[Any, str]:
        """Return, for `--from RUN`, this module's Config fitted to the other's, and which submodule takes its weights.

        "" names the whole model. Raises ConfigError where the two cannot be joined.
        """

    def attach(self, model: Any, data: Any) -> None:
        """Hand the model what only training needs of the data, once, before the first step."""

    @property
    def LINES_ONLY(self) -> bool:  # noqa: N802 - a constant of the module
        """Whether running text is of no use: where data.mode is auto, every line is then a text of its own."""

    @property
    def STATELESS(self) -> bool:  # noqa: N802 - a constant of the module
        """Whether no state goes from batch to batch: a known set that is read as a stream is then read in windows."""

    @property
    def MADE_BY(self) -> str:  # noqa: N802 - a constant of the module
        """The command that makes runs of this model, which is not trained."""

    @property
    def GIVES_WAY(self) -> dict[str, tuple[str, ...]]:  # noqa: N802 - a constant of the module
        """Options that a preset may set, each with those that take its place where they are set by name."""


_FUNCTIONS = (
    "optimizers(model, train), a dict of core.update.Optimizer by name",
    "train_step(model, optimizers, batch, step), which makes one update",
    'validate(model, batch), held-out sums such as {"nll": (sum, count)}',
)
_METHODS = {
    "text": (
        "decoder(fast=False), an nn.decode.Decoder, by which it writes",
        "log_probs(batch), the log-probability of every counted target, by which it scores",
    ),
    "images": ("sample(seeds, numbers, temperature=1.0), by which it makes images",),
}


def check_module(module: Any, where: str) -> None:
    """Raise ConfigError with all that a model module lacks, before anything is made of it; `where` names it."""
    kind, config, model = (getattr(module, name, None) for name in ("DATA", "Config", "Model"))
    settings = config if isinstance(config, type) and dataclasses.is_dataclass(config) else None
    fields = () if settings is None else dataclasses.fields(settings)
    frozen = settings is not None and settings.__dataclass_params__.frozen  # type: ignore[attr-defined]
    needed = [
        (kind in _METHODS, f'DATA = "text" or "images" (it is {kind!r})'),
        (frozen, "Config, a class under @dataclass(frozen=True)"),
        *[({f.default, f.default_factory} != {dataclasses.MISSING}, f"a default for Config.{f.name}") for f in fields],
        (
            kind != "text" or hasattr(config, "vocab_size"),  # a field, or a property that reads it from a section
            "Config.vocab_size: int = 0, filled from the data",
        ),
        (isinstance(model, type) and issubclass(model, nn.Module), "Model, a torch.nn.Module made by Model(config)"),
        *[(hasattr(model, said.partition("(")[0]), f"Model.{said}") for said in _METHODS.get(kind or "", ())],
        *[(_takes(getattr(module, said.partition("(")[0], None), said), said) for said in _FUNCTIONS],
        (kind != "images" or hasattr(module, "DECIDES"), 'DECIDES, the score that is to be lowest, such as "loss"'),
    ]
    missing = [said for there, said in needed if not there]
    if missing:
        raise ConfigError(f"{where} lacks {'; '.join(missing)}; {_PAGE}")


def _takes(function: Any, said: str) -> bool:
    try:
        inspect.signature(function).bind(*said.partition(")")[0].split(","))
    except TypeError:  # other arguments, or no function at all
        return False
    return True


def check_model(model: nn.Module, config: Any, where: str) -> None:
    """Raise ConfigError where a model that was made lacks what checkpoints need of it."""
    if getattr(model, "config", None) != config:
        raise ConfigError(f"{where}: Model must keep its argument as self.config; {_PAGE}")
    buffers = {f"{prefix}.{name}".lstrip(".") for prefix, part in model.named_modules() for name in part._buffers}
    local = getattr(model, "rank_local", ())
    if isinstance(local, str) or not set(local) <= buffers:
        known = ", ".join(sorted(buffers)) or "none"
        raise ConfigError(
            f"{where}: Model.rank_local must be names of buffers (it has: {known}), got {local!r}; {_PAGE}"
        )


def check_sums(module: ModelModule, sums: Any, where: str) -> None:
    """Raise ConfigError unless `validate` gave what the loop can add up: by name (sum, count), of text also "nll"."""
    pairs = list(sums.values()) if isinstance(sums, Mapping) else []
    expected = '{"nll": (nats, counted tokens)}' if module.DATA == "text" else "{name: (sum, count)}"
    if not pairs or not all(map(_is_pair, pairs)) or (module.DATA == "text" and "nll" not in sums):
        raise ConfigError(f"{where}: validate(model, batch) must return {expected} at least, got {sums!r:.80}; {_PAGE}")


def _is_pair(value: Any) -> bool:
    both = list(value) if isinstance(value, tuple | list) else []
    return len(both) == 2 and all(isinstance(x, int | float | Tensor) and torch.as_tensor(x).numel() == 1 for x in both)
