"""JSON lines on disk (`log.jsonl`, `scores.jsonl`, `timing.jsonl`) and the one logger for messages to people."""

import json
import logging
import math
import os
from pathlib import Path
from typing import Any

messages = logging.getLogger("seqgen")
"""Where the library says what a person should know; the command line shows it on stderr."""


class JsonLines:
    """A growing file of one JSON object per line; it can be cut back to a checkpoint's byte count."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("ab")

    def write(self, record: dict[str, Any]) -> None:
        """Append one object; a float that is not finite is written as null."""
        clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
        self._file.write(json.dumps(clean, ensure_ascii=False).encode() + b"\n")
        self._file.flush()

    def size(self) -> int:
        """Bytes written so far, on disk when this returns."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._file.tell()

    def cut(self, size: int) -> None:
        """Forget everything after the first `size` bytes."""
        self._file.flush()
        os.truncate(self.path, size)
        self._file.seek(size)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read(path: Path) -> list[dict[str, Any]]:
    """All objects of a JSON-lines file; an absent file has none, a last line cut short by a crash is ignored."""
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]
    return [json.loads(line) for line in lines]
