"""What images are worth: the few numbers of every validation, and the whole table, of a run or of given images.

Features are those of a small classifier trained on the real images themselves (`features.py`), so a Frechet feature
distance (FFD) is never an Inception FID. Protocol: uint8 images, 64 features after the ReLU, float64 statistics, all
training images against the made ones, real held-out images beside them as the floor; rows are shuffled before any are
left out. A distance of few images is biased upward, so every column has equally many: what there is of held-out images
bounds them all. Each number has a 95 % interval from a grouped jackknife over the made images.
"""

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from seqgen.core import log, rng
from seqgen.core.config import Train
from seqgen.images import grids, metrics
from seqgen.images.data import ImageData
from seqgen.images.features import features_of
from seqgen.images.generator import ImageGenerator, Method
from seqgen.metrics.distance import check_features, frechet_of_moments, moments
from seqgen.metrics.score import Score, Signature, mean_rows, with_intervals

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.bool_]

PROTOCOL = "ffd-2"
"""Name of the whole table's protocol."""

_QUICK, _WHOLE = 1000, 5000  # images of each set compared pair by pair, at a validation and in the table
_NEIGHBOURS = 5
_LIKELIHOOD_ROWS = 500  # held-out images whose likelihood is estimated
_GROUPS = 10  # of the jackknife
_SHEET_ROWS = 20  # classes that a sheet shows
_FEW_LABELS = 1000  # images made to see whether a chosen class is what comes


class Encoder(Protocol):
    """What turns images into features: `features.Features`, or one of your own."""

    @property
    def kind(self) -> str:
        """`classes` where the probabilities are those of the data's classes, in their order."""

    @property
    def signature(self) -> str:
        """Identifies these features in signatures."""

    def encode(self, pixels: Tensor) -> tuple[Floats, Floats]:
        """Return features (N, D) and class probabilities (N, K) of uint8 images (N, C, S, S)."""


@dataclass(frozen=True, eq=False)
class Cloud:
    """The features that others are compared with."""

    train: Floats
    """(N, D) features of the real images, in random order."""

    @functools.cached_property
    def moments(self) -> tuple[Floats, Floats]:
        """Mean and covariance of the features."""
        return moments(self.train)

    @property
    def enough(self) -> int:
        """Images that a Frechet distance needs at least: twice as many as features."""
        return 2 * int(self.train.shape[1])


@dataclass(frozen=True, eq=False)
class Reference(Cloud):
    """The real images that others are compared with, encoded once."""

    data: ImageData
    encoder: Encoder
    shuffled: Tensor
    """(N,) training rows in the order of the features."""


@functools.lru_cache(maxsize=2)  # a run asks again at every validation
def own_reference(data: ImageData) -> Reference:
    """Return the training images encoded by the classifier that is trained on them."""
    return reference(data, features_of(data))


def reference(data: ImageData, encoder: Encoder) -> Reference:
    """Return the training images, encoded."""
    order = torch.randperm(len(data.train.pixels), generator=rng.generator("yardstick"))
    order = order.to(data.train.pixels.device)
    return Reference(encoder.encode(data.train.pixels[order])[0], data, encoder, order)


# ------------------------------------------------------------------------------------------------- at every validation


