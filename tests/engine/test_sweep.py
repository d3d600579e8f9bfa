"""A sweep: ranges that hold, trials that are recorded, ended, failed and continued, two processes on one storage."""

import csv
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from seqgen.core.errors import ConfigError, RunError
from seqgen.engine import loop, plots, sweep
from seqgen.engine.run import Settings, config

optuna = pytest.importorskip("optuna")

SMALL = [
    "model.hidden=4",
    "model.embedding=4",
    "train.batch=8",
    "train.steps=4",
    "train.eval_every=2",
    "train.samples=0",
]
RANGES = """
"train.lr" = { low = 1e-4, high = 1e-1, log = true }
[model]
hidden = { low = 4, high = 8, step = 2 }
cell = ["lstm", "gru"]
"""


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(
        "".join(f"the {a} {b} sleeps\n" for a in ("old", "new", "big") for b in ("cat", "dog", "man", "sun"))
    )
    return path


def maker(text: Path) -> sweep.Make:
    def make(overrides: list[str]) -> Settings:
        return config("lm", text, overrides=[*SMALL, *overrides])

    return make


def ranges(tmp_path: Path, text: Path, content: str = RANGES) -> list[sweep.Range]:
    path = tmp_path / "ranges.toml"
    path.write_text(content)
    return sweep.read_ranges(path, maker(text))


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "trials.tsv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def study_of(out: Path) -> Any:
    backend = optuna.storages.journal.JournalFileBackend(str(out / "sweep.log"))
    return optuna.load_study(study_name="seqgen", storage=optuna.storages.JournalStorage(backend))


def test_what_matters_stands_beside_the_option_once_there_are_enough_trials() -> None:
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))

    def score(trial: Any) -> float:
        return float((trial.suggest_float("a", 0, 1) - 0.4) ** 2 + 1e-3 * trial.suggest_int("b", 1, 3))

    asked = [sweep.Range("a", low=0.0, high=1.0), sweep.Range("b", low=1, high=3)]
    study.optimize(score, n_trials=sweep.IMPORTANCE_FROM - 1)
    assert [panel.across for panel in sweep.panels(optuna, study, asked)] == ["trial", "a", "b"]
    study.optimize(score, n_trials=1)
    shares = optuna.importance.get_param_importances(
        study, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0)
    )
    assert shares["a"] > 0.9
    expected = [f"{name} (importance {shares[name]:.2f})" for name in ("a", "b")]
    assert [panel.across for panel in sweep.panels(optuna, study, asked)] == ["trial", *expected]


def test_a_sweep_leaves_a_run_for_each_trial_and_the_settings_of_the_best(tmp_path: Path, text: Path) -> None:
    said: list[str] = []
    best = sweep.sweep(maker(text), tmp_path / "s", ranges(tmp_path, text), trials=3, say=said.append)
    found = rows(tmp_path / "s")
    scores = [float(row["score"]) for row in found]
    assert scores == sorted(scores)
    assert len(said) == len(found) == 3
    assert {row["model.hidden"] for row in found} <= {"4", "6", "8"}
    chosen = tomllib.loads(best.read_text())
    assert str(chosen["model"]["hidden"]) == found[0]["model.hidden"]
    assert "files" not in chosen["data"]
    again = config("lm", text, file=best)
    assert again.model.hidden == chosen["model"]["hidden"]
    panels = sweep.panels(optuna, study_of(tmp_path / "s"), ranges(tmp_path, text))
    assert [panel.across for panel in panels] == ["trial", "train.lr", "model.hidden", "model.cell"]
    assert [panel.log for panel in panels] == [False, True, False, False]
    by_trial = {int(row["run"].partition("-")[2]): row for row in found}
    assert panels[0].places == [0, 1, 2]
    for panel in panels:
        assert panel.values == pytest.approx([float(by_trial[n]["score"]) for n in range(3)], rel=1e-5)
    assert panels[3].places == [by_trial[n]["model.cell"] for n in range(3)]
    axes = plots.panels(panels, up="nats").axes
    assert [one.get_xlabel() for one in axes] == [panel.across for panel in panels]
    assert [one.get_xscale() for one in axes] == ["linear", "log", "linear", "linear"]
    assert {label.get_text() for label in axes[3].get_xticklabels()} == set(panels[3].places)
    with Image.open(tmp_path / "s" / "trials.png") as image:
        assert image.width > image.height
    # as many as there are already: nothing more is trained
    sweep.sweep(maker(text), tmp_path / "s", ranges(tmp_path, text), trials=3, say=said.append)
    assert len(said) == 3
    with pytest.raises(RunError, match=r"sweep\.log holds a sweep of other settings or ranges; use another --out or "):
        sweep.sweep(maker(text), tmp_path / "s", ranges(tmp_path, text, '"model.cell" = ["gru"]'), trials=3, say=print)


