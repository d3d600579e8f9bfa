"""What every test runs under: one thread, a home folder of its own, and reasons where something is absent."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # the same for the processes that tests start


@pytest.fixture(scope="session", autouse=True)
def plot_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """One cache for matplotlib: built anew for every test, its list of fonts would cost seconds each time."""
    os.environ["MPLCONFIGDIR"] = str(tmp_path_factory.mktemp("matplotlib"))


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home folder for each test, so that no test reads or leaves anything in the user's."""
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(folder))
    for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture
def public_set() -> Callable[[str], Path]:
    """Path of a file of the public sets in $SEQGEN_DATA, or a skip that says what is absent."""

    def find(name: str) -> Path:
        folder = os.environ.get("SEQGEN_DATA")
        if not folder:
            pytest.skip(f"needs {name} of the public sets; SEQGEN_DATA is not set")
        path = Path(folder) / name
        if not path.exists():
            pytest.skip(f"needs {name}, which SEQGEN_DATA = {folder} does not have")
        return path

    return find


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is marked gpu where no CUDA device answers."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device; torch finds none"))
