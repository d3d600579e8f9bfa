import gzip
import io
import json
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqgen.core.errors import DataError
from seqgen.data import formats
from seqgen.data.text import read_lines, read_records

# Files hold neither half surrogates nor NUL, and a carriage return before a newline is dropped.
CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0\r\ufeff")


@given(content=st.text(st.one_of(CHARACTERS, st.just("\n")), min_size=1), block=st.integers(1, 9))
def test_lines_end_at_newlines_only(tmp_path_factory: pytest.TempPathFactory, content: str, block: int) -> None:
    path = tmp_path_factory.mktemp("text") / "a.txt"
    path.write_bytes(content.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(formats, "_BLOCK", block)
        lines = content.split("\n")
        assert read_lines(path) == (lines if lines[-1] else lines[:-1])


def test_carriage_returns_before_newlines_and_byte_order_marks_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "dos.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\ntwo\rstill two\r\n")
    assert read_lines(path) == ["one", "two\rstill two"]


def test_a_folder_gives_its_files_by_name_without_hidden_ones(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.txt", "a/c.txt", ".hidden", ".git/config"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert read_lines(tmp_path) == ["a/c.txt", "a/z.txt", "b.txt"]


def test_gzip_files_read_like_their_content(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "a.txt.gz", "wt") as file:
        file.write("one\ntwo\n")
    with gzip.open(tmp_path / "b.jsonl.gz", "wt") as file:
        file.write('{"text": "three"}\n')
    assert read_records([tmp_path / "a.txt.gz", tmp_path / "b.jsonl.gz"]).texts == ["one", "two", "three"]


def test_fields_are_read_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        json.dumps({"body": "lines\nof text", "author": "A\tB", "year": 1999})
        + "\n\n"
        + json.dumps({"year": 2001.5, "body": "more", "author": "C"})
        + "\n"
    )
    (tmp_path / "b.tsv").write_text('year\tbody\tauthor\n7\t"quoted" stays\tD\n')
    records = read_records([tmp_path], source="author, year", target="body")
    assert records.texts == ["lines\nof text", "more", '"quoted" stays']
    assert records.sources == ["A B\t1999", "C\t2001.5", "D\t7"]
    assert [records.where(row) for row in range(3)] == [
        f"{tmp_path}/a.jsonl, line 1",
        f"{tmp_path}/a.jsonl, line 3",
        f"{tmp_path}/b.tsv, line 2",
    ]
    assert read_lines(tmp_path, field="author") == ["A\tB", "C", "D"]


def test_where_names_file_and_line_past_blank_lines_and_empty_files(tmp_path: Path) -> None:
    (tmp_path / "1.txt").write_text("a\n\nb\n")
    (tmp_path / "2.txt").write_text("")
    (tmp_path / "3.txt").write_text("c\n")
    records = read_records([tmp_path])
    assert records.texts == ["a", "", "b", "c"]
    assert [records.where(row) for row in (2, 3)] == [f"{tmp_path}/1.txt, line 3", f"{tmp_path}/3.txt, line 1"]


def test_standard_input_is_lines_or_with_conditions_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"one\ntwo")))
    assert read_lines("-") == ["one", "two"]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"q": "why", "a": "so"}')))
    records = read_records(["-"], source="q", target="a")
    assert (records.texts, records.sources) == (["so"], ["why"])


