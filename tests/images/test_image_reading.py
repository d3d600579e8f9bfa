"""Images from where they lie, and every way in which they cannot be used."""

import gzip
import io
import struct
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from sklearn.datasets import load_digits

from seqgen.core.errors import DataError, MissingExtraError
from seqgen.images import reading

OTHERS = (
    "; other files of images end in .bmp, .gif, .jpeg, .jpg, .npy, .npz, .parquet, .pgm, .png, .ppm, .tif, .tiff, "
    + (".webp, .zip")
)
PIXELS = np.arange(2 * 4 * 4, dtype=np.uint8).reshape(2, 4, 4)


def idx(array: np.ndarray) -> bytes:
    header = struct.pack(">HBB", 0, 8, array.ndim) + b"".join(struct.pack(">I", n) for n in array.shape)
    return header + array.astype(np.uint8).tobytes()


def image(path: Path, size: tuple[int, int] = (4, 4), mode: str = "L", value: int = 7) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode == "L" else (value, 0, 0)).save(path)
    return path


def refused(name: object, **options: object) -> str:
    with pytest.raises(DataError) as caught:
        reading.read(str(name), **options)  # type: ignore[arg-type]
    return str(caught.value)


def test_digits_are_scikit_learns() -> None:
    found, original = reading.read("digits"), load_digits()
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
    alone = reading.read(str(tmp_path / f"train-images-idx3-ubyte{ending}"))
    assert (alone.pixels == PIXELS).all()
    assert alone.labels is not None
    assert alone.labels.tolist() == [3, 1]
    assert alone.held_out is None
    folder = reading.read(str(tmp_path))
    assert (folder.pixels == PIXELS).all()
    assert folder.held_out is not None
    assert (folder.held_out.pixels == PIXELS[:1]).all()
    assert folder.held_out.labels is None
    unlabelled = reading.read(str(tmp_path), labels="none")
    assert unlabelled.labels is None


def test_a_wrong_idx_file_is_named_with_what_it_is(tmp_path: Path) -> None:
    labels = tmp_path / "labels"
    labels.write_bytes(idx(np.array([3, 1])))
    assert refused(labels) == (
        f"{labels}: no IDX file of images (begins with 0x00000801, expected 0x00000803); it holds labels"
    )
    short = tmp_path / "short"
    short.write_bytes(idx(PIXELS)[:-5])
    assert refused(short) == (
        f"{short}: 27 bytes after the header, which announces 2 x 4 x 4 = 32; the file is truncated or altered"
    )
    text = tmp_path / "text.txt"
    text.write_text("hello")
    assert refused(text) == f"{text}: no IDX file of images (begins with 0x68656c6c, expected 0x00000803){OTHERS}"
    empty = tmp_path / "empty"
    empty.touch()
    assert refused(empty) == f"{empty}: no IDX file of images (begins with 0x, expected 0x00000803){OTHERS}"
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
        f"{images}: 2 images but 3 labels; give the label file of the same images, or data.labels=none"
    )
    np.save(tmp_path / "right.npy", np.array([5, 6]))
    found = reading.read(str(images), labels=str(tmp_path / "right.npy"))
    assert found.labels is not None
    assert found.labels.tolist() == [5, 6]
    missing = tmp_path / "missing"
    assert refused(images, labels=str(missing)) == (
        f"{missing}: no such label file; data.labels is auto, none, or a path"
    )


@pytest.mark.parametrize(("pixels", "labels"), [("images", "labels"), ("x", "y"), ("arr_0", "arr_1")])
def test_npz_files_are_read_by_their_usual_names(tmp_path: Path, pixels: str, labels: str) -> None:
    np.savez(tmp_path / "some.npz", **{pixels: PIXELS, labels: np.array([4, 2])})
    found = reading.read(str(tmp_path / "some.npz"))
    assert (found.pixels == PIXELS).all()
    assert found.labels is not None
    assert found.labels.tolist() == [4, 2]


def test_npz_test_sets_are_held_out(tmp_path: Path) -> None:
    np.savez(tmp_path / "m.npz", x_train=PIXELS, y_train=[0, 1], x_test=PIXELS[1:], y_test=[1])
    found = reading.read(str(tmp_path / "m.npz"))
    assert found.held_out is not None
    assert (found.held_out.pixels == PIXELS[1:]).all()
    assert found.held_out.labels is not None
    assert found.held_out.labels.tolist() == [1]


