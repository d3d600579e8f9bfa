"""What every test runs under: one thread, no network, an empty home folder, and reasons where something is absent."""

import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch

# no test asserts a time, and a loaded machine takes more than the .2 s that hypothesis gives an example
hypothesis.settings.register_profile("any time", deadline=None)
hypothesis.settings.load_profile("any time")
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


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse every connection that leaves this machine: nothing but `corpus get` and `pip` may ask for one."""
    connect = socket.socket.connect

    def local(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise AssertionError(f"a test connects to {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", local)


def public_sets() -> str | None:
    """$SEQGEN_DATA, or a folder `data` with the public sets in the checkout or one or two levels beside it."""
    checkout = Path(__file__).resolve().parents[1]
    beside = [checkout / "data", checkout.parent / "data", *sorted(checkout.parent.glob("*/data"))]
    found = (str(folder) for folder in beside if (folder / "text" / "snli").is_dir())
    return os.environ.get("SEQGEN_DATA") or next(found, None)


@pytest.fixture
def public_set() -> Callable[[str], Path]:
    """Path of a file of the public sets, or a skip that says what is absent."""

    def find(name: str) -> Path:
        folder = public_sets()
        if not folder:
            pytest.skip(
                f"needs {name} of the public sets; SEQGEN_DATA is not set, and no folder data lies beside the checkout"
            )
        path = Path(folder) / name
        if not path.exists():
            pytest.skip(f"needs {name}, which {folder} does not have")
        return path

    return find


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """The system's Chromium, driven by Playwright, or a skip that says what is absent."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("needs a Chromium: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])  # tests may run as root
        yield opened
        opened.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is marked gpu where no CUDA device answers."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device; torch finds none"))
