#!/usr/bin/env python3
"""A critic over tuned baselines on four sets of text: likelihood, quality and diversity; one JSON for each point.

A language model, its mixture with Kneser-Ney 5-grams (`seqgen mix`) and the critic over that mixture (`seqgen refine`),
each on lines that it was not fitted to: held-out lines choose the weight and fit the critic, test lines choose nothing.
Captions: 10,000 lines of the grammar to train on, 3,000 and 4,000 new ones. SNLI: valid.txt, the first 5,000 lines of
test.txt, and the others. COCO captions: both files together (they are about different things), split by a hash of each
line into 10,000, 4,000 and 5,000. Molecules: MOSES's training
set (of ZINC), evenly spread: 10,000, 3,000 and 4,000. Held-out and test lines with words that are not known are left
out everywhere: no run writes them.

Beside them, first what costs as much without a critic: temperatures, top-p, a wider language model (three seeds) and
the language models of two seeds, alone and with the n-grams, as one mixture (`two`: a seed and the next of `--seeds`),
and a critic over that; of molecules also one over the wider language model. Then the controls (three seeds): SeqGAN
with the critic's logit and with a constant reward, and critics of less, fitted to fewer numbers or to the run's own
texts in the place of real lines. Last, of captions and SNLI, a critic with recurrent networks (two seeds); of captions
(one seed) a policy whose reward is the score of a critic over the language model alone, with weight 1 of the
divergence, and the language model trained on with texts of the refined run, each chosen among sixteen, or with the
mixture's own.

Likelihood is that of all test lines; `--count` texts of each are scored against as many of them. MAUVE, Fréchet
distance and the reverse score are by a small language model of the same training text. What is finished stands in
FOLDER and is not done again: the same command goes on where it stopped, inside the training too. FOLDER/figures.json
has all figures, one line each, and beside it are the pictures; `--known FILE` takes those of such a file as finished.
Run: SEQGEN_DATA=... scripts/reproduce/critic.py FOLDER [--sets captions snli] [--seeds 1 2 3 4 5] [--count 1000]
         [--known docs/results/critic.json]
     scripts/reproduce/critic.py --tables docs/results/critic.json
"""

import argparse
import functools
import hashlib
import json
import math
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import torch
from scipy.stats import t as student
from seqgan_logit import LOGIT, VARIANTS

from seqgen.core import log, rng
from seqgen.data.corpora.grammar import Grammar
from seqgen.data.corpora.known import expanded, find
from seqgen.data.text import read_lines
from seqgen.engine import derived, evaluate, loop, plots
from seqgen.engine.folder import is_run
from seqgen.engine.generate import TextGenerator
from seqgen.engine.judge import judge
from seqgen.engine.likelihood import LineScorer
from seqgen.engine.loading import load
from seqgen.engine.mix import mix
from seqgen.engine.refine import TwoSampleTest, ess, fitted, refine
from seqgen.engine.run import config
from seqgen.metrics import molecules
from seqgen.models import refined

QUIET = ("train.threads=1", "train.samples=0", "train.eval_every=500", "train.save_every=500")


@dataclass(frozen=True)
class Set:
    """How the language model of a set is trained, and how its lines are cut for BLEU."""

    preset: str = "lm-small"
    settings: tuple[str, ...] = ()
    wide: int = 448
    """Hidden units of the wider one: with as many steps, the CPU time of the language model and of `refine`."""
    cut: str = "auto"


SETS = {
    "captions": Set(),
    "snli": Set(settings=("train.steps=2000",)),
    "coco": Set(settings=("tokenizer.min_count=2", "train.steps=2000")),
    "molecules": Set("smiles", ("train.steps=2000", "model.output_dropout=0.2"), cut="char"),
}
TEMPERATURES = (1.1, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4)
SHOWN = ("bleu_4", "self_bleu_4", "backward_bleu_4", "unique", "copied", "possible")
JUDGED = ("mauve", "frechet_lm", "lm_reverse")
REVERSED = ("real text", "lm", "mixed", "refined", "two-mixed", "kneser-ney")
"""Rows with a reverse score, which takes a training each."""
DRAWN = ("real text", "refined", "kneser-ney", "two-mixed", "refined-two", "logit", "lm, top-p 0.95", "lm, top-p 0.9")
"""Points of the picture, beside the temperatures of `CURVES`."""
CURVES = ("lm", "mixed")
NEW = 77
"""Seed of the new captions."""
SAMPLES = 4096
DISTILLED = 12_500
"""Texts, of 200,000 candidates."""
ONWARD = ("train.steps=1000", "train.lr=2e-4", "train.schedule=constant")
"""A small learning rate that does not rise again."""
POLICY = ["model.reward.kl_weight=1", "model.reward.weight=1", "model.critic_steps=0", "model.critic_turn=0"]
POLICY += ["train.steps=300"]
CONTROLS = {
    "critic of the length": ("length",),
    "critic of the run's numbers": ("length", "log_p", "entropy", "below_likeliest", "least_log_p"),
    "critic of the n-grams' numbers": ("length", "log_p_trigram", "log_p_ngram", "log_p_backward", "least_log_p_ngram"),
    "critic of shuffled labels": refined.FEATURES,
}
"""What the critics look at that are compared."""


