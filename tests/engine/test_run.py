"""Run folders: what may change, what is refused, and that nothing on disk is lost."""

import errno
import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_run import SMALL, small_text

from seqgen.core import log, numerics
from seqgen.core.errors import ConfigError, DataError, NonFiniteError, RunError
from seqgen.data.corpora import known
from seqgen.engine import checkpoint, loop
from seqgen.engine import run as runs
from seqgen.engine.loading import load
from seqgen.engine.progress import Progress
from seqgen.engine.run import config, read_settings
from seqgen.engine.stored import read_changes


def short(text: Path, *words: str) -> Any:
    return config("lm", text, overrides=[*SMALL, "train.steps=6", "train.save_every=3", "train.eval_every=3", *words])


# ---- settings


def test_overrides_beat_the_preset_and_the_preset_beats_the_defaults(text: Path) -> None:
    chosen = config("lm", text, preset="lm-char", overrides=["train.lr=0.5"])
    assert (chosen.train.lr, chosen.model.hidden, chosen.train.beta1) == (0.5, 384, 0.9)


def test_a_known_set_s_settings_stand_between_the_preset_and_what_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known, "_check", lambda *_: None)
    monkeypatch.setenv("SEQGEN_DATA", str(tmp_path))
    path = tmp_path / "text" / "zinc-smiles" / "sample.txt"
    path.parent.mkdir(parents=True)
    path.touch()
    chosen = config("lm", "zinc-smiles", preset="lm-char")
    assert chosen.data.files == (str(path),)
    assert (chosen.data.mode, chosen.tokenizer.kind, chosen.model.hidden) == ("sentence", "word", 384)
    assert chosen.tokenizer.pattern.startswith("\\[")
    own = config("lm", "zinc-smiles", preset="lm-char", overrides={"tokenizer.kind": "char", "tokenizer.pattern": ""})
    assert (own.data.mode, own.tokenizer.kind, own.tokenizer.pattern) == ("sentence", "char", "")
    (tmp_path / "own.toml").write_text('name = "lm"\n[data]\nfiles = ["zinc-smiles"]\nmode = "stream"\n')
    from_file = config(file=tmp_path / "own.toml")
    assert (from_file.data.files, from_file.data.mode, from_file.tokenizer.kind) == ((str(path),), "stream", "word")
    assert config("lm", str(path)).tokenizer.pattern == ""


def test_the_test_part_of_a_known_set_is_held_out_on_request_only(caplog: pytest.LogCaptureFixture) -> None:
    corpora = known.corpora_folder()
    chosen = config("lm", "reviews")
    assert (chosen.data.files, chosen.data.valid) == ((str(corpora / "reviews.tsv"),), ())
    assert (chosen.data.source, chosen.data.target) == ("label", "text")
    assert not caplog.messages
    assert config("lm", "reviews", valid="reviews").data.valid == (str(corpora / "test" / "reviews.tsv"),)
    assert caplog.messages[0].startswith("the test part of reviews chooses the best checkpoint")
    with pytest.raises(DataError, match=r"^reviews is a set of text; expected images$"):
        config("image-vae", "reviews")
    with pytest.raises(DataError, match=r"^digit: no such file, and no set is called so; did you mean digits\?$"):
        config("image-vae", "digit")


def test_a_preset_s_option_gives_way_to_another_that_does_its_work(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "seqgen")
    assert config("text-vae").model.kl_target == 12
    for word in ("model.free_bits=0.2", "model.match=adversarial", "model.bn_gamma=0.6"):
        assert config("text-vae", overrides=[word]).model.kl_target == 0
    assert caplog.messages[0] == "model.kl_target = 12.0 of the preset gives way to model.free_bits"
    assert config("text-vae", overrides=["model.free_bits=0"]).model.kl_target == 12
    both = config("text-vae", overrides=["model.free_bits=0.2", "model.kl_target=3"])
    assert (both.model.kl_target, both.model.free_bits) == (3, 0.2)


# 15 tokens or 53 characters a verse; nine tenths are 36 verses, and of the next one the line that the cut falls into
VERSES = "my love runs in the rain\nmy rain waits in the river\n\n" * 40


