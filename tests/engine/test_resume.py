"""A run that was killed and started again ends with the same bytes as one that was not."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from resume import interrupted, outcome, uninterrupted
from small_run import OF_MODEL, SMALL

from seqgen.core import log, rng
from seqgen.data.packing import build_corpus
from seqgen.engine import checkpoint
from seqgen.engine.run import config

KINDS: dict[str, tuple[str, ...]] = {
    "sentences": ("data.mode=sentence", "model.input_dropout=0.3", "model.weight_drop=0.3"),
    "stream": ("data.mode=stream", "data.window=8", "data.jitter=true", "model.output_dropout=0.3"),
    "windows": ("data.mode=window", "data.window=8", "model.cell=gru", "model.layers=2"),
    "text-vae": ("data.mode=sentence", "model.latent=4", "model.kl_target=2", "model.word_dropout=0.3"),
    "aggressive": (
        "data.mode=sentence",
        "model.latent=4",
        "model.kl_target=0",
        "model.aggressive=true",
        "model.aggressive_steps=3",
    ),
    "bn-vae": (
        "data.mode=sentence",
        "model.latent=4",
        "model.kl_target=0",
        "model.bn_gamma=0.6",
        "model.anneal=cyclical",
    ),
    "adversarial": (
        "data.mode=sentence",
        "model.latent=4",
        "model.kl_target=0",
        "model.match=adversarial",
        "train.accumulate=2",
    ),
    "masked": ("data.mode=sentence", "model.dropout=0.2", "train.accumulate=2"),
    "minlstm": ("data.mode=stream", "data.window=8", "model.cell=minlstm", "model.layers=2", "model.weight_drop=0"),
    "rmsprop": ("train.optimizer=rmsprop", "train.lr=1e-3", "data.mode=sentence"),
    "adagrad": ("train.optimizer=adagrad", "train.lr=1e-2", "data.mode=sentence"),
    "averaged": ("train.optimizer=sgd", "train.lr=1", "train.average_from=8", "data.mode=sentence"),
}


def settings(text: Path, *words: str) -> Any:
    model = "text-vae" if any(word.startswith("model.latent") for word in words) else "lm"
    model = "masked" if words == KINDS["masked"] else model
    small = OF_MODEL.get(model, SMALL)
    return config(model, text, overrides=[*small, "train.steps=24", "train.save_every=5", "train.eval_every=6", *words])


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("killed_at", [(3,), (7, 13, 23)])
def test_resume_after_kill_is_byte_identical(kind: str, killed_at: tuple[int, ...], text: Path, tmp_path: Path) -> None:
    chosen = settings(text, *KINDS[kind])
    whole = uninterrupted(chosen, tmp_path / "whole")
    assert interrupted(chosen, tmp_path / "broken", *killed_at) == whole


def test_without_seeding_by_step_the_files_differ(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: were randomness carried from step to step, the comparison above would notice."""
    chosen = settings(text, *KINDS["sentences"])
    enter = rng.enter_step
    monkeypatch.setattr(rng, "enter_step", lambda seed, step, rank=0: enter(seed, 0, rank) if step == 0 else None)
    a, b = uninterrupted(chosen, tmp_path / "whole"), interrupted(chosen, tmp_path / "broken", 7)
    assert {name for name in a if a[name] != b[name]} >= {
        "log.jsonl",
        "checkpoints/step-00000024/model.safetensors",
        "checkpoints/step-00000024/optimizer.safetensors",
    }


@pytest.mark.parametrize("mode", ["sentence", "stream", "window"])
def test_a_corpus_folder_trains_to_the_same_bytes_as_its_text(mode: str, text: Path, tmp_path: Path) -> None:
    words = [f"data.mode={mode}", "tokenizer.kind=word", *([] if mode == "sentence" else ["data.window=8"])]
    whole = settings(text, *words)
    build_corpus([str(text)], tmp_path / "ids", data=whole.data, tokenizer=whole.tokenizer)
    chosen = settings(tmp_path / "ids", *words)
    from_folder = interrupted(chosen, tmp_path / "from-folder", 7)
    from_text = uninterrupted(whole, tmp_path / "from-text")
    # the state has the hashes of settings and of where the text came from
    assert {k for k in from_text if from_text[k] != from_folder[k]} == {"checkpoints/step-00000024/state.json"}


