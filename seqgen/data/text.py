"""Text from files, folders, standard input and Python iterables, with the file and line of every fault.

Lines end at a newline only (a carriage return before it is dropped), so U+2028 and form feeds stay inside a line.
Files are UTF-8, a byte order mark is skipped, `.gz` is unpacked. `.jsonl` and `.tsv` rows give their fields by name.
"""

import bisect
import gzip
import json
import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from seqgen.core.errors import DataError
from seqgen.core.files import files_below
from seqgen.data.known import expanded, no_such_file

STDIN = "-"
"""The file name that stands for standard input; with conditions its lines are JSON objects."""

_BLOCK = 1 << 20
"""Bytes read at once."""

_ROWS = 4096
"""Rows with fields read at once."""


@dataclass(frozen=True)
class Records:
    """Rows read from one or more places, and where each stood."""

    texts: list[str]
    """What is learnt: lines, or the target field."""
    sources: list[str] | None
    """The condition of every row, several fields joined by tabs; None where no source fields were asked for."""
    numbers: list[int]
    """Line number of every row in its file, from 1."""
    places: tuple[tuple[int, str], ...]
    """First row and name of every file that gave rows."""

    def where(self, row: int) -> str:
        """`file, line n` of a row, for messages."""
        place = bisect.bisect_right(self.places, row, key=lambda place: place[0]) - 1
        return f"{self.places[place][1]}, line {self.numbers[row]}"


def read_lines(source: str | Path | Iterable[str], *, field: str = "text") -> list[str]:
    """The lines of a file, of a folder's files (recursively, by name), of `-` (standard input) or of an iterable.

    Blank lines are kept. Of `.jsonl` and `.tsv` files the text in `field`. Raises DataError naming file and line if
    the source is missing, empty, binary or not UTF-8; TypeError if it is no source of lines.
    """
    if isinstance(source, str | Path):
        return read_records([source], field=field).texts
    return records_of(source).texts


def read_records(files: Sequence[str | Path], *, field: str = "text", source: str = "", target: str = "") -> Records:
    """The rows of files and folders in the given order, with their conditions if `source` names any.

    Without `source` a row is a line, or the text in `field` of a `.jsonl` or `.tsv` row. With it (one or more field
    names joined by commas) every file must have fields, and the row's text is the field `target`.
    """
    texts: list[str] = []
    sources: list[str] = []
    numbers: list[int] = []
    places: list[tuple[int, str]] = []
    for block in record_blocks(files, field=field, source=source, target=target):
        name = block.places[0][1]
        if not places or places[-1][1] != name:
            places.append((len(texts), name))
        texts += block.texts
        numbers += block.numbers
        sources += block.sources or ()
    if not texts:
        raise DataError(f"{', '.join(map(str, files))}: empty; expected UTF-8 text, one or more lines")
    return Records(texts, sources if source else None, numbers, tuple(places))


def record_blocks(
    files: Sequence[str | Path], *, field: str = "text", source: str = "", target: str = ""
) -> Iterator[Records]:
    """The rows of files as `read_records` gives them, about a MiB at a time and each block from one file."""
    conditions = tuple(name.strip() for name in source.split(",")) if source else ()
    if bool(conditions) != bool(target):
        missing, given = ("data.source", "data.target") if target else ("data.target", "data.source")
        raise DataError(f"{given} needs {missing} beside it: the fields of the condition and of the text")
    wanted = (*conditions, target) if conditions else (field,)
    for file in files_in(files):
        name = _name(file)
        kind = "jsonl" if conditions and file == STDIN else _kind(file)
        if kind == "lines":
            if conditions:
                raise DataError(f"{name} has no named fields, but data.source asks for {source}; use .jsonl or .tsv")
            for number, block in text_blocks(file):
                lines = block.split("\n")
                if not lines[-1]:
                    lines.pop()
                yield Records(lines, None, list(range(number, number + len(lines))), ((0, name),))
            continue
        rows = _tsv_rows(file, wanted) if kind == "tsv" else _json_rows(file, wanted)
        while block_rows := list(islice(rows, _ROWS)):
            # A tab separates fields, so one inside a field becomes a space.
            sources = ["\t".join(value.replace("\t", " ") for value in values[:-1]) for _, values in block_rows]
            texts = [values[-1] for _, values in block_rows]
            numbers = [number for number, _ in block_rows]
            yield Records(texts, sources if conditions else None, numbers, ((0, name),))


