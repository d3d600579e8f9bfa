"""Models and texts against each other: `seqgen compare`, in numbers or by what people prefer, and `curve`."""

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seqgen.cli import images, output
from seqgen.cli.options import (
    Json,
    Module,
    Opening,
    Reading,
    Resample,
    Run,
    check_writable,
    makes_images,
    open_run,
    read_for,
    reading_named,
    refuse,
    training_file,
    was_typed,
)
from seqgen.engine.folder import is_run, seed_runs

if TYPE_CHECKING:
    from seqgen.engine.compare import Comparison
    from seqgen.engine.curve import Point
    from seqgen.metrics.tables import Cell

References = Annotated[
    str,
    typer.Option(
        "--references",
        metavar="FILE",
        help="Real text that no run was trained on: a file, or the test part of a set.",
        show_default=False,
    ),
]
Train = Annotated[
    str, typer.Option("--train", metavar="FILE", help="Training text; without it a run's own, by its settings.")
]
Tokenizer = Annotated[
    str,
    typer.Option(
        "--tokenizer",
        metavar="NAME",
        help="How the protocol default cuts lines: auto, split, nltk (no sentence splitting), 13a, zh or char.",
    ),
]
Count = Annotated[int, typer.Option("--count", metavar="N", help="Number of texts of each.")]
Seed = Annotated[int, typer.Option("--seed", metavar="S", help="Seed of the samples and of what is drawn from them.")]
Plot = Annotated[
    Path | None, typer.Option("--plot", metavar="FILE", help="Draw an image into this PNG file.", show_default=False)
]

_PAIRS = 50
"""How many pairs people are asked about, where --count does not say."""


def compare(
    context: typer.Context,
    subjects: Annotated[
        list[str] | None,
        typer.Argument(metavar="RUN|FILE", help="Run folders and files of texts or images.", show_default=False),
    ] = None,
    references: References = "",
    train: Train = "",
    aligned: Annotated[
        bool, typer.Option("--aligned", help="Score text i against reference i alone, and test differences in pairs.")
    ] = False,
    num_beams: Annotated[
        int, typer.Option("--num-beams", metavar="N", help="With --aligned: beams of the runs' search; 0 samples.")
    ] = 5,
    lowercase: Annotated[bool, typer.Option("--lowercase", help="With --aligned: lower-case the texts first.")] = False,
    protocol: Annotated[
        str, typer.Option("--protocol", metavar="NAME", help="Evaluation protocol: default, texygen ...")
    ] = "default",
    tokenizer: Tokenizer = "auto",
    count: Count = 1000,
    seed: Seed = 0,
    temperature: Annotated[float, typer.Option("--temperature", metavar="T", help="Temperature of the samples.")] = 1.0,
    resample: Resample = None,
    form: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="NAME",
            help="Write md, csv, latex, or a page: html; without it md, and on a terminal a table that fits.",
        ),
    ] = "",
    columns: Annotated[
        str, typer.Option("--columns", metavar="NAME,NAME", help="Show these scores only, such as bleu_2,nll_per_line.")
    ] = "",
    digits: Annotated[int, typer.Option("--digits", metavar="N", help="Number of decimals.")] = 4,
    intervals: Annotated[
        bool, typer.Option(help="Show the 95 % interval of each score, over seeds where runs stand together.")
    ] = True,
    features: images.Features = "",
    plot: Plot = None,
    blind: Annotated[
        Path | None,
        typer.Option(
            "--blind",
            metavar="FILE",
            help="Write a page that asks people which of two texts is better, and its key beside it.",
            show_default=False,
        ),
    ] = None,
    answers: Annotated[
        Path | None,
        typer.Option("--answers", metavar="FILE", help="Count the answers that such a page saved.", show_default=False),
    ] = None,
    key: Annotated[
        Path | None, typer.Option("--key", metavar="FILE", help="With --answers: the page's key.", show_default=False)
    ] = None,
    json: Json = False,
    module: Module = None,
) -> None:
    """Compare runs, files and real text in one table.

    Scores that are sums over texts have a 95 % interval; runs that differ in their seed alone are one line: mean,
    interval over seeds (Student's t) and number; the folder of train --seeds stands for its runs. Two such lines are
    tested in pairs of seeds, if they have three in common. The best is bold: highest (↑), lowest (↓), or nearest to
    real text (≈). Likelihood is in nats per character, which runs with different tokenizers have in common. † marks
    what was made otherwise than the first of its column. Runs with conditions answer those of the references, and their
    differences are tested in pairs. Runs of images need no --references: as many held-out images stand beside them, and
    folders or files of images made elsewhere, which are scaled to fit the first run; their intervals are jackknife's.
    With --aligned, see `seqgen evaluate --aligned`, every line has a reference of its own.

    People may compare two files of texts without being told whose text is whose: --blind writes sheet.html with 50
    pairs (or --count) and sheet.key.json, --answers counts what they chose: the preference, its 95 % interval and a
    binomial test.

    \b
    seqgen compare a.txt b.txt --blind sheet.html
    seqgen compare --answers answers.json --key sheet.key.json
    """
    if blind is not None or answers is not None or key is not None:
        _asked(context, subjects or [], count=count, seed=seed, page=blind, answers=answers, key=key, json=json)
        return
    if not subjects:
        raise output.CommandError("RUN|FILE is missing; see: seqgen compare --help")
    from seqgen.engine import compare as comparing

    subjects = [run for subject in subjects for run in seed_runs(subject)]
    output.at_least(2, count=count)
    output.at_least(0, temperature=temperature, num_beams=num_beams)
    if not aligned and (num_beams != 5 or lowercase):
        raise output.CommandError(f"{'--lowercase' if lowercase else '--num-beams'} takes no effect without --aligned")
    if form and form not in comparing.FORMS:
        raise output.CommandError(f"--format must be md, csv, latex or html, got {form!r}")
    output.at_least(0, digits=digits)
    shown: dict[str, Any] = {"shown": [name.strip() for name in columns.split(",")]} if columns else {}
    drawing = [makes_images(Path(subject)) for subject in subjects]
    given = [images.holds_images(Path(subject)) for subject in subjects]
    if any(drawing) or all(given):
        if not all(map(max, drawing, given)):
            raise output.CommandError("runs of images are compared with each other, not with text")
        known = ("subjects", "count", "seed", "form", "columns", "digits", "intervals", "features", "json", "module")
        images.refuse(context, *known)
        encoder = images.own_features(features)
        with output.wrong_values():
            table = comparing.compare_images(subjects, count=count, seed=seed, encoder=encoder, module=module, **shown)
    else:
        if features:
            raise output.CommandError("--features is for images")
        if not references:
            raise output.CommandError("--references is missing; see: seqgen compare --help")
        how: dict[str, Any] = {"seed": seed, "temperature": temperature, **shown}
        if aligned:
            refuse(
                context,
                "--aligned scores every line against its own reference",
                {"train", "protocol", "tokenizer", "count", "resample", "plot"},
            )
            how |= {"num_beams": num_beams, "lowercase": lowercase, "aligned": True}
        else:
            how |= {"train": train, "protocol": protocol, "tokenizer": tokenizer, "count": count, "resample": resample}
        table = _texts_compared(subjects, references, module=module, **how)
    if json:
        output.write(output.json_line(table.to_dict()))
    else:
        if form or not sys.stdout.isatty():
            output.write(table.table(form or "md", digits=digits, intervals=intervals) + "\n")
        else:
            _write_fitted(table, digits=digits, intervals=intervals)
        for sentence in [*table.tests, *table.notes]:
            output.say(sentence)
        for name, signature in table.signatures().items():
            if signature:
                output.say(f"{name or 'all'}: {signature}")
    if plot is not None:
        _save(plot, comparing.draw(table))


