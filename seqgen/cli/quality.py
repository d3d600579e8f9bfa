"""`seqgen corpus filter`: text made cleaner; `seqgen corpus augment`: more lines of each label."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from seqgen.cli import output
from seqgen.cli.options import (
    Encoding,
    Field,
    Format,
    Json,
    Opening,
    Reading,
    check_domain,
    check_output,
    open_run,
    read_for,
    reading_named,
    refuse,
    row_for,
    was_typed,
)
from seqgen.cli.score import outlier_count
from seqgen.engine.folder import is_run

if TYPE_CHECKING:
    from seqgen.data.text import Records
    from seqgen.engine.generate import TextGenerator


def filter_(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[RUN] FILE", help="The text; before it a run, where lines are judged by it.", show_default=False
        ),
    ],
    keep: Annotated[Path, typer.Option("--keep", metavar="FILE", help="Write the lines that stay into this file.")],
    drop: Annotated[
        Path | None,
        typer.Option("--drop", metavar="FILE", help="Write the others into this one, each with its number and why."),
    ] = None,
    outliers: Annotated[
        str,
        typer.Option("--outliers", metavar="SHARE", help="Drop the least likely lines: 1% of them, or a number."),
    ] = "",
    percentile: Annotated[
        float,
        typer.Option(
            "--percentile",
            metavar="P",
            help="Drop lines less likely than all but P % of the run's own held-out lines; 1 drops 1 % of such text.",
        ),
    ] = 0.0,
    rank: Annotated[
        Literal["token", "line", "worst"],
        typer.Option("--rank", metavar="NAME", help="Judge a line by token, line or worst, as seqgen score does."),
    ] = "worst",
    duplicates: Annotated[bool, typer.Option("--duplicates", help="Drop lines that an earlier one equals.")] = False,
    near: Annotated[
        float,
        typer.Option(
            "--near",
            metavar="S",
            help="Drop lines that share so much with an earlier one, of 0 to 1: the Jaccard similarity of word pairs.",
        ),
    ] = 0.0,
    against: Annotated[
        str,
        typer.Option("--against", metavar="FILE", help="Drop lines that stand in this file too, such as a test set."),
    ] = "",
    rule: Annotated[
        str,
        typer.Option("--rule", metavar="NAME", help="Drop lines that break a domain's rule: python or molecules."),
    ] = "",
    field: Field = "",
    format: Format = "auto",
    encoding: Encoding = "auto",
    json: Json = False,
    *,
    opening: Opening,
) -> None:
    """Drop lines that are unlikely, repeat others or break a rule.

    Lines are dropped in this order: by the rule, as repetitions, as unlikely; shares are of the lines still there. The
    file of dropped lines is a table of number, reason and text. Rows with a condition are kept as JSON Lines.
    """
    if len(words) > 2 or (len(words) == 2 and not is_run(words[0])):
        raise output.CommandError(f"expected [RUN] FILE, got {' '.join(words)}; {words[0]} is no run")
    run, file = (Path(words[0]), words[1]) if len(words) == 2 else (None, words[0])
    by_run = bool(outliers or percentile)
    if not (by_run or duplicates or near or against or rule):
        raise output.CommandError("nothing to drop; give --outliers, --percentile, --duplicates, --near or --rule")
    if by_run != (run is not None):
        typed = "--outliers" if outliers else "--percentile"
        raise output.CommandError(
            f"{typed} needs a run before the file" if by_run else f"{run} takes no effect without --outliers"
        )
    for typed, value, most in (("--near", near, 1.0), ("--percentile", percentile, 100.0)):
        if not 0 <= value <= most:
            raise output.CommandError(f"{typed} must be in 0..{most:g}, got {value:g}")
    outlier_count(outliers, 1)  # a wrong value is refused before anything is read
    check_output("--keep", keep, [file, against], folder=False)
    if drop is not None:
        check_output("--drop", drop, [file, against, str(keep)], folder=False)
    from seqgen.core.files import write_text
    from seqgen.data.formats import table_row
    from seqgen.engine import cleaning

    reading = Reading([file, against], field, format, encoding)
    generator = open_run(run, opening) if run is not None else None
    records = read_for(generator, file, reading) if generator is not None else reading.records(file)
    with output.wrong_values():
        others = reading.lines(against) if against else []
        reasons: dict[int, str] = cleaning.repeated(
            records.texts, rule=rule, duplicates=duplicates, near=near, against=others, numbers=records.numbers
        )
        reasons |= {i: "blank" for i, text in enumerate(records.texts) if not text.strip()}
        if generator is not None:
            rest = [i for i in range(len(records.texts)) if i not in reasons]
            found = cleaning.unlikely(
                generator,
                [records.texts[i] for i in rest],
                None if records.sources is None else [records.sources[i] for i in rest],
                rank=rank,
                count=(lambda lines: outlier_count(outliers, lines)) if outliers else None,
                percentile=percentile,
            )
            reasons |= {rest[i]: reason for i, reason in found.items()}
    kept = [i for i in range(len(records.texts)) if i not in reasons]
    if not kept:
        raise output.CommandError(f"{file}: no line would stay; nothing was written")
    write_text(keep, _rows(generator, records, kept))
    if drop is not None:
        rows = [(records.numbers[i], reasons[i], records.texts[i]) for i in sorted(reasons)]
        table = [table_row(("line", "reason", "text")), *(table_row(map(str, row)) for row in rows)]
        write_text(drop, "".join(table))
    counts = Counter(reason.split(" ")[0].rstrip(":") for reason in reasons.values())
    if json:
        output.write(output.json_line({"file": str(keep), "kept": len(kept), "dropped": dict(counts)}))
    listed = ", ".join(f"{count:,} {name}" for name, count in counts.items()) or "none dropped"
    output.say(f"{len(kept):,} of {len(records.texts):,} lines in {keep}; {listed}")


def _rows(generator: "TextGenerator | None", records: "Records", kept: list[int]) -> str:
    """Return the content of a file of the rows that stay."""
    from seqgen.data.formats import text_lines

    texts = [records.texts[i] for i in kept]
    if generator is not None and records.sources is not None:
        return "".join(
            output.json_line(row_for(generator, text, records.sources[i])) for i, text in zip(kept, texts, strict=True)
        )
    return text_lines(texts, "jsonl" if any("\n" in text for text in texts) else "lines")


def augment(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE",
            help="Labelled text with named fields (.tsv, .csv, .jsonl), and settings of the model trained on it; with "
            "--domain molecules SMILES strings.",
            show_default=False,
        ),
    ],
    context: typer.Context,
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="Write the new lines here: .tsv or .jsonl; molecules: .smi.")
    ],
    domain: Annotated[
        str,
        typer.Option("--domain", metavar="NAME", help="molecules: each written anew, its atoms in random orders."),
    ] = "",
    copies: Annotated[int, typer.Option("--copies", metavar="N", help="How often a molecule is written.")] = 10,
    per_class: Annotated[int, typer.Option("--per-class", metavar="N", help="Texts of each label.")] = 100,
    source: Annotated[
        Path | None,
        typer.Option("--from", metavar="RUN", help="Take this run; without it one is trained, in the folder FILE-run."),
    ] = None,
    label: Annotated[str, typer.Option("--label", metavar="NAME", help="Field of the label.")] = "label",
    field: Field = "text",
    seed: Annotated[int, typer.Option("--seed", metavar="S", help="Seed of the texts.")] = 0,
    temperature: Annotated[float, typer.Option("--temperature", metavar="T", help="Temperature of the texts.")] = 1.0,
    near: Annotated[
        float, typer.Option("--near", metavar="S", help="Similarity from which a text repeats another; 0 drops none.")
    ] = 0.8,
    check: Annotated[
        bool, typer.Option(help="Drop texts to which a classifier of the lines gives another label.")
    ] = True,
    format: Format = "auto",
    encoding: Encoding = "auto",
    json: Json = False,
    *,
    opening: Opening,
) -> None:
    """Write more lines of each label, or molecules in other orders.

    A model that reads the label writes them. Copies of lines, near-duplicates, and texts that look like another label
    are left out and counted. Whether a classifier gains by them is a question for real text held out:
    scripts/reproduce/augment.py measures it. With --domain molecules each SMILES string is written --copies times from
    random orders of its atoms, without a model, and not as it was; docs/molecules.md has measured what that brings.
    """
    if domain:
        check_domain("--domain", domain, ["molecules"])
        refuse(context, "--domain molecules", {"per_class", "source", "label", "temperature", "near", "check"})
        _rewrite(words, out, copies, seed, Reading(words, field, format, encoding), json=json)
        return
    if was_typed(context, "copies"):
        raise output.CommandError("--copies takes no effect without --domain molecules")
    files = [word for word in words if "=" not in word]
    settings = [word for word in words if "=" in word]
    if len(files) != 1:
        raise output.CommandError(f"expected one file of labelled text, got {', '.join(files) or 'none'}")
    if settings and source is not None:
        raise output.CommandError(f"--from {source} is trained already; it excludes {settings[0]}")
    output.at_least(1, per_class=per_class)
    output.at_least(0, temperature=temperature)
    if not 0 <= near <= 1:
        raise output.CommandError(f"--near must be in 0..1, got {near:g}")
    if out.suffix not in (".tsv", ".jsonl"):
        raise output.CommandError(f"--out must end in .tsv or .jsonl, got {out}")
    check_output("--out", out, files, folder=False)
    from seqgen.core.files import write_text
    from seqgen.data.formats import table_row
    from seqgen.data.text import read_records
    from seqgen.engine import augment as augmenting
    from seqgen.engine import loop
    from seqgen.engine import run as runs

    with reading_named():
        records = read_records(files, source=label, target=field, format=format, encoding=encoding)
    assert records.sources is not None
    augmenting.check_labelled(records.texts, records.sources, records.where)
    if source is None:
        source = out.with_name(f"{out.stem}-run")
        fields = [f"data.source={label}", f"data.target={field}"]
        chosen = None if is_run(source) else runs.config("lm", files, overrides=[*fields, *settings])
        loop.train(chosen, source, overrides=settings if chosen is None else [])
    generator = open_run(source, opening)
    if not generator.settings.data.source:
        raise output.CommandError(f"{source} takes no condition (data.source), so it cannot write for a label")
    with output.wrong_values(), output.warnings_said():
        made = augmenting.augment(
            generator,
            records.texts,
            records.sources,
            per_class,
            seed=seed,
            temperature=temperature,
            near=near,
            check=check,
        )
    pairs = [(one.label, text) for one in made for text in one.texts]
    if out.suffix == ".tsv":
        write_text(out, "".join(table_row(row) for row in [(label, field), *pairs]))
    else:
        write_text(out, "".join(output.json_line({label: name, field: text}) for name, text in pairs))
    for one in made:
        if json:
            output.write(output.json_line({"label": one.label, "kept": len(one.texts), "dropped": dict(one.dropped)}))
        left_out = ", ".join(f"{count} {reason}" for reason, count in one.dropped.items()) or "none left out"
        output.say(f"{one.label}: {len(one.texts)} of {one.written} written; {left_out}")


def _rewrite(words: list[str], out: Path, copies: int, seed: int, reading: Reading, *, json: bool) -> None:
    """Write every molecule of a file anew."""
    output.at_least(1, copies=copies)
    output.at_least(0, seed=seed)
    if len(words) != 1:
        raise output.CommandError(f"expected one file of molecules, got {', '.join(words)}")
    if out.suffix != ".smi":
        raise output.CommandError(f"--out must end in .smi, got {out}")
    check_output("--out", out, words, folder=False)
    from seqgen.core.files import write_text
    from seqgen.engine import augment as augmenting
    from seqgen.engine.molecules import check_extra

    check_extra("--domain molecules")
    with reading_named():
        records = reading.records(words[0])
    made = augmenting.rewritten(records.texts, copies, seed, records.where)
    write_text(out, "".join(f"{text}\n" for text in made))
    if json:
        output.write(output.json_line({"file": str(out), "molecules": len(records.texts), "lines": len(made)}))
    output.say(f"{len(made):,} lines of {len(records.texts):,} molecules in {out}")
