"""The feature net: trained once, kept, the same every time, and what it says of itself."""

from pathlib import Path

import numpy as np
import pytest
import torch

from seqgen.core import log
from seqgen.images import features
from seqgen.images.data import DataConfig, ImageData, prepare


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "_LEAST_STEPS", 30)
    monkeypatch.setattr(features, "_EPOCHS", 0)


def test_the_classifier_learns_the_digits(digits: ImageData, tmp_path: Path) -> None:
    net = features.features_of(digits, folder=tmp_path)
    assert net.kind == "classes"
    assert net.accuracy > 0.75  # 150 steps; 0.1 is chance
    rows, probabilities = net.encode(digits.valid.pixels)
    assert rows.shape == (len(digits.valid.pixels), 64)
    assert rows.min() >= 0
    np.testing.assert_allclose(probabilities.sum(1), 1)
    right = (torch.from_numpy(probabilities.argmax(1)) == digits.valid.labels).double().mean()
    assert net.accuracy == pytest.approx(float(right))


def test_trained_again_or_read_from_the_cache_it_is_the_same(quick: None, digits: ImageData, tmp_path: Path) -> None:
    torch.manual_seed(1)
    first = features.features_of(digits, folder=tmp_path / "a")
    torch.manual_seed(2)
    with torch.inference_mode():
        again = features.features_of(digits, folder=tmp_path / "b")
    (cached,) = (tmp_path / "a").iterdir()
    stored = features.features_of(digits, folder=tmp_path / "a")
    assert first.hash == again.hash == stored.hash
    assert first.accuracy == stored.accuracy
    assert first.signature == f"classes-64/{first.hash[:8]}"
    other = features.features_of(digits, seed=1, folder=tmp_path / "a")
    assert other.hash != first.hash
    cached.write_bytes(b"damaged")
    assert features.features_of(digits, folder=tmp_path / "a").hash == first.hash


def test_training_it_leaves_torchs_generator_alone(quick: None, digits: ImageData, tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    features.features_of(digits, folder=tmp_path)
    assert torch.equal(before, torch.random.get_rng_state())


def test_without_labels_it_learns_quarter_turns(quick: None, tmp_path: Path) -> None:
    data = prepare(DataConfig(labels="none"), batch=8, seed=1, device="cpu")
    net = features.features_of(data, folder=tmp_path)
    assert net.kind == "rotations"
    assert net.encode(data.valid.pixels)[1].shape[1] == 4
    assert net.accuracy > 0.4  # 0.25 is chance
    # numpy's turn of each image
    images = torch.arange(4 * 9, dtype=torch.uint8).view(4, 1, 3, 3)
    turned = features.rotated(images, torch.tensor([0, 1, 2, 3]))
    for k in range(4):
        assert (turned[k, 0].numpy() == np.rot90(images[k, 0].numpy(), k)).all()


def test_the_cache_is_in_the_users_cache_folder(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert features.cache_folder() == Path("/elsewhere/seqgen/features")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert features.cache_folder() == home / ".cache/seqgen/features"


def test_whoever_watches_sees_how_far_the_training_is_and_may_end_it(digits: ImageData, tmp_path: Path) -> None:
    class EnoughError(BaseException):
        pass

    seen: list[tuple[str, int, int]] = []

    def watch(what: str, done: int, total: int) -> None:
        seen.append((what, done, total))
        if done == 2:
            raise EnoughError

    with pytest.raises(EnoughError), log.watched(watch):
        features.features_of(digits, folder=tmp_path)
    assert [done for _, done, _ in seen] == [0, 1, 2]
    assert seen[0][0] == "steps of the feature classifier"
    assert not list(tmp_path.iterdir())
