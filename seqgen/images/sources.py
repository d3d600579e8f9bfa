"""Pictures from where they lie: scikit-learn's digits, generated shapes, IDX files, .npz, folders, arrays.

Everything becomes one uint8 array (N, H, W) or (N, H, W, 3) with labels beside it, as they are written in the source.
Letters: N pictures, H and W pixels, K classes.
"""

import gzip
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from seqgen.core.errors import DataError

Bytes: TypeAlias = npt.NDArray[np.uint8]
Array: TypeAlias = npt.NDArray[Any]
Colour: TypeAlias = Literal["auto", "grey", "rgb"]

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
"""What a picture file's name ends with."""

SHAPES = ("circle", "cross", "square", "triangle")
"""The classes of the generated shapes."""

FACTORS = ("x", "y", "radius", "angle", "hue")
"""What the generated shapes differ in beside their class: centre and radius in widths of the picture, turns, turns."""

_GREY_MODES = frozenset({"1", "L", "LA"})
_COLOUR_MODES = frozenset({"RGB", "RGBA", "P", "CMYK", "YCbCr"})


@dataclass(frozen=True, eq=False)
class Source:
    """Pictures of one source, as they are there."""

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
        """Some of the pictures, without a test set."""
        labels, factors = (None if a is None else a[rows] for a in (self.labels, self.factors))
        return Source(self.pixels[rows], labels, self.name, None, factors)


def read(
    name: str, *, size: int = 0, colour: Colour = "auto", count: int = 0, seed: int = 0, labels: str = "auto"
) -> Source:
    """The images that a name stands for: digits, shapes, or a path.

    DataError says what is wrong with which file.

    `size` and `colour` replace what the source has: pictures are cropped to squares and scaled. `count` and `seed` are
    for shapes. `labels`: auto (beside the pictures), none, or the path of a label file.
    """
    if name == "digits":
        source = _digits()
    elif name == "shapes":
        source = shapes(count or 10_000, size=size or 32, rgb=colour == "rgb", seed=seed)
    else:
        path = Path(name).expanduser()
        if not path.exists():
            raise DataError(f"{name}: no such file or folder")
        if path.is_dir():
            source = _folder(path, size, colour, labelled=labels == "auto")
        elif path.suffix == ".npz":
            source = _npz(path)
        elif path.suffix.lower() in SUFFIXES:
            source = _files([path], None, str(path), size, colour)
        else:
            source = _idx_pair(path)
    if labels == "none":
        source = replace(source, labels=None, held_out=source.held_out and replace(source.held_out, labels=None))
    elif labels != "auto":
        source = replace(source, labels=_label_file(Path(labels).expanduser()))
    _check_labels(source)
    return fitted(source, size, colour)


def from_array(pixels: Any, labels: Any = None, *, name: str = "the array") -> Source:
    """Pictures handed over in memory: (N, H, W), (N, H, W, 1 or 3) or (N, 1 or 3, H, W), 0..255 or floats in 0..1."""
    array = np.asarray(pixels)
    if array.ndim == 4 and array.shape[1] in (1, 3) and array.shape[3] not in (1, 3):
        array = array.transpose(0, 2, 3, 1)
    if array.ndim == 4 and array.shape[3] == 1:
        array = array[..., 0]
    if array.ndim not in (3, 4) or (array.ndim == 4 and array.shape[3] != 3):
        raise DataError(f"{name}: pictures must be (N, H, W) or (N, H, W, 3), got shape {np.asarray(pixels).shape}")
    if not len(array):
        raise DataError(f"{name}: no pictures")
    source = Source(_as_bytes(array, name), None if labels is None else np.asarray(labels).reshape(-1), name)
    _check_labels(source)
    return source


def _as_bytes(array: Array, name: str) -> Bytes:
    """Values as bytes: 0..255 as they are, floats in 0..1 times 255."""
    if array.dtype == np.uint8:
        return array
    if not np.issubdtype(array.dtype, np.number) and array.dtype != np.bool_:
        raise DataError(f"{name}: pictures must be numbers, got dtype {array.dtype}")
    low, high = array.min(), array.max()
    if not (low >= 0 and high <= 255):
        raise DataError(f"{name}: values from {low:g} to {high:g}; expected 0..255, or floats in 0..1")
    if array.dtype == np.bool_ or (np.issubdtype(array.dtype, np.floating) and high <= 1):
        return np.rint(array * 255.0).astype(np.uint8)
    return np.rint(array).astype(np.uint8)


