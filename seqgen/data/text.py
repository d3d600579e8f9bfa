"""Text from files, folders, standard input and Python iterables, with the file and line of every fault.

Lines end at a newline only (a carriage return before it is dropped), so U+2028 and form feeds stay inside a line.
The suffix, or `format`, marks files with named fields: JSON Lines, JSON arrays, CSV, TSV, FASTA; `.gz` is unpacked.
Parallel files, train.en and train.de, are the fields en and de of one table: line n of each belongs together.
"""

import bisect
import logging
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from seqgen.core.errors import DataError
from seqgen.core.files import files_below
from seqgen.data.corpora.known import expanded
from seqgen.data.formats import (
    NAMES,
    STDIN,
    Format,
    check_unicode,
    format_of,
    looks_like,
    name_of,
    rows_of,
    text_blocks,
    unit,
)

_LOG = logging.getLogger("seqgen")

_ROWS = 4096
"""Rows with fields read at once."""


@dataclass(frozen=True)
class Records:
    """Rows read from one or more places, and where each stood."""

    texts: list[str]
    """What is learnt: lines, or the target field."""
    sources: list[str] | None
    """The condition of every row, several fields joined by tabs; None where no source fields were asked for."""
    numbers: Sequence[int]
    """Number of every row's line (of a JSON array: item) in its file, from 1."""
    places: tuple[tuple[int, str], ...]
    """First row of every file that gave rows, and its name with what is counted in it: `a.txt, line`."""

    def where(self, row: int) -> str:
        """Return `file, line n` of a row, for messages."""
        place = bisect.bisect_right(self.places, row, key=lambda place: place[0]) - 1
        return f"{self.places[place][1]} {self.numbers[row]}"


def read_lines(
    source: str | Path | Iterable[str], *, field: str = "text", format: Format = "auto", encoding: str = "auto"
) -> list[str]:
    """Return the lines of a file, a folder's files (recursively, by name), `-` (standard input) or an iterable.

    Blank lines are kept. Of files with named fields (JSON Lines, a JSON array, CSV, TSV, FASTA) the text in `field`.
    `format` is that of a file whose suffix does not say, `encoding` the encoding where it is not UTF-8. Raises
    DataError naming file and line if the source is missing, empty or no such text; TypeError if it is no source.
    """
    if isinstance(source, str | Path):
        return read_records([source], field=field, format=format, encoding=encoding).texts
    return records_of(source).texts


def read_records(
    files: Sequence[str | Path],
    *,
    field: str = "text",
    source: str = "",
    target: str = "",
    format: Format = "auto",
    encoding: str = "auto",
) -> Records:
    """Return the rows of files and folders in the given order, with their conditions if `source` names any.

    Without `source` a row is a line, or the text in `field` of a file with named fields. With it (one or more field
    names joined by commas) every file must have fields, and the row's text is the field `target`. Plain files have them
    where their names end in those: `train.en` with `train.de` beside it, each named or not, is read once.
    """
    texts: list[str] = []
    sources: list[str] = []
    numbers = array("q")  # a quarter of the memory of a list
    places: list[tuple[int, str]] = []
    blocks = record_blocks(files, field=field, source=source, target=target, format=format, encoding=encoding)
    for block in blocks:
        name = block.places[0][1]
        if not places or places[-1][1] != name:
            places.append((len(texts), name))
        texts += block.texts
        numbers.extend(block.numbers)
        sources += block.sources or ()
    if not texts:
        raise DataError(f"{', '.join(map(name_of, files))}: empty; expected text, one or more lines")
    return Records(texts, sources if source else None, numbers, tuple(places))


def record_blocks(
    files: Sequence[str | Path],
    *,
    field: str = "text",
    source: str = "",
    target: str = "",
    format: Format = "auto",
    encoding: str = "auto",
    warn: bool = True,
) -> Iterator[Records]:
    """Yield the rows of files as `read_records` gives them, about a MiB at a time, a block from one file.

    `warn`: the first plain file that looks like a table or the like is warned of.
    """
    conditions = tuple(name.strip() for name in source.split(",")) if source else ()
    if bool(conditions) != bool(target):
        missing, given = ("data.source", "data.target") if target else ("data.target", "data.source")
        raise DataError(f"{given} needs {missing} beside it: the fields of the condition and of the text")
    wanted = (*conditions, target) if conditions else (field,)
    remedy = "" if conditions else "; choose one with data.field=NAME"
    parallel: set[tuple[Path, ...]] = set()
    for file in files_in(files):
        name = name_of(file)
        kind = "jsonl" if conditions and file == STDIN and format == "auto" else format_of(file, format)
        place = ((0, f"{name}, {unit(kind)}"),)
        if kind == "lines":
            if conditions:
                columns = _beside(file, wanted)
                if columns not in parallel:
                    parallel.add(columns)
                    yield from _parallel(columns, encoding)
                continue
            for number, block in text_blocks(file, encoding):
                if number == 1 and format == "auto":
                    warn &= not _check_plain(name, block, field, warn=warn)
                lines = block.split("\n")
                if not lines[-1]:
                    lines.pop()
                yield Records(lines, None, range(number, number + len(lines)), place)
            continue
        rows = rows_of(file, kind, wanted, encoding, remedy, checked=format == "auto")
        while block_rows := list(islice(rows, _ROWS)):
            # A tab separates fields, so one inside a field becomes a space.
            sources = ["\t".join(value.replace("\t", " ") for value in values[:-1]) for _, values in block_rows]
            texts = [values[-1] for _, values in block_rows]
            numbers = [number for number, _ in block_rows]
            yield Records(texts, sources if conditions else None, numbers, place)


