"""Correcting a run by a critic that held-out lines fit: the files and figures of `seqgen refine`.

The critic estimates log p_data - log p: it minimises -mean s(held-out lines) + log mean exp s(texts of the run) and a
penalty on its weights, which is convex (a bound on the KL divergence, Donsker and Varadhan 1983). How well it does is
what q_n gains on lines that took no part, never an estimate of its normaliser, which looks best where it is worst.
Readers of the tokens, by option, are networks, each fitted without one part of all texts; their scores of that part,
which they have not seen, are what the convex critic is fitted to (stacking, Wolpert 1992).
"""

import copy
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.optimize
import torch
from torch import Tensor

from seqgen.core import config as settings_of
from seqgen.core import log, rng, update
from seqgen.core.config import Train
from seqgen.core.errors import DataError, RunError
from seqgen.core.options import Sampling
from seqgen.data.prepare import TextData
from seqgen.engine import checkpoint, derived
from seqgen.engine.generate import TextGenerator
from seqgen.engine.likelihood import LineScorer
from seqgen.engine.loading import load
from seqgen.models import mixture, refined

PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)
"""Penalties on the squares of the weights that are tried."""
CANDIDATES = (4, 16, 64)
"""Numbers n that a gain is shown for."""
DECIDES = 16
"""The one that decides."""
_FOLDS = 4
FEWEST_LINES = 100
"""Lines of either kind that a two-sample test needs, and texts of a run that are no copies."""
_PENALTY = 0.01
"""Of a two-sample test."""
_ERRORS = 2.0
"""Standard errors that the gain must reach."""
_EPOCHS, _REAL, _MADE = 12, 32, 128
"""Of readers: passes over the lines at most, and lines and texts of the run in a step."""
_ROWS = 512

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Gain:
    """What resampling adds to the log-likelihood of lines that took no part."""

    candidates: int
    nats_per_line: float
    error: float
    """The standard error over the lines."""


@dataclass(frozen=True)
class Refinement:
    """What a critic was found to be worth."""

    written: bool
    """Whether there is a new run: whether the gain of 16 candidates is above two standard errors."""
    nll_per_line: float
    """Nats per held-back line under the run that was to be refined."""
    gains: list[Gain]
    fitted: int
    """Held-out lines that the critic was fitted to."""
    held_back: int
    """Those that measured it."""
    samples: int
    """Texts of the run that it was fitted to, and as many others that stand for the run where a likelihood is taken."""
    penalty: float
    """The penalty on squared weights, chosen on the lines of the fit."""
    ess: float
    """Effective share of the run's texts under the weights exp(s): 1 where the critic changes nothing."""
    auroc: float
    """How often the critic prefers a held-back line to a text of the run; .5: it cannot tell them apart."""


class _Texts(NamedTuple):
    """Texts as ids, and what base and n-grams say of their tokens."""

    ids: list[list[int]]
    values: list[Tensor]

    def taken(self, rows: Sequence[int]) -> "_Texts":
        return _Texts([self.ids[k] for k in rows], [self.values[k] for k in rows])


