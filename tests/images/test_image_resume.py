"""Image runs that were killed and started again end with the same bytes as those that were not."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from resume import interrupted, outcome, uninterrupted

from seqgen.core import rng
from seqgen.core.errors import RunError
from seqgen.engine import checkpoint, loop
from seqgen.engine.run import config
from seqgen.images.grids import save_arrays

SMALL = (
    *("train.batch=8", "train.steps=18", "train.save_every=4", "train.eval_every=6", "train.log_every=1"),
    *("train.samples=0", "data.count=120", "train.device=cpu"),
)
KINDS: dict[str, tuple[str, ...]] = {
    "vae": ("image-vae", "model.widths=[4, 8]", "model.hidden=16", "model.latent=3"),
    "binary": ("image-vae", "model.net=mlp", "model.hidden=16", "model.likelihood=bernoulli", "model.samples=3"),
    "adversarial": ("image-vae", "model.widths=[4, 8]", "model.hidden=16", "model.match=adversarial"),
    "vae-gan": ("image-vae", "model.widths=[4, 8]", "model.hidden=16", "model.adversarial_weight=5"),
    "dcgan": ("image-gan", "model.generator_widths=[8, 4]", "model.critic_widths=[4, 8]"),
    "hinge": ("image-gan", "model.generator_widths=[8, 4]", "model.critic_widths=[4, 8]", "model.loss=hinge"),
    "rpgan": ("image-gan", "model.net=mlp", "model.hidden=16", "model.loss=rpgan", "train.accumulate=2"),
    "semi": (
        "image-gan",
        "model.net=mlp",
        "model.hidden=16",
        "model.critic_norm=none",
        "model.labels=semi",
        "data.labelled=20",
    ),
}


def settings(kind: str, *words: str) -> Any:
    name, *options = KINDS[kind]
    return config(name, overrides=[*SMALL, *options, *words])


@pytest.mark.parametrize("kind", list(KINDS))
def test_resume_after_kill_is_byte_identical(kind: str, tmp_path: Path) -> None:
    chosen = settings(kind)
    whole = uninterrupted(chosen, tmp_path / "whole")
    assert interrupted(chosen, tmp_path / "broken", 3, 9, 17) == whole


def test_without_seeding_by_step_the_files_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: were randomness carried from step to step, the comparison above would notice."""
    chosen = settings("dcgan")
    enter = rng.enter_step
    monkeypatch.setattr(rng, "enter_step", lambda seed, step, rank=0: enter(seed, 0, rank) if step == 0 else None)
    whole, other = uninterrupted(chosen, tmp_path / "whole"), interrupted(chosen, tmp_path / "broken", 9)
    assert {"log.jsonl", "checkpoints/step-00000018/model.safetensors"} <= {n for n in whole if whole[n] != other[n]}


def test_samples_scores_and_the_report_are_resumed_alike(tmp_path: Path) -> None:
    chosen = settings("dcgan", "train.samples=140", "train.show=9", "data.count=0")
    again = interrupted(chosen, tmp_path / "broken", 7)
    assert again == uninterrupted(chosen, tmp_path / "whole")
    assert {name for name in again if name.startswith("samples/00000012")} == {
        "samples/00000012.png",
        "samples/00000012-between.png",
        "samples/00000012-neighbours.png",
    }
    assert b'"ffd"' in again["scores.jsonl"]
    report = (tmp_path / "broken" / "report.html").read_text()
    assert report.count('src="data:image/png;base64,') == 3 * 3  # three at each of three validations
    best = checkpoint.read_state(tmp_path / "broken", 18)["best_step"]
    assert best in (6, 12, 18)


def test_other_images_are_refused(tmp_path: Path) -> None:
    pixels = torch.randint(0, 256, (60, 1, 8, 8), dtype=torch.uint8)
    source = str(save_arrays(pixels, tmp_path / "some.npz"))
    chosen = settings("vae", f"data.files={source}", "data.count=0")
    loop.train(chosen, tmp_path / "run")
    save_arrays(pixels + 1, source)
    with pytest.raises(
        RunError, match=r"was trained on other images \(SHA-256 \w{12}\.\.\., now \w{12}\.\.\.\); restore"
    ):
        loop.train(chosen, tmp_path / "run")


def test_mixed_precision_trains(tmp_path: Path) -> None:
    chosen = settings("rpgan", "train.precision=bf16", "train.steps=4")
    assert loop.train(chosen, tmp_path / "run").reason == "finished"
    tensors = checkpoint.read_tensors(tmp_path / "run", 4, "model.safetensors")
    assert all(t.dtype == torch.float32 for name, t in tensors.items() if t.is_floating_point())


@pytest.mark.slow
def test_two_processes_share_the_statistics_of_batch_norm_and_resume_byte_identically(tmp_path: Path) -> None:
    """Without the sharing each process would keep its own running statistics, and a resumed one take the first's."""

    def train(run: Path, *words: str) -> None:
        start = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
        small = (*SMALL, *KINDS["dcgan"][1:], "train.threads=1", *words)
        command = [*start, "-m", "seqgen", "train", "image-gan", "--data", "digits", "--out", str(run), *small]
        subprocess.run(
            command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, timeout=300
        )

    train(tmp_path / "whole")
    train(tmp_path / "broken", "train.steps=7")
    train(tmp_path / "broken")
    # the broken run validated once more, at its first end
    whole, broken = outcome(tmp_path / "whole"), outcome(tmp_path / "broken")
    names = {name for name in whole if name.endswith(".safetensors")} | {"log.jsonl"}
    assert {name for name in names if whole[name] != broken[name]} == set()
