"""A run folder from a stranger: what lies in it is read, checked and refused, and never executed."""

import json
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_run import SEQGAN, SMALL

from seqgen.core import files, log
from seqgen.core.errors import DataError, RunError, SeqgenError
from seqgen.data import corpus
from seqgen.data.packing import build_corpus
from seqgen.data.tokenizers import TokenizerConfig
from seqgen.engine import checkpoint, loop
from seqgen.engine import run as runs
from seqgen.engine.loading import load
from seqgen.engine.progress import Progress
from seqgen.engine.report import write_report
from seqgen.engine.run import config
from seqgen.engine.stored import read_changes

POLICY = (*SEQGAN, "model.mle_steps=1", "train.steps=3")


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
    loop.train(config("seqgan", text, overrides=[*POLICY, "model.reward.kind=regex:cat"]), tmp_path / "r")
    code = own_reward(tmp_path / "evil.py", tmp_path / "witness")
    settings = tmp_path / "r" / "config.toml"
    settings.write_text(settings.read_text().replace('"regex:cat"', json.dumps(f"{code}:f")))
    return tmp_path / "r"


def test_a_run_folder_that_names_a_python_file_is_not_followed(hostile: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError) as caught:
        loop.train(None, hostile, overrides=["train.steps=4"])
    assert str(caught.value) == (
        f"{hostile}: model.reward.kind is code, and {tmp_path}/evil.py is imported only where the command names it; "
        f"if you trust that file: seqgen train --out {hostile} model.reward.kind={tmp_path}/evil.py:f"
    )
    load(hostile).generate(1)
    write_report(hostile)
    assert not (tmp_path / "witness").exists()


def test_a_file_of_settings_that_names_a_python_file_is_not_followed(hostile: Path, tmp_path: Path) -> None:
    with pytest.raises(
        RunError, match=r"is imported only where the command names it; .*: add model\.reward\.kind=.*:f to"
    ):
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
    assert "warning: the file of model.reward.kind has changed since this run began" in said


def test_a_function_passed_as_reward_is_asked_for_again(text: Path, tmp_path: Path) -> None:
    loop.train(config("seqgan", text, overrides=POLICY), tmp_path / "r", reward=words)
    more: dict[str, Any] = {"overrides": ["train.steps=4"]}
    with pytest.raises(
        RunError, match=r"model\.reward\.kind = call:words is a function; pass it again: seqgen\.train\("
    ):
        loop.train(None, tmp_path / "r", **more)
    assert loop.train(None, tmp_path / "r", reward=words, **more).step == 4


# ---- one training in a folder


@pytest.mark.parametrize("begun", [False, True])
def test_a_second_training_in_the_same_folder_is_refused(begun: bool, text: Path, tmp_path: Path) -> None:
    chosen = config("lm", text, overrides=[*SMALL, "train.steps=4", "train.save_every=1"])
    refused: list[str] = []

    def start_another(progress: Progress) -> None:
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


# ---- what is not as it was written


