"""Arguments and options that several commands share, so that one thing has one name and one help text."""

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

Run: TypeAlias = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.", show_default=False)]
Step: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--step", metavar="N", help="The checkpoint of this step instead of the best one.", show_default=False
    ),
]
Device: TypeAlias = Annotated[str, typer.Option("--device", metavar="NAME", help="cpu, cuda, cuda:1 ... or auto.")]
Seed: TypeAlias = Annotated[int, typer.Option("--seed", metavar="S", help="Text k depends on (seed, k) alone.")]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="JSON instead of text.")]