def refine(
    run: str | os.PathLike[str],
    held_out: Sequence[str],
    out: str | os.PathLike[str],
    *,
    samples: int = 8192,
    critic: Literal["sums", "gru"] = "sums",
    seed: int = 0,
    device: str = "auto",
) -> Refinement:
    """Fit a critic to a run's texts and held-out lines, and write the run that resamples by it into the folder `out`.

    `critic`: of eleven numbers of a whole text, or also of what recurrent networks make of its tokens. Lines of the
    training text and lines with tokens that the run never writes are left out, every other line is held back. The
    penalty of greatest gain in fourfold cross-validation is taken. Nothing is written where the gain of 16 candidates
    on lines held back is below two standard errors. RunError for a run that cannot be refined or copies its training
    text, and for a folder that exists, DataError for too few lines, ValueError for fewer than 1,000 samples.
    """
    if samples < 1000:
        raise ValueError(f"samples must be at least 1000, got {samples}")
    with derived.new_run(out) as folder:
        generator = load(run, device=device)
        _check(run, generator)
        data = generator.own_text()
        known = derived.seen(generator, data)
        lines = _writable(generator, derived.unseen(known, held_out)[0])
        rng.enter_step(seed, 0)
        model = _model(generator, data, critic)
        real = _read(generator, model, lines)
        made, texts = _drawn(generator, model, 2 * samples, seed)
        new = [k for k, text in enumerate(texts[:samples]) if text not in known]
        if len(new) < FEWEST_LINES:
            raise RunError(
                f"{run} writes lines of its training text: {samples - len(new)} of {samples} texts; a critic has "
                "nothing to correct there, stop its training earlier"
            )
        # no line stands in the training text, so a text that does would teach that copies are not real
        sides = real.taken(range(0, len(lines), 2)), made.taken(new)
        _teach(model, *sides, seed)
        fit, negative = (_features_of_fit(model, side) for side in sides)
        held_back, pool = (
            _looked_at(model, side)
            for side in (real.taken(range(1, len(lines), 2)), made.taken(range(samples, 2 * samples)))
        )
        _scale(model, torch.cat([fit, negative]))
        penalty = _penalty(model, fit, negative)
        model.weights.copy_(fitted(model.expanded(fit), model.expanded(negative), penalty))
        model.base_scores = model.scores(pool)
        scores = model.scores(held_back)
        gains = [_gain(model, scores, n) for n in CANDIDATES]
        decisive = next(gain for gain in gains if gain.candidates == DECIDES)
        written = decisive.nats_per_line > _ERRORS * decisive.error
        if written:
            _write(folder, generator, model)
        nll = float(np.mean(generator.score(lines[1::2]).per_line))
        return Refinement(
            written, -nll, gains, len(fit), len(held_back), samples, penalty, ess(model.base_scores),
            auroc(scores, model.base_scores),
        )  # fmt: skip


def _writable(generator: TextGenerator, lines: list[str]) -> list[str]:
    """Return the lines without a token that the run never writes, such as `<unk>`.

    A critic would tell them from the run's texts at once, and no number of candidates brings such a text.
    """
    scorer = LineScorer(generator.model, generator.tokenizer, generator.settings, generator.device, None)
    never = scorer.never_written(lines)
    kept = [line for line, no in zip(lines, never, strict=True) if not no]
    if left_out := len(lines) - len(kept):
        log.messages.info("%d held-out lines have tokens that the run never writes and are left out", left_out)
    if len(kept) < derived.FEWEST:
        raise DataError(
            f"--held-out needs {derived.FEWEST} lines of tokens that the run writes, got {len(kept)} and {left_out} "
            "with others, such as unknown words; give more"
        )
    return kept


def _check(run: str | os.PathLike[str], generator: TextGenerator) -> None:
    settings = generator.settings
    if settings.name not in mixture.MIXABLE:
        raise RunError(
            f"{run} is a run of {settings.name} and cannot be refined; these can: {', '.join(mixture.MIXABLE)}"
        )
    if settings.data.mode != "sentence" or settings.data.source:
        got = f"data.source = {settings.data.source}" if settings.data.source else f"data.mode = {settings.data.mode}"
        raise RunError(f"{run} has {got}; a critic judges lines without conditions (data.mode = sentence)")


def _model(generator: TextGenerator, data: TextData, critic: Literal["sums", "gru"] = "sums") -> refined.Model:
    """Return a model with this base and the n-grams of its training text, its critic not fitted yet."""
    tokenizer, decoder = generator.tokenizer, generator.left_to_right("a critic")
    start, stop = generator.beginnings("", None, None, None)[0].ids[0], decoder.stop
    config = refined.Config(
        base=generator.settings.name,
        settings=settings_of.to_dict(generator.settings.model),
        vocab_size=tokenizer.vocab_size,
        start=start,
        stop=stop,
        pad=tokenizer.pad,
        critic=critic,
    )
    model = refined.Model(config)
    checkpoint.fill(model.base, generator.model.state_dict(), "")  # type: ignore[attr-defined]
    model.fit_ngrams(data.train.ids.values, data.train.ids.lengths)
    return model.to(generator.device).eval()


def _read(generator: TextGenerator, model: refined.Model, lines: Sequence[str]) -> _Texts:
    reader = LineScorer(model, generator.tokenizer, generator.settings, generator.device, None)
    found = _Texts([], [])
    for ids, details in reader.read(model, lines):
        found.ids.extend(ids)
        found.values.extend(model.values(ids, details))
    return found


