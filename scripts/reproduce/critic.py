#!/usr/bin/env python3
"""A critic over tuned baselines on captions and SNLI: likelihood, quality and diversity; one JSON for each cell.

A cell is a set and a seed. A language model by the preset lm-small, its mixture with Kneser-Ney 5-grams (`seqgen mix`)
and the critic over that mixture (`seqgen refine`), each on lines that it was not fitted to: held-out lines choose the
weight and fit the critic, test lines choose nothing. Captions: 10,000 lines of the grammar to train on, 3,000 and 4,000
new ones; SNLI: valid.txt, the first 5,000 lines of test.txt, and the others. `--count` texts of each are scored against
the test lines, at several temperatures of the models without a critic. What is finished stands in FOLDER and is not
done again: the same command goes on where it stopped, inside the training too.
Run: SEQGEN_DATA=... scripts/reproduce/critic.py FOLDER [--sets captions snli] [--seeds 1 2] [--count 2000]
"""

import argparse
import json
import math
import os
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from seqgen.core import log
from seqgen.data.corpora.grammar import Grammar
from seqgen.data.corpora.known import expanded
from seqgen.data.text import read_lines
from seqgen.engine import evaluate, loop, plots
from seqgen.engine.folder import is_run
from seqgen.engine.generate import TextGenerator
from seqgen.engine.loading import load
from seqgen.engine.mix import mix
from seqgen.engine.refine import TwoSampleTest, refine
from seqgen.engine.run import config

QUIET = ("train.threads=1", "train.samples=0", "train.eval_every=500", "train.save_every=500")
SETS = {"captions": (), "snli": ("train.steps=2000",)}
TEMPERATURES = (0.7, 0.8, 0.9, 1.0, 1.1)
CANDIDATES = (4, 16, 64)
SHOWN = ("bleu_4", "self_bleu_4", "backward_bleu_4", "unique", "copied", "possible")
NEW = 77
"""Seed of the new captions."""


def text_of(name: str) -> tuple[str, list[str], list[str]]:
    """The training file, the lines that choose and fit, and the lines that choose nothing."""
    if name == "captions":
        new = Grammar.load("captions").sample(7000, NEW)
        return str(expanded(["captions"], "train")[0]), new[:3000], new[3000:]
    folder = Path(os.environ["SEQGEN_DATA"]) / "text" / "snli"
    test = read_lines(folder / "test.txt")
    return str(folder / "valid.txt"), test[:5000], test[5000:]


def runs(name: str, seed: int, folder: Path) -> tuple[TextGenerator, TextGenerator, TextGenerator, dict[str, float]]:
    """The language model, the mixture and the refined run, with CPU seconds of the last."""
    source, held_out, _ = text_of(name)
    if not is_run(folder / "mixed"):
        settings = config("lm", source, preset="lm-small", overrides=[*QUIET, *SETS[name], f"seed={seed}"])
        if loop.train(settings, folder / "lm").reason != "finished":
            raise SystemExit(f"{folder / 'lm'}: stopped; the same command goes on")
        mix([folder / "lm", "kneser-ney"], held_out, folder / "mixed")
    spent = folder / "refine.json"
    if not is_run(folder / "refined"):
        begin = time.process_time()
        found = refine(folder / "mixed", held_out, folder / "refined")
        spent_s = time.process_time() - begin
        cost = {"refine_cpu_s": spent_s, "l2": found.penalty, "ess": found.ess, "auroc": found.auroc}
        spent.write_text(json.dumps(cost), encoding="utf-8")
        if not found.written:
            raise SystemExit(f"{folder}: no gain found, {found.gains}")
    return (*(load(folder / one) for one in ("lm", "mixed", "refined")), json.loads(spent.read_text("utf-8")))


