"""What pictures of a run are worth: the few numbers of every validation, and the whole table.

Features are those of a small classifier trained on the run's own pictures (`features.py`), so a Frechet feature
distance (FFD) is never an Inception FID. Protocol: uint8 pictures, 64 features after the ReLU, float64 statistics, all
training pictures against the made ones, real held-out pictures beside them as the floor; rows are shuffled before any
are left out. The number of pictures and the features' hash stand in every signature.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from seqgen.core import log, rng
from seqgen.core.config import Train
from seqgen.images import metrics, pictures
from seqgen.images.data import ImageData
from seqgen.images.features import features_of
from seqgen.images.painter import Method, Painter
from seqgen.metrics.distance import frechet_distance
from seqgen.metrics.score import Score, Signature, mean_rows

Floats = npt.NDArray[np.float64]

PROTOCOL = "ffd-1"
"""Name of the whole table's protocol."""

_QUICK, _WHOLE = 1000, 5000  # pictures of each side compared pair by pair, at a validation and in the table
_NEIGHBOURS = 5
_LIKELIHOOD_ROWS = 500  # held-out pictures whose likelihood is estimated
_FEW_LABELS = 1000  # pictures made to see whether a chosen class is what comes


class Encoder(Protocol):
    """What turns pictures into features: `features.Features`, or one of your own."""

    @property
    def kind(self) -> str:
        """`classes` where the probabilities are those of the data's classes, in their order."""

    @property
    def signature(self) -> str:
        """What tells these features from others."""

    def encode(self, pixels: Tensor) -> tuple[Floats, Floats]:
        """Features (N, D) and class probabilities (N, K) of uint8 pictures (N, C, S, S)."""


@dataclass(frozen=True, eq=False)
class Yardstick:
    """The real pictures that others are compared with, encoded once."""

    data: ImageData
    encoder: Encoder
    train: Floats
    """(N, D) features of the training pictures, in the order of `shuffled`."""
    shuffled: Tensor
    """(N,) training rows in random order."""


@functools.lru_cache(maxsize=2)  # a run asks again at every validation
def own_yardstick(data: ImageData) -> Yardstick:
    """The training pictures encoded by the classifier that is trained on them."""
    return yardstick(data, features_of(data))


def yardstick(data: ImageData, encoder: Encoder) -> Yardstick:
    """The training pictures, encoded."""
    order = torch.randperm(len(data.train.pixels), generator=rng.generator("yardstick"))
    order = order.to(data.train.pixels.device)
    return Yardstick(data, encoder, encoder.encode(data.train.pixels[order])[0], order)


# ------------------------------------------------------------------------------------------------- at every validation


def sample_and_score(painter: Painter, data: ImageData, train: Train) -> tuple[dict[str, bytes], dict[str, Any]]:
    """PNG files of what the run makes, by the ending of their name, and the numbers of `train.samples` pictures.

    The numbers are those of `scores_of`; `signs` says what looks like a collapse.
    """
    log.part("images", 0, max(train.samples, train.show))
    made = painter.generate(max(train.samples, train.show))
    log.part("sheets of images", 0)
    shown = {".png": pictures.png(pictures.grid(made[: max(1, train.show)]))}
    if train.show > 1:
        shown |= {ending: pictures.png(sheet) for ending, sheet in strips(painter, data)}
    made = made[: train.samples]
    if len(made) < 2:
        return shown, {}
    log.part("scores of images", 0)
    scores: dict[str, Any] = scores_of(made, own_yardstick(data), pairs=_QUICK)
    return shown, scores | {"signs": signs(scores)}


def strips(painter: Painter, data: ImageData, *, rows: int = 4, steps: int = 10) -> Iterator[tuple[str, Any]]:
    """Pictures that show a run's codes, by the ending of the file's name.

    `-between`: paths from one picture to another; of a VAE also `-rebuilt`: held-out pictures above their
    reconstructions, and `-plane`: codes on a grid in the two most active dimensions.
    """
    names = [data.classes[k % len(data.classes)] for k in range(rows)] if painter.told else [""] * rows
    chosen = [[name] if name else [] for name in names]
    if not painter.encodes:
        paths = [painter.interpolate(2 * k, 2 * k + 1, steps=steps, labels=chosen[k]) for k in range(rows)]
        yield "-between.png", pictures.grid(torch.cat(paths), columns=steps)
        return
    side = data.valid
    ends = side.pixels[: 2 * rows].cpu()
    told = [data.classes[k] for k in side.labels[: 2 * rows].tolist()] if painter.told else []
    pairs = [
        painter.interpolate(ends[k], ends[k + 1], steps=steps, labels=told[k : k + 2])
        for k in range(0, len(ends) - 1, 2)
    ]
    if pairs:
        yield "-between.png", pictures.grid(torch.cat(pairs), columns=steps)
    yield "-rebuilt.png", pictures.grid(torch.cat([ends, painter.reconstruct(ends, told)]), columns=len(ends))
    yield "-plane.png", pictures.grid(_plane(painter, data, steps), columns=steps)