class Parts(NamedTuple):
    """The training file, the lines that choose and fit, and the lines that choose nothing."""

    train: Path
    held_out: list[str]
    test: list[str]


@functools.cache
def parts(name: str, folder: Path) -> Parts:
    """Return the text of a set, split once; what has to be put together is written into the folder."""
    if name == "captions":
        new = Grammar.load("captions").sample(7000, NEW)
        return Parts(Path(expanded(["captions"], "train")[0]), new[:3000], new[3000:])
    text = Path(os.environ["SEQGEN_DATA"]) / "text"
    if name == "snli":
        test = read_lines(text / "snli" / "test.txt")
        return Parts(text / "snli" / "valid.txt", test[:5000], test[5000:])
    if name == "coco":
        both = [line for part in ("train", "test") for line in read_lines(text / "image-coco" / f"{part}.txt")]
        lines, sizes = sorted(set(both), key=lambda line: hashlib.sha256(line.encode()).digest()), (10_000, 4000, 5000)
    else:
        every, sizes = read_lines(find("moses")["train"], field="SMILES"), (10_000, 3000, 4000)
        lines = [every[k * len(every) // sum(sizes)] for k in range(sum(sizes))]
        lines = sorted(lines, key=lambda line: hashlib.sha256(line.encode()).digest())
    path = folder / f"{name}.txt"
    path.write_text("".join(f"{line}\n" for line in lines[: sizes[0]]), encoding="utf-8")
    return Parts(path, lines[sizes[0] : sum(sizes[:2])], lines[sum(sizes[:2]) : sum(sizes)])


def trained(settings: Any, out: Path, **how: Any) -> Path:
    """Train where the folder is not there or not finished, and note the CPU time of it."""
    if not (out / "report.html").is_file():
        begin = time.process_time()
        if loop.train(settings, out, **how).reason != "finished":
            raise SystemExit(f"{out}: stopped; the same command goes on")
        noted(out, {"cpu_s": time.process_time() - begin})
    return out


def noted(out: Path, facts: dict[str, Any]) -> None:
    out.with_suffix(".facts.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


class Models:
    """The runs of one set and seed, each made when it is asked for and not there.

    `other` is the seed of the second language model of a mixture, whose run lies beside.
    """

    def __init__(self, name: str, seed: int, top: Path, other: int) -> None:
        self.name, self.seed, self.top, self.other = name, seed, top, other
        self.folder, self.set = top / f"{name}_{seed}", SETS[name]
        found = parts(name, top)
        lm = self["lm"]
        self.train, self.held_out, self.test = (
            found.train,
            *(
                [line for line in lines if "<unk>" not in line and not lm.tokenizer.unknown(line)]
                for lines in found[1:]
            ),
        )

    def _lm(self, seed: int, out: str = "lm", *overrides: str) -> Path:
        chosen = [*QUIET, *self.set.settings, *overrides, f"seed={seed}"]
        source = str(parts(self.name, self.top).train)
        folder = self.top / f"{self.name}_{seed}"
        folder.mkdir(exist_ok=True)
        return trained(config("lm", source, preset=self.set.preset, overrides=chosen), folder / out)

    def __getitem__(self, what: str) -> TextGenerator:
        return load(self._made(what))

    def _made(self, what: str) -> Path:
        out = self.folder / what
        match what:
            case "lm":
                return self._lm(self.seed)
            case "wide":
                return self._lm(self.seed, "wide", f"model.hidden={self.set.wide}")
            case "judge":
                return self._lm(0, "judge", "model.hidden=128", "train.steps=300", "train.eval_every=150")
            case "kneser-ney":
                chosen = config("kneser-ney", str(self.train), overrides=["train.samples=0", f"seed={self.seed}"])
                return trained(chosen, out, tokenizer_run=self._lm(self.seed))
            case "distilled" | "distilled from the mixture":
                written = self["refined" if what == "distilled" else "mixed"].generate(DISTILLED, seed=11)
                path = self.folder / f"{what}.txt"
                path.write_text("".join(f"{line}\n" for line in [*read_lines(self.train), *written]), encoding="utf-8")
                overrides = [*QUIET, *self.set.settings, *ONWARD, f"seed={self.seed}"]
                chosen = config("lm", str(path), preset=self.set.preset, overrides=overrides)
                return trained(chosen, out, source_run=self._lm(self.seed))
            case "logit" | "constant" | "policy of the critic":
                lines = self.folder / "held-out.txt"
                lines.write_text("".join(f"{line}\n" for line in self.held_out), encoding="utf-8")
                overrides, reward = [*QUIET, "train.save_every=0", *LOGIT, f"seed={self.seed}"], None
                if what == "policy of the critic":
                    judge_of_lm = load(self._made("refined-alone"))
                    reward = lambda texts: judge_of_lm.critic_scores(texts).per_line  # noqa: E731
                    overrides = [word for word in overrides if word != "model.reward.kind=logit"]
                overrides += VARIANTS.get(what, POLICY)
                chosen = config("seqgan", str(lines), overrides=overrides)
                return trained(chosen, out, source_run=self._lm(self.seed), reward=reward)
        if not is_run(out):
            begin, facts = time.process_time(), {}
            lms: list[Path | str] = [self._lm(self.seed)]
            if what.startswith("refined"):
                critic: Literal["sums", "gru"] = "gru" if what.endswith("gru") else "sums"
                base = {"refined-alone": "lm", "refined-wide": "wide", "refined-two": "two-mixed"}.get(what, "mixed")
                facts = asdict(refine(self._made(base), self.held_out, out, critic=critic))
                if not facts["written"]:
                    raise SystemExit(f"{self.folder}: no gain found, {facts['gains']}")
            else:
                lms += [self._lm(self.other)] if what.startswith("two") else []
                lms += ["kneser-ney"] if what.endswith("mixed") else []
                facts = asdict(mix(lms, self.held_out, out))
            noted(out, facts | {"cpu_s": time.process_time() - begin})
        return out


class Point(NamedTuple):
    """What is measured."""

    run: str
    temperature: float = 1.0
    candidates: int = 1
    top_p: float = 1.0
    seeds: int = 99
    """Of so many seeds, the first ones."""
    sets: tuple[str, ...] = tuple(SETS)
    """Of these sets."""

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
    *(Point("lm", t) for t in TEMPERATURES),
    *(Point("mixed", t) for t in (1.0, 0.9, 0.8)),
    *(Point("refined", candidates=n) for n in (16, 4)),
    Point("kneser-ney"),
    *(Point("lm", top_p=p) for p in (0.95, 0.9)),
    Point("two"),
    Point("two-mixed"),
    Point("refined-two", candidates=16),
    Point("wide", seeds=3),
    Point("refined-wide", candidates=16, seeds=3, sets=("molecules",)),
    Point("constant", seeds=3),
    Point("logit", seeds=3),
    *(Point(what, candidates=16, seeds=3) for what in CONTROLS),
    Point("refined-gru", candidates=16, seeds=2, sets=("captions", "snli")),
    Point("refined-alone", candidates=16, seeds=1, sets=("captions",)),
    *(
        Point(what, seeds=1, sets=("captions",))
        for what in ("policy of the critic", "distilled", "distilled from the mixture")
    ),
)


class Cells:
    """The figures of one set and seed."""

    def __init__(self, models: Models, count: int) -> None:
        self.models, self.count = models, count
        self.name, self.test = models.name, models.test
        self.train = read_lines(models.train)
        self.references, self.real = self.test[:count], self.test[count : 2 * count]
        self.scored = evaluate.scoring(self.references, self.train, {}, tokenizer=models.set.cut)
        self.mixed, self.judge = models["mixed"], models["judge"]
        self.told_apart = TwoSampleTest(self.mixed)
        self.possible: Callable[[str], bool] | None = None
        if self.name == "captions":
            self.possible = Grammar.load("captions").grammatical
        elif self.name == "molecules":
            self.possible = molecules.is_molecule
        self.base = np.array(self.mixed.score(self.test).per_line)

    def row(self, point: Point) -> dict[str, Any]:
        """The figures of one point."""
        found: dict[str, Any] = {"what": point.what, "temperature": point.temperature, "resample": point.candidates}
        plain = point.temperature == point.top_p == 1
        if point.run == "real text":
            lines = self.real
            if self.name == "captions":
                found["nll"] = -statistics.mean(map(Grammar.load("captions").log_probability, self.test))
        elif point.run in CONTROLS:
            lines, gains = self.resampled(point.run)
            found |= likelihood(self.base + gains, gains)
        else:
            model, begin = self.models[point.run], time.process_time()
            lines = model.generate(
                self.count, seed=7, temperature=point.temperature, top_p=point.top_p, resample=point.candidates
            )
            found["cpu_s_per_text"] = (time.process_time() - begin) / self.count
            if plain:
                nats = np.array(model.score(self.test, resample=point.candidates).per_line)
                found |= likelihood(nats, nats - self.base)
        found |= {key: float(score) for key, score in self.scored(lines).items() if key in SHOWN}
        if self.possible:
            found["possible"] = statistics.mean(map(self.possible, lines))
        judged = judge(self.judge, lines, self.references, reverse=plain and point.run in REVERSED)
        found |= {key: float(judged[key]) for key in JUDGED if key in judged}
        return found | {"auroc": self.told_apart.auroc(self.references, lines)}

    @functools.cached_property
    def pool(self) -> tuple[list[str], torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Texts of the mixture to choose from, and what critics look at: of held-out lines, texts, these, test lines.

        The texts of the third are first two sets to fit to, then those to choose from.
        """
        new = self.models["refined"]
        model = cast(refined.Model, new.model)
        reader = LineScorer(model, new.tokenizer, new.settings, new.device, None)
        lines, _ = derived.unseen(set(self.train), self.models.held_out)
        written = new.generate(2 * SAMPLES + 16 * self.count, seed=9, resample=1)
        features = model.expanded(reader.features(model, written))
        fit, test = (model.expanded(reader.features(model, some)) for some in (lines[::2], self.test))
        return written[2 * SAMPLES :], fit, features[: 2 * SAMPLES], features[2 * SAMPLES :], test

    def resampled(self, name: str) -> tuple[list[str], np.ndarray]:
        """Texts chosen by a critic of less, one of sixteen each, and its gains on the test lines."""
        texts, fit, drawn, pool, test = self.pool
        alone = torch.tensor([feature in CONTROLS[name] for feature in refined.FEATURES])
        row, column = torch.triu_indices(len(alone), len(alone))
        columns = torch.cat([alone, alone[row] & alone[column]])  # of features, then of their products
        positive = drawn[SAMPLES:] if name == "critic of shuffled labels" else fit
        weights = fitted(positive[:, columns], drawn[:SAMPLES][:, columns], 1e-2)
        scores = pool[:, columns] @ weights
        noise = torch.rand(len(scores), generator=rng.generator("resampled", name), dtype=torch.float64)
        chosen = (scores - (-noise.log()).log()).view(-1, 16).argmax(1)  # Gumbel's maximum: in proportion to exp(score)
        gains = refined.resampled_gains(test[:, columns] @ weights, scores, 16).double().numpy()
        return [texts[16 * k + int(one)] for k, one in enumerate(chosen)], gains

    def normaliser(self) -> dict[str, float]:
        """What importance sampling makes of a normaliser that is 1: of log p of the n-grams less log p of the model."""
        lm, ngrams = self.models["lm"], self.models["kneser-ney"]
        lines = lm.generate(self.count, seed=8)
        ratio = torch.tensor(ngrams.score(lines).per_line) - torch.tensor(lm.score(lines).per_line)
        resampled = [
            torch.logsumexp(ratio[torch.randint(len(ratio), (len(ratio),), generator=rng.generator("log Z", k))], 0)
            - math.log(len(ratio))
            for k in range(1000)
        ]
        low, high = np.quantile(torch.stack(resampled).numpy(), [0.025, 0.975])
        estimate = float(torch.logsumexp(ratio, 0)) - math.log(len(ratio))
        return {"log_z": estimate, "low": float(low), "high": float(high), "ess": ess(ratio)}


def likelihood(nats: np.ndarray, gains: np.ndarray) -> dict[str, float]:
    """Nats per line, and the mean gain over the mixture with its standard error over lines."""
    error = float(gains.std(ddof=1) / len(gains) ** 0.5)
    return {"nll": -float(nats.mean()), "gain": float(gains.mean()), "error": error}


def at_equal_self_bleu(rows: Sequence[dict[str, Any]], what: str, self_bleu: float) -> dict[str, float]:
    """What a model without a critic has at the temperature whose Self-BLEU-4 this is, between its two neighbours."""
    curve = sorted((row for row in rows if row["what"] == what), key=lambda row: float(row["self_bleu_4"]))
    places = [row["self_bleu_4"] for row in curve]
    keys = [key for key in ("temperature", "auroc", "auroc_words", *SHOWN, *JUDGED) if all(key in row for row in curve)]
    return {key: float(np.interp(self_bleu, places, [row[key] for row in curve])) for key in keys}


def gathered(top: Path) -> str:
    """Return the figures of all points that are finished, one line each, with the set and seed of each."""
    cells = [
        {"set": (name := folder.name.rsplit("_", 1))[0], "seed": int(name[1])}
        | {key: round(value, 5) if isinstance(value, float) else value for key, value in row.items()}
        for folder in sorted(top.glob("*_*"))
        if folder.is_dir()
        for row in kept(folder)
    ]
    return "[\n" + ",\n".join(map(json.dumps, cells)) + "\n]\n"


def taken(path: Path, top: Path) -> None:
    """Write the figures of such a file as points that are finished, where they are not there."""
    for cell in json.loads(path.read_text(encoding="utf-8")):
        row = {key: value for key, value in cell.items() if key not in ("set", "seed")}
        (folder := top / f"{cell['set']}_{cell['seed']}").mkdir(exist_ok=True)
        out = folder / f"{row['what']}_{row['temperature']:g}_{row['resample']}.json"
        if not out.is_file():
            out.write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8")


def kept(folder: Path) -> list[dict[str, Any]]:
    """The points that are finished."""
    return [json.loads((folder / p.file).read_text("utf-8")) for p in POINTS if (folder / p.file).is_file()]


ROWS = {
    "real text": "real text",
    "lm": "language model",
    "wide": "wider language model (448 units)",
    "two": "two language models",
    "mixed": "language model and n-grams (mixture)",
    "two-mixed": "two language models and n-grams",
    "refined, q_4": "refined, q_4",
    "refined, q_16": "**refined, q_16**",
    "refined-two, q_16": "two language models, n-grams and the critic, q_16",
    "refined-gru, q_16": "refined with readers, q_16",
    "refined-wide, q_16": "critic over the wider language model, q_16",
    "refined-alone, q_16": "critic over the language model alone, q_16",
    "kneser-ney": "Kneser-Ney 5-grams",
    "lm, top-p 0.95": "language model, top-p .95",
    "lm, top-p 0.9": "language model, top-p .9",
    "constant": "SeqGAN, constant reward",
    "logit": "SeqGAN, logit of a CNN",
    "policy of the critic": "SeqGAN, policy of the critic",
    **{f"{what}, q_16": f"{what}, q_16" for what in CONTROLS},
    "distilled": "distilled",
    "distilled from the mixture": "distilled from the mixture",
}
"""Rows of the tables, in their order."""
COLUMNS = {
    "nll": ("nats per line", 2), "gain": ("gain", 3), "bleu_4": ("BLEU-4", 3), "self_bleu_4": ("Self-BLEU-4", 3),
    "backward_bleu_4": ("backward", 3), "lm_reverse": ("reverse", 3), "mauve": ("MAUVE", 3),
    "frechet_lm": ("Fréchet", 4), "unique": ("unique", 3), "copied": ("copied", 3), "possible": ("possible", 3),
    "auroc": ("AUROC", 3), "cpu_ms": ("CPU ms", 1),
}  # fmt: skip
PLAIN = ("lm_reverse", "unique", "copied", "cpu_ms")
"""Columns without an interval."""
BESIDE = ("bleu_4", "backward_bleu_4", "mauve", "frechet_lm", "auroc", "possible")
BESIDE_ROWS = ("real text", "mixed", "two-mixed", "refined, q_4", "refined, q_16", "refined-two, q_16")
NO_CRITIC = ("lm", "wide", "two", "mixed", "two-mixed")
"""What a critic is tested against, with SeqGAN and the critics of less."""


def number(value: float, digits: int) -> str:
    """The number without the nought before its point."""
    text = f"{value:.{digits}f}"
    text = text.removeprefix("-") if not float(text) else text
    return text.replace("0.", ".", 1) if text.lstrip("-").startswith("0.") else text


def interval(values: Sequence[float], digits: int, error: float | None = None) -> str:
    """The mean and, of several seeds, half of its 95 % interval (Student's t); of one the standard error, if known."""
    if len(values) > 1:
        error = float(half(values))
    spread = "" if error is None else f" ± {number(error, digits)}"
    return number(statistics.mean(values), digits) + spread if values else ""


def by_row(cells: Sequence[dict[str, Any]]) -> dict[str, dict[int, dict[str, Any]]]:
    """The cells of temperature 1 by row and seed, each with what it differs in from the language model's curve."""
    rows: dict[str, dict[int, dict[str, Any]]] = {}
    for cell in cells:
        if cell["temperature"] == 1:
            what = cell["what"] + (f", q_{cell['resample']}" if cell["resample"] > 1 else "")
            own = [other for other in cells if other["seed"] == cell["seed"]]
            curve = at_equal_self_bleu(own, "lm", cell["self_bleu_4"])
            beside = {f"beside {key}": cell[key] - curve[key] for key in BESIDE if key in cell and key in curve}
            ms = {"cpu_ms": 1000 * cell["cpu_s_per_text"]} if "cpu_s_per_text" in cell else {}
            rows.setdefault(what, {})[cell["seed"]] = cell | ms | beside | {"its temperature": curve["temperature"]}
    return {what: rows[what] for what in ROWS if what in rows}


def tables(cells: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Return the tables of each set as lines of Markdown: the rows, the distance from the curve, the critic's lead."""
    return {name: _tables([cell for cell in cells if cell["set"] == name]) for name in SETS}


def _tables(cells: list[dict[str, Any]]) -> list[str]:
    rows = by_row(cells)
    columns = [key for key in COLUMNS if any(key in cell for row in rows.values() for cell in row.values())]
    found = _head(["", "seeds", *(COLUMNS[key][0] for key in columns)])
    for what, row in rows.items():
        shown = []
        for key in columns:
            values, digits = [cell[key] for cell in row.values() if key in cell], COLUMNS[key][1]
            error = next(iter(row.values())).get("error") if key == "gain" else None
            shown.append(
                number(statistics.mean(values), digits) if key in PLAIN and values else interval(values, digits, error)
            )
        found.append(f"| {ROWS[what]} | {len(row)} | {' | '.join(shown)} |")
    beside = [key for key in BESIDE if key in columns]
    found += [
        "",
        *_head(["less the language model at that Self-BLEU-4", *(COLUMNS[k][0] for k in beside), "its temperature"]),
    ]
    for what in BESIDE_ROWS:
        if what in rows:
            values = [[cell[f"beside {key}"] for cell in rows[what].values()] for key in beside]
            shown = [interval(each, COLUMNS[key][1]) for key, each in zip(beside, values, strict=True)]
            warmth = number(statistics.mean(cell["its temperature"] for cell in rows[what].values()), 2)
            found.append(f"| {ROWS[what]} | {' | '.join(shown)} | {warmth} |")
    tested = {
        "gain": "gain",
        "beside bleu_4": "BLEU-4 beside the curve",
        "beside backward_bleu_4": "backward, likewise",
        "auroc": "AUROC",
    }
    found += ["", *_head(["q_16 less", "seeds", *tested.values()])]
    for what in [what for what in rows if what in NO_CRITIC or what.startswith(("constant", "logit", "critic of"))]:
        seeds = sorted(set(rows[what]) & set(rows.get("refined, q_16", {})))
        apart = {key: [rows["refined, q_16"][seed][key] - rows[what][seed][key] for seed in seeds] for key in tested}
        found.append(f"| {ROWS[what]} | {len(seeds)} | {' | '.join(interval(each, 3) for each in apart.values())} |")
    return found


def _head(heads: Sequence[str]) -> list[str]:
    return [f"| {' | '.join(heads)} |", "| " + " | ".join(["---"] * len(heads)) + " |"]


def plane(cells: Sequence[dict[str, Any]]) -> bytes:
    """Draw quality against diversity, means of seeds with their 95 % intervals; inset, what lies near real text."""
    figure, axes = plots.plane()
    near = axes.inset_axes((0.03, 0.05, 0.4, 0.42), xticks=[], yticks=[])
    points: dict[tuple[str, float, int], list[tuple[float, float]]] = {}
    for cell in cells:
        if cell["what"] in (*CURVES, *DRAWN):
            key = cell["what"], cell["temperature"], cell["resample"]
            points.setdefault(key, []).append((cell["bleu_4"], 1 - cell["self_bleu_4"]))
    means = {key: np.mean(own, axis=0) for key, own in points.items()}
    halves = {key: half(own) if len(own) > 1 else np.zeros(2) for key, own in points.items()}
    shown = []
    for what in CURVES:
        keys = sorted((key for key in means if key[0] == what), key=lambda key: key[1])
        across, up = np.array([means[key] for key in keys]).T
        for place in (axes, near):
            place.plot(across, up, "o-", mfc="white", label=ROWS[what])
        for key in keys:
            axes.annotate(f"{key[1]:g}", means[key], fontsize=8)
        shown += [means[key] for key in keys if 0.9 <= key[1] <= 1]
    for key, mean in means.items():
        if key[0] in DRAWN:
            row = key[0] + (f", q_{key[2]}" if key[2] > 1 else "")
            across, up = halves[key]
            for place in (axes, near):
                marker = "*" if row == "real text" else "D"
                label = ROWS[row].strip("*")
                place.errorbar(*mean, up, across, fmt=marker, markersize=5, elinewidth=0.8, label=label)
            shown += [mean] if row in BESIDE_ROWS else []
    if shown:
        (left, low), (right, high) = np.min(shown, axis=0), np.max(shown, axis=0)
        edge = 0.15 * np.array([right - left, high - low])
        near.set(xlim=(left - edge[0], right + edge[0]), ylim=(low - edge[1], high + edge[1]))
        axes.indicate_inset_zoom(near)
    axes.legend(frameon=False, fontsize=7, loc="upper right")
    return plots.png(figure)


def half(values: Sequence[Any]) -> np.ndarray:
    """Half of the 95 % interval of the mean (Student's t), of each column."""
    spread: np.ndarray = np.std(values, axis=0, ddof=1) / len(values) ** 0.5
    return student.ppf(0.975, len(values) - 1) * spread


def printed(figures: Path, sets: Sequence[str]) -> None:
    """Print the tables of the sets, and draw critic-SET.png beside the figures."""
    cells = json.loads(figures.read_text(encoding="utf-8"))
    for name, lines in tables(cells).items():
        own = [cell for cell in cells if cell["set"] == name]
        if name in sets and own:
            print(f"\n## {name}\n", *lines, sep="\n")
            figures.with_name(f"critic-{name}.png").write_bytes(plane(own))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3, 4, 5], help="at least two")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--known", type=Path, metavar="FILE")
    parser.add_argument("--tables", type=Path, metavar="FILE", help="no more than the tables and pictures of it")
    options = parser.parse_args()
    if options.tables:
        printed(options.tables, options.sets)
        return
    if not options.folder or len(set(options.seeds)) < 2:
        parser.error("give FOLDER and at least two --seeds: the language models of two are mixed")
    torch.set_num_threads(1)
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.known:
        taken(options.known, options.folder)
    seeds = options.seeds
    for place, (seed, other) in enumerate(zip(seeds, [*seeds[1:], seeds[0]], strict=True)):
        for name in options.sets:
            folder = options.folder / f"{name}_{seed}"
            folder.mkdir(exist_ok=True)
            wanted = [point for point in POINTS if place < point.seeds and name in point.sets]
            missing = [point for point in wanted if not (folder / point.file).is_file()]
            cells = Cells(Models(name, seed, options.folder, other), options.count) if missing else None
            for point in missing:
                assert cells
                log.messages.warning("%s %s ...", folder.name, point.file)
                (folder / point.file).write_text(json.dumps(cells.row(point), indent=1) + "\n", encoding="utf-8")
            if cells and not (folder / "normaliser.json").is_file():
                facts = json.dumps(cells.normaliser(), indent=1)
                (folder / "normaliser.json").write_text(f"{facts}\n", encoding="utf-8")
            (options.folder / "figures.json").write_text(gathered(options.folder), encoding="utf-8")
    printed(options.folder / "figures.json", options.sets)


if __name__ == "__main__":
    main()
