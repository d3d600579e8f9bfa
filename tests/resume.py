"""Trainings that are killed and started again, and what must not differ from one that was not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seqgen.engine import checkpoint, loop
from seqgen.engine.progress import Progress


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


def kill_at(step: int) -> Callable[[Progress], None]:
    def watch(progress: Progress) -> None:
        if progress.step == step:
            raise Killed

    return watch


def outcome(run: Path) -> dict[str, bytes]:
    """The files of the last checkpoint, the samples, the logs; anything half-written must be gone."""
    last = checkpoint.folder_of(run, checkpoint.steps(run)[-1])
    paths = [*last.iterdir(), *(run / "samples").iterdir(), run / "log.jsonl", run / "scores.jsonl"]
    paths += [path for path in run.rglob("*.tmp") if path.name.startswith(".")]
    return {path.relative_to(run).as_posix(): path.read_bytes() for path in paths}


def uninterrupted(settings: Any, run: Path) -> dict[str, bytes]:
    """What a training leaves that nothing disturbs."""
    loop.train(settings, run)
    return outcome(run)


def interrupted(settings: Any, run: Path, *steps: int) -> dict[str, bytes]:
    """What a training leaves that is killed at each of these steps and then goes to its end."""
    for step in steps:
        with pytest.raises(Killed):
            loop.train(settings, run, progress=kill_at(step))
    return uninterrupted(settings, run)
