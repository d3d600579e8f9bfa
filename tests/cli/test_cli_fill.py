"""`seqgen fill` on the command line, and how the other commands mark a run whose likelihood is bounded."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import SMALL, Ended, call


@pytest.fixture(scope="module")
def masked(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cli-runs") / "masked"
    small = [word for word in SMALL if not word.startswith("model.embedding")]
    ended = call("train", "masked", "--data", text, "--out", out, *small, "model.heads=2", "train.lr=0.02")
    assert ended.code == 0, ended.err
    assert "held-out bound_per_token" in ended.err
    return out


def test_texts_are_filled_from_arguments_files_and_standard_input(
    masked: Path, tmp_path: Path, seqgen: Callable[..., Ended], stdin: Callable[[str], None]
) -> None:
    given = "the [MASK] sees the [MASK] ."
    ended = seqgen("fill", masked, given, "--count", 2, "--seed", 3)
    assert (ended.code, ended.err, len(ended.out.splitlines())) == (0, "", 2)
    stdin(f"{given}\n")
    assert seqgen("fill", masked, "--texts", "-", "--count", 2, "--seed", 3).out == ended.out
    (tmp_path / "texts.txt").write_text(f"{given}\n")
    detailed = seqgen("fill", masked, "--texts", tmp_path / "texts.txt", "--count", 2, "--seed", 3, "--json").out
    rows = [json.loads(line) for line in detailed.splitlines()]
    assert [row["text"] for row in rows] == ended.out.splitlines()
    assert [list(row) for row in rows] == [["seed", "text", "given", "index", "words", "log_probs"]] * 2


def test_a_run_from_left_to_right_says_that_it_sees_one_side(run: Path, seqgen: Callable[..., Ended]) -> None:
    ended = seqgen("fill", run, "the [MASK] sees the dog .")
    assert ended.code == 0
    assert ended.err == "lm sees the text before a gap alone; --best-of N looks at the whole text too\n"
    assert seqgen("fill", run, "the [MASK] sees the dog .", "--best-of", 4).err == ""


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        ([], "give texts with [MASK] for each gap, or --texts FILE"),
        (["a [MASK]", "--texts", "f"], "give texts with [MASK] for each gap, or --texts FILE, not both"),
        (["the cat"], "text 1 has no gap: 'the cat'; write [MASK] for each token to be filled in"),
        (["the [MASK]", "--best-of", "2"], "best_of compares exact probabilities of texts, which a run of masked does"),
        (["the [MASK]", "--count", "0"], "--count must be an integer >= 1, got 0"),
    ],
)
def test_bad_input_is_one_line(words: list[str], fault: str, masked: Path, seqgen: Callable[..., Ended]) -> None:
    ended = seqgen("fill", masked, *words)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(f"error: {fault}")
    assert ended.err.count("\n") == 1


def test_a_bound_is_marked_by_score_evaluate_compare_and_report(
    masked: Path, run: Path, held_out: Path, seqgen: Callable[..., Ended]
) -> None:
    scored = seqgen("score", masked, held_out)
    assert scored.out.splitlines()[0].split("\t")[1:5] == [
        *("bound_log_prob", "tokens", "bound_nats_per_token", "bound_worst_token"),
    ]
    assert "at most" in scored.err
    assert "an upper bound by 8 draws of masks, not to be compared with exact values" in scored.err
    table = seqgen("evaluate", masked, "--references", held_out, "--count", 20).out
    assert "bound_per_character" in table
    assert "by:8 draws of masks (bound)" in table
    assert "bound_per_token" in (masked / "report.html").read_text()
    both = seqgen("compare", masked, run, "--references", held_out, "--count", 20).out
    assert {"bound_per_character ↓", "nll_per_character ↓"} <= {
        cell.strip() for cell in both.splitlines()[0].split("|")
    }
    ended = seqgen("mix", masked, "kneser-ney", "--held-out", held_out, "--out", masked.parent / "mixed")
    assert ended.code == 2
    assert ended.err.count("\n") == 1, ended.err
    assert seqgen("generate", masked, "--json").code == 0
    assert "need a model that writes from left to right" in seqgen("generate", masked, "--template", "the ???").err
    assert seqgen("generate", masked, "--denoising-steps", 2, "--count", 3).code == 0
