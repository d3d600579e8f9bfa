"""One cache of feature nets for all tests here, and nets that are trained for a few steps only."""

from pathlib import Path

import pytest
import torch

from seqgen.images import features
from seqgen.images.data import DataConfig, ImageData, prepare


@pytest.fixture(scope="session")
def feature_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("features")


@pytest.fixture(autouse=True)
def quick_features(home: Path, feature_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(feature_cache))
    monkeypatch.setattr(features, "_LEAST_STEPS", 150)


@pytest.fixture(scope="session")
def digits() -> ImageData:
    return prepare(DataConfig(), batch=16, seed=1, device="cpu")


@pytest.fixture
def drawn() -> torch.Generator:
    return torch.Generator().manual_seed(1)
