"""Tiny Shakespeare in a few minutes of one thread: nanoGPT's recipe for a CPU in plain torch, and our preset lm-char.

The recipe as its README gives it: 4 layers of 128, windows of 64 characters, batches of 12 from random places, AdamW
(.9, .99) with weight decay .1 on matrices, 100 steps of warm-up, a cosine from 1e-3 to 1e-4, 2,000 steps. Both are
scored on the whole last tenth: ours with its state carried, the Transformer in windows that overlap by half. A row is
CPU seconds and nats per character, no ratio. --quick takes a tenth of the steps. Run: scripts/bench.py nanogpt
"""

import json
import math
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from gpt import Usual
from torch import Tensor, nn

import seqgen

WINDOW, BATCH, STEPS, WARMUP, HIGH, LOW = 64, 12, 2000, 100, 1e-3, 1e-4


def recipe(quick: bool) -> Iterator[dict[str, object]]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        share = 0.1 if quick else 1.0
        overrides = {"train.steps": int(4200 * share), "train.samples": 0, "train.save_every": 0}
        config = seqgen.config(preset="lm-char", data="tinyshakespeare", overrides=overrides)
        begin = time.process_time()
        seqgen.train(config, out, progress=False)
        seconds = time.process_time() - begin
        scores = [json.loads(line) for line in (out / "scores.jsonl").read_text().splitlines()]
        yield found("lm-char", config.train.steps, seconds, scores[-1]["nll_per_token"])
        text = seqgen.load(out, device="cpu").own_text()
        train, valid = text.train.ids.row(0), text.valid.ids.row(0)
    steps = int(STEPS * share)
    begin = time.process_time()
    model = plain(train, steps, int(max(train.max(), valid.max())) + 1)
    seconds = time.process_time() - begin
    yield found("nanoGPT's recipe in plain torch", steps, seconds, whole(model, valid))


def found(case: str, steps: int, seconds: float, nats: float) -> dict[str, object]:
    return {
        "bench": "nanogpt", "case": case, "ratio": None, "floor": None,
        "gate": "ok" if math.isfinite(nats) else "no loss", "steps": steps,
        "cpu_s": round(seconds, 1), "nats": round(nats, 4),
    }  # fmt: skip


def plain(ids: Tensor, steps: int, vocab: int) -> Usual:
    """The Transformer trained by its recipe, with normal weights of deviation .02 as GPT-2's."""
    torch.manual_seed(1337)
    model = Usual(4, 4, 128, vocab)
    for name, weight in model.named_parameters():
        if weight.dim() > 1:
            nn.init.normal_(weight, std=0.02 / math.sqrt(8) if name.endswith(("out.weight", "down.weight")) else 0.02)
        elif name.endswith("bias"):
            nn.init.zeros_(weight)
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": 0.1},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, HIGH, (0.9, 0.99))
    for step in range(steps):
        cosine = 0.5 * (1 + math.cos(math.pi * max(0, step - WARMUP) / max(1, steps - WARMUP)))
        rate = HIGH * (step + 1) / (WARMUP + 1) if step < WARMUP else LOW + cosine * (HIGH - LOW)
        for group in optimizer.param_groups:
            group["lr"] = rate
        places = torch.randint(len(ids) - WINDOW, (BATCH, 1)) + torch.arange(WINDOW + 1)
        rows = ids[places].long()
        loss = model.loss(rows[:, :-1], rows[:, 1:])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
    return model


@torch.no_grad()
def whole(model: Usual, ids: Tensor) -> float:
    """Nats per character of all of it: every character behind half a window of context or more, but the first ones."""
    half = WINDOW // 2
    rows = ids.long().unfold(0, WINDOW + 1, half)
    total, count = 0.0, 0
    for part in rows.split(256):
        nll = F.cross_entropy(model(part[:, :-1]).transpose(1, 2), part[:, 1:], reduction="none")
        total, count = total + float(nll[:, half:].sum()), count + nll[:, half:].numel()
    return total / count


BENCHES = {"nanogpt": recipe}
