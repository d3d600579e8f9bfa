"""`seqgen corpus filter`: text made cleaner, and what was taken out of it."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from seqgen.cli import output
from seqgen.cli.options import (
    Encoding,
    Field,
    Format,
    Opening,
    Reading,
    check_output,
    open_run,
    read_for,
    row_for,
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
