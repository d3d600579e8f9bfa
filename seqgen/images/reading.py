"""Images from where they lie: digits, generated shapes, IDX files, .npz, .npy, .parquet, folders, .zip, arrays.

Everything becomes one uint8 array (N, H, W) or (N, H, W, 3) with labels beside it, as they are written in the source.
Letters: N images, H and W pixels, K classes.
"""

import functools
import gzip
import io
import math
import warnings
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from seqgen.core.errors import DataError
from seqgen.core.files import ARRAY_FAULTS, files_below, is_hidden
from seqgen.core.log import messages

Bytes: TypeAlias = npt.NDArray[np.uint8]
Array: TypeAlias = npt.NDArray[Any]
Colour: TypeAlias = Literal["auto", "grey", "rgb"]

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
"""What an image file's name ends with."""

MANY_SUFFIXES = frozenset({".npz", ".npy", ".zip", ".parquet"})
"""What the name of a file that holds many images ends with; IDX files are known by their first bytes."""

SHAPES = ("circle", "cross", "square", "triangle")
"""The classes of the generated shapes."""

FACTORS = ("x", "y", "radius", "angle", "hue")
"""What the generated shapes differ in beside their class: centre and radius in widths of the image, turns, turns."""

_GREY_MODES = frozenset({"1", "L", "LA"})
_COLOUR_MODES = frozenset({"RGB", "RGBA", "P", "CMYK", "YCbCr"})


@dataclass(frozen=True, eq=False)
class Source:
    """Images of one source, as they are there."""

    pixels: Bytes
    """(N, H, W) grey or (N, H, W, 3) colour."""
    labels: Array | None
    """(N,) integers or texts; None where the source has none."""
    name: str
    """What to call it in a message."""
    held_out: "Source | None" = None
    """What the source itself keeps for testing, such as the t10k files of MNIST."""
    factors: npt.NDArray[np.float64] | None = None
    """(N, len(FACTORS)) of generated shapes."""

    def take(self, rows: npt.NDArray[np.int64]) -> "Source":
        """Return some of the images, without a test set."""
        labels, factors = (None if a is None else a[rows] for a in (self.labels, self.factors))
        return Source(self.pixels[rows], labels, self.name, None, factors)


def read(
    name: str, *, size: int = 0, colour: Colour = "auto", count: int = 0, seed: int = 0, labels: str = "auto"
) -> Source:
    """Read the images that a name stands for: digits, shapes, or a path.

    DataError names the file and what is wrong with it.

    `size` and `colour` replace what the source has: images are cropped to squares and scaled. `count` and `seed` are
    for shapes. `labels`: auto (beside the images), none, folders (every subfolder is a class, train/ and test/ too), or
    the path of a label file.
    """
    if name == "digits":
        source = _digits()
    elif name == "shapes":
        source = shapes(count or 10_000, size=size or 32, rgb=colour == "rgb", seed=seed)
    else:
        path = Path(name).expanduser()
        kind = path.suffix.lower()
        if not path.exists():
            raise DataError(f"{name}: no such file or folder")
        if path.is_dir():
            source = _folder(path, size, colour, labels)
        elif kind == ".npz":
            source = _npz(path)
        elif kind == ".npy":
            source = from_array(_npy(path), name=str(path))
        elif kind == ".zip":
            source = _zip(path, size, colour, labels)
        elif kind == ".parquet":
            source = _parquet(path, size, colour)
        elif kind in SUFFIXES:
            source = _files([_on_disk(path, path.parent)], None, str(path), size, colour)
        else:
            source = _idx_pair(path)
    if labels == "none":
        source = replace(source, labels=None, held_out=source.held_out and replace(source.held_out, labels=None))
    elif labels not in ("auto", "folders"):
        source = replace(source, labels=_label_file(Path(labels).expanduser()))
    _check_labels(source)
    return fitted(source, size, colour)


def from_array(pixels: Any, labels: Any = None, *, name: str = "the array") -> Source:
    """Take images in memory: (N, H, W), (N, H, W, 1 or 3) or (N, 1 or 3, H, W), 0..255 or floats in 0..1."""
    array = np.asarray(pixels)
    if array.ndim == 4 and array.shape[1] in (1, 3) and array.shape[3] not in (1, 3):
        array = array.transpose(0, 2, 3, 1)
    if array.ndim == 4 and array.shape[3] == 1:
        array = array[..., 0]
    if array.ndim not in (3, 4) or (array.ndim == 4 and array.shape[3] != 3):
        raise DataError(f"{name}: images must be (N, H, W) or (N, H, W, 3), got shape {np.asarray(pixels).shape}")
    if not len(array):
        raise DataError(f"{name}: no images")
    source = Source(_as_bytes(array, name), None if labels is None else np.asarray(labels).reshape(-1), name)
    _check_labels(source)
    return source


