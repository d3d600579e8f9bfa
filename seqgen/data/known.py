"""What comes with the package by name, and the public sets it knows.

Run: seqgen corpus list, seqgen corpus get NAME
"""

from pathlib import Path


def corpora_folder() -> Path:
    """The folder of grammars and corpora: inside an installed package, at the root of a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "corpora"
    return installed if installed.is_dir() else package.parent / "corpora"
