"""A run that is made of other runs and not trained: its folder, and the held-out lines that decide about it."""

import contextlib
import os
from collections.abc import Iterator, Sequence, Set
from pathlib import Path
from typing import Any

import torch
from torch import nn

from seqgen.core import config as settings_of
from seqgen.core import files, log
from seqgen.core.errors import DataError, RunError
from seqgen.data.prepare import TextData
from seqgen.engine import checkpoint, loop
from seqgen.engine import run as runs
from seqgen.engine.folder import CONFIG, is_run
from seqgen.engine.generate import TextGenerator
from seqgen.engine.loading import load

KNESER_NEY = "kneser-ney"
"""The word for an n-gram model of the first run's training lines, in the place of a run."""
FEWEST = 500


@contextlib.contextmanager
def new_run(out: str | os.PathLike[str]) -> Iterator[Path]:
    """Own the folder of a run that is made and not trained; RunError where there is one already, or other files."""
    folder = Path(out)
    if is_run(folder):
        raise RunError(f"{folder} is a run already; use another --out, or remove it")
    with files.owned(folder):
        loop.check_new(folder)
        yield folder


def seen(generator: TextGenerator, data: TextData) -> set[str]:
    """Return the lines that a run was trained on, whose text is `data`; of a mixture those of its other runs too.

    A warning names a part whose text is another one and not at hand.
    """
    known = {line.strip() for line in data.train_lines}
    assert generator.folder is not None
    for name in files.read_json(generator.folder / "env.json").get("mixed_from", ()):
        if name == KNESER_NEY:  # counted on the first run's text
            continue
        try:
            if files.read_object(Path(name) / "env.json", data_sha256=str)["data_sha256"] != data.fingerprint:
                known.update(line.strip() for line in load(name).own_text().train_lines)
        except (DataError, RunError, OSError) as error:
            log.messages.warning("lines of the training text of %s cannot be told: %s", name, error)
    return known


def unseen(
    known: Set[str], lines: Sequence[str], sources: Sequence[str] | None = None
) -> tuple[list[str], list[str] | None]:
    """Return the lines, with their conditions, that are not known from training and not blank; DataError for too few.

    A message says how many were left out.
    """
    rows = [row for row, text in enumerate(lines) if text.strip() and text.strip() not in known]
    left_out = sum(1 for text in lines if text.strip()) - len(rows)
    if len(rows) < FEWEST:
        raise DataError(
            f"--held-out needs {FEWEST} lines that no run was trained on, got {len(rows)}"
            + (f" and {left_out} of the training text" if left_out else "")
            + "; give more"
        )
    if left_out:
        log.messages.info("%d held-out lines stand in the training text and are left out", left_out)
    return [lines[row] for row in rows], None if sources is None else [sources[row] for row in rows]


def write(
    folder: Path, first: TextGenerator, settings: runs.Settings, model: nn.Module, origin: dict[str, Any]
) -> None:
    """Write the folder of a run made from others, `first` above all; `origin` joins what env.json holds.

    The settings come last, because they are what makes it a run.
    """
    assert first.folder is not None
    first.tokenizer.save(folder / "tokenizer")
    text = files.read_object(first.folder / "env.json", data_sha256=str)["data_sha256"]
    files.write_json(folder / "env.json", runs.environment(torch.device("cpu")) | {"data_sha256": text} | origin)
    checkpoint.save(folder, 0, model, {}, {}, loop.state_at_first())
    files.write_text(folder / CONFIG, settings_of.to_toml(settings.sections()))