def _check_labels(source: Source) -> None:
    if source.labels is not None and len(source.labels) != len(source.pixels):
        raise DataError(
            f"{source.name}: {len(source.pixels):,} pictures but {len(source.labels):,} labels; "
            "give the label file of the same pictures, or data.labels=none"
        )


# --------------------------------------------------------------------------------------------------- sizes and colours


def fitted(source: Source, size: int, colour: Colour) -> Source:
    """The same pictures as squares of `size` pixels (0: as they are) in the asked colour.

    DataError where they are not square and no size is given.
    """
    pixels = source.pixels
    height, width = pixels.shape[1:3]
    if not size and height != width:
        raise DataError(
            f"{source.name}: pictures are {width} x {height}, not square; set data.size=N to crop and scale"
        )
    if (size and (height, width) != (size, size)) or (colour != "auto" and (pixels.ndim == 4) != (colour == "rgb")):
        pixels = np.stack([np.asarray(_fit(Image.fromarray(p), size or height, colour)) for p in pixels])
    held_out = None if source.held_out is None else fitted(source.held_out, size, colour)
    return replace(source, pixels=pixels, held_out=held_out)


def _fit(picture: Image.Image, size: int, colour: Colour) -> Image.Image:
    if colour != "auto":
        picture = picture.convert("RGB" if colour == "rgb" else "L")
    return picture if picture.size == (size, size) else ImageOps.fit(picture, (size, size), Image.Resampling.BICUBIC)


# --------------------------------------------------------------------------------------------------------------- files


def _folder(path: Path, size: int, colour: Colour, *, labelled: bool) -> Source:
    """IDX files by their usual names, or picture files; subfolders are labels."""
    idx = sorted(p for p in path.iterdir() if p.is_file() and "images" in p.name and "idx" in p.name)
    if idx:
        test = [p for p in idx if p.name.startswith(("t10k", "test"))]
        train = [p for p in idx if p not in test]
        if len(train) != 1 or len(test) > 1:
            raise DataError(
                f"{path}: expected one IDX file of training pictures, found {', '.join(p.name for p in idx)}"
            )
        return replace(_idx_pair(train[0]), held_out=_idx_pair(test[0]) if test else None)
    found = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not found:
        raise DataError(f"{path}: no pictures in this folder ({', '.join(sorted(SUFFIXES))}) and no IDX files")
    below = [p.relative_to(path).parts for p in found]
    labels = [parts[0] if len(parts) > 1 and labelled else "" for parts in below]
    if any(labels) and not all(labels):
        loose = found[labels.index("")]
        raise DataError(
            f"{loose}: beside subfolders that are labels; move it into one of them, or set data.labels=none"
        )
    return _files(found, np.array(labels) if any(labels) else None, str(path), size, colour)


def _files(paths: Sequence[Path], labels: Array | None, name: str, size: int, colour: Colour) -> Source:
    """Picture files as one array; sizes and modes must agree unless data.size and data.colour say what to make."""
    first: tuple[Path, tuple[int, int], bool] | None = None
    pixels = []
    for path, picture in zip(paths, _opened(paths), strict=True):
        if picture.mode not in _GREY_MODES | _COLOUR_MODES:
            raise DataError(
                f"{path}: pictures of mode {picture.mode} cannot be read; convert it to 8 bits, grey or RGB"
            )
        is_colour = picture.mode in _COLOUR_MODES if colour == "auto" else colour == "rgb"
        if first is None:
            first = (path, picture.size, is_colour)
        if colour == "auto" and is_colour != first[2]:
            words = ("colour", "grey") if is_colour else ("grey", "colour")
            raise DataError(
                f"{path}: {words[0]}, but {first[0]} is {words[1]}; set data.colour=rgb or data.colour=grey"
            )
        if not size and picture.size != first[1]:
            raise DataError(
                f"{path}: {_by(picture.size)} pixels, but {first[0]} has {_by(first[1])}; "
                "set data.size=N to scale them all"
            )
        picture = picture.convert("RGB" if is_colour else "L")
        pixels.append(np.asarray(_fit(picture, size, "auto") if size else picture))
    return Source(np.stack(pixels), labels, name)