def _plane(painter: Painter, data: ImageData, steps: int) -> Tensor:
    """Decoded codes on a grid of normal quantiles in the two dimensions whose means vary most, 0 in the others."""
    side = data.valid
    told = [data.classes[k] for k in side.labels.tolist()] if painter.told else []
    means = painter.encode(side.pixels[:500].cpu(), told[:500])
    active = means.var(0, correction=0).topk(min(2, means.shape[1])).indices
    quantiles = torch.special.ndtri((torch.arange(steps, dtype=torch.float64) + 0.5) / steps).float()
    codes = torch.zeros(steps * steps, means.shape[1])
    codes[:, active[0]] = quantiles.repeat(steps)
    if len(active) > 1:
        codes[:, active[1]] = quantiles.repeat_interleave(steps)
    return painter.decode(codes, data.classes[:1] if painter.told else [])


def scores_of(made: Tensor, real: Yardstick, *, pairs: int = _WHOLE) -> dict[str, float]:
    """Numbers of pictures (N, C, S, S) uint8 beside the real ones; N > 1.

    ffd, kernel_distance (on standardised features), precision, recall, density, coverage (5 neighbours) and
    nearest_training (root mean square distance per pixel, 0..1) on up to `pairs` of each side, sliced_wasserstein,
    variety (deviation of a pixel between pictures), and where features know classes class_kl, class_js and
    classifier_score. ffd needs twice as many pictures as features on both sides, the neighbours more than 5.
    """
    data, scores = real.data, {}
    features, probabilities = real.encoder.encode(made)
    if min(len(features), len(real.train)) >= 2 * features.shape[1]:
        scores["ffd"] = frechet_distance(real.train, features)
    few = min(pairs, len(real.train), len(features))
    train, own = real.train[:few], features[:few]
    scores["kernel_distance"] = metrics.kernel_distance(*metrics.standardised(train, own))
    if few > _NEIGHBOURS:
        overlap = metrics.coverage(train, own, k=_NEIGHBOURS)
        scores |= {name: getattr(overlap, name) for name in ("precision", "recall", "density", "coverage")}
    scores["sliced_wasserstein"] = metrics.sliced_wasserstein(data.train.pixels[real.shuffled[:few]], made[:few])
    scores["variety"] = metrics.pixel_statistics(made)["variety"]
    if real.encoder.kind == "classes":
        found = torch.from_numpy(probabilities.argmax(1))
        counts = (
            metrics.class_counts(found, len(data.classes)),
            metrics.class_counts(data.train.labels, len(data.classes)),
        )
        scores |= {"class_kl": metrics.class_kl(*counts), "class_js": metrics.class_js(*counts)}
        scores["classifier_score"] = metrics.classifier_score(probabilities)
    distance, _ = metrics.nearest(made[: min(_QUICK, few)].to(data.train.pixels.device), data.train.pixels)
    scores["nearest_training"] = float(distance.mean())
    return scores


def signs(scores: dict[str, float]) -> list[str]:
    """What in the scores of made pictures looks like a collapse, in words; thresholds are this project's own.

    Pictures that do not look real yet are how every model begins, and no sign.
    """
    if scores.get("precision", 0.0) < 0.5:
        return []
    found = []
    if scores.get("class_kl", 0.0) > 0.5:
        found.append(f"collapse: some classes are hardly made (class KL {scores['class_kl']:.2f}, real near 0)")
    if scores["recall"] < 0.02 and scores["coverage"] < 0.05:
        found.append(f"collapse: real pictures have no made neighbours (coverage {scores['coverage']:.3f})")
    return found


# ------------------------------------------------------------------------------------------------------ the whole table


@dataclass(frozen=True)
class Column:
    """One column of the table of a run."""

    name: str
    about: str
    scores: dict[str, Score]
    likelihood: dict[str, Score]