def command(run: Path, text: Path, *words: str, model: str = "lm", processes: int = 1) -> list[str]:
    start, small = [sys.executable, "-m"], OF_MODEL.get(model, SMALL)
    if processes > 1:
        start += ["torch.distributed.run", "--nproc-per-node", str(processes), "--standalone", "-m"]
    return [*start, "seqgen", "train", model, "--data", str(text), "--out", str(run), *small, *words]


def wait_for_step(run: Path, step: int, process: "subprocess.Popen[bytes]") -> None:
    limit = time.monotonic() + 120
    while not any(row["step"] >= step for row in log.read(run / "log.jsonl")):
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < limit, "no progress"
        time.sleep(0.01)


def train_killed(line: list[str], run: Path, *steps: int) -> None:
    """The command, killed as soon as its log has each of these steps, then to its end."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for step in steps:
        process = subprocess.Popen(
            line, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        wait_for_step(run, step, process)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert checkpoint.steps(run)[-1] < 120, "the kill came too late"
    subprocess.run(line, check=True, env=environment, capture_output=True)


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "processes"), [("sentence", 1), ("sentence", 2), ("stream", 2), ("window", 2)])
def test_sigkill_at_observed_progress(mode: str, processes: int, text: Path, tmp_path: Path) -> None:
    words = ["train.steps=120", "train.save_every=10", "train.eval_every=40", "train.threads=1", f"data.mode={mode}"]
    words += [] if mode == "sentence" else ["data.window=8"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train_killed(command(whole, text, *words, processes=processes), whole)
    train_killed(command(broken, text, *words, processes=processes), broken, 24)
    assert outcome(broken) == outcome(whole)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_sigkill_in_each_phase_of_seqgan(processes: int, text: Path, tmp_path: Path) -> None:
    words = ["train.steps=120", "train.save_every=9", "train.eval_every=40", "train.threads=1", "model.mle_steps=30"]
    words += ["model.critic_steps=30", "model.round_steps=4", "model.critic.negatives=40", "model.critic_turn=5"]
    words += ["model.critic.widths=[1,2,3]", "model.critic.maps=[8,8,8]", "model.reward.rollouts=2"]
    words += ["model.reward.rollout_lag=0.5"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train_killed(command(whole, text, *words, model="seqgan", processes=processes), whole)
    # in the language model, in the critic before the turns, in the turns of policy and critic
    train_killed(command(broken, text, *words, model="seqgan", processes=processes), broken, 12, 44, 80)
    assert outcome(broken) == outcome(whole)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_sigkill_of_masked_diffusion(processes: int, text: Path, tmp_path: Path) -> None:
    words = ["train.steps=120", "train.save_every=10", "train.eval_every=40", "train.threads=1", *KINDS["masked"]]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train_killed(command(whole, text, *words, model="masked", processes=processes), whole)
    train_killed(command(broken, text, *words, model="masked", processes=processes), broken, 24, 70)
    assert outcome(broken) == outcome(whole)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("kind", ["text-vae", "aggressive", "bn-vae", "adversarial"])
def test_sigkill_of_a_text_vae(kind: str, processes: int, text: Path, tmp_path: Path) -> None:
    words = ["train.steps=120", "train.save_every=10", "train.eval_every=40", "train.threads=1", *KINDS[kind]]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train_killed(command(whole, text, *words, model="text-vae", processes=processes), whole)
    train_killed(command(broken, text, *words, model="text-vae", processes=processes), broken, 24, 70)
    assert outcome(broken) == outcome(whole)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("words", [("gpt",), ("gpt", "data.mode=window", "data.window=8"), ("hmm",)], ids=str)
def test_sigkill_of_the_other_text_models(words: tuple[str, ...], processes: int, text: Path, tmp_path: Path) -> None:
    model, *more = words
    common = ["train.steps=120", "train.save_every=10", "train.eval_every=40", "train.threads=1", *more]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train_killed(command(whole, text, *common, model=model, processes=processes), whole)
    train_killed(command(broken, text, *common, model=model, processes=processes), broken, 24, 70)
    assert outcome(broken) == outcome(whole)
