"""Features of images from a small net that is trained here: no download, and named after what it was trained on.

conv 5x5/2 16, conv 5x5/2 32, fc 64, ReLU, fc K; the 64 numbers after the ReLU are the features. With labels it learns
the classes. Without, it learns by which quarter turn an image was rotated (Gidaris et al. 2018), and then there are
no class metrics. A Frechet distance of these features is called FFD and is comparable only where the hash is equal.
Shapes: N images, C channels, S pixels a side, D = 64 features, K classes.
"""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.adam import adam

from seqgen.core import log, rng
from seqgen.core.errors import ConfigError
from seqgen.images.data import ImageData, Split

WIDTH = 64
"""Features of an image."""

_VERSION = "1"  # of what training makes; part of the cache's key
_BATCH = 128
_EPOCHS, _LEAST_STEPS = 3, 1000
_ROWS = 500  # images encoded together


class Net(nn.Module):
    """The feature net; its weights start as torch makes them."""

    def __init__(self, channels: int, size: int, classes: int) -> None:
        super().__init__()
        split = -(-size // 4)
        self.body = nn.Sequential(
            nn.Conv2d(channels, 16, 5, 2, 2),
            nn.ReLU(),
            nn.Conv2d(16, 32, 5, 2, 2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * split**2, WIDTH),
            nn.ReLU(),
        )
        self.head = nn.Linear(WIDTH, classes)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (N, 64) and class logits (N, K) of uint8 images (N, C, S, S)."""
        features = self.body(pixels.float() / 255)
        return features, self.head(features)


@dataclass(frozen=True, eq=False)
class Features:
    """A trained feature net and what is known of it."""

    net: Net
    kind: str
    """classes, or rotations where there were no labels."""
    accuracy: float
    """Share of held-out images it gets right."""
    hash: str
    """SHA-256 of its weights: what a distance of its features is comparable under."""

    def encode(self, pixels: Tensor) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return features (N, 64) and class probabilities (N, K), float64, of uint8 images."""
        device = next(self.net.parameters()).device
        with torch.no_grad():
            parts = []
            for at, block in enumerate(torch.split(pixels, _ROWS)):
                log.part("images encoded", at * _ROWS, len(pixels))
                parts.append(self.net(block.to(device)))
        features = torch.cat([part[0] for part in parts]).double().cpu().numpy()
        probabilities = torch.cat([part[1] for part in parts]).double().softmax(1).cpu().numpy()
        return features, probabilities

    @property
    def signature(self) -> str:
        """How a score's signature names these features, `classes-64/3fa41b02`."""
        return f"{self.kind}-{WIDTH}/{self.hash[:8]}"


def features_of(data: ImageData, *, seed: int = 0, folder: Path | None = None) -> Features:
    """Load the feature net of these training images, or train it: 3 epochs, at least 1,000 steps.

    Training is Adam at 1e-3 in batches of 128, seeded; global randomness is left as it was. `folder` is the cache,
    by default seqgen/features below $XDG_CACHE_HOME or ~/.cache; what lies there holds weights only.
    """
    folder = cache_folder() if folder is None else folder
    labelled = bool((data.train.labels >= 0).all()) and len(data.classes) > 1
    kind, classes = ("classes", len(data.classes)) if labelled else ("rotations", 4)
    key = hashlib.sha256("|".join([_VERSION, data.fingerprint, kind, str(seed)]).encode()).hexdigest()
    path = folder / f"{key[:24]}.safetensors"
    device = data.train.pixels.device
    with torch.random.fork_rng(), torch.inference_mode(False), torch.enable_grad():
        torch.default_generator.manual_seed(rng.hash64("feature net", seed))
        net = Net(data.train.pixels.shape[1], data.train.pixels.shape[2], classes).to(device)
        stored = _stored(path)
        if not stored:
            _train(net, data.train, kind, seed)
            accuracy = _accuracy(net, data.valid, kind)
            stored = {**_weights(net), "accuracy": torch.tensor(accuracy, dtype=torch.float64)}
            folder.mkdir(parents=True, exist_ok=True)
            beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
            save_file(stored, beside)
            beside.replace(path)
        accuracy = float(stored.pop("accuracy"))
        net.load_state_dict(stored)
    weights = hashlib.sha256()
    for name, tensor in sorted(_weights(net).items()):
        weights.update(name.encode() + tensor.numpy().tobytes())
    return Features(net.requires_grad_(False), kind, accuracy, weights.hexdigest())


@dataclass(frozen=True, eq=False)
class OwnFeatures:
    """Features by a function of one's own, from images (B, C, S, S) uint8 to rows (B, D)."""

    function: Callable[[Tensor], Any]
    signature: str
    """Identifies these features in signatures."""
    kind: str = "own"

    def encode(self, pixels: Tensor) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return features (N, D) float64, and no class probabilities; ConfigError for what is no row for each image."""
        rows = []
        for at, block in enumerate(torch.split(pixels, _ROWS)):
            log.part("images encoded", at * _ROWS, len(pixels))
            try:
                with torch.no_grad():
                    found = self.function(block)
                rows.append(np.asarray(found.cpu() if isinstance(found, Tensor) else found, np.float64))
            except Exception as error:
                raise ConfigError(
                    f"features {self.signature} raised {type(error).__name__}: {error} (given {len(block)} images)"
                ) from error
            if rows[-1].ndim != 2 or len(rows[-1]) != len(block) or rows[-1].shape[1:] != rows[0].shape[1:]:
                raise ConfigError(
                    f"features {self.signature} must be a row of numbers for each of {len(block)} images, "
                    f"got shape {rows[-1].shape}"
                )
        return np.concatenate(rows), np.ones((len(pixels), 1))


def cache_folder() -> Path:
    """Return the folder where trained feature nets are kept."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "seqgen" / "features"


def _stored(path: Path) -> dict[str, Tensor]:
    """Read the cache; None where the file is absent or damaged, and then the net is trained again."""
    try:
        return dict(load_file(path)) if path.is_file() else {}
    except (SafetensorError, OSError):
        return {}


def _weights(net: Net) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in net.state_dict().items()}


