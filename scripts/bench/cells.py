"""Recurrent cells of one width: tokens a second of a training step, by the length of rows; nothing is judged.

Run: scripts/bench.py cells
"""

import time
from collections.abc import Iterator

import torch

from seqgen.core.batch import SequenceBatch
from seqgen.core.config import Train
from seqgen.models import lm

VOCAB, TOKENS, WIDTH = 65, 2048, 256


def cells(quick: bool) -> Iterator[dict[str, object]]:
    for length in (64, 512, 4096):
        rows = max(1, TOKENS // length)
        ids = torch.randint(VOCAB, (rows, length + 1), generator=torch.Generator().manual_seed(0))
        inputs, targets = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
        counted = torch.arange(rows * length)
        batch = SequenceBatch(inputs, targets, counted, torch.full((rows,), length), torch.arange(rows))
        rates: dict[str, object] = {}
        for cell in ("lstm", "gru", "mingru", "minlstm"):
            config = lm.Config(cell=cell, embedding=WIDTH, hidden=WIDTH, vocab_size=VOCAB)  # type: ignore[arg-type]
            model = lm.Model(config).train()
            model.carries = False
            optimizers = lm.optimizers(model, Train())
            lm.train_step(model, optimizers, batch, 0)
            begin, steps = time.process_time(), 1 if quick else 3
            for step in range(steps):
                lm.train_step(model, optimizers, batch, step)
            rates[cell] = round(steps * rows * length / (time.process_time() - begin))
        case = f"{rows} rows of {length}, {WIDTH} units"
        yield {"bench": "cells", "case": case, "ratio": None, "floor": None, "gate": "ok", "tokens_per_s": rates}


BENCHES = {"cells": cells}
