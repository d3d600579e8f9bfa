"""Rows of files against Python's own csv and json, and texts against what was encoded."""

import csv
import gzip
import io
import json
import logging
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqgen.core.errors import DataError
from seqgen.data import formats
from seqgen.data.inspect import inspect_files
from seqgen.data.text import read_lines, read_records

# A carriage return before a newline is dropped wherever text is read, and a byte order mark at the start of a file.
CELLS = st.text(
    st.one_of(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r\ufeff"), st.sampled_from('"\n\t, '))
)
TABLES = st.lists(st.lists(CELLS, min_size=2, max_size=2), min_size=1, max_size=8)


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@given(TABLES, st.sampled_from(["csv", "tsv"]), st.integers(1, 9), st.sampled_from(["\n", "\r\n"]))
def test_tables_are_read_as_the_csv_module_wrote_them(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]], kind: str, block: int, end: str
) -> None:
    text = io.StringIO()
    writer = csv.writer(text, delimiter="," if kind == "csv" else "\t", lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerows([["label", "text"], *rows])
    path = written(tmp_path_factory.mktemp("text"), f"a.{kind}", text.getvalue())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(formats, "_BLOCK", block if kind == "csv" else 1 << 20)
        records = read_records([path], source="label", target="text")
    assert records.texts == [row[1] for row in rows]
    assert records.sources == [row[0].replace("\t", " ") for row in rows]
    breaks = [0, *(sum(cell.count("\n") for cell in row) + 1 for row in rows)]
    assert list(records.numbers) == [2 + sum(breaks[: i + 1]) for i in range(len(rows))]


@given(st.lists(CELLS, min_size=1), st.booleans())
def test_json_is_read_as_the_json_module_wrote_it(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], escaped: bool
) -> None:
    folder = tmp_path_factory.mktemp("text")
    objects = [{"text": text, "n": n} for n, text in enumerate(texts)]
    lines = "".join(json.dumps(item, ensure_ascii=escaped) + "\n" for item in objects)
    assert read_lines(written(folder, "a.jsonl", lines)) == texts
    assert read_lines(written(folder, "a.txt", lines), format="jsonl") == texts
    for array in (texts, objects):
        assert read_lines(written(folder, "a.json", json.dumps(array, ensure_ascii=escaped, indent=1))) == texts


def test_a_long_quoted_table_may_end_a_block_inside_a_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "_BLOCK", 256)
    rows = [[f'"{n}"\nof many', "x"] for n in range(200)]
    text = io.StringIO()
    csv.writer(text, delimiter="\t", lineterminator="\n").writerows([["text", "label"], *rows])
    assert read_lines(written(tmp_path, "a.tsv", text.getvalue())) == [row[0] for row in rows]


def test_quotes_that_are_no_quoting_stay_in_a_tsv_file(tmp_path: Path) -> None:
    cells = ['"Fine," he said', '"an open one', 'so "it" is']
    path = written(tmp_path, "a.tsv", "text\tid\n" + "".join(f"{cell}\t1\n" for cell in cells))
    assert read_lines(path) == cells


def test_molecules_of_smi_are_the_first_words(tmp_path: Path) -> None:
    path = written(tmp_path, "a.smi.gz", gzip.compress(b"SMILES Name\nCCO ethanol\n\nC\tmethane gas\r\nc1ccccc1\n"))
    assert list(read_records([path]).texts) == ["CCO", "C", "c1ccccc1"]
    assert list(read_records([path]).numbers) == [2, 4, 5]