@pytest.fixture(scope="module")
def two_checkpoints(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with checkpoints of the steps 3 and 6, the first the best; nobody writes into it."""
    out = tmp_path_factory.mktemp("whole") / "r"
    words = ["train.steps=6", "train.save_every=3", "train.eval_every=3", "train.keep=5"]
    loop.train(config("lm", text, overrides=[*SMALL, *words]), out)
    return out


def truncate(content: bytes) -> bytes:
    return content[: len(content) // 2]


def alter(content: bytes) -> bytes:
    return content[:-40] + bytes([content[-40] ^ 1]) + content[-39:]


def harmed(run: Path, name: str, harm: Callable[[bytes], bytes] | None) -> None:
    path = run / name
    if harm is None:
        path.unlink()
    else:
        path.write_bytes(harm(path.read_bytes()))


def contents(run: Path) -> dict[str, bytes]:
    paths = [
        *checkpoint.folder_of(run, 6).iterdir(),
        *(run / "samples").iterdir(),
        run / "log.jsonl",
        run / "scores.jsonl",
    ]
    return {path.relative_to(run).as_posix(): path.read_bytes() for path in paths}


HARMS = [truncate, alter, lambda content: b"", None]


@pytest.mark.parametrize("harm", HARMS, ids=["truncated", "altered", "empty", "missing"])
@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_a_damaged_checkpoint_is_passed_over_aloud(
    name: str, harm: Callable[[bytes], bytes] | None, two_checkpoints: Path, tmp_path: Path
) -> None:
    run = tmp_path / "r"
    shutil.copytree(two_checkpoints, run)
    harmed(run, f"checkpoints/step-00000006/{name}", harm)
    said: list[str] = []
    loop.train(None, run, progress=lambda p: said.append(p.message))
    assert re.fullmatch(
        rf"warning: .*step-00000006/{re.escape(name)}.* set aside as \*\.damaged, the checkpoint of step 3 is used",
        next(message for message in said if "warning" in message),
    )
    assert f"continuing {run} from step 3" in said
    assert contents(run) == contents(two_checkpoints)
    assert (run / "checkpoints" / "step-00000006.damaged").is_dir()


def test_loading_passes_over_a_damaged_checkpoint_aloud_and_never_over_the_one_asked_for(
    two_checkpoints: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    best, other = checkpoint.best(two_checkpoints)[0], {3: 6, 6: 3}[checkpoint.best(two_checkpoints)[0]]
    run = tmp_path / "r"
    shutil.copytree(two_checkpoints, run)
    harmed(run, f"checkpoints/step-{best:08d}/model.safetensors", alter)
    before = sorted(run.rglob("*"))
    assert load(run).generate(3) == load(two_checkpoints, step=other).generate(3)
    assert (
        f"model.safetensors is truncated or altered (SHA-256 differs); the checkpoint of step {other} is used"
        in (caplog.messages[0])
    )
    with pytest.raises(RunError, match=r"model\.safetensors is truncated or altered"):
        load(run, step=best)
    assert sorted(run.rglob("*")) == before
    harmed(run, f"checkpoints/step-{other:08d}/model.safetensors", truncate)
    with pytest.raises(RunError, match=r"truncated or altered .*; no other checkpoint of .*/r is whole; restore the"):
        load(run)
    with pytest.raises(RunError, match=r"truncated or altered .*; no other checkpoint of .*/r is whole; restore the"):
        loop.train(None, run, overrides=["train.steps=9"])


@pytest.mark.parametrize("harm", HARMS, ids=["truncated", "altered", "empty", "missing"])
@pytest.mark.parametrize("name", ["log.jsonl", "scores.jsonl", "config.toml", "tokenizer/tokenizer.json"])
def test_a_damaged_file_that_a_checkpoint_depends_on_is_refused(
    name: str, harm: Callable[[bytes], bytes] | None, two_checkpoints: Path, tmp_path: Path
) -> None:
    run = tmp_path / "r"
    shutil.copytree(two_checkpoints, run)
    harmed(run, name, harm)
    with pytest.raises(SeqgenError):
        loop.train(None, run, overrides=["train.steps=9"])
    assert checkpoint.steps(run) == [3, 6]


def resealed(run: Path, step: int, change: dict[str, Any]) -> None:
    """A state.json altered by someone who knows how its own hash is made."""
    path = checkpoint.folder_of(run, step) / "state.json"
    record = json.loads(path.read_text()) | change
    del record["self"]
    path.write_text(json.dumps(record | {"self": checkpoint._sealed(record)}))


@pytest.mark.parametrize(
    "change",
    [{"logs": {"log.jsonl": "x"}}, {"logs": {"log.jsonl": [-1, ""]}}, {"step": 7}, {"world": "2"}, {"history": None}],
)
def test_a_state_of_other_types_is_damaged(change: dict[str, Any], two_checkpoints: Path, tmp_path: Path) -> None:
    shutil.copytree(two_checkpoints, tmp_path / "r")
    resealed(tmp_path / "r", 6, change)
    with pytest.raises(checkpoint.DamagedError, match=f"{next(iter(change.get('logs', change)))} is missing or wrong"):
        checkpoint.read_state(tmp_path / "r", 6)
    assert checkpoint.last_whole(tmp_path / "r")[0] == 3


@pytest.mark.parametrize("name", ["checkpoints", "samples", "log.jsonl", "scores.jsonl", "timing.jsonl"])
def test_what_training_writes_through_links_is_refused(name: str, two_checkpoints: Path, tmp_path: Path) -> None:
    run, outside = tmp_path / "r", tmp_path / "outside"
    shutil.copytree(two_checkpoints, run)
    shutil.move(run / name, outside)
    (run / name).symlink_to(outside)
    before = {path: path.read_bytes() for path in [outside, *outside.rglob("*")] if path.is_file()}
    with pytest.raises(RunError, match=rf"/r/{name} is a link, by which training would write elsewhere; replace it"):
        loop.train(None, run, overrides=["train.steps=9"])
    assert {path: path.read_bytes() for path in [outside, *outside.rglob("*")] if path.is_file()} == before


def test_a_sample_that_is_a_link_is_replaced_and_not_followed(two_checkpoints: Path, tmp_path: Path) -> None:
    shutil.copytree(two_checkpoints, tmp_path / "r")
    (tmp_path / "outside").write_text("precious")
    (tmp_path / "r" / "samples" / "00000009.txt").symlink_to(tmp_path / "outside")
    loop.train(None, tmp_path / "r", overrides=["train.steps=9"])
    assert (tmp_path / "outside").read_text() == "precious"


# ---- another number of processes


def test_another_number_of_processes_is_told_and_recorded(two_checkpoints: Path, tmp_path: Path) -> None:
    shutil.copytree(two_checkpoints, tmp_path / "r")
    resealed(tmp_path / "r", 6, {"world": 2})
    said: list[str] = []
    loop.train(None, tmp_path / "r", overrides=["train.steps=9"], progress=lambda p: said.append(p.message))
    assert "1 process from here on, 2 before: what follows is not what 2 gave" in said
    assert read_changes(tmp_path / "r") == [{"step": 6, "settings": {"train.steps": [6, 9]}, "processes": [2, 1]}]
    assert runs.read_settings(tmp_path / "r").train.steps == 9


def test_state_of_single_processes_is_not_shared_out_to_others(text: Path, tmp_path: Path) -> None:
    words = ["data.mode=stream", "data.window=8", "train.steps=2"]
    loop.train(config("lm", text, overrides=[*SMALL, *words]), tmp_path / "r")
    resealed(tmp_path / "r", 2, {"world": 3})
    with pytest.raises(RunError) as caught:
        loop.train(None, tmp_path / "r", overrides=["train.steps=3"])
    assert str(caught.value) == (
        f"{tmp_path / 'r'} was trained by 3 processes, each with a state of its own (rank-0.safetensors) that cannot "
        f"be shared out to 1; continue with: torchrun --nproc-per-node 3 -m seqgen train --out {tmp_path / 'r'}"
    )
    assert read_changes(tmp_path / "r") == []


# ---- what no one of us wrote

DEEP = "[" * 200_000
ALTERED = [
    ("config.toml", "", "config.toml: data is missing or wrong"),
    ("config.toml", "name = 3\n[data]\n[model]\n[train]\n", "config.toml: name is missing or wrong"),
    ("config.toml", 'name = "lm"\nmodel = 3\n[data]\n[train]\n', "config.toml: model is missing or wrong"),
    ("config.toml", 'name = "os"\nformat = 1\n[data]\n[model]\n[train]\n', "config.toml: unknown model os"),
    (
        "config.toml",
        'name = "lm"\nformat = 1\ntokenizer = 1\n[data]\n[model]\n[train]\n',
        "config.toml: tokenizer must be a table of",
    ),
    ("config.toml", f"name = {DEEP}", "config.toml: not TOML"),
    ("config.toml", f"seed = {'9' * 5000}", "config.toml: not TOML"),
    ("config.toml", b"name = \xff", r"config.toml: not UTF-8 \(byte 7\)"),
    ("changes.json", DEEP, "changes.json: not JSON"),
    ("changes.json", '[{"settings": {"seed": 1}}]', "changes.json: not a list of changes"),
    ("changes.json", "3", "changes.json: not a list of changes"),
    ("tokenizer/tokenizer.json", DEEP, "tokenizer.json(: not JSON| is missing or altered)"),
    ("tokenizer/tokenizer.json", "[]", "tokenizer.json(: expected format| is missing or altered)"),
]


@pytest.mark.parametrize(("name", "content", "message"), ALTERED)
def test_what_is_altered_is_named_by_its_file(
    name: str, content: str | bytes, message: str, two_checkpoints: Path, tmp_path: Path
) -> None:
    shutil.copytree(two_checkpoints, tmp_path / "r")
    (tmp_path / "r" / name).write_bytes(content.encode() if isinstance(content, str) else content)
    for use in (load, lambda run: loop.train(None, run)):
        with pytest.raises(SeqgenError, match=message):
            use(tmp_path / "r")


@pytest.mark.parametrize("content", ["[]", "{}", '{"data_sha256": 3}', DEEP])
def test_an_altered_environment_is_named(content: str, two_checkpoints: Path, tmp_path: Path) -> None:
    shutil.copytree(two_checkpoints, tmp_path / "r")
    (tmp_path / "r" / "env.json").write_text(content)
    for use in (lambda run: loop.train(None, run), lambda run: load(run).own_text()):
        with pytest.raises(SeqgenError, match=r"env\.json: (not JSON|'data_sha256' is missing or wrong)"):
            use(tmp_path / "r")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("scores.jsonl", '{"step": [1], "nll_per_token": 2}\n'),
        ("log.jsonl", '{"loss": 2}\n{"loss": 3}\n'),
        ("evaluation.json", '{"columns": [3]}'),
        ("evaluation.json", "[]"),
    ],
)
def test_a_report_of_altered_numbers_says_so(name: str, content: str, two_checkpoints: Path, tmp_path: Path) -> None:
    shutil.copytree(two_checkpoints, tmp_path / "r")
    (tmp_path / "r" / name).write_text(content)
    with pytest.raises(SeqgenError, match=f"{re.escape(name)}.* (altered|step)"):
        write_report(tmp_path / "r")


def rewritten(run: Path, change: Callable[[Path], None]) -> None:
    """The model's file changed by someone who knows how states are sealed."""
    path = checkpoint.folder_of(run, 6) / "model.safetensors"
    change(path)
    state = json.loads((path.parent / "state.json").read_text())
    resealed(run, 6, {"sha256": state["sha256"] | {path.name: files.sha256_file(path)}})


@pytest.mark.parametrize("header", [b"", b"\xff" * 8, b"\x10" + b"\0" * 7 + b"[" * 16, b"\x02" + b"\0" * 7 + b"{}"])
def test_a_bad_safetensors_header_is_named(header: bytes, two_checkpoints: Path, tmp_path: Path) -> None:
    shutil.copytree(two_checkpoints, tmp_path / "r")
    rewritten(tmp_path / "r", lambda path: path.write_bytes(header) and None)
    with pytest.raises(RunError, match=r"step-00000006.*: (not a safetensors file|lacks output_bias)"):
        load(tmp_path / "r", step=6)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_one_clear_line(value: float, two_checkpoints: Path, tmp_path: Path) -> None:
    shutil.copytree(two_checkpoints, tmp_path / "r")

    def spoil(path: Path) -> None:
        tensors = load_file(path)
        tensors["output_bias"][1] = value
        save_file(tensors, path)

    rewritten(tmp_path / "r", spoil)
    with pytest.raises(RunError, match=r"output_bias holds NaN or infinity, which no model can use; take another"):
        load(tmp_path / "r", step=6)
    with pytest.raises(RunError, match=r"output_bias holds NaN or infinity, which no model can use; take another"):
        loop.train(None, tmp_path / "r", overrides=["train.steps=9"])


def test_weights_that_overflow_give_no_score(two_checkpoints: Path) -> None:
    generator = load(two_checkpoints)
    with torch.no_grad():
        generator.model.embedding.weight.fill_(3e38)
        generator.model.output_bias.fill_(3e38)
    with pytest.raises(RunError, match="the model gives log-probabilities that are NaN or infinite"):
        generator.score(["the cat sees the dog here ."])


def test_a_corpus_is_verified_when_training_begins_and_then_where_it_has_changed(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_corpus([text], tmp_path / "corpus", tokenizer=TokenizerConfig(kind="word"))
    train = partial(loop.train, out=tmp_path / "run", progress=False)
    train(config("lm", tmp_path / "corpus", overrides=[*SMALL, "train.steps=2"]))
    file = tmp_path / "corpus" / "train.text.bin"
    file.touch()
    assert train(None, overrides=["train.steps=3"]).step == 3  # read again, and the same
    with monkeypatch.context() as patch:
        patch.setattr(corpus, "sha256_file", lambda path: pytest.fail(f"reads {path}"))
        assert train(None, overrides=["train.steps=4"]).step == 4
    file.write_bytes(b"?" + file.read_bytes()[1:])
    file.touch()
    with pytest.raises(DataError, match="SHA-256"):
        train(None, overrides=["train.steps=5"])