def _write_fitted(table: "Comparison", *, digits: int, intervals: bool) -> None:
    """Write a comparison for a terminal: a row for each score, a column for each entry, numbered where it must be."""
    heads, rows, notes = table.parts(digits, intervals)
    names = [name for name, _ in rows]

    def cells(shown: list[tuple[str, list["Cell"]]]) -> list[list[str]]:
        marked = [[c.text + "*" * c.best + "†" * c.mark for c in own] for _, own in shown]
        return [[head, *own] for head, *own in zip(heads, *marked, strict=True)]

    drawn = output.table(["", *names], cells(rows), wraps=False)
    if intervals and max(map(len, drawn.splitlines())) > output.width():
        rows = table.parts(digits, False)[1]
        drawn = output.table(["", *names], cells(rows), wraps=False)
    if max(map(len, drawn.splitlines())) > output.width():
        drawn = output.table(["", *(f"({n})" for n in range(1, len(names) + 1))], cells(rows))
        drawn += "".join(f"({n}) {name}\n" for n, name in enumerate(names, 1))
    output.write(f"{drawn}\n↑ higher is better, ↓ lower, ≈ as real ones have it; * the best\n")
    output.write("".join(f"† {note}\n" for note in notes))


def _texts_compared(
    subjects: list[str], references: str, *, module: Path | None, train: str = "", aligned: bool = False, **options: Any
) -> "Comparison":
    from seqgen.data.text import read_lines
    from seqgen.engine import compare as comparing
    from seqgen.engine import run as runs

    folders = [Path(subject) for subject in subjects if is_run(subject)]
    own = runs.own_module(module)
    fields = runs.read_settings(folders[0], module=own).data if folders else None
    with output.wrong_values(), output.warnings_said(), reading_named(options=False):
        real = Reading([references]).records(references, fields)
        options |= {"sources": real.sources, "module": own}
        if aligned:
            return comparing.compare_aligned(subjects, real.texts, **options)
        learnt = read_lines(training_file(train)) if train else None
        return comparing.compare(subjects, real.texts, train=learnt, **options)


