"""`seqgen mix`: runs mixed token by token into a new run.

seqgen mix runs/captions kneser-ney --held-out held-out.txt --out runs/mixed
"""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from seqgen.cli import output
from seqgen.cli.options import Encoding, Field, Format, Json, Open, Reading, reading_named
from seqgen.core.options import help_texts


def mix(
    subjects: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN [RUN|kneser-ney]...",
            help="Run folders; kneser-ney: n-grams of the first run's training lines. A run alone is mixed with that.",
            show_default=False,
        ),
    ],
    held_out: Annotated[
        str,
        typer.Option(
            "--held-out",
            metavar="FILE",
            help="Lines that no run was trained on, 500 or more, or the test part of a set: they choose the weights.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Write the new run into this folder.", show_default=False)
    ],
    order: Annotated[int, typer.Option("--order", metavar="N", help="Longest n-grams of kneser-ney, in tokens.")] = 5,
    field: Field = "",
    format: Format = "auto",
    encoding: Encoding = "auto",
    json: Json = False,
    device: Annotated[str, typer.Option("--device", metavar="NAME", help=help_texts(Open)["device"])] = "auto",
) -> None:
    """Mix runs, and an n-gram model, into a new run.

    Token by token, p is the weighted sum of what the runs give. The new run generates, scores and evaluates as any run,
    every option acting on the mixed distribution. The weights are those of greatest likelihood on the held-out lines. A
    part is left out whose gain is below two standard errors, each line measured by weights that others chose.
    """
    from seqgen.engine.derived import KNESER_NEY
    from seqgen.engine.mix import mix as mixed
    from seqgen.engine.run import read_settings

    names = subjects if len(subjects) > 1 else [*subjects, KNESER_NEY]
    with reading_named():
        known = read_settings(Path(names[0])).data if names[0] != KNESER_NEY else None
        records = Reading([held_out], field, format, encoding).records(held_out, known)
    with output.wrong_values():
        result = mixed(names, records.texts, out, sources=records.sources, order=order, device=device)
    if json:
        output.write(output.json_line(asdict(result)))
        return
    table = [
        [part.name, f"{part.weight:.4f}", f"{part.nll_per_line:.4f}"]
        + ([f"{part.gain:+.4f} ± {part.gain_error:.4f}"] if k else [""])
        for k, part in enumerate(result.parts)
    ]
    table.append(["mixture", "", f"{result.nll_per_line:.4f}", f"{result.gain:+.4f} ± {result.gain_error:.4f}"])
    output.write(output.table(["", "weight", "nats per line", "gain"], table))
    output.say(f"on {result.lines} lines, each by weights that others chose; gains in nats per line, ± standard error")
    used = [part.name for part in result.parts if part.weight]
    if len(used) == 1:
        output.say(f"no gain found: {out} is {used[0]} alone")
    else:
        output.say(f"next: seqgen generate {out} --count 5")