def test_an_iterable_of_strings_is_lines() -> None:
    assert read_lines(word for word in ("a", "b\nc")) == ["a", "b\nc"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", b"", "{path}: empty; expected text, one or more lines"),
        (
            "half.txt",
            "ok\ncaf\u00e9".encode()[:-1],
            "{path}, line 2: not UTF-8 (byte 0xc3 at column 4); add data.encoding=cp1252 if it is Western European, "
            "or convert it: iconv -f CP1252 -t UTF-8 {path}",
        ),
        (
            "latin.txt",
            "caf\u00e9 \u00fc\n".encode("latin-1"),
            "{path}, line 1: not UTF-8 (byte 0xe9 at column 4); add data.encoding=cp1252 if it is Western European, "
            "or convert it: iconv -f CP1252 -t UTF-8 {path}",
        ),
        (
            "image.png",
            b"text\nPNG\0\0",
            "{path}, line 2: binary (NUL at column 4); expected text",
        ),
        (
            "wide.txt",
            "text".encode("utf-16-le"),
            "{path}, line 1: binary (NUL at column 2); expected text; it looks like UTF-16-LE without a mark: "
            "add data.encoding=utf-16-le, or convert it: iconv -f UTF-16LE -t UTF-8 {path}",
        ),
        (
            "chinese.txt",
            "春眠不觉晓".encode("gb18030"),
            "{path}, line 1: not UTF-8 (byte 0xb4 at column 1); add data.encoding=NAME, or convert it: "
            "iconv -f NAME -t UTF-8 {path}; NAME is how it was written, such as gb18030, shift_jis or cp1252",
        ),
        ("a.txt.gz", b"plain", "{path}: damaged gzip file (Not a gzipped file (b'pl')); fetch or pack it again"),
        (
            "cut.txt.gz",
            gzip.compress(b"text" * 99)[:-9],
            "{path}: damaged gzip file (Compressed file ended before the end-of-stream marker was reached); "
            "fetch or pack it again",
        ),
        (
            "a.jsonl",
            b'{"text": 1}\n{"text": }\n',
            "{path}, line 2: not JSON (Expecting value: line 1 column 10 (char 9)); expected one object per line",
        ),
        ("b.jsonl", b"[1]\n", "{path}, line 1: expected a JSON object, got list"),
        (
            "c.jsonl",
            b'{"body": 1, "id": 2}\n',
            "{path}, line 1: no field 'text'; there are 'body', 'id'; choose one with data.field=NAME",
        ),
        (
            "nan.jsonl",
            b'{"text": 1}\n{"text": NaN}\n',
            "{path}, line 2: field 'text' must be text or a number, got NaN",
        ),
        ("inf.jsonl", b'{"text": 1e999}\n', "{path}, line 1: field 'text' must be text or a number, got Infinity"),
        ("deep.jsonl", b"[" * 200_000, "{path}, line 1: JSON nested too deeply; expected one object per line"),
        ("deep.json", b"[" * 200_000, "{path}: JSON nested too deeply; expected an array of texts or objects"),
        ("a.json", b'"a text"', "{path}: expected a JSON array of texts or objects, got str"),
        ("b.json", b'["a", 1]', "{path}, item 2: expected a JSON object, got int"),
        (
            "c.json",
            b'{"text": 1}\n{"text": 2}',
            "{path}: looks like JSON Lines, not a JSON array; add data.format=jsonl, or use a file named .jsonl",
        ),
        (
            "d.json",
            b"[",
            "{path}: not JSON (Expecting value: line 1 column 2 (char 1)); expected an array of texts or objects",
        ),
        ("a.fasta", b"ACGT\n>late\n", "{path}, line 1: expected a header such as >name before the first sequence"),
        (
            "open.csv",
            b'text\nfine\n"open\nto the end\n',
            "{path}, line 3: not a row of a table (unexpected end of data); a cell with quotes, line breaks or "
            'delimiters stands in "quotes", and a quote inside is doubled',
        ),
        (
            "lines.txt",
            b'{"text": "a"}\n',
            "{path}: looks like JSON Lines with a field 'text'; add data.format=jsonl, or use a file named "
            ".jsonl; data.format=lines takes its lines as they are",
        ),
        ("d.jsonl", b'{"text": null}\n', "{path}, line 1: field 'text' must be text or a number, got null"),
        (
            "e.jsonl",
            b'{"text": "a\\ud800"}\n',
            "{path}, line 1, field 'text': lone surrogate U+D800 at character 2; "
            "decode the text with errors='replace' before handing it over",
        ),
        (
            "a.tsv",
            b"title\tbody\n",
            "{path}, line 1: no column 'text'; there are 'title', 'body'; choose one with data.field=NAME",
        ),
        ("b.tsv", b"text\tid\na\t1\nb\n", "{path}, line 3: 1 columns, expected 2 as in line 1"),
        ("c.tsv", b"", "{path}: empty; expected text, one or more lines"),
    ],
)
def test_files_that_cannot_be_used_are_named_with_line_and_remedy(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_lines(path)
    assert str(caught.value) == message.format(path=path)


def test_a_fault_is_found_in_a_later_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "_BLOCK", 8)
    path = tmp_path / "a.txt"
    path.write_bytes(b"a line\n" * 9 + b"ab\xff\n")
    with pytest.raises(DataError, match=r"line 10: not UTF-8 \(byte 0xff at column 3\)"):
        read_lines(path)


def test_missing_files_and_empty_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_lines(tmp_path / "no.txt")
    assert str(caught.value) == f"{tmp_path}/no.txt: no such file"
    with pytest.raises(DataError) as caught:
        read_lines(tmp_path)
    assert str(caught.value) == f"{tmp_path}: a folder without files; expected text files in it"


def test_parallel_files_are_named_by_one_of_them_or_by_what_their_names_share(tmp_path: Path) -> None:
    (tmp_path / "x.en").write_text("a dog\na cat\n")
    (tmp_path / "x.de").write_text("ein Hund\neine Katze\n")
    for name in ("x.en", "x.de", "x"):
        found = read_records([tmp_path / name], source="en", target="de")
        assert (found.sources, found.texts) == (["a dog", "a cat"], ["ein Hund", "eine Katze"])
    with pytest.raises(DataError) as caught:
        read_records([tmp_path / "y"], source="en", target="de")
    assert str(caught.value) == f"{tmp_path}/y.en: no such file; expected {tmp_path}/y or {tmp_path}/y.en"


def test_conditions_need_fields_and_both_settings(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("line\n")
    with pytest.raises(DataError) as caught:
        read_records([path], source="label", target="text")
    assert str(caught.value) == (
        f"{path} has no named fields, but data.source asks for label; use .jsonl, .csv or .tsv, or parallel files "
        "named NAME.label and NAME.text"
    )
    for given_, missing in (("source", "target"), ("target", "source")):
        with pytest.raises(DataError) as caught:
            read_records([path], **{given_: "label"})
        assert str(caught.value) == (
            f"data.{given_} needs data.{missing} beside it: the fields of the condition and of the text"
        )


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["a", 1], "input, line 2: expected str, got int"),
        (b"bytes", "expected an iterable of str, got b'bytes'; read a file with read_lines(path)"),
    ],
)
def test_what_is_no_line_is_refused(lines: object, message: str) -> None:
    with pytest.raises(TypeError) as caught:
        read_lines(lines)  # type: ignore[arg-type]
    assert str(caught.value) == message


def test_an_iterable_must_hold_text() -> None:
    with pytest.raises(DataError, match=r"^input: no lines; expected at least one$"):
        read_lines([])
    with pytest.raises(DataError, match=r"^input, line 1: lone surrogate U\+DC80 at character 2; decode the text"):
        read_lines(["a\udc80"])
