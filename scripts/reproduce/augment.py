#!/usr/bin/env python3
"""Does text from `seqgen corpus augment` help a classifier? Trained with and without it, tested on real text.

For each size, so many real lines of each label are drawn from the training part of reviews (made, three labels) or,
with --pair A B, from two sets of text, whose names are the labels. A classifier (logistic regression on TF-IDF of words
and pairs) is trained on the real lines, on the made ones alone, on both, and on real lines twice as many, which says
what more real text would bring. With --unlabelled N a model is first trained for N steps on all texts of the pool,
without their labels, and the runs that write go on from it. A difference counts where the 95 % interval of its mean
over seeds (Student's t) excludes 0.
Run: scripts/reproduce/augment.py OUT [--sizes 20,100,400] [--seeds 5] [--steps 600] [--unlabelled 1500]
     [--pair image-coco snli]
"""

import argparse
import json
import logging
import random
import resource
from pathlib import Path

import numpy as np
from scipy.stats import t as student

from seqgen.data.corpora.known import paths_of, read_catalogue
from seqgen.data.formats import table_row
from seqgen.data.text import read_lines, read_records
from seqgen.engine.augment import augment, classifier
from seqgen.engine.loading import load
from seqgen.engine.loop import train
from seqgen.engine.run import config

Rows = list[tuple[str, str]]
SETTINGS = ["data.source=label", "data.target=text", "tokenizer.kind=word", "tokenizer.min_count=1", "model.hidden=128"]
SETTINGS += ["train.samples=0", "train.lr=4e-3"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--sizes", default="20,100,400")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--pair", nargs=2, metavar=("A", "B"))
    parser.add_argument("--unlabelled", type=int, default=0, metavar="N", help="steps on all texts without labels")
    given = parser.parse_args()
    logging.getLogger("seqgen").setLevel(logging.WARNING)
    pool, test = (labelled(given.pair, use) for use in ("train", "test"))
    source = unlabelled(pool, given) if given.unlabelled else None
    print("| lines of each label | real | made alone | real and made | twice as many real | made helps by |")
    print("| --- | --- | --- | --- | --- | --- |")
    for size in map(int, given.sizes.split(",")):
        rows = np.array([measured(pool, test, size, seed, given, source) for seed in range(1, given.seeds + 1)])
        cells = [f"{column.mean():.3f}" for column in rows.T]
        print(f"| {size} |", " | ".join(cells), f"| {gain(rows[:, 2] - rows[:, 0])} |", flush=True)
    print(f"{resource.getrusage(resource.RUSAGE_SELF).ru_utime:.0f} CPU seconds")


def labelled(pair: list[str] | None, use: str) -> Rows:
    if pair is None:
        records = read_records(paths_of(read_catalogue()["reviews"], use), source="label", target="text")  # type: ignore[arg-type]
        return list(zip(records.sources or (), records.texts, strict=True))
    return [
        (name, line.strip().lower())
        for name in pair
        for line in read_lines(paths_of(read_catalogue()[name], use)[0])[:5000]  # type: ignore[arg-type]
        if line.strip()
    ]


def unlabelled(pool: Rows, given: argparse.Namespace) -> Path:
    """Train a run on the texts of the pool, each with the label `any`; its tokenizer knows the true labels' words."""
    out, labels = given.out / "unlabelled", sorted({label for label, _ in pool})
    texts = [("any", text) for text in sorted({text for _, text in pool})]
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "unlabelled.tsv").write_text("".join(map(table_row, [("label", "text"), *texts])))
    if not out.exists():
        steps = [f"train.steps={given.unlabelled}", f"train.eval_every={given.unlabelled // 6}", "train.batch=32"]
        symbols = f"tokenizer.symbols={json.dumps(labels)}"
        train(config("lm", given.out / "unlabelled.tsv", overrides=[*SETTINGS, symbols, *steps]), out)
    return out


def measured(
    pool: Rows, test: Rows, size: int, seed: int, given: argparse.Namespace, source: Path | None
) -> list[float]:
    """Return the accuracies with one draw of real lines."""
    names = sorted({label for label, _ in pool})
    drawn = random.Random(seed)
    of = {name: drawn.sample(sorted({text for label, text in pool if label == name}), 2 * size) for name in names}
    real = [(name, text) for name in names for text in of[name][:size]]
    twice = [(name, text) for name in names for text in of[name]]
    out = given.out / f"{size}-{seed}"
    out.mkdir(parents=True, exist_ok=True)
    (out / "real.tsv").write_text("".join(map(table_row, [("label", "text"), *real])))
    if not (out / "run").exists():
        steps = [f"train.steps={given.steps}", f"train.eval_every={given.steps // 6}", "train.batch=16", f"seed={seed}"]
        train(config("lm", out / "real.tsv", overrides=[*SETTINGS, *steps]), out / "run", source_run=source)
    texts, labels = [text for _, text in real], [label for label, _ in real]
    made = [
        (one.label, text) for one in augment(load(out / "run"), texts, labels, size, seed=seed) for text in one.texts
    ]
    return [accuracy(rows, test) for rows in (real, made, real + made, twice)]


def accuracy(rows: Rows, test: Rows) -> float:
    if len({label for label, _ in rows}) < 2:
        return float("nan")
    fitted = classifier([text for _, text in rows], [label for label, _ in rows])
    found = fitted([text for _, text in test])
    return float(np.mean([one == label for one, (label, _) in zip(found, test, strict=True)]))


def gain(differences: np.ndarray) -> str:
    """Return the mean with its interval, and what it says."""
    half = student.ppf(0.975, differences.size - 1) * differences.std(ddof=1) / np.sqrt(differences.size)
    mean = differences.mean()
    words = "nothing that five seeds show" if abs(mean) <= half else "better" if mean > 0 else "**worse**"
    return f"{mean:+.3f} ± {half:.3f}, {words.replace('five', str(differences.size))}"


if __name__ == "__main__":
    main()
