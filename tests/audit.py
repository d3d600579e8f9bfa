"""Ends a process by SIGKILL at one of the events on disk that Python tells an audit hook of."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

from seqgen.core import log

EVENTS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "shutil.rmtree", "a part")


def die_at(event: int, run: Path) -> None:
    seen = 0

    def watch(name: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if name not in EVENTS or (name == "open" and not (arguments[2] & (os.O_WRONLY | os.O_RDWR))):
            return
        if name != "a part" and str(run) not in str(arguments[0]):
            return
        seen += 1
        if seen == event:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    part = log.part

    def part_seen(what: str, done: int, total: int = 0) -> None:
        part(what, done, total)
        sys.audit("a part")

    log.part = part_seen
