#!/usr/bin/env python3
"""Dropout and steps of the presets of language models, chosen on lines that are not scored; one JSON a cell.

COCO captions (words seen once are <unk>) and verse by `lm-small`: the tenth of the training part that a run holds out
chooses, the test part is scored. Tiny Shakespeare by `lm-char`: the tenth before the last chooses, and what is chosen
is trained again on nine tenths and, at its last step, scored on the last tenth. First every dropout at the first number
of steps, then the best of them at the others. The learning rate falls to its end within the steps, so every cell is a
training of its own. What is finished stands in FOLDER and is not done again, inside a training too.
Run: SEQGEN_DATA=... scripts/reproduce/presets.py FOLDER [--sets coco verse tinyshakespeare]
"""

import argparse
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from seqgen.core import log
from seqgen.data.corpora.known import expanded
from seqgen.data.text import read_lines
from seqgen.engine import loop
from seqgen.engine.loading import load
from seqgen.engine.run import config

Dropout = tuple[float, float, float]
"""Of inputs, outputs and recurrent weights."""


@dataclass(frozen=True)
class Set:
    """What is trained on, and what is tried."""

    data: str
    preset: str
    dropouts: tuple[Dropout, ...]
    steps: tuple[int, ...]
    settings: tuple[str, ...] = ()


LINES: tuple[Dropout, ...] = ((0.2, 0.4, 0.2), (0.4, 0.6, 0.4))
SETS = {
    "coco": Set("image-coco", "lm-small", LINES, (2000, 3000), ("tokenizer.min_count=2",)),
    "verse": Set("verse-zh", "lm-small", LINES, (2000, 3000)),
    "tinyshakespeare": Set(
        "tinyshakespeare",
        "lm-char",
        ((0.0, 0.15, 0.0), (0.0, 0.3, 0.0), (0.1, 0.2, 0.1)),
        (4200,),
        ("data.mode=stream",),
    ),
}
COMMON = ("seed=1", "train.threads=1", "train.samples=0", "train.show=0", "train.save_every=500")
SELECTING = 1_003_854
"""Characters of Tiny Shakespeare without its last tenth."""


def cell(folder: Path, one: Set, source: str, dropout: Dropout, steps: int) -> dict[str, Any]:
    """Train by one setting and return nats per held-out token, at the checkpoint that has the lowest."""
    name = "_".join([*(f"{share:g}" for share in dropout), str(steps)])
    path = folder / f"{name}.json"
    if not path.is_file():
        log.messages.warning("%s %s ...", folder.name, name)
        chosen = zip(("input_dropout", "output_dropout", "weight_drop"), dropout, strict=True)
        overrides = [*COMMON, *one.settings, *(f"model.{option}={share:g}" for option, share in chosen)]
        overrides += [f"train.steps={steps}", f"train.eval_every={steps // 4}"]
        begin = time.process_time()
        if loop.train(config("lm", source, preset=one.preset, overrides=overrides), folder / name).reason != "finished":
            raise SystemExit(f"{folder / name}: stopped; the same command goes on")
        rows = [json.loads(row) for row in (folder / name / "scores.jsonl").read_text("utf-8").splitlines()]
        best = min(rows, key=lambda row: row["nll_per_token"])
        found = {"dropout": dropout, "steps": steps, "nats_per_token": best["nll_per_token"], "best_step": best["step"]}
        found |= {
            "at_the_end": rows[-1]["nll_per_token"],
            "run": str(folder / name),
            "cpu_s": time.process_time() - begin,
        }
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return dict(json.loads(path.read_text("utf-8")))


def selection_text(folder: Path, name: str) -> str:
    """Return what is trained on while settings are chosen."""
    if name != "tinyshakespeare":
        return SETS[name].data
    path = folder / "without-the-last-tenth.txt"
    whole = Path(os.environ["SEQGEN_DATA"]) / "text" / "tinyshakespeare.txt"
    path.write_bytes(whole.read_bytes()[:SELECTING])
    return str(path)


def scored(folder: Path, name: str, one: Set, best: dict[str, Any]) -> dict[str, Any]:
    """Return the figures of the chosen setting on the test part."""
    if name == "tinyshakespeare":
        again = cell(folder / "test", one, one.data, tuple(best["dropout"]), best["steps"])
        return {"nats_per_token": again["at_the_end"], "cpu_s": again["cpu_s"]}
    lines = read_lines(expanded([one.data], "test")[0])
    found = load(best["run"]).score(lines)
    return {"nats_per_token": found.nats / found.total_tokens, "nats_per_line": found.nats / len(lines)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| set | dropout of input, output, recurrent weights | steps | nats per token | CPU s |\n|" + " --- |" * 5)
    for name in options.sets:
        one, folder = SETS[name], options.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "test").mkdir(exist_ok=True)
        source = selection_text(folder, name)
        rows = [cell(folder, one, source, dropout, one.steps[0]) for dropout in one.dropouts]
        dropout = tuple(min(rows, key=lambda row: row["nats_per_token"])["dropout"])
        rows += [cell(folder, one, source, dropout, steps) for steps in one.steps[1:]]
        for row in rows:
            shares = " ".join(f"{share:g}" for share in row["dropout"])
            print(f"| {name} | {shares} | {row['steps']:,} | {row['nats_per_token']:.4f} | {row['cpu_s']:.0f} |")
        best, path = min(rows, key=lambda row: row["nats_per_token"]), folder / "test.json"
        if not path.is_file():
            path.write_text(json.dumps(scored(folder, name, one, best), indent=1) + "\n", encoding="utf-8")
        print(f"| {name}, test | | {best['steps']:,} | {json.loads(path.read_text('utf-8'))} | |", flush=True)


if __name__ == "__main__":
    main()
