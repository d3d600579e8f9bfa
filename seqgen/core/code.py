"""Python files of one's own: a reward, a model. Importing one runs it, so only what a call names is imported.

Settings that were read from a run folder or a file never lead here (SECURITY.md).
"""

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

from seqgen.core.errors import ConfigError


def imported(file: str | os.PathLike[str], *, option: str) -> ModuleType:
    """Import a Python file, whose own code runs, and return its module; ConfigError names the `option` that led here.

    The module's name is its own, so that nothing that is installed is hidden by it.
    """
    path = Path(file).absolute()
    if path.suffix != ".py":
        raise ConfigError(f"{option} must be a Python file, FILE.py, got {file}")
    if not path.is_file():
        raise ConfigError(f"{option}: {file}: no such file")
    spec = importlib.util.spec_from_file_location(
        f"seqgen_{option.strip(chr(45)).rpartition(chr(46))[2]}_{path.stem}", path
    )
    assert spec is not None, "the name ends with .py"
    assert spec.loader is not None, "the name ends with .py"
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ConfigError(f"{option}: {file} cannot be imported: {type(error).__name__}: {error}") from error
    return module
