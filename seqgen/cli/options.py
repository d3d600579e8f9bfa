"""Arguments and options that several commands share, so that one thing has one name and one help text.

What no command can take is refused here for all of them: empty words, numbers that are not finite, bytes that are no
text, standard input named twice, and an output that cannot be written or is an input too.
"""

import contextlib
import math
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import typer
from typer.core import TyperCommand

from seqgen.cli import output
from seqgen.cli.flags import Panel
from seqgen.core.options import Option, Selection, help_texts
from seqgen.engine.folder import is_run

if TYPE_CHECKING:
    from seqgen.data.prepare import DataConfig
    from seqgen.data.text import Records
    from seqgen.engine.generate import TextGenerator

Run: TypeAlias = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.", show_default=False)]
Seed: TypeAlias = Annotated[
    int,
    typer.Option("--seed", metavar="S", help="Seed of the random numbers; text or image k depends on (seed, k) alone."),
]


@dataclass(frozen=True)
class Open:
    """How a run is opened."""

    step: int | None = None
    """Take the checkpoint of this step instead of the best one."""
    device: Annotated[str, Option(metavar="NAME")] = "auto"
    """Compute on cpu, cuda, cuda:1 ...; auto: a CUDA device if there is one."""
    module: Annotated[Path | None, Option(metavar="FILE.py")] = None
    """The Python file of the run's model, if it is one of your own; it is run."""


Opening: TypeAlias = Annotated[Open, Panel("Run")]
Module: TypeAlias = Annotated[
    Path | None,
    typer.Option("--module", metavar="FILE.py", help=help_texts(Open)["module"], show_default=False),
]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Write JSON instead of text.")]
Field: TypeAlias = Annotated[
    str, typer.Option("--field", metavar="NAME", help="Take this field as the text, where rows have fields.")
]
Format: TypeAlias = Annotated[
    Literal["auto", "lines", "jsonl", "json", "csv", "tsv", "fasta", "smi"],
    typer.Option(
        "--format", metavar="NAME", help="Read standard input, or without it each file, as lines, jsonl, json, csv ..."
    ),
]
Resample: TypeAlias = Annotated[
    int | None,
    typer.Option("--resample", metavar="N", help=help_texts(Selection)["resample"], show_default=False),
]
Encoding: TypeAlias = Annotated[
    str, typer.Option("--encoding", metavar="NAME", help="Encoding of text that is not UTF-8, such as cp1252.")
]


_MAY_BE_EMPTY = ("prompt", "a", "b")
"""Parameters for which an empty text has a meaning."""

_LARGEST = 2**63 - 1
"""The largest integer that tensors hold."""


class Command(TyperCommand):
    """A command that refuses what none can take, in the words typed, before anything is done."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the help of arguments and flags, panel by panel."""
        panels: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            other = "Arguments" if parameter.param_type_name == "argument" else "Options"
            title = getattr(parameter, "rich_help_panel", None) or other
            if (record := parameter.get_help_record(ctx)) is not None:
                panels.setdefault(title, []).append(record)
        for title, records in panels.items():
            with formatter.section(title):
                formatter.write_dl(records)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the words after the command's name; raise CommandError for those that mean nothing."""
        words = list(args)
        for word in words:
            _check_encoding(word)
        rest = super().parse_args(ctx, args)
        read, written = [], []
        for name, typed, metavar, value in _given(self, ctx):
            if isinstance(value, float) and not math.isfinite(value):
                raise output.CommandError(f"{typed} must be a finite number, got {value}")
            if isinstance(value, int) and abs(value) > _LARGEST:
                raise output.CommandError(f"{typed} must be an integer of at most 63 bits, got {value}")
            if str(value) in ("", ".") and name not in _MAY_BE_EMPTY and {"", f"{typed}="} & {*words}:
                raise output.CommandError(f"{typed} must not be empty")
            if name in ("out", "plot", "blind"):
                written.append((typed, metavar, Path(value)))  # typer before 0.29 has made no path of it yet
            elif re.search("FILE|HYP|REF|GRAMMAR", metavar):
                read.append((typed, str(value)))
        stdin = [typed for typed, value in read if value == "-"]
        if len(stdin) > 1:
            raise output.CommandError(f"standard input (-) can be read only once, but is {' and '.join(stdin)}")
        for typed, metavar, path in written:
            run = ctx.params.get("run")
            if run is not None and metavar == "FILE" and path.suffix == "" and makes_images(Path(run)):
                metavar = "DIR"
            check_output(typed, path, [value for _, value in read], folder=metavar == "DIR")
        return rest


def check_output(typed: str, path: Path, inputs: Sequence[str], *, folder: bool) -> None:
    """Raise CommandError where what a command makes could not be written, or would replace what it reads."""
    if str(path) == "-":
        raise output.CommandError(f"{typed} must be a name, got -")
    if path.exists() and any(Path(given).exists() and path.samefile(given) for given in inputs):
        raise output.CommandError(f"{typed} {path} is also an input; give another name")
    if not folder and path.is_dir():
        raise output.CommandError(f"{typed} {path} is a folder; give the name of a file")
    place = path if folder else path.parent
    while folder and not place.exists():
        place = place.parent
    if not place.exists():
        raise output.CommandError(f"{typed} {path}: no folder {place}; make it first")
    if not place.is_dir():
        raise output.CommandError(f"{typed} {path}: {place} is a file; expected a folder")
    if not os.access(path if path.is_char_device() else place, os.W_OK):
        raise output.CommandError(f"{typed} {path}: no permission to write in {place}")


