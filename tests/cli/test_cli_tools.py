"""`seqgen tokenizer`, `corpus`, `config`, `doctor`, `report`."""

import contextlib
import dataclasses
import gzip
import hashlib
import http.server
import io
import itertools
import json
import re
import sys
import threading
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch

from seqgen.cli import app, output
from seqgen.cli.config import EXTRAS
from seqgen.core.config import Train
from seqgen.core.options import help_texts
from seqgen.data.corpora import known
from seqgen.data.corpora.grammar import Grammar
from seqgen.data.text import read_lines
from seqgen.data.tokenizers import load_tokenizer
from seqgen.engine import run as runs

# ---- tokenizer


@pytest.mark.parametrize("kind", ["byte", "char", "word", "bpe", "unigram"])
def test_ids_come_back_as_text(kind: str, seqgen: Any, text: Path, tmp_path: Path, stdin: Any) -> None:
    ended = seqgen("tokenizer", "train", text, "--out", tmp_path / "t", f"tokenizer.kind={kind}")
    tokenizer = load_tokenizer(tmp_path / "t")
    said = f"{kind} tokenizer of {tokenizer.vocab_size} ids in {tmp_path / 't'}"
    assert ended.err == f"{said}; next: seqgen corpus build FILE --tokenizer {tmp_path / 't'} --out DIR\n"
    lines = text.read_text().splitlines()[:5]
    stdin("".join(f"{line}\n" for line in lines))
    ids = seqgen("tokenizer", "encode", tmp_path / "t").out
    assert [[int(i) for i in row.split()] for row in ids.splitlines()] == [
        row.tolist() for row in tokenizer.encode(lines)
    ]
    stdin(ids)
    ended = seqgen("tokenizer", "decode", tmp_path / "t")
    read = [json.loads(row)["text"] for row in ended.out.splitlines()] if ended.err else ended.out.splitlines()
    assert read == lines


def test_decoded_texts_with_line_breaks_are_read_back(seqgen: Any, text: Path, tmp_path: Path, stdin: Any) -> None:
    seqgen("tokenizer", "train", text, "--out", tmp_path / "t", "tokenizer.kind=byte")
    texts = ["one\ntwo", "----", "three"]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    ids = seqgen("tokenizer", "encode", tmp_path / "t", tmp_path / "in.jsonl").out
    stdin(ids)
    (tmp_path / "out.jsonl").write_text(seqgen("tokenizer", "decode", tmp_path / "t").out)
    assert read_lines(tmp_path / "out.jsonl") == texts
    assert seqgen("tokenizer", "encode", tmp_path / "t", tmp_path / "out.jsonl").out == ids


def test_a_run_has_a_tokenizer_too(seqgen: Any, run: Path, tmp_path: Path) -> None:
    (tmp_path / "line.txt").write_text("the cat sees\n")
    assert seqgen("tokenizer", "encode", run, tmp_path / "line.txt", "--tokens").out == "the\tcat\tsees\n"
    ids = json.loads(seqgen("tokenizer", "encode", run, tmp_path / "line.txt", "--json").out)
    assert [load_tokenizer(run / "tokenizer").id_to_token(i) for i in ids] == ["the", "cat", "sees"]


def test_ids_in_json_are_decoded_and_those_out_of_range_named(seqgen: Any, run: Path, stdin: Any) -> None:
    stdin("[5, 6]\n")
    assert seqgen("tokenizer", "decode", run).code == 0
    stdin("5 999\n")
    ended = seqgen("tokenizer", "decode", run)
    assert ended.code == 2
    assert ended.err == "error: id 999 at row 0, position 1 is outside the vocabulary, 0 to 16\n"


# ---- corpus


def test_list_names_what_is_shipped_made_and_known(seqgen: Any, monkeypatch: Any) -> None:
    monkeypatch.delenv("SEQGEN_DATA", raising=False)
    rows = [json.loads(line) for line in seqgen("corpus", "list", "--json").out.splitlines()]
    kinds = {(row["name"], row["kind"].split()[0]) for row in rows}
    assert {("captions", "shipped"), ("captions", "grammar"), ("python-docs", "built")} <= kinds
    assert {name for name, kind in kinds if kind == "public"} == set(known.read_catalogue()) - set(known.shipped())
    assert all(row["where"].startswith("seqgen corpus get") for row in rows if row["kind"].startswith("public"))
    plain = seqgen("corpus", "list").out
    assert all(row["name"] in plain for row in rows)


