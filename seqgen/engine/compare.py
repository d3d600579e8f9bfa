"""Runs, files and real text in one table and one picture, with what the differences are worth; runs of pictures too.

Each number carries a 95 % bootstrap interval over its rows. Runs that differ in nothing but their seed are one line:
mean, standard deviation and how many. Lines whose rows pair, because they answer the same sources, get a paired test.
"""

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqgen import metrics
from seqgen.core.errors import DataError
from seqgen.data.text import read_lines
from seqgen.engine import evaluate, pictures
from seqgen.engine import run as runs
from seqgen.engine.generate import load
from seqgen.engine.run import Settings

SHOWN = ("bleu-2", "bleu-3", "bleu-4", "bleu-5", "self-bleu-4", "backward-bleu-4", "distinct-2", "novelty-4", "copied")
"""The scores a comparison shows unless told otherwise."""

SHOWN_OF_PICTURES = ("ffd", "precision", "recall", "density", "coverage", "class_kl", "nearest_training")
"""Those of pictures; see `seqgen.images.evaluate.scores_of`."""


@dataclass(frozen=True)
class Entry:
    """One line of a comparison: a run, several runs that differ only in their seed, a file, or real text."""

    name: str
    scores: list[dict[str, metrics.Score]]
    """One table for each run of a group."""
    perplexity: list[float]
    """Of the references under each run; empty for files and pictures."""
    paired: bool = False
    """Whether row i answers source i, as in every other paired entry."""

    def cell(self, name: str) -> str:
        """A score as text: `0.3438 [0.3391, 0.3484]`, `0.3438 ± 0.0021 (n = 3)` for a group, "" where there is none."""
        group = [scores[name] for scores in self.scores if name in scores]
        if not group:
            return ""
        if len(group) > 1:
            together = metrics.group_seeds(group)
            return f"{together.mean:.4f} ± {together.deviation:.4f} (n = {together.count})"
        low_high = group[0].interval
        return f"{float(group[0]):.4f}" + (f" [{low_high[0]:.4f}, {low_high[1]:.4f}]" if low_high else "")


