"""Trains a tiny run again and again, each time killed at a later event on disk, and compares what comes of it.

python killed_run.py FOLDER TEXT FIRST EVERY SETTING...: prints how many kills there were; fails where bytes differ.
Events are what Python tells an audit hook of files that are written, renamed or removed below the run's folder, and
the parts of a validation. The process that trains is forked, so SIGKILL ends it as any crash does.
"""

import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import torch._dynamo  # noqa: F401 - an optimizer imports it: once here, and not in every process
from audit import die_at
from resume import outcome
from small_run import OF_MODEL, SMALL

from seqgen.engine import loop
from seqgen.engine.run import config

SMALL_IMAGES = ("train.samples=0", "train.log_every=2", "train.batch=8", "data.count=120")


def trained(settings: Any, run: Path, event: int) -> bool:
    """Train in a process of its own; whether it was killed at the event before it ended."""
    child = os.fork()
    if not child:
        if event:
            die_at(event, run)
        loop.train(settings, run)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert status in (0, signal.SIGKILL), f"ended with {status}"
    return status != 0


def main() -> None:
    folder, text, first, every = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    words = ["train.steps=6", "train.save_every=2", "train.eval_every=3", "train.keep=1", "train.threads=1"]
    model, *more = sys.argv[5:]
    small = SMALL_IMAGES if model.startswith("image-") else OF_MODEL.get(model, SMALL)
    settings = config(model, text, overrides=[*small, *words, *more])
    trained(settings, folder / "whole", 0)
    whole = outcome(folder / "whole")
    event, kills = first, 0
    while trained(settings, folder / "broken", event):
        trained(settings, folder / "broken", 0)
        found = outcome(folder / "broken")
        assert found == whole, f"event {event}: {sorted(k for k in {**found, **whole} if found.get(k) != whole.get(k))}"
        shutil.rmtree(folder / "broken")
        event, kills = event + every, kills + 1
    print(kills)


if __name__ == "__main__":
    main()
