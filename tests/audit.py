"""Ends a process by SIGKILL, or fills its disk, at one of the events on disk that Python tells an audit hook of."""

import errno
import os
import signal
import sys
from pathlib import Path
from typing import Any

from seqgen.core import log

EVENTS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "shutil.rmtree", "a part")


def die_at(event: int, run: Path) -> None:
    """Let SIGKILL end this process at an event: what is opened to be written, renamed or removed below a folder."""

    def die(name: str) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    _watch(run, lambda name, seen: die(name) if seen == event else None)


def fill_at(event: int, run: Path) -> None:
    """Let nothing more be made on disk from an event on; what is there can be removed and renamed."""

    def full(name: str, seen: int) -> None:
        if seen >= event and name in ("open", "os.mkdir"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    _watch(run, full)


def _watch(run: Path, happens: Any) -> None:
    seen = 0

    def watch(name: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if name not in EVENTS or (name == "open" and not (arguments[2] & (os.O_WRONLY | os.O_RDWR))):
            return
        if name != "a part" and str(run) not in str(arguments[0]):
            return
        seen += 1
        happens(name, seen)

    sys.addaudithook(watch)
    part = log.part

    def part_seen(what: str, done: int, total: int = 0) -> None:
        part(what, done, total)
        sys.audit("a part")

    log.part = part_seen
