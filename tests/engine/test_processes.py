"""Every model trained by 1, 2 and 4 processes; texts drawn by several are those of one."""

import contextlib
import io
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import killed_rank
import pytest
import torch
import torch.distributed as torch_dist
from killed_rank import dies_at_step
from ranks import together
from resume import Killed, kill_at, outcome
from small_run import OF_MODEL, SMALL
from torch._C._distributed_c10d import TCPStore

from seqgen.__main__ import main
from seqgen.core import dist, log
from seqgen.core.errors import PeerLostError
from seqgen.engine import checkpoint, loop
from seqgen.engine.run import config

IMAGES = ("train.samples=0", "train.log_every=1", "train.batch=8", "data.count=120", "train.device=cpu")
MODELS: dict[str, tuple[str, ...]] = {
    "lm": ("data.mode=sentence",),
    "lm, stream": ("data.mode=stream", "data.window=8"),
    "gpt": (),
    "masked": (),
    "seq2seq": ("data.source=a", "data.target=b", "model.hidden=16", "model.embedding=16"),
    "hmm": (),
    "seqgan": (),
    "text-vae": ("data.mode=sentence", "model.latent=4"),
    "image-vae": ("model.widths=[4, 8]", "model.hidden=16", "model.latent=3"),
    "image-gan": ("model.generator_widths=[8,4]", "model.critic_widths=[4,8]", "model.latent=4"),
}
SAME = {"lm": 1e-5, "lm, stream": 1e-5, "gpt": 1e-5, "seq2seq": 1e-5, "hmm": 1e-5}
"""Models whose step draws nothing: each process sees rows of the same batch, so the sums are those of one process."""
NO_DROPOUT = tuple(
    f"model.{name}=0" for name in ("input_dropout", "hidden_dropout", "output_dropout", "weight_drop", "dropout")
)


def pairs(text: Path, folder: Path) -> Path:
    halves = [line.split(" ", 3) for line in text.read_text().splitlines()]
    file = folder / "pairs.tsv"
    file.write_text("".join(["a\tb\n", *(f"{' '.join(half[:3])}\t{half[3]}\n" for half in halves)]))
    return file


def settings(kind: str, text: Path, folder: Path) -> Any:
    model, words = kind.partition(",")[0], MODELS[kind]
    if model == "seq2seq":
        text = pairs(text, folder)
    small = IMAGES if model.startswith("image-") else OF_MODEL.get(model, SMALL)
    common = ["train.steps=6", "train.save_every=2", "train.eval_every=6", "train.threads=1", "train.log_every=1"]
    files = None if model.startswith("image-") else text
    known = vars(config(model, files).model)
    off = [word for word in NO_DROPOUT if word.removeprefix("model.").removesuffix("=0") in known]
    return config(model, files, overrides=[*small, *common, *words, *off])


def trained(chosen: Any, run: Path, processes: int, *, killed_at: int = 0) -> dict[str, bytes]:
    def work() -> None:
        if killed_at:
            with contextlib.suppress(Killed):
                loop.train(chosen, run, progress=kill_at(killed_at))
            os._exit(0)
        loop.train(chosen, run, progress=False)

    if killed_at:
        together(processes, work)
        return {}
    assert together(processes, work) == [0] * processes
    return outcome(run)


@pytest.mark.parametrize("kind", [k if k == "gpt" else pytest.param(k, marks=pytest.mark.slow) for k in MODELS])
def test_each_model_trains_by_one_two_and_four_processes(kind: str, text: Path, tmp_path: Path) -> None:
    """One rank killed as it logs a step ends them all; started again, they end with the bytes of those left alone."""
    chosen = settings(kind, text, tmp_path)
    losses = {}
    for processes in (1, 2, 4):
        whole = trained(chosen, tmp_path / f"{processes}", processes)
        rows = log.read(tmp_path / f"{processes}" / "log.jsonl")
        assert [row["step"] for row in rows] == list(range(1, 7))
        losses[processes] = torch.tensor([row["loss"] for row in rows if "loss" in row])
        if processes == 2:
            trained(chosen, tmp_path / "broken", processes, killed_at=5)
            assert checkpoint.steps(tmp_path / "broken")[-1] == 4
            assert trained(chosen, tmp_path / "broken", processes) == whole
    for processes in (2, 4):
        if kind in SAME:
            torch.testing.assert_close(losses[processes], losses[1], rtol=SAME[kind], atol=0)


@pytest.fixture
def run(text: Path, tmp_path: Path) -> Path:
    loop.train(config("lm", text, overrides=[*SMALL, "train.steps=2", "data.mode=sentence"]), tmp_path / "run")
    return tmp_path / "run"


def printed(processes: int, words: list[str], file: Path) -> str:
    """What the first process writes, and nobody else."""

    def work() -> None:
        written, said = io.StringIO(), io.StringIO()
        sys.stdout, sys.stderr = written, said
        assert main(words) == 0, said.getvalue()
        if os.environ["RANK"] != "0":
            written.write(said.getvalue())
        file.with_suffix(f".{os.environ['RANK']}").write_text(written.getvalue())

    assert together(processes, work) == [0] * processes
    assert all(file.with_suffix(f".{rank}").read_text() == "" for rank in range(1, processes))
    return file.with_suffix(".0").read_text()