def table(
    painter: Painter,
    *,
    count: int = 0,
    seed: int = 0,
    methods: tuple[Method, ...] = (),
    encoder: Encoder | None = None,
    samples: int = 100,
) -> list[Column]:
    """A run's pictures beside real ones: one column per way of making them, of a VAE reconstructions, and held-out.

    count: pictures per column; 0: as many as training pictures, at most 10,000. methods: by default prior, and mixture
    for a VAE. encoder: features of your own. samples: importance samples of the likelihood of up to 500 held-out
    pictures, where there is one; 0: no likelihood.
    """
    real = own_yardstick(painter.pictures) if encoder is None else yardstick(painter.pictures, encoder)
    data = real.data
    count = count or min(10_000, len(data.train.pixels))
    methods = methods or (("prior", "mixture") if painter.encodes else ("prior",))

    def column(name: str, about: str, made: Tensor, more: dict[str, float], likelihood: dict[str, Score]) -> Column:
        values = scores_of(made, real) | more
        fields = {"features": real.encoder.signature, "made": str(len(made)), "real": str(len(real.train))}
        scores = {key: Score(value, Signature(key, fields, seed=seed)) for key, value in values.items()}
        return Column(name, about, scores, likelihood)

    columns = []
    for method in methods:
        made = painter.generate(count, seed=seed, method=method)
        more = {"label_accuracy": _label_accuracy(painter, real, seed)} if painter.told and method == "prior" else {}
        likelihood = _likelihood(painter, data, samples) if method == "prior" else {}
        columns.append(column(method, f"{count} pictures, seed {seed}, codes from {method}", made, more, likelihood))
    order = torch.randperm(len(data.valid.pixels), generator=rng.generator("held-out pictures", seed))[:count]
    held_out = data.valid.pixels.cpu()[order]
    if painter.encodes:
        told = [data.classes[k] for k in data.valid.labels[order].tolist()] if painter.told else []
        rebuilt = painter.reconstruct(held_out, told)
        a, b = held_out / 255, rebuilt / 255
        errors = {
            "squared_error": metrics.squared_error(a, b),
            "cross_entropy": metrics.cross_entropy(a, b),
            "structural_similarity": metrics.structural_similarity(a, b),
        }
        means = {name: float(values.mean()) for name, values in errors.items()}
        if data.train.factors is not None:
            means |= _explained(painter, data)
        columns.append(column("rebuilt", f"{len(rebuilt)} held-out pictures, encoded and decoded", rebuilt, means, {}))
    columns.append(column("real", f"{len(held_out)} held-out pictures as if they were made", held_out, {}, {}))
    return columns


def _label_accuracy(painter: Painter, real: Yardstick, seed: int) -> float:
    """Share of pictures made for a class, each class in turn, that the features' classifier takes for it."""
    classes = real.data.classes
    made = painter.generate(_FEW_LABELS, seed=seed, labels=classes)
    return float((real.encoder.encode(made)[1].argmax(1) == np.arange(_FEW_LABELS) % len(classes)).mean())


def _likelihood(painter: Painter, data: ImageData, samples: int) -> dict[str, Score]:
    if not samples or not painter.encodes or painter.config.likelihood == "grey":
        return {}
    side = data.valid
    pixels = side.pixels[:_LIKELIHOOD_ROWS].cpu()
    told = [data.classes[k] for k in side.labels[:_LIKELIHOOD_ROWS].tolist()] if painter.told else []
    nats = -painter.log_likelihood(pixels, told, samples=samples).double().numpy()
    fields = {"real": str(len(nats)), "by": f"{samples} codes (bound)", "likelihood": painter.config.likelihood}
    units = {"nll_per_picture": 1.0, "bits_per_dim": painter.model.pixels * np.log(2)}
    return {
        name: Score(float((nats / unit).mean()), Signature(name, fields), rows=mean_rows(nats / unit))
        for name, unit in units.items()
    }


def _explained(painter: Painter, data: ImageData) -> dict[str, float]:
    """R^2 of the known factors of generated shapes from the codes."""
    from seqgen.images.sources import FACTORS

    side = data.train
    assert side.factors is not None
    told = [data.classes[k] for k in side.labels[:_WHOLE].tolist()] if painter.told else []
    codes = painter.encode(side.pixels[:_WHOLE].cpu(), told)
    factors = side.factors[:_WHOLE].cpu().numpy()
    varying = factors.std(0) > 0
    explained = metrics.factor_r2(codes.numpy(), factors[:, varying])
    return {f"r2_{name}": float(r) for name, r in zip(np.array(FACTORS)[varying].tolist(), explained, strict=True)}
