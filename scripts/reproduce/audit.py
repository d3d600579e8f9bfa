#!/usr/bin/env python3
"""Texts that a model released, beside real captions and a tuned language model: one protocol, one table, one picture.

The two files of image-coco are about different things (train.txt: bathrooms, aeroplanes, motorcycles; test.txt: sports,
animals, food), so both are thrown together and split by a hash of each line: 10,000 to train on, 3,700 for selection,
3,000 as references, 3,000 as real text. Every line, of real text and of samples, is brought to the form that published
samples have: lower case, Treebank words, one full stop, at the end. FILE is lines of anyone's model, RUN a run of this
package; `--count` texts of each, spread evenly over a file. The language model at eight temperatures, its mixture with
Kneser-Ney 5-grams, the n-gram model, the run that `refine` makes of the mixture where it gains and SeqGAN with a
constant reward are trained where they are not there, once a seed, and with the first seed each other model of this
package: the tables show means of seeds and their 95 % intervals (Student's t). AUROC: how often a critic prefers real
text to the texts of the row, lines that it was not fitted to; once by the numbers of `refine`, once by logistic
regression on words, pairs and triples of words, which knows no model. One JSON a row: what is finished is not done
again.
Run: SEQGEN_DATA=... scripts/reproduce/audit.py FOLDER [FILE|RUN ...] [--count 3000] [--steps 3000] [--seeds 1 2 3]
"""

import argparse
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from critic import at_equal_self_bleu, half, interval
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from seqgen import metrics
from seqgen.core import log
from seqgen.data.text import read_lines
from seqgen.engine import evaluate, loop, plots
from seqgen.engine.folder import is_run
from seqgen.engine.generate import TextGenerator
from seqgen.engine.loading import load
from seqgen.engine.mix import mix
from seqgen.engine.refine import TwoSampleTest, refine
from seqgen.engine.run import config

PARTS = {"train": 10_000, "selection": 3_700, "references": 3_000, "real": 3_000}
TEMPERATURES = (1.1, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4)
COMMON = ("train.threads=1", "train.samples=0", "train.save_every=500", "data.mode=sentence")
WORDS = ("tokenizer.kind=word", "tokenizer.words=split")
CONSTANT = (
    *("model.reward.kind=constant", "model.reward.advantage=raw", "model.reward.rollouts=1", "model.alarm=false"),
    *("model.critic_steps=0", "model.critic_turn=0", "model.policy_lr=3e-4", "train.steps=60", "train.batch=32"),
    "train.eval_every=0",
)
OTHERS = {
    "gru": ("lm", "lm-small", ("model.cell=gru",)),
    "gpt": ("gpt", "gpt-small", ()),
    "text-vae": ("text-vae", "text-vae", ("model.kl_target=5", "model.word_dropout=0", "model.bidirectional=false")),
    "masked": ("masked", "masked-small", ()),
    "hmm": ("hmm", "hmm", ("model.states=256",)),
    "seqgan": ("seqgan", "seqgan", ("model.mle_steps=0", "train.steps=660", "train.eval_every=0")),
}
"""One run of each other model of text: its name, its preset, and what is changed of it."""
SHOWN = (
    *("bleu_2", "bleu_3", "bleu_4", "self_bleu_2", "self_bleu_3", "self_bleu_4", "backward_bleu_4"),
    *("unique", "copied"),
)
BESIDE = ("bleu_4", "backward_bleu_4", "auroc", "auroc_words")
"""What a row is compared in with the language model at its Self-BLEU-4."""
RELEASED = ("text/gan-samples/leakgan-coco.txt",)
"""Sample files in the folder of the public sets that are entries where they are there."""


def form(lines: Sequence[str]) -> list[str]:
    """Bring lines to one form: lower case, Treebank words between spaces, one full stop, at the end."""
    cut = metrics.tokenize([line.lower() for line in lines], "nltk")
    return [" ".join([*(str(word) for word in words if word != "."), "."]) for words in cut]


