"""`seqgen fill`: gaps in given texts, filled by a run."""

import dataclasses
from typing import Annotated

import typer

from seqgen.cli import output
from seqgen.cli.flags import Panel
from seqgen.cli.options import Json, Opening, Run, open_run, reading_named
from seqgen.core.options import Filling


def fill(
    run: Run,
    texts: Annotated[
        list[str] | None,
        typer.Argument(metavar="TEXT", help="Texts with gaps, each written [MASK].", show_default=False),
    ] = None,
    file: Annotated[
        str,
        typer.Option("--texts", metavar="FILE", help="File of such texts, one a line; - is standard input."),
    ] = "",
    json: Json = False,
    *,
    filling: Annotated[Filling, Panel("Filling")],
    opening: Opening,
) -> None:
    """Fill the gaps of texts.

    Every [MASK] is one token of the run, a word or a character; the rest stays as it is. One filled text a line,
    --count of them for each text; with --json an object each, with what was filled in and its log-probability.

    A run of masked sees both sides of a gap. Runs of lm, gpt and others write from left to right: a gap is drawn given
    the text before it alone, and --best-of N then keeps the likeliest whole text of N.

    \b
    seqgen fill runs/masked "a man [MASK] a horse ." --count 3
    """
    from seqgen.data.text import read_lines

    if bool(texts) == bool(file):
        raise output.CommandError("give texts with [MASK] for each gap, or --texts FILE" + ", not both" * bool(texts))
    generator = open_run(run, opening)
    with output.wrong_values(), reading_named(options=False):
        given = texts or [line for line in read_lines(file) if line.strip()]
        found = generator.fill(given, **vars(filling))
    if generator.exact and filling.best_of == 1:
        output.say(
            f"{generator.settings.name} sees the text before a gap alone; --best-of N looks at the whole text too"
        )
    for one in found:
        if json:
            output.write(output.json_line({"seed": filling.seed, **dataclasses.asdict(one)}))
        else:
            output.write(f"{one.text}\n")
