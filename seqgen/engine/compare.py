"""Runs, files and real text in one table and one plot, with tests of their differences; runs of images too.

Each number of text carries a 95 % bootstrap interval over its rows. Runs that differ in nothing but their seed are one
line: mean, 95 % interval by Student's t and how many. Lines whose rows pair, because they answer the same sources or
give a likelihood to the same references, get a paired test; so do lines of several runs with the same seeds. Numbers
that were made otherwise than the first of their column are marked, and never the best.
"""

import difflib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from seqgen import metrics
from seqgen.core import files
from seqgen.core.errors import DataError
from seqgen.data.text import read_lines
from seqgen.engine import evaluate, page, plots
from seqgen.engine import run as runs
from seqgen.engine.charts import Series, chart
from seqgen.engine.folder import is_run, seed_runs
from seqgen.engine.loading import load, load_image_generator
from seqgen.engine.run import Settings
from seqgen.metrics import tables
from seqgen.metrics.tables import Cell

if TYPE_CHECKING:
    from seqgen.images.scores import Encoder


FORMS = ("md", "csv", "latex", "html")
"""How a comparison is written."""


@dataclass
class Entry:
    """One line of a comparison: a run, several runs that differ only in their seed, a file, or what is real."""

    name: str
    scores: list[dict[str, metrics.Score]]
    """One table for each run of a group, likelihood included."""
    paired: bool = False
    """Whether row i answers source i, as in every other paired entry."""
    real: bool = False
    """Whether it is what the others are measured by."""
    seeds: list[int] = field(default_factory=list)
    """The seed of each run."""

    def join(self, other: "Entry") -> None:
        """Add the runs of another entry, and be called by the folder that holds them all as seed-N."""
        self.scores += other.scores
        self.seeds += other.seeds
        own, its = (re.sub(r"/seed-\d+(?=, |$)", "", name) for name in (self.name, other.name))
        if own == its:
            self.name = own

    def by_seed(self, name: str) -> dict[int, float]:
        """Return the score of this name of each run that has it, by the run's seed."""
        return {
            seed: float(scores[name]) for seed, scores in zip(self.seeds, self.scores, strict=True) if name in scores
        }

    def group(self, name: str) -> list[metrics.Score]:
        """Return the scores of this name, one for each run that has it."""
        return [scores[name] for scores in self.scores if name in scores]

    def first(self, name: str) -> metrics.Score | None:
        """Return the score of this name of the first run that has it."""
        return next(iter(self.group(name)), None)

    def figures(self, name: str) -> dict[str, float]:
        """Return a score as numbers: `value`, `low` and `high`, and `sd` where seeds stand together."""
        group = self.group(name)
        if len(group) > 1:
            together = metrics.group_seeds(group)
            low, high = together.mean - together.half, together.mean + together.half
            return {"value": together.mean, "low": low, "high": high, "sd": together.deviation}
        if not group:
            return {}
        low_high = zip(("low", "high"), group[0].interval or (), strict=False)
        return {"value": float(group[0]), **dict(low_high)}