def cell(name: str, seed: int, folder: Path, count: int) -> dict[str, Any]:
    """All figures of one set and seed."""
    lm, mixed, new, facts = runs(name, seed, folder)
    _, _, test = text_of(name)
    train, judge = lm.own_text().train_lines, TwoSampleTest(mixed)
    scored = evaluate.scoring(test, train, {})
    grammar = Grammar.load("captions") if name == "captions" else None
    exact = [-grammar.log_probability(line) for line in test] if grammar else []
    nats = {"lm": lm.score(test).per_line, "mixed": mixed.score(test).per_line}
    nats |= {f"q_{n}": new.score(test, resample=n).per_line for n in CANDIDATES}

    def row(what: str, lines: list[str], seconds: float = math.nan, **about: Any) -> dict[str, Any]:
        log.say(f"{folder.name}: {what} {about}")
        values = {key: float(score) for key, score in scored(lines).items() if key in SHOWN}
        if grammar:
            values["possible"] = statistics.mean(math.isfinite(grammar.log_probability(line)) for line in lines)
        values["auroc"] = judge.auroc(test[:count], lines)
        if what in nats and about.get("temperature", 1.0) == 1.0:
            gains = np.array(nats[what]) - np.array(nats["mixed"])
            error = float(gains.std(ddof=1) / len(gains) ** 0.5)
            values |= {"nll": -statistics.mean(nats[what]), "gain": float(gains.mean()), "error": error}
        return {"what": what, "cpu_s_per_text": seconds / len(lines), **about, **values}

    rows = [row("real text", test[count:])]  # training lines would be known to the judge
    for what, generator in (("lm", lm), ("mixed", mixed)):
        for temperature in TEMPERATURES:
            begin = time.process_time()
            lines = generator.generate(count, seed=7, temperature=temperature)
            rows.append(row(what, lines, time.process_time() - begin, temperature=temperature))
    for n in CANDIDATES[:2]:
        begin = time.process_time()
        lines = new.generate(count, seed=7, resample=n)
        rows.append(row(f"q_{n}", lines, time.process_time() - begin, temperature=1.0))
    return {"entropy": statistics.mean(exact) if exact else None, "rows": rows, **facts}


def at_equal_self_bleu(rows: list[dict[str, Any]], what: str, self_bleu: float) -> dict[str, float]:
    """What a model without a critic has at the temperature whose Self-BLEU-4 this is, between its two neighbours."""
    curve = sorted((row for row in rows if row["what"] == what), key=lambda row: row["self_bleu_4"])
    places = [row["self_bleu_4"] for row in curve]
    keys = ("temperature", "auroc", *SHOWN)
    return {key: float(np.interp(self_bleu, places, [row[key] for row in curve])) for key in keys if key in curve[0]}


def printed(folder: Path, sets: list[str]) -> None:
    """The table of what is finished: the mean over seeds, their deviation behind it."""
    heads = ["set", "model", "nats per line", "gain of q over the mixture", *SHOWN, "auroc", "CPU s per text"]
    print(f"| {' | '.join(heads)} |\n|{' --- |' * len(heads)}")
    for name in sets:
        cells = [json.loads(path.read_text("utf-8")) for path in sorted(folder.glob(f"{name}_[0-9].json"))]
        tables = []
        for one in cells:
            q = next(row for row in one["rows"] if row["what"] == "q_16")
            curves = [at_equal_self_bleu(one["rows"], what, q["self_bleu_4"]) for what in ("lm", "mixed")]
            equal = [{"what": f"{w}, Self-BLEU of q_16", **c} for w, c in zip(("lm", "mixed"), curves, strict=True)]
            tables.append([row for row in one["rows"] if row.get("temperature", 1.0) == 1.0] + equal)
        for same in zip(*tables, strict=True):
            first = same[0]
            t = statistics.mean(row.get("temperature", 1.0) for row in same)
            texts = [name, first["what"] + (f" (T = {t:.2f})" if t != 1 else "")]
            for key, digits in (
                ("nll", 2),
                ("gain", 3),
                *((key, 3) for key in (*SHOWN, "auroc")),
                ("cpu_s_per_text", 4),
            ):
                values = [row[key] for row in same if not math.isnan(row.get(key, math.nan))]
                spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
                texts.append(f"{statistics.mean(values):.{digits}f}{spread}" if values else "")
            print(f"| {' | '.join(texts)} |")


def plane(folder: Path, name: str) -> bytes:
    """Quality against diversity: the temperatures of both models without a critic, the critic's points, real text."""
    rows = json.loads((folder / f"{name}_1.json").read_text("utf-8"))["rows"]
    figure, axes = plots.plane()
    for what in ("lm", "mixed"):
        own = [row for row in rows if row["what"] == what]
        axes.plot(
            [row["bleu_4"] for row in own], [1 - row["self_bleu_4"] for row in own], "o-", mfc="white", label=what
        )
        for row in own:
            axes.annotate(f"{row['temperature']:g}", (row["bleu_4"], 1 - row["self_bleu_4"]), fontsize=8)
    for row in rows:
        if row["what"] not in ("lm", "mixed"):
            marker = "*" if row["what"] == "real text" else "D"
            axes.plot(row["bleu_4"], 1 - row["self_bleu_4"], marker, label=row["what"])
    axes.legend(frameon=False)
    return plots.png(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--count", type=int, default=2000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.folder.mkdir(parents=True, exist_ok=True)
    for seed in options.seeds:
        for name in options.sets:
            kept = options.folder / f"{name}_{seed}.json"
            if not kept.is_file():
                found = cell(name, seed, kept.with_suffix(""), options.count)
                kept.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            if seed == 1:
                (options.folder / f"{name}.png").write_bytes(plane(options.folder, name))
    printed(options.folder, options.sets)


if __name__ == "__main__":
    main()