def test_npz_files_that_cannot_be_used(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, weights=np.zeros(3))
    assert refused(path) == f"{path}: holds weights; images must be called images, x or x_train"
    np.savez(path, images=np.array([object()]))
    assert refused(path) == f"{path}: not an .npz file that can be read (it holds Python objects, or no arrays)"
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
    found = reading.from_array(array)
    assert found.pixels.dtype == np.uint8
    assert (found.pixels == bytes_).all()


def test_arrays_that_are_no_images() -> None:
    cases = [
        (np.zeros((2, 4, 4)) - 1, "the array: values from -1 to -1; expected 0..255, or floats in 0..1"),
        (np.full((2, 4, 4), np.nan), "the array: values from nan to nan; expected 0..255, or floats in 0..1"),
        (np.full((2, 4, 4), 300), "the array: values from 300 to 300; expected 0..255, or floats in 0..1"),
        (np.zeros(5), "the array: images must be (N, H, W) or (N, H, W, 3), got shape (5,)"),
        (np.zeros((2, 4, 4, 2)), "the array: images must be (N, H, W) or (N, H, W, 3), got shape (2, 4, 4, 2)"),
        (np.zeros((0, 4, 4)), "the array: no images"),
        (np.full((1, 2, 2), "a"), "the array: images must be numbers, got dtype <U1"),
    ]
    for array, message in cases:
        with pytest.raises(DataError) as caught:
            reading.from_array(array)
        assert str(caught.value) == message


def test_subfolders_are_labels(tmp_path: Path) -> None:
    for name, value in (("cat/1.png", 1), ("cat/2.png", 2), ("dog/deep/1.png", 3)):
        image(tmp_path / name, value=value)
    found = reading.read(str(tmp_path))
    assert found.pixels[:, 0, 0].tolist() == [1, 2, 3]
    assert found.labels is not None
    assert found.labels.tolist() == ["cat", "cat", "dog"]
    loose = image(tmp_path / "loose.png")
    assert refused(tmp_path) == (
        f"{loose}: beside subfolders that are labels; move it into one of them, or set data.labels=none"
    )
    assert len(reading.read(str(tmp_path), labels="none").pixels) == 4


def test_mixed_sizes_and_modes_name_both_files(tmp_path: Path) -> None:
    first = image(tmp_path / "a.png")
    second = image(tmp_path / "b.png", (6, 4))
    assert refused(tmp_path) == (f"{second}: 6 x 4 pixels, but {first} has 4 x 4; set data.size=N to scale them all")
    assert reading.read(str(tmp_path), size=5).pixels.shape == (2, 5, 5)
    second.unlink()
    colour = image(tmp_path / "c.png", mode="RGB")
    assert refused(tmp_path) == f"{colour}: colour, but {first} is grey; set data.colour=rgb or data.colour=grey"
    assert reading.read(str(tmp_path), colour="rgb").pixels.shape == (2, 4, 4, 3)
    assert reading.read(str(tmp_path), colour="grey").pixels.shape == (2, 4, 4)


def test_folders_and_files_that_cannot_be_used(tmp_path: Path) -> None:
    assert refused(tmp_path).startswith(f"{tmp_path}: no images in this folder (")
    broken = tmp_path / "x.png"
    broken.write_bytes(b"\x89PNG nothing")
    assert refused(tmp_path).startswith(f"{broken}: not an image that can be read (")
    whole = image(tmp_path / "x.png", (40, 40))
    whole.write_bytes(whole.read_bytes()[:-30])
    assert refused(tmp_path).startswith(f"{whole}: not an image that can be read (")
    Image.fromarray(np.zeros((4, 4), np.int32)).save(tmp_path / "x.tif")
    whole.unlink()
    assert refused(tmp_path) == (
        f"{tmp_path}/x.tif: images of mode I cannot be read; convert it to 8 bits, grey or RGB"
    )
    wide = image(tmp_path / "wide.png", (6, 4))
    assert refused(wide) == f"{wide}: images are 6 x 4, not square; set data.size=N to crop and scale"


