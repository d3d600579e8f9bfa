"""The formats that text comes in: from the bytes of a file to decoded blocks, and from those to rows with named fields.

Byte order marks mark UTF-8, UTF-16 and UTF-32; without one a file is UTF-8, or what `encoding` names. CSV is RFC
4180, TSV too where its quotes follow that, JSON is RFC 8259, and the cells and strings in them may hold line breaks.
Memory holds a block of about a MiB, or one line where that is longer, up to a limit; a JSON array is read whole.
"""

import codecs
import csv
import gzip
import io
import json
import math
import re
import shlex
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias

from seqgen.core.errors import DataError
from seqgen.data.corpora.known import no_such_file

Format: TypeAlias = Literal["auto", "lines", "jsonl", "json", "csv", "tsv", "fasta", "smi"]
Row: TypeAlias = tuple[int, tuple[str, ...]]
"""Number of a row in its file, from 1, and its values."""

STDIN = "-"
"""The file name that stands for standard input."""

NAMES = {
    "lines": "plain text",
    "jsonl": "JSON Lines",
    "json": "a JSON array",
    "csv": "CSV",
    "tsv": "TSV",
    "fasta": "FASTA",
    "smi": "SMILES, each with a name",
}

_SUFFIXES = {"ndjson": "jsonl", "smiles": "smi", "fa": "fasta", "faa": "fasta", "fna": "fasta"} | {
    name: name for name in NAMES
}

_BLOCK = 1 << 20
"""Bytes read at once."""

_LONGEST = 1 << 28
"""Characters of the longest line, record or JSON array; a book has about a million."""

_LONGEST_CELL = 1 << 24
"""Characters of the longest cell of a table, for which the csv module takes four bytes each."""

_DENSEST = 300
"""How many times its size a packed file may unpack to, beyond 16 blocks; text is at some ten times."""

_LOOKED_AT = 50
"""Lines, or rows, from which the format of a file is guessed."""

_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def name_of(file: str | Path) -> str:
    """Return what messages call a file."""
    return "standard input" if file == STDIN else str(file)


def format_of(file: str | Path, given: str = "auto") -> str:
    """Return the format of a file: the given one, or by its suffix before any `.gz`, else `lines`."""
    suffix = Path(file).name.lower().removesuffix(".gz").rpartition(".")[2]
    return given if given != "auto" else _SUFFIXES.get(suffix, "lines") if "." in Path(file).name else "lines"


def unit(kind: str) -> str:
    """Return what rows of a format are counted in: lines of the file, or items of a JSON array."""
    return "item" if kind == "json" else "line"


# -------------------------------------------------------------------------------------------------------- text of bytes


def text_blocks(file: str | Path, encoding: str = "auto", *, lenient: bool = False) -> Iterator[tuple[int, str]]:
    """Yield a file's text in blocks of about 1 MiB that end at a newline, each with its first line's number.

    A carriage return before a newline is dropped; where a file has carriage returns and not one newline, its lines end
    at those. DataError names file, line and remedy of what is no text; `lenient` lets it pass: bytes that cannot be
    decoded become lone surrogates (`surrogateescape`), and NUL stays.
    """
    name, number, waits = name_of(file), 1, 0
    held: list[str] = []
    decoder: codecs.IncrementalDecoder | None = None
    for piece in chain(_pieces(file), [b""]):
        if decoder is None:
            encoding = _encoding_of(piece) if encoding == "auto" else encoding
            decoder = _decoder(encoding, "surrogateescape" if lenient else "strict")
        try:
            text = decoder.decode(piece, not piece)
        except UnicodeDecodeError as error:
            line, column = _place(held, error.object[: error.start].decode(encoding, "replace"), number)
            what = f"not {encoding.upper()} (byte 0x{error.object[error.start]:02x} at column {column})"
            raise DataError(f"{name}, line {line}: {what}; {_other_encoding(name, error.object, encoding)}") from None
        if number == 1 and not waits:
            text = text.removeprefix("\ufeff")
        if not lenient and "\0" in text:
            line, column = _place(held, text[: text.index("\0")], number)
            remedy = _wide(name, piece) if line == 1 else ""
            raise DataError(f"{name}, line {line}: binary (NUL at column {column}); expected text{remedy}")
        cut = text.rfind("\n") + 1
        if cut:
            block = "".join([*held, text[:cut]])
            yield number, block.replace("\r\n", "\n")
            number += block.count("\n")
            held, waits = [], 0
        held.append(text[cut:])
        waits += len(text) - cut
        if waits > _LONGEST:
            raise DataError(
                f"{name}, line {number}: longer than {_LONGEST:,} characters; break it into lines, "
                f"for example with: fold -s -w 1000"
            )
    if rest := "".join(held):
        yield number, rest.replace("\r", "\n") if number == 1 else rest


