"""Files that appear whole or not at all: written beside, flushed to disk, renamed into place; the files of a folder."""

import contextlib
import hashlib
import json
import logging
import os
import platform
import re
import shutil
import stat
import time
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from seqgen.core.errors import DataError, RunError

try:
    import fcntl
except ImportError:  # not a POSIX system; `owned` warns
    fcntl = None  # type: ignore[assignment]

ARRAY_FAULTS = (
    *(OSError, EOFError, MemoryError, RuntimeError, SyntaxError, ValueError, KeyError, OverflowError),
    *(tokenize.TokenError, zipfile.BadZipFile, zlib.error),
)
"""What numpy raises of damaged .npy and .npz files: it parses headers as Python's literals, and archives by zipfile,
which has a RuntimeError for those that call themselves encrypted."""

_LOCK = ".lock"

_GRACE_S = 1.0
"""A process that was killed just now may need a moment to end."""


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole; on any error the old one, or none, is left.

    What is no regular file, such as /dev/stdout, is written to and never replaced.
    """
    with _whole(path) as file:
        file.write(content)


@contextlib.contextmanager
def growing(path: Path) -> Iterator[Callable[[str], None]]:
    """Yield what appends text to a file, which appears whole when the block ends well; on any error the old one stays.

    What is no regular file, such as /dev/stdout, is written to and never replaced.
    """
    with _whole(path) as file:

        def append(text: str) -> None:
            file.write(text.encode())

        yield append


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[BinaryIO]:
    """Yield a file that takes the place of `path` when the block ends well; no regular file is opened itself."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            with path.open("wb") as there:
                yield there
            return
        with beside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        _name_target(error, beside, path)
        raise
    _fsync(path.parent)


def _name_target(error: BaseException, beside: Path, path: Path) -> None:
    """Let an error of the system name what was to be written, not what lies beside it."""
    if isinstance(error, OSError) and str(error.filename or beside).startswith(str(beside)):
        error.filename, error.filename2 = str(path), None


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file whole, newlines as given."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write an object as indented JSON; NaN and infinity are refused (ValueError)."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Return the object in a JSON file; DataError names the file and line of what is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON ({error}); the file is truncated or altered") from None


def read_object(path: Path, **kinds: type) -> dict[str, Any]:
    """Return the object in a JSON file, whose keys named here are there and of these types; else DataError."""
    found = read_json(path)
    for key, kind in kinds.items():
        if not isinstance(found, dict) or not isinstance(found.get(key), kind):
            raise DataError(f"{path}: {key!r} is missing or wrong; the file is altered")
    return dict(found)


@contextlib.contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Keep a folder, made where it is absent, to this process until the block ends; RunError names who has it now.

    The operating system's lock on the file `.lock` decides, and ends with its process however that ends; the number and
    host inside only inform. What killed owners left half-written is removed, and a folder that stays empty too.
    """
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    lock = folder / _LOCK
    handle = _locked(folder, lock)
    try:
        os.truncate(handle, 0)
        os.write(handle, f"process {os.getpid()} on {platform.node()}\n".encode())
        inner = [folder / name for name in ("checkpoints", "samples", "tokenizer")]
        # a checkpoint's state is written once more after its validation, inside its folder
        for place in (folder, *inner, *inner[0].glob("step-*")):
            sweep(place)
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(handle)
        with contextlib.suppress(OSError):
            for place in made:
                place.rmdir()


def in_use(folder: Path) -> bool:
    """Return whether a process has a folder to itself now, by the lock of `owned`."""
    try:
        handle = os.open(folder / _LOCK, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    except OSError:
        return False
    try:
        if fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False  # a file system without locks
    finally:
        os.close(handle)
    return False


def _locked(folder: Path, lock: Path) -> int:
    """Return an open file that holds the lock."""
    until = time.monotonic() + _GRACE_S
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(lock, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
        except (FileNotFoundError, FileExistsError):  # the owner before has just removed an empty folder, or one above
            if folder.exists() and not folder.is_dir():
                raise
            continue
        try:
            if fcntl is None:
                raise OSError("this system has no fcntl")
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(handle, 200).decode(errors="replace").strip() or "another process"
            os.close(handle)
            if time.monotonic() > until:
                raise RunError(f"{folder} is in use by {owner}; wait until it ends, or use another --out") from None
            time.sleep(_GRACE_S / 20)
            continue
        except OSError as error:
            reason = error.strerror or error
            logging.getLogger("seqgen").warning("%s cannot be locked (%s): see that one process uses it", lock, reason)
            return handle
        # the owner before may have removed the file since it was opened here
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), lock.stat(follow_symlinks=False)):
                return handle
        os.close(handle)


def sweep(folder: Path, name: str = "") -> None:
    """Remove what killed processes left half-written in a folder, of one name or of all."""
    for path in folder.iterdir() if folder.is_dir() and not folder.is_symlink() else ():
        made = re.fullmatch(rf"\.{re.escape(name) or '.*?'}(\.\d+)?\.tmp", path.name)
        if made is None or (made[1] and _lives(int(made[1][1:]))):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return process != os.getpid()


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a folder to fill, which takes its name, and replaces an old one, only when the block ends well."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        sweep(path.parent, path.name)
        beside.mkdir(parents=True)
        yield beside
        put_folder(beside, path)
    except BaseException as error:
        shutil.rmtree(beside, ignore_errors=True)
        _name_target(error, beside, path)
        raise


def put_folder(beside: Path, path: Path) -> None:
    """Give a filled folder its name, all of it on disk before; an old folder of that name goes only after."""
    for file in beside.rglob("*"):
        if file.is_file():
            _fsync(file)
    _fsync(beside)
    old = path.with_name(f".{path.name}.old.tmp")
    if path.exists():
        path.replace(old)
    beside.replace(path)
    _fsync(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def remove_folder(path: Path) -> None:
    """Remove a folder: its name goes first, so that nothing is ever seen half-removed. Of a link, the link alone."""
    beside = path.with_name(f".{path.name}.old.tmp")
    path.replace(beside)
    if beside.is_symlink():
        beside.unlink()
    else:
        shutil.rmtree(beside)


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_hidden(name: str) -> bool:
    """Return whether a file or folder of this name is no data: hidden, or what macOS adds to archives."""
    return name.startswith(".") or name == "__MACOSX"


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
                if is_hidden(path.name):
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