def test_shapes_are_drawn_as_their_factors_say() -> None:
    found = reading.shapes(400, size=32, rgb=True, seed=3)
    again = reading.shapes(400, size=32, rgb=True, seed=3)
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


def test_images_are_scaled_and_coloured_as_asked() -> None:
    large = reading.read("digits", size=16, colour="rgb")
    assert large.pixels.shape == (1797, 16, 16, 3)
    assert (large.pixels[..., 0] == large.pixels[..., 2]).all()
    small = reading.read("digits")
    mean = large.pixels[..., 0].reshape(1797, 8, 2, 8, 2).mean((2, 4))
    assert np.abs(mean - small.pixels).mean() < 12


# ------------------------------------------------------------------------------------------------ what others bring


def test_integers_0_and_1_are_black_and_white(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "seqgen")
    binary = (PIXELS % 3 == 0).astype(np.uint8)
    np.savez(tmp_path / "a.npz", x_train=binary, x_test=np.zeros((1, 4, 4), np.uint8))
    np.save(tmp_path / "b.npy", binary.astype(np.int64))
    (tmp_path / "c-images-idx3").write_bytes(idx(binary))
    for k in range(2):
        (tmp_path / "d").mkdir(exist_ok=True)
        Image.fromarray(binary[k]).save(tmp_path / "d" / f"{k}.png")
    for name in ("a.npz", "b.npy", "c-images-idx3", "d"):
        assert (reading.read(str(tmp_path / name)).pixels == 255 * binary).all()
    assert caplog.messages[0] == f"{tmp_path}/a.npz, x_train: the values are 0 and 1 only, taken as black and white"
    np.savez(tmp_path / "e.npz", x_train=PIXELS, x_test=binary)
    mixed = reading.read(str(tmp_path / "e.npz"))
    assert mixed.held_out is not None
    assert (mixed.held_out.pixels == binary).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_as_their_exif_data_say(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(PIXELS[1, :, :3].repeat(20, 0).repeat(20, 1)).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as image:
        shown = ImageOps.exif_transpose(image)
    assert (reading.read(str(tmp_path / "a.png"), size=60).pixels[0] == reading._fit(shown, 60, "auto")).all()


def png_that_announces(width: int, height: int) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [10_000, 30_000])
def test_what_unpacks_to_far_more_than_it_is_is_refused_by_name(side: int, tmp_path: Path) -> None:
    assert (Image.MAX_IMAGE_PIXELS or 0) < 10_000**2  # the smaller one only leads to a warning of Pillow's
    (tmp_path / "bomb.png").write_bytes(png_that_announces(side, side))
    message = refused(tmp_path)
    assert message.startswith(f"{tmp_path}/bomb.png: not an image that can be read (Image size ({side**2} pixels)")


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_idx_dimensions_that_no_file_can_hold_are_refused(pack: type[bytes], tmp_path: Path) -> None:
    path = tmp_path / "x-images-idx3"
    for shape in [(2**32 - 1,) * 3, (2**31, 2**31, 4), (10**6, 1000, 1000)]:
        path.write_bytes(pack(b"\0\0\x08\x03" + struct.pack(">III", *shape) + b"\0" * 9))
        announced = f"{' x '.join(map(str, shape))} = {shape[0] * shape[1] * shape[2]:,}"
        assert refused(path) == (
            f"{path}: 9 bytes after the header, which announces {announced}; the file is truncated or altered"
        )
    path.write_bytes(pack(idx(PIXELS) + b"\0" * 7))
    assert refused(path).startswith(f"{path}: more than 32 bytes after the header, which announces 2 x 4 x 4 = 32;")
    path.write_bytes(pack(idx(PIXELS)[:9]))
    assert refused(path).startswith(f"{path}: 0 bytes after the header, which announces ")


def test_hidden_files_and_folders_are_left_out(tmp_path: Path) -> None:
    for name in ("cat/a.png", "dog/a.png", "__MACOSX/a.png", ".ipynb_checkpoints/a.png", "dog/.thumb/b.png"):
        image(tmp_path / "in" / name)
    (tmp_path / "in" / "cat" / "._a.png").write_bytes(b"no image")
    (tmp_path / "elsewhere").mkdir()
    image(tmp_path / "elsewhere" / "c.png")
    (tmp_path / "in" / "fox").symlink_to(tmp_path / "elsewhere")
    found = reading.read(str(tmp_path / "in"))
    assert found.labels is not None
    assert found.labels.tolist() == ["cat", "dog", "fox"]


