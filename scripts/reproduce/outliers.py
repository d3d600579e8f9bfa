#!/usr/bin/env python3
"""Which sessions of a log are abnormal? AUROC and recall of `score --rank token|line|worst`, beside a look-up.

The lines of FOLDER/normal.txt and FOLDER/abnormal.txt are sessions, log keys between blanks. A small language model is
trained on the first 4,000 normal ones; the other normal and all abnormal ones are ranked. A threshold is the lowest
that flags no more than the stated share of those normal sessions. The look-up flags what the 4,000 do not hold.
Many held-out normal sessions stand in the training text word for word, so the second table counts each session once
and leaves out those: there the look-up flags everything.
Run: scripts/reproduce/outliers.py FOLDER OUT [--seeds 3] [--steps 600]
"""

import argparse
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

from seqgen.data.text import read_lines
from seqgen.engine.loading import load
from seqgen.engine.loop import train
from seqgen.engine.run import config

TRAINED, FALSE_ALARMS = 4000, (0.01, 0.05)
RANKS: dict[str, Callable[[list[float]], float]] = {"line": sum, "token": lambda row: sum(row) / len(row), "worst": min}
OPTIONS = ["tokenizer.kind=word", "tokenizer.min_count=1", "model.hidden=64", "train.batch=64", "train.lr=4e-3"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=600)
    given = parser.parse_args()
    logging.getLogger("seqgen").setLevel(logging.WARNING)
    normal = [line.strip() for line in read_lines(given.folder / "normal.txt")]
    abnormal = [line.strip() for line in read_lines(given.folder / "abnormal.txt")]
    known, held_out = normal[:TRAINED], normal[TRAINED:]
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "train.txt").write_text("".join(f"{line}\n" for line in known), encoding="utf-8")

    lines = held_out + abnormal
    wrong = np.arange(len(lines)) >= len(held_out)
    new = ~np.isin(lines, known)
    first = np.zeros(len(lines), bool)
    first[np.unique([f"{bad} {line}" for bad, line in zip(wrong, lines, strict=True)], return_index=True)[1]] = True
    values: dict[str, list[np.ndarray]] = {name: [] for name in RANKS}
    for seed in range(1, given.seeds + 1):
        out = given.out / f"seed-{seed}"
        if not out.exists():
            steps = [f"train.steps={given.steps}", f"train.eval_every={given.steps // 6}", "train.samples=0"]
            train(config("lm", given.out / "train.txt", overrides=[*OPTIONS, *steps, f"seed={seed}"]), out)
        rows = load(out).score(lines).log_probs
        for name, value in RANKS.items():
            values[name].append(-np.array([value(row) for row in rows]))
    for title, kept in (
        ("all sessions", np.ones_like(new)),
        ("distinct sessions not in the training text", new & first),
    ):
        bad = wrong[kept]
        print(f"\n{title}: {(~bad).sum():,} normal, {bad.sum():,} abnormal\n")
        print("| order | AUROC | " + " | ".join(f"recall at {share:.0%}" for share in FALSE_ALARMS) + " |")
        print("| --- " * (2 + len(FALSE_ALARMS)) + "|")
        for name, of_seeds in values.items():
            print(f"| `--rank {name}` |", " | ".join(spread(column) for column in figures(of_seeds, kept, bad)), "|")
        alarm = (~bad & new[kept]).sum() / (~bad).sum()
        print(f"\nThe look-up alone: recall {new[kept & wrong].mean():.3f} at {alarm:.1%} false alarms.")


def figures(of_seeds: list[np.ndarray], kept: np.ndarray, bad: np.ndarray) -> np.ndarray:
    """AUROC, then recall at each share of false alarms, one row a figure, one column a seed."""
    rows = []
    for value in of_seeds:
        known, sought = np.sort(value[kept][~bad])[::-1], value[kept][bad]
        recalls = [(sought > known[int(share * known.size)]).mean() for share in FALSE_ALARMS]
        rows.append([roc_auc_score(bad, value[kept]), *recalls])
    return np.array(rows).T


def spread(of_seeds: np.ndarray) -> str:
    return f"{of_seeds.mean():.3f} ({of_seeds.min():.3f} to {of_seeds.max():.3f})"


if __name__ == "__main__":
    main()
