#!/usr/bin/env python3
"""A critic over tuned baselines on captions and SNLI: likelihood, quality and diversity; one JSON for each point.

A language model by the preset lm-small, its mixture with Kneser-Ney 5-grams (`seqgen mix`) and the critic over that
mixture (`seqgen refine`), each on lines that it was not fitted to: held-out lines choose the weight and fit the critic,
test lines choose nothing. Beside them what costs as much without a critic: top-p sampling, and the language models of
two seeds, alone and with the n-grams, as one mixture (`two`: a seed and the next of `--seeds`). Captions: 10,000 lines
of the grammar to train on, 3,000 and 4,000 new ones; SNLI: valid.txt, the first 5,000 lines of test.txt, and the
others. Likelihood is that of all test lines; `--count` texts of each are scored against as many of them, at several
temperatures of the models without a critic. What is finished stands in FOLDER and is not done again: the same command
goes on where it stopped, inside the training too.
Run: SEQGEN_DATA=... scripts/reproduce/critic.py FOLDER [--sets captions snli] [--seeds 1 2] [--count 1000]
"""

import argparse
import json
import math
import os
import statistics
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch

from seqgen.core import log, rng
from seqgen.data.corpora.grammar import Grammar
from seqgen.data.corpora.known import expanded
from seqgen.data.text import read_lines
from seqgen.engine import derived, evaluate, loop, plots
from seqgen.engine.folder import is_run
from seqgen.engine.generate import TextGenerator
from seqgen.engine.likelihood import LineScorer
from seqgen.engine.loading import load
from seqgen.engine.mix import mix
from seqgen.engine.refine import TwoSampleTest, ess, fitted, refine
from seqgen.engine.run import config
from seqgen.models import refined

QUIET = ("train.threads=1", "train.samples=0", "train.eval_every=500", "train.save_every=500")
SETS = {"captions": (), "snli": ("train.steps=2000",)}
TEMPERATURES = (1.0, 0.9, 0.8)
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


def language_model(name: str, seed: int, out: Path) -> Path:
    """The folder of the language model of a seed, trained where it is not there."""
    if not (out / "report.html").is_file():
        overrides = [*QUIET, *SETS[name], f"seed={seed}"]
        if loop.train(config("lm", text_of(name)[0], preset="lm-small", overrides=overrides), out).reason != "finished":
            raise SystemExit(f"{out}: stopped; the same command goes on")
    return out


