"""A small text and a small trained run, made once."""

from pathlib import Path

import pytest

from seqgen.engine import loop
from seqgen.engine.run import config

SMALL = ("model.hidden=16", "model.embedding=16", "train.samples=10", "train.log_every=2", "train.batch=8")


def small_text(path: Path) -> Path:
    nouns, verbs = ["cat", "dog", "man", "bird"], ["sees", "likes", "follows"]
    lines = [
        f"the {a} {v} the {b} {n} ." for a in nouns for v in verbs for b in nouns for n in ("here", "there", "now")
    ]
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_text(tmp_path_factory.mktemp("text") / "text.txt")


@pytest.fixture(scope="session")
def trained(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on lines, trained until its sentences mostly stand; nobody writes into it."""
    out = tmp_path_factory.mktemp("runs") / "trained"
    chosen = config("lm", text, overrides=[*SMALL, "train.steps=150", "train.lr=0.02", "model.hidden=32"])
    loop.train(chosen, out)
    return out