def test_transparent_parts_are_laid_on_white_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "seqgen")
    alpha = np.array([[0, 51], [102, 255]])
    rgba = np.dstack([np.full((2, 2), 200), np.full((2, 2), 10), np.zeros((2, 2)), alpha]).astype(np.uint8)
    Image.fromarray(rgba).save(tmp_path / "a.png")
    found = reading.read(str(tmp_path)).pixels[0]
    share = alpha[..., None] / 255
    np.testing.assert_allclose(found, 255 * (1 - share) + np.array([200, 10, 0]) * share, atol=1)
    assert caplog.messages == [f"{tmp_path}: 1 of 1 images have transparent parts, laid on white"]
    rgba[..., 3] = 255
    Image.fromarray(rgba).save(tmp_path / "a.png")
    assert (reading.read(str(tmp_path)).pixels[0] == [200, 10, 0]).all()
    assert len(caplog.messages) == 1


def placed(folder: Path, *names: str) -> Path:
    """Images 0, 1, 2 ... of these names in a folder."""
    for value, name in enumerate(names):
        image(folder / name, value=value + 2)
    return folder


def labels_of(source: reading.Source | None) -> list[str] | None:
    return None if source is None or source.labels is None else source.labels.tolist()


def test_folders_of_a_split_are_no_classes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "seqgen")
    names = ("train/cat/1.png", "train/dog/1.png", "train/dog/2.png", "Test/cat/3.png", "Test/dog/3.png")
    two = reading.read(str(placed(tmp_path / "two", *names)))
    assert (labels_of(two), labels_of(two.held_out)) == (["cat", "dog", "dog"], ["cat", "dog"])
    assert caplog.messages[-1] == f"{tmp_path}/two: train is learnt, Test is held out"
    three = reading.read(str(placed(tmp_path / "three", *names, "val/dog/9.png")))
    assert (labels_of(three), labels_of(three.held_out)) == (["cat", "dog", "dog"], ["dog"])
    assert caplog.messages[-1] == f"{tmp_path}/three: train is learnt, val is held out; Test is not used"
    plain = reading.read(str(placed(tmp_path / "plain", "train/1.png", "train/2.png", "validation/3.png")))
    assert plain.labels is None
    assert plain.held_out is not None
    assert len(plain.held_out.pixels) == 1
    wrapped = reading.read(str(placed(tmp_path / "wrapped", *(f"data/set/{name}" for name in names))))
    assert labels_of(wrapped.held_out) == ["cat", "dog"]
    assert labels_of(reading.read(str(tmp_path / "two"), labels="folders")) == [
        "Test",
        "Test",
        "train",
        "train",
        "train",
    ]


def test_folders_that_can_be_read_in_two_ways_are_refused_with_both(tmp_path: Path) -> None:
    cases = {
        "a": (("train/1.png", "test/1.png", "cat/1.png"), "test, train beside cat"),
        "b": (("cat/1.png", "dog/1.png", "test/1.png"), "test beside cat"),
        "c": (("train/cat/1.png", "test/cat/1.png", "loose.png"), f"test, train beside {tmp_path}/c/loose.png"),
        "d": (("val/1.png", "test/2.png"), "test, val"),
        "e": (("train/1.png", "val/2.png", "valid/2.png"), "train, val, valid"),
        "f": (("train/cat/1.png", "extra/cat/2.png"), "train beside extra"),
    }
    for name, (files, which) in cases.items():
        folder = placed(tmp_path / name, *files)
        assert refused(folder) == (
            f"{folder}: {which} can be the parts of a split or classes; for a split keep one each of train, val and "
            "test there and nothing else, for classes set data.labels=folders"
        )
    vehicles = placed(tmp_path / "vehicles", "train/1.png", "car/1.png", "bus/1.png")
    assert labels_of(reading.read(str(vehicles))) == ["bus", "car", "train"]


