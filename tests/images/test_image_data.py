"""Images on the device: split, classes, batches as functions of the step, and settings that contradict each other."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from seqgen.core.errors import ConfigError, DataError
from seqgen.images.data import DataConfig, ImageBatches, ImageData, Split, prepare

RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(0, 256, (200, 4, 4), dtype=np.uint8)
LABELS = np.arange(200) % 5


def made(given_: Any = (PIXELS, LABELS), *, batch: int = 10, seed: int = 1, **options: Any) -> ImageData:
    return prepare(DataConfig(**options), batch=batch, seed=seed, device="cpu", extra_input=given_)


def side(count: int) -> Split:
    pixels = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1)
    return Split(pixels, torch.arange(count))


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 60), st.integers(1, 4))
def test_an_epoch_shows_every_image_at_most_once_and_processes_share_a_batch(
    count: int, batch: int, step: int, world: int
) -> None:
    batch = min(batch, count)
    if world > batch:
        return
    batches = ImageBatches(side(count), batch, seed=3)
    parts = [batches.at(step, rank, world).rows for rank in range(world)]
    assert sorted(torch.cat(parts).tolist()) == sorted(batches.at(step).rows.tolist())
    epoch = step // batches.steps_per_epoch
    first = epoch * batches.steps_per_epoch
    seen = torch.cat([batches.at(first + i).rows for i in range(batches.steps_per_epoch)]).tolist()
    assert len(set(seen)) == len(seen) == count // batch * batch


def test_a_batch_is_a_function_of_seed_and_step() -> None:
    batches, again, other = (ImageBatches(side(50), 7, seed=s) for s in (1, 1, 2))
    later = [batches.at(step).rows.tolist() for step in (0, 30, 5, 30)]
    assert [again.at(step).rows.tolist() for step in (30, 5)] == later[1:3]
    assert later[1] == later[3]
    assert other.at(0).rows.tolist() != later[0]
    batch = batches.at(9)
    assert (batch.pixels.flatten() == batch.rows).all()
    assert (batch.labels == batch.rows).all()


def test_parts_of_a_batch_are_the_batch() -> None:
    data = made(labelled=10, batch=16)
    batch = data.batches.at(4)
    parts = list(batch.micro_batches(3))
    assert [len(part.pixels) for part in parts] == [6, 6, 4]
    assert torch.equal(torch.cat([part.rows for part in parts]), batch.rows)
    assert batch.labelled is not None
    few = [part.labelled for part in parts if part.labelled is not None]
    assert torch.equal(torch.cat([part.rows for part in few]), batch.labelled.rows)


def test_equal_images_fall_on_one_side() -> None:
    twice = np.concatenate([PIXELS, PIXELS])
    data = made(twice)
    train, valid = ({p.numpy().tobytes() for p in s.pixels} for s in (data.train, data.valid))
    assert not train & valid
    assert len(train) + len(valid) == 200
    assert 5 < len(valid) < 40
    backwards = made(twice[::-1])
    assert {p.numpy().tobytes() for p in backwards.valid.pixels} == valid


def test_small_classes_are_split_without_luck() -> None:
    random = np.random.default_rng(7)
    for seed in range(20):
        sizes = random.integers(1, 12, 25)
        labels = np.repeat(np.arange(25), sizes)
        data = made((random.integers(0, 256, (len(labels), 2, 2), dtype=np.uint8), labels), batch=1, seed=seed)
        held_out = torch.bincount(data.valid.labels, minlength=25).tolist()
        assert held_out == [max(1, round(0.1 * n)) if n > 1 else 0 for n in sizes.tolist()]
        assert len(data.train.labels) + len(data.valid.labels) == len(labels)


def test_large_classes_are_split_by_the_hash_alone() -> None:
    pixels = np.random.default_rng(8).integers(0, 256, (400, 2, 2), dtype=np.uint8)
    found = made((pixels, np.arange(400) % 2))
    hashes = [int.from_bytes(hashlib.blake2b(p.tobytes(), digest_size=7).digest(), "little") for p in pixels]
    assert [p.numpy().tobytes() for p in found.valid.pixels] == [
        p.tobytes() for p, hash_ in zip(pixels, hashes, strict=True) if hash_ < 0.1 * 2**56
    ]


def test_paths_are_kept_as_they_are_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "x.npz", images=PIXELS)
    np.save(tmp_path / "y.npy", LABELS)
    monkeypatch.chdir(tmp_path)
    data = prepare(DataConfig(files=("x.npz",), labels="y.npy"), batch=4, seed=1, device="cpu")
    assert (data.resolved[0].files, data.resolved[0].labels) == ((str(tmp_path / "x.npz"),), str(tmp_path / "y.npy"))
    assert len(data.classes) == 5


def test_a_batch_that_was_not_chosen_fits_the_images(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "seqgen")
    data = prepare(DataConfig(), batch=64, seed=1, device="cpu", extra_input=PIXELS[:30], fitting={"train.batch"})
    assert data.batch == data.batches.batch == len(data.train.pixels) == 27
    assert caplog.messages == ["there are 27 training images only: train.batch is made 27, not 64"]


def test_classes_are_numbered_in_order_and_counted() -> None:
    data = made((PIXELS, LABELS * 10))
    assert data.classes == ("0", "10", "20", "30", "40")
    assert data.facts["class_counts"] == tuple(torch.bincount(data.train.labels).tolist())
    assert sum(data.facts["class_counts"]) == len(data.train.pixels)
    assert data.facts["unlabelled"] == 0
    row = int(data.train.labels.eq(2).nonzero()[0])
    same = (torch.from_numpy(PIXELS) == data.train.pixels[row, 0]).all(2).all(1).nonzero().item()
    assert LABELS[int(same)] == 2
    assert made(PIXELS).classes == ()
    assert made(PIXELS).train.labels.eq(-1).all()


def test_facts_and_resolved_settings_say_what_the_images_are() -> None:
    data = prepare(DataConfig(), batch=8, seed=1, device="cpu")
    assert {k: data.facts[k] for k in ("channels", "size")} == {"channels": 1, "size": 8}
    assert data.resolved == (DataConfig(size=8), None)
    assert data.tokenizer is None
    colour = made(RANDOM.integers(0, 256, (40, 6, 6, 3), dtype=np.uint8), batch=4)
    assert colour.train.pixels.shape[1:] == (3, 6, 6)
    assert colour.facts["channels"] == 3


def test_validation_shows_every_held_out_image_once_in_order() -> None:
    data = made(batch=16)
    assert torch.cat([batch.rows for batch in data.validation()]).tolist() == list(range(len(data.valid.pixels)))


def test_the_fingerprint_is_of_images_and_labels() -> None:
    base = made().fingerprint
    assert made().fingerprint == base
    other = PIXELS.copy()
    other[0, 0, 0] ^= 1
    assert made((other, LABELS)).fingerprint != base
    swapped = LABELS.copy()
    swapped[:2] = swapped[1::-1]
    assert made((PIXELS, swapped)).fingerprint != base


def test_a_few_labels_are_kept_equally_for_each_class() -> None:
    data = made(labelled=12, batch=8)
    kept = data.train.labels[data.train.labels >= 0]
    assert torch.bincount(kept).tolist() == [3, 3, 2, 2, 2]
    assert data.facts["unlabelled"] == len(data.train.pixels) - 12
    assert data.valid.labels.ge(0).all()
    few = data.batches.at(3).labelled
    assert few is not None
    assert few.labels.ge(0).all()
    assert torch.equal(few.labels, data.train.labels[few.rows])
    assert torch.equal(data.batches.at(3, 1, 2).labelled.rows, few.rows[1::2])  # type: ignore[union-attr]


def test_count_draws_that_many_and_shapes_are_made_that_many() -> None:
    data = made(count=50, batch=4)
    assert len(data.train.pixels) + len(data.valid.pixels) == 50
    shapes = prepare(DataConfig(files=("shapes",), count=60, size=16), batch=4, seed=1, device="cpu")
    assert len(shapes.train.pixels) + len(shapes.valid.pixels) == 60
    assert shapes.train.factors is not None
    assert len(shapes.train.factors) == len(shapes.train.pixels)
    two = prepare(DataConfig(files=("shapes",), valid=("shapes",), count=60, size=16), batch=4, seed=1, device="cpu")
    assert not {p.numpy().tobytes() for p in two.train.pixels} & {p.numpy().tobytes() for p in two.valid.pixels}


def folder(path: Path, size: int, names: tuple[str, ...]) -> str:
    for i, name in enumerate(names):
        target = path / name / f"{i}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(RANDOM.integers(0, 256, (size, size), dtype=np.uint8)).save(target)
    return str(path)


def test_several_sources_are_joined_and_must_be_alike(tmp_path: Path) -> None:
    a = folder(tmp_path / "a", 4, ("cat",) * 12 + ("dog",) * 12)
    b = folder(tmp_path / "b", 4, ("ox",) * 12)
    data = prepare(DataConfig(files=(a, b)), batch=2, seed=1, device="cpu")
    assert data.classes == ("cat", "dog", "ox")
    assert len(data.train.pixels) + len(data.valid.pixels) == 36
    c = folder(tmp_path / "c", 6, ("ox",) * 3)
    with pytest.raises(DataError) as caught:
        prepare(DataConfig(files=(a, c)), batch=2, seed=1, device="cpu")
    assert str(caught.value) == (
        f"{c}: images are 6 x 6 grey, but those of {a} are 4 x 4 grey; set data.size=N and data.colour=grey or rgb"
    )
    with pytest.raises(DataError) as caught:
        prepare(DataConfig(files=(a,), valid=(b,)), batch=2, seed=1, device="cpu")
    assert str(caught.value) == (
        f"{b}: class ox is none of the training images' (cat, dog); remove its images, or set data.labels=none"
    )
    unlabelled = prepare(DataConfig(files=(a,), valid=(b,), labels="none"), batch=2, seed=1, device="cpu")
    assert len(unlabelled.valid.pixels) == 12


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"batch": 500},
            DataError,
            "train.batch = 500 is more than the {train} training images; use {train} or fewer",
        ),
        ({"count": 999}, DataError, "data.count = 999 is more than the 200 images of the array"),
        (
            {"labelled": 3},
            ConfigError,
            "data.labelled = 3 asks for 0 images of class number 3, which has {own}; use between 5 and {most}",
        ),
        ({"given_": PIXELS, "labelled": 10}, ConfigError, "data.labelled = 10 needs images with labels"),
        (
            {"given_": PIXELS[:1], "batch": 1},
            DataError,
            "the array: 1 images are too few to hold out 10%; give more, or data.valid",
        ),
    ],
)
def test_settings_that_do_not_fit_the_images(options: dict[str, Any], error: type[Exception], message: str) -> None:
    plain = made()
    own = plain.facts["class_counts"][3]
    with pytest.raises(error) as caught:
        made(**{"given_": (PIXELS, LABELS), **options})
    assert str(caught.value) == message.format(train=len(plain.train.pixels), own=own, most=5 * own)


def test_no_images_and_too_many_processes() -> None:
    with pytest.raises(DataError) as caught:
        prepare(DataConfig(files=()), batch=1, seed=1, device="cpu")
    assert str(caught.value) == "no images; give --data digits, shapes, a folder, an IDX file or an .npz file"
    batches = made(batch=2).batches
    with pytest.raises(DataError) as caught:
        batches.at(0, 0, 3)
    assert str(caught.value) == "train.batch = 2 is less than an image for each of 3 processes; use 3 or more"


def test_public_sets_are_read(public_set: Any) -> None:
    mnist = prepare(DataConfig(files=(str(public_set("images/mnist")),)), batch=8, seed=1, device="cpu")
    assert mnist.train.pixels.shape == (60_000, 1, 28, 28)
    assert mnist.valid.pixels.shape == (10_000, 1, 28, 28)
    assert mnist.facts["class_counts"][:3] == (5923, 6742, 5958)  # as the set's page counts them
    assert replace(mnist.resolved[0], files=()) == DataConfig(files=(), size=28)
