"""`seqgen corpus filter`, as typed, on a text with noise of known kinds."""

import csv
import random
from pathlib import Path
from typing import Any

import pytest


def dropped(path: Path) -> dict[int, str]:
    with path.open(encoding="utf-8", newline="") as file:
        return {int(row["line"]): row["reason"] for row in csv.DictReader(file, delimiter="\t")}


@pytest.fixture
def noisy(text: Path, tmp_path: Path) -> tuple[Path, set[int]]:
    """The 144 sentences, with ten that are shuffled, and the numbers of those."""
    drawn = random.Random(1)
    lines = text.read_text().splitlines()
    for _ in range(10):
        words = drawn.choice(lines[:50]).split()
        drawn.shuffle(words)
        lines.insert(drawn.randrange(len(lines)), "# " + " ".join(words))
    path = tmp_path / "noisy.txt"
    wrong = {number for number, line in enumerate(lines, 1) if line.startswith("#")}
    path.write_text("".join(f"{line.removeprefix('# ')}\n" for line in lines))
    return path, wrong


def test_shuffled_lines_are_the_least_likely(
    seqgen: Any, text: Path, noisy: tuple[Path, set[int]], tmp_path: Path
) -> None:
    path, wrong = noisy
    run = tmp_path / "run"
    assert seqgen("train", "kneser-ney", "--data", text, "--out", run).code == 0
    keep, drop = tmp_path / "keep.txt", tmp_path / "drop.tsv"
    ended = seqgen("corpus", "filter", run, path, "--outliers", "10", "--keep", keep, "--drop", drop)
    assert ended.code == 0
    found = dropped(drop)
    assert len(found) == 10
    assert set(found) == wrong
    lines = path.read_text().splitlines()
    assert keep.read_text().splitlines() == [line for n, line in enumerate(lines, 1) if n not in found]
    assert ended.err.endswith(f"144 of 154 lines in {keep}; 10 unlikely\n")


def test_repetitions_are_told_with_the_line_that_they_repeat(seqgen: Any, tmp_path: Path) -> None:
    text, other, keep, drop = (tmp_path / name for name in ("a.txt", "b.txt", "keep.txt", "drop.tsv"))
    text.write_text("one two three four\nx = 1\none two three four \n\none two three five\nheld out line\nx = (\n")
    other.write_text("held out line\n")
    how = ["--duplicates", "--near", "0.4", "--against", other, "--keep", keep, "--drop", drop]
    assert seqgen("corpus", "filter", text, *how).code == 0
    assert dropped(drop) == {3: "equals line 1", 4: "blank", 5: "nearly line 1", 6: "stands in the other file"}
    assert keep.read_text() == "one two three four\nx = 1\nx = (\n"
    assert seqgen("corpus", "filter", text, "--rule", "python", "--keep", keep, "--drop", drop).code == 0
    assert keep.read_text() == "x = 1\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["T"], "nothing to drop; give --outliers, --percentile, --duplicates, --near or --rule"),
        (["T", "T", "--duplicates"], "expected [RUN] FILE, got T T; T is no run"),
        (["T", "--outliers", "1%"], "--outliers needs a run before the file"),
        (["R", "T", "--duplicates"], "R takes no effect without --outliers"),
        (["T", "--near", "2"], "--near must be in 0..1, got 2"),
        (["T", "--rule", "rust"], "unknown rule 'rust'; known: python, molecules"),
        (["T", "--rule", "molecules"], "T: no line would stay; nothing was written"),
    ],
)
def test_what_cannot_be_done_is_told_and_nothing_is_written(
    words: list[str], message: str, seqgen: Any, run: Path, text: Path, tmp_path: Path
) -> None:
    if "molecules" in words:
        pytest.importorskip("rdkit")
    paths = {"T": str(text), "R": str(run)}
    keep = tmp_path / "keep.txt"
    ended = seqgen("corpus", "filter", *(paths.get(word, word) for word in words), "--keep", keep)
    for name, path in paths.items():
        message = " ".join(
            word.replace(name, path) if word.strip(":;,") == name else word for word in message.split(" ")
        )
    assert (ended.code, ended.out, ended.err) == (2, "", f"error: {message}\n")
    assert not keep.exists()


SMALL_RUN = [
    "model.hidden=8",
    "model.embedding=8",
    "train.steps=4",
    "train.batch=8",
    "train.eval_every=4",
    "train.samples=4",
]


def test_lines_of_each_label_are_written_and_counted(seqgen: Any, tmp_path: Path) -> None:
    text, out = tmp_path / "text.tsv", tmp_path / "more.tsv"
    rows = [f"{label}\tthe {label} {noun} {verb}" for label in ("old", "new") for noun in "abc" for verb in "xyz"]
    text.write_text("label\ttext\n" + "\n".join(rows) + "\n")
    how = ["--per-class", "3", "--no-check", "--near", "0"]
    ended = seqgen("corpus", "augment", text, *how, "--out", out, *SMALL_RUN)
    assert (ended.code, ended.out) == (0, "")
    with out.open(encoding="utf-8", newline="") as file:
        made = list(csv.DictReader(file, delimiter="\t"))
    assert {row["label"] for row in made} == {"old", "new"}
    known = {row.split("\t")[1] for row in rows}
    assert not known & {row["text"] for row in made}
    assert "new: 3 of " in ended.err
    again = seqgen("corpus", "augment", text, *how, "--from", tmp_path / "more-run", "--out", tmp_path / "b.jsonl")
    assert again.code == 0
    assert (tmp_path / "b.jsonl").read_text().count("\n") == len(made)


@pytest.mark.parametrize(
    ("content", "words", "message"),
    [
        ("label\ttext\nx\ta\nx\tb\ny\tc\n", [], "label 'y' has 1 line; expected at least 2 of each"),
        ("label\ttext\nx\ta\n\tb\n", [], "T, line 3: no label"),
        ("label\ttext\nx\ta\ny\tb\n", ["--out", "more.txt"], "--out must end in .tsv or .jsonl, got more.txt"),
        (
            "label\ttext\nx\ta\ny\tb\n",
            ["--from", "r", "model.hidden=8"],
            "--from r is trained already; it excludes model.hidden=8",
        ),
        ("class\ttext\nx\ta\ny\tb\n", [], "T, line 1: no column 'label'; there are 'class', 'text'"),
    ],
)
def test_labelled_text_that_cannot_be_used_is_told(
    content: str, words: list[str], message: str, seqgen: Any, tmp_path: Path
) -> None:
    text = tmp_path / "text.tsv"
    text.write_text(content)
    ended = seqgen("corpus", "augment", text, "--out", tmp_path / "more.tsv", *words)
    assert (ended.code, ended.out, ended.err) == (2, "", f"error: {message.replace('T, line', f'{text}, line')}\n")
    assert [path.name for path in tmp_path.iterdir()] == ["text.tsv"]
