"""Images as people see them, read back with Pillow and numpy."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from seqgen.images import grids, reading


def pixels(count: int, channels: int = 1, size: int = 3) -> torch.Tensor:
    made = torch.Generator().manual_seed(0)
    return torch.randint(0, 255, (count, channels, size, size), generator=made, dtype=torch.uint8)


def test_values_are_rounded_and_kept_inside() -> None:
    x = torch.tensor([-1.0, 0.0, 0.4 / 255, 0.6 / 255, 1.0, 2.0])
    assert grids.as_bytes(x).tolist() == [0, 0, 0, 1, 255, 255]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_grid_holds_every_image_at_its_place(channels: int) -> None:
    x = pixels(5, channels)
    sheet = np.asarray(grids.grid(x, columns=3, zoom=2, gap=1)).reshape(13, 20, channels)
    for i in range(5):
        top, left = i // 3 * 7, i % 3 * 7
        shown = sheet[top : top + 6 : 2, left : left + 6 : 2].transpose(2, 0, 1)
        assert (shown == x[i].numpy()).all()
        assert (sheet[top + 1 : top + 6 : 2, left + 1 : left + 6 : 2].transpose(2, 0, 1) == x[i].numpy()).all()
    assert (sheet[6] == 255).all()
    assert (sheet[7:, 14:] == 255).all()


def test_small_images_are_enlarged_and_grids_are_about_square() -> None:
    assert grids.grid(pixels(10, size=8)).size == (4 * 50 - 2, 3 * 50 - 2)
    assert grids.grid(pixels(2, size=64)).size == (2 * 66 - 2, 64)


@pytest.mark.parametrize("shape", [(0, 1, 3, 3), (2, 2, 3, 3), (3, 3)])
def test_a_grid_of_no_images_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"^a grid needs images \(N, 1 or 3, S, S\), N > 0, got \("):
        grids.grid(torch.zeros(shape, dtype=torch.uint8))


@pytest.mark.parametrize("channels", [1, 3])
def test_files_and_arrays_are_read_again_as_they_were(channels: int, tmp_path: Path) -> None:
    x = pixels(4, channels)
    assert Image.open(io.BytesIO(grids.png(grids.grid(x)))).mode == ("L" if channels == 1 else "RGB")
    path = grids.save_grid(x, tmp_path / "grid.png", columns=2, zoom=1)
    with Image.open(path) as read:
        assert read.size == (8, 8)
    paths = grids.save_each(x, tmp_path / "each")
    assert [p.name for p in paths] == [f"{i:06d}.png" for i in range(4)]
    named = grids.save_each(x[:1], tmp_path / "named", ["cat"])
    assert named[0].name == "cat.png"
    labels = torch.tensor([3, 1, 0, 2])
    grids.save_arrays(x, tmp_path / "all.npz", labels)
    for name in ("each", "all.npz"):
        found = reading.read(str(tmp_path / name))
        values = found.pixels if channels == 3 else found.pixels[..., None]
        assert (values.transpose(0, 3, 1, 2) == x.numpy()).all()
    assert found.labels is not None
    assert found.labels.tolist() == labels.tolist()
    grids.save_arrays(x, tmp_path / "plain.npz")
    assert reading.read(str(tmp_path / "plain.npz")).labels is None
