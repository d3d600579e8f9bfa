"""Builds a corpus again and again, each time killed at a later event on disk, and compares what comes of it.

python killed_build.py FOLDER EVERY WORKERS: of FOLDER/text.txt; prints how many kills there were, fails where bytes
differ. A process that is killed is forked, so SIGKILL ends it as any crash does.
"""

import contextlib
import os
import shutil
import signal
import sys
from pathlib import Path

from audit import die_at

from seqgen.core.errors import DataError
from seqgen.data import formats, packing
from seqgen.data.packing import build_corpus
from seqgen.data.tokenizers import TokenizerConfig


def built(text: Path, out: Path, event: int, workers: int) -> bool:
    """Build in a process of its own; whether it was killed at the event before it ended."""
    child = os.fork()
    if not child:
        if event:
            die_at(event, out.parent)
        with contextlib.suppress(DataError):  # there already
            build_corpus([text], out, tokenizer=TokenizerConfig(kind="word"), workers=workers)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert status in (0, signal.SIGKILL), f"ended with {status}"
    return status != 0


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def main() -> None:
    folder, every, workers = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    formats._BLOCK, packing._EVERY = 200, 3
    built(folder / "text.txt", folder / "whole" / "corpus", 0, 1)
    whole = contents(folder / "whole")
    event, kills = 1, 0
    while built(folder / "text.txt", folder / "broken" / "corpus", event, workers):
        # once more, further on, before it may end
        built(folder / "text.txt", folder / "broken" / "corpus", event + 7, workers)
        built(folder / "text.txt", folder / "broken" / "corpus", 0, 1)
        found = contents(folder / "broken")
        assert found == whole, f"event {event}: {sorted(k for k in {**found, **whole} if found.get(k) != whole.get(k))}"
        shutil.rmtree(folder / "broken")
        event, kills = event + every, kills + 1
    print(kills)


if __name__ == "__main__":
    main()
