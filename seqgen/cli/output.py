"""Output of the command line: results to standard output, messages to standard error, a line each."""

import contextlib
import errno
import io
import json
import math
import os
import re
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from seqgen.core import log
from seqgen.core.errors import SeqgenError


class CommandError(SeqgenError):
    """The command line itself is wrong: options that exclude each other, a value without meaning."""


class OutputError(SeqgenError):
    """Standard output cannot be written, for example because the disk it goes to is full."""


class PipeClosedError(Exception):
    """Whoever read standard output has left, as `head` does: nothing is wrong, nothing more is wanted."""


def write(text: str) -> None:
    """Write a piece of the result as it is; on a terminal, which would obey control characters, they are visible.

    Under torchrun the first process writes.
    """
    if not is_main():
        return
    with _standard_output():
        sys.stdout.write(log.visible(text) if sys.stdout.isatty() else text)


def json_line(value: Any) -> str:
    """Format a value as one line of JSON; what is not finite becomes null."""
    return json.dumps(_finite(value), ensure_ascii=False, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    return [_finite(inner) for inner in value] if isinstance(value, list | tuple) else value


def kind_of_texts(out: Path | None, *, one_line: bool) -> str:
    """Return how a run's texts are written so that they are read back as they are: `lines`, `jsonl`, or for people.

    Where they may hold line breaks (not `one_line`) only JSON Lines keep them; CommandError for an --out that promises
    something else.
    """
    from seqgen.data.formats import format_of

    if out is None:
        if sys.stdout.isatty():
            return "people"
        return "lines" if one_line else "jsonl"
    kind = format_of(out)
    if out.suffix == ".gz" or kind not in ("lines", "jsonl"):
        raise CommandError(f"--out {out}: texts are written a line each, or as JSON Lines; name it .txt or .jsonl")
    if kind == "lines" and not one_line:
        remedy = f"name it {out.with_suffix('.jsonl')}"
        raise CommandError(f"--out {out}: texts of this run may hold line breaks, which need JSON Lines; {remedy}")
    return kind


def of_texts(texts: Sequence[str], kind: str, out: Path | None, rows: Sequence[Mapping[str, str]]) -> str:
    """Return texts as they are written, and say where they are JSON Lines that nobody asked for.

    `rows` are the objects of JSON Lines.
    """
    say_json_lines(kind, out)
    return formatted(texts, kind, rows)


def say_json_lines(kind: str, out: Path | None) -> None:
    """Say where texts are JSON Lines that nobody asked for."""
    if kind == "jsonl" and out is None:
        say("these texts may hold line breaks: written as JSON Lines, to be read with --format jsonl")


def formatted(texts: Sequence[str], kind: str, rows: Sequence[Mapping[str, str]]) -> str:
    """Return texts as they are written; for people a line of dashes stands between those of several lines."""
    from seqgen.data.formats import text_lines

    if kind == "people" and any("\n" in text for text in texts):
        return "\n----\n".join(text.rstrip("\n") for text in texts) + "\n"
    return "".join(map(json_line, rows)) if kind == "jsonl" else text_lines(texts, kind)


def write_or_save(text: str, out: Path | None, what: str) -> None:
    """Write a result to standard output, or whole into a file, and then report where it is."""
    with saving(out) as save:
        save(text)
    if out is not None:
        say(f"{what} written to {out}")


@contextlib.contextmanager
def saving(out: Path | None) -> Iterator[Callable[[str], None]]:
    """Yield what writes a result piece by piece, to standard output or into a file that appears whole at the end."""
    if out is None:
        yield write
    elif not is_main():
        yield lambda text: None
    else:
        from seqgen.core import files

        with files.growing(out) as append:
            yield append


def flush() -> None:
    """Flush everything written so far."""
    with _standard_output():
        sys.stdout.flush()


@contextlib.contextmanager
def _standard_output() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise PipeClosedError from None
    except OSError as error:
        reasons = {errno.ENOSPC: "the disk is full", errno.EBADF: "it is closed"}
        reason = reasons.get(error.errno or 0, error.strerror)
        raise OutputError(f"standard output: cannot be written ({reason})") from None
    except UnicodeEncodeError as error:
        raise OutputError(f"standard output: {error.encoding} cannot hold {error.object[error.start]!r}") from None


def say(message: object, *, every_process: bool = False) -> None:
    """Write a line for the person; under torchrun only from the first process, unless `every_process`."""
    if is_main() or every_process:
        log.say(message)


def is_main() -> bool:
    """Return whether this is the process that writes messages; core.dist knows too, but imports torch."""
    return os.environ.get("RANK", "0") == "0"


_NARROW = 12
"""Signs that a wrapped column has at least."""


def table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, left: Sequence[int] = (0,), wraps: bool = True
) -> str:
    """Format a table, the columns in `left` flush left, the others flush right; long cells are never cut.

    Where it `wraps`, the columns in `left` do so on a terminal that is too narrow; a table in a file or a pipe does not
    depend on the terminal it was made in.
    """
    plain = _drawn(columns, rows, left, 0)
    if not (wraps and sys.stdout.isatty()) or max(map(len, plain.splitlines())) <= width():
        return plain
    widest = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
    least = sum(min(size, _NARROW) if i in left else size for i, size in enumerate(widest)) + 3 * (len(widest) - 1)
    return _drawn(columns, rows, left, width()) if least <= width() else plain


def _drawn(columns: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int], wide: int) -> str:
    """Draw a table at most `wide` signs wide, 0: as wide as it is."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for i, name in enumerate(columns):
        widest = max(len(row[i]) for row in [columns, *rows])
        least = min(widest, _NARROW) if wide and i in left else widest
        drawn.add_column(name, justify="left" if i in left else "right", overflow="fold", min_width=least)
    for row in rows:
        drawn.add_row(*row)
    text = io.StringIO()
    Console(file=text, width=wide or 10_000, color_system=None, markup=False, emoji=False, highlight=False).print(drawn)
    return "".join(f"{line.rstrip()}\n" for line in text.getvalue().splitlines())


def width() -> int:
    """Return the width of the terminal in columns; 80 where standard output is none and COLUMNS is not set."""
    return shutil.get_terminal_size().columns


@contextlib.contextmanager
def wrong_values() -> Iterator[None]:
    """Turn the library's ValueError into one about an option's value, named as it was typed."""
    try:
        yield
    except ValueError as error:
        if isinstance(error, UnicodeError):
            raise
        names = r"\b(?:sample|train(?=\.device))\.(\w+)|^([a-z_]+)(?= must )"
        typed = re.sub(names, lambda m: "--" + (m[1] or m[2]).replace("_", "-"), str(error))
        raise CommandError(typed) from None


@contextlib.contextmanager
def warnings_said() -> Iterator[None]:
    """Write a protocol's warnings as lines for the person."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for text in dict.fromkeys(str(one.message) for one in caught):
        say(f"warning: {text}")


def at_least(least: int, **options: float | None) -> None:
    """Raise CommandError for the first of the options that is below `least`."""
    for name, value in options.items():
        if value is not None and value < least:
            kind = "an integer" if isinstance(value, int) else "a number"
            raise CommandError(f"--{name.replace('_', '-')} must be {kind} >= {least}, got {value:g}")


def help_or_command(context: typer.Context) -> None:
    """Show the help of a group named without a command, with the exit code of wrong usage."""
    if context.invoked_subcommand is None:
        write(context.get_help() + "\n")
        raise typer.Exit(2)
