"""Images on the device: one uint8 tensor, and batches that are rows of it, functions of the step.

Images of a batch are drawn without replacement within an epoch. Nothing is scaled, binarised or augmented here: a
model module states what it makes of the bytes.
Shapes: N images, B of a batch, C channels, S pixels a side.
"""

import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from seqgen.core import rng
from seqgen.core.errors import ConfigError, DataError
from seqgen.core.log import messages
from seqgen.images import reading
from seqgen.images.reading import Source


@dataclass(frozen=True)
class DataConfig:
    """Which images are learnt: the section `data`."""

    files: tuple[str, ...] = ("digits",)
    """digits (scikit-learn's 8x8), shapes (generated), mnist and other known sets, IDX files or their folder, .npz,
    .npy, .parquet, or image files in a folder or a .zip; train/ and test/ in it are a split."""
    valid: tuple[str, ...] = ()
    """Held-out images; none: the source's own test set, or a part of the training images."""
    labels: str = "auto"
    """Classes of the images: auto (beside them; subfolders), folders (subfolders even where they are called train and
    test), none, or an IDX or .npy file of labels."""
    size: Annotated[int, Field(ge=0)] = 0
    """Pixels a side; images are cropped to squares and scaled. 0: as they are, which must be square and all alike."""
    colour: Literal["auto", "grey", "rgb"] = "auto"
    """auto: as the images are; grey and colour must not be mixed then."""
    count: Annotated[int, Field(ge=0)] = 0
    """Images used, drawn by the seed before some are held out; 0: all of them, and 10,000 shapes."""
    labelled: Annotated[int, Field(ge=0)] = 0
    """Training images whose label is used, equally many of each class; 0: all. For semi-supervised learning."""
    valid_share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share held out by a hash of the image, class by class where they are small, where neither `valid` nor the source
    has a test set."""


@dataclass(frozen=True)
class ImageBatch:
    """B images, what they show, and where they stand in the data."""

    pixels: Tensor
    """(B, C, S, S) uint8."""
    labels: Tensor
    """(B,) int64 class numbers, -1 where there is no label."""
    rows: Tensor
    """(B,) int64: rows of the training or held-out images."""
    labelled: "ImageBatch | None" = None
    """With `data.labelled`: as many images, all with a label, drawn from those few."""

    def take(self, rows: slice) -> "ImageBatch":
        """Return some of the images."""
        few = None if self.labelled is None else self.labelled.take(rows)
        return ImageBatch(self.pixels[rows], self.labels[rows], self.rows[rows], few)

    def micro_batches(self, count: int) -> Iterator["ImageBatch"]:
        """Yield the batch cut into at most `count` batches of equal size, but for the last."""
        size = -(-len(self.pixels) // count)
        for at in range(0, len(self.pixels), size):
            yield self.take(slice(at, at + size))


@dataclass(frozen=True, eq=False)
class Split:
    """The training or the held-out images."""

    pixels: Tensor
    """(N, C, S, S) uint8."""
    labels: Tensor
    """(N,) int64, -1 where there is no label."""
    factors: Tensor | None = None
    """(N, 5) float64 of generated shapes, in the order of `reading.FACTORS`."""

    def batch(self, rows: Tensor) -> ImageBatch:
        """Return the images of these rows."""
        # not pixels[rows]: that copies byte by byte, seven times slower
        return ImageBatch(self.pixels.index_select(0, rows), self.labels.index_select(0, rows), rows)


class ImageBatches:
    """Batches of training images: epoch by epoch in an order that depends on the seed and the epoch alone."""

    def __init__(self, split: Split, batch: int, *, seed: int, labelled: Tensor | None = None) -> None:
        """Take the images; `labelled` are the rows that semi-supervised batches draw their labelled images from."""
        count = len(split.pixels)
        if batch > count:
            raise DataError(f"train.batch = {batch} is more than the {count} training images; use {count} or fewer")
        self.split, self.batch, self.seed, self._labelled = split, batch, seed, labelled
        self.steps_per_epoch = count // batch
        self._order: tuple[int, Tensor] = (-1, torch.empty(0, dtype=torch.int64))

    def at(self, step: int, rank: int = 0, world: int = 1) -> ImageBatch:
        """Return the images of a step; process `rank` of `world` takes every world-th of them."""
        if self.batch < world:
            raise DataError(
                f"train.batch = {self.batch} is less than an image for each of {world} processes; use {world} or more"
            )
        epoch, at = divmod(step, self.steps_per_epoch)
        if self._order[0] != epoch:
            order = torch.randperm(len(self.split.pixels), generator=rng.generator("pictures", self.seed, epoch))
            self._order = (epoch, order.to(self.split.pixels.device))
        rows = self._order[1][at * self.batch + rank : (at + 1) * self.batch : world]
        batch = self.split.batch(rows)
        if self._labelled is None:
            return batch
        drawn = torch.randint(len(self._labelled), (self.batch,), generator=rng.generator("labelled", self.seed, step))
        few = self._labelled[drawn[rank::world]].to(self.split.pixels.device)
        return replace(batch, labelled=self.split.batch(few))


@dataclass(frozen=True, eq=False)
class ImageData:
    """All that training and evaluation need to know of a set of images."""

    train: Split
    valid: Split
    classes: tuple[str, ...]
    """Names of the classes in the order of their numbers; () without labels."""
    fingerprint: str
    """SHA-256 of the images and their labels, training and held-out."""
    resolved: tuple[DataConfig, None]
    """The settings, with the size that the images turned out to have; no tokenizer."""
    facts: dict[str, Any]
    """channels, size, classes, class_counts (training images of each), unlabelled (those without a label)."""
    batches: ImageBatches
    batch: int
    """Images of a batch over all processes."""
    tokenizer: None = None
    valid_characters: int = 0
    """No text, no characters."""

    def validation(self) -> Iterator[ImageBatch]:
        """Yield the held-out images in order, each once."""
        for rows in torch.split(torch.arange(len(self.valid.pixels), device=self.valid.pixels.device), self.batch):
            yield self.valid.batch(rows)


def prepare(
    data: DataConfig,
    *,
    batch: int,
    seed: int,
    device: torch.device | str,
    extra_input: Any = None,
    fitting: Collection[str] = (),
) -> ImageData:
    """Read, split and place the images of `data.files`, or those of `extra_input`.

    `extra_input` is an array of images or a pair (images, labels), as `reading.from_array` takes them. `fitting`
    names what is made smaller where there are too few images for it: train.batch. Raises DataError for images that
    cannot be used, ConfigError for settings that contradict each other.
    """
    if extra_input is None:
        read = [_read(data, name, rng.hash64("training pictures", seed), data.labels) for name in data.files]
    else:
        pair = extra_input if isinstance(extra_input, tuple) else (extra_input, None)
        read = [reading.fitted(reading.from_array(*pair), data.size, data.colour)]
    if not read:
        raise DataError("no images; give --data digits, shapes, a folder, an IDX file or an .npz file")
    whole = _few(_joined(read), data.count, seed)
    beside = data.labels if data.labels in ("none", "folders") else "auto"
    tests = [_read(data, name, rng.hash64("held-out pictures", seed), beside) for name in data.valid]
    tests = tests or [source.held_out for source in read if source.held_out is not None]
    train, valid = (whole, _joined(tests)) if tests else _split(whole, data.valid_share)
    _check_alike(train, valid)
    classes = _classes(train)
    splits = (_placed(train, classes, device), _placed(valid, classes, device))
    labelled = None
    if data.labelled:
        labelled = _labelled_rows(splits[0].labels, len(classes), data.labelled, seed)
        mask = torch.zeros_like(splits[0].labels, dtype=torch.bool).index_fill_(0, labelled, True)
        splits = (replace(splits[0], labels=torch.where(mask, splits[0].labels, -1)), splits[1])
    known = splits[0].labels[splits[0].labels >= 0]
    count, channels, size, _ = splits[0].pixels.shape
    if "train.batch" in fitting and batch > count:
        messages.info("there are %d training images only: train.batch is made %d, not %d", count, count, batch)
        batch = count
    return ImageData(
        train=splits[0],
        valid=splits[1],
        classes=classes,
        fingerprint=_fingerprint(train, valid),
        resolved=(replace(data, size=size, **_absolute(data)), None),
        facts={
            "channels": channels,
            "size": size,
            "classes": classes,
            "class_counts": tuple(torch.bincount(known, minlength=len(classes)).tolist()),
            "unlabelled": len(splits[0].labels) - len(known),
        },
        batches=ImageBatches(splits[0], batch, seed=seed, labelled=labelled),
        batch=batch,
    )


def fitted_to(data: ImageData, path: str) -> Tensor:
    """Return images (N, C, S, S) uint8 of a path, cropped and scaled as those of `data`."""
    _, channels, size, _ = data.train.pixels.shape
    pixels = reading.read(path, size=size, colour="grey" if channels == 1 else "rgb", labels="none").pixels
    return torch.from_numpy(np.array(pixels[:, None] if channels == 1 else pixels.transpose(0, 3, 1, 2)))


def _absolute(data: DataConfig) -> dict[str, Any]:
    """Return the paths of the settings as they are found from any working folder."""

    def found(name: str, names: Sequence[str]) -> str:
        return name if name in names else str(Path(name).expanduser().absolute())

    made = ("digits", "shapes")
    return {
        "files": tuple(found(name, made) for name in data.files),
        "valid": tuple(found(name, made) for name in data.valid),
        "labels": found(data.labels, ("auto", "none", "folders")),
    }


def _read(data: DataConfig, name: str, seed: int, labels: str) -> Source:
    return reading.read(name, size=data.size, colour=data.colour, count=data.count, seed=seed, labels=labels)


def _joined(read: Sequence[Source]) -> Source:
    """Join several sources, which must be alike. A source without labels among others has empty ones."""
    first, *others = read
    if not others:
        return first
    for other in others:
        _check_alike(first, other)
    labels = None
    if any(source.labels is not None for source in read):
        labels = np.concatenate([_texts(source) for source in read])
    return Source(np.concatenate([source.pixels for source in read]), labels, ", ".join(source.name for source in read))


def _texts(source: Source) -> reading.Array:
    return np.full(len(source.pixels), "") if source.labels is None else source.labels.astype(str)


def _check_alike(first: Source, other: Source) -> None:
    a, b = first.pixels.shape[1:], other.pixels.shape[1:]
    if a != b:
        words = [f"{s[1]} x {s[0]} {'colour' if len(s) == 3 else 'grey'}" for s in (a, b)]
        raise DataError(
            f"{other.name}: images are {words[1]}, but those of {first.name} are {words[0]}; "
            "set data.size=N and data.colour=grey or rgb"
        )


def _few(source: Source, count: int, seed: int) -> Source:
    """Draw `count` images without replacement; all for 0."""
    if not count or count == len(source.pixels):
        return source
    if count > len(source.pixels):
        raise DataError(f"data.count = {count} is more than the {len(source.pixels)} images of {source.name}")
    return source.take(torch.randperm(len(source.pixels), generator=rng.generator("count", seed))[:count].numpy())


_SMALL = 10
"""Images to hold out of a class below which a hash alone would leave their number to luck."""


def _split(source: Source, share: float) -> tuple[Source, Source]:
    """Split images into training and held-out ones by a hash of their bytes, so that equal images stay together.

    Of a class with few images a fixed number is held out, at least one where there are two: those of the lowest hashes.
    """
    hashes = np.array(
        [int.from_bytes(hashlib.blake2b(p.tobytes(), digest_size=7).digest(), "little") for p in source.pixels]
    )
    texts = _texts(source)
    below = np.zeros(len(hashes), bool)
    for label in np.unique(texts):
        own = np.unique(hashes[texts == label])
        wanted = round(share * len(own))
        few = own[: max(1, wanted) if len(own) > 1 else 0]
        below |= np.isin(hashes, few if wanted < _SMALL else own[own < share * 2**56])
    if below.all() or not below.any():
        raise DataError(
            f"{source.name}: {len(below)} images are too few to hold out {share:.0%}; give more, or data.valid"
        )
    return source.take(np.flatnonzero(~below)), source.take(np.flatnonzero(below))


def _classes(source: Source) -> tuple[str, ...]:
    """Return the names of the classes, numbers in numerical order."""
    if source.labels is None:
        return ()
    names = sorted({str(label) for label in source.labels.tolist()} - {""})
    return tuple(sorted(names, key=int) if all(name.lstrip("-").isdigit() for name in names) else names)


def _placed(source: Source, classes: tuple[str, ...], device: torch.device | str) -> Split:
    pixels = source.pixels[:, None] if source.pixels.ndim == 3 else source.pixels.transpose(0, 3, 1, 2)
    number = {name: i for i, name in enumerate(classes)} | {"": -1}
    labels = np.full(len(pixels), -1, np.int64)
    if source.labels is not None and classes:
        texts = _texts(source)
        unknown = sorted(set(texts.tolist()) - set(number))
        if unknown:
            raise DataError(
                f"{source.name}: class {unknown[0]} is none of the training images' ({', '.join(classes)}); "
                "remove its images, or set data.labels=none"
            )
        labels = np.array([number[text] for text in texts.tolist()])
    factors = None if source.factors is None else torch.from_numpy(source.factors).to(device)
    # a copy: arrays read from a file may be read-only, of which torch warns
    return Split(torch.from_numpy(np.array(pixels, order="C")).to(device), torch.from_numpy(labels).to(device), factors)


def _labelled_rows(labels: Tensor, classes: int, count: int, seed: int) -> Tensor:
    """Draw `count` rows by the seed, equally many of each class; the first classes get what is left over."""
    if not classes:
        raise ConfigError(f"data.labelled = {count} needs images with labels")
    rows = []
    for k in range(classes):
        own = (labels.cpu() == k).nonzero().view(-1)
        wanted = count // classes + (k < count % classes)
        if not 1 <= wanted <= len(own):
            raise ConfigError(
                f"data.labelled = {count} asks for {wanted} images of class number {k}, which has {len(own)}; "
                f"use between {classes} and {classes * len(own)}"
            )
        rows.append(own[torch.randperm(len(own), generator=rng.generator("labelled", seed, k))[:wanted]])
    return torch.cat(rows).sort().values.to(labels.device)


def _fingerprint(train: Source, valid: Source) -> str:
    found = hashlib.sha256()
    for source in (train, valid):
        found.update(f"{source.pixels.shape}".encode())
        found.update(source.pixels.tobytes())
        found.update("\n".join(_texts(source).tolist()).encode())
    return found.hexdigest()