@pytest.mark.parametrize("preset", ["lm-small", "lm-char", "seqgan", "text-vae"])
def test_what_a_small_folder_cannot_fill_is_made_smaller_and_remembered(
    preset: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "songs").mkdir()
    (tmp_path / "songs" / "a.txt").write_text(VERSES)
    caplog.set_level("INFO", "seqgen")
    name = runs.read_preset(preset)["name"]
    section = "model.policy" if name == "seqgan" else "model"
    small = [f"{section}.hidden=8", f"{section}.embedding=8", "train.steps=2", "train.save_every=1", "train.samples=0"]
    chosen = config(name, tmp_path / "songs", preset=preset, overrides=small)
    assert loop.train(chosen, tmp_path / "r").reason == "finished"
    stored = runs.read_settings(tmp_path / "r")
    rows = 40 if preset == "text-vae" else {"word": 548, "char": 1909}[stored.tokenizer.kind] // 65
    assert stored.train.batch == min(chosen.train.batch, rows)
    assert stored.data.mode == ("sentence" if preset == "text-vae" else "stream")
    words = " ".join(caplog.messages)
    assert ("every line is a text of its own" if preset == "text-vae" else "its line breaks included") in words
    assert (f"train.batch is made {rows}, not {chosen.train.batch}" in words) == (rows < chosen.train.batch)
    assert loop.train(chosen, tmp_path / "r").step == 2
    assert loop.train(None, tmp_path / "r", overrides=["train.steps=3"]).step == 3


def test_what_was_chosen_is_refused_where_the_text_cannot_fill_it(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(VERSES)
    with pytest.raises(DataError, match=r"tokens, fewer than train\.batch \* \(data\.window \+ 1\) = 32 \* 65"):
        loop.train(config("lm", tmp_path / "a.txt", overrides=["train.batch=32", "data.window=64"]), tmp_path / "r")
    narrow = config("lm", tmp_path / "a.txt", overrides=["train.batch=32", "train.steps=1", "model.hidden=8"])
    loop.train(narrow, tmp_path / "r")
    assert runs.read_settings(tmp_path / "r").data.window == 548 // 32 - 1


def test_every_preset_is_valid() -> None:
    for name in runs.preset_names():
        assert config(preset=name).name == runs.read_preset(name)["name"]


def test_faults_of_all_sections_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        config("lm", overrides=["train.batch=0", "model.hiden=3", "data.modus=x"])
    message = str(caught.value)
    assert "train.batch must be an integer >= 1, got 0" in message
    assert "unknown option model.hiden; did you mean model.hidden?" in message
    assert "unknown option data.modus; did you mean data.mode?" in message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "lmm"}, "unknown model lmm; did you mean lm?"),
        ({"preset": "lm-smal"}, "unknown preset lm-smal; did you mean lm-small?"),
        ({"model": "lm", "preset": "lm-char", "file": "x.toml"}, "give --preset lm-char or --config x.toml, not both"),
        ({"model": "lm", "file": "absent.toml"}, "absent.toml: no such settings file"),
    ],
)
def test_a_start_that_does_not_exist_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config(**arguments)
    assert str(caught.value) == message


def test_stored_settings_are_a_valid_input_again(trained: Path) -> None:
    stored = runs.read_settings(trained)
    assert config(file=trained / "config.toml") == stored


# ---- the same folder again


def test_a_finished_run_started_again_changes_nothing(text: Path, tmp_path: Path) -> None:
    loop.train(short(text), tmp_path / "r")
    before = {p: p.read_bytes() for p in (tmp_path / "r" / "checkpoints").rglob("*") if p.is_file()}
    assert loop.train(short(text), tmp_path / "r").reason == "finished"
    assert {p: p.read_bytes() for p in (tmp_path / "r" / "checkpoints").rglob("*") if p.is_file()} == before


def test_other_settings_are_refused_one_by_one(text: Path, tmp_path: Path) -> None:
    loop.train(short(text), tmp_path / "r")
    with pytest.raises(RunError) as caught:
        loop.train(short(text, "model.hidden=24", "train.lr=0.5"), tmp_path / "r")
    assert str(caught.value) == (
        f"{tmp_path / 'r'} was trained with model.hidden = 16, now 24; train.lr = 0.004, now 0.5; "
        "use another --out, or the stored settings"
    )