def records_of(lines: Iterable[str], *, name: str = "input") -> Records:
    """The rows of a Python iterable of strings; a newline inside an item stays there."""
    if isinstance(lines, str | bytes | Path):
        raise TypeError(f"expected an iterable of str, got {lines!r}; read a file with read_lines(path)")
    texts = list(lines)
    for number, text in enumerate(texts, 1):
        if not isinstance(text, str):
            raise TypeError(f"{name}, line {number}: expected str, got {type(text).__name__}")
        check_unicode(text, f"{name}, line {number}")
    if not texts:
        raise DataError(f"{name}: no lines; expected at least one")
    return Records(texts, None, list(range(1, len(texts) + 1)), ((0, name),))


def read_text(files: str | Path | Sequence[str | Path]) -> str:
    """The text of files and folders as one string, newlines kept; a newline is added between files that lack one.

    Rows of `.jsonl` and `.tsv` are not running text: read them with `read_records`.
    """
    parts: list[str] = []
    for file in files_in([files] if isinstance(files, str | Path) else files):
        if parts and not parts[-1].endswith("\n"):
            parts.append("\n")
        parts += (block for _, block in text_blocks(file))
    if not parts:
        raise DataError(f"{files}: empty; expected UTF-8 text")
    return "".join(parts)


def has_fields(files: Sequence[str | Path]) -> bool:
    """Whether any of the files (folders opened) is read by named fields."""
    return any(_kind(file) != "lines" for file in files_in(files))


def check_unicode(text: str, where: str) -> None:
    """Raise DataError if a string holds half of a surrogate pair, which no file and no tokenizer can hold."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where}: lone surrogate U+{ord(text[error.start]):04X} at character {error.start + 1}; "
            "decode the text with errors='replace' before handing it over"
        ) from None


def text_blocks(file: str | Path) -> Iterator[tuple[int, str]]:
    """A file's text in blocks of about 1 MiB that end at a newline (or the end), each with its first line's number.

    A carriage return before a newline is dropped. Memory holds one block, or one line where that is longer.
    """
    name, number = _name(file), 1
    for block in byte_blocks(file):
        if number == 1:
            block = _without_mark(block, name)
        _check_binary(block, name, number)
        try:
            text = block.decode()
        except UnicodeDecodeError as error:
            line_start = block.rfind(b"\n", 0, error.start) + 1
            line = number + block.count(b"\n", 0, error.start)
            column = len(block[line_start : error.start].decode()) + 1
            raise DataError(
                f"{name}, line {line}: not UTF-8 (byte 0x{block[error.start]:02x} at column {column}); "
                "convert the file to UTF-8"
            ) from None
        yield number, text.replace("\r\n", "\n")
        number += block.count(b"\n")


def byte_blocks(file: str | Path) -> Iterator[bytes]:
    """A file's bytes, unpacked, in blocks of about 1 MiB that end at a newline or the end; DataError names the file."""
    name = _name(file)
    try:
        with _open(file) as stream:
            held: list[bytes] = []
            while piece := stream.read(_BLOCK):
                cut = piece.rfind(b"\n") + 1
                if cut:
                    yield b"".join([*held, piece[:cut]])
                    held = [piece[cut:]] if cut < len(piece) else []
                else:
                    held.append(piece)
            if held:
                yield b"".join(held)
    except FileNotFoundError:
        raise no_such_file(file) from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{name}: damaged gzip file ({error}); fetch or pack it again") from None
    except OSError as error:
        raise DataError(f"{name}: cannot be read ({error.strerror or error})") from None


