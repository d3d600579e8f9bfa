"""Mixing runs token by token, the weights chosen on held-out lines: the files and figures of `seqgen mix`."""

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
from torch import nn

from seqgen.core import config as settings_of
from seqgen.core.errors import RunError
from seqgen.engine import checkpoint, derived
from seqgen.engine.derived import KNESER_NEY
from seqgen.engine.generate import TextGenerator
from seqgen.engine.loading import load
from seqgen.engine.stored import stored_sections
from seqgen.models import kneser_ney, mixture

_ERRORS = 2.0
"""Standard errors that the gain of a part must reach."""
_ROUNDING = 1e-9
"""Nats per line that a part may seem to gain which changes nothing."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Part:
    """One of the models that were to be mixed."""

    name: str
    """The run as it was given, or kneser-ney."""
    weight: float
    """Its share, 0 where it is left out."""
    nll_per_line: float
    """Nats per held-out line, by this model alone."""
    gain: float
    """Nats per line that the mixture gains by having it beside the others, when that was decided; 0 of the first."""
    gain_error: float
    """The standard error of that."""


@dataclass(frozen=True)
class Mixture:
    """What came out of mixing."""

    parts: list[Part]
    nll_per_line: float
    """Nats per held-out line by the mixture, each with weights that the other half of the lines chose."""
    gain: float
    """Nats per line that it is better than the first run."""
    gain_error: float
    lines: int
    """Held-out lines."""


def mix(
    subjects: Sequence[str | os.PathLike[str]],
    held_out: Sequence[str],
    out: str | os.PathLike[str],
    *,
    sources: Sequence[str] | None = None,
    order: int = 5,
    device: str = "auto",
) -> Mixture:
    """Mix runs, or a run and `kneser-ney`, into a new run in the folder `out`.

    The word kneser-ney stands for a model of n-grams up to `order` of the first run's training lines and tokens. The
    weights are those of greatest likelihood on the held-out lines that are no training text of any run. What a part is
    worth is measured by twofold cross-fitting: every other line chooses the weights for the rest. A part whose gain is
    below two standard errors is left out.

    RunError for runs that cannot be mixed and for a folder that exists, DataError for too few held-out lines,
    ValueError for an order outside 1..9.
    """
    if not 1 <= order <= 9:
        raise ValueError(f"order must be in 1..9, got {order}")
    with derived.new_run(out) as folder:
        names = [str(subject) for subject in subjects]
        generators = _opened(names, order, device)
        first = generators[0]
        texts = {str(g.settings.data.files): g for g in generators if g.folder is not None}
        known = {line.strip() for g in texts.values() for line in g.own_text().train_lines}
        held_out, sources = derived.unseen(known, held_out, sources)
        scores = [generator.score(held_out, sources) for generator in generators]
        log_p = np.array([np.concatenate([np.array(row) for row in score.log_probs]) for score in scores])
        line = np.repeat(np.arange(len(held_out)), [len(row) for row in scores[0].log_probs])
        weights, result = _chosen(names, log_p, line)
        kept = [generator for generator, weight in zip(generators, weights, strict=True) if weight]
        _write(folder, first, kept, [weight for weight in weights if weight])
    return result


def _opened(names: list[str], order: int, device: str) -> list[TextGenerator]:
    """Return the models by their names, checked to fit together; the n-gram model is fitted."""
    if not names or names[0] == KNESER_NEY:
        raise RunError(
            "name a run first: kneser-ney takes its tokens and training lines from it; "
            "for an n-gram model alone: seqgen train kneser-ney"
        )
    generators: list[TextGenerator] = []
    for name in names:
        if name == KNESER_NEY:
            generators.append(_fitted(generators[0], order))
            continue
        settings = stored_sections(Path(name))
        if settings["name"] not in mixture.MIXABLE:
            raise RunError(
                f"{name} is a run of {settings['name']} and cannot be mixed; these can: {', '.join(mixture.MIXABLE)}"
            )
        generator = load(name, device=device)
        if generators:
            _check_fit(names[0], generators[0], name, generator)
        generators.append(generator)
    return generators


def _check_fit(first_name: str, first: TextGenerator, name: str, other: TextGenerator) -> None:
    if other.tokenizer.fingerprint != first.tokenizer.fingerprint:
        raise RunError(
            f"{name} has another tokenizer than {first_name}, and runs are mixed token by token; "
            f"train one with the other's: seqgen train ... --tokenizer {first_name}"
        )
    for option in ("mode", "source"):
        own, theirs = getattr(first.settings.data, option), getattr(other.settings.data, option)
        if own != theirs:
            raise RunError(f"{name} has data.{option} = {theirs}, {first_name} {own}; mix runs that read text alike")


def _fitted(run: TextGenerator, order: int) -> TextGenerator:
    """Return a Kneser-Ney model of a run's training lines, over its tokens."""
    data = run.own_text()
    known = {field.name for field in dataclasses.fields(kneser_ney.Config)}
    facts = {name: list(x) if isinstance(x, tuple) else x for name, x in data.facts.items() if name in known}
    config = settings_of.build(kneser_ney.Config, facts | {"order": order}, section="model")
    model = kneser_ney.Model(config)
    kneser_ney.attach(model, data)
    model.fit(model.rows.values, model.rows.lengths)
    settings = dataclasses.replace(run.settings, name=KNESER_NEY, model=config, module=kneser_ney)
    return TextGenerator(model.to(run.device).eval(), run.tokenizer, settings, run.device, None)