def _looked_at(model: refined.Model, texts: _Texts) -> Tensor:
    """Return what the critic looks at, (B, F)."""
    return model.looked_at(texts.ids, texts.values)


def _features_of_fit(model: refined.Model, texts: _Texts) -> Tensor:
    """Return what the critic is fitted to, (B, F): of the readers the score of the one that did not see the text."""
    found = model.sums(texts.values)
    if not model.readers:
        return found
    scores, folds = torch.zeros(len(texts.ids), dtype=torch.float64), len(model.readers)
    for fold in range(folds):
        own = range(fold, len(texts.ids), folds)
        scores[fold::folds] = model.read(fold, *texts.taken(own))
    return torch.cat([found, scores[:, None]], 1)


def _teach(model: refined.Model, positive: _Texts, negative: _Texts, seed: int) -> None:
    """Fit each reader to the texts outside its fold: to find the real one among many, a bound on the gain of q_n.

    Of its epochs the one is kept whose q_16 gains most on the fold.
    """
    folds = len(model.readers)
    for fold, reader in enumerate(model.readers):
        log.part("readers", fold, folds)
        lines, texts = (
            side.taken([k for k in range(len(side.ids)) if k % folds != fold]) for side in (positive, negative)
        )
        own, theirs = (side.taken(range(fold, len(side.ids), folds)) for side in (positive, negative))
        steps = -(-len(lines.ids) // _REAL)
        train = Train(steps=_EPOCHS * steps, lr=2e-3, schedule="linear", lr_end=0.0)
        optimizer = update.Optimizer(reader.named_parameters(), train)
        draws, best, kept = rng.generator("readers", seed, fold), 0.0, copy.deepcopy(reader.state_dict())
        for epoch in range(_EPOCHS):
            reader.train()
            order = torch.randperm(len(lines.ids), generator=draws)
            for at, chosen in enumerate(torch.split(order, _REAL)):
                step = epoch * steps + at
                rng.enter_step(rng.hash64("readers", seed, fold), step)
                others = torch.randint(len(texts.ids), (_MADE,), generator=draws)
                real, made = (
                    reader(*_batch(side.taken(rows.tolist()), model.weights.device))
                    for side, rows in ((lines, chosen), (texts, others))
                )
                loss = (torch.logaddexp(real, made.logsumexp(0)) - real).sum()
                update.update(optimizer, (loss, len(chosen)), step)
            reader.eval()
            gains = refined.resampled_gains(model.read(fold, *own), model.read(fold, *theirs), DECIDES)
            if (gain := float(gains.mean())) > best:
                best, kept = gain, copy.deepcopy(reader.state_dict())
        reader.load_state_dict(kept)
    model.eval()


def _batch(texts: _Texts, device: torch.device) -> tuple[Tensor, ...]:
    batch = refined.padded(texts.ids, texts.values, max(map(len, texts.ids)), len(texts.ids))
    return tuple(x.to(device) for x in batch)


def _scale(model: refined.Model, features: Tensor) -> None:
    model.mean.copy_(features.mean(0))
    model.scale.copy_(features.std(0).clamp(min=1e-6))


def _drawn(generator: TextGenerator, model: refined.Model, count: int, seed: int) -> tuple[_Texts, list[str]]:
    """Draw texts of the base, as ids and as lines."""
    decoder, sampling = model.decoder(), Sampling(details=True)
    found, texts = _Texts([], []), []
    for begin in range(0, count, _ROWS):
        log.part("texts", begin, count)
        size = min(_ROWS, count - begin)
        seeds = rng.text_seeds(rng.hash64("refine", seed), begin, size)
        drawn = decoder.decode([[model.config.start]] * size, seeds, sampling)
        assert drawn.details is not None
        ended = [len(one.log_prob) > len(ids) for ids, one in zip(drawn.ids, drawn.details, strict=True)]
        ids = [[*row, model.config.stop] if end else row for row, end in zip(drawn.ids, ended, strict=True)]
        found.ids.extend(ids)
        found.values.extend(model.values(ids, drawn.details))
        texts += generator.decoded(drawn.ids)
    return found, [text.strip() for text in texts]


def fitted(positive_bw: Tensor, negative_bw: Tensor, penalty: float) -> Tensor:
    """Return the weights (W,) that minimise -mean s(positive) + log mean exp s(negative) + penalty |weights|^2 / 2."""
    mean, others = positive_bw.mean(0).numpy(), negative_bw.numpy()

    def loss(weights: Floats) -> tuple[float, Floats]:
        scores = others @ weights
        share = np.exp(scores - scores.max())
        normaliser = float(scores.max() + np.log(share.mean()))
        gradient = share / share.sum() @ others - mean + penalty * weights
        return float(normaliser - mean @ weights + penalty / 2 * weights @ weights), gradient

    found = scipy.optimize.minimize(loss, np.zeros(len(mean)), jac=True, method="L-BFGS-B", options={"maxiter": 60})
    return torch.from_numpy(found.x)


def _penalty(model: refined.Model, positive_bf: Tensor, negative_bf: Tensor) -> float:
    """Return the penalty whose critics, each fitted without a fourth, gain most on that fourth."""
    positive, negative = model.expanded(positive_bf), model.expanded(negative_bf)

    def gain(penalty: float) -> float:
        total = 0.0
        for fold in range(_FOLDS):
            own, theirs = torch.arange(len(positive)) % _FOLDS == fold, torch.arange(len(negative)) % _FOLDS == fold
            weights = fitted(positive[~own], negative[~theirs], penalty)
            gains = refined.resampled_gains(positive[own] @ weights, negative[theirs] @ weights, DECIDES)
            total += float(gains.sum())
        return total

    return max(PENALTIES, key=gain)


def _gain(model: refined.Model, scores: Tensor, n: int) -> Gain:
    gains = model.gains(scores, n)
    return Gain(n, float(gains.mean()), float(gains.std() / len(gains) ** 0.5))


def ess(scores: Tensor) -> float:
    """Return the effective share of texts with these scores under weights exp(s), in (0, 1] (Kong 1992)."""
    weights = torch.softmax(scores, 0)
    return float(1 / (weights.square().sum() * len(weights)))


def auroc(real: Tensor, generated: Tensor) -> float:
    """Return how often a real score is above a generated one: the area under the ROC curve; .5: indistinguishable."""
    from sklearn.metrics import roc_auc_score  # late: it takes long to import

    labels = np.repeat([1, 0], [len(real), len(generated)])
    return float(roc_auc_score(labels, torch.cat([real, generated]).numpy()))


class TwoSampleTest:
    """Whether generated lines can be told from real ones by what a critic looks at (Lopez-Paz and Oquab 2017).

    `judge` is a run of lines that was trained on neither, or a folder; RunError where it cannot be refined.
    """

    def __init__(self, judge: TextGenerator | str | os.PathLike[str]) -> None:
        self._generator = judge if isinstance(judge, TextGenerator) else load(judge)
        _check(str(self._generator.folder), self._generator)
        self._model = _model(self._generator, self._generator.own_text())
        self._seen: dict[tuple[str, ...], Tensor] = {}

    def auroc(self, real: Sequence[str], generated: Sequence[str]) -> float:
        """Return how often a critic prefers a real line to a generated one, neither of which it was fitted to.

        .5: it cannot tell them apart. Every other line fits the critic for the rest, and the mean is taken. DataError
        for fewer than 100 lines of either.
        """
        for name, lines in (("real", real), ("generated", generated)):
            if len(lines) < FEWEST_LINES:
                raise DataError(f"a two-sample test needs at least {FEWEST_LINES} {name} lines, got {len(lines)}")
        if (key := tuple(real)) not in self._seen:  # the same ones stand beside every sample
            self._seen = {key: self._features(real)}
        both = [self._seen[key], self._features(generated)]
        _scale(self._model, torch.cat(both))
        halves = [[self._model.expanded(features)[half::2] for features in both] for half in (0, 1)]
        found = 0.0
        for (positive, negative), (real_half, generated_half) in (halves, halves[::-1]):
            weights = fitted(positive, negative, _PENALTY)
            found += auroc(real_half @ weights, generated_half @ weights)
        return found / 2

    def _features(self, lines: Sequence[str]) -> Tensor:
        return _looked_at(self._model, _read(self._generator, self._model, lines))


def _write(folder: Path, generator: TextGenerator, model: refined.Model) -> None:
    settings = replace(generator.settings, name="refined", model=model.config, module=refined)
    derived.write(folder, generator, settings, model.cpu(), {"refined_from": str(generator.folder)})
