#!/usr/bin/env python3
"""What `seqgen corpus filter` finds of noise that was put into a text: recall of each kind, precision of all dropped.

The text is the training part of captions (made, so that it is free of noise). Into it go, 1 % of its lines each: lines
whose words are shuffled, lines with one word replaced, lines of Python source, copies, and near copies (one word less).
A run of `lm` is trained on the noisy text itself: nobody has a clean one to begin with.
Run: scripts/reproduce/data_quality.py OUT [--seeds 3] [--steps 1500]
"""

import argparse
import logging
import random
import resource
from pathlib import Path

import numpy as np

from seqgen.data.corpora.builders import python_code
from seqgen.data.corpora.known import paths_of, read_catalogue
from seqgen.data.text import read_lines
from seqgen.engine.cleaning import Rank, repeated, unlikely
from seqgen.engine.loading import load
from seqgen.engine.loop import train
from seqgen.engine.run import config

RANKS: tuple[Rank, ...] = ("worst", "token", "line")
KINDS = ("shuffled", "one word replaced", "Python source", "copies", "near copies")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1500)
    given = parser.parse_args()
    logging.getLogger("seqgen").setLevel(logging.WARNING)
    clean = list(dict.fromkeys(read_lines(paths_of(read_catalogue()["captions"], "train")[0])))
    given.out.mkdir(parents=True, exist_ok=True)
    results = []
    for seed in range(1, given.seeds + 1):
        lines, kinds = with_noise(clean, seed)
        text, out = given.out / f"noisy-{seed}.txt", given.out / f"seed-{seed}"
        text.write_text("".join(f"{line}\n" for line in lines))
        if not out.exists():
            steps = [f"train.steps={given.steps}", f"train.eval_every={given.steps // 3}", "train.samples=0"]
            train(config("lm", text, overrides=["model.hidden=256", *steps, f"seed={seed}"]), out)
        copies = repeated(lines, duplicates=True)
        near = repeated(lines, near=0.75)
        rest = [i for i in range(len(lines)) if i not in near]
        share = sum(kind in KINDS[:3] for kind in kinds)
        judged = load(out)
        values = [*figures(set(copies), kinds, KINDS[3:4]), *figures(set(near), kinds, KINDS[3:])]
        for rank in RANKS:
            found = unlikely(judged, [lines[i] for i in rest], rank=rank, count=lambda _, n=share: n)
            values += figures({rest[i] for i in found}, kinds, KINDS[:3])
        results.append(values)
    titles = ["`--duplicates`: copies", "precision", "`--near .75`: copies", "near copies", "precision"]
    titles += [f"`--rank {rank}`: {what}" for rank in RANKS for what in (*KINDS[:3], "precision")]
    for title, values in zip(titles, np.array(results).T, strict=True):
        print(f"| {title} | {values.mean():.3f} ({values.min():.3f} to {values.max():.3f}) |")
    print(f"{resource.getrusage(resource.RUSAGE_SELF).ru_utime:.0f} CPU seconds")


def with_noise(clean: list[str], seed: int) -> tuple[list[str], list[str]]:
    """Return lines with noise, and the kind of each, "" for what was there."""
    drawn = random.Random(seed)
    count = len(clean) // 100
    words = sorted({word for line in clean for word in line.split()})
    source = [line.strip() for line in python_code() if len(line.split()) > 4]
    rows = [(line, "") for line in clean]
    for kind in KINDS:
        for line in drawn.sample(clean, count):
            cut = line.split()
            if kind == "shuffled":
                drawn.shuffle(cut)
            elif kind == "one word replaced":
                cut[drawn.randrange(len(cut) - 1)] = drawn.choice(words)
            elif kind == "Python source":
                cut = [drawn.choice(source)]
            elif kind == "near copies":
                del cut[drawn.randrange(len(cut) - 1)]
            rows.append((" ".join(cut), kind))
    # copies come after what they copy
    head = rows[: len(clean)] + [row for row in rows[len(clean) :] if row[1] in KINDS[:3]]
    drawn.shuffle(head)
    rows = head + [row for row in rows[len(clean) :] if row[1] in KINDS[3:]]
    return [line for line, _ in rows], [kind for _, kind in rows]


def figures(dropped: set[int], kinds: list[str], sought: tuple[str, ...]) -> list[float]:
    """Return the recall of each kind, and the share of dropped lines that are of these kinds."""
    recalls = [np.mean([i in dropped for i, kind in enumerate(kinds) if kind == one]) for one in sought]
    return [*map(float, recalls), float(np.mean([kinds[i] in sought for i in dropped]))]


if __name__ == "__main__":
    main()