def test_sequences_of_fasta_are_joined(tmp_path: Path) -> None:
    path = written(tmp_path, "a.fasta.gz", gzip.compress(b">one first\nACGT\nAC GT\n\nTT\n>empty\n>two\r\nMK*\r\n"))
    records = read_records([path])
    assert (records.texts, list(records.numbers)) == (["ACGTACGTTT", "", "MK*"], [1, 6, 7])
    assert read_lines(path, field="header") == ["one first", "empty", "two"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("block", [1, 7, 1 << 20])
def test_byte_order_marks_tell_encodings_apart(
    tmp_path: Path, encoding: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "_BLOCK", block)
    text = "a man 🤷🏽\u200d♀️\n\u3042\u2028b\n\nend"
    assert read_lines(written(tmp_path, "a.txt", text.encode(encoding))) == text.split("\n")
    big_endian = {"utf-16": b"\xfe\xff", "utf-32": b"\0\0\xfe\xff"}.get(encoding)
    if big_endian is not None:
        assert read_lines(written(tmp_path, "b.txt", big_endian + text.encode(f"{encoding}-be"))) == text.split("\n")


def test_any_encoding_python_knows_can_be_named(tmp_path: Path) -> None:
    for encoding, text in (("cp1252", "L’amour…\nçà"), ("gb18030", "春眠\n不觉晓"), ("utf-16-le", "a\nb")):
        assert read_lines(written(tmp_path, "a.txt", text.encode(encoding)), encoding=encoding) == text.split("\n")
    for encoding in ("klingon", "base64"):
        with pytest.raises(
            DataError, match=f"^data.encoding={encoding} is no encoding that Python knows; expected utf-8"
        ):
            read_lines(tmp_path / "a.txt", encoding=encoding)
    with pytest.raises(DataError, match=r"line 2: not SHIFT_JIS \(byte 0xff at column 3\); add data.encoding=NAME"):
        read_lines(written(tmp_path, "b.txt", b"\x82\xa0\nab\xff"), encoding="shift_jis")


def test_lines_may_end_in_carriage_returns_alone(tmp_path: Path) -> None:
    assert read_lines(written(tmp_path, "mac.txt", b"one\rtwo\r\rfour\r")) == ["one", "two", "", "four"]
    assert inspect_files([tmp_path / "mac.txt"]).lines == 4


def test_a_line_without_end_is_refused_in_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Endless(io.RawIOBase):
        read_so_far = 0

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            buffer[:] = b"a" * len(buffer)
            self.read_so_far += len(buffer)
            return len(buffer)

    endless = Endless()
    monkeypatch.setattr(formats, "_LONGEST", 1 << 22)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(endless)))
    with pytest.raises(DataError, match=r"^standard input, line 1: longer than 4,194,304 characters; break it into"):
        read_lines("-")
    assert endless.read_so_far < 1 << 23
    zeros = written(tmp_path, "zeros.txt.gz", gzip.compress(bytes(1 << 23)))
    reads = []
    monkeypatch.setattr(gzip.GzipFile, "read", lambda self, size: reads.append(size) or bytes(size))
    with pytest.raises(DataError, match=r"line 1: binary \(NUL at column 1\)"):
        read_lines(zeros)
    assert reads == [formats._BLOCK]


def test_a_packed_file_of_nothing_but_line_breaks_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, "breaks.txt.gz", gzip.compress(b"\n" * (17 << 20)))
    with pytest.raises(DataError, match=r"breaks\.txt\.gz: unpacks to more than 300 times its size; is it text\?$"):
        read_lines(path)


@pytest.mark.parametrize(
    ("name", "content", "seen"),
    [
        ("a.txt", "id,text\n1,a man\n2,a dog\n", "CSV"),
        ("b.txt", "label\ttext\npos\ta man\n", "TSV"),
        ("c.txt", '[{"text": "a"}]\n', "a JSON array"),
        ("d.txt", ">one\nACGTAC\nGT\n>two\nMKV\n", "FASTA"),
        ("e.txt", '{"body": "a"}\n{"body": "b"}\n', "JSON Lines"),
    ],
)
def test_a_plain_file_that_looks_otherwise_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, content: str, seen: str
) -> None:
    path = written(tmp_path, name, content)
    kind = next(kind for kind, words in formats.NAMES.items() if words == seen)
    with caplog.at_level(logging.WARNING, "seqgen"):
        assert read_lines(path) == content.removesuffix("\n").split("\n")
    assert caplog.messages == [
        f"{path}: looks like {seen}, but is read as plain text, a line a text; add data.format={kind}, "
        f"or use a file named .{kind}"
    ]
    found = inspect_files([path])
    assert (found.format, found.looks_like) == (
        "plain text",
        f"{path} looks like {seen}: data.format={kind} reads its fields",
    )
    caplog.clear()
    assert read_lines(path, format="lines") == content.removesuffix("\n").split("\n")
    assert caplog.messages == []


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "{a}\n{b}",
        '[Chorus]\n"Hello"',
        "> quoted mail\n> more\nMy answer.",
        "a man, a dog\na cat, a bird",
        "yes\nno",
        "[1, 2]",
    ],
)
def test_plain_text_is_not_taken_for_more(tmp_path: Path, caplog: pytest.LogCaptureFixture, content: str) -> None:
    assert read_lines(written(tmp_path, "a.txt", content)) == content.split("\n")
    assert caplog.messages == []
