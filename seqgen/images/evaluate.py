"""What pictures of a run are worth: the few numbers of every validation, and the whole table.

Features are those of a small classifier trained on the run's own pictures (`features.py`), so a Frechet feature
distance (FFD) is never an Inception FID. Protocol: uint8 pictures, features after the ReLU, float64 statistics, all
training pictures against the made ones; N and the features' hash stand in the signature.
"""

from typing import Any

import torch
from torch import Tensor

from seqgen.core.config import Train
from seqgen.images import metrics, pictures
from seqgen.images.data import ImageData
from seqgen.images.features import WIDTH, Features, features_of
from seqgen.images.painter import Painter
from seqgen.metrics.distance import frechet_distance

_ENOUGH = 2 * WIDTH
"""Pictures below which a Frechet distance of WIDTH features is too biased to be computed."""

_COVERED = 1000
"""Pictures of each side that precision, recall, density and coverage compare at a validation."""


def sample_and_score(painter: Painter, data: ImageData, train: Train) -> tuple[bytes, dict[str, float]]:
    """A grid of the first `train.show` pictures as PNG, and the numbers of `train.samples` pictures from fixed seeds.

    ffd against all training pictures, precision .. coverage and the nearest training picture on up to 1,000, the
    sliced Wasserstein distance to the held-out ones, and where there are labels class_kl and classifier_score.
    Fewer than 128 pictures on either side give no ffd.
    """
    made = painter.generate(max(train.samples, train.show, 1))
    shown = pictures.png(pictures.grid(made[: max(1, train.show)]))
    made = made[: train.samples]
    return shown, cheap_scores(made, data) if len(made) > 1 else {}


def cheap_scores(made: Tensor, data: ImageData) -> dict[str, float]:
    """The numbers of `sample_and_score` of pictures (N, C, S, S) uint8."""
    net = features_of(data)
    features, probabilities = net.encode(made)
    real, _ = _training_features(net, data)
    scores = {}
    if min(len(features), len(real)) >= _ENOUGH:
        scores["ffd"] = frechet_distance(real, features)
    few = min(_COVERED, len(real), len(features))
    if few > 5:
        overlap = metrics.coverage(real[:few], features[:few])
        scores |= {name: getattr(overlap, name) for name in ("precision", "recall", "density", "coverage")}
    scores["sliced_wasserstein"] = metrics.sliced_wasserstein(data.valid.pixels, made)
    if net.kind == "classes":
        counts = metrics.class_counts(torch.from_numpy(probabilities.argmax(1)), len(data.classes))
        scores["class_kl"] = metrics.class_kl(counts, metrics.class_counts(data.train.labels, len(data.classes)))
        scores["classifier_score"] = metrics.classifier_score(probabilities)
    distance, _ = metrics.nearest(made[:few].to(data.train.pixels.device), data.train.pixels)
    return {**scores, "nearest_training": float(distance.mean())}


def _training_features(net: Features, data: ImageData) -> tuple[Any, Any]:
    return net.encode(data.train.pixels)