def _as_bytes(array: Array, name: str) -> Bytes:
    """Convert values to bytes: 0..255 as they are, floats in 0..1 times 255."""
    if array.dtype == np.uint8:
        return array
    if not np.issubdtype(array.dtype, np.number) and array.dtype != np.bool_:
        raise DataError(f"{name}: images must be numbers, got dtype {array.dtype}")
    low, high = array.min(), array.max()
    if not (low >= 0 and high <= 255):
        raise DataError(f"{name}: values from {low:g} to {high:g}; expected 0..255, or floats in 0..1")
    if array.dtype == np.bool_ or (np.issubdtype(array.dtype, np.floating) and high <= 1):
        return np.rint(array * 255.0).astype(np.uint8)
    return np.rint(array).astype(np.uint8)


def _check_labels(source: Source) -> None:
    if source.labels is not None and len(source.labels) != len(source.pixels):
        raise DataError(
            f"{source.name}: {len(source.pixels):,} images but {len(source.labels):,} labels; "
            "give the label file of the same images, or data.labels=none"
        )


# --------------------------------------------------------------------------------------------------- sizes and colours


def fitted(source: Source, size: int, colour: Colour) -> Source:
    """Crop and scale images to squares of `size` pixels (0: as they are) in the colour asked for.

    Where no value is above 1, 0 and 1 are black and white. DataError where images are not square and no size is given.
    """
    sides = [source] if source.held_out is None else [source, source.held_out]
    if max(side.pixels.max() for side in sides) == 1:
        messages.info("%s: the values are 0 and 1 only, taken as black and white", source.name)
        source, *tests = (replace(side, pixels=side.pixels * np.uint8(255)) for side in sides)
        source = replace(source, held_out=tests[0] if tests else None)
    return _fitted(source, size, colour)


def _fitted(source: Source, size: int, colour: Colour) -> Source:
    pixels = source.pixels
    height, width = pixels.shape[1:3]
    if not size and height != width:
        raise DataError(f"{source.name}: images are {width} x {height}, not square; set data.size=N to crop and scale")
    if (size and (height, width) != (size, size)) or (colour != "auto" and (pixels.ndim == 4) != (colour == "rgb")):
        pixels = np.stack([np.asarray(_fit(Image.fromarray(p), size or height, colour)) for p in pixels])
    held_out = None if source.held_out is None else _fitted(source.held_out, size, colour)
    return replace(source, pixels=pixels, held_out=held_out)


def _fit(image: Image.Image, size: int, colour: Colour) -> Image.Image:
    if colour != "auto":
        image = image.convert("RGB" if colour == "rgb" else "L")
    return image if image.size == (size, size) else ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)


# --------------------------------------------------------------------------------------------------------------- files


@dataclass(frozen=True)
class _File:
    """An image file on disk, in an archive or in a table."""

    name: str
    """What to call it in a message."""
    parts: tuple[str, ...]
    """The folders it lies in, below the one that was named, and its own name."""
    open: Callable[[], IO[bytes]]


def _on_disk(path: Path, folder: Path) -> _File:
    return _File(str(path), path.relative_to(folder).parts, lambda: path.open("rb"))


def _folder(path: Path, size: int, colour: Colour, labels: str) -> Source:
    """Read IDX files by their usual names, or image files; see `_arranged`."""
    inside = files_below(path)
    found = [_on_disk(p, path) for p in inside if p.suffix.lower() in SUFFIXES]
    idx = [p for p in inside if p.parent == path and "images" in p.name and "idx" in p.name]
    if idx:
        test = [p for p in idx if p.name.startswith(("t10k", "test"))]
        train = [p for p in idx if p not in test]
        if len(train) != 1 or len(test) > 1:
            raise DataError(f"{path}: expected one IDX file of training images, found {', '.join(p.name for p in idx)}")
        if found:
            raise DataError(
                f"{path}: IDX files ({idx[0].name}) and image files ({found[0].name}); name one by its path"
            )
        return replace(_idx_pair(train[0]), held_out=_idx_pair(test[0]) if test else None)
    if not found:
        raise DataError(f"{path}: no images in this folder ({', '.join(sorted(SUFFIXES))}) and no IDX files")
    return _arranged(found, str(path), size, colour, labels)


