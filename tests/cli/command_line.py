"""The command line called in this process, and how small its runs are."""

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path

from seqgen.cli import app

SMALL = [
    *("model.hidden=12", "model.embedding=12", "train.batch=8", "train.steps=6", "train.eval_every=3"),
    *("train.save_every=3", "train.log_every=2", "train.samples=10", "train.show=3"),
]


SEQGAN = [word.replace("model.", "model.policy.") for word in SMALL]


@dataclass(frozen=True)
class Ended:
    """How a command line ended."""

    code: int
    out: str
    err: str


def call(*arguments: str | Path) -> Ended:
    """Run the application on these arguments, as `seqgen ARGUMENTS` would."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = app.main([str(argument) for argument in arguments])
    return Ended(code, out.getvalue(), err.getvalue())