def texts(folder: Path) -> dict[str, list[str]]:
    """Return the parts of the real text, written where they are not there; equal lines are kept once."""
    source = Path(os.environ["SEQGEN_DATA"]) / "text" / "image-coco"
    paths = {part: folder / f"{part}.txt" for part in PARTS}
    if not all(path.is_file() for path in paths.values()):
        lines = set(form([*read_lines(source / "train.txt"), *read_lines(source / "test.txt")]))
        rest = sorted(lines, key=lambda line: hashlib.sha256(line.encode()).digest())
        for part, count in PARTS.items():
            paths[part].write_text("".join(f"{line}\n" for line in rest[:count]), encoding="utf-8")
            rest = rest[count:]
    return {part: read_lines(path) for part, path in paths.items()}


def model_of(folder: Path, name: str, steps: int, seed: int) -> TextGenerator | None:
    """Return a model, made where it is not there; `lm` comes first, `mixed` next. None for `refined` without a gain."""
    texts_of, own = folder.parent, (*COMMON, f"seed={seed}")
    out, facts, train, lm = folder / name, folder / f"{name}.facts.json", texts_of / "train.txt", folder / "lm"
    if not (out / "report.html").is_file() and not facts.is_file():
        held_out = [] if name == "lm" else known(load(lm), read_lines(texts_of / "selection.txt"))
        length = (f"train.steps={steps}", f"train.eval_every={steps // 4}")
        found: Any = None
        match name:
            case "lm":
                overrides = [*own, *WORDS, *length]
                trained(config("lm", train, preset="lm-small", overrides=overrides), lm)
            case "kneser-ney":
                trained(config("kneser-ney", train, overrides=own), out, tokenizer_run=lm)
            case "constant":
                trained(config("seqgan", train, overrides=[*own, *CONSTANT]), out, source_run=lm)
            case "mixed":
                found = mix([lm, "kneser-ney"], held_out, out)
            case "refined":
                found = refine(folder / "mixed", held_out, out)
            case _:
                model, preset, changes = OTHERS[name]
                changes += length if model == "lm" else ()
                start = {"source_run" if model == "seqgan" else "tokenizer_run": lm}
                trained(config(model, train, preset=preset, overrides=[*own, *changes]), out, **start)
        if found is not None:
            facts.write_text(json.dumps(asdict(found), indent=1) + "\n", encoding="utf-8")
    return load(out) if is_run(out) else None


def known(model: TextGenerator, lines: Sequence[str]) -> list[str]:
    """Return the lines without unknown words: such a word has a probability that says nothing."""
    return [line for line in lines if not model.tokenizer.unknown(line)]


def trained(settings: Any, out: Path, **how: Any) -> None:
    if loop.train(settings, out, **how).reason != "finished":
        raise SystemExit(f"{out}: stopped; the same command goes on")


