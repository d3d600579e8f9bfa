"""Files that appear whole or not at all: written beside, flushed to disk, renamed into place; the files of a folder."""

import contextlib
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from seqgen.core.errors import DataError


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole; on any error the old one, or none, is left."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    _fsync(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file whole, newlines as given."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write an object as indented JSON; NaN and infinity are refused (ValueError)."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """The object in a JSON file; DataError names the file and line of what is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON ({error}); the file is truncated or altered") from None


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which appears under its name, replacing an old one, only when the block ends well."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        yield beside
        for file in beside.rglob("*"):
            if file.is_file():
                _fsync(file)
        _fsync(beside)
        if path.exists():
            shutil.rmtree(path)
        beside.replace(path)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    _fsync(path.parent)


def sha256_file(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_below(folder: Path) -> list[Path]:
    """Return the files in a folder and in all folders below it, ordered by their paths.

    Links are followed, but not into a folder that is being walked already. Left out are hidden names (which covers
    `._*` and `.ipynb_checkpoints`), `__MACOSX`, and what is no file, such as a named pipe. DataError names a folder
    that cannot be listed and a link that leads nowhere.
    """
    found: list[Path] = []
    waiting: list[tuple[Path, frozenset[Path]]] = [(folder, frozenset())]
    while waiting:
        here, above = waiting.pop()
        try:
            above |= {here.resolve()}
            for path in here.iterdir():
                if path.name.startswith(".") or path.name == "__MACOSX":
                    continue
                mode = path.stat().st_mode
                if stat.S_ISREG(mode):
                    found.append(path)
                elif stat.S_ISDIR(mode) and path.resolve() not in above:
                    waiting.append((path, above))
        except OSError as error:
            name = error.filename or here
            why = "a link that leads nowhere" if isinstance(error, FileNotFoundError) else error.strerror or error
            raise DataError(f"{name}: cannot be read ({why}); mend it or remove it from {folder}") from None
    return sorted(found)
