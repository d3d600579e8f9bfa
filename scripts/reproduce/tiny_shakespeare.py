#!/usr/bin/env python3
"""Tiny Shakespeare by characters at equal CPU seconds: our LSTM, our Transformer, nanoGPT's CPU recipe in its sizes.

Run: scripts/reproduce/tiny_shakespeare.py FOLDER [--seconds 180] [--models lm-char gpt-char nanogpt]
Steps of a model are as many as fit into the seconds at the speed of its first ones, so that the learning rate ends
with them; start and validation count. nanogpt has 2,000 at most, as in its README. The last tenth is scored in two
ways: all of it, with the context that each model has (a carried state, or half a window and more), and as nanoGPT
estimates it, in windows of 64 characters from 200 batches of 12 random places, each read from nothing. One JSON object
for each model on standard output.
"""

import argparse
import json
import os
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
}
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
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=list(MODELS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.models:
        few, many = 10, 40
        at_few = trained(name, options.folder / f"{name}-{few}", **{"train.steps": few})[1]
        at_many = trained(name, options.folder / f"{name}-{many}", **{"train.steps": many})[1]
        each = (at_many - at_few) / (many - few)
        fitting = int((options.seconds - (at_few - few * each)) / each)
        steps = {"train.steps": min(fitting, 2000) if name == "nanogpt" else fitting}
        out = options.folder / f"{name}-{options.seconds:g}"
        config, seconds = trained(name, out, **steps)
        rows = [json.loads(line) for line in (out / "scores.jsonl").read_text().splitlines()]
        found = {
            "model": name,
            "steps": config.train.steps,
            "cpu_s": round(seconds, 1),
            "whole_tenth": rows[-1]["nll_per_token"],
            "random_windows": random_windows(out),
        }
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