def curve(
    run: Run,
    references: References,
    temperatures: Annotated[
        str, typer.Option("--temperatures", metavar="T,T...", help="Temperatures to sample at; without it 0.5 to 1.2.")
    ] = "",
    train: Train = "",
    tokenizer: Tokenizer = "auto",
    count: Count = 1000,
    seed: Seed = 0,
    resample: Resample = None,
    plot: Plot = None,
    json: Json = False,
    *,
    opening: Opening,
) -> None:
    """Draw quality against diversity over temperatures.

    Real text is drawn beside them.
    Quality is BLEU-4 against the references, diversity is 1 - Self-BLEU-4. A star marks the points that no other point
    beats in both.
    """
    from seqgen.core import files
    from seqgen.data.text import read_lines
    from seqgen.engine import curve as curves
    from seqgen.engine.report import write_report

    output.at_least(2, count=count)
    check_writable(run)
    chosen = _temperatures(temperatures) if temperatures else curves.TEMPERATURES
    generator = open_run(run, opening)
    real = read_for(generator, references)
    with output.wrong_values(), reading_named(options=False):
        drawn = curves.curve(
            generator,
            real.texts,
            sources=real.sources,
            temperatures=chosen,
            train=read_lines(training_file(train)) if train else None,
            tokenizer=tokenizer,
            count=count,
            seed=seed,
            resample=resample,
            on_point=_say_point,
        )
    if json:
        output.write(output.json_line(drawn.to_dict()))
    else:
        front = drawn.front()
        points = [*drawn.points, *([drawn.real] if drawn.real else [])]
        rows = [[p.name, f"{p.quality:.4f}", f"{p.diversity:.4f}", "*" if p in front else ""] for p in points]
        output.write(output.table(["", "quality", "diversity", ""], rows))
        output.write(f"\narea under the front {drawn.area():.4f}; quality: {points[0].scores['bleu_4'].signature}\n")
    image = curves.draw([drawn])
    if plot is not None:
        _save(plot, image)
    files.write_json(run / "curve.json", drawn.to_dict())
    files.write_bytes(run / "curve.png", image)
    output.say(f"also in {write_report(run)}")


def _temperatures(text: str) -> list[float]:
    try:
        chosen = [float(word) for word in text.split(",")]
        if not all(map(math.isfinite, chosen)):
            raise ValueError
        return chosen
    except ValueError:
        raise output.CommandError(f"--temperatures must be numbers such as 0.7,1.0,1.3, got {text!r}") from None


def _say_point(point: "Point") -> None:
    output.say(f"{point.name}: quality {point.quality:.4f}, diversity {point.diversity:.4f}")


def _save(path: Path, image: bytes) -> None:
    from seqgen.core import files

    files.write_bytes(path, image)
    output.say(f"image in {path}")


def _asked(
    context: typer.Context,
    subjects: list[str],
    *,
    count: int,
    seed: int,
    page: Path | None,
    answers: Path | None,
    key: Path | None,
    json: bool,
) -> None:
    """Write the page of a blind comparison, or count its answers."""
    if page is None and answers is None:
        raise output.CommandError("--key takes no effect without --answers")
    others = {parameter.name or "" for parameter in context.command.params}
    if answers is not None:
        if subjects:
            raise output.CommandError("--answers counts what a page saved; it excludes texts")
        refuse(context, "--answers counts what a page saved", others - {"answers", "key", "json"})
        if key is None:
            raise output.CommandError("--answers needs --key FILE, the key that lies beside the page")
        _tally(answers, key, json=json)
        return
    assert page is not None
    refuse(context, "--blind writes a page", others - {"blind", "subjects", "count", "seed"})
    if len(subjects) != 2 or any(map(is_run, subjects)):
        raise output.CommandError(
            "--blind needs two files of texts; write a run's with: seqgen generate RUN --out FILE"
        )
    pairs = count if was_typed(context, "count") else _PAIRS
    output.at_least(1, count=pairs)
    from seqgen.core import files
    from seqgen.engine.blind import sheet

    with reading_named(options=False):
        a, b = (Reading(subjects).records(file).texts for file in subjects)
    html, secret = sheet(a, b, names=(subjects[0], subjects[1]), count=pairs, seed=seed)
    place = page.with_suffix(".key.json")
    files.write_text(page, html)
    files.write_json(place, secret)
    output.say(f"{pairs} pairs in {page}; keep {place} from those who answer")


def _tally(answers: Path, key: Path, *, json: bool) -> None:
    import dataclasses

    from seqgen.core import files
    from seqgen.engine.blind import tally

    found = tally(files.read_json(key), files.read_json(answers))
    if json:
        output.write(output.json_line(dataclasses.asdict(found)))
        return
    low, high = found.interval
    output.write(
        f"{found.name_a} is preferred in {found.preferred_a} of {found.preferred_a + found.preferred_b} decided pairs: "
        f"{found.share_a:.1%} [{low:.1%}, {high:.1%}], p = {found.p_value:.4f} (binomial); "
        f"{found.undecided} undecided\n"
    )
