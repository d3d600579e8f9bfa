"""What `corpus inspect` says, against counts by hand, numpy's quantiles and what training will choose."""

import gzip
import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqgen.core.errors import DataError
from seqgen.data.corpora.known import corpora_folder
from seqgen.data.inspect import Inspection, inspect, inspect_files
from seqgen.data.text import read_lines
from seqgen.data.tokenizers import TokenizerConfig, train_tokenizer

SPECIALS = 5  # pad, unk, bos, eos, sep


def test_sizes_are_those_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("a cat sat\n\n春 眠\na cat sat\nno\n", encoding="utf-8")
    found = inspect_files([path])
    assert (found.lines, found.blank) == (5, 1)
    assert found.bytes == path.stat().st_size
    assert found.characters == len("a cat sat春 眠a cat satno")
    assert (found.words, found.distinct_words, found.words_seen_twice) == (9, 6, 3)
    assert found.coverage == pytest.approx(6 / 9)
    assert found.distinct_characters == len(set("a cat sat春 眠no"))
    assert (found.duplicates, found.duplicate_share) == (1, 1 / 4)
    assert found.most_frequent == (("a cat sat", 2),)
    assert found.without_spaces == 1 / 4
    assert found.longest_line == 1


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n"), min_size=1), min_size=1, max_size=60))
def test_quantiles_equal_numpy(lines: list[str]) -> None:
    real = [line for line in lines if line.strip()]
    if not real:
        return
    found = inspect(lines)
    for quantiles, lengths in [
        (found.line_characters, [len(line) for line in real]),
        (found.line_words, [len(line.split()) for line in real]),
    ]:
        for share, length in quantiles.items():
            assert length == np.quantile(lengths, share, method="inverted_cdf")


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (b"caf\xe9", "not UTF-8"),
        (b"a\0b", "NUL bytes"),
        (b"a\x1bb", "control characters"),
        (b"a\rb", "carriage returns inside"),
        ("a\ufeffb".encode(), "byte order marks inside"),
        ("a\ufffdb".encode(), "replacement characters"),
        ("a\u200bb".encode(), "zero-width characters"),
        ("a\u2028b".encode(), "line separators"),
        ("a\u00a0b".encode(), "unusual spaces"),
        (b"  a", "spaces at the start"),
        (b"a ", "spaces at the end"),
        ("\U0001f469\u200d\U0001f467".encode(), "joiners"),
        ("\u200fa".encode(), "direction marks"),
        (b"a  b", "double spaces"),
        (b"a\tb", "tabs"),
        ("cafe\u0301".encode(), "letters with loose accents"),
    ],
)
def test_odd_things_are_named_with_their_first_line(line: bytes, name: str) -> None:
    found = inspect(["plain", "plain too", *[line.decode(errors="surrogateescape")] * 2, "plain"])
    assert [(odd.name, odd.lines, odd.first) for odd in found.oddities] == [(name, 2, 3)]
    assert found.oddities[0].advice in [row.advice for row in found.rows()]


def test_half_a_character_in_a_string_is_told() -> None:
    found = inspect(["a", "b\ud800c"])
    assert [(odd.name, odd.first) for odd in found.oddities] == [("lone surrogates", 2)]


def test_plain_text_has_nothing_odd() -> None:
    assert inspect_files([corpora_folder() / "captions.txt"]).oddities == ()


@pytest.mark.parametrize(
    ("file", "tokenizer", "mode"),
    [("captions.txt", "word", "sentence"), ("verse-zh.txt", "char", "sentence"), ("reviews.tsv", "word", "sentence")],
)
def test_advice_is_what_training_will_choose(file: str, tokenizer: str, mode: str) -> None:
    path = corpora_folder() / file
    found = inspect_files([path])
    assert (found.tokenizer, found.mode) == (tokenizer, mode)
    trained = train_tokenizer(TokenizerConfig(), read_lines(path), seed=1)
    assert trained.kind == tokenizer
    assert trained.vocab_size == found.vocabulary + SPECIALS
    lengths = np.sort(trained.encode(read_lines(path)).lengths.numpy()) + 2
    assert np.mean(lengths <= found.max_length) >= 0.995 > np.mean(lengths < found.max_length)


def test_running_text_is_recognised() -> None:
    found = inspect(["The cat sat.", "It slept.", ""] * 20)
    assert (found.tokenizer, found.mode) == ("bpe", "stream")
    assert "length limit" not in [row.name for row in found.rows()]


def test_many_repeated_lines_are_warned_of() -> None:
    rows = {row.name: row for row in inspect(["the same line again"] * 3 + ["another one"]).rows()}
    assert rows["repeated lines"].value == "2 (50.0%)"
    assert (
        rows["repeated lines"].advice == "most often (3 times): the same line again; equal lines are held out together"
    )


def test_the_dictionary_is_json() -> None:
    found = inspect(["a b", "c"])
    plain = json.loads(json.dumps(found.to_dict()))
    assert plain["line_words"] == {"p0": 1, "p50": 1, "p90": 2, "p99": 2, "p99.5": 2, "p100": 2}
    assert plain.keys() == set(Inspection.__dataclass_fields__)


def test_files_folders_fields_and_packed_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "texts"
    (folder / ".hidden").mkdir(parents=True)
    (folder / ".hidden" / "x.txt").write_text("hidden\n", encoding="utf-8")
    (folder / "a.txt").write_text("one\ntwo", encoding="utf-8")
    (folder / "b.txt.gz").write_bytes(gzip.compress(b"three\n"))
    (folder / "c.jsonl").write_text('{"body": "four five"}\n', encoding="utf-8")
    found = inspect_files([folder], field="body")
    assert (found.lines, found.words) == (4, 5)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"one\ntwo")))
    assert inspect_files(["-"]).lines == 2


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.txt", None, "no such file"),
        ("empty.txt", b"", r"empty\.txt: 0 lines and nothing in them; expected UTF-8 text"),
        ("blank.txt", b"\n \n", r"blank\.txt: 2 lines and nothing in them; expected UTF-8 text"),
        ("broken.txt.gz", gzip.compress(b"abc")[:-6], "damaged gzip file"),
        ("none.txt.gz", b"plain", "damaged gzip file"),
    ],
)
def test_what_cannot_be_read_is_an_error(name: str, content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        inspect_files([path])
