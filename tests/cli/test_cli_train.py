"""`seqgen train`: starting, continuing, what is said meanwhile and at the end, signals."""

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command_line import SEQGAN, SMALL

from seqgen.core import log
from seqgen.engine import progress as display


def best(run: Path) -> tuple[float, int]:
    rows = log.read(run / "scores.jsonl")
    row = min(rows, key=lambda r: r["nll_per_token"])
    return row["nll_per_token"], row["step"]


def test_the_last_sentence_has_the_best_score_and_the_next_command(seqgen: Any, text: Path, tmp_path: Path) -> None:
    ended = seqgen("train", "lm", "--data", text, "--out", tmp_path / "r", *SMALL)
    nll, step = best(tmp_path / "r")
    last = ended.err.splitlines()[-1]
    assert (ended.code, ended.out) == (0, "")
    assert last.startswith(f"finished at step 6; best held-out {nll:.4g} nats per token (")
    assert last.endswith(f"at step {step}; next: seqgen generate {tmp_path / 'r'} --count 5")


def test_a_run_with_conditions_is_told_how_to_ask_it(seqgen: Any, labelled: Path, tmp_path: Path) -> None:
    shutil.copytree(labelled, tmp_path / "r")
    ended = seqgen("train", "--out", tmp_path / "r", "train.steps=7")
    assert ended.err.endswith(f"; next: seqgen generate {tmp_path / 'r'} --source FILE\n")


def test_off_a_terminal_there_is_one_line_for_each_validation(seqgen: Any, text: Path, tmp_path: Path) -> None:
    ended = seqgen("train", "lm", "--data", text, "--out", tmp_path / "r", *SMALL)
    lines = ended.err.splitlines()
    assert [line.split("  ")[0] for line in lines[:-1]] == ["step 3/6", "step 6/6"]
    rows = log.read(tmp_path / "r" / "scores.jsonl")
    for line, row in zip(lines, rows, strict=False):
        assert (
            f"held-out {row['nll_per_token']:.4g} nats per token ({row['nll_per_character']:.4g} per character)" in line
        )
    assert re.search(r"[0-9.e+]+ steps/s  \d+:\d\d left$", lines[0])


def test_out_alone_continues_and_steps_may_grow(seqgen: Any, run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "r")
    ended = seqgen("train", "--out", tmp_path / "r")
    assert ended.code == 0
    assert ended.err.splitlines()[0] == f"continuing {tmp_path / 'r'} from step 6"
    assert ended.err.splitlines()[1].startswith(f"nothing to do: {tmp_path / 'r'} is trained to step 6; best held-out")
    assert ended.err.endswith(f"; to train longer: seqgen train --out {tmp_path / 'r'} train.steps=12\n")
    ended = seqgen("train", "--out", tmp_path / "r", "train.steps=8")
    assert "train.steps is now 8, was 6\n" in ended.err
    assert "finished at step 8" in ended.err


def test_data_may_be_repeated_and_come_from_standard_input(seqgen: Any, text: Path, tmp_path: Path, stdin: Any) -> None:
    lines = text.read_text().splitlines()
    (tmp_path / "a.txt").write_text("\n".join(lines[:70]) + "\n")
    (tmp_path / "b.txt").write_text("\n".join(lines[70:]) + "\n")
    parts = ["--data", tmp_path / "a.txt", "--data", tmp_path / "b.txt"]
    assert seqgen("train", "lm", *parts, "--out", tmp_path / "parts", *SMALL).code == 0
    stdin(text.read_text())
    assert seqgen("train", "lm", "--data", "-", "--out", tmp_path / "stdin", *SMALL).code == 0
    assert seqgen("train", "lm", "--data", text, "--out", tmp_path / "whole", *SMALL).code == 0
    logs = {name: (tmp_path / name / "log.jsonl").read_text() for name in ("parts", "stdin", "whole")}
    assert logs["parts"] == logs["stdin"] == logs["whole"]


