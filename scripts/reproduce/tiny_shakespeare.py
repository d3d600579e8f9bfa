#!/usr/bin/env python3
"""Tiny Shakespeare by characters at equal CPU seconds: our LSTM, our Transformer, nanoGPT's CPU recipe in its sizes.

Run: scripts/reproduce/tiny_shakespeare.py FOLDER [--seconds 180] [--models lm-char gpt-char nanogpt]
Cells: scripts/reproduce/tiny_shakespeare.py FOLDER --seconds 60 --models lstm gru mingru minlstm --window 512
Steps of a model are as many as fit into the seconds at the speed of its first ones, so that the learning rate ends
with them; start and validation count. nanogpt has 2,000 at most, as in its README. The last tenth is scored in two
ways: all of it, with the context that each model has (a carried state, or half a window and more), and as nanoGPT
estimates it, in windows of 64 characters from 200 batches of 12 random places, each read from nothing. --window trains
on rows of another length, 4,096 characters a step in all. One JSON object for each model on standard output.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is loaded

import torch

import seqgen
from seqgen.core.batch import SequenceBatch

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "lm-char": ("lm-char", {}),
    "gpt-char": ("gpt-char", {}),
    "nanogpt": (
        "gpt-char",
        {
            "model.positions": "learned",
            "model.activation": "gelu",
            "model.norm": "layer",
            "train.beta2": 0.99,
        },
    ),
    **{cell: ("lm-char", {"model.cell": cell, "model.hidden": 256}) for cell in ("lstm", "gru", "mingru", "minlstm")},
}
STEP = 4096
WINDOW, BATCH, BATCHES = 64, 12, 200


def trained(name: str, out: Path, **more: Any) -> tuple[Any, float]:
    """Train a model and return its settings and the CPU seconds that took."""
    preset, options = MODELS[name]
    last = {"train.samples": 0, "train.save_every": 0, "train.threads": 1}
    config = seqgen.config(preset=preset, data="tinyshakespeare", overrides={**options, **last, **more})
    begin = time.process_time()
    seqgen.train(config, out, progress=False)
    return config, time.process_time() - begin


def random_windows(run: Path) -> float:
    """Nats per character of random windows of the last tenth, each read from nothing."""
    generator: Any = seqgen.load(run, device="cpu")
    ids = generator.own_text().valid.ids.row(0)
    places = torch.randint(len(ids) - WINDOW, (BATCHES, BATCH), generator=torch.Generator().manual_seed(1))
    total = 0.0
    for at in places:
        rows = ids[at[:, None] + torch.arange(WINDOW + 1)]
        counted, lengths = torch.arange(BATCH * WINDOW), torch.full((BATCH,), WINDOW)
        with torch.inference_mode():
            total -= float(
                generator.model.log_probs(
                    SequenceBatch(rows[:, :-1], rows[:, 1:], counted, lengths, torch.arange(BATCH))
                ).sum()
            )
    return total / places.numel() / WINDOW


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--models", nargs="*", default=list(MODELS)[:3], choices=list(MODELS))
    parser.add_argument("--window", type=int)
    options = parser.parse_args()
    torch.set_num_threads(1)
    window = {"data.window": options.window, "train.batch": max(1, STEP // options.window)} if options.window else {}
    for name in options.models:
        few, many = 10, 40
        at = options.folder / (f"{name}-{options.window}" if options.window else name)
        with tempfile.TemporaryDirectory() as tried:
            at_few = trained(name, Path(tried) / "few", **{"train.steps": few}, **window)[1]
            at_many = trained(name, Path(tried) / "many", **{"train.steps": many}, **window)[1]
        each = (at_many - at_few) / (many - few)
        fitting = int((options.seconds - (at_few - few * each)) / each)
        steps = {"train.steps": min(fitting, 2000) if name == "nanogpt" else fitting}
        out = at / f"{options.seconds:g}-seconds"
        config, seconds = trained(name, out, **steps, **window)
        rows = [json.loads(line) for line in (out / "scores.jsonl").read_text().splitlines()]
        found = {
            "model": name,
            "window": config.data.window or WINDOW,
            "steps": config.train.steps,
            "cpu_s": round(seconds, 1),
            "whole_tenth": rows[-1]["nll_per_token"],
            "random_windows": random_windows(out),
        }
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
