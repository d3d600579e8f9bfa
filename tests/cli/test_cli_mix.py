"""`seqgen mix` on the command line."""

import json
from collections.abc import Callable
from pathlib import Path

from command_line import SMALL, Ended


def test_a_run_is_mixed_with_n_grams_and_used_as_any_run(
    run: Path, lines: Path, tmp_path: Path, seqgen: Callable[..., Ended]
) -> None:
    mixed = seqgen("mix", run, "--held-out", lines, "--out", tmp_path / "mixed", "--order", "3")
    assert mixed.code == 0, mixed.err
    assert [row.split()[0] for row in mixed.out.splitlines()[2:]] == [str(run), "kneser-ney", "mixture"]
    assert "on 576 lines, each by weights that others chose; gains in nats per line, ± standard error" in mixed.err
    assert seqgen("generate", tmp_path / "mixed", "--count", "3").out.count("\n") == 3
    scored = seqgen("score", tmp_path / "mixed", lines, "--json")
    assert scored.code == 0, scored.err
    columns = seqgen("compare", tmp_path / "mixed", run, "--references", lines, "--count", "20")
    assert columns.code == 0, columns.err
    again = seqgen("mix", run, "--held-out", lines, "--out", tmp_path / "other", "--order", "3", "--json")
    parts = json.loads(again.out)["parts"]
    assert f"{parts[1]['weight']:.4f}" in mixed.out
    # the same folder again, and training it, are refused
    assert seqgen("mix", run, "--held-out", lines, "--out", tmp_path / "mixed").code == 2
    ended = seqgen("train", "--out", tmp_path / "mixed")
    assert (ended.code, ended.err.splitlines()[-1]) == (
        2,
        "error: a run of mixture is not trained; it is made by: seqgen mix",
    )


def test_what_cannot_be_mixed_is_one_line(
    run: Path, running: Path, held_out: Path, lines: Path, text: Path, tmp_path: Path, seqgen: Callable[..., Ended]
) -> None:
    vae = tmp_path / "vae"
    assert seqgen("train", "text-vae", "--data", text, "--out", vae, *SMALL, "train.steps=1").code == 0
    for words, fault in [
        ([run, "--held-out", held_out], "--held-out needs 500 lines that no run was trained on, got 36; give more"),
        ([run, running, "--held-out", lines], f"{running} has another tokenizer than {run}, and runs are mixed token"),
        (
            [running, "--held-out", lines],
            "kneser-ney learns lines without conditions; got data.mode = stream, expected",
        ),
        (["kneser-ney", "--held-out", lines], "name a run first: kneser-ney takes its tokens and training lines"),
        (
            [run, vae, "--held-out", lines],
            f"{vae} is a run of text-vae and cannot be mixed; these can: lm, gpt, seqgan",
        ),
        ([text, "--held-out", lines], f"{text} is not a run folder"),
        (
            [run, "--held-out", lines, "--order", "10"],
            "--order must be in 1..9, got 10",
        ),
        ([run], "--held-out is missing"),
    ]:
        ended = seqgen("mix", *words, "--out", tmp_path / "new")
        assert ended.code == 2
        assert fault in ended.err, ended.err
        assert not (tmp_path / "new").exists()