def test_two_kinds_of_images_in_one_place_are_refused(tmp_path: Path) -> None:
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(PIXELS))
    note = image(tmp_path / "notes" / "a.png")
    assert refused(tmp_path) == (
        f"{tmp_path}: IDX files (train-images-idx3-ubyte) and image files ({note}); name one by its path"
    )
    np.savez(tmp_path / "x.npz", images=PIXELS, x=PIXELS)
    assert refused(tmp_path / "x.npz") == (
        f"{tmp_path}/x.npz: images and x can both be the images; leave one of them in it"
    )


def test_an_archive_is_read_as_the_folder_it_holds(tmp_path: Path) -> None:
    folder = placed(tmp_path / "in", "cat/1.png", "cat/2.png", "dog/3.png", "__MACOSX/cat/._1.png", "cat/.hidden.png")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, Path("photos") / path.relative_to(folder))
        archive.writestr("photos/notes.txt", "not an image")
    found, expected = reading.read(str(tmp_path / "x.zip")), reading.read(str(folder))
    assert (found.pixels == expected.pixels).all()
    assert labels_of(found) == labels_of(expected) == ["cat", "cat", "dog"]
    with zipfile.ZipFile(tmp_path / "x.zip", "a") as archive:
        archive.writestr("photos/dog/4.png", b"no image")
    assert refused(tmp_path / "x.zip").startswith(f"{tmp_path}/x.zip, photos/dog/4.png: not an image that can be read")
    (tmp_path / "y.zip").write_bytes(b"PK nothing")
    assert refused(tmp_path / "y.zip").startswith(f"{tmp_path}/y.zip: not a .zip file that can be read (")
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr("a.txt", "x")
    assert refused(tmp_path / "z.zip").startswith(f"{tmp_path}/z.zip: no images in this archive (.bmp, ")


def test_one_array_is_read_and_a_damaged_one_named(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", PIXELS)
    assert (reading.read(str(tmp_path / "a.npy")).pixels == PIXELS).all()
    (tmp_path / "A.NPY").write_bytes((tmp_path / "a.npy").read_bytes())
    assert (reading.read(str(tmp_path / "A.NPY")).pixels == PIXELS).all()
    content = (tmp_path / "a.npy").read_bytes()
    huge = content.replace(b"(2, 4, 4)", b"(%d,4,4)" % 10**14)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (10**30, 4)})
    for damaged in (b"", content[:50], content[:-3], huge, header.getvalue(), b"PK" + content):
        (tmp_path / "a.npy").write_bytes(damaged)
        assert refused(tmp_path / "a.npy").startswith(f"{tmp_path}/a.npy: not an .npy file that can be read (")


def test_a_table_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    with pytest.raises(MissingExtraError) as caught:
        reading.read(str(tmp_path / "x.parquet"))
    assert str(caught.value) == (
        f"{tmp_path}/x.parquet: reading .parquet needs pyarrow; run: pip install 'neural-seqgen[parquet]'"
    )


@pytest.mark.parametrize("nested", [False, True])
def test_images_of_a_table_are_those_of_the_files(nested: bool, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="needs pyarrow: pip install 'neural-seqgen[parquet]'")
    from pyarrow import parquet

    paths = [image(tmp_path / f"{k}.png", value=9 * k) for k in range(3)]
    contents = [path.read_bytes() for path in paths]
    cells = [{"bytes": content, "path": "x.png"} for content in contents] if nested else contents
    parquet.write_table(pyarrow.table({"image": cells, "label": [2, 0, 2]}), tmp_path / "x.parquet")
    found = reading.read(str(tmp_path / "x.parquet"))
    assert found.pixels[:, 0, 0].tolist() == [0, 9, 18]
    assert labels_of(found) == [2, 0, 2]
    parquet.write_table(pyarrow.table({"text": ["a"]}), tmp_path / "x.parquet")
    assert refused(tmp_path / "x.parquet").startswith(f"{tmp_path}/x.parquet: holds the columns text; expected one of")
    (tmp_path / "x.parquet").write_bytes(b"PAR1 nothing")
    assert refused(tmp_path / "x.parquet").startswith(f"{tmp_path}/x.parquet: not a .parquet file that can be read (")