def check_writable(run: Path) -> None:
    """Raise CommandError where a command could not leave its results in a run's folder."""
    if run.is_dir() and not os.access(run, os.W_OK):
        raise output.CommandError(f"{run}: no permission to write in the run's folder")


def _given(command: TyperCommand, context: Any) -> Iterator[tuple[str, str, str, Any]]:
    """Yield every value on the command line as (parameter, its name as typed, metavar, value), lists one by one."""
    for parameter in command.params:
        if not was_typed(context, parameter.name or ""):
            continue
        value = context.params[parameter.name]
        typed = parameter.opts[0] if parameter.opts[0].startswith("-") else str(parameter.metavar)
        for one in value if isinstance(value, list | tuple) else [value]:
            yield str(parameter.name), typed, str(parameter.metavar), one


def _check_encoding(word: str) -> None:
    try:
        word.encode()
    except UnicodeEncodeError:
        encoding = sys.getfilesystemencoding().upper()
        remedy = "rename the file, or convert the text" if encoding == "UTF-8" else "set LC_ALL=C.UTF-8"
        raise output.CommandError(f"{word!a} on the command line is not {encoding}; {remedy}") from None


def was_typed(context: typer.Context, name: str) -> bool:
    """Return whether a parameter stands on the command line."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def refuse(context: typer.Context, why: str, excluded: Iterable[str]) -> None:
    """Raise CommandError for the first of these parameters that was typed with a value of its own."""
    for parameter in context.command.params:
        name = parameter.name or ""
        own = was_typed(context, name) and context.params[name] != parameter.default
        if own and name in excluded:
            raise output.CommandError(f"{why}; it excludes {parameter.opts[0]}")


def check_domain(typed: str, name: str, known: Iterable[str]) -> None:
    """Raise CommandError, which names those there are, for a domain that is not known."""
    names = list(known)
    if name not in names:
        raise output.CommandError(f"{typed} must be {' or '.join(names)}, got {name!r}")


def makes_images(run: Path) -> bool:
    """Return whether a run's model is one of images; False for what is no run, which opening it reports."""
    from seqgen.engine.stored import stored_sections

    if not is_run(run):
        return False
    return "tokenizer" not in stored_sections(run)


def open_run(run: Path, opening: Open) -> "TextGenerator":
    """Load the trained model of a run folder; errors name the options above."""
    import torch

    from seqgen.core import dist
    from seqgen.engine.loading import load

    with output.wrong_values():
        generator = load(run, **vars(opening))
    if dist.world() > 1:
        dist.start(torch.device("cpu"))  # texts are exchanged, and they are on the CPU
        generator.split = True
    return generator


def training_file(file: str) -> str:
    """Return the path of a training text; the name of a known set stands for its training part."""
    from seqgen.data.corpora.known import expanded

    return str(expanded([file], "train")[0]) if file else ""


@dataclass(frozen=True)
class Reading:
    """How the files of one command are read, by the options above."""

    files: Sequence[str]
    """All of them: where standard input is among them, it alone has the format given."""
    field: str = ""
    format: Format = "auto"
    encoding: str = "auto"

    def lines(self, file: str) -> list[str]:
        """Return the texts of a file."""
        with reading_named():
            return self.records(file).texts

    def records(self, file: str, data: "DataConfig | None" = None) -> "Records":
        """Return the rows of a file, by the fields that a run was trained on where its settings are given."""
        from seqgen.data.corpora.known import named
        from seqgen.data.text import read_records

        known = named(file, "text")  # a set says which field is its text
        usual = known.settings.get("data", {}).get("field", "text") if known else data.field if data else "text"
        fields = {"field": self.field or usual}
        if data is not None and data.source:
            fields |= {"source": data.source, "target": self.field or data.target}
        form = self.format if file == "-" or "-" not in self.files else "auto"
        return read_records([file], **fields, format=form, encoding=self.encoding)


@contextlib.contextmanager
def reading_named(*, options: bool = True) -> Iterator[None]:
    """Let errors about files name options of the command line instead of settings, or none if there are none."""
    from seqgen.core.errors import DataError

    try:
        yield
    except DataError as error:
        words = str(error)
        if not options:
            words = re.sub(r"add data\.\w+=[^,;]*, or |; data\.format=[^;]*", "", words)
            words = re.sub(r"; choose one with data[^;]*", "; rename the one that is meant", words)
        raise DataError(re.sub(r"\bdata\.(field|format|encoding)=", r"--\1 ", words)) from None


def read_for(generator: "TextGenerator", file: str, reading: Reading | None = None) -> "Records":
    """Read the rows of a file by the fields a run was trained on: texts and, for a run with conditions, those."""
    with reading_named(options=reading is not None):
        return (reading or Reading([file])).records(file, generator.settings.data)


def row_for(generator: "TextGenerator", text: str, source: str) -> dict[str, str]:
    """Return a text and its condition as a row that `read_for` reads; the text is `text` too, for other commands."""
    data = generator.settings.data
    names = [name.strip() for name in data.source.split(",")] if data.source else []
    return {"text": text, **dict(zip(names, source.split("\t"), strict=bool(names))), data.target or data.field: text}
