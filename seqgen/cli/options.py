"""Arguments and options that several commands share, so that one thing has one name and one help text."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from seqgen.cli import output

if TYPE_CHECKING:
    from seqgen.data.text import Records
    from seqgen.engine.generate import Writer

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


def makes_pictures(run: Path) -> bool:
    """Whether a run's model is one of pictures; False for what is no run, which is told when it is opened."""
    from seqgen.engine import run as runs

    if not (run / "config.toml").is_file():
        return False
    return bool(runs.chapter(str(runs.stored_sections(run)["name"])).DATA == "images")


def open_run(run: Path, step: int | None, device: str) -> "Writer":
    """The trained model of a run folder, faults named by the options above."""
    from seqgen.engine.generate import load

    with output.wrong_values():
        return load(run, step=step, device=device)


def read_for(writer: "Writer", file: str) -> "Records":
    """The rows of a file by the fields a run was trained on: texts and, for a run with conditions, those."""
    from seqgen.data.text import read_records

    data = writer.settings.data
    return read_records([file], field=data.field, source=data.source, target=data.target)