def _zip(path: Path, size: int, colour: Colour, labels: str) -> Source:
    """Read the image files of an archive, as if it were a folder."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [PurePosixPath(name) for name in sorted(archive.namelist()) if not name.endswith("/")]
            found = [
                _File(f"{path}, {name}", name.parts, functools.partial(archive.open, str(name)))
                for name in names
                if name.suffix.lower() in SUFFIXES and not any(map(is_hidden, name.parts))
            ]
            if not found:
                raise DataError(f"{path}: no images in this archive ({', '.join(sorted(SUFFIXES))})")
            return _arranged(found, str(path), size, colour, labels)
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: not a .zip file that can be read ({error})") from None


def _parquet(path: Path, size: int, colour: Colour) -> Source:
    """Read the image column of a table, with the column `label` beside it."""
    from seqgen.images.parquet import image_column  # late: an extra

    contents, labels = image_column(path)
    rows = [
        _File(f"{path}, row {row}", (str(row),), functools.partial(io.BytesIO, content))
        for row, content in enumerate(contents)
    ]
    return _files(rows, labels, str(path), size, colour)


_SPLITS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip


def _arranged(found: list[_File], name: str, size: int, colour: Colour, labels: str) -> Source:
    """Read image files with their first folders as labels; or in train/, val/ and test/, with labels inside.

    A folder that wraps all others is looked into. DataError where both readings are possible.
    """
    while len({file.parts[0] for file in found}) == 1 and all(len(file.parts) > 2 for file in found):
        found = [replace(file, parts=file.parts[1:]) for file in found]
    tops = sorted({file.parts[0] for file in found if len(file.parts) > 1})
    split = [top for top in tops if top.lower() in _SPLITS]
    loose = [file.name for file in found if len(file.parts) == 1]
    others = [top for top in tops if top not in split]
    holds_folders = any(len(file.parts) > 2 and file.parts[0] in split for file in found)
    a_class = {_SPLITS[top.lower()] for top in split} == {"train"} and others and not holds_folders  # beside car/, bus/
    if labels == "folders" or not split or a_class:
        return _labelled(found, name, size, colour, labels)
    sides = {_SPLITS[top.lower()]: top for top in split}
    if others or loose or len(sides) < len(split) or "train" not in sides:
        beside = f" beside {(others or loose)[0]}" if others or loose else ""
        raise DataError(
            f"{name}: {', '.join(split)}{beside} can be the parts of a split or classes; for a split keep one each of "
            "train, val and test there and nothing else, for classes set data.labels=folders"
        )

    def side(top: str) -> Source:
        own = [replace(file, parts=file.parts[1:]) for file in found if file.parts[0] == top]
        return _labelled(own, f"{name}, {top}", size, colour, labels)

    held_out = sides.get("val", sides.get("test"))
    unused = f"; {sides['test']} is not used" if len(sides) == 3 else ""
    messages.info("%s: %s is learnt, %s is held out%s", name, sides["train"], held_out or "a part of it", unused)
    return replace(side(sides["train"]), held_out=None if held_out is None else side(held_out))


def _labelled(found: list[_File], name: str, size: int, colour: Colour, labels: str) -> Source:
    folders = [file.parts[0] if len(file.parts) > 1 and labels in ("auto", "folders") else "" for file in found]
    if any(folders) and not all(folders):
        raise DataError(
            f"{found[folders.index('')].name}: beside subfolders that are labels; move it into one of them, or set "
            "data.labels=none"
        )
    return _files(found, np.array(folders) if any(folders) else None, name, size, colour)


def _files(found: Sequence[_File], labels: Array | None, name: str, size: int, colour: Colour) -> Source:
    """Read image files as one array; sizes and modes must agree unless data.size and data.colour are set."""
    first: tuple[_File, tuple[int, int], bool] | None = None
    pixels, transparent = [], 0
    for file, image in zip(found, map(_opened, found), strict=True):
        if image.mode not in _GREY_MODES | _COLOUR_MODES:
            raise DataError(
                f"{file.name}: images of mode {image.mode} cannot be read; convert it to 8 bits, grey or RGB"
            )
        is_colour = image.mode in _COLOUR_MODES if colour == "auto" else colour == "rgb"
        if first is None:
            first = (file, image.size, is_colour)
        if colour == "auto" and is_colour != first[2]:
            words = ("colour", "grey") if is_colour else ("grey", "colour")
            raise DataError(
                f"{file.name}: {words[0]}, but {first[0].name} is {words[1]}; set data.colour=rgb or data.colour=grey"
            )
        if not size and image.size != first[1]:
            raise DataError(
                f"{file.name}: {_by(image.size)} pixels, but {first[0].name} has {_by(first[1])}; "
                "set data.size=N to scale them all"
            )
        if "A" in image.getbands() or "transparency" in image.info:
            image = image.convert("RGBA")
            transparent += int(np.asarray(image.getchannel("A")).min() < 255)
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = image.convert("RGB" if is_colour else "L")
        pixels.append(np.asarray(_fit(image, size, "auto") if size else image))
    if transparent:
        messages.info("%s: %d of %d images have transparent parts, laid on white", name, transparent, len(pixels))
    return Source(np.stack(pixels), labels, name)


def _opened(file: _File) -> Image.Image:
    """Turn an image by the orientation in its EXIF data."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with file.open() as stream, Image.open(stream) as image:
                return ImageOps.exif_transpose(image)
    except Exception as error:  # a damaged file leads decoders to errors of many kinds
        raise DataError(f"{file.name}: not an image that can be read ({error}); remove it or convert it") from None


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