def _train(net: Net, split: Split, kind: str, seed: int) -> None:
    """Train the net, outside `core.update` because it is no run: nothing of it is resumed or logged."""
    count, device = len(split.pixels), split.pixels.device
    weights: list[Tensor] = list(net.parameters())
    mean, square = ([torch.zeros_like(p) for p in weights] for _ in range(2))
    steps_done = [torch.tensor(0.0) for _ in weights]
    draws = rng.generator("feature batches", seed)
    order = torch.empty(0, dtype=torch.int64)
    steps = max(_LEAST_STEPS, _EPOCHS * count // _BATCH)
    for step in range(steps):
        log.part("steps of the feature classifier", step, steps)
        if len(order) < min(_BATCH, count):
            order = torch.randperm(count, generator=draws)
        rows, order = order[:_BATCH].to(device), order[_BATCH:]
        pixels, labels = split.pixels[rows], split.labels[rows]
        if kind == "rotations":
            labels = torch.randint(4, (len(rows),), generator=draws).to(device)
            pixels = rotated(pixels, labels)
        loss = F.cross_entropy(net(pixels)[1], labels)
        gradients = list(torch.autograd.grad(loss, weights))
        with torch.no_grad():
            # the function and not torch.optim.Adam, the same numbers: making one imports the compiler, 1.3 s
            adam(
                weights,
                gradients,
                mean,
                square,
                [],
                steps_done,
                foreach=False,
                amsgrad=False,
                maximize=False,
                lr=1e-3,
                beta1=0.9,
                beta2=0.999,
                weight_decay=0.0,
                eps=1e-8,
            )


def rotated(pixels: Tensor, turns: Tensor) -> Tensor:
    """Return each image (N, C, S, S) turned by its number of quarter turns (N,)."""
    choices = torch.stack([torch.rot90(pixels, k, (2, 3)) for k in range(4)])
    return choices[turns, torch.arange(len(pixels), device=pixels.device)]


def _accuracy(net: Net, split: Split, kind: str) -> float:
    pixels, labels = split.pixels, split.labels
    if kind == "rotations":
        labels = torch.arange(len(pixels), device=pixels.device) % 4
        pixels = rotated(pixels, labels)
    with torch.no_grad():
        found = torch.cat([net(block)[1].argmax(1) for block in torch.split(pixels, _ROWS)])
    return float((found == labels).double().mean())