def sample_and_score(
    generator: ImageGenerator, data: ImageData, train: Train
) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Return PNG files of generated images, by the ending of their name, and the scores of `train.samples` of them.

    The numbers are those of `scores_of`; `signs` describes what looks like a collapse.
    """
    made = generator.generate(max(train.samples, train.show))
    log.part("sheets of images", 0)
    shown = {".png": grids.png(grids.grid(made[: max(1, train.show)]))}
    if train.show > 1:
        shown |= {ending: grids.png(sheet) for ending, sheet in strips(generator, data, made)}
    made = made[: train.samples]
    if len(made) < 2:
        return shown, {}
    log.part("scores of images", 0)
    scores: dict[str, Any] = scores_of(made, own_reference(data), pairs=_QUICK)
    return shown, scores | {"signs": signs(scores)}


def strips(
    generator: ImageGenerator, data: ImageData, made: Tensor, *, rows: int = 4, steps: int = 10
) -> Iterator[tuple[str, Any]]:
    """Yield sheets that show what a run makes, with the ending of the file's name.

    `-between`: paths from one image to another; `-neighbours`: images of `made` above their nearest training images;
    `-classes` of a conditional run: a row for each class, at most 20; of a VAE also `-rebuilt`: held-out images above
    their reconstructions, and `-plane`: latents on a grid in the two most active dimensions.
    """
    own = data.train.pixels
    near = own[metrics.nearest(made[:steps].to(own.device), own)[1]].cpu()
    yield "-neighbours.png", grids.grid(torch.cat([made[:steps], near]), columns=len(near))
    if generator.conditional:
        each = [name for name in data.classes[:_SHEET_ROWS] for _ in range(steps)]
        yield "-classes.png", grids.grid(generator.generate(len(each), labels=each), columns=steps)
    names = [data.classes[k % len(data.classes)] for k in range(rows)] if generator.conditional else [""] * rows
    chosen = [[name] if name else [] for name in names]
    if not generator.encodes:
        paths = [generator.interpolate(2 * k, 2 * k + 1, steps=steps, labels=chosen[k]) for k in range(rows)]
        yield "-between.png", grids.grid(torch.cat(paths), columns=steps)
        return
    split = data.valid
    ends = split.pixels[: 2 * rows].cpu()
    names = [data.classes[k] for k in split.labels[: 2 * rows].tolist()] if generator.conditional else []
    pairs = [
        generator.interpolate(ends[k], ends[k + 1], steps=steps, labels=names[k : k + 2])
        for k in range(0, len(ends) - 1, 2)
    ]
    if pairs:
        yield "-between.png", grids.grid(torch.cat(pairs), columns=steps)
    yield "-rebuilt.png", grids.grid(torch.cat([ends, generator.reconstruct(ends, names)]), columns=len(ends))
    yield "-plane.png", grids.grid(_plane(generator, data, steps), columns=steps)


def _plane(generator: ImageGenerator, data: ImageData, steps: int) -> Tensor:
    """Decode a grid of normal quantiles in the two latent dimensions whose means vary most, 0 in the others."""
    split = data.valid
    names = [data.classes[k] for k in split.labels.tolist()] if generator.conditional else []
    means = generator.encode(split.pixels[:500].cpu(), names[:500])
    active = means.var(0, correction=0).topk(min(2, means.shape[1])).indices
    quantiles = torch.special.ndtri((torch.arange(steps, dtype=torch.float64) + 0.5) / steps).float()
    latents = torch.zeros(steps * steps, means.shape[1])
    latents[:, active[0]] = quantiles.repeat(steps)
    if len(active) > 1:
        latents[:, active[1]] = quantiles.repeat_interleave(steps)
    return generator.decode(latents, data.classes[:1] if generator.conditional else [])


@dataclass(frozen=True, eq=False)
class _Made:
    """What the numbers of made images are functions of."""

    pixels: Tensor
    features: Floats
    probabilities: Floats
    distances: Floats
    """Of the first images, to the nearest training image."""

    def take(self, rows: Rows) -> "_Made":
        """Return some of the images."""
        few = self.distances[rows[: len(self.distances)]]
        return _Made(self.pixels[torch.from_numpy(rows)], self.features[rows], self.probabilities[rows], few)


def _described(pixels: Tensor, real: Reference, pairs: int) -> _Made:
    metrics.check_bytes(pixels, real.data.train.pixels[:1])
    features, probabilities = real.encoder.encode(pixels)
    check_features(real.train, features)
    count = min(_QUICK, _paired(len(pixels), real, pairs))
    own = real.data.train.pixels
    distances = metrics.nearest(pixels[:count].to(own.device), own)[0].double().cpu().numpy()
    return _Made(pixels, features, probabilities, distances)


def _paired(count: int, real: Reference, pairs: int) -> int:
    """Return the number of images of each set that are compared pair by pair."""
    return min(pairs, len(real.train), count)


def scores_of(made: Tensor, real: Reference, *, pairs: int = _WHOLE) -> dict[str, float]:
    """Return the scores of images (N, C, S, S) uint8 beside the real ones; N > 1.

    ffd, kernel_distance (on standardised features), precision, recall, density, coverage (5 neighbours) and
    nearest_training (root mean square distance per pixel, 0..1) on up to `pairs` of each set, sliced_wasserstein,
    variety (deviation of a pixel between images), and where features know classes class_kl, class_js and
    classifier_score. ffd needs twice as many images as features in both sets, the neighbours more than 5.
    """
    few = _paired(len(made), real, pairs)
    return _numbers(_described(made, real, pairs), real, few, few, distance=len(made) >= real.enough)


def _numbers(made: _Made, real: Reference, of_real: int, of_made: int, *, distance: bool) -> dict[str, float]:
    data = real.data
    scores = _of_features(made.features, real, of_real, of_made, distance=distance)
    shown = data.train.pixels[real.shuffled[:of_real]]
    scores["sliced_wasserstein"] = metrics.sliced_wasserstein(shown, made.pixels[:of_made])
    scores["variety"] = metrics.pixel_statistics(made.pixels)["variety"]
    if real.encoder.kind == "classes":
        found = torch.from_numpy(made.probabilities.argmax(1))
        counts = (
            metrics.class_counts(found, len(data.classes)),
            metrics.class_counts(data.train.labels, len(data.classes)),
        )
        scores |= {"class_kl": metrics.class_kl(*counts), "class_js": metrics.class_js(*counts)}
        scores["classifier_score"] = metrics.classifier_score(made.probabilities)
    scores["nearest_training"] = float(made.distances.mean())
    return scores


def _of_features(made: Floats, real: Cloud, of_real: int, of_made: int, *, distance: bool) -> dict[str, float]:
    scores = {}
    if distance and len(real.train) >= real.enough:
        scores["ffd"] = frechet_of_moments(*real.moments, *moments(made))
    train, own = real.train[:of_real], made[:of_made]
    scores["kernel_distance"] = metrics.kernel_distance(*metrics.standardised(train, own))
    if min(of_real, len(own)) > _NEIGHBOURS:
        overlap = metrics.coverage(train, own, k=_NEIGHBOURS)
        scores |= {name: getattr(overlap, name) for name in ("precision", "recall", "density", "coverage")}
    return scores


def signed_scores(pixels: Tensor, real: Reference, *, seed: int = 0, pairs: int = _WHOLE) -> dict[str, Score]:
    """Return `scores_of` with how each was made and its 95 % interval: 1.96 jackknife errors up and down.

    Every tenth image is left out in turn (Tukey's jackknife in groups; on average too wide rather than too narrow,
    Efron and Stein 1981), and a share of 0 or 1 has Wilson's interval. The real images are held fixed: all columns
    share them. Of a distance of few images the interval is around what so many images give, not around that of
    infinitely many.
    """
    made, few = _described(pixels, real, pairs), _paired(len(pixels), real, pairs)

    def numbers(rows: Rows) -> dict[str, float]:
        kept = int(rows[:few].sum())
        return _numbers(made.take(rows), real, few, kept, distance=len(pixels) >= real.enough)

    return _signed(numbers, len(pixels), few, real, real.encoder.signature, seed)


def _signed(
    numbers: Callable[[Rows], dict[str, float]], count: int, few: int, real: Cloud, features: str, seed: int
) -> dict[str, Score]:
    """Return scores from the numbers of some of `count` images, of which `few` are compared pair by pair."""
    values = numbers(np.ones(count, bool))
    group = np.arange(count) % _GROUPS
    left_out = []
    for part in range(_GROUPS if count > _GROUPS else 0):
        log.part("noise of the scores", part, _GROUPS)
        left_out.append(numbers(group != part))

    def score(name: str, value: float) -> Score:
        made, others = (few, few) if name in _PAIRED else (count, len(real.train))
        made = min(_QUICK, few) if name == "nearest_training" else made
        fields = {"features": features, "made": str(made), "real": str(others)}
        values = [rest[name] for rest in left_out if name in rest]
        error = jackknife_error(values) if len(values) == _GROUPS else math.inf
        least, most = -math.inf if name == "kernel_distance" else 0.0, 1.0 if name in _SHARES else math.inf
        interval = (max(least, value - 1.96 * error), min(most, value + 1.96 * error)) if math.isfinite(error) else None
        if name in _SHARES and not error and value in (0, 1):
            # all of them, or none: the jackknife sees no noise there, Wilson's interval of a share does
            edge = 1.96**2 / (made + 1.96**2)
            interval = (1 - edge, 1.0) if value else (0.0, edge)
        within = interval is not None and interval[0] <= 0 <= interval[1]
        note = "within its noise of 0: it needs more images" if name == "kernel_distance" and within else ""
        return Score(value, Signature(name, fields, seed=seed), stored_interval=interval, note=note)

    return {name: score(name, value) for name, value in values.items()}


def jackknife_error(left_out: Sequence[float]) -> float:
    """Return the standard error of a number from its values with each group of rows left out in turn (Tukey 1958)."""
    return float(np.sqrt((len(left_out) - 1) * np.var(left_out)))


_SHARES = ("precision", "recall", "coverage")
_PAIRED = ("kernel_distance", "precision", "recall", "density", "coverage", "sliced_wasserstein")


def signs(scores: dict[str, float]) -> list[str]:
    """Describe what in the scores looks like a collapse; thresholds are this project's own.

    Images that do not look real yet are how every model begins, and no sign.
    """
    if scores.get("precision", 0.0) < 0.5:
        return []
    found = []
    if scores.get("class_kl", 0.0) > 0.5:
        found.append(f"collapse: some classes are hardly made (class KL {scores['class_kl']:.2f}, real near 0)")
    if scores["recall"] < 0.02 and scores["coverage"] < 0.05:
        found.append(f"collapse: real images have no made neighbours (coverage {scores['coverage']:.3f})")
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
    generator: ImageGenerator,
    *,
    count: int = 0,
    seed: int = 0,
    methods: tuple[Method, ...] = (),
    encoder: Encoder | None = None,
    samples: int = 100,
) -> list[Column]:
    """Compare a run's images with real ones: a column per sampling method, a VAE's reconstructions, held-out ones.

    count: images of each column; 0: as many as are held out, at most 10,000; see `column_size`. methods: by default
    prior, and mixture for a VAE. encoder: features of your own. samples: importance samples of the likelihood of up to
    500 held-out images, where there is one; 0: no likelihood.
    """
    real = own_reference(generator.images) if encoder is None else reference(generator.images, encoder)
    data = real.data
    size = column_size(real, count)
    methods = methods or (("prior", "mixture") if generator.encodes else ("prior",))
    fewer = f" ({count} were asked for; no more are held out)" if size < count else ""
    columns = []
    for method in methods:
        log.part(f"images, {method}", 0)
        made = generator.generate(size, seed=seed, method=method)
        more = _label_accuracy(generator, real, seed) if generator.conditional and method == "prior" else {}
        likelihood = _likelihood(generator, data, samples) if method == "prior" else {}
        scores = signed_scores(made, real, seed=seed) | more
        columns.append(Column(method, f"{size} images{fewer}, seed {seed}, latents from {method}", scores, likelihood))
    order = _held_out_rows(data, size, seed)
    held_out = data.valid.pixels[order].cpu()
    if generator.encodes:
        names = [data.classes[k] for k in data.valid.labels[order].tolist()] if generator.conditional else []
        rebuilt = generator.reconstruct(held_out, names)
        a, b = held_out / 255, rebuilt / 255
        errors = {
            "squared_error": metrics.squared_error(a, b),
            "cross_entropy": metrics.cross_entropy(a, b),
            "structural_similarity": metrics.structural_similarity(a, b),
        }
        scores = signed_scores(rebuilt, real, seed=seed)
        scores |= {name: _mean(name, each.numpy(), {"real": str(len(a))}) for name, each in errors.items()}
        if data.train.factors is not None:
            rows = {"real": str(min(_WHOLE, len(data.train.pixels)))}
            scores |= {name: Score(r, Signature(name, rows)) for name, r in _explained(generator, data).items()}
        columns.append(Column("rebuilt", f"{len(rebuilt)} held-out images, encoded and decoded", scores, {}))
    return [*columns, _real_column(real, size, seed)]


def table_of(
    given: Mapping[str, Tensor], data: ImageData, *, count: int = 0, seed: int = 0, encoder: Encoder | None = None
) -> list[Column]:
    """Compare images (N, C, S, S) uint8 of other programs, by name, with as many held-out ones of `data`; see `table`.

    Of more images than a column has so many are drawn by the seed. ValueError for images of another size.
    """
    real = own_reference(data) if encoder is None else reference(data, encoder)
    fewest = min(map(len, given.values()))
    size = column_size(real, min(count, fewest) if count else fewest)
    columns = []
    for name, pixels in given.items():
        order = torch.randperm(len(pixels), generator=rng.generator("given images", seed))[:size]
        about = f"{len(order)} of {len(pixels)} given images"
        columns.append(Column(name, about, signed_scores(pixels[order], real, seed=seed), {}))
    return [*columns, _real_column(real, size, seed)]


def table_of_features(
    made: Floats, real: Floats, *, count: int = 0, seed: int = 0, name: str = "given"
) -> list[Column]:
    """Compare features (N, D) of images of other programs with those (M, D) of as many real ones; see `table`.

    At most half of the real ones stand beside as if they were made, the others are what both are compared with.
    ValueError as `check_features`.
    """
    made, real = (
        rows[torch.randperm(len(rows), generator=rng.generator(f"{split} features", seed)).numpy()]
        for split, rows in zip(("given", "real"), check_features(made, real), strict=True)
    )
    size = min(count or 10_000, len(made), len(real) // 2)
    cloud, few = Cloud(real[size:]), min(_WHOLE, size, len(real) - size)

    def column(name: str, about: str, rows: Floats) -> Column:
        def numbers(kept: Rows) -> dict[str, float]:
            enough = len(rows) >= cloud.enough
            return _of_features(rows[kept], cloud, few, int(kept[:few].sum()), distance=enough)

        return Column(name, about, _signed(numbers, len(rows), few, cloud, f"given-{real.shape[1]}", seed), {})

    about = f"{size} of {len(real)} rows of real images, compared with the other {len(real) - size}"
    return [column(name, f"{size} of {len(made)} given rows", made[:size]), column("real", about, real[:size])]


def column_size(real: Reference, count: int) -> int:
    """Return how many images every column has: `count` (0: 10,000), but no more than are held out.

    Where even a Frechet distance needs more than that, it is `count`, or as many as training images, and the column of
    held-out images stands apart by its signature.
    """
    held_out, most = len(real.data.valid.pixels), count or 10_000
    return min(most, held_out if held_out >= real.enough else len(real.data.train.pixels))


def _held_out_rows(data: ImageData, size: int, seed: int) -> Tensor:
    order = torch.randperm(len(data.valid.pixels), generator=rng.generator("held-out pictures", seed))[:size]
    return order.to(data.valid.pixels.device)


def _real_column(real: Reference, size: int, seed: int) -> Column:
    held_out = real.data.valid.pixels[_held_out_rows(real.data, size, seed)].cpu()
    about = f"{len(held_out)} of {len(real.data.valid.pixels)} held-out images as if they were made"
    return Column("real", about, signed_scores(held_out, real, seed=seed), {})


def _mean(name: str, values: Floats, fields: dict[str, str], *, seed: int | None = None) -> Score:
    """Return the mean of one number per image, with its interval."""
    rows = mean_rows(values)
    return with_intervals([Score(float(values.mean()), Signature(name, fields, seed=seed), rows=rows)])[0]


def _label_accuracy(generator: ImageGenerator, real: Reference, seed: int) -> dict[str, Score]:
    """Return the share of images generated for a class, each class in turn, that the classifier takes for it."""
    classes = real.data.classes
    if real.encoder.kind != "classes":
        return {}
    made = generator.generate(_FEW_LABELS, seed=seed, labels=classes)
    right = real.encoder.encode(made)[1].argmax(1) == np.arange(_FEW_LABELS) % len(classes)
    fields = {"features": real.encoder.signature, "made": str(_FEW_LABELS)}
    return {"label_accuracy": _mean("label_accuracy", right.astype(np.float64), fields, seed=seed)}


def _likelihood(generator: ImageGenerator, data: ImageData, samples: int) -> dict[str, Score]:
    if not samples or not generator.encodes or generator.config.likelihood == "grey":
        return {}
    split = data.valid
    pixels = split.pixels[:_LIKELIHOOD_ROWS].cpu()
    names = [data.classes[k] for k in split.labels[:_LIKELIHOOD_ROWS].tolist()] if generator.conditional else []
    nats = -generator.log_likelihood(pixels, names, samples=samples).double().numpy()
    fields = {"real": str(len(nats)), "by": f"{samples} latents (bound)", "likelihood": generator.config.likelihood}
    units = {"nll_per_image": 1.0, "bits_per_dim": generator.model.pixels * np.log(2)}
    return {name: _mean(name, nats / unit, fields) for name, unit in units.items()}


def _explained(generator: ImageGenerator, data: ImageData) -> dict[str, float]:
    """Return the R^2 of the known factors of generated shapes from the latents."""
    from seqgen.images.reading import FACTORS

    split = data.train
    assert split.factors is not None
    names = [data.classes[k] for k in split.labels[:_WHOLE].tolist()] if generator.conditional else []
    latents = generator.encode(split.pixels[:_WHOLE].cpu(), names)
    factors = split.factors[:_WHOLE].cpu().numpy()
    varying = factors.std(0) > 0
    explained = metrics.factor_r2(latents.numpy(), factors[:, varying])
    return {f"r2_{name}": float(r) for name, r in zip(np.array(FACTORS)[varying].tolist(), explained, strict=True)}