_NPZ_IMAGES = ("x_train", "train_images", "images", "x", "X", "pictures", "arr_0")
_NPZ_HELD_OUT = {"x_train": "x_test", "train_images": "test_images"}
_NPZ_LABELS = {
    "x_train": "y_train", "x_test": "y_test", "train_images": "train_labels", "test_images": "test_labels",
    "images": "labels", "pictures": "labels", "x": "y", "X": "y", "arr_0": "arr_1",
}  # fmt: skip


def _npz(path: Path) -> Source:
    """Read arrays by their usual names: x_train and y_train (x_test, y_test held out), images and labels, x and y."""
    try:
        # opened here: of a damaged archive numpy would leave the file open
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            wanted = {*_NPZ_LABELS, *_NPZ_LABELS.values()}
            arrays = {name: file[name] if name in wanted else None for name in file.files}
    except ARRAY_FAULTS as error:
        raise DataError(f"{path}: not an .npz file that can be read ({_said(error)})") from None
    found = [name for name in _NPZ_IMAGES if name in arrays]
    if not found:
        raise DataError(
            f"{path}: holds {', '.join(sorted(arrays)) or 'no arrays'}; images must be called images, x or x_train"
        )
    if len(found) > 1:
        raise DataError(f"{path}: {found[0]} and {found[1]} can both be the images; leave one of them in it")
    key = found[0]

    def side(key: str) -> Source:
        return from_array(arrays[key], arrays.get(_NPZ_LABELS[key]), name=f"{path}, {key}")

    held_out = _NPZ_HELD_OUT.get(key, "")
    return replace(side(key), held_out=side(held_out) if held_out in arrays else None)


_IDX_IMAGES, _IDX_LABELS = 0x0803, 0x0801


def _idx_pair(path: Path) -> Source:
    """Read an IDX file of images with the label file beside it, if there is one."""
    pixels = read_idx(path, _IDX_IMAGES, "images")
    beside = path.with_name(path.name.replace("images", "labels").replace("idx3", "idx1"))
    labels = _label_file(beside) if beside != path and beside.is_file() else None
    if not len(pixels):
        raise DataError(f"{path}: no images")
    return Source(pixels, labels, str(path))


def _label_file(path: Path) -> Array:
    if not path.is_file():
        raise DataError(f"{path}: no such label file; data.labels is auto, none, or a path")
    if path.suffix == ".npy":
        return _npy(path).reshape(-1)
    return read_idx(path, _IDX_LABELS, "labels").astype(np.int64)


def _npy(path: Path) -> Array:
    try:
        with path.open("rb") as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except ARRAY_FAULTS as error:
        raise DataError(f"{path}: not an .npy file that can be read ({_said(error)})") from None


def _said(error: Exception) -> str:
    """Return what numpy says of a file, but not its advice to load what may run code."""
    words = str(error)
    return "it holds Python objects, or no arrays" if "allow_pickle" in words else words


_MOST_INFLATED = 1032
"""Bytes that a byte of gzip unpacks to at most (zlib's documentation)."""


