"""`seqgen train --sweep` and `--seeds`, as typed."""

import json
from pathlib import Path
from typing import Any

import pytest

SMALL = [
    "model.hidden=4",
    "model.embedding=4",
    "train.batch=8",
    "train.steps=4",
    "train.eval_every=2",
    "train.samples=0",
]


@pytest.fixture
def ranges(tmp_path: Path) -> Path:
    path = tmp_path / "ranges.toml"
    path.write_text('"train.lr" = { low = 1e-3, high = 1e-2, log = true }\n')
    return path


def test_a_sweep_says_each_trial_and_what_to_type_next(seqgen: Any, text: Path, ranges: Path, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    out = tmp_path / "sweep"
    ended = seqgen("train", "lm", "--data", text, "--out", out, "--sweep", ranges, "--trials", "2", *SMALL)
    assert (ended.code, ended.out) == (0, "")
    assert "trial-0: train.lr=0.00" in ended.err
    assert ended.err.endswith(
        f"all trials are in {out}/trials.tsv and, drawn, in {out}/trials.png; "
        f"next: seqgen train --config {out}/best.toml --data FILE --out RUN\n"
    )
    again = seqgen("train", "--config", out / "best.toml", "--data", text, "--out", tmp_path / "run")
    assert again.code == 0
    lines = (out / "trials.tsv").read_text().splitlines()
    best = lines[1].split("\t")
    scores = [json.loads(line) for line in (tmp_path / "run" / "scores.jsonl").read_text().splitlines()]
    assert min(row["nll_per_token"] for row in scores) == pytest.approx(float(best[2]), rel=1e-4)


def test_a_run_for_each_seed_is_the_run_of_that_seed(seqgen: Any, text: Path, tmp_path: Path) -> None:
    several = tmp_path / "several"
    ended = seqgen("train", "lm", "--data", text, "--out", several, "--seeds", "3,1", *SMALL)
    assert ended.code == 0
    assert "over 2 seeds\n" in ended.err
    assert ended.err.endswith(f"next: seqgen compare {several} --references FILE\n")
    table = seqgen("compare", several, "--references", text, "--count", 4, "--columns", "nll_per_line").out.splitlines()
    assert table[2].split(" | ")[0].endswith("several")
    assert table[2].endswith(" (n = 2) |")
    one = tmp_path / "one"
    assert seqgen("train", "lm", "--data", text, "--out", one, "seed=3", *SMALL).code == 0
    assert (several / "seed-3" / "log.jsonl").read_bytes() == (one / "log.jsonl").read_bytes()
    assert (several / "seed-1" / "log.jsonl").read_bytes() != (one / "log.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seeds", "1,1"], "--seeds must be different integers separated by commas, got '1,1'"),
        (["--seeds", "a"], "--seeds must be different integers separated by commas, got 'a'"),
        (["--seeds", "1,2", "seed=3"], "--seeds and seed=: give one"),
        (["--trials", "3"], "--trials takes no effect without --sweep"),
        (["--storage", "x"], "--storage takes no effect without --sweep"),
        (["--sweep", "none.toml", "--trials", "0"], "--trials must be an integer >= 1, got 0"),
        (["--sweep", "none.toml"], "none.toml: no such file of ranges"),
    ],
)
def test_what_does_not_go_together_is_told(
    words: list[str], message: str, seqgen: Any, text: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    ended = seqgen("train", "lm", "--data", text, "--out", out, *words)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.splitlines()[-1] == f"error: {message}"
    assert not out.exists()
