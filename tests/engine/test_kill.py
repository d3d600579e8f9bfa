"""A run killed by SIGKILL at any event on disk, and between the parts of a validation, ends with the same bytes."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import killed_run
import pytest
import resume
from small_run import SMALL

from seqgen.core import log
from seqgen.engine import checkpoint, loop
from seqgen.engine.run import config

VAE = ("text-vae", "data.mode=sentence", "model.latent=4", "model.hidden=16", "model.embedding=16")
SEQ2SEQ = ("seq2seq", "data.source=a", "data.target=b", "model.hidden=16", "model.embedding=16")
GAN = ("image-gan", "model.generator_widths=[8,4]", "model.critic_widths=[4,8]", "model.latent=4")


def kills(folder: Path, text: Path | str, first: int, every: int, *words: str) -> int:
    line = [sys.executable, killed_run.__file__, str(folder), str(text), str(first), str(every), *words]
    ended = subprocess.run(line, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
    return int(ended.stdout)


def test_sigkill_at_some_events_ends_with_the_same_bytes(text: Path, tmp_path: Path) -> None:
    assert kills(tmp_path, text, 17, 31, "lm") >= 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("lm",),
        ("lm", "data.mode=stream", "data.window=8"),
        VAE,
        ("seqgan",),
        ("masked",),
        ("gpt",),
        ("hmm",),
        SEQ2SEQ,
        GAN,
    ],
    ids=str,
)
def test_sigkill_at_every_event_ends_with_the_same_bytes(words: tuple[str, ...], text: Path, tmp_path: Path) -> None:
    if words == SEQ2SEQ:
        halves = [line.split(" ", 3) for line in text.read_text().splitlines()]
        text = tmp_path / "pairs.tsv"
        text.write_text("".join(["a\tb\n", *(f"{' '.join(half[:3])}\t{half[3]}\n" for half in halves)]))
    assert kills(tmp_path, "digits" if words == GAN else text, 1, 1, *words) >= 40


@pytest.mark.parametrize("step", [3, 6])
def test_a_signal_inside_a_validation_loses_nothing_and_ends_it(step: int, text: Path, tmp_path: Path) -> None:
    chosen = config("lm", text, overrides=[*SMALL, "train.steps=6", "train.eval_every=3", "train.save_every=0"])
    parts: list[str] = []

    def terminate(progress: loop.Progress) -> None:
        if progress.part and progress.step == step:
            parts.append(progress.part)
            if len(parts) == 1:
                signal.raise_signal(signal.SIGTERM)

    loop.train(chosen, tmp_path / "whole")
    outcome: Any = loop.train(chosen, tmp_path / "broken", progress=terminate)
    assert (outcome.step, outcome.reason) == (step, "terminated")
    assert parts == ["held-out batches"]
    assert checkpoint.steps(tmp_path / "broken")[-1] == step
    assert [row["step"] for row in log.read(tmp_path / "broken" / "scores.jsonl")] == list(range(3, step, 3))
    assert loop.train(None, tmp_path / "broken").reason == "finished"
    assert resume.outcome(tmp_path / "broken") == resume.outcome(tmp_path / "whole")