def _place(held: list[str], text: str, number: int) -> tuple[int, int]:
    """Return line and column of what follows a text whose first line, begun in `held`, has a number."""
    before = "".join([*held, text])
    return number + before.count("\n"), len(before) - before.rfind("\n")


def _pieces(file: str | Path) -> Iterator[bytes]:
    """Read a file's bytes, unpacked; DataError names the file that cannot be read."""
    name = name_of(file)
    try:
        with _open(file) as stream:
            most = max(16 * _BLOCK, _DENSEST * Path(file).stat().st_size) if str(file).endswith(".gz") else math.inf
            read = 0
            # four bytes hold any byte order mark
            while piece := stream.read(max(_BLOCK, 4)):
                read += len(piece)
                if read > most:
                    raise DataError(f"{name}: unpacks to more than {_DENSEST} times its size; is it text?")
                yield piece
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


def _encoding_of(start: bytes) -> str:
    return next((encoding for mark, encoding in _MARKS.items() if start.startswith(mark)), "utf-8")


def _decoder(encoding: str, errors: str) -> codecs.IncrementalDecoder:
    try:
        b"a".decode(encoding, "replace")  # refuses the codecs that are no encodings of text
        return codecs.getincrementaldecoder(encoding)(errors)
    except (LookupError, UnicodeError):
        raise DataError(
            f"data.encoding={encoding} is no encoding that Python knows; expected utf-8, utf-16, cp1252, gb18030 ..."
        ) from None


def _other_encoding(name: str, content: bytes, encoding: str) -> str:
    """Return what to do about bytes that are not in the encoding they should be in."""
    longest = max(map(len, re.findall(rb"[\x80-\xff]+", content)), default=0)
    # letters of Western Europe rarely stand more than two in a row, those of other scripts do
    if encoding == "utf-8" and longest <= 2 and not re.search(rb"[\x81\x8d\x8f\x90\x9d]", content):
        return _remedy(name, "cp1252", " if it is Western European")
    return f"{_remedy(name, 'NAME')}; NAME is how it was written, such as gb18030, shift_jis or cp1252"


def _remedy(name: str, encoding: str, when: str = "") -> str:
    """Return what to do about text in another encoding; iconv writes UTF-16LE where Python has utf-16-le."""
    source = re.sub(r"-(?=[LB]E$)", "", encoding.upper())
    file = "" if name == name_of(STDIN) else f" {shlex.quote(name)}"
    return f"add data.encoding={encoding}{when}, or convert it: iconv -f {source} -t UTF-8{file}"


def _wide(name: str, start: bytes) -> str:
    """Return the remedy for UTF-16 and UTF-32 without a mark, which the NUL beside an ASCII letter gives away."""
    wide = {b"x\0\0\0": "utf-32-le", b"\0\0\0x": "utf-32-be", b"x\0x": "utf-16-le", b"\0x\0": "utf-16-be"}
    for zeros, encoding in wide.items():
        if [byte == 0 for byte in start[: len(zeros)]] == [byte == 0 for byte in zeros]:
            return f"; it looks like {encoding.upper()} without a mark: {_remedy(name, encoding)}"
    return ""


# --------------------------------------------------------------------------------------------------------- rows of text


def rows_of(
    file: str | Path, kind: str, wanted: tuple[str, ...], encoding: str, remedy: str, *, checked: bool
) -> Iterator[Row]:
    """Return the wanted fields of a file's rows.

    `checked` refuses a file that looks like another format; `remedy` ends the message about a field that is not there.
    """
    blocks = text_blocks(file, encoding)
    first = next(blocks, None)
    if first is None:
        return
    name = name_of(file)
    seen = looks_like(first[1]) if checked else ""
    if seen not in ("", kind):
        raise DataError(
            f"{name}: looks like {NAMES[seen]}, not {NAMES[kind]}; add data.format={seen}, or use a file named .{seen}"
        )
    blocks = chain([first], blocks)
    if kind in ("csv", "tsv"):
        yield from _cells(name, kind, blocks, wanted, remedy)
        return
    make: dict[str, Callable[..., Iterator[tuple[int, Any]]]]
    make = {"jsonl": _json_lines, "json": _json_items, "fasta": _sequences, "smi": _molecules}
    for number, row in make[kind](name, blocks):
        yield number, _values(row, wanted, f"{name}, {unit(kind)} {number}", remedy)


