"""What is written is read back as the same texts: by every command, through files and through pipes."""

import csv
import dataclasses
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from command_line import call
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seqgen import metrics
from seqgen.cli import generate as generating
from seqgen.data.formats import UNSAFE, table_row
from seqgen.data.prepare import DataConfig
from seqgen.data.text import read_lines
from seqgen.engine.generate import Text
from seqgen.engine.loading import load

TEXTS = st.lists(
    st.one_of(
        st.text(st.characters(exclude_categories=["Cs"])),
        st.sampled_from(
            ["----", "\n----\n", "", " ", "{", '{"a": 1}', "[1]", ">x", "a\r", "\ufeff", "a,b", '"a\tb', "\0"]
        ),
    ),
    min_size=2,
    max_size=6,
)


@dataclasses.dataclass
class Run:
    """A run that writes given texts, as one does that knows no other characters."""

    written: list[str]
    settings: Any = dataclasses.field(default_factory=lambda: SimpleNamespace(data=DataConfig()))

    @property
    def one_line(self) -> bool:
        return not any(map(UNSAFE.search, self.written))

    def texts(self, count: int, **_: Any) -> list[Text]:
        return [Text(text, i, True, []) for i, text in enumerate(self.written)]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What reaches the metrics."""
    seen: list[Any] = []
    monkeypatch.setattr(metrics, "self_bleu_orders", lambda lines, *_, **__: seen.append(lines) or {})
    monkeypatch.setattr(metrics, "bleu_orders", lambda lines, real, *_, **__: seen.extend([lines, real]) or {})
    return seen


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15, deadline=None)
@given(texts=TEXTS)
def test_any_texts_come_back_through_files_and_pipes(
    texts: list[str], read: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(texts)
    monkeypatch.setattr(generating, "open_run", lambda *_: run)
    read.clear()
    piped = call("generate", "run", "--count", str(len(texts))).out
    if not run.one_line:
        assert [json.loads(line) for line in piped.removesuffix("\n").split("\n")] == [{"text": text} for text in texts]
    names = ["a.jsonl", "a.txt"] if run.one_line else ["a.jsonl"]
    for name in names:
        assert call("generate", "run", "--out", tmp_path / name).code == 0
        assert call("self-bleu", tmp_path / name).code == 0
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(piped.encode())))
    form = ["--format", "jsonl"] * (not run.one_line)
    assert call("bleu", "-", tmp_path / "a.jsonl", *form).code == 0
    (tmp_path / "piped.txt").write_bytes(piped.encode())
    assert call("self-bleu", tmp_path / "piped.txt", *form).code == 0
    assert read == [texts] * (len(names) + 3)


@given(TEXTS)
def test_any_cells_come_back_from_a_table(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    """A NUL is no text in a table, and a carriage return before a newline is dropped."""
    texts = [text.replace("\0", "").replace("\r\n", "\n") for text in texts]
    content = "".join(table_row(row) for row in [["n", "text"], *(["1", text] for text in texts)])
    path = tmp_path_factory.mktemp("table") / "a.tsv"
    path.write_bytes(content.encode())
    assert read_lines(path) == texts
    assert [row[1] for row in csv.reader(io.StringIO(content, newline=""), delimiter="\t")] == ["text", *texts]


@pytest.fixture
def lines_read(monkeypatch: pytest.MonkeyPatch, seqgen: Any, running: Path, stdin: Any) -> Iterator[list[str]]:
    """Four texts of several lines, written to pipe.jsonl; and on standard input."""
    monkeypatch.chdir(running.parent)
    words = ["generate", running, "--count", "4", "--max-new-tokens", "60"]
    piped = seqgen(*words)
    assert piped.err == "these texts may hold line breaks: written as JSON Lines, to be read with --format jsonl\n"
    assert seqgen(*words, "--out", "texts.jsonl").code == 0
    assert Path("texts.jsonl").read_text() == piped.out
    stdin(piped.out)
    texts = load(running).generate(4, max_new_tokens=60)
    assert any("\n" in text for text in texts)
    return texts


@pytest.mark.parametrize(
    "words",
    [
        "self-bleu {}",
        "bleu {} texts.jsonl",
        "evaluate {} --references texts.jsonl",
        "corpus inspect {}",
        "score running {}",
        "tokenizer encode running {}",
    ],
)
def test_a_pipe_gives_what_a_file_does_or_the_option_it_needs(words: str, lines_read: list[str], seqgen: Any) -> None:
    file = seqgen(*words.format("texts.jsonl").split(), "--json")
    assert file.code == 0, file.err
    count = {"self-bleu": "hyp:4", "bleu": "hyp:4", "evaluate": "hyp:4", "corpus": '"lines": 4'}.get(words.split()[0])
    if count:
        assert count in file.out
    else:
        assert len(file.out.splitlines()) == 4
    asked = (
        "error: standard input: looks like JSON Lines with a field 'text'; add --format jsonl, or use a file named "
        ".jsonl; --format lines takes its lines as they are\n"
    )
    position = sys.stdin.buffer.tell()
    bare = seqgen(*words.format("-").split())
    if words != "corpus inspect {}":
        assert (bare.code, bare.out, bare.err) == (2, "", asked)
    else:
        assert "looks like JSON Lines" in bare.out
    sys.stdin.buffer.seek(position)
    assert seqgen(*words.format("-").split(), "--format", "jsonl", "--json").out == file.out


def test_scores_are_a_table_that_is_read_back(lines_read: list[str], seqgen: Any) -> None:
    ended = seqgen("score", "running", "texts.jsonl")
    Path("scores.tsv").write_text(ended.out)
    assert sorted(read_lines("scores.tsv")) == sorted(lines_read)


def test_a_name_that_promises_another_format_is_refused_before_the_work(seqgen: Any, running: Path, run: Path) -> None:
    for name, where, message in (
        ("a.txt", running, "texts of this run may hold line breaks, which need JSON Lines; name it a.jsonl"),
        ("a.csv", run, "texts are written a line each, or as JSON Lines; name it .txt or .jsonl"),
        ("a.txt.gz", run, "texts are written a line each, or as JSON Lines; name it .txt or .jsonl"),
    ):
        assert seqgen("generate", where, "--out", name).err == f"error: --out {name}: {message}\n"
        assert not Path(name).exists()


def test_a_terminal_gets_dashes_between_texts(
    seqgen: Any, running: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(io, "StringIO", Terminal)
    ended = seqgen("generate", running, "--count", "3", "--max-new-tokens", "80")
    texts = load(running).generate(3, max_new_tokens=80)
    assert ended.out.removesuffix("\n").split("\n----\n") == [text.rstrip("\n") for text in texts]
    assert seqgen("generate", run, "--count", "3").out.splitlines() == load(run).generate(3)


def test_faults_of_files_name_what_can_be_typed(
    seqgen: Any, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.jsonl").write_text('{"text": "the cat"}\n{"text": "the dog"}\n')
    Path("a.txt").write_text('{"text": "the cat"}\n{"text": "the dog"}\n')
    Path("b.csv").write_text("id,body\n1,the cat\n2,the dog\n")
    Path("c.txt").write_bytes("ça va\nL’amour\n".encode("cp1252"))
    seen = "error: a.txt: looks like JSON Lines with a field 'text'"
    assert seqgen("compare", "a.txt", "a.jsonl", "--references", "a.jsonl").err == f"{seen}; use a file named .jsonl\n"
    assert seqgen("curve", run, "--references", "a.txt").err == f"{seen}; use a file named .jsonl\n"
    Path("d.txt").write_bytes("春眠不觉晓\n".encode("gb18030"))
    convert = (
        "convert it: iconv -f NAME -t UTF-8 d.txt; NAME is how it was written, such as gb18030, shift_jis or cp1252"
    )
    fault = f"error: d.txt, line 1: not UTF-8 (byte 0xb4 at column 1); {convert}\n"
    table = "error: b.csv, line 1: no column 'text'; there are 'id', 'body'; rename the one that is meant\n"
    for words in (
        f"generate {run} --prompts",
        f"generate {run} --novel --train",
        f"curve {run} --references a.jsonl --train",
        "compare a.jsonl --references a.jsonl --train",
    ):
        assert [seqgen(*words.split(), file).err for file in ("d.txt", "b.csv")] == [fault, table]
    assert seqgen("compare", "a.txt", "a.jsonl", "--blind", "x.html").err == f"{seen}; use a file named .jsonl\n"
    assert seqgen("self-bleu", "b.csv").err == (
        "error: b.csv, line 1: no column 'text'; there are 'id', 'body'; choose one with --field NAME\n"
    )
    assert "hyp:2" in seqgen("self-bleu", "b.csv", "--field", "body").out
    assert "add --encoding cp1252 if it is Western European, or" in seqgen("self-bleu", "c.txt").err
    assert "hyp:2" in seqgen("self-bleu", "c.txt", "--encoding", "cp1252").out
