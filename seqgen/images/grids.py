"""Images as people see them: grids, PNG files, arrays on disk.

Shapes: N images, C channels (1 or 3), S pixels a side; pixels are uint8.
"""

import io
import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from seqgen.core import files

_READABLE = 48
"""Pixels a side that an image in a grid has at least, by whole repetition of its own."""


def as_bytes(images: Tensor) -> Tensor:
    """Round images in 0..1 to uint8."""
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)


def grid(pixels: Tensor, *, columns: int = 0, zoom: int = 0, gap: int = 2) -> Image.Image:
    """Lay images (N, C, S, S) out in `columns` (0: about square), each enlarged `zoom` times (0: to 48 or more).

    Images stand `gap` white pixels apart; what is left of the last row is white. ValueError for no images.
    """
    if pixels.dim() != 4 or not len(pixels) or pixels.shape[1] not in (1, 3):
        raise ValueError(f"a grid needs images (N, 1 or 3, S, S), N > 0, got {tuple(pixels.shape)}")
    count, channels, size, _ = pixels.shape
    columns = min(columns or math.ceil(math.sqrt(count)), count)
    rows = -(-count // columns)
    zoom = zoom or max(1, -(-_READABLE // size))
    step = size * zoom + gap
    sheet = np.full((rows * step - gap, columns * step - gap, channels), 255, np.uint8)
    for i, image in enumerate(pixels.cpu().numpy()):
        top, left = i // columns * step, i % columns * step
        large = image.transpose(1, 2, 0).repeat(zoom, 0).repeat(zoom, 1)
        sheet[top : top + size * zoom, left : left + size * zoom] = large
    return Image.fromarray(sheet[..., 0] if channels == 1 else sheet)


def png(image: Image.Image) -> bytes:
    """Encode an image as the bytes of a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def save_grid(pixels: Tensor, path: str | os.PathLike[str], *, columns: int = 0, zoom: int = 0) -> Path:
    """Write images as one PNG and return its path; see `grid`."""
    target = Path(path)
    files.write_bytes(target, png(grid(pixels, columns=columns, zoom=zoom)))
    return target


def save_each(pixels: Tensor, folder: str | os.PathLike[str], names: Sequence[str] = ()) -> list[Path]:
    """Write every image as a PNG of its own size, by number or by `names`, and return the paths.

    A name may hold a subfolder, as in `cats/000001`.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    paths = []
    for i, image in enumerate(pixels.cpu().numpy()):
        path = target / f"{names[i] if names else f'{i:06d}'}.png"
        path.parent.mkdir(exist_ok=True)
        image = Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0))
        files.write_bytes(path, png(image))
        paths.append(path)
    return paths


def save_arrays(pixels: Tensor, path: str | os.PathLike[str], labels: Tensor | Sequence[str] | None = None) -> Path:
    """Write images as `images` (N, S, S) or (N, S, S, 3) and `labels` (N,) of an .npz that `--data` reads again.

    Labels are numbers or the names of classes.
    """
    target = Path(path)
    array = pixels.cpu().numpy().transpose(0, 2, 3, 1)
    array = array[..., 0] if array.shape[3] == 1 else array
    buffer = io.BytesIO()
    if labels is None:
        np.savez_compressed(buffer, images=array)
    else:
        written = labels.cpu().numpy() if isinstance(labels, Tensor) else np.array(labels)
        np.savez_compressed(buffer, images=array, labels=written)
    files.write_bytes(target, buffer.getvalue())
    return target