def test_list_says_where_a_set_lies(seqgen: Any, monkeypatch: Any, tmp_path: Path) -> None:
    for file in known.read_catalogue()["names"].files:
        (tmp_path / file.path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file.path).write_text("x")
    monkeypatch.setenv("SEQGEN_DATA", str(tmp_path))
    rows = [json.loads(line) for line in seqgen("corpus", "list", "--json").out.splitlines()]
    assert [row["where"] for row in rows if row["name"] == "names"] == [str(tmp_path / "text" / "names.txt")]


def test_sample_gives_the_lines_of_the_grammar(seqgen: Any, tmp_path: Path) -> None:
    ended = seqgen("corpus", "sample", "captions", "--count", "4", "--seed", "7")
    assert ended.out.splitlines() == Grammar.load("captions").sample(4, 7)
    ended = seqgen("corpus", "sample", "reviews", "--count", "2", "--out", tmp_path / "r.tsv")
    assert ended.err == f"3 lines written to {tmp_path / 'r.tsv'}\n"
    assert (tmp_path / "r.tsv").read_text().splitlines()[0] == "label\ttext"


def test_build_writes_what_its_builder_yields(seqgen: Any, tmp_path: Path, monkeypatch: Any) -> None:
    from seqgen.data.corpora import builders

    monkeypatch.setitem(builders.BUILDERS, "python-docs", lambda: iter(["One.", "Two."]))
    assert seqgen("corpus", "build", "python-docs").out == "One.\nTwo.\n"
    assert seqgen("corpus", "build", "python-docs", "--out", tmp_path / "d.txt").err.startswith("2 lines written to ")


def test_inspect_says_what_to_know_before_training(seqgen: Any, text: Path, stdin: Any) -> None:
    ended = seqgen("corpus", "inspect", text)
    told = {line[:26].strip(): line[26:] for line in ended.out.splitlines()}
    assert told["lines"].strip() == "144"
    assert "tokenizer.kind=word" in told["tokenizer"]
    stdin(text.read_text())
    piped = json.loads(seqgen("corpus", "inspect", "-", "--json").out)
    assert piped["lines"] == 144
    assert piped["mode"] == "sentence"


def test_get_fetches_checks_and_prints_the_place(seqgen: Any, tmp_path: Path, monkeypatch: Any) -> None:
    content = gzip.compress(b"ann\nbob\n")

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/names.gz"
        names = known.read_catalogue()["names"]
        file = dataclasses.replace(names.files[0], url=url, sha256=hashlib.sha256(content).hexdigest(), unpacked=False)
        one = dataclasses.replace(names, files=(file,))
        monkeypatch.setattr(known, "read_catalogue", lambda path=None: {"names": one})
        ended = seqgen("corpus", "get", "names", "--out", tmp_path)
        server.shutdown()
        thread.join()
    assert (ended.code, ended.out) == (0, f"{tmp_path / file.path}\n")
    assert (tmp_path / file.path).read_bytes() == content


# ---- config


def test_config_explains_every_option_with_its_value(seqgen: Any) -> None:
    out = seqgen("config", "lm", "--preset", "lm-char").out
    for name, words in help_texts(Train).items():
        assert f"\ntrain.{name} = " in out
        assert " ".join(words.split()[:4]) in " ".join(out.split())
    assert "\nmodel.hidden = 384\n" in out
    assert "default 512]" in " ".join(out.split("model.hidden = 384")[1].split("model.")[0].split())


