"""Trains a tiny run under torchrun, in which each start but the last one is ended by SIGKILL of one of its processes.

torchrun --nproc-per-node 2 --max-restarts 3 killed_rank.py RUN TEXT KILLS: in start k < KILLS the process of rank
k % 2 dies at its third step.
"""

import os
import signal
import sys

import torch
from small_run import SMALL

from seqgen.core import dist
from seqgen.engine import loop
from seqgen.engine.run import config

STEPS = ("train.steps=12", "train.save_every=2", "train.eval_every=6", "train.threads=1", "train.device=cpu")


def dies_at_step(step: int) -> None:
    """Let SIGKILL end this process at its step-th step: there all ask each other whether to stop."""
    seen, alike = 0, dist.any_

    def watched(flag: bool, device: torch.device) -> bool:
        nonlocal seen
        seen += 1
        if seen == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return alike(flag, device)

    dist.any_ = watched


def main() -> None:
    run, text, kills = sys.argv[1], sys.argv[2], int(sys.argv[3])
    start = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    if start < kills and dist.rank() == start % dist.world():
        dies_at_step(3)
    loop.train(config("lm", text, overrides=[*SMALL, *STEPS]), run)


if __name__ == "__main__":
    main()
