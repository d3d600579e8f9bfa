"""The tests marked gpu on a simulated CUDA device, where there is none: see simulated.py."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import simulated_build
import torch

HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="session")
def device() -> None:
    """The library of the simulated device, compiled by now."""
    if torch.cuda.is_available():
        pytest.skip("a CUDA device is here: the tests marked gpu run on it")
    if reason := simulated_build.missing():
        pytest.skip(reason)
    simulated_build.built()


PARTS = [
    ("test_as_cuda.py", ""),
    ("test_training_on_cuda.py", "seqgan"),
    ("test_training_on_cuda.py", "image or text"),
    ("test_training_on_cuda.py", "not (seqgan or image or text)"),
    ("test_paths_on_cuda.py", ""),
]


@pytest.mark.parametrize(("name", "some"), PARTS, ids=[" ".join(filter(None, part)) for part in PARTS])
def test_what_a_gpu_must_do_is_done_on_the_simulated_one(device, name, some):
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "simulated",
        "-p",
        "no:cacheprovider",
        str(HERE / name),
        "-k",
        some,
    ]
    # a process of its own: the device has to be there before torch
    environment = {**os.environ, "PYTHONPATH": str(HERE)}
    ended = subprocess.run(command, env=environment, cwd=HERE.parents[1], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout[-8000:] + ended.stderr[-2000:]
    assert "skipped" not in ended.stdout


@pytest.mark.slow
def test_the_script_for_a_card_runs_on_the_simulated_one(device, tmp_path):
    out = tmp_path / "gpu.json"
    command = [sys.executable, str(HERE.parents[1] / "scripts" / "gpu"), "--simulated", "--no-tests", "--out", str(out)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout[-4000:] + ended.stderr[-4000:]
    found = json.loads(out.read_text())
    assert found["card"] == "simulated"
    assert set(found["repeats"].values()) == {True}
    assert sum(found["waits"]["train step"].values()) == 2  # the wait of `update`, and its counts on their way there
    assert all(row["ours_ms"] > 0 and row["plain_ms"] > 0 for row in found["times"])
