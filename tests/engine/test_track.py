"""Tracked trainings: the events are those of the logs, once each, and change nothing of the run."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from small_run import SMALL

from seqgen.core.errors import MissingExtraError
from seqgen.engine import loop, track
from seqgen.engine.run import config

EXAMPLE = re.search(
    r"```python\n(.*?)```", (Path(__file__).resolve().parents[2] / "docs/tracking.md").read_text(encoding="utf-8"), re.S
)
STEPS = [*SMALL, "train.eval_every=3", "train.save_every=2", "train.log_every=1", "train.show=2"]


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def events(run: Path) -> dict[str, list[tuple[int, Any]]]:
    """Return what TensorBoard's own reader finds, by name: (step, value)."""
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="needs tensorboard, the extra track"
    )
    every = {"scalars": 0, "tensors": 0, "images": 0}
    reader = accumulator.EventAccumulator(str(run / "tensorboard"), size_guidance=every)
    reader.Reload()
    tags = reader.Tags()
    found: dict[str, list[tuple[int, Any]]] = {
        tag: [(event.step, event.value) for event in reader.Scalars(tag)] for tag in tags["scalars"]
    }
    for tag in tags["tensors"]:
        found[tag] = [(event.step, event.tensor_proto.string_val[0].decode()) for event in reader.Tensors(tag)]
    for tag in tags["images"]:
        found[tag] = [(event.step, (event.height, event.width)) for event in reader.Images(tag)]
    return found


def expected(run: Path) -> dict[str, list[tuple[int, Any]]]:
    """Return the numbers of the logs in that form."""
    found: dict[str, list[tuple[int, Any]]] = {}
    for room, name in (("train", "log.jsonl"), ("validation", "scores.jsonl")):
        for row in rows(run / name):
            for key, value in row.items():
                if key != "step" and isinstance(value, int | float):
                    found.setdefault(f"{room}/{key}", []).append((row["step"], pytest.approx(value, rel=1e-6)))
    return found


def test_events_are_those_of_the_logs_once_each_and_the_run_is_the_same(text: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra track")
    chosen = config("lm", text, overrides=[*STEPS, "train.steps=5", "train.track=tensorboard"])

    def broken(progress: Any) -> None:
        if progress.step == 5:  # behind the last checkpoint, that of step 4
            raise RuntimeError("a crash")

    with pytest.raises(RuntimeError, match="a crash"):
        loop.train(chosen, tmp_path / "a", progress=broken)
    loop.train(chosen, tmp_path / "a", progress=False)
    loop.train(config("lm", text, overrides=[*STEPS, "train.steps=5"]), tmp_path / "b", progress=False)
    for name in ("log.jsonl", "scores.jsonl", "checkpoints/step-00000005/model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    found = events(tmp_path / "a")
    samples = found.pop("samples/text_summary")
    assert found == expected(tmp_path / "a")
    texts = (tmp_path / "a" / "samples" / "00000005.txt").read_text().splitlines()
    assert [step for step, _ in samples] == [3, 5]
    assert samples[1][1] == "\n".join(f"    {text}" for text in texts)

    # a run that was not tracked from the beginning has all of it too
    outcome = loop.train(None, tmp_path / "b", overrides=["train.track=tensorboard"], progress=False)
    assert outcome.step == 5
    assert events(tmp_path / "b").keys() == {*found, "samples/text_summary"}


def test_grids_of_images_are_tracked(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra track")
    import numpy as np

    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8), dtype=np.uint8)
    small = [
        "model.net=mlp",
        "model.hidden=8",
        "model.latent=2",
        "train.batch=8",
        "train.steps=1",
        "train.samples=8",
        "train.show=4",
    ]
    chosen = config("image-vae", overrides=[*small, "train.track=tensorboard"])
    loop.train(chosen, tmp_path / "run", images=images, progress=False)
    found = events(tmp_path / "run")
    for path in (tmp_path / "run" / "samples").glob("*.png"):
        assert [step for step, _ in found[path.stem[8:].strip("-") or "samples"]] == [1]


def test_without_the_package_nothing_begins(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(track, "find_spec", lambda name: None)
    chosen = config("lm", text, overrides=[*STEPS, "train.steps=5", "train.track=tensorboard"])
    with pytest.raises(MissingExtraError, match=r"tensorboard; run: pip install 'neural-seqgen\[track\]'$") as raised:
        loop.train(chosen, tmp_path / "run", progress=False)
    assert raised.value.exit_code == 3
    assert not (tmp_path / "run").exists()


def test_the_ten_lines_for_another_tracker_print_every_number(trained: Path) -> None:
    assert EXAMPLE is not None
    command = [sys.executable, "-I", "-W", "error", "-c", EXAMPLE[1], str(trained)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    printed = done.stdout.splitlines()
    logged, scored = rows(trained / "log.jsonl"), rows(trained / "scores.jsonl")
    assert len(printed) == len(logged) + len(scored)
    assert f"'train/loss': {logged[0]['loss']}" in printed[0]
    assert f"'validation/nll_per_token': {scored[-1]['nll_per_token']}" in printed[-1]
