"""What makes a folder a run; without torch, as the command line asks before it imports that."""

import os
import re
from pathlib import Path

CONFIG = "config.toml"
"""The file of settings, written last: with it a folder is a run."""


def is_run(path: str | os.PathLike[str]) -> bool:
    """Return whether a path is the folder of a run."""
    return (Path(path) / CONFIG).is_file()


def seed_runs(path: str | os.PathLike[str]) -> list[str]:
    """Return the runs seed-N in a folder that `train --seeds` made, by N; of any other path the path alone."""
    found = {int(one.name[5:]): str(one) for one in Path(path).glob("seed-*") if re.fullmatch(r"seed-\d+", one.name)}
    runs = [one for _, one in sorted(found.items()) if is_run(one)]
    return [os.fspath(path)] if is_run(path) or not runs else runs
