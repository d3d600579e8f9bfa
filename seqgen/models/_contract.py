"""What a model file ("chapter") must offer, for a newcomer who writes one. Nothing inherits from this.

A chapter is a module with five names and a kind of data: the loop finds all it needs in the module itself, and a module
of your own works the same way: `seqgen.train(config, out, model=my_module)`. How it is used, in the loop's words:

    model = chapter.Model(settings.model)           # weights from the seed alone, on the CPU, then moved
    optimizers = chapter.optimizers(model, settings.train)
    for step in range(...):
        enter_step(seed, step, rank)                # so dropout is a function of the step
        model.train()
        scalars = chapter.train_step(model, optimizers, batches.at(step), step)  # bf16: under autocast
    model.eval()                                    # and inference mode, for:
    sums = chapter.validate(model, batch)           # added over batches and processes, then divided
    samples = model.sample(...)

Rules that the tests hold every chapter to (tests/models/test_contract.py):
- Weights change only in `train_step`, and there only through `core.update.update`: one update of one network a step.
- Whatever lives on between steps is a buffer or a parameter, hence in the checkpoint; phases are arithmetic on `step`.
  A buffer that differs between processes is named in `Model.rank_local` (None until used, if it has no size before).
- `validate` and `sample` change nothing a checkpoint holds.
- A chapter never prints, reads no files, knows no ranks.
"""

from typing import Any, Protocol

from torch import Tensor

from seqgen.core.config import Train
from seqgen.core.update import Optimizer


class Chapter(Protocol):
    """A model file, as the loop sees it."""

    @property
    def DATA(self) -> str:  # noqa: N802 - a constant of the module
        """ "text": batches are `core.batch.SequenceBatch`; "images": `images.data.ImageBatch`."""

    @property
    def Config(self) -> Any:  # noqa: N802 - a class of the module
        """A frozen dataclass: the section `model`. Each field has a default, a help text under it and, where there is
        one, its range as `Annotated[int, Field(ge=1)]`. Fields named as the data's facts (vocab_size, start, stop, sep,
        pad, never, max_length; channels, size, classes) are filled from the data."""

    @property
    def Model(self) -> Any:  # noqa: N802 - a class of the module
        """An `nn.Module`, built from a Config alone, which it keeps as `.config`; `rank_local`: see above.

        A text model has `.sample(prompts, seeds, sampling, fast=False) -> nn.decode.Samples`, `.decoder(fast=False) ->
        nn.decode.Decoder` for streaming, and `.log_probs(batch) -> (P,) float64` if it can score text."""

    def optimizers(self, model: Any, train: Train) -> dict[str, Optimizer]:
        """One for each network, by name; parameters of different ones do not overlap."""

    def train_step(self, model: Any, optimizers: dict[str, Optimizer], batch: Any, step: int) -> dict[str, Any]:
        """One update; the scalars for the log, floats or tensors of one element."""

    def validate(self, model: Any, batch: Any) -> dict[str, tuple[Tensor | float, Tensor | int]]:
        """Held-out scores of one batch as (sum, count); of a text model at least "nll": nats, counted tokens."""


class Extras(Protocol):
    """What a chapter may offer beside that; the loop asks whether each is there."""

    def observe(self, model: Any, scores: dict[str, Any]) -> dict[str, Any]:
        """What a validation means to the model, which may change its buffers or go back to kept weights.

        The answer may hold "best": whether these weights are the best so far (else the lower nll is), and "event": a
        sentence for the run's record.
        """

    def survey(self, model: Any, batches: Any) -> dict[str, float]:
        """Held-out scores that are no sums over batches, from all held-out batches; added before `observe`."""

    def inherit(self, config: Any, name: str, other: Any) -> tuple[Any, str]:
        """For `--from RUN`: this chapter's Config fitted to the other's, and the submodule that takes its weights.

        "" names the whole model. Raises ConfigError where the two cannot be joined.
        """

    def attach(self, model: Any, data: Any) -> None:
        """Hand the model what only training needs of the data, once, before the first step."""

    @property
    def LINES_ONLY(self) -> bool:  # noqa: N802 - a constant of the module
        """Whether running text is of no use: where data.mode is auto, every line is then a text of its own."""

    @property
    def GIVES_WAY(self) -> dict[str, tuple[str, ...]]:  # noqa: N802 - a constant of the module
        """Options that a preset may set, each with those that take its place where they are set by name."""