def _opened(paths: Sequence[Path]) -> Iterator[Image.Image]:
    for path in paths:
        try:
            with Image.open(path) as picture:
                picture.load()
                yield picture
        except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
            raise DataError(f"{path}: not a picture that can be read ({error}); remove it or convert it") from None


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


_NPZ_PICTURES = ("x_train", "train_images", "images", "x", "X", "pictures", "arr_0")
_NPZ_HELD_OUT = {"x_train": "x_test", "train_images": "test_images"}
_NPZ_LABELS = {
    "x_train": "y_train", "x_test": "y_test", "train_images": "train_labels", "test_images": "test_labels",
    "images": "labels", "pictures": "labels", "x": "y", "X": "y", "arr_0": "arr_1",
}  # fmt: skip


def _npz(path: Path) -> Source:
    """Arrays by their usual names: x_train and y_train (x_test, y_test held out), images and labels, x and y."""
    try:
        # opened here: of a damaged archive numpy would leave the file open
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: not an .npz file that can be read ({error})") from None
    key = next((name for name in _NPZ_PICTURES if name in arrays), None)
    if key is None:
        raise DataError(
            f"{path}: holds {', '.join(sorted(arrays)) or 'no arrays'}; pictures must be called images, x or x_train"
        )

    def side(key: str) -> Source:
        return from_array(arrays[key], arrays.get(_NPZ_LABELS[key]), name=f"{path}, {key}")

    held_out = _NPZ_HELD_OUT.get(key, "")
    return replace(side(key), held_out=side(held_out) if held_out in arrays else None)


_IDX_PICTURES, _IDX_LABELS = 0x0803, 0x0801


def _idx_pair(path: Path) -> Source:
    """An IDX file of pictures with the label file beside it, if there is one."""
    pixels = read_idx(path, _IDX_PICTURES, "pictures")
    beside = path.with_name(path.name.replace("images", "labels").replace("idx3", "idx1"))
    labels = _label_file(beside) if beside != path and beside.is_file() else None
    if not len(pixels):
        raise DataError(f"{path}: no pictures")
    return Source(pixels, labels, str(path))


def _label_file(path: Path) -> Array:
    if not path.is_file():
        raise DataError(f"{path}: no such label file; data.labels is auto, none, or a path")
    if path.suffix == ".npy":
        try:
            loaded: Array = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{path}: not an .npy file that can be read ({error})") from None
        return loaded.reshape(-1)
    return read_idx(path, _IDX_LABELS, "labels").astype(np.int64)


def read_idx(path: Path, magic: int, what: str) -> Bytes:
    """An IDX file of bytes, also gzipped, with the dimensions its header states (LeCun's MNIST page)."""
    content = path.read_bytes()
    if content[:2] == b"\x1f\x8b":
        try:
            content = gzip.decompress(content)
        except (EOFError, OSError, zlib.error) as error:
            raise DataError(f"{path}: damaged or truncated gzip ({error}); fetch it again") from None
    found = int.from_bytes(content[:4], "big")
    if len(content) < 4 or found != magic:
        other = {_IDX_PICTURES: "; it holds pictures", _IDX_LABELS: "; it holds labels"}.get(found, "")
        raise DataError(
            f"{path}: no IDX file of {what} (begins with 0x{content[:4].hex()}, expected 0x{magic:08x}){other}"
        )
    dimensions = magic & 0xFF
    header = 4 + 4 * dimensions
    shape = tuple(int.from_bytes(content[i : i + 4], "big") for i in range(4, header, 4))
    expected = int(np.prod(shape, dtype=np.int64))
    if len(content) != header + expected:
        raise DataError(
            f"{path}: {len(content) - header:,} bytes after the header, which announces "
            f"{' x '.join(map(str, shape))} = {expected:,}; the file is truncated or altered"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


# ------------------------------------------------------------------------------------------------------ without a file


def _digits() -> Source:
    from sklearn.datasets import load_digits  # late: a second to import

    found = load_digits()
    return Source(np.rint(found.images * (255 / 16)).astype(np.uint8), found.target.astype(np.int64), "digits")


def shapes(count: int, *, size: int = 32, rgb: bool = False, seed: int = 0) -> Source:
    """Circles, crosses, squares and triangles of random place, radius, angle and, in colour, hue; with these factors.

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
    """Fully saturated colours of hues in turns, (N, 3) in 0..1."""
    colours: Array = np.clip(np.abs((hue[:, None] * 6 + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)
    return colours