def test_a_moved_text_is_told_and_can_be_given(
    seqgen: Any, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(text, "old.txt")
    assert seqgen("train", "lm", "--data", "old.txt", "--out", "r", *SMALL).code == 0
    Path("old.txt").rename("new.txt")
    ended = seqgen("train", "--out", "r", "train.steps=7")
    old, new = Path("old.txt").absolute(), Path("new.txt").absolute()
    assert ended.err == f"error: {old}: no such file; if the text has moved, give it with --data FILE\n"
    assert ended.code == 2
    ended = seqgen("train", "--out", "r", "--data", "new.txt", "train.steps=7")
    assert ended.code == 0
    assert f'data.files is now ["{new}"], was ["{old}"]\n' in ended.err
    Path("new.txt").write_text("the end .\n" + Path("new.txt").read_text())
    ended = seqgen("train", "--out", "r", "train.steps=8")
    assert ended.code == 2
    assert "was trained on other text" in ended.err


def test_from_starts_with_another_run(seqgen: Any, run: Path, text: Path, tmp_path: Path) -> None:
    ended = seqgen("train", "lm", "--data", text, "--from", run, "--out", tmp_path / "r", *SMALL)
    assert ended.code == 0
    tokenizers = [(folder / "tokenizer" / "tokenizer.json").read_bytes() for folder in (run, tmp_path / "r")]
    assert tokenizers[0] == tokenizers[1]
    again = seqgen("train", "lm", "--data", text, "--from", run, "--out", tmp_path / "r", *SMALL)
    assert (again.code, "--from" in again.err) == (0, False)
    shutil.copytree(run, tmp_path / "other")
    for begun, given, began in (
        (tmp_path / "r", tmp_path / "other", f"from {run}"),
        (tmp_path / "other", run, "without another run's weights"),
    ):
        ended = seqgen("train", "--from", given, "--out", begun, "train.steps=7")
        said = f"warning: {begun} has begun {began} and goes on; --from {given} takes no effect\n"
        assert (ended.code, said in ended.err) == (0, True), ended.err


def test_from_without_data_takes_that_of_the_other_run(seqgen: Any, text: Path, tmp_path: Path) -> None:
    rows = "".join(f"{json.dumps({'said': line})}\n" for line in text.read_text().splitlines())
    (tmp_path / "rows.jsonl").write_text(rows)
    options = ["--data", tmp_path / "rows.jsonl", "data.field=said", "data.valid_share=0.3"]
    assert seqgen("train", "lm", *options, "--out", tmp_path / "lm", *SMALL).code == 0
    for name, more in (("given", options), ("taken", [])):
        words = ["train", "seqgan", "--from", tmp_path / "lm", "--out", tmp_path / name, *more, "train.steps=2"]
        assert seqgen(*words, "train.samples=0", "model.critic_steps=1").code == 0
    given, taken = (tmp_path / name / "config.toml" for name in ("given", "taken"))
    assert taken.read_text() == given.read_text()
    assert "said" in taken.read_text()
    # a preset's own data stays
    words = [
        "train",
        "seqgan",
        "--preset",
        "seqgan-paper-short",
        "--from",
        tmp_path / "lm",
        "--out",
        tmp_path / "paper",
    ]
    ended = seqgen(*words, "train.steps=2")
    assert (ended.code, "does not know 100% of the text, for example '2359'" in ended.err) == (2, True), ended.err
    # one option alone is the new run's own
    words = ["train", "seqgan", "--from", tmp_path / "lm", "--out", tmp_path / "own", "data.field=text"]
    ended = seqgen(*words, "train.steps=2")
    assert (ended.code, "no field 'text'" in ended.err) == (2, True), ended.err


def test_tokenizer_of_another_run_makes_runs_that_can_be_mixed(seqgen: Any, text: Path, tmp_path: Path) -> None:
    lines = text.read_text().splitlines()
    (tmp_path / "half.txt").write_text("".join(f"{line}\n" for line in lines[: len(lines) // 2]))
    words = ["train", "lm", "--data", tmp_path / "half.txt", *SMALL]
    for name, more in (
        ("first", ["tokenizer.kind=char"]),
        ("own", []),
        ("second", ["--tokenizer", tmp_path / "first"]),
    ):
        assert seqgen(*words, "--out", tmp_path / name, *more).code == 0
    one, other = ((tmp_path / name / "tokenizer" / "tokenizer.json").read_bytes() for name in ("first", "second"))
    assert one == other
    assert 'kind = "char"' in (tmp_path / "second" / "config.toml").read_text()
    held_out = tmp_path / "held-out.txt"
    others = lines[len(lines) // 2 :]
    held_out.write_text("".join(f"{one} {other}\n" for one in others for other in others[:10]))
    mixing = ["--held-out", held_out, "--out", tmp_path / "mixed"]
    refused = seqgen("mix", tmp_path / "first", tmp_path / "own", *mixing)
    assert f"train one with the other's: seqgen train ... --tokenizer {tmp_path / 'first'}" in refused.err
    ended = seqgen("mix", tmp_path / "first", tmp_path / "second", *mixing)
    assert (ended.code, "another tokenizer" in ended.err) == (0, False), ended.err
    # the same command goes on; another tokenizer is told of
    again = [*words, "--out", tmp_path / "second", "train.steps=8"]
    assert "takes no effect" not in seqgen(*again, "--tokenizer", tmp_path / "first").err
    assert "has a tokenizer of its own and goes on" in seqgen(*again, "--tokenizer", tmp_path / "own" / "tokenizer").err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            ["--from", "run"],
            "a run begins with the tokenizer of {run}, whose weights it takes, or with that of {run}: give one",
        ),
        (["tokenizer.kind=char"], "the tokenizer of {run} is made already; leave out tokenizer.kind"),
        (["--sweep", "ranges.toml"], "--tokenizer is not for a sweep: each trial makes its own"),
    ],
)
def test_what_a_given_tokenizer_does_not_go_with(
    seqgen: Any, run: Path, text: Path, tmp_path: Path, more: list[str], said: str
) -> None:
    words = [str(run) if word == "run" else word for word in more]
    ended = seqgen("train", "lm", "--data", text, "--out", tmp_path / "new", "--tokenizer", run, *words)
    assert (ended.code, ended.err.splitlines()[-1]) == (2, f"error: {said.format(run=run)}")
    assert not (tmp_path / "new").exists()


def test_stored_settings_and_a_held_out_file_are_an_input(
    seqgen: Any, run: Path, held_out: Path, tmp_path: Path
) -> None:
    words = ["train", "--config", run / "config.toml", "--valid", held_out, "--out", tmp_path / "r", "train.steps=2"]
    ended = seqgen(*words)
    assert ended.code == 0, ended.err
    stored = (tmp_path / "r" / "config.toml").read_text()
    assert "hidden = 12" in stored
    assert "steps = 2" in stored


def test_held_out_text_that_is_trained_on_is_counted_named_and_refused(
    seqgen: Any, text: Path, held_out: Path, tmp_path: Path
) -> None:
    known = text.read_text().splitlines()[:3]
    (tmp_path / "mixed.txt").write_text("".join(f"{line}\n" for line in [*known, *held_out.read_text().splitlines()]))
    refused = "error: {}: all 144 held-out rows also stand in the training text; give text that is not trained on"
    counted = "warning: {}: 3 of 39 held-out rows also stand in the training text"
    for valid, code, says in ((text, 2, refused), (tmp_path / "mixed.txt", 0, counted)):
        for words, out in (
            (["train", "lm", "--data", text, "--valid", valid, *SMALL], tmp_path / f"run-{code}"),
            (["corpus", "build", text, f"data.valid={valid}"], tmp_path / "corpus"),
        ):
            ended = seqgen(*words, "--out", out)
            assert (ended.code, out.exists()) == (code, code == 0), ended.err
            assert any(line.startswith(says.format(valid)) for line in ended.err.splitlines()), ended.err
    ended = seqgen("train", "lm", "--data", tmp_path / "corpus", "--out", tmp_path / "run-corpus", *SMALL)
    assert ended.code == 0, ended.err
    for name in ("run-0", "run-corpus"):
        assert "|leak:3|" in json.loads((tmp_path / name / "scores.jsonl").read_text().splitlines()[-1])["signature"]


def test_what_takes_no_effect_is_a_warning(seqgen: Any, text: Path, tmp_path: Path) -> None:
    ended = seqgen(
        "train", "lm", "--data", text, "--out", tmp_path / "r", *SMALL, "data.window=9", "data.mode=sentence"
    )
    assert ended.err.splitlines()[0] == "warning: data.window takes no effect with data.mode = sentence"


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_signal_saves_and_says_how_to_continue(
    number: signal.Signals, code: int, word: str, seqgen: Any, text: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    show = display.Lines.show

    def interrupt(lines: Any, progress: Any) -> None:
        show(lines, progress)
        if progress.step == 4:
            signal.raise_signal(number)

    with monkeypatch.context() as patch:
        patch.setattr(display.Lines, "show", interrupt)
        ended = seqgen("train", "lm", "--data", text, "--out", tmp_path / "r", *SMALL)
    sentence = f"{word} at step 5, saved; continue with: seqgen train --out {tmp_path / 'r'}"
    assert (ended.code, ended.err.splitlines()[-1]) == (code, sentence)
    assert "finished at step 6" in seqgen("train", "--out", tmp_path / "r").err


def test_a_second_control_c_leaves_at_once(seqgen: Any, text: Path, tmp_path: Path, monkeypatch: Any) -> None:
    def impatient(lines: Any, progress: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(display.Lines, "show", impatient)
    ended = seqgen("train", "lm", "--data", text, "--out", tmp_path / "r", *SMALL)
    again = f"seqgen train --out {tmp_path / 'r'} continues from the last checkpoint, if there is one"
    assert (ended.code, ended.err.splitlines()[-1]) == (130, f"stopped at once; {again}")


def test_only_the_first_of_several_processes_speaks(
    seqgen: Any, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    ended = seqgen("train", "lm", "--data", tmp_path / "missing", "--out", tmp_path / "r")
    assert (ended.code, ended.out, ended.err) == (2, "", "")


def test_a_python_file_is_imported_only_where_the_command_names_it(seqgen: Any, text: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def f(lines):\n    return [float(len(line)) for line in lines]\n")
    small = [
        "model.mle_steps=1",
        "model.critic_steps=1",
        "model.critic.negatives=8",
        "model.reward.rollouts=1",
        "train.steps=2",
    ]
    named, out = f"model.reward.kind={tmp_path}/mine.py:f", tmp_path / "r"
    sizes = [*SEQGAN, *small, "model.critic.widths=[1,2]", "model.critic.maps=[4,4]", named]
    assert seqgen("train", "seqgan", "--data", text, "--out", out, *sizes).code == 0
    ended = seqgen("train", "--out", out, "train.steps=3")
    assert ended.code == 2
    assert ended.err.splitlines() == [
        f"error: {out}: model.reward.kind is code, and {tmp_path}/mine.py is imported only where the command names it; "
        f"if you trust that file: seqgen train --out {out} {named}"
    ]
    assert seqgen("train", "--out", out, named, "train.steps=3").code == 0


# ---- the same, as processes


def test_a_terminal_shows_a_bar_and_keeps_the_validations(text: Path, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    words = ["train", "lm", "--data", str(text), "--out", str(tmp_path / "r"), *SMALL]
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen([sys.executable, "-m", "seqgen", *words], stderr=theirs, env=environment) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # the other end is closed: Linux says so by an error
                break
            if not piece:
                break
            shown += piece
    os.close(ours)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    assert process.returncode == 0
    assert "6/6 ━" in plain
    assert re.search(r"step 3/6  .*held-out [\d.]+ nats per token", plain)
    assert "finished at step 6; best held-out" in plain
    assert "\x1b[?25h" in shown.decode()  # the cursor is there again


@pytest.mark.slow
def test_a_terminated_process_leaves_143_and_a_run_that_goes_on(text: Path, tmp_path: Path) -> None:
    words = ["train", "lm", "--data", str(text), "--out", str(tmp_path / "r"), *SMALL, "train.steps=100000"]
    command_line = [sys.executable, "-m", "seqgen"]
    with subprocess.Popen([*command_line, *words], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while not process.stderr.readline().startswith("step "):  # the first lines come before training begins
            pass
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
    assert process.returncode == 143
    assert re.search(r"terminated at step \d+, saved; continue with: seqgen train --out ", rest.splitlines()[-1])


@pytest.mark.slow
def test_two_processes_train_under_torchrun_and_one_speaks(text: Path, tmp_path: Path) -> None:
    words = ["train", "lm", "--data", str(text), "--out", str(tmp_path / "r"), *SMALL]
    runner = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", "-m", "seqgen"]
    ended = subprocess.run([*runner, *words], capture_output=True, text=True, check=False, timeout=300)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.count("finished at step 6") == 1
    assert ended.stderr.count("step 3/6") == 1