def test_config_as_toml_is_an_input_again(seqgen: Any, tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text(seqgen("config", "lm", "--preset", "lm-char", "--toml").out)
    assert tomllib.loads(path.read_text())["model"]["hidden"] == 384
    assert runs.config(file=path) == runs.config(preset="lm-char")


def test_config_alone_lists_models_and_presets(seqgen: Any) -> None:
    out = seqgen("config").out
    assert out.splitlines()[0].split() == ["models", *runs.model_names()]
    assert out.splitlines()[1].split() == ["presets", *runs.preset_names()]


# ---- doctor and report


def test_doctor_finds_a_working_package(seqgen: Any, monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setenv("SEQGEN_DATA", str(tmp_path))
    ended = seqgen("doctor")
    facts = {line[:14].strip(): line[15:] for line in ended.out.splitlines()}
    assert [ended.code, *(facts[f"check {name}"] for name in ("train", "resume", "bleu"))] == [0, "ok", "ok", "ok"]
    assert re.fullmatch(r"\d+[.]\d for the checks", facts["seconds"])
    assert facts["public sets"] == f"none (in {tmp_path})"
    assert facts["torchtext"] in ("installed", "not installed (pip install 'neural-seqgen[torchtext]')")


def test_doctor_names_the_other_package_called_seqgen(seqgen: Any, monkeypatch: Any, tmp_path: Path) -> None:
    (tmp_path / "seqgen-1.2.4.dist-info").mkdir()
    (tmp_path / "seqgen-1.2.4.dist-info" / "METADATA").write_text("Name: seqgen\nVersion: 1.2.4\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert "\nclash          another package, seqgen 1.2.4, shares this one's files;" in seqgen("doctor").out


def test_doctor_finds_a_training_that_does_not_continue_as_it_was(seqgen: Any, monkeypatch: Any) -> None:
    from seqgen.core import rng

    drawn = itertools.count()
    monkeypatch.setattr(rng, "enter_step", lambda *_: torch.manual_seed(next(drawn)))
    assert "check resume   FAILED: RuntimeError: a continued run differs" in seqgen("doctor").out


def test_doctor_knows_every_extra() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(EXTRAS) == set(project["optional-dependencies"]) - {"docs", "test", "dev"}


def test_doctor_fails_where_a_check_fails(seqgen: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("seqgen.metrics.bleu", lambda *_, **__: 0.5)
    ended = seqgen("doctor")
    assert ended.code == 1
    assert ended.out.splitlines()[-2] == "check bleu     FAILED: RuntimeError: BLEU-2 of a known case is 0.5"


def test_report_is_written_anew_and_named(seqgen: Any, run: Path) -> None:
    page = run / "report.html"
    before = page.read_bytes()
    page.unlink()
    assert seqgen("report", run).out == f"{page}\n"
    assert page.read_bytes() == before


def test_a_set_is_built_as_it_is_trained_on_by_its_name(seqgen: Any, tmp_path: Path) -> None:
    assert seqgen("corpus", "build", "reviews", "tokenizer.min_count=5", "--out", tmp_path / "c").code == 0
    data = json.loads((tmp_path / "c" / "meta.json").read_text())["data"]
    assert (data["source"], data["target"]) == ("label", "text")
    words = ["corpus", "build", "reviews", "data.source=text", "data.target=label", "--out", tmp_path / "d"]
    assert seqgen(*words).code == 0
    assert json.loads((tmp_path / "d" / "meta.json").read_text())["data"]["target"] == "label"


# ---- tables


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("columns", [40, 60, 200])
def test_a_table_fits_a_terminal_and_loses_nothing(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    rows = [["a name", "1.25", "words that go on for much longer than the terminal is wide"], ["b", "-3", "short"]]
    plain = output.table(["", "value", "about"], rows, left=(0, 2))
    monkeypatch.setattr(sys, "stdout", Terminal())
    drawn = output.table(["", "value", "about"], rows, left=(0, 2))
    assert max(map(len, drawn.splitlines())) <= columns
    assert sorted("".join(drawn.split()).replace("─", "")) == sorted("".join(plain.split()).replace("─", ""))
    assert (drawn == plain) == (columns == 200)
    monkeypatch.setenv("COLUMNS", "10")
    assert output.table(["", "value", "about"], rows, left=(0, 2)) == plain  # nothing could be read there


def test_a_comparison_on_a_terminal_has_a_row_for_each_score(
    seqgen: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    names = [tmp_path / f"{'long' * 8}-{letter}.txt" for letter in "ab"]
    for name in names:
        name.write_text("".join(f"the cat sees {n}\n" for n in range(20)))
    (tmp_path / "real.txt").write_text("".join(f"the dog sees {n}\n" for n in range(20)))
    words = ["compare", *names, "--references", tmp_path / "real.txt", "--columns", "bleu_2,self_bleu_2"]
    piped = seqgen(*words).out
    assert piped.startswith("|  | bleu_2 ↑ |")
    monkeypatch.setenv("COLUMNS", "80")
    with contextlib.redirect_stdout(Terminal()) as shown:
        assert app.main(list(map(str, words))) == 0
    lines = shown.getvalue().splitlines()
    assert [line.split()[0] for line in lines[2:4]] == ["bleu_2", "self_bleu_2"]
    assert f"(2) {names[1]}" in lines
    assert all(len(line) <= 80 for line in lines[:4])


def test_doctor_says_the_same_as_json(seqgen: Any) -> None:
    ended = seqgen("doctor", "--json")
    facts = json.loads(ended.out)
    assert (ended.code, facts["check train"], facts["check bleu"]) == (0, "ok", "ok")
    assert facts["serve"] in ("installed", "not installed (pip install 'neural-seqgen[serve]')")