def test_a_trial_that_fails_is_recorded_and_the_sweep_goes_on(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = loop.train, []

    def train(*arguments: Any, **options: Any) -> loop.Outcome:
        calls.append(arguments)
        if len(calls) == 1:
            raise RunError("the disk is full")
        return real(*arguments, **options)

    monkeypatch.setattr(sweep.loop, "train", train)
    sweep.sweep(maker(text), tmp_path / "s", ranges(tmp_path, text), trials=3, say=lambda _: None)
    assert [row["state"] for row in rows(tmp_path / "s")] == ["complete", "complete", "fail"]
    assert rows(tmp_path / "s")[2]["error"] == "the disk is full"


def test_a_trial_that_was_broken_off_is_continued_in_its_folder(tmp_path: Path, text: Path) -> None:
    # a process that begins a trial and is killed; the next call takes that trial first
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "import test_sweep as t\n"
        "from seqgen.engine import sweep\n"
        "def train(settings, out, **options):\n"
        "    Path(out).mkdir(parents=True, exist_ok=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "sweep.loop.train = train\n"
        "tmp, text = Path(sys.argv[2]), Path(sys.argv[3])\n"
        "sweep.sweep(t.maker(text), tmp / 's', t.ranges(tmp, text), trials=2, say=print)\n"
    )
    killed = subprocess.run(
        [sys.executable, "-c", script, str(Path(__file__).parent), str(tmp_path), str(text)], check=False
    )
    assert killed.returncode == -9
    sweep.sweep(maker(text), tmp_path / "s", ranges(tmp_path, text), trials=2, say=lambda _: None)
    assert sorted(row["run"] for row in rows(tmp_path / "s")) == ["trial-0", "trial-2"]
    assert {row["state"] for row in rows(tmp_path / "s")} == {"complete"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no ranges; expected lines such as"),
        ("x = ", "not TOML ("),
        ('"model.hiden" = [4]', "unknown option model.hiden; did you mean model.hidden?"),
        ('"model.hidden" = { low = 8, high = 4 }', "model.hidden must have low < high, got 8 and 4"),
        (
            '"train.lr" = { low = 0, high = 1, log = true }',
            "train.lr must have low < high and above 0, where log = true",
        ),
        ('"model.output_dropout" = { low = 0.1, high = 1.5 }', "model.output_dropout"),
        (
            '"model.hidden" = { low = 4, high = 8, step = 0 }',
            "model.hidden must have as step an integer > 0 and <= high - low, got 0",
        ),
        ('"model.hidden" = { low = 4, high = 8, step = 1.5 }', "step an integer > 0 and <= high - low, got 1.5"),
        ('"train.lr" = { low = 0.1, high = 0.2, step = 1 }', "step a number > 0 and <= high - low, got 1"),
        (
            '"model.hidden" = { low = 4, high = 8, log = "yes" }',
            "model.hidden must have as log true or false, got 'yes'",
        ),
        ('"model.hidden" = 4', "model.hidden must be a list of choices or { low = , high = }"),
        ('"tokenizer.vocab_size" = [100, 200]', "tokenizer.vocab_size changes what held-out scores are of"),
    ],
)
def test_a_range_that_cannot_hold_is_told_before_anything_is_trained(
    content: str, message: str, tmp_path: Path, text: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        ranges(tmp_path, text, content)
    assert message in str(caught.value)


@pytest.mark.parametrize("storage", ["foo://x", "sqlite:////nowhere/x.db", "{tmp}/text.txt"])
def test_a_storage_that_cannot_be_opened_is_told(storage: str, tmp_path: Path, text: Path) -> None:
    storage = storage.format(tmp=tmp_path)
    with pytest.raises(ConfigError) as caught:
        sweep.sweep(maker(text), tmp_path / "s", ranges(tmp_path, text), trials=1, storage=storage, say=lambda _: None)
    assert str(caught.value).startswith(f"--storage {storage}: ")
    assert "\n" not in str(caught.value)
