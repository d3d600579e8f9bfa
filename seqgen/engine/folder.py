"""What makes a folder a run; without torch, as the command line asks before it imports that."""

import os
from pathlib import Path

CONFIG = "config.toml"
"""The file of settings, written last: with it a folder is a run."""


def is_run(path: str | os.PathLike[str]) -> bool:
    """Return whether a path is the folder of a run."""
    return (Path(path) / CONFIG).is_file()