def _open(file: str | Path) -> AbstractContextManager[BinaryIO]:
    if file == STDIN:
        return nullcontext(sys.stdin.buffer)
    path = Path(file)
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def _without_mark(block: bytes, name: str) -> bytes:
    """The first block without its byte order mark; other encodings' marks are refused by name."""
    if block.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{name}: UTF-16, expected UTF-8; convert it with: iconv -f UTF-16 -t UTF-8")
    return block.removeprefix(b"\xef\xbb\xbf")


def _check_binary(block: bytes, name: str, number: int) -> None:
    nul = block.find(b"\0")
    if nul >= 0:
        line = number + block.count(b"\n", 0, nul)
        column = nul - block.rfind(b"\n", 0, nul)
        raise DataError(f"{name}, line {line}: binary (NUL byte at byte {column} of the line); expected UTF-8 text")


def files_in(files: Iterable[str | Path]) -> Iterator[str | Path]:
    """The files themselves, folders replaced by the files in them, by name, hidden ones left out.

    The name of a known set stands for its test part; a path that exists wins.
    """
    for file in expanded(files, "test"):
        if file == STDIN or not Path(file).is_dir():
            yield file
            continue
        folder = Path(file)
        inside = files_below(folder)
        if not inside:
            raise DataError(f"{folder}: a folder without files; expected UTF-8 text files in it")
        yield from inside


def _name(file: str | Path) -> str:
    return "standard input" if file == STDIN else str(file)


def _kind(file: str | Path) -> str:
    """`jsonl`, `tsv` or `lines`, by the name before any `.gz`."""
    name = Path(file).name.lower().removesuffix(".gz")
    return next((kind for kind in ("jsonl", "tsv") if name.endswith(f".{kind}")), "lines")


def _lines(file: str | Path) -> Iterator[tuple[int, str]]:
    for number, block in text_blocks(file):
        yield from enumerate(block.removesuffix("\n").split("\n"), number)


def _json_rows(file: str | Path, wanted: tuple[str, ...]) -> Iterator[tuple[int, tuple[str, ...]]]:
    name = _name(file)
    for number, line in _lines(file):
        if not line.strip():
            continue
        where = f"{name}, line {number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{where}: not JSON ({error}); expected one object per line") from None
        if not isinstance(row, dict):
            raise DataError(f"{where}: expected a JSON object, got {type(row).__name__}")
        values = []
        for field in wanted:
            if field not in row:
                raise DataError(f"{where}: no field {field!r}; there are {', '.join(map(repr, row)) or 'none'}")
            value = row[field]
            # A label is often a number; null, lists and objects have no one way to be text.
            if isinstance(value, bool) or not isinstance(value, str | int | float):
                raise DataError(f"{where}: field {field!r} must be text or a number, got {json.dumps(value)[:40]}")
            text = str(value)
            check_unicode(text, f"{where}, field {field!r}")
            values.append(text)
        yield number, tuple(values)


def _tsv_rows(file: str | Path, wanted: tuple[str, ...]) -> Iterator[tuple[int, tuple[str, ...]]]:
    name = _name(file)
    lines = _lines(file)
    header = next((line.split("\t") for _, line in lines), [])
    missing = [field for field in wanted if field not in header]
    if header and missing:
        raise DataError(f"{name}, line 1: no column {missing[0]!r}; there are {', '.join(map(repr, header))}")
    columns = [header.index(field) for field in wanted if header]
    for number, line in lines:
        if not line:
            continue
        cells = line.split("\t")
        if len(cells) != len(header):
            raise DataError(f"{name}, line {number}: {len(cells)} columns, expected {len(header)} as in line 1")
        yield number, tuple(cells[column] for column in columns)
