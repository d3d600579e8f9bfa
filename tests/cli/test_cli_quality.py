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