def _chosen(names: list[str], log_p: Floats, line: npt.NDArray[np.int64]) -> tuple[list[float], Mixture]:
    """Return weights from all lines, and what they are worth: `log_p` (K, T), `line` (T,) of each token."""
    count = int(line[-1]) + 1

    def each_line(kept: list[int]) -> Floats:
        """Return nats of every line, by weights that the other half of the lines chose."""
        nats: Floats = np.zeros(count)
        for half in (0, 1):
            own = line % 2 == half
            weights = best_weights(log_p[:, ~own], kept)[kept]
            with np.errstate(divide="ignore"):  # the logarithm of a weight of 0
                mixed = np.logaddexp.reduce(log_p[kept][:, own] + np.log(weights)[:, None], axis=0)
            nats -= np.bincount(line[own], mixed, count)
        return nats

    def decided(without: Floats, having: Floats) -> tuple[float, float]:
        gain = without - having
        return float(gain.mean()), float(gain.std(ddof=1) / np.sqrt(count))

    kept = list(range(len(names)))
    gains = {0: (0.0, 0.0)}
    while True:
        nats = each_line(kept)
        for k in kept[1:]:
            gains[k] = decided(each_line([j for j in kept if j != k]), nats)
        least = min(kept[1:], key=lambda k: gains[k][0] - _ERRORS * gains[k][1], default=0)
        if not least or gains[least][0] > max(_ERRORS * gains[least][1], _ROUNDING):
            break
        kept.remove(least)
    weights = best_weights(log_p, kept).tolist()
    alone = [float(each_line([k]).mean()) for k in range(len(names))]
    parts = [Part(name, weights[k], alone[k], *gains[k]) for k, name in enumerate(names)]
    return weights, Mixture(parts, float(nats.mean()), *decided(each_line([0]), nats), count)


def best_weights(log_p: Floats, kept: list[int]) -> Floats:
    """Return the weights of greatest likelihood, 0 outside `kept`, to four decimals: expectation maximisation."""
    p = np.exp(log_p[kept] - log_p[kept].max(0))
    weights = np.full(len(kept), 1 / len(kept))
    for _ in range(500):
        share = weights[:, None] * p
        after = (share / share.sum(0)).mean(1)
        if np.abs(after - weights).max() < 1e-6:
            break
        weights = after
    found: Floats = np.zeros(len(log_p))
    found[kept] = weights.round(4)
    found[kept[0]] = round(1 - found[kept[1:]].sum(), 4)
    return found


def _write(folder: Path, first: TextGenerator, parts: list[TextGenerator], weights: list[float]) -> None:
    decoder = first.left_to_right("a mixture")
    config = mixture.Config(
        models=tuple(g.settings.name for g in parts),
        settings=tuple(settings_of.to_dict(g.settings.model) for g in parts),
        weights=tuple(weights),
        vocab_size=first.tokenizer.vocab_size,
        stop=decoder.stop,
        suppress_tokens=tuple(sorted(decoder.suppress_tokens)),
        max_length=decoder.max_length,
    )
    settings = dataclasses.replace(first.settings, name="mixture", model=config, module=mixture)
    model = mixture.Model(config)
    states = [cast(nn.Module, part.model).state_dict() for part in parts]
    tensors = {f"parts.{k}.{name}": t for k, state in enumerate(states) for name, t in state.items()}
    checkpoint.fill(model, tensors, str(folder))
    made_from = [str(g.folder) if g.folder is not None else KNESER_NEY for g in parts]
    derived.write(folder, first, settings, model, {"mixed_from": made_from})
