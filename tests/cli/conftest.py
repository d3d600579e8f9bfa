"""A small text, and small runs made once by the command line."""

import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import SMALL, Ended, call


@pytest.fixture
def seqgen() -> Callable[..., Ended]:
    return call


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Set what standard input holds."""

    def holds(text: str) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))

    return holds


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """144 sentences of a tiny grammar."""
    nouns, verbs = ["cat", "dog", "man", "bird"], ["sees", "likes", "follows"]
    lines = [
        f"the {a} {v} the {b} {n} ." for a in nouns for v in verbs for b in nouns for n in ("here", "there", "now")
    ]
    path = tmp_path_factory.mktemp("cli-text") / "text.txt"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


@pytest.fixture(scope="session")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """36 sentences of the same words, none of which stands in the text."""
    nouns, verbs = ["cat", "dog", "man", "bird"], ["sees", "likes", "follows"]
    path = tmp_path_factory.mktemp("cli-text") / "held-out.txt"
    path.write_text("".join(f"the {a} {v} the {b} .\n" for a in nouns for v in verbs for b in nouns[1:]))
    return path


@pytest.fixture(scope="session")
def lines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """576 lines of the small text's words that it does not have."""
    nouns, verbs, ends = ["cat", "dog", "man", "bird"], ["sees", "likes", "follows"], ["here", "there", "now"]
    made = [f"the {a} {v} the {b} {c} {d} ." for a in nouns for v in verbs for b in nouns for c in ends for d in ends]
    made += [f"the {a} {v} {c} the {b} ." for a in nouns for v in verbs for b in nouns for c in ends]
    path = tmp_path_factory.mktemp("cli-text") / "lines.txt"
    path.write_text("".join(f"{line}\n" for line in made))
    return path


def trained(*arguments: str | Path) -> None:
    ended = call("train", *arguments)
    assert ended.code == 0, ended.err


@pytest.fixture(scope="session")
def run(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on lines, with checkpoints of the steps 3 and 6; nobody writes into it."""
    out = tmp_path_factory.mktemp("cli-runs") / "lines"
    trained("lm", "--data", text, "--out", out, *SMALL, "train.keep=5", "train.lr=0.02")
    return out


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on running text of characters; nobody writes into it."""
    folder = tmp_path_factory.mktemp("cli-runs")
    (folder / "play.txt").write_text("to be, or not to be:\nthat is the question.\n\n" * 40)
    options = ["tokenizer.kind=char", "data.mode=stream", "data.window=8"]
    trained("lm", "--data", folder / "play.txt", "--out", folder / "running", *SMALL, *options)
    return folder / "running"


@pytest.fixture(scope="session")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on labelled lines, conditions and text from a table; nobody writes into it."""
    folder = tmp_path_factory.mktemp("cli-runs")
    rows = [f"{label}\tit was {word} {n}" for label, word in (("up", "good"), ("down", "bad")) for n in "abcdefghijkl"]
    (folder / "rows.tsv").write_text("".join(f"{row}\n" for row in ["label\tbody", *rows]))
    options = ["data.source=label", "data.target=body", "tokenizer.kind=word", "data.max_length=8"]
    trained("lm", "--data", folder / "rows.tsv", "--out", folder / "labelled", *SMALL, *options)
    return folder / "labelled"