@pytest.mark.parametrize(
    "options",
    [
        ("--count", "37", "--seed", "3"),
        ("--count", "3", "--json"),
        ("--count", "1",),
        ("--count", "9", "--unique", "--attempts", "50"),
        ("--count", "8", "--best-of", "3", "--prompt", "the"),
        ("--count", "3", "--prompts", "PROMPTS"),
        ("--count", "2", "--prompts", "PROMPTS", "--best-of", "2", "--json"),
    ],
    ids=str,
)  # fmt: skip
def test_texts_drawn_by_several_processes_are_those_of_one(options: tuple[str, ...], run: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("the\nthe cat\n\nthe dog sees\n")
    words = ["generate", str(run), *(word.replace("PROMPTS", str(tmp_path / "prompts.txt")) for word in options)]
    one = printed(1, words, tmp_path / "one.txt")
    assert one
    for processes in (2, 4):
        assert printed(processes, words, tmp_path / f"{processes}.txt") == one
    file = tmp_path / "out.jsonl"
    printed(2, [*words, "--out", str(file)], tmp_path / "to-file.txt")
    assert len(file.read_text().splitlines()) == int(options[1]) * (4 if "--prompts" in options else 1)


def test_scores_of_texts_drawn_by_two_processes_are_those_of_one(run: Path, text: Path, tmp_path: Path) -> None:
    words = ["evaluate", str(run), "--references", str(text), "--count", "40", "--json"]
    assert printed(2, words, tmp_path / "two.txt") == printed(1, words, tmp_path / "one.txt") != ""


# ---- a process is lost


def test_the_loss_of_a_process_is_one_line_with_the_last_save(text: Path, tmp_path: Path) -> None:
    run, said = tmp_path / "run", tmp_path / "said.txt"
    words = ["train", "lm", "--data", str(text), "--out", str(run), *SMALL, "train.steps=6", "train.save_every=2"]

    def work() -> None:
        if dist.rank() == 1:
            dies_at_step(5)
        sys.stderr = io.StringIO()
        said.write_text(f"{main(words)} {sys.stderr.getvalue()}")

    assert together(2, work) == [0, -signal.SIGKILL]
    code, _, lines = said.read_text().partition(" ")
    assert code == "4"
    assert re.fullmatch(
        r"error: process 0 of 2: another process has ended or cannot be reached \(.*Connection .* by peer.*\); "
        r"the checkpoint of step 4 is kept; the same command again, on all machines, goes on",
        lines.splitlines()[-1],
    )


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[/a/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:43431. This is"),
        RuntimeError("[/a/gloo/transport/tcp/pair.cc:534] Read error [127.0.0.1]:1: Connection reset by peer"),
        RuntimeError("Gloo connectFullMesh failed with [/a/pair.cc:152] timed out connecting: Connection refused"),
        RuntimeError("[/a/gloo/transport/tcp/unbound_buffer.cc:84] Timed out waiting 1800000ms for recv operation"),
        torch_dist.DistNetworkError("The client socket has failed to connect to any network address of (h, 1)."),
        torch_dist.DistStoreError("wait timeout after 600000ms, keys: /a"),
        torch_dist.DistBackendError(
            "NCCL error in: ../torch/csrc/NCCLUtils.cpp:1, remote process exited or a network error"
        ),
    ],
    ids=str,
)
def test_what_torch_raises_of_a_lost_process_is_no_fault_of_ours(error: RuntimeError) -> None:
    with pytest.raises(PeerLostError, match="another process has ended or cannot be reached") as raised, dist._peers():
        raise error
    assert re.search("/a/|\n", str(raised.value)) is None
    with pytest.raises(RuntimeError, match="size of tensor"), dist._peers():
        raise RuntimeError("The size of tensor a (3) must match the size of tensor b (2)")


def test_processes_join_by_a_store_in_which_dead_ones_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchrun keeps its store when it starts processes again."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")

    def work(dies: int) -> None:
        dist.start(torch.device("cpu"))
        assert dist.sum_(torch.ones(1)).item() == 2
        if dist.rank() == dies:
            os.kill(os.getpid(), signal.SIGKILL)

    for dies in (0, 1):
        ended = together(2, lambda dies=dies: work(dies), port=store.port)  # type: ignore[misc]
        assert ended[dies] == -signal.SIGKILL
    assert together(2, lambda: work(-1), port=store.port) == [0, 0]


@pytest.mark.slow
def test_torchrun_starts_a_killed_process_again_three_times_in_a_row(text: Path, tmp_path: Path) -> None:
    runner = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for name, kills in (("whole", 0), ("broken", 3)):
        words = [*runner, "--max-restarts", "3", killed_rank.__file__, str(tmp_path / name), str(text), str(kills)]
        ended = subprocess.run(words, capture_output=True, text=True, check=False, timeout=3600)
        assert ended.returncode == 0, ended.stderr[-2000:]
        assert ended.stderr.count("exitcode: -9") >= kills
    assert outcome(tmp_path / "broken") == outcome(tmp_path / "whole")


def test_texts_behind_conditions_drawn_by_several_processes_are_those_of_one(text: Path, tmp_path: Path) -> None:
    small = ["model.hidden=16", "model.embedding=16", *SMALL[2:], "train.steps=2", "data.source=a", "data.target=b"]
    loop.train(config("seq2seq", pairs(text, tmp_path), overrides=small), tmp_path / "run")
    sources = tmp_path / "sources.txt"
    sources.write_text("the cat sees\nthe dog likes\nthe man\n")
    words = ["generate", str(tmp_path / "run"), "--source", str(sources), "--count", "2", "--json"]
    one = printed(1, words, tmp_path / "one.txt")
    assert len(one.splitlines()) == 6
    for processes in (2, 4):  # with four, one has nothing to do
        assert printed(processes, words, tmp_path / f"{processes}.txt") == one