def read_idx(path: Path, magic: int, what: str) -> Bytes:
    """Read an IDX file of bytes, also gzipped, with the dimensions its header states (LeCun's MNIST page)."""
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    dimensions = magic & 0xFF
    try:
        with gzip.open(path) if packed else path.open("rb") as file:
            head = file.read(4)
            if head != magic.to_bytes(4, "big"):
                kinds = f"; other files of images end in {', '.join(sorted(SUFFIXES | MANY_SUFFIXES))}" * (
                    what == "images"
                )
                other = {_IDX_IMAGES: "; it holds images", _IDX_LABELS: "; it holds labels"}
                raise DataError(
                    f"{path}: no IDX file of {what} (begins with 0x{head.hex()}, expected 0x{magic:08x})"
                    + other.get(int.from_bytes(head, "big"), kinds)
                )
            sizes = file.read(4 * dimensions)
            shape = tuple(int.from_bytes(sizes[4 * i : 4 * i + 4], "big") for i in range(dimensions))
            expected = math.prod(shape)
            # no more is asked for than the file can hold, whatever its header announces
            content = file.read(min(expected, path.stat().st_size * _MOST_INFLATED) + 1)
    except (EOFError, OSError, zlib.error, MemoryError) as error:
        raise DataError(f"{path}: damaged or truncated gzip ({error}); fetch it again") from None
    if len(sizes) < 4 * dimensions or len(content) != expected:
        found = f"more than {expected:,}" if len(content) > expected else f"{len(content):,}"
        raise DataError(
            f"{path}: {found} bytes after the header, which announces "
            f"{' x '.join(map(str, shape))} = {expected:,}; the file is truncated or altered"
        )
    return np.frombuffer(content, np.uint8).reshape(shape)


# ------------------------------------------------------------------------------------------------------ without a file


def _digits() -> Source:
    from sklearn.datasets import load_digits  # late: a second to import

    found = load_digits()
    return Source(np.rint(found.images * (255 / 16)).astype(np.uint8), found.target.astype(np.int64), "digits")


def shapes(count: int, *, size: int = 32, rgb: bool = False, seed: int = 0) -> Source:
    """Draw circles, crosses, squares and triangles of random place, radius, angle and hue; with these factors.

    Edges are smoothed over one pixel by the signed distance to the outline. Grey shapes are white, their hue is 0.
    """
    random = np.random.default_rng(seed)
    kind = random.integers(0, len(SHAPES), count)
    radius = random.uniform(0.16, 0.32, count)
    centre = random.uniform(radius, 1 - radius, (2, count))
    angle, hue = random.uniform(0, 1, count), random.uniform(0, 1, count) * rgb
    pixels = np.empty((count, size, size, 3) if rgb else (count, size, size), np.uint8)
    place = (np.arange(size) + 0.5) / size
    for begin in range(0, count, 1000):  # a block keeps the float64 maps small
        rows = slice(begin, begin + 1000)
        x = place[None, None, :] - centre[0, rows, None, None]
        y = place[None, :, None] - centre[1, rows, None, None]
        turn, r = 2 * np.pi * angle[rows, None, None], radius[rows, None, None]
        u, v = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
        distance = np.choose(kind[rows, None, None], [outline(u, v, r) for outline in _OUTLINES])
        cover = np.clip(0.5 - distance * size, 0, 1)
        pixels[rows] = np.rint(255 * (cover[..., None] * _rainbow(hue[rows])[:, None, None] if rgb else cover))
    factors = np.column_stack([*centre, radius, angle, hue])
    return Source(pixels, np.array(SHAPES)[kind], "shapes", factors=factors)


def _cross(u: Array, v: Array, r: Array) -> Array:
    a, b = np.abs(u), np.abs(v)
    distance: Array = np.minimum(np.maximum(a - r, b - r / 3), np.maximum(a - r / 3, b - r))
    return distance


def _triangle(u: Array, v: Array, r: Array) -> Array:
    lean = np.sqrt(3) / 2 * np.abs(u)
    distance: Array = np.maximum(lean + v / 2, -v) - r / 2
    return distance


# in the order of SHAPES: the distance from the outline, negative inside, r the radius of the circle around the shape
_OUTLINES: tuple[Callable[[Array, Array, Array], Array], ...] = (
    lambda u, v, r: np.hypot(u, v) - r,
    _cross,
    lambda u, v, r: np.maximum(np.abs(u), np.abs(v)) - r / np.sqrt(2),
    _triangle,
)


def _rainbow(hue: Array) -> Array:
    """Return fully saturated colours of hues in turns, (N, 3) in 0..1."""
    colours: Array = np.clip(np.abs((hue[:, None] * 6 + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)
    return colours
