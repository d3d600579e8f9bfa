"""`seqgen refine` on the command line, and --resample of the commands that use its runs."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import Ended, call


@pytest.fixture(scope="module")
def refined(run: Path, lines: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("refine") / "refined"
    ended = call("refine", run, "--held-out", lines, "--out", out)
    assert ended.code == 0, ended.err
    assert [row.split()[0] for row in ended.out.splitlines()[2:]] == ["run", "q_4", "q_16", "q_64"]
    assert "on 288 lines held back, ± standard error; critic of 288 lines and 8192 texts: L2" in ended.err
    assert f"next: seqgen generate {out} --count 5" in ended.err
    return out


def test_a_refined_run_is_used_as_any_run(
    refined: Path,
    run: Path,
    lines: Path,
    tmp_path: Path,
    seqgen: Callable[..., Ended],
) -> None:
    five = seqgen("generate", refined, "--count", "5").out.splitlines()
    assert seqgen("generate", refined, "--count", "2").out.splitlines() == five[:2]
    as_it_was = seqgen("generate", refined, "--count", "3", "--resample", "1", "--temperature", "0.5").out
    assert as_it_was == seqgen("generate", run, "--count", "3", "--temperature", "0.5").out
    four = [json.loads(row) for row in seqgen("score", refined, lines, "--resample", "4", "--json").out.splitlines()]
    base = [json.loads(row) for row in seqgen("score", run, lines, "--json").out.splitlines()]
    gains = {row["line"]: row["log_prob"] for row in four}
    assert sum(gains.values()) > sum(row["log_prob"] for row in base)
    judged = seqgen("score", refined, lines, "--by", "critic", "--json")
    assert "up to a constant" in judged.err
    scores = {row["line"]: row["critic_score"] for row in map(json.loads, judged.out.splitlines())}
    # log q_n - log p rises with the critic's score and with nothing else
    rising = sorted(scores, key=scores.__getitem__)
    gained = [gains[line] - next(row["log_prob"] for row in base if row["line"] == line) for line in rising]
    assert gained == pytest.approx(sorted(gained), abs=1e-9)  # differences of nearly equal numbers
    compared = seqgen("compare", run, refined, "--references", lines, "--count", "20", "--resample", "2", "--json")
    assert compared.code == 0, compared.err
    table = json.loads(compared.out)
    signatures = [entry["scores"][0]["nll_per_character"]["signature"] for entry in table["entries"][:2]]
    assert ["resample:2" in signature for signature in signatures] == [False, True]
    assert any(f"nll_per_character: {run} - {refined} = +" in test for test in table["tests"])
    drawn = seqgen("curve", refined, "--references", lines, "--count", "20", "--temperatures", "1", "--json")
    assert [point["name"] for point in json.loads(drawn.out)["points"]] == ["t = 1", "resample 16", "real text"]
    evaluated = seqgen("evaluate", refined, "--references", lines, "--count", "20")
    assert "20 samples, seed 0, temperature 1, each one of 16" in evaluated.out


def test_what_cannot_be_refined_or_resampled_is_one_line(
    refined: Path,
    run: Path,
    running: Path,
    held_out: Path,
    lines: Path,
    tmp_path: Path,
    seqgen: Callable[..., Ended],
) -> None:
    for words, fault in [
        (["refine", run, "--held-out", held_out], "--held-out needs 500 lines that no run was trained on, got 36"),
        (["refine", run], "--held-out is missing"),
        (["refine", running, "--held-out", lines], "has data.mode = stream; a critic judges lines without conditions"),
        (["refine", refined, "--held-out", lines], "is a run of refined and cannot be refined; these can: lm, gpt,"),
        (["refine", tmp_path, "--held-out", lines], f"{tmp_path} is not a run folder"),
    ]:
        ended = seqgen(*words, "--out", tmp_path / "new")
        assert (ended.code, fault in ended.err) == (2, True), ended.err
        assert not (tmp_path / "new").exists()
    start = ["train", "lm", "--data", lines, "--out", tmp_path / "new", "--from", refined]
    for words, fault in [
        (start, f"--from {refined}: a run of refined is made and not trained; take the run that it was made from"),
        (["generate", refined, "--resample", "0"], "--resample must be in 1..256, got 0"),
        (["score", refined, lines, "--resample", "257"], "--resample must be in 1..256, got 257"),
        (["generate", refined, "--top-k", "5"], "--top-k must be left out: a refined run keeps one of 16 texts that"),
        (
            ["score", refined, lines, "--by", "critic", "--per-token"],
            "the critic of a refined run looks at whole lines",
        ),
        (["generate", refined, "--stream"], "chooses among whole texts; a stream goes token by token; take the run"),
        (
            ["fill", refined, "the [MASK] sees"],
            "chooses among whole texts; filling a gap goes token by token; take the",
        ),
        (["generate", run, "--resample", "2"], "a run of lm has no critic to choose by; make one with: seqgen refine"),
        (["compare", run, "--references", lines, "--resample", "2"], "resample is for refined runs, and none is"),
        (["mix", refined, "--held-out", lines, "--out", tmp_path / "m"], "is a run of refined and cannot be mixed"),
        (["train", "--out", refined], "a run of refined is not trained; it is made by: seqgen refine"),
    ]:
        ended = seqgen(*words)
        assert (ended.code, fault in ended.err) == (2, True), ended.err
