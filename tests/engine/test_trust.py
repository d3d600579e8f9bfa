"""A run folder from a stranger: what lies in it is read, checked and refused, and never executed."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from small_run import SMALL

from seqgen.core import log
from seqgen.core.errors import RunError
from seqgen.engine import checkpoint, loop
from seqgen.engine.generate import load
from seqgen.engine.report import write_report
from seqgen.engine.run import config

POLICY = (
    *SMALL,
    *("model.mle_steps=1", "model.critic_steps=1", "model.round_steps=1", "model.negatives=8", "model.critic_turn=1"),
    *("model.critic_widths=[1,2]", "model.critic_maps=[4,4]", "model.rollouts=1", "train.steps=3"),
)


def words(lines: list[str]) -> list[float]:
    return [float(len(line.split())) for line in lines]


def own_reward(path: Path, witness: Path) -> Path:
    path.write_text(
        f"open({str(witness)!r}, 'w').close()\n\ndef f(lines):\n    return [float(len(x)) for x in lines]\n"
    )
    return path


@pytest.fixture
def hostile(text: Path, tmp_path: Path) -> Path:
    """A run whose config.toml names a Python file that leaves `witness` when it is imported."""
    loop.train(config("seqgan", text, overrides=[*POLICY, "model.reward=regex:cat"]), tmp_path / "r")
    code = own_reward(tmp_path / "evil.py", tmp_path / "witness")
    settings = tmp_path / "r" / "config.toml"
    settings.write_text(settings.read_text().replace('"regex:cat"', json.dumps(f"{code}:f")))
    return tmp_path / "r"


def test_a_run_folder_that_names_a_python_file_is_not_followed(hostile: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError) as caught:
        loop.train(None, hostile, overrides=["train.steps=4"])
    assert str(caught.value) == (
        f"{hostile}: model.reward is code, and {tmp_path}/evil.py is imported only where the command names it; "
        f"if you trust that file: seqgen train --out {hostile} model.reward={tmp_path}/evil.py:f"
    )
    load(hostile).generate(1)
    write_report(hostile)
    assert not (tmp_path / "witness").exists()


def test_a_file_of_settings_that_names_a_python_file_is_not_followed(hostile: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"is imported only where the command names it; .*: add model\.reward=.*:f to"):
        loop.train(config(file=hostile / "config.toml"), tmp_path / "new")
    assert not (tmp_path / "witness").exists()


def test_a_python_file_named_in_the_call_is_imported_and_a_change_is_told(text: Path, tmp_path: Path) -> None:
    spec = f"{own_reward(tmp_path / 'mine.py', tmp_path / 'witness')}:f"
    loop.train(config("seqgan", text, overrides=POLICY), tmp_path / "r", reward=spec)
    assert (tmp_path / "witness").exists()
    (tmp_path / "mine.py").write_text((tmp_path / "mine.py").read_text() + "# changed\n")
    said: list[str] = []
    overrides = ["train.steps=4"]
    loop.train(None, tmp_path / "r", reward=spec, overrides=overrides, progress=lambda p: said.append(p.message))
    assert "warning: the file of model.reward has changed since this run began" in said


def test_a_function_passed_as_reward_is_asked_for_again(text: Path, tmp_path: Path) -> None:
    loop.train(config("seqgan", text, overrides=POLICY), tmp_path / "r", reward=words)
    more: dict[str, Any] = {"overrides": ["train.steps=4"]}
    with pytest.raises(RunError, match=r"model\.reward = call:words is a function; pass it again: seqgen\.train\("):
        loop.train(None, tmp_path / "r", **more)
    assert loop.train(None, tmp_path / "r", reward=words, **more).step == 4


# ---- one training in a folder


@pytest.mark.parametrize("begun", [False, True])
def test_a_second_training_in_the_same_folder_is_refused(begun: bool, text: Path, tmp_path: Path) -> None:
    chosen = config("lm", text, overrides=[*SMALL, "train.steps=4", "train.save_every=1"])
    refused: list[str] = []

    def start_another(progress: loop.Progress) -> None:
        if progress.step == 2 and not progress.message:
            with pytest.raises(RunError) as caught:
                loop.train(None if begun else chosen, tmp_path / "r")
            refused.append(str(caught.value))

    loop.train(chosen, tmp_path / "r", progress=start_another)
    assert len(refused) == 1
    assert refused[0].startswith(f"{tmp_path / 'r'} is in use by process ")
    assert [row["step"] for row in log.read(tmp_path / "r" / "log.jsonl")] == [2, 4]
    assert not (tmp_path / "r" / ".lock").exists()


# ---- names that are not ours


def test_other_names_in_a_run_folder_are_left_alone(text: Path, tmp_path: Path) -> None:
    run = tmp_path / "r"
    loop.train(config("lm", text, overrides=[*SMALL, "train.steps=2"]), run)
    shutil.copytree(checkpoint.folder_of(run, 2), run / "checkpoints" / "step-00000006-backup")
    shutil.copytree(checkpoint.folder_of(run, 2), run / "checkpoints" / "step-00000001 (copy)")
    shutil.copytree(checkpoint.folder_of(run, 2), run / "checkpoints" / "step-7")
    for name in ("notes.txt", "00000002.txt~", "00000002-x.html", ".DS_Store", "2.txt"):
        (run / "samples" / name).write_text("SECRET")
    assert checkpoint.steps(run) == [2]
    assert loop.train(None, run, overrides=["train.steps=3", "train.keep=1"]).step == 3
    assert len(load(run).generate(1)) == 1
    assert "SECRET" not in write_report(run).read_text()
    assert len(list((run / "checkpoints").iterdir())) == 4  # step 3 and three that are not ours