def test_training_longer_is_recorded_and_equals_a_run_that_knew_it(text: Path, tmp_path: Path) -> None:
    constant = "train.schedule=constant"
    loop.train(short(text, constant), tmp_path / "r")
    loop.train(None, tmp_path / "r", overrides=["train.steps=12"])
    loop.train(short(text, constant, "train.steps=12"), tmp_path / "whole")
    assert read_changes(tmp_path / "r") == [{"step": 6, "settings": {"train.steps": [6, 12]}}]
    assert runs.read_settings(tmp_path / "r").train.steps == 12
    a, b = (load_file(checkpoint.folder_of(tmp_path / n, 12) / "model.safetensors") for n in ("r", "whole"))
    assert all(torch.equal(a[name], b[name]) for name in a)
    # a third session with the stored settings knows the new length
    assert loop.train(None, tmp_path / "r").step == 12


def test_a_schedule_that_depended_on_the_end_is_announced(text: Path, tmp_path: Path) -> None:
    loop.train(short(text), tmp_path / "r")
    notes: list[str] = []
    loop.train(None, tmp_path / "r", overrides=["train.steps=8"], progress=lambda p: notes.append(p.message))
    assert "the linear schedule ends at the new train.steps: the learning rate jumps here" in notes


def test_other_text_is_refused_and_a_moved_file_is_not(text: Path, tmp_path: Path) -> None:
    own = small_text(tmp_path / "own.txt")
    loop.train(short(own), tmp_path / "r")
    with own.open("a") as file:
        file.write("one line more .\n")
    with pytest.raises(RunError, match=r"r was trained on other text \(SHA-256 .*--from .*/r --out ANOTHER$"):
        loop.train(None, tmp_path / "r")