def _beside(file: str | Path, fields: Sequence[str]) -> tuple[Path, ...]:
    """Return the files that hold the fields of a plain file's table: `train.en`, `train.de` for en and de.

    Any of them stands for all, and so does their common name, `train`, where no file has it.
    """
    path = Path(file)
    stem, _, own = path.name.removesuffix(".gz").rpartition(".")
    if own not in fields and not path.exists():
        stem, own = path.name, ""
    elif own not in fields or not stem:
        raise DataError(
            f"{name_of(file)} has no named fields, but data.source asks for {', '.join(fields[:-1])}; use .jsonl, .csv "
            f"or .tsv, or parallel files named NAME.{fields[0]} and NAME.{fields[-1]}"
        )
    found = []
    for field in fields:
        names = [path] if field == own else [path.with_name(f"{stem}.{field}{end}") for end in ("", ".gz")]
        column = next((name for name in names if name.is_file()), None)
        if column is None:
            needed = f"line n of {path} belongs to line n of it" if own else f"expected {path} or {path}.{field}"
            raise DataError(f"{names[0]}: no such file; {needed}")
        found.append(column)
    return tuple(found)


def _parallel(columns: Sequence[Path], encoding: str) -> Iterator[Records]:
    """Yield the rows of files whose lines belong together; DataError where one has fewer lines than another."""
    lines = [_plain_lines(column, encoding) for column in columns]
    place = ((0, f"{columns[-1]}, line"),)
    number = 1
    while True:
        block = [list(islice(own, _ROWS)) for own in lines]
        counts = [len(part) for part in block]
        if min(counts) < max(counts):
            totals = [number - 1 + count + sum(1 for _ in own) for count, own in zip(counts, lines, strict=True)]
            listed = ", ".join(f"{column} has {total:,} lines" for column, total in zip(columns, totals, strict=True))
            raise DataError(f"{listed}; expected as many: line n of one belongs to line n of the other")
        if not counts[0]:
            return
        sources = ["\t".join(value.replace("\t", " ") for value in values) for values in zip(*block[:-1], strict=True)]
        yield Records(block[-1], sources, range(number, number + counts[0]), place)
        number += counts[0]


def _plain_lines(file: Path, encoding: str) -> Iterator[str]:
    for _, block in text_blocks(file, encoding):
        yield from block.removesuffix("\n").split("\n")


def _check_plain(name: str, start: str, field: str, *, warn: bool) -> bool:
    """Warn where plain text looks like another format; return whether it was.

    What `generate` writes of texts with line breaks is never taken for lines: that would give wrong numbers.
    """
    seen = looks_like(start)
    if not seen:
        return False
    where = f"{name}: looks like {NAMES[seen]}"
    remedy = f"add data.format={seen}, or use a file named .{seen}"
    if seen == "jsonl" and f'"{field}":' in start.partition("\n")[0]:
        raise DataError(f"{where} with a field {field!r}; {remedy}; data.format=lines takes its lines as they are")
    if warn:
        _LOG.warning("%s, but is read as plain text, a line a text; %s", where, remedy)
    return warn


def records_of(lines: Iterable[str], *, name: str = "input") -> Records:
    """Return the rows of a Python iterable of strings; a newline inside an item stays there."""
    if isinstance(lines, str | bytes | Path):
        raise TypeError(f"expected an iterable of str, got {lines!r}; read a file with read_lines(path)")
    texts = list(lines)
    for number, text in enumerate(texts, 1):
        if not isinstance(text, str):
            raise TypeError(f"{name}, line {number}: expected str, got {type(text).__name__}")
        check_unicode(text, f"{name}, line {number}")
    if not texts:
        raise DataError(f"{name}: no lines; expected at least one")
    return Records(texts, None, range(1, len(texts) + 1), ((0, f"{name}, line"),))


def has_fields(files: Sequence[str | Path], format: Format = "auto") -> bool:
    """Return whether any of the files (folders opened) is read by named fields."""
    return any(format_of(file, format) != "lines" for file in files_in(files))


def files_in(files: Iterable[str | Path]) -> Iterator[str | Path]:
    """Return the files themselves, folders replaced by the files in them, by name, hidden ones left out.

    The name of a known set stands for its test part; a path that exists wins.
    """
    for file in expanded(files, "test"):
        if file == STDIN or not Path(file).is_dir():
            yield file
            continue
        folder = Path(file)
        inside = files_below(folder)
        if not inside:
            raise DataError(f"{folder}: a folder without files; expected text files in it")
        yield from inside
