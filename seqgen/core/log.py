"""JSON lines on disk (`log.jsonl`, `scores.jsonl`, `timing.jsonl`), the one logger, and lines on standard error."""

import contextlib
import hashlib
import json
import logging
import math
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TextIO

from seqgen.core.errors import DataError, RunError

messages = logging.getLogger("seqgen")
"""Where the library says what a person should know; the command line shows it on stderr."""


def say(message: object) -> None:
    """Write one line for the person to standard error."""
    try:
        sys.stderr.write(visible(" ".join(str(message).split("\n"))) + "\n")
        sys.stderr.flush()
    except OSError:  # a full disk behind standard error must not hide the result
        abandon(sys.stderr)


def visible(text: str) -> str:
    """Return the text with its control characters, newline and tab aside, written out: a terminal would obey them."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", lambda found: f"\\x{ord(found[0]):02x}", text)


def abandon(stream: TextIO) -> None:
    """Let nothing more reach a standard stream, not even what Python flushes when it ends."""
    with contextlib.suppress(OSError, ValueError):  # a captured stream has no descriptor, and needs none of this
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


_watcher: ContextVar[Callable[[str, int, int], None] | None] = ContextVar("watcher", default=None)


def part(what: str, done: int, total: int = 0) -> None:
    """Say how far a long piece of work is; total 0: unknown. Whoever watches shows it, or raises to end the work."""
    watcher = _watcher.get()
    if watcher is not None:
        watcher(what, done, total)


@contextlib.contextmanager
def watched(watcher: Callable[[str, int, int], None]) -> Iterator[None]:
    """Call `watcher` with every `part` of the work inside the block."""
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


class JsonLines:
    """A growing file of one JSON object per line; it can be cut back to what a checkpoint knows of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("ab")
        self._digest = hashlib.sha256()
        self.cut(len(whole_lines(path)))

    def write(self, record: dict[str, Any]) -> None:
        """Append one object; a float that is not finite is written as null."""
        clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
        line = json.dumps(clean, ensure_ascii=False).encode() + b"\n"
        self._file.write(line)
        self._digest.update(line)
        self._file.flush()

    def position(self) -> tuple[int, str]:
        """Return the bytes written so far, on disk when this returns, and their SHA-256."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._file.tell(), self._digest.hexdigest()

    def cut(self, size: int, sha256: str | None = None) -> None:
        """Forget everything after the first `size` bytes; RunError where these are not there or not those known."""
        self._file.flush()
        with self.path.open("rb") as file:
            kept = file.read(size)
        self._digest = hashlib.sha256(kept)
        if len(kept) < size or sha256 not in (None, self._digest.hexdigest()):
            found = f"{len(kept)} bytes, the checkpoint knows {size}" if len(kept) < size else "SHA-256 differs"
            raise RunError(f"{self.path} is truncated or altered ({found}); restore it from a copy")
        os.truncate(self.path, size)
        self._file.seek(size)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def whole_lines(path: Path) -> bytes:
    """Return the bytes of a file up to its last newline: a line that a crash cut short is left out."""
    content = path.read_bytes()
    return content[: content.rfind(b"\n") + 1]


def read(path: Path) -> list[dict[str, Any]]:
    """Return all objects of a JSON-lines file; an absent file has none, a last line cut short by a crash is ignored."""
    rows = []
    for number, line in enumerate(whole_lines(path).splitlines() if path.exists() else (), 1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict) or not isinstance(row.get("step", 0), int):
            raise DataError(f"{path}, line {number}: not a JSON object with a step; the file is altered")
        rows.append(row)
    return rows