def test_a_folder_of_something_else_is_left_alone(text: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_text("x")
    with pytest.raises(RunError, match=r"exists and is not a run folder; use another --out, or remove it$"):
        loop.train(short(text), tmp_path / "photos")
    assert [p.name for p in (tmp_path / "photos").iterdir()] == ["a.jpg"]


def test_without_data_a_run_goes_on_with_its_own(text: Path, tmp_path: Path) -> None:
    chosen = config("lm", text, overrides=["data.valid_share=0.2", *SMALL, "train.steps=2"])
    loop.train(chosen, tmp_path / "r")
    assert loop.train(config("lm", overrides=[*SMALL, "train.steps=3"]), tmp_path / "r").step == 3
    with pytest.raises(RunError, match=r"was trained with data\.valid_share = 0\.2, now 0\.3"):
        loop.train(config("lm", overrides=[*SMALL, "train.steps=3", "data.valid_share=0.3"]), tmp_path / "r")


def test_no_model_and_no_run_says_what_to_type(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"is not a run folder yet; name a model: seqgen train MODEL --data FILE --out"):
        loop.train(None, tmp_path / "r")


def test_bad_text_leaves_no_folder(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(DataError, match=r"empty\.txt"):
        loop.train(short(tmp_path / "empty.txt"), tmp_path / "r")
    assert not (tmp_path / "r").exists()


# ---- from another run


def test_from_starts_with_the_other_run_s_weights_and_tokenizer(trained: Path, text: Path, tmp_path: Path) -> None:
    chosen = config("lm", text, overrides=[*SMALL, "model.hidden=32", "train.steps=1", "train.lr=1e-9"])
    loop.train(chosen, tmp_path / "r", source_run=trained)
    a = load_file(checkpoint.folder_of(trained, checkpoint.best(trained)[0]) / "model.safetensors")
    b = load_file(checkpoint.folder_of(tmp_path / "r", 1) / "model.safetensors")
    assert all(torch.allclose(a[name], b[name], atol=1e-6) for name in a)
    assert (tmp_path / "r" / "tokenizer" / "tokenizer.json").read_bytes() == (
        trained / "tokenizer" / "tokenizer.json"
    ).read_bytes()
    assert json.loads((tmp_path / "r" / "env.json").read_text())["from"]["run"] == str(trained)


def test_from_and_killed_before_the_first_checkpoint_ends_with_the_same_bytes(
    trained: Path, text: Path, tmp_path: Path
) -> None:
    chosen = config("lm", text, overrides=[*SMALL, "model.hidden=32", "train.steps=6", "train.save_every=4"])
    loop.train(chosen, tmp_path / "whole", source_run=trained)

    def kill(progress: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop.train(chosen, tmp_path / "broken", source_run=trained, progress=kill)
    shutil.move(trained, tmp_path / "elsewhere")  # the run needs the other one no more
    try:
        loop.train(None, tmp_path / "broken")
    finally:
        shutil.move(tmp_path / "elsewhere", trained)
    tensors = [checkpoint.folder_of(tmp_path / name, 6) / "model.safetensors" for name in ("whole", "broken")]
    assert tensors[0].read_bytes() == tensors[1].read_bytes()


def test_from_a_model_of_another_size_names_the_tensor(trained: Path, text: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"embedding\.weight is \(.*, 16\), the model needs \(.*, 24\)$"):
        loop.train(short(text, "model.embedding=24", "model.hidden=32"), tmp_path / "r", source_run=trained)


# ---- when things go wrong


def test_a_full_disk_keeps_the_last_checkpoint(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loop.train(short(text, "train.steps=3"), tmp_path / "r")

    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(RunError, match=r"\(the disk is full\); the checkpoint of step 3"):
        loop.train(None, tmp_path / "r", overrides=["train.steps=6"])
    monkeypatch.undo()
    assert [p.name for p in (tmp_path / "r" / "checkpoints").iterdir()] == ["step-00000003"]
    assert loop.train(None, tmp_path / "r").step == 6


def test_a_loss_that_is_not_finite_stops_with_the_last_state_kept(text: Path, tmp_path: Path) -> None:
    chosen = short(text, "train.optimizer=sgd", "train.lr=1e38", "train.clip=0", "train.schedule=constant")
    with pytest.raises(NonFiniteError, match=r"^step \d: the .* is not finite .*no checkpoint had been written yet$"):
        loop.train(chosen, tmp_path / "r")


@pytest.mark.parametrize(("number", "reason"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated")])
def test_a_signal_saves_and_leaves(number: signal.Signals, reason: str, text: Path, tmp_path: Path) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.step == 4:
            signal.raise_signal(number)

    before = signal.getsignal(number)
    outcome = loop.train(short(text), tmp_path / "r", progress=interrupt)
    assert (outcome.reason, outcome.step) == (reason, 5)
    assert checkpoint.steps(tmp_path / "r")[-1] == 5
    assert signal.getsignal(number) == before


# ---- what a validation decides


def test_patience_stops_and_the_best_checkpoint_is_kept(text: Path, tmp_path: Path) -> None:
    chosen = config(
        "lm",
        text,
        overrides=[*SMALL, "train.steps=400", "train.eval_every=4", "train.lr=0.3", "train.patience=3", "train.keep=1"],
    )
    outcome = loop.train(chosen, tmp_path / "r")
    assert outcome.reason == "stopped early"
    scores = log.read(tmp_path / "r" / "scores.jsonl")
    best = min(scores, key=lambda row: row["nll_per_token"])["step"]
    assert outcome.step == best + 12
    assert checkpoint.best(tmp_path / "r")[0] == best
    assert loop.train(None, tmp_path / "r").step == outcome.step


def test_averaging_begins_when_validation_no_longer_falls(text: Path, tmp_path: Path) -> None:
    words = ["train.steps=200", "train.eval_every=4", "train.optimizer=sgd", "train.lr=30", "train.average_trigger=2"]
    notes: list[str] = []
    chosen = config("lm", text, overrides=[*SMALL, *words, "train.samples=0", "train.schedule=constant"])
    loop.train(chosen, tmp_path / "r", progress=lambda p: notes.append(p.message))
    values = [row["nll_per_token"] for row in log.read(tmp_path / "r" / "scores.jsonl")]
    first = next(i for i in range(3, len(values)) if values[i] > min(values[: i - 2]))
    assert f"step {4 * (first + 1)}: validation no longer falls, averaging begins" in notes


def test_a_model_module_of_one_s_own_trains_and_loads(text: Path, tmp_path: Path) -> None:
    from seqgen.models import lm

    chosen = config("mine", text, overrides=[*SMALL, "train.steps=2"], module=lm)
    loop.train(chosen, tmp_path / "r", module=lm)
    assert len(load(tmp_path / "r", module=lm).generate(2)) == 2


# ---- signs of collapse


@pytest.mark.parametrize(
    ("before", "step", "due"),
    [
        ([], 100, False),
        ([{"signs": [], "self_bleu_4": 0.01, "real_self_bleu_4": 0.6}], 200, False),  # at random: it shares nothing
        ([{"signs": ["repeats"], "self_bleu_4": 0.9, "real_self_bleu_4": 0.6}], 200, False),  # it always repeated
        ([{"signs": [], "self_bleu_4": 0.5, "real_self_bleu_4": 0.6}], 200, True),
        ([{"signs": [], "self_bleu_4": 0.5, "real_self_bleu_4": 0.6}, {"signs": ["repeats"]}], 300, True),
        ([], 500, True),  # never healthy, and half of the steps are done
        ([{"signs": [], "precision": 0.1}], 200, False),  # images that do not look real
        ([{"signs": [], "precision": 0.9}], 200, True),
        ([{"nll_per_token": 2.0}], 200, False),  # no samples were scored
    ],
)
def test_the_alarm_waits_until_samples_were_healthy_once(before: list[dict[str, Any]], step: int, due: bool) -> None:
    assert loop.alarm_is_due(before, step, 1000) is due


def test_models_are_found_by_the_names_of_their_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In `models` each file is one; in `images` each that says what its DATA are."""
    for name, text in (
        ("models/tiny_gru.py", ""),
        ("models/_help.py", ""),
        ("images/flow_net.py", '"""A flow."""\n\nDATA = "images"\n'),
        ("images/grids.py", "import math\n"),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    text_models = ["gpt", "hmm", "kneser-ney", "lm", "masked", "seq2seq", "seqgan", "text-vae"]
    assert runs.model_names() == sorted([*text_models, "image-gan", "image-vae"])
    monkeypatch.setattr(runs.resources, "files", lambda package: tmp_path)
    assert runs.model_names() == ["image-flow-net", "tiny-gru"]


def test_a_model_without_a_preset_begins_with_its_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "preset_names", list)
    from seqgen.models import lm

    assert config("lm").model == lm.Config()


@pytest.mark.parametrize("line", ["", "format = 0", 'format = "1"'])
def test_a_run_of_another_format_is_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(f'name = "lm"\nversion = "0.0"\n{line}\n[data]\n[model]\n[train]\n')
    given = line.removeprefix("format = ").strip('"') or "none"
    with pytest.raises(
        RunError, match=rf"has run format {given} \(seqgen 0\.0\), this version reads 1; train it again"
    ):
        read_settings(tmp_path)


def test_a_set_of_running_text_is_windows_for_a_model_without_state(
    public_set: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEQGEN_DATA", str(public_set("text/tinyshakespeare.txt").parents[1]))
    assert config("lm", "tinyshakespeare").data.mode == "stream"
    assert config(preset="gpt-char", data="tinyshakespeare").data.mode == "window"
    assert config("gpt", "tinyshakespeare", overrides=["data.mode=stream"]).data.mode == "stream"


@pytest.mark.parametrize(("units", "expected"), [("avx512_bf16", "bf16"), ("", "fp32"), (None, "fp32")])
def test_automatic_precision_is_decided_where_a_run_begins(units: str | None, expected: str, monkeypatch) -> None:
    monkeypatch.setattr(numerics, "bf16_units", lambda device: units)
    asked, place = config("lm", overrides=["train.precision=auto"]), torch.device("cpu")
    assert runs.with_precision(asked, None, place).train.precision == expected
    for stored in ("fp32", "bf16"):
        run = config("lm", overrides=[f"train.precision={stored}"])
        assert runs.with_precision(asked, run, place) == runs.changed(asked, {"train.precision": stored})
