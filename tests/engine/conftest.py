"""A small text and a small trained run, made once."""

from pathlib import Path

import pytest
from small_run import SMALL, held_out_lines, small_text

from seqgen.engine import loop
from seqgen.engine.run import config


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_text(tmp_path_factory.mktemp("text") / "text.txt")


@pytest.fixture(scope="session")
def held_out() -> list[str]:
    return held_out_lines()


@pytest.fixture(scope="session")
def trained(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on lines, trained until its sentences mostly stand; nobody writes into it."""
    out = tmp_path_factory.mktemp("runs") / "trained"
    chosen = config("lm", text, overrides=[*SMALL, "train.steps=150", "train.lr=0.02", "model.hidden=32"])
    loop.train(chosen, out)
    return out