def _lines(blocks: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    for number, block in blocks:
        yield from enumerate(block.removesuffix("\n").split("\n"), number)


def _values(row: Any, wanted: tuple[str, ...], where: str, remedy: str) -> tuple[str, ...]:
    """Return the wanted fields of a JSON object, or the one text there is, as strings."""
    if isinstance(row, str) and len(wanted) == 1:
        row = {wanted[0]: row}
    if not isinstance(row, dict):
        raise DataError(f"{where}: expected a JSON object, got {type(row).__name__}")
    values = []
    for field in wanted:
        if field not in row:
            raise DataError(f"{where}: no field {field!r}; there are {_listed(row)}{remedy}")
        value = row[field]
        # A label is often a number; null, lists and objects have no one way to be text, and NaN is none.
        odd = isinstance(value, bool) or not isinstance(value, str | int | float)
        if odd or (isinstance(value, float) and not math.isfinite(value)):
            raise DataError(f"{where}: field {field!r} must be text or a number, got {json.dumps(value)[:40]}")
        text = str(value)
        check_unicode(text, f"{where}, field {field!r}")
        values.append(text)
    return tuple(values)


def _listed(names: Any) -> str:
    return ", ".join(map(repr, names)) or "none"


def check_unicode(text: str, where: str) -> None:
    """Raise DataError if a string holds half of a surrogate pair, which no file and no tokenizer can hold."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where}: lone surrogate U+{ord(text[error.start]):04X} at character {error.start + 1}; "
            "decode the text with errors='replace' before handing it over"
        ) from None


def _json_lines(name: str, blocks: Iterator[tuple[int, str]]) -> Iterator[tuple[int, Any]]:
    for number, line in _lines(blocks):
        if line.strip():
            yield number, _json(line, f"{name}, line {number}", "one object per line")


def _json_items(name: str, blocks: Iterator[tuple[int, str]]) -> Iterator[tuple[int, Any]]:
    parts, length = [], 0
    for _, block in blocks:
        parts.append(block)
        length += len(block)
        if length > _LONGEST:
            raise DataError(f"{name}: a JSON array of more than {_LONGEST:,} characters; make JSON Lines of it")
    items = _json("".join(parts), name, "an array of texts or objects")
    if not isinstance(items, list):
        raise DataError(f"{name}: expected a JSON array of texts or objects, got {type(items).__name__}")
    yield from enumerate(items, 1)


def _json(text: str, where: str, expected: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError:
        raise DataError(f"{where}: JSON nested too deeply; expected {expected}") from None
    except ValueError as error:
        raise DataError(f"{where}: not JSON ({error}); expected {expected}") from None


def _sequences(name: str, blocks: Iterator[tuple[int, str]]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the records of FASTA: the lines of a sequence joined without white space, the header without its `>`."""
    at, header, parts, length = 0, "", list[str](), 0
    for number, line in _lines(blocks):
        if line.startswith(">"):
            if at:
                yield at, {"text": "".join(parts), "header": header}
            at, header, parts, length = number, line[1:].strip(), [], 0
        elif line.strip():
            if not at:
                raise DataError(f"{name}, line {number}: expected a header such as >name before the first sequence")
            parts += line.split()
            length += len(line)
            if length > _LONGEST:
                raise DataError(f"{name}, line {at}: a sequence of more than {_LONGEST:,} characters")
    if at:
        yield at, {"text": "".join(parts), "header": header}


def _molecules(_: str, blocks: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """Yield the first word of each line, which is the molecule; names follow it, and some writers head the columns."""
    for number, line in _lines(blocks):
        words = line.split(None, 1)
        if words and not (number == 1 and words[0].lower() == "smiles"):
            yield number, words[0]


def _cells(
    name: str, kind: str, blocks: Iterator[tuple[int, str]], wanted: tuple[str, ...], remedy: str
) -> Iterator[Row]:
    """Yield the wanted columns of a table whose first row names them."""
    number, start = next(blocks)
    blocks = chain([(number, start)], blocks)
    rows = (
        _table(name, blocks, "," if kind == "csv" else "\t")
        if kind == "csv" or _is_quoted(start)
        else ((number, line.split("\t") if line else []) for number, line in _lines(blocks))
    )
    _, header = next(rows, (1, list[str]()))
    missing = [field for field in wanted if field not in header]
    if header and missing:
        raise DataError(f"{name}, line 1: no column {missing[0]!r}; there are {_listed(header)}{remedy}")
    columns = [header.index(field) for field in wanted if header]
    for number, cells in rows:
        if not cells:
            continue
        if len(cells) != len(header):
            raise DataError(f"{name}, line {number}: {len(cells)} columns, expected {len(header)} as in line 1")
        yield number, tuple(cells[column] for column in columns)


def _table(name: str, blocks: Iterator[tuple[int, str]], delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows of a table by RFC 4180, each with the number of its first line; an empty line is an empty row."""
    csv.field_size_limit(_LONGEST_CELL)  # for the whole process: the csv module has no other way
    reader = csv.reader((line + "\n" for _, line in _lines(blocks)), delimiter=delimiter, strict=True)
    while True:
        number = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(
                f"{name}, line {number}: not a row of a table ({error}); a cell with quotes, line breaks or delimiters "
                'stands in "quotes", and a quote inside is doubled'
            ) from None
        yield number, row


def _is_quoted(start: str) -> bool:
    """Return whether the quotes in the first block of a TSV file are RFC 4180's: else they belong to the text."""
    if (rows := _rows(start, "\t")) is not None:
        return len(set(map(len, rows))) <= 1
    # a block of a longer file may end inside a cell
    rows = _rows(f'{start}"', "\t") if len(start) > _BLOCK // 8 else None
    return rows is not None and len(set(map(len, rows[:-1]))) == 1 and sum(map(len, rows[-1])) < len(start) // 2


def _rows(text: str, delimiter: str, limit: int | None = None) -> list[list[str]] | None:
    """Return the first rows of a table that are not empty, or None where it is no table by RFC 4180."""
    csv.field_size_limit(_LONGEST_CELL)
    try:
        rows = csv.reader(io.StringIO(text, newline="\n"), delimiter=delimiter, strict=True)
        return [row for row in islice(rows, limit) if row]
    except csv.Error:
        return None


def looks_like(text: str) -> str:
    """Return the format with fields that the beginning of a file looks like, or "" for plain text."""
    text = text[: 2 * _BLOCK]
    lines = [line for line in text.split("\n", _LOOKED_AT)[:_LOOKED_AT] if line.strip()]
    if lines and all(isinstance(_parsed(line), dict) for line in lines):
        return "jsonl"
    if start := re.match(r"\s*\[\s*(?=[{\"])", text):
        items = _parsed(text)
        if isinstance(items, list) and all(isinstance(item, str | dict) for item in items):
            return "json"
        # of a long array the first object decides
        if text[start.end()] == "{" and re.match(r'\{\s*"(?:[^"\\]|\\.)*"\s*:', text[start.end() :][:4096]):
            return "json"
    sequences = [line for line in lines if line[0] != ">"]
    if sequences and lines[0][0] == ">" and all(re.fullmatch(r"[A-Za-z*-]+\s*", line) for line in sequences):
        return "fasta"
    for kind, delimiter in (("csv", ","), ("tsv", "\t")):
        rows = _rows(text, delimiter, _LOOKED_AT) or [[]]
        named = len(rows) > 1 < len(rows[0]) == len(set(rows[0])) and {len(row) for row in rows} == {len(rows[0])}
        if named and all(re.fullmatch(r"[A-Za-z_][\w.-]*", name) for name in rows[0]):
            return kind
    return ""


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


# ---------------------------------------------------------------------------------------------- texts written to files

UNSAFE = re.compile("[\n\r\0\ufeff]")
"""What a text cannot hold where a line of a file is a text."""


def text_lines(texts: Iterable[str], kind: str) -> str:
    """Return the content of a file of texts, one a line, or as JSON Lines (`jsonl`) with the field `text`."""
    if kind == "jsonl":
        texts = (json.dumps({"text": text}, ensure_ascii=False) for text in texts)
    return "".join(f"{text}\n" for text in texts)


def table_row(cells: Iterable[str]) -> str:
    """Return a row of a TSV file, cells with quotes, tabs or line breaks in quotes."""
    row = io.StringIO()
    csv.writer(row, delimiter="\t", lineterminator="\r\n").writerow(cells)  # so that carriage returns are quoted too
    return row.getvalue().removesuffix("\r\n") + "\n"