def runs(name: str, seed: int, folder: Path, other: int) -> dict[str, TextGenerator]:
    """The language model, the n-gram model, mixtures and the refined run, made where they are not there.

    `other` is the seed of the second language model of a mixture, whose run lies beside.
    """
    source, held_out, _ = text_of(name)
    lm = language_model(name, seed, folder / "lm")
    if not is_run(folder / "mixed"):
        mix([lm, "kneser-ney"], held_out, folder / "mixed")
    if other != seed:
        second = language_model(name, other, folder.with_name(f"{name}_{other}") / "lm")
        if not is_run(folder / "two"):
            mix([lm, second], held_out, folder / "two")
        if not is_run(folder / "two-mixed"):
            mix([lm, second, "kneser-ney"], held_out, folder / "two-mixed")
    if not is_run(folder / "kneser-ney"):
        chosen = config("kneser-ney", source, overrides=["train.samples=0", f"seed={seed}"])
        loop.train(chosen, folder / "kneser-ney", tokenizer_run=folder / "lm")
    if not is_run(folder / "refined"):
        begin = time.process_time()
        found = refine(folder / "mixed", held_out, folder / "refined")
        facts = asdict(found) | {"cpu_s": time.process_time() - begin}
        (folder / "refine.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        if not found.written:
            raise SystemExit(f"{folder}: no gain found, {found.gains}")
    names = ("lm", "kneser-ney", "mixed", "refined", "two", "two-mixed")
    return {one: load(folder / one) for one in names if is_run(folder / one)}


class Point(NamedTuple):
    """What is measured."""

    run: str
    temperature: float = 1.0
    candidates: int = 1
    top_p: float = 1.0

    @property
    def what(self) -> str:
        """The name of its row."""
        return self.run if self.top_p == 1 else f"{self.run}, top-p {self.top_p:g}"

    @property
    def file(self) -> str:
        """The name of its file."""
        return f"{self.what}_{self.temperature:g}_{self.candidates}.json"


POINTS = (
    Point("real text"),
    Point("refined", candidates=16),
    *(Point(what, t) for t in TEMPERATURES for what in ("mixed", "lm")),
    Point("refined", candidates=4),
    Point("kneser-ney"),
    *(Point("lm", top_p=p) for p in (0.95, 0.9)),
    Point("two"),
    Point("two-mixed"),
)


SAMPLES = 4096
SUBSETS = {
    "all eleven numbers": refined.FEATURES,
    "length": ("length",),
    "those of the run": ("length", "log_p", "entropy", "below_likeliest", "least_log_p"),
    "those of n-grams": ("length", "log_p_trigram", "log_p_ngram", "log_p_backward", "least_log_p_ngram"),
    "shuffled labels": refined.FEATURES,
}
"""What the critics look at that are compared."""


class Cells:
    """The figures of one set and seed."""

    def __init__(self, name: str, seed: int, folder: Path, count: int, other: int) -> None:
        self.runs, self.count = runs(name, seed, folder, other), count
        self.test, self.train = text_of(name)[2], self.runs["lm"].own_text().train_lines
        self.references, self.real = self.test[:count], self.test[count : 2 * count]
        self.scored = evaluate.scoring(self.references, self.train, {})
        self.judge = TwoSampleTest(self.runs["mixed"])
        self.grammar = Grammar.load("captions") if name == "captions" else None
        self.base = np.array(self.runs["mixed"].score(self.test).per_line)

    def row(self, point: Point) -> dict[str, Any]:
        """The figures of one point."""
        lines, seconds = self.real, math.nan
        run, temperature, candidates, top_p = point
        found: dict[str, Any] = {"what": point.what, "temperature": temperature, "resample": candidates}
        if run != "real text":
            begin = time.process_time()
            how: dict[str, Any] = {"seed": 7, "temperature": temperature, "resample": candidates}
            lines = self.runs[run].generate(self.count, top_p=top_p, **how)
            seconds = (time.process_time() - begin) / self.count
            if temperature == top_p == 1:
                nats = np.array(self.runs[run].score(self.test, resample=candidates).per_line)
                gains = nats - self.base
                error = float(gains.std(ddof=1) / len(gains) ** 0.5)
                found |= {"nll": -float(nats.mean()), "gain": float(gains.mean()), "error": error}
        elif self.grammar:
            found["nll"] = -statistics.mean(map(self.grammar.log_probability, self.test))
        found |= {key: float(score) for key, score in self.scored(lines).items() if key in SHOWN}
        if self.grammar:
            found["possible"] = statistics.mean(math.isfinite(self.grammar.log_probability(line)) for line in lines)
        return found | {"auroc": self.judge.auroc(self.references, lines), "cpu_s_per_text": seconds}

    def controls(self, held_out: list[str]) -> dict[str, tuple[float, float]]:
        """What critics of less gain on the test lines by q_16, nats a line, and the standard error."""
        new = self.runs["refined"]
        model = cast(refined.Model, new.model)
        reader = LineScorer(model, new.tokenizer, new.settings, new.device, None)
        lines, _ = derived.unseen(set(self.train), held_out)
        written = new.generate(3 * SAMPLES, seed=9, resample=1)
        fit, negative, pool, test = (
            model.expanded(reader.features(model, some))
            for some in (lines[::2], written[:SAMPLES], written[SAMPLES : 2 * SAMPLES], self.test[: 2 * self.count])
        )
        shuffled = model.expanded(reader.features(model, written[2 * SAMPLES :]))
        found = {}
        for name, kept in SUBSETS.items():
            alone = torch.tensor([feature in kept for feature in refined.FEATURES])
            row, column = torch.triu_indices(len(alone), len(alone))
            columns = torch.cat([alone, alone[row] & alone[column]])  # of features, then of their products
            positive = shuffled if name == "shuffled labels" else fit
            weights = fitted(positive[:, columns], negative[:, columns], 1e-2)
            gains = refined.resampled_gains(test[:, columns] @ weights, pool[:, columns] @ weights, 16)
            found[name] = (float(gains.mean()), float(gains.std() / len(gains) ** 0.5))
        return found

    def normaliser(self) -> dict[str, float]:
        """What importance sampling makes of a normaliser that is 1: of log p of the n-grams less log p of the model."""
        lines = self.runs["lm"].generate(self.count, seed=8)
        ratio = torch.tensor(self.runs["kneser-ney"].score(lines).per_line) - torch.tensor(
            self.runs["lm"].score(lines).per_line
        )
        resampled = [
            torch.logsumexp(ratio[torch.randint(len(ratio), (len(ratio),), generator=rng.generator("log Z", k))], 0)
            - math.log(len(ratio))
            for k in range(1000)
        ]
        low, high = np.quantile(torch.stack(resampled).numpy(), [0.025, 0.975])
        estimate = float(torch.logsumexp(ratio, 0)) - math.log(len(ratio))
        return {"log_z": estimate, "low": float(low), "high": float(high), "ess": ess(ratio)}


def at_equal_self_bleu(rows: list[dict[str, Any]], what: str, self_bleu: float) -> dict[str, float]:
    """What a model without a critic has at the temperature whose Self-BLEU-4 this is, between its two neighbours."""
    curve = sorted((row for row in rows if row["what"] == what), key=lambda row: float(row["self_bleu_4"]))
    places = [row["self_bleu_4"] for row in curve]
    keys = ("temperature", "auroc", *SHOWN)
    return {key: float(np.interp(self_bleu, places, [row[key] for row in curve])) for key in keys if key in curve[0]}


def kept(folder: Path, name: str, seed: int) -> list[dict[str, Any]]:
    """The points that are finished."""
    paths = [folder / f"{name}_{seed}" / point.file for point in POINTS]
    return [json.loads(path.read_text("utf-8")) for path in paths if path.is_file()]


def printed(folder: Path, sets: list[str], seeds: list[int], points: int) -> None:
    """The table of what is finished: the mean over seeds, their deviation behind it."""
    heads = ["set", "model", "nats per line", "gain over the mixture", *SHOWN, "auroc", "CPU s per text"]
    print(f"| {' | '.join(heads)} |\n|{' --- |' * len(heads)}")
    for name in sets:
        tables: list[list[dict[str, Any]]] = []
        for rows in [rows for seed in seeds if len(rows := kept(folder, name, seed)) == points]:
            q = next(row for row in rows if row["resample"] == 16)
            equal = [
                {"what": f"{what} at that Self-BLEU"} | at_equal_self_bleu(rows, what, q["self_bleu_4"])
                for what in ("lm", "mixed")
            ]
            tables.append([row for row in rows if row["temperature"] == 1] + equal)
        for same in zip(*tables, strict=True):
            n, t = same[0].get("resample", 1), statistics.mean(row["temperature"] for row in same)
            what = same[0]["what"] + (f", q_{n}" if n > 1 else "") + (f" (T = {t:.2f})" if t != 1 else "")
            texts = [name, what]
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


def plane(rows: list[dict[str, Any]]) -> bytes:
    """Quality against diversity: the temperatures of both models without a critic, the critic's points, real text."""
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
            label = row["what"] + (f", q_{row['resample']}" if row["resample"] > 1 else "")
            axes.plot(row["bleu_4"], 1 - row["self_bleu_4"], marker, label=label)
    axes.legend(frameon=False)
    return plots.png(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--count", type=int, default=1000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.folder.mkdir(parents=True, exist_ok=True)
    seeds = options.seeds
    points = POINTS if len(seeds) > 1 else tuple(point for point in POINTS if not point.run.startswith("two"))
    for seed, other in zip(seeds, [*seeds[1:], seeds[0]], strict=True):
        for name in options.sets:
            folder = options.folder / f"{name}_{seed}"
            folder.mkdir(exist_ok=True)
            cells = None
            for point in points:
                path = folder / point.file
                if not path.is_file():
                    log.messages.warning("%s %s ...", folder.name, path.stem)
                    cells = cells or Cells(name, seed, folder, options.count, other)
                    path.write_text(json.dumps(cells.row(point), indent=1) + "\n", encoding="utf-8")
            path = folder / "normaliser.json"
            if not path.is_file():
                cells = cells or Cells(name, seed, folder, options.count, other)
                path.write_text(json.dumps(cells.normaliser(), indent=1) + "\n", encoding="utf-8")
            path = folder / "controls.json"
            if not path.is_file():
                cells = cells or Cells(name, seed, folder, options.count, other)
                path.write_text(json.dumps(cells.controls(text_of(name)[1]), indent=1) + "\n", encoding="utf-8")
            folder.with_suffix(".png").write_bytes(plane(kept(options.folder, name, seed)))
    printed(options.folder, options.sets, seeds, len(points))


if __name__ == "__main__":
    main()
