#!/usr/bin/env python3
"""Models of molecules on MOSES's metrics, beside its training molecules at the same sample size.

Each model is trained on the first MOLECULES of MOSES's training set and writes COUNT samples. The row of the training
set is what a perfect model would get with so many samples: the Frechet distance of a small sample is too large.
Run: scripts/reproduce/molecules.py OUT [--molecules 200000] [--count 10000] [--steps 5000] [--seeds 1]
SEQGEN_DATA holds MOSES (seqgen corpus get moses --file WHEEL); all of it on a GPU: --molecules 0 --count 30000
--steps 100000 model.hidden=768 model.layers=3 train.batch=64
"""

import argparse
import json
import logging
import resource
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from seqgen.data.corpora.known import find
from seqgen.data.text import read_lines
from seqgen.engine.evaluate import drawn
from seqgen.engine.loading import load
from seqgen.engine.loop import train
from seqgen.engine.molecules import evaluate_molecules
from seqgen.engine.run import config

NAMES = (
    "valid",
    "unique_1k",
    "unique_10k",
    "novel",
    "fcd",
    "fcd_sf",
    "snn",
    "frag",
    "scaf",
    "scaf_sf",
    "int_div",
    "filters",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("settings", nargs="*", help="settings of lm, such as model.hidden=768")
    parser.add_argument("--molecules", type=int, default=200_000, help="training molecules, 0: all")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--models", default="lm,kneser-ney")
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()
    logging.getLogger("seqgen").setLevel(logging.WARNING)
    every = read_lines(find("moses")["train"], field="SMILES")
    lines = every[: given.molecules or None]
    given.out.mkdir(parents=True, exist_ok=True)
    text = given.out / "train.smi"
    text.write_text("".join(f"{line}\n" for line in lines))
    print(f"{len(lines):,} training molecules, {given.count:,} samples\n\n| |", " | ".join(NAMES), "| CPU seconds |")
    print("| --- " * (len(NAMES) + 2) + "|")
    show("training set", [scores_of(given.out / "training.json", drawn(every, given.count), None, given)])
    for name in given.models.split(","):
        found = []
        for seed in range(1, (given.seeds if name == "lm" else 1) + 1):
            out = given.out / f"{name}-{seed}"
            if not out.exists():
                own = [f"train.steps={given.steps}", f"train.eval_every={given.steps // 4}", "train.samples=0"]
                own += given.settings if name == "lm" else []
                preset = "smiles" if name == "lm" else None
                overrides = own if name == "lm" else ["train.samples=0", *ATOMS]
                train(config(name, text, preset=preset, overrides=[*overrides, f"seed={seed}"]), out)
            samples = load(out, device=given.device).generate(given.count, seed=seed)
            found.append(scores_of(out / "molecules.json", samples, lines, given))
        show(name, found)


ATOMS = ["tokenizer.kind=word", r"tokenizer.pattern='\[[^\]]+\]|Br|Cl|%\d\d|.'", "tokenizer.min_count=1"]


def scores_of(
    path: Path, samples: Sequence[str], known: Sequence[str] | None, given: argparse.Namespace
) -> dict[str, float]:
    """Return the scores of samples, kept in a file."""
    if not path.exists():
        table = evaluate_molecules(samples, None, train=known, baselines=False, device=given.device)
        path.write_text(json.dumps({name: float(score) for name, score in table.columns[0].scores.items()}))
    return dict(json.loads(path.read_text()))


def show(name: str, found: list[dict[str, float]]) -> None:
    cells = []
    for metric in NAMES:
        values = [one[metric] for one in found if metric in one]
        cells.append(
            f"{np.mean(values):.3f}" + (f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else "") if values else ""
        )
    print(f"| {name} |", " | ".join(cells), f"| {resource.getrusage(resource.RUSAGE_SELF).ru_utime:.0f} |", flush=True)


if __name__ == "__main__":
    main()