@dataclass(frozen=True, repr=False)
class Comparison:
    """Entries side by side, and tests between those that may be tested."""

    entries: list[Entry]
    metrics: tuple[str, ...]
    tests: list[str]
    """One sentence for each paired test."""
    notes: list[str] = field(default_factory=list)
    """Remarks on the whole table."""

    def signatures(self) -> dict[str, str]:
        """Return how each score was made, by the first entry that has it; under "" what all signatures share."""
        first = {name: next(s for e in self.entries if (s := e.first(name)) is not None) for name in self.metrics}
        return metrics.factored({name: score.signature for name, score in first.items()})

    def misfits(self, name: str) -> list[str]:
        """Return for each entry in what its score differs from the first of the column; "" where it is comparable."""
        return metrics.misfits([entry.first(name) for entry in self.entries])

    def table(self, form: str = "md", *, digits: int = 4, intervals: bool = True) -> str:
        """Return the table as Markdown, CSV or LaTeX ("md", "csv", "latex"), or all of it as a page ("html").

        `intervals` shows the 95 % intervals; CSV has columns for them, and for the standard deviation of seeds.
        """
        if form not in FORMS:
            raise ValueError(f"format must be {', '.join(FORMS[:-1])} or {FORMS[-1]}, got {form!r}")
        if form == "csv":
            return self._csv(digits, intervals)
        heads, rows, notes = self.parts(digits, intervals)
        if form == "html":
            return page.page("Comparison", f"<h1>Comparison</h1>{self._html(heads, rows, notes)}")
        return (tables.markdown if form == "md" else tables.latex)(heads, rows, notes)

    def parts(self, digits: int, intervals: bool) -> tuple[list[str], list[tuple[str, list[Cell]]], list[str]]:
        """Return the heads of the columns, the rows with their names, and notes on what may not be compared."""
        odd: dict[str, list[str]] = {}
        for name in self.metrics:
            for entry, reason in zip(self.entries, self.misfits(name), strict=True):
                if reason:
                    odd.setdefault(f"{entry.name} differs in {reason}", []).append(name)
        notes = [f"{reason}: {', '.join(names)}" for reason, names in odd.items()]
        columns = [self._cells(name, digits, intervals) for name in self.metrics]
        rows = [(entry.name, cells) for entry, *cells in zip(self.entries, *columns, strict=True)]
        heads = [f"{name} {metrics.metric(name).arrow}".rstrip() for name in self.metrics]
        return heads, rows, notes

    def _html(self, heads: Sequence[str], rows: Sequence[tuple[str, Sequence[Cell]]], notes: Sequence[str]) -> str:
        """Return HTML: the table, quality against diversity, tests, and how each number was made."""

        def cell(one: Cell) -> str:
            text = escape(one.text) + ("†" if one.mark else "")
            return f"<b>{text}</b>" if one.best else text

        body = page.table(["", *map(escape, heads)], [[escape(name), *map(cell, cells)] for name, cells in rows])
        body += '<p class="dim">↑ higher is better, ↓ lower, ≈ as real ones have it; the best is bold.</p>'
        body += "".join(f"<p>† {escape(note)}</p>" for note in notes)
        dots = [Series(e.name, self.places(e), line=False, dots=True) for e in self.entries]
        drawn = chart(dots, across="quality: BLEU-4", up="up: diversity, 1 - Self-BLEU-4")
        said = "".join(f"<li>{escape(sentence)}</li>" for sentence in [*self.tests, *self.notes])
        body += page.section("Quality and diversity", drawn) + page.section(
            "Tests and remarks", said and f"<ul>{said}</ul>"
        )
        made = page.facts([(name or "all", signature) for name, signature in self.signatures().items()])
        return body + page.section("How each number was made", made)

    def places(self, entry: Entry) -> list[tuple[float, float]]:
        """Return the points of an entry in the plane of quality and diversity, one for each of its runs."""
        known = [scores for scores in entry.scores if "bleu_4" in scores and "self_bleu_4" in scores]
        return [(float(scores["bleu_4"]), 1 - float(scores["self_bleu_4"])) for scores in known]

    def __repr__(self) -> str:
        return f"Comparison({len(self.metrics)} scores of {', '.join(entry.name for entry in self.entries)})"

    def _repr_html_(self) -> str:
        return page.fragment(self._html(*self.parts(digits=4, intervals=True)))

    def _cells(self, name: str, digits: int, intervals: bool) -> list[Cell]:
        figures = [entry.figures(name) for entry in self.entries]
        fits = [not reason for reason in self.misfits(name)]
        shown = [round(each["value"], digits) if each else None for each in figures]
        real = next((v for v, e, fit in zip(shown, self.entries, fits, strict=True) if e.real and fit), None)
        candidates = [v if fit and not e.real else None for v, e, fit in zip(shown, self.entries, fits, strict=True)]
        best = metrics.best(candidates, metrics.metric(name).better, real)

        def text(each: dict[str, float], count: int) -> str:
            number = {key: f"{value:.{digits}f}" for key, value in each.items()}
            spread = f" [{number['low']}, {number['high']}]" if "low" in each else ""
            spread = f" ± {each['high'] - each['value']:.{digits}f} (n = {count})" if "sd" in each else spread
            return number["value"] + (spread if intervals else "") if each else ""

        return [
            Cell(text(each, len(entry.group(name))), top, not fit)
            for each, entry, top, fit in zip(figures, self.entries, best, fits, strict=True)
        ]

    def _csv(self, digits: int, intervals: bool) -> str:
        kinds = ("value", "low", "high", "sd") if intervals else ("value",)
        found = {name: [entry.figures(name) for entry in self.entries] for name in self.metrics}
        columns = {
            name if kind == "value" else f"{name}_{kind}": [f"{f[kind]:.{digits}f}" if kind in f else "" for f in each]
            for name, each in found.items()
            for kind in kinds
            if any(kind in f for f in each)
        }
        names, counts = [e.name for e in self.entries], [str(len(e.scores)) for e in self.entries]
        return tables.comma_separated(
            [["name", "runs", *columns], *map(list, zip(names, counts, *columns.values(), strict=True))]
        )

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold: every number with its signature."""
        return {
            "metrics": {name: metrics.metric(name).to_dict() for name in self.metrics},
            "entries": [
                {
                    "name": e.name,
                    "real": e.real,
                    "scores": [{n: s.to_dict() for n, s in t.items() if n in self.metrics} for t in e.scores],
                }
                for e in self.entries
            ],
            "tests": self.tests,
            "notes": self.notes,
        }


def compare(
    subjects: Sequence[str | os.PathLike[str]],
    references: Sequence[str],
    *,
    train: Sequence[str] | None = None,
    sources: Sequence[str] | None = None,
    protocol: str = "default",
    tokenizer: str = "auto",
    count: int = 1000,
    seed: int = 0,
    temperature: float = 1.0,
    resample: int | None = None,
    shown: Sequence[str] = (),
    module: runs.Module | None = None,
) -> Comparison:
    """Compare runs (folders), files of lines and real text against the same references, `count` lines each.

    A folder of runs seed-N stands for these runs. Runs whose settings differ in the seed alone become one entry. With
    `sources` all runs answer the same conditions and their rows pair. Where a file has fewer than `count` lines all
    have as many as it. Novelty compares with `train`, or with a run's own training text; files and real text have that
    of the first run. `protocol` and `tokenizer` are those of `evaluate`; `resample` is that of refined runs, other runs
    having none. With a run on running text all are compared line by line. `module` is that of the runs of a model of
    your own. Raises DataError where a subject is neither a run nor a file, and for numbers per token of runs that cut
    text differently; ValueError for a score in `shown` that nothing has.
    """
    _refuse_unknown([name for name in shown if not metrics.metric(name).about], metrics.metric_names())
    if not subjects:
        raise DataError("nothing to compare; give runs or files")
    subjects = [run for subject in subjects for run in seed_runs(subject)]
    module = runs.own_module(module)  # once, and not for each run
    generators = {str(subject): load(subject, module=module) for subject in subjects if Path(subject).is_dir()}
    by_line = any(generator.running for generator in generators.values())
    given = {}
    for subject in map(str, subjects):
        if subject not in generators:
            if not (Path(subject).is_file() or subject == "-"):
                raise DataError(f"{subject} is neither a run folder nor a file")
            given[subject] = evaluate.in_lines(read_lines(subject)) if by_line else read_lines(subject)
    notes = []
    shortest = min(given, key=lambda name: len(given[name]), default="")
    if given and len(given[shortest]) < count:
        count = len(given[shortest])
        notes.append(f"{count} texts of each, as many as {shortest} has")
    own: dict[str, Sequence[str]] = {}  # by the fingerprint of the text: twins have it in common
    how: dict[str, Any] = {
        "protocol": protocol,
        "tokenizer": tokenizer,
        "seed": seed,
        "temperature": temperature,
        "baselines": False,
        "by_line": by_line,
    }

    def learnt(name: str) -> Sequence[str] | None:
        """Return the training text of a run; of a file that of the first run."""
        if train is not None or not generators:
            return train
        generator = generators.get(name) or next(iter(generators.values()))
        if not generator.has_text:
            return None
        assert generator.folder is not None
        fingerprint = files.read_object(generator.folder / "env.json", data_sha256=str)["data_sha256"]
        if fingerprint not in own:
            own[fingerprint] = generator.own_text().train_lines
        return own[fingerprint]

    if resample is not None and not any(generator.candidates() > 1 for generator in generators.values()):
        raise DataError("resample is for refined runs, and none is compared; make one with: seqgen refine")
    entries: list[Entry] = []
    groups: list[tuple[Settings, Entry]] = []
    for name in map(str, subjects):
        text = learnt(name)
        if name in given:
            column = evaluate.evaluate(given[name], references, train=text, count=count, **how).columns[0]
            entries.append(Entry(name, [column.scores]))
            continue
        generator = generators[name]
        chooses = generator.candidates() > 1
        how["resample"] = resample if chooses else None
        column = evaluate.evaluate(generator, references, train=text, sources=sources, count=count, **how).columns[0]
        scores = column.likelihood | column.scores
        entry = Entry(name, [scores], sources is not None, seeds=[generator.settings.seed])
        _add(entry, generator.settings, entries, groups)
    text = learnt("")
    if text:
        real = evaluate.real_column(
            text,
            references,
            count=count,
            sources=sources,
            **{name: how[name] for name in ("protocol", "tokenizer", "seed", "by_line")},
        )
        entries.append(Entry(real.name, [real.scores], real=True))
    return _compared(entries, shown, notes)


def compare_aligned(
    subjects: Sequence[str | os.PathLike[str]],
    references: Sequence[str],
    *,
    sources: Sequence[str] | None = None,
    shown: Sequence[str] = (),
    module: runs.Module | None = None,
    **how: Unpack[evaluate.Aligned],
) -> Comparison:
    """Compare runs that answer sources, and files of lines, with a reference for each line; see `evaluate_aligned`.

    All rows pair, so every difference is tested. Runs whose settings differ in the seed alone become one entry. Raises
    DataError for a subject that is neither a run nor a file or has another number of lines, RunError for a run without
    conditions, ValueError for a score in `shown` that nothing has.
    """
    _refuse_unknown([name for name in shown if not metrics.metric(name).about], metrics.metric_names())
    if not subjects:
        raise DataError("nothing to compare; give runs or files")
    module = runs.own_module(module)
    entries: list[Entry] = []
    groups: list[tuple[Settings, Entry]] = []
    for name in [run for subject in subjects for run in seed_runs(subject)]:
        if Path(name).is_dir():
            generator = load(name, module=module)
            (column,) = evaluate.evaluate_aligned(generator, references, sources=sources, **how).columns
            scores, seeds = column.likelihood | column.scores, [generator.settings.seed]
            _add(Entry(name, [scores], paired=True, seeds=seeds), generator.settings, entries, groups)
            continue
        if not (Path(name).is_file() or name == "-"):
            raise DataError(f"{name} is neither a run folder nor a file")
        lines = read_lines(name)
        if len(lines) != len(references):
            raise DataError(f"{name} has {len(lines)} lines for {len(references)} references; expected as many")
        (column,) = evaluate.evaluate_aligned(lines, references, **how).columns
        entries.append(Entry(name, [column.scores], paired=True))
    return _compared(entries, shown)


def _add(entry: Entry, settings: Settings, entries: list[Entry], groups: list[tuple[Settings, Entry]]) -> None:
    """Append the entry of a run, or join it with that of a run whose settings differ in the seed alone."""
    twin = next((other for known, other in groups if _only_seed_differs(known, settings)), None)
    if twin is None:
        groups.append((settings, entry))
        entries.append(entry)
    else:
        twin.join(entry)


def compare_images(
    subjects: Sequence[str | os.PathLike[str]],
    *,
    count: int = 1000,
    seed: int = 0,
    shown: Sequence[str] = (),
    encoder: "Encoder | None" = None,
    module: runs.Module | None = None,
) -> Comparison:
    """Compare image runs, and folders or files of images, with each other and with held-out images.

    `count` images of each, but no more than are held out (see `seqgen.images.scores.column_size`) or than a file has.
    Files are scaled to fit the runs. Of a VAE latents come from the prior and, in an entry of its own, from a mixture
    fitted to its latents. Runs whose settings differ in the seed alone become one entry. DataError for runs of
    different images, and for no run among the subjects.
    """
    from seqgen.images import scores as image_scores  # late: text needs none of it

    _refuse_unknown([name for name in shown if not metrics.metric(name).about], metrics.metric_names())
    subjects = [run for subject in subjects for run in seed_runs(subject)]
    folders = [str(s) for s in subjects if is_run(s)]
    module = runs.own_module(module)
    image_generators = {name: load_image_generator(name, module=module) for name in folders}
    if not image_generators:
        raise DataError("nothing to compare with: give at least one run, whose images are the real ones")
    first, images = next((name, generator.images) for name, generator in image_generators.items())
    for name, generator in image_generators.items():
        if generator.images.fingerprint != images.fingerprint:
            raise DataError(f"{name} was trained on other images than {first}: compare runs of the same ones")
    given = {str(s): evaluate.given_images(str(s), images) for s in subjects if str(s) not in image_generators}
    notes = []
    wanted, count = count, min([count, *map(len, given.values())])
    entries: dict[str, list[Entry]] = {}
    found: list[tuple[Settings, dict[str, Entry]]] = []
    real: list[dict[str, metrics.Score]] = []
    for name, generator in image_generators.items():
        settings = runs.read_settings(Path(name), module=module)
        columns = evaluate.evaluate_images(generator, count=count, seed=seed, encoder=encoder, samples=0).columns
        scores = {column.name: column.scores for column in columns if column.name != "rebuilt"}
        real.append(scores.pop("real"))
        names = {method: name if len(scores) == 1 else f"{name}, {method}" for method in scores}
        own = {method: Entry(names[method], [each], seeds=[settings.seed]) for method, each in scores.items()}
        twin = next((entries for other, entries in found if _only_seed_differs(other, settings)), None)
        if twin is None:
            found.append((settings, own))
            entries[name] = list(own.values())
        else:
            for method, entry in own.items():
                twin[method].join(entry)
    if given:
        for column in image_scores.table_of(given, images, count=count, seed=seed, encoder=encoder)[:-1]:
            entries[column.name] = [Entry(column.name, [column.scores])]
    made = int(real[0]["variety"].signature.fields["made"])
    if made < wanted:
        notes.append(f"{made} images of each: no more are held out, or lie in a file")
    ordered = [entry for s in subjects for entry in entries.pop(str(s), [])]
    return _compared([*ordered, Entry("real images", real[:1], real=True)], shown, notes)


def _refuse_unknown(unknown: Sequence[str], known: Sequence[str]) -> None:
    """Raise ValueError for the first of the unknown names, if there is one."""
    if unknown:
        near = difflib.get_close_matches(unknown[0], known, n=1)
        listed = [name for name in metrics.shown("compare") if name in known]
        raise ValueError(
            f"unknown column {unknown[0]!r}; "
            + (f"did you mean {near[0]}?" if near else f"known: {', '.join(listed)} ...")
        )


def _compared(entries: list[Entry], shown: Sequence[str], notes: Sequence[str] = ()) -> Comparison:
    known = list(dict.fromkeys(name for e in entries for scores in e.scores for name in scores))
    _refuse_unknown([name for name in shown if name not in known], known)
    present = tuple(name for name in shown or metrics.shown("compare") if name in known)
    for name in present:
        if not metrics.metric(name).per_token:
            continue
        cut = {s.signature.fields["tok"]: e.name for e in entries for s in e.group(name)}
        if len(cut) > 1:
            runs_of = " and ".join(f"{subject} ({tokenizer})" for tokenizer, subject in cut.items())
            raise DataError(f"{name} is per token, and {runs_of} cut text differently; compare nll_per_character")
    tests, few = _tests_over_seeds(entries, present)
    return Comparison(entries, present, _tests(entries, present) + tests, [*notes, *few])


def _only_seed_differs(a: Settings, b: Settings) -> bool:
    return set(a.differences(b)) <= {"seed"}


def _tests(entries: Sequence[Entry], names: Sequence[str]) -> list[str]:
    """Run paired permutation tests of every two single entries whose rows answer the same sources or are references."""
    tests = []
    single = [e for e in entries if len(e.scores) == 1]
    for i, a in enumerate(single):
        for b in single[i + 1 :]:
            for name in names:
                one, other = a.first(name), b.first(name)
                if one is None or other is None or one.rows is None or other.rows is None:
                    continue
                if not (a.paired and b.paired) and one.signature.inputs != other.signature.inputs:
                    continue
                if any(metrics.misfits([one, other])):
                    continue
                d = metrics.difference(one, other, paired=True)
                tests.append(
                    f"{name}: {a.name} - {b.name} = {d.value:+.4f} [{d.interval[0]:+.4f}, {d.interval[1]:+.4f}], "
                    f"p = {d.p_value:.4f} (paired permutation)"
                )
    return tests


def _tests_over_seeds(entries: Sequence[Entry], names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Run paired t tests of every two entries of several runs over their common seeds; say where these are too few."""
    tests, few = [], []
    several = [e for e in entries if len(e.scores) > 1]
    for i, a in enumerate(several):
        for b in several[i + 1 :]:
            seeds = sorted(set(a.seeds) & set(b.seeds))
            if len(seeds) < 3:
                few.append(f"{a.name} and {b.name} have {len(seeds)} seeds in common; a paired test over seeds takes 3")
                continue
            for name in names:
                one, other = a.by_seed(name), b.by_seed(name)
                if not (one.keys() & other.keys() >= set(seeds)) or any(
                    metrics.misfits([a.first(name), b.first(name)])
                ):
                    continue
                d = metrics.paired_seeds([one[seed] for seed in seeds], [other[seed] for seed in seeds])
                tests.append(
                    f"{name}: {a.name} - {b.name} = {d.value:+.4f} [{d.interval[0]:+.4f}, {d.interval[1]:+.4f}], "
                    f"p = {d.p_value:.4f} (paired t over {len(seeds)} seeds)"
                )
    return tests, few


def draw(comparison: Comparison) -> bytes:
    """Draw the entries as points of quality (BLEU-4) and diversity (1 - Self-BLEU-4), as a PNG."""
    figure, axes = plots.plane()
    for entry in comparison.entries:
        if places := comparison.places(entry):
            marker = "*" if entry.real else "o"
            axes.plot(*zip(*places, strict=True), marker, markersize=12 if marker == "*" else 7, label=entry.name)
    axes.legend(frameon=False)
    return plots.png(figure)
