"""`seqgen runs`."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from seqgen.core import files


@pytest.fixture
def folder(run: Path, tmp_path: Path) -> Path:
    """A folder with runs: one as it is, one of another width that is not at its end, one deeper."""
    for name in ("b", "a", "deep/er/c"):
        shutil.copytree(run, tmp_path / "runs" / name)
    config = tmp_path / "runs/b/config.toml"
    text = config.read_text()
    assert "hidden = 12" in text
    config.write_text(text.replace("hidden = 12", "hidden = 13").replace("\nsteps = 6", "\nsteps = 60"))
    (tmp_path / "runs/notes").mkdir()
    (tmp_path / "runs/up").symlink_to(tmp_path / "runs")
    return tmp_path / "runs"


def listed(seqgen: Any, *arguments: Any) -> list[dict[str, Any]]:
    ended = seqgen("runs", *arguments, "--json")
    assert (ended.code, ended.err) == (0, "")
    return [json.loads(line) for line in ended.out.splitlines()]


def test_runs_are_listed_with_what_their_folders_say(seqgen: Any, folder: Path) -> None:
    a, b, c = listed(seqgen, folder)
    assert [row["run"] for row in (a, b, c)] == [str(folder / name) for name in ("a", "b", "deep/er/c")]
    assert [(row["step"], row["steps"], row["state"]) for row in (a, b)] == [(6, 6, "finished"), (6, 60, "interrupted")]
    scores = [json.loads(line) for line in (folder / "a/scores.jsonl").read_text().splitlines()]
    assert (a["metric"], a["best"]) == ("nll_per_token", min(row["nll_per_token"] for row in scores))
    assert (a["model"], a["data"]) == ("lm", "text.txt")
    assert a["size"] == sum(path.stat().st_size for path in (folder / "a").rglob("*") if path.is_file())


def test_only_settings_that_differ_between_runs_of_a_model_are_listed(seqgen: Any, folder: Path) -> None:
    config = folder / "deep/er/c/config.toml"
    config.write_text(config.read_text().replace('name = "lm"', 'name = "other"'))
    assert [row["settings"] for row in listed(seqgen, folder)] == [{"model.hidden": 12}, {"model.hidden": 13}, {}]
    table = seqgen("runs", folder).out.splitlines()
    assert table[0].endswith("settings that differ")
    assert [line.split()[-1] for line in table[2:4]] == ["model.hidden=12", "model.hidden=13"]
    assert "model.hidden" not in table[4]


def test_a_run_that_a_process_has_is_in_training(seqgen: Any, folder: Path) -> None:
    with files.owned(folder / "b"):
        assert [row["state"] for row in listed(seqgen, folder)] == ["finished", "training", "finished"]
    assert listed(seqgen, folder / "b")[0]["state"] == "interrupted"


@pytest.mark.parametrize("sort", ["best", "changed", "size"])
def test_runs_are_sorted(seqgen: Any, folder: Path, sort: str) -> None:
    with (folder / "b/timing.jsonl").open("a") as log:
        log.write("\n")  # one byte more, and later
    rows = listed(seqgen, folder, "--sort", sort)
    assert rows[0]["run"] == str(folder / ("a" if sort == "best" else "b"))


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda run: (run / "config.toml").unlink(), "checkpoints without config.toml"),
        (lambda run: (run / "config.toml").write_text("x = ["), "not TOML"),
        (lambda run: (run / "config.toml").write_text('name = "lm"\nformat = 1\n'), "data is missing or wrong"),
        (lambda run: next(run.glob("checkpoints/step-*6/state.json")).write_text("{"), "state.json"),
        (lambda run: (run / "scores.jsonl").write_text("[1]\n"), "line 1: not a JSON object"),
        (lambda run: (run / "config.toml").write_bytes(b"\xff\xfe\n"), "config.toml"),
    ],
)
def test_a_broken_run_is_named_with_the_reason(seqgen: Any, folder: Path, spoil: Any, why: str) -> None:
    spoil(folder / "b")
    ended = seqgen("runs", folder)
    assert ended.code == 0
    assert len(ended.out.splitlines()) == 2 + 2
    assert ended.err.startswith(str(folder / "b"))
    assert why in ended.err
    assert ended.err.count("\n") == 1
    assert why in next(row for row in listed(seqgen, folder) if "broken" in row)["broken"]


def test_a_folder_without_runs_is_no_error_and_one_that_is_not_there_is(seqgen: Any, tmp_path: Path) -> None:
    ended = seqgen("runs", tmp_path)
    assert (ended.code, ended.out) == (0, "")
    assert ended.err == f"no run below {tmp_path}; train one with: seqgen train MODEL --out {tmp_path}/NAME\n"
    ended = seqgen("runs", tmp_path / "none")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(f"error: {tmp_path}/none is no folder; ")


def test_nothing_is_written_and_torch_is_not_imported(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    script = (
        "import sys; from seqgen.cli import app; code = app.main(['runs', sys.argv[1]]); "
        "sys.exit(code or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script, folder], capture_output=True, check=False).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
