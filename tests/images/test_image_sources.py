"""Pictures from where they lie, and every way in which they cannot be used."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from seqgen.core.errors import DataError
from seqgen.images import sources

PIXELS = np.arange(2 * 4 * 4, dtype=np.uint8).reshape(2, 4, 4)


def idx(array: np.ndarray) -> bytes:
    header = struct.pack(">HBB", 0, 8, array.ndim) + b"".join(struct.pack(">I", n) for n in array.shape)
    return header + array.astype(np.uint8).tobytes()


def picture(path: Path, size: tuple[int, int] = (4, 4), mode: str = "L", value: int = 7) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode == "L" else (value, 0, 0)).save(path)
    return path


def refused(name: object, **options: object) -> str:
    with pytest.raises(DataError) as caught:
        sources.read(str(name), **options)  # type: ignore[arg-type]
    return str(caught.value)


def test_digits_are_scikit_learns() -> None:
    found, original = sources.read("digits"), load_digits()
    assert found.pixels.shape == (1797, 8, 8)
    np.testing.assert_allclose(found.pixels / 255, original.images / 16, atol=0.5 / 255)
    assert found.labels is not None
    assert (found.labels == original.target).all()


@pytest.mark.parametrize("zipped", [False, True])
def test_idx_files_are_read_with_the_labels_beside_them(tmp_path: Path, zipped: bool) -> None:
    ending, pack = (".gz", gzip.compress) if zipped else ("", bytes)
    (tmp_path / f"train-images-idx3-ubyte{ending}").write_bytes(pack(idx(PIXELS)))
    (tmp_path / f"train-labels-idx1-ubyte{ending}").write_bytes(pack(idx(np.array([3, 1]))))
    (tmp_path / f"t10k-images-idx3-ubyte{ending}").write_bytes(pack(idx(PIXELS[:1])))
    alone = sources.read(str(tmp_path / f"train-images-idx3-ubyte{ending}"))
    assert (alone.pixels == PIXELS).all()
    assert alone.labels is not None
    assert alone.labels.tolist() == [3, 1]
    assert alone.held_out is None
    folder = sources.read(str(tmp_path))
    assert (folder.pixels == PIXELS).all()
    assert folder.held_out is not None
    assert (folder.held_out.pixels == PIXELS[:1]).all()
    assert folder.held_out.labels is None
    unlabelled = sources.read(str(tmp_path), labels="none")
    assert unlabelled.labels is None


def test_a_wrong_idx_file_is_named_with_what_it_is(tmp_path: Path) -> None:
    labels = tmp_path / "labels"
    labels.write_bytes(idx(np.array([3, 1])))
    assert refused(labels) == (
        f"{labels}: no IDX file of pictures (begins with 0x00000801, expected 0x00000803); it holds labels"
    )
    short = tmp_path / "short"
    short.write_bytes(idx(PIXELS)[:-5])
    assert refused(short) == (
        f"{short}: 27 bytes after the header, which announces 2 x 4 x 4 = 32; the file is truncated or altered"
    )
    text = tmp_path / "text.txt"
    text.write_text("hello")
    assert refused(text) == f"{text}: no IDX file of pictures (begins with 0x68656c6c, expected 0x00000803)"
    empty = tmp_path / "empty"
    empty.touch()
    assert refused(empty) == f"{empty}: no IDX file of pictures (begins with 0x, expected 0x00000803)"
    cut = tmp_path / "cut.gz"
    cut.write_bytes(gzip.compress(idx(PIXELS))[:-9])
    assert refused(cut).startswith(f"{cut}: damaged or truncated gzip (")
    assert refused(tmp_path / "none") == f"{tmp_path}/none: no such file or folder"


def test_labels_that_do_not_match_are_counted(tmp_path: Path) -> None:
    images = tmp_path / "images-idx3"
    images.write_bytes(idx(PIXELS))
    other = tmp_path / "other"
    other.write_bytes(idx(np.array([1, 2, 3])))
    assert refused(images, labels=str(other)) == (
        f"{images}: 2 pictures but 3 labels; give the label file of the same pictures, or data.labels=none"
    )
    np.save(tmp_path / "right.npy", np.array([5, 6]))
    found = sources.read(str(images), labels=str(tmp_path / "right.npy"))
    assert found.labels is not None
    assert found.labels.tolist() == [5, 6]
    missing = tmp_path / "missing"
    assert refused(images, labels=str(missing)) == (
        f"{missing}: no such label file; data.labels is auto, none, or a path"
    )


@pytest.mark.parametrize(("pixels", "labels"), [("images", "labels"), ("x", "y"), ("arr_0", "arr_1")])
def test_npz_files_are_read_by_their_usual_names(tmp_path: Path, pixels: str, labels: str) -> None:
    np.savez(tmp_path / "some.npz", **{pixels: PIXELS, labels: np.array([4, 2])})
    found = sources.read(str(tmp_path / "some.npz"))
    assert (found.pixels == PIXELS).all()
    assert found.labels is not None
    assert found.labels.tolist() == [4, 2]


def test_npz_test_sets_are_held_out(tmp_path: Path) -> None:
    np.savez(tmp_path / "m.npz", x_train=PIXELS, y_train=[0, 1], x_test=PIXELS[1:], y_test=[1])
    found = sources.read(str(tmp_path / "m.npz"))
    assert found.held_out is not None
    assert (found.held_out.pixels == PIXELS[1:]).all()
    assert found.held_out.labels is not None
    assert found.held_out.labels.tolist() == [1]


def test_npz_files_that_cannot_be_used(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, weights=np.zeros(3))
    assert refused(path) == f"{path}: holds weights; pictures must be called images, x or x_train"
    np.savez(path, images=np.array([object()]))
    assert refused(path).startswith(f"{path}: not an .npz file that can be read (")
    path.write_bytes(b"PK\x03\x04 no zip")
    assert refused(path).startswith(f"{path}: not an .npz file that can be read (")


@pytest.mark.parametrize(
    ("array", "bytes_"),
    [
        (PIXELS, PIXELS),
        (PIXELS / 255, PIXELS),
        (PIXELS.astype(np.int64), PIXELS),
        (PIXELS > 15, 255 * (PIXELS > 15)),
        (PIXELS[..., None], PIXELS),
        (PIXELS[:, None], PIXELS),
    ],
)
def test_arrays_become_bytes(array: np.ndarray, bytes_: np.ndarray) -> None:
    found = sources.from_array(array)
    assert found.pixels.dtype == np.uint8
    assert (found.pixels == bytes_).all()


def test_arrays_that_are_no_pictures() -> None:
    cases = [
        (np.zeros((2, 4, 4)) - 1, "the array: values from -1 to -1; expected 0..255, or floats in 0..1"),
        (np.full((2, 4, 4), np.nan), "the array: values from nan to nan; expected 0..255, or floats in 0..1"),
        (np.full((2, 4, 4), 300), "the array: values from 300 to 300; expected 0..255, or floats in 0..1"),
        (np.zeros(5), "the array: pictures must be (N, H, W) or (N, H, W, 3), got shape (5,)"),
        (np.zeros((2, 4, 4, 2)), "the array: pictures must be (N, H, W) or (N, H, W, 3), got shape (2, 4, 4, 2)"),
        (np.zeros((0, 4, 4)), "the array: no pictures"),
        (np.full((1, 2, 2), "a"), "the array: pictures must be numbers, got dtype <U1"),
    ]
    for array, message in cases:
        with pytest.raises(DataError) as caught:
            sources.from_array(array)
        assert str(caught.value) == message


def test_subfolders_are_labels(tmp_path: Path) -> None:
    for name, value in (("cat/1.png", 1), ("cat/2.png", 2), ("dog/deep/1.png", 3)):
        picture(tmp_path / name, value=value)
    found = sources.read(str(tmp_path))
    assert found.pixels[:, 0, 0].tolist() == [1, 2, 3]
    assert found.labels is not None
    assert found.labels.tolist() == ["cat", "cat", "dog"]
    loose = picture(tmp_path / "loose.png")
    assert refused(tmp_path) == (
        f"{loose}: beside subfolders that are labels; move it into one of them, or set data.labels=none"
    )
    assert len(sources.read(str(tmp_path), labels="none").pixels) == 4


def test_mixed_sizes_and_modes_name_both_files(tmp_path: Path) -> None:
    first = picture(tmp_path / "a.png")
    second = picture(tmp_path / "b.png", (6, 4))
    assert refused(tmp_path) == (f"{second}: 6 x 4 pixels, but {first} has 4 x 4; set data.size=N to scale them all")
    assert sources.read(str(tmp_path), size=5).pixels.shape == (2, 5, 5)
    second.unlink()
    colour = picture(tmp_path / "c.png", mode="RGB")
    assert refused(tmp_path) == f"{colour}: colour, but {first} is grey; set data.colour=rgb or data.colour=grey"
    assert sources.read(str(tmp_path), colour="rgb").pixels.shape == (2, 4, 4, 3)
    assert sources.read(str(tmp_path), colour="grey").pixels.shape == (2, 4, 4)


def test_folders_and_files_that_cannot_be_used(tmp_path: Path) -> None:
    assert refused(tmp_path).startswith(f"{tmp_path}: no pictures in this folder (")
    broken = tmp_path / "x.png"
    broken.write_bytes(b"\x89PNG nothing")
    assert refused(tmp_path).startswith(f"{broken}: not a picture that can be read (")
    whole = picture(tmp_path / "x.png", (40, 40))
    whole.write_bytes(whole.read_bytes()[:-30])
    assert refused(tmp_path).startswith(f"{whole}: not a picture that can be read (")
    Image.fromarray(np.zeros((4, 4), np.int32)).save(tmp_path / "x.tif")
    whole.unlink()
    assert refused(tmp_path) == (
        f"{tmp_path}/x.tif: pictures of mode I cannot be read; convert it to 8 bits, grey or RGB"
    )
    wide = picture(tmp_path / "wide.png", (6, 4))
    assert refused(wide) == f"{wide}: pictures are 6 x 4, not square; set data.size=N to crop and scale"


def test_shapes_are_drawn_as_their_factors_say() -> None:
    found = sources.shapes(400, size=32, rgb=True, seed=3)
    again = sources.shapes(400, size=32, rgb=True, seed=3)
    assert (found.pixels == again.pixels).all()
    assert found.factors is not None
    assert found.labels is not None
    x, y, radius, _, hue = found.factors.T
    ink = found.pixels.max(3) / 255
    place = (np.arange(32) + 0.5) / 32
    area = ink.sum((1, 2)) / 32**2
    # the ink's centre of mass is the centre, and its area that of the shape; a triangle's mass is its centroid too
    np.testing.assert_allclose((ink.sum(1) * place).sum(1) / ink.sum((1, 2)), x, atol=0.01)
    np.testing.assert_allclose((ink.sum(2) * place).sum(1) / ink.sum((1, 2)), y, atol=0.01)
    shares = {"circle": np.pi, "square": 2.0, "triangle": 3 * np.sqrt(3) / 4, "cross": 20 / 9}
    for name, share in shares.items():
        rows = found.labels == name
        assert rows.sum() > 60
        np.testing.assert_allclose(area[rows], share * radius[rows] ** 2, rtol=0.06)
    full = found.pixels.reshape(400, -1, 3)[np.arange(400), found.pixels.max(3).reshape(400, -1).argmax(1)]
    red = (hue < 0.02) | (hue > 0.98)
    assert (full[red][:, 0] == 255).all()
    assert (full[red][:, 1:] < 64).all()


def test_pictures_are_scaled_and_coloured_as_asked() -> None:
    large = sources.read("digits", size=16, colour="rgb")
    assert large.pixels.shape == (1797, 16, 16, 3)
    assert (large.pixels[..., 0] == large.pixels[..., 2]).all()
    small = sources.read("digits")
    mean = large.pixels[..., 0].reshape(1797, 8, 2, 8, 2).mean((2, 4))
    assert np.abs(mean - small.pixels).mean() < 12