class Audit:
    """The figures of one row after the other."""

    def __init__(self, folder: Path, count: int, steps: int, seed: int) -> None:
        self.count, self.parts = count, texts(folder.parent)
        lm, mixed = (model_of(folder, name, steps, seed) for name in ("lm", "mixed"))
        assert lm is not None
        assert mixed is not None
        self.scored = evaluate.scoring(self.parts["references"], self.parts["train"], {}, tokenizer="split")
        self.critic = TwoSampleTest(mixed)
        self.likely = known(lm, self.parts["real"])
        self.held_out = {line for part in PARTS if part != "train" for line in self.parts[part]}

    def row(self, name: str, temperature: float, lines: list[str], model: TextGenerator | None) -> dict[str, Any]:
        """The figures of one row."""
        real = self.parts["references"]
        found: dict[str, Any] = {"what": name, "temperature": temperature}
        scores = self.scored(lines)
        found |= {key: float(scores[key]) for key in SHOWN} | {"signature": str(scores["bleu_4"].signature)}
        found["in_held_out"] = 0.0 if name == "real text" else sum(line in self.held_out for line in lines) / len(lines)
        found |= {"auroc": self.critic.auroc(real, lines), "auroc_words": by_words(real, lines)}
        if model is not None and temperature == 1:
            scores_of_real = model.score(self.likely)
            found |= {"nll": -float(np.mean(scores_of_real.per_line)), "bound": scores_of_real.bound}
        return found

    def entry(self, subject: str) -> tuple[list[str], TextGenerator | None]:
        """Return the texts of a file or a run that is an entry."""
        if is_run(subject):
            model = load(subject)
            return form(model.generate(self.count, seed=7)), model
        lines = read_lines(subject)
        if len(lines) < self.count:
            raise SystemExit(f"{subject} has {len(lines)} lines; an entry needs {self.count}, or give --count")
        return form([lines[k * len(lines) // self.count] for k in range(self.count)]), None


def by_words(real: Sequence[str], generated: Sequence[str]) -> float:
    """Return the AUROC of logistic regression on words, pairs and triples of words; each half is judged by the other's.

    .5: it cannot tell them apart.
    """
    cut = HashingVectorizer(ngram_range=(1, 3), token_pattern=r"\S+", n_features=1 << 18, alternate_sign=False)
    both = [cut.transform([*real[half::2], *generated[half::2]]) for half in (0, 1)]
    labels = [np.repeat([1, 0], [len(real[half::2]), len(generated[half::2])]) for half in (0, 1)]
    found = 0.0
    for fit, judged in ((0, 1), (1, 0)):
        model = LogisticRegression(C=10, max_iter=200).fit(both[fit], labels[fit])
        found += float(roc_auc_score(labels[judged], model.decision_function(both[judged])))
    return found / 2


def as_published(subjects: Sequence[str]) -> list[list[str]]:
    """The published files against each other: what the samples of an entry have in common with either."""
    source = Path(os.environ["SEQGEN_DATA"]) / "text" / "image-coco"
    real = {name: form(read_lines(source / name)) for name in ("train.txt", "test.txt")}
    sets = {name: set(lines) for name, lines in real.items()}
    shared = set.intersection(*sets.values())
    references = {name: [line for line in lines if line not in shared] for name, lines in real.items()}
    size = min(map(len, references.values()))
    rows = []
    for name, lines in [*real.items(), *((Path(subject).name, form(read_lines(subject))) for subject in subjects)]:
        cells = [name, str(len(lines)), f"{float(metrics.self_bleu(lines)):.3f}"]
        for other, theirs in references.items():
            quality, same = metrics.bleu(lines, theirs[:size]), sum(line in sets[other] for line in lines)
            cells += [f"{float(quality):.3f}", str(same)] if other != name else ["", ""]
        rows.append(cells)
    return rows


def rows_of(options: argparse.Namespace, subjects: Sequence[str], seed: int) -> list[dict[str, Any]]:
    """Return the rows of one seed; those that are not there are made."""
    folder: Path = options.folder / f"seed-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    own = [("lm", t) for t in TEMPERATURES]
    others = OTHERS if seed == options.seeds[0] else ()
    own += [(name, 1.0) for name in ("mixed", "kneser-ney", "constant", "refined", *others)]
    audit, rows = None, []
    for name, temperature in [("real text", 1.0), *((subject, 1.0) for subject in subjects), *own]:
        path = folder / f"{Path(name).stem.replace(' ', '-')}_{temperature:g}.json"
        if not path.is_file():
            log.messages.warning("%s %s ...", folder.name, path.stem)
            audit = audit or Audit(folder, options.count, options.steps, seed)
            model = model_of(folder, name, options.steps, seed) if name in dict(own) else None
            if name == "refined" and model is None:
                continue
            if name == "real text":
                lines = audit.parts["real"][: options.count]
            elif model is None:
                lines, model = audit.entry(name)
            else:
                lines = model.generate(options.count, seed=7, temperature=temperature)
            path.with_suffix(".txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
            row = audit.row(Path(name).stem, temperature, lines, model)
            path.write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8")
        rows.append(json.loads(path.read_text("utf-8")))
    points = [row for row in rows if row["what"] != "lm"]
    for row in points:
        there = at_equal_self_bleu(rows, "lm", row["self_bleu_4"])
        row |= {f"lm {key}": there[key] for key in BESIDE} | {"lm temperature": there["temperature"]}
        row |= {f"less {key}": row[key] - there[key] for key in BESIDE}
    return rows


def plane(rows: dict[tuple[str, float], list[dict[str, Any]]]) -> bytes:
    """Quality against diversity, means of seeds: the language model's temperatures as a curve, all else as points."""
    figure, axes = plots.plane()
    places = {key: np.array([(row["bleu_4"], 1 - row["self_bleu_4"]) for row in own]) for key, own in rows.items()}
    curve = [(key[1], own.mean(0)) for key, own in places.items() if key[0] == "lm"]
    axes.plot(*np.array([place for _, place in curve]).T, "o-", mfc="white", label="lm")
    for temperature, place in curve:
        axes.annotate(f"{temperature:g}", place, (5, 4), textcoords="offset points")
    for k, (key, own) in enumerate((key, own) for key, own in places.items() if key[0] != "lm"):
        across, up = half(own) if len(own) > 1 else np.zeros(2)
        marker = "*DsPXv^<>phd"[k % 12]
        axes.errorbar(*own.mean(0), up, across, fmt=marker, markersize=8, elinewidth=0.8, label=key[0])
    axes.legend(frameon=False)
    return plots.png(figure)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    print(f"\n| {' | '.join(heads)} |\n|{' --- |' * len(heads)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("subjects", nargs="*", metavar="FILE|RUN")
    parser.add_argument("--count", type=int, default=3000, help="texts of each row, at most 3,000")
    parser.add_argument("--steps", type=int, default=3000, help="of the language model")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    options = parser.parse_args()
    for subject in options.subjects:
        if not Path(subject).exists():
            parser.error(f"{subject} is neither a file of samples nor a run")
    torch.set_num_threads(1)
    released = [Path(os.environ["SEQGEN_DATA"]) / path for path in RELEASED]
    subjects = [*(str(path) for path in released if path.is_file()), *options.subjects]
    rows: dict[tuple[str, float], list[dict[str, Any]]] = {}
    for seed in options.seeds:
        for row in rows_of(options, subjects, seed):
            rows.setdefault((row["what"], row["temperature"]), []).append(row)
    (options.folder / "audit.png").write_bytes(plane(rows))

    def cell(own: Sequence[dict[str, Any]], key: str, digits: int = 3) -> str:
        values = [row[key] for row in own if key in row]
        shown = interval(values if len(set(values)) > 1 else values[:1], digits)  # a file is the same for each seed
        return f"at most {shown}" if key == "nll" and own[0].get("bound") else shown

    numbers = (*SHOWN, "in_held_out", "auroc", "auroc_words")
    table(
        ["", "T", "seeds", "nats per line", *numbers],
        [
            [key[0], f"{key[1]:g}", str(len(own)), cell(own, "nll", 2), *(cell(own, number) for number in numbers)]
            for key, own in rows.items()
        ],
    )
    points = {key[0]: own for key, own in rows.items() if key[0] != "lm"}
    table(
        ["", "Self-BLEU-4", "T of the language model there"]
        + [f"{what} {key}" for key in BESIDE for what in ("its", "less its")],
        [
            [name, cell(own, "self_bleu_4"), cell(own, "lm temperature", 2)]
            + [cell(own, f"{which} {key}") for key in BESIDE for which in ("lm", "less")]
            for name, own in points.items()
        ],
    )
    files = [subject for subject in subjects if not is_run(subject)]
    heads = ["", "lines", "Self-BLEU-4"]
    heads += [
        f"{what} {name}" for name in ("train.txt", "test.txt") for what in ("BLEU-4 against", "lines that are in")
    ]
    table(heads, as_published(files))
    print(f"\n{points['real text'][0]['signature']}")
    for subject in files:
        print(f"{Path(subject).name}: SHA-256 {hashlib.sha256(Path(subject).read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main()
