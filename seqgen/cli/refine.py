"""`seqgen refine`: a run corrected by a critic, as a new run.

seqgen refine runs/mixed --held-out held-out.txt --out runs/refined
"""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from seqgen.cli import output
from seqgen.cli.options import Encoding, Field, Format, Json, Open, Reading, Run, reading_named
from seqgen.core.options import help_texts

_FEW = 0.1


def refine(
    run: Run,
    held_out: Annotated[
        str,
        typer.Option(
            "--held-out",
            metavar="FILE",
            help="Lines that the run was not trained on, 500 or more, or the test part of a set: they fit the critic.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Write the new run into this folder.", show_default=False)
    ],
    critic: Annotated[
        Literal["sums", "gru"],
        typer.Option(
            "--critic", help="sums: eleven numbers of a line; gru: also what recurrent networks make of its tokens."
        ),
    ] = "sums",
    seed: Annotated[int, typer.Option("--seed", metavar="S", help="Seed of the run's texts.")] = 0,
    field: Field = "",
    format: Format = "auto",
    encoding: Encoding = "auto",
    json: Json = False,
    device: Annotated[str, typer.Option("--device", metavar="NAME", help=help_texts(Open)["device"])] = "auto",
) -> None:
    """Correct a run of lines by a critic.

    The critic tells held-out lines from texts of the run by eleven numbers of a whole line. The new run draws 16 texts
    for each of its own and keeps one, the likelier the more real it looks: a normalised model, at temperature 1 only.
    It generates, scores and compares as any run, with --resample N for another number and --resample 1 for the run as
    it was. Half of the lines are held back and measure the gain; without one above two standard errors nothing is
    written, and the exit code is 1.
    """
    from seqgen.engine.refine import refine as refined
    from seqgen.engine.run import read_settings

    with reading_named():
        lines = Reading([held_out], field, format, encoding).records(held_out, read_settings(run).data).texts
    with output.wrong_values():
        result = refined(run, lines, out, critic=critic, seed=seed, device=device)
    if json:
        output.write(output.json_line(asdict(result)))
    else:
        rows = [["run", f"{result.nll_per_line:.4f}", ""]]
        for gain in result.gains:
            nll = result.nll_per_line - gain.nats_per_line
            rows.append([f"q_{gain.candidates}", f"{nll:.4f}", f"{gain.nats_per_line:+.4f} ± {gain.error:.4f}"])
        output.write(output.table(["", "nats per line", "gain"], rows))
        output.say(
            f"on {result.held_back} lines held back, ± standard error; critic of {result.fitted} lines and "
            f"{result.samples} texts: L2 {result.penalty:g}, ESS {result.ess:.2f}, AUROC {result.auroc:.3f}"
        )
    if result.ess < _FEW:
        output.say(
            f"warning: ESS below {_FEW}: the critic tells most texts of the run from real ones, and no number of "
            "candidates makes up for that; train the run longer, or mix it with kneser-ney"
        )
    if not result.written:
        output.say("no gain found: nothing is written")
        raise typer.Exit(1)
    output.say(f"next: seqgen generate {out} --count 5")