@dataclass(frozen=True)
class Comparison:
    """Entries side by side, and tests between those that may be tested."""

    entries: list[Entry]
    metrics: tuple[str, ...]
    signatures: dict[str, str]
    """How each score was made, from the first entry that has it."""
    tests: list[str]
    """One sentence for each paired test."""

    def table(self, form: str = "md") -> str:
        """The table as Markdown, CSV or LaTeX ("md", "csv", "latex")."""
        head = ["", *self.metrics]
        body = [[e.name, *(e.cell(name) for name in self.metrics)] for e in self.entries]
        if any(e.perplexity for e in self.entries):
            head.append("perplexity")
            body = [
                [*row, " ".join(f"{p:.2f}" for p in e.perplexity)] for row, e in zip(body, self.entries, strict=True)
            ]
        if form == "csv":
            buffer = io.StringIO()
            csv.writer(buffer, lineterminator="\n").writerows([head, *body])
            return buffer.getvalue().rstrip("\n")
        if form == "latex":
            rows = [" & ".join(cell.replace("_", r"\_").replace("±", r"$\pm$") for cell in row) for row in body]
            lines = [" & ".join(head) + r" \\ \hline", *(rf"{row} \\" for row in rows)]
            return "\n".join([rf"\begin{{tabular}}{{{'l' * len(head)}}}", *lines, r"\end{tabular}"])
        if form == "md":
            lines = ["| " + " | ".join(row) + " |" for row in [head, *body]]
            return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])
        raise ValueError(f"format must be md, csv or latex, got {form!r}")

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold: every number with its signature."""
        return {
            "entries": [
                {
                    "name": e.name,
                    "perplexity": e.perplexity,
                    "scores": [{n: s.to_dict() for n, s in t.items() if n in self.metrics} for t in e.scores],
                }
                for e in self.entries
            ],
            "tests": self.tests,
        }


def compare(
    subjects: Sequence[str | os.PathLike[str]],
    references: Sequence[str],
    *,
    train: Sequence[str] | None = None,
    sources: Sequence[str] | None = None,
    protocol: str = "default",
    count: int = 1000,
    seed: int = 0,
    temperature: float = 1.0,
    shown: Sequence[str] = SHOWN,
) -> Comparison:
    """Runs (folders) and files of lines against the same references, `count` lines each, and real text of that size.

    Runs whose settings differ in the seed alone become one entry. With `sources` all runs answer the same conditions
    and their rows pair. Real text comes from `train`, or from the training text of the first run. Raises DataError
    where a subject is neither a run nor a file.
    """
    if not subjects:
        raise DataError("nothing to compare; give runs or files")
    how: dict[str, Any] = {"protocol": protocol, "seed": seed, "temperature": temperature, "yardsticks": False}
    entries: list[Entry] = []
    groups: list[tuple[Settings, Entry]] = []
    for subject in subjects:
        path = Path(subject)
        if path.is_dir():
            writer = load(path)
            train = train if train is not None else writer.own_text().train_lines
            column = evaluate.evaluate(writer, references, train=train, sources=sources, count=count, **how).columns[0]
            entry = Entry(str(path), [column.scores], [column.likelihood["perplexity"]], sources is not None)
            twin = next((e for settings, e in groups if _only_seed_differs(settings, writer.settings)), None)
            if twin is None:
                groups.append((writer.settings, entry))
                entries.append(entry)
            else:
                twin.scores.append(column.scores)
                twin.perplexity.extend(entry.perplexity)
        elif path.is_file() or str(subject) == "-":
            lines = read_lines(str(subject))
            column = evaluate.evaluate(lines, references, train=train, count=count, **how).columns[0]
            entries.append(Entry(str(subject), [column.scores], []))
        else:
            raise DataError(f"{subject} is neither a run folder nor a file")
    if train:
        column = evaluate.evaluate(train, references, train=train, count=count, **how).columns[0]
        entries.append(Entry("real text", [column.scores], []))
    return _compared(entries, shown)


def compare_pictures(
    subjects: Sequence[str | os.PathLike[str]],
    *,
    count: int = 1000,
    seed: int = 0,
    shown: Sequence[str] = SHOWN_OF_PICTURES,
) -> Comparison:
    """Runs of pictures side by side, `count` pictures each, and held-out pictures of that number as if they were made.

    Of a VAE codes come from the prior and, in an entry of its own, from a mixture fitted to its codes. Runs whose
    settings differ in the seed alone become one entry. DataError for runs of different pictures, whose features differ.
    """
    if not subjects:
        raise DataError("nothing to compare; give runs")
    found: list[tuple[Settings, dict[str, Entry]]] = []
    real: list[dict[str, metrics.Score]] = []
    for subject in subjects:
        settings = runs.read_settings(Path(subject))
        columns = evaluate.evaluate_pictures(subject, count=count, seed=seed, samples=0).columns
        scores = {column.name: column.scores for column in columns if column.name != "rebuilt"}
        real.append(scores.pop("real"))
        features = [next(iter(each.values())).signature.fields["features"] for each in (real[0], real[-1])]
        if features[0] != features[1]:
            raise DataError(
                f"{subject} was trained on other pictures than {subjects[0]}: compare runs of the same ones"
            )
        twin = next((entries for other, entries in found if _only_seed_differs(other, settings)), None)
        if twin is None:
            name = str(Path(subject))
            names = {method: name if len(scores) == 1 else f"{name}, {method}" for method in scores}
            found.append((settings, {method: Entry(names[method], [each], []) for method, each in scores.items()}))
        else:
            for method, each in scores.items():
                twin[method].scores.append(each)
    entries = [entry for _, of_run in found for entry in of_run.values()]
    return _compared([*entries, Entry("real pictures", real[:1], [])], shown)


def _compared(entries: list[Entry], shown: Sequence[str]) -> Comparison:
    present = tuple(name for name in shown if any(name in scores for e in entries for scores in e.scores))
    signatures = {n: str(next(t[n] for e in entries for t in e.scores if n in t).signature) for n in present}
    return Comparison(entries, present, signatures, _tests(entries, present))


def _only_seed_differs(a: Settings, b: Settings) -> bool:
    return set(a.differences(b)) <= {"seed"}


def _tests(entries: Sequence[Entry], names: Sequence[str]) -> list[str]:
    """Paired permutation tests of every two single entries whose rows answer the same sources."""
    said = []
    paired = [e for e in entries if e.paired and len(e.scores) == 1]
    for i, a in enumerate(paired):
        for b in paired[i + 1 :]:
            for name in names:
                one, other = a.scores[0].get(name), b.scores[0].get(name)
                if one is None or other is None or one.rows is None or other.rows is None:
                    continue
                d = metrics.difference(one, other, paired=True)
                said.append(
                    f"{name}: {a.name} - {b.name} = {d.value:+.4f} [{d.interval[0]:+.4f}, {d.interval[1]:+.4f}], "
                    f"p = {d.p_value:.4f} (paired permutation)"
                )
    return said


def draw(comparison: Comparison) -> bytes:
    """The entries as points of quality (BLEU-4) and diversity (1 - Self-BLEU-4), as a PNG."""
    figure, axes = pictures.plane()
    for entry in comparison.entries:
        tables = [t for t in entry.scores if "bleu-4" in t and "self-bleu-4" in t]
        places = [(float(t["bleu-4"]), 1 - float(t["self-bleu-4"])) for t in tables]
        if places:
            marker = "*" if entry.name == "real text" else "o"
            axes.plot(*zip(*places, strict=True), marker, markersize=12 if marker == "*" else 7, label=entry.name)
    axes.legend(frameon=False)
    return pictures.png(figure)
